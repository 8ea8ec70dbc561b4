"""`relay submit | watch | status | report | limit | pause | resume | cancel | retry`: migrations in a ledger.

Those of the server that RELAY_URL (or `--url`) names, else those in the ledger of this machine, without a server.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from relay.api.told import FIELDS, csv_line
from relay.cli.asked import PLACES, WORK, place, request_of, warn, with_flags
from relay.cli.exits import EPILOG, Exit
from relay.cli.flags import in_flags
from relay.cli.follow import watch
from relay.cli.ledgers import migrations_of, server_of
from relay.cli.quantities import COUNT, NONE, BytesPerSecond, OrNone
from relay.cli.shown import line
from relay.cli.terminal import confirm, plain, say, tell, tell_empty
from relay.config import load_settings
from relay.stores.urls import as_list

STATES = ("queued", "running", "verified", "unverified", "skipped", "failed", "cancelled")
FORMATS = ("table", "jsonl", "csv", "html")


URL = click.option("--url", metavar="URL", help="The server, instead of RELAY_URL; without either the local ledger.")


@click.command()
@click.argument("id", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, help="So many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@URL
def status(id: str | None, limit: int, as_json: bool, url: str | None) -> int:
    """Show the newest migrations, or all about the migration ID (its number will do)."""
    migrations, migration = migrations_of(url), None
    for migration in [migrations.one(id)] if id is not None else migrations.newest(limit):
        if as_json:
            tell(json.dumps(migration))
        elif id is not None:
            for name, value in migration.items():
                text = value if isinstance(value, str) else json.dumps(value)
                tell(f"{name:<14} {plain(in_flags(text) if name == 'error' else text)}")
        else:
            tell(line(migration))
    if migration is None:
        tell_empty(f"no migrations in {migrations.where}")
    return Exit.VERIFIED


@click.command()
@click.argument("id")
@click.option("--state", type=click.Choice(STATES), multiple=True, help="Only these; repeatable.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table")
@URL
def report(id: str, state: tuple[str, ...], form: str, url: str | None) -> int:
    """Print one row for each object of the migration ID: what was proved, or what went wrong."""
    migrations = migrations_of(url)
    migration = migrations.one(id)
    rows = Counted(migrations.rows(migration["id"], state))
    for text in _FORMS[form](migration, rows):
        tell(text)
    if not rows.count:
        which = f"that are {' or '.join(state)}" if state else "so far"
        tell_empty(f"migration {migration['number']} has no objects {which}")
    return Exit.VERIFIED


class Counted(Iterator[dict[str, Any]]):
    """Counts the rows that are taken from it."""

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        self._rows, self.count = rows, 0

    def __next__(self) -> dict[str, Any]:
        """Return the next row."""
        row = next(self._rows)
        self.count += 1
        return row


Rows = Iterator[dict[str, Any]]


def _table(_: Any, rows: Rows) -> Iterator[str]:
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        end = row["detail"] or row["digest"] or ""
        yield f"{row['state']:<10} {row['level'] or '':<12} {size:>17}  {plain(row['name'])}  {plain(end)}".rstrip()


def _jsonl(_: Any, rows: Rows) -> Iterator[str]:
    return (json.dumps(row) for row in rows)


def _csv(_: Any, rows: Rows) -> Iterator[str]:
    yield ",".join(FIELDS)
    yield from (csv_line(row) for row in rows)


def _html(migration: Mapping[str, Any], rows: Rows) -> Iterator[str]:
    title = html.escape("Migration {number}: {source} to {destination}".format(**migration))
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield "<style>:root{color-scheme:light dark}body{font:14px/1.4 system-ui;margin:2rem}"
    yield "table{border-collapse:collapse}"
    yield "td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #8884}.failed{color:#c33}</style>"
    yield f"<h1>{title}</h1><p>{html.escape(migration['state'])}</p>"
    yield "<table><tr>" + "".join(f"<th>{name}</th>" for name in FIELDS) + "</tr>"
    for row in rows:
        cells = "".join(f"<td>{html.escape('' if row[name] is None else str(row[name]))}</td>" for name in FIELDS)
        yield f'<tr class="{html.escape(row["state"])}">{cells}</tr>'
    yield "</table></html>"


_FORMS: dict[str, Callable[[Any, Rows], Iterator[str]]] = {"table": _table, "jsonl": _jsonl, "csv": _csv, "html": _html}


def _verb(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument("id")
    @URL
    def command(id: str, url: str | None) -> int:
        confirm(line(migrations_of(url).act(id, name)))
        return Exit.VERIFIED

    return command


def _begins(name: str, text: str) -> click.Command:
    @click.command(name, help=f"{text}\n\n{_FRESH}")
    @click.argument("id")
    @click.argument("source", metavar="[SRC", required=False)
    @click.argument("destination", metavar="DST]", required=False)
    @click.option("--list", "urls", metavar="LIST", help="A file of fresh URLs, or where one is, with the same names.")
    @with_flags(PLACES)
    @URL
    def command(id: str, url: str | None, urls: str | None, **options: Any) -> int:
        if options["source"] and not options["destination"]:
            raise click.UsageError("SRC comes with DST: fresh credentials are for both, or neither")
        places = {side: place(options, side) for side in ("source", "destination")} if options["source"] else {}
        if urls is not None:
            places["list"] = place({**options, "source": as_list(urls)}, "source")
        warn(options)
        confirm(line(migrations_of(url).act(id, name, places or None)))
        return Exit.VERIFIED

    return command


_FRESH = """SRC and DST are the same places again, with fresh credentials or signatures. For a migration that was made
from a list, LIST has fresh URLs for the same names; what it does not name keeps its own."""


pause = _verb("pause", "Let nothing more of the migration ID begin; who works on it stops within about a second.")


@click.command()
@click.argument("id")
@URL
def cancel(id: str, url: str | None) -> int:
    """End the migration ID. What has arrived stays, what is unfinished is removed."""
    known = migrations_of(url)
    cancelled = known.act(id, "cancel")
    try:
        confirm(line(cancelled))
    finally:
        for told in known.sweep(id):
            say(plain(told), sys.stderr)
    return Exit.VERIFIED


resume = _begins("resume", "Let the migration ID go on: a server's runners do, or the command that began it.")
retry = _begins("retry", "Queue what failed, could not be verified, or was cancelled of the migration ID.")


@click.command()
@click.argument("id")
@click.option("--slots", type=OrNone(COUNT), help="Its transfers at a time, over all that work on it.")
@click.option("--bytes-per-second", type=OrNone(BytesPerSecond()), metavar="10M|none", help="What it may read.")
@click.option("--connections", type=OrNone(COUNT), help="Its requests at a time, to each of the two stores.")
@click.option("--priority", type=click.IntRange(-100, 100), help="The greater come first.")
@URL
def limit(id: str, url: str | None, **change: Any) -> int:
    """Say what the migration ID may use from now on, also while it runs; `none` takes a limit away."""
    given = {name: None if value == NONE else value for name, value in change.items() if value is not None}
    if not given:
        raise click.UsageError("say what to limit: --slots, --bytes-per-second, --connections or --priority")
    limited = migrations_of(url).limit(id, given)
    held = {name: most for name, most in limited["limits"].items() if most is not None}
    limits = ", ".join(f"{name} {most:,}" for name, most in held.items()) or "no limits"
    confirm(f"{line(limited)}\n      priority {limited['priority']}, {limits}")
    return Exit.VERIFIED


@click.command("watch", epilog=EPILOG)
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it has ended.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing, and only end with it.")
@URL
def watch_command(id: str, as_json: bool, quiet: bool, url: str | None) -> int:
    """Show how far the migration ID is, until it ends. Ctrl-C ends the watching, and not the migration."""
    return watch(migrations_of(url), id, quiet, as_json)


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_flags(WORK, PLACES)
@click.option("--priority", type=click.IntRange(-100, 100), help="The greater come first.")
@click.option("--key", metavar="TEXT", help="The same key never makes a second migration.")
@click.option("--wait", is_flag=True, help="Watch it until it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
@URL
def submit(url: str | None, key: str | None, wait: bool, as_json: bool, quiet: bool, **options: Any) -> int:
    """Hand a migration over to a server, which carries it out whatever happens here; print its number and its id.

    SRC and DST are looked at by the server: its remotes, its folders, its network.
    """
    there = server_of(load_settings(), url)
    if there is None:
        raise click.UsageError("there is no server: set RELAY_URL (or --url), or do it here with `relay migrate`")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise click.UsageError("--key is not 1 to 255 visible ASCII characters")
    request = request_of(options)
    warn(options, quiet)
    made = there.submit(request, key)
    if not quiet and not as_json:
        confirm(f"migration {made['number']}  {plain(str(made['id']))}")
    if wait:
        return watch(there, made["id"], quiet, as_json)
    if as_json:
        confirm(json.dumps(made))
    return Exit.VERIFIED
