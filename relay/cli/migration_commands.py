"""`relay submit | watch | status | report | limit | pause | resume | cancel | retry | acknowledge`:
migrations in a ledger.

The ledger is that of the server that RELAY_URL (or `--url`) names, else the one of this
machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from relay.cli.backend_interface import MigrationBackend
from relay.cli.backends import migrations_of, server_of
from relay.cli.exits import EPILOG, Exit
from relay.cli.filter_flags import FILTERS, say_missing_names
from relay.cli.formatting import details, shown_number, summary_line
from relay.cli.options import (
    METHOD,
    ONCE,
    PLACES,
    WORK,
    endpoint_member,
    request_of,
    warn,
    with_flags,
)
from relay.cli.quantities import COUNT, NONE, BytesPerSecond, OrNone
from relay.cli.terminal import confirm, in_columns, plain, say, tell, tell_empty
from relay.cli.watch_migration import watch
from relay.headers import is_idempotency_key
from relay.ledger.states import MigrationVerb, TransferState
from relay.settings_sources import load_settings
from relay.stores.url_lists import as_list
from relay.views.migrations import FIELDS, csv_line, html_lines

FORMATS = ("table", "jsonl", "csv", "html")


URL = click.option(
    "--url",
    metavar="URL",
    help="Ask this server (default: RELAY_URL, else the ledger of this machine).",
)


@click.command()
@click.argument("id", required=False)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    help="Number of migrations to show (default: 20).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@URL
def status(id: str | None, limit: int, as_json: bool, url: str | None) -> int:
    """Show the newest migrations, or everything about the migration ID (its number or its id)."""
    migrations, migration = migrations_of(url), None
    for migration in [migrations.migration(id)] if id is not None else migrations.newest(limit):
        if as_json:
            tell(json.dumps(migration))
        elif id is not None:
            has_failed = migration["objects"].get(TransferState.FAILED)
            for name, value in details(migration, migrations.reasons(id) if has_failed else ()):
                tell(in_columns(name, value))
        else:
            tell(summary_line(migration))
    if migration is None:
        tell_empty(f"no migrations in {migrations.where}")
    return Exit.VERIFIED


@click.command()
@click.argument("id")
@click.option(
    "--state",
    type=click.Choice([state.value for state in TransferState]),
    multiple=True,
    help="Print only objects in this state. Repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Format of the rows (default: table).",
)
@click.option(
    "--sign",
    is_flag=True,
    help="Write a report of all objects into a new folder, signed by the key of `relay keys`.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="With --sign: the new folder (default: relay-ID-report).",
)
@URL
def report(
    id: str,
    state: tuple[str, ...],
    form: str | None,
    sign: bool,
    output: Path | None,
    *,
    url: str | None,
) -> int:
    """Print one row for each object of the migration ID: its proof, or its error.

    With --sign, write report.json and objects.jsonl with their signatures, which `relay
    check-report` and `ssh-keygen -Y verify` check."""
    if sign:
        if state or form:
            raise click.UsageError("--sign writes all objects: leave out --state and --format")
        # Imported here because few reports are signed.
        from relay.cli.signed_reports import sign_report

        return sign_report(id, output, url)
    if output is not None:
        raise click.UsageError("--output needs --sign")
    migrations = migrations_of(url)
    migration = migrations.migration(id)
    rows = CountedRows(migrations.rows(migration["id"], state), migration["source"])
    for text in _FORMS[form or "table"](migration, rows):
        tell(text)
    if not rows.count:
        which = f"that are {' or '.join(state)}" if state else "so far"
        tell_empty(f"migration {shown_number(migration)} has no objects {which}")
    return Exit.VERIFIED


class CountedRows(Iterator[dict[str, Any]]):
    """Counts the rows that a consumer takes."""

    def __init__(self, rows: Iterator[dict[str, Any]], source: str) -> None:
        """`source` is the name of a single object, whose row in the ledger has none."""
        self._rows, self._source, self.count = rows, source, 0

    def __next__(self) -> dict[str, Any]:
        """Return the next row."""
        row = next(self._rows)
        self.count += 1
        return {**row, "name": row["name"] or self._source}


Rows = Iterator[dict[str, Any]]


def _table(_: Any, rows: Rows) -> Iterator[str]:
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        end = row["detail"] or row["digest"] or ""
        yield (
            f"{row['state']:<10} {row['level'] or '':<12} {size:>17}  {plain(row['name'])} "
            f" {plain(end)}".rstrip()
        )


def _jsonl(_: Any, rows: Rows) -> Iterator[str]:
    return (json.dumps(row) for row in rows)


def _csv(_: Any, rows: Rows) -> Iterator[str]:
    yield ",".join(FIELDS)
    yield from (csv_line(row) for row in rows)


_FORMS: dict[str, Callable[[Any, Rows], Iterator[str]]] = {
    "table": _table,
    "jsonl": _jsonl,
    "csv": _csv,
    "html": html_lines,
}


def _begins(name: str, text: str, *flags: click.Option) -> click.Command:
    @click.command(name, help=f"{text}\n\n{_FRESH}", params=[*flags])
    @click.argument("id")
    @click.argument("source", metavar="[SRC", required=False)
    @click.argument("destination", metavar="DST]", required=False)
    @click.option("--list", "urls", metavar="LIST", help="A list of fresh URLs for the same names.")
    @with_flags(PLACES, (METHOD,))
    @URL
    def command(
        id: str, url: str | None, urls: str | None, reason: str | None = None, **options: Any
    ) -> int:
        if options["source"] and not options["destination"]:
            raise click.UsageError("SRC needs DST: give both locations, or neither")
        places = {}
        if options["source"]:
            places = {side: endpoint_member(options, side) for side in ("source", "destination")}
        if urls is not None:
            places["list"] = endpoint_member({**options, "source": as_list(urls)}, "source")
        warn(options)
        known = migrations_of(url, gives_credentials=bool(places))
        # Nothing is queued for a reason that no object has; of a running migration that is no
        # error, since another retry may have been first.
        is_known = reason is None or any(one["reason"] == reason for one in known.reasons(id))
        confirm(summary_line(known.control(id, name, places or None, reason)))
        if not is_known:
            left = f"no object is left that failed for {plain(str(reason))}"
            say(f"relay: {left}: nothing was queued", sys.stderr)
        if known.needs_command(id):
            say(
                "relay: the `relay migrate` command of this migration moves it: run the same"
                " command again",
                sys.stderr,
            )
        return Exit.VERIFIED

    return command


_FRESH = """SRC and DST are the same locations with fresh credentials or signatures. For a
migration of a list, LIST has fresh URLs for the same names; a name that is not in it keeps its
URL."""


@click.command()
@click.argument("id")
@URL
def pause(id: str, url: str | None) -> int:
    """Pause the migration ID; running transfers stop within about a second."""
    confirm(summary_line(migrations_of(url).control(id, MigrationVerb.PAUSE)))
    return Exit.VERIFIED


@click.command()
@click.argument("id")
@URL
def cancel(id: str, url: str | None) -> int:
    """Cancel the migration ID. Objects that arrived stay; unfinished uploads are removed.

    Where one may remain, stderr names it, and the exit code is 1."""
    known, code = migrations_of(url), Exit.VERIFIED
    cancelled = known.control(id, MigrationVerb.CANCEL)
    try:
        confirm(summary_line(cancelled))
    finally:
        # Also after a failed print: the migration is cancelled, and its uploads cost money.
        for line, remains in known.sweep(id):
            say(plain(line), sys.stderr)
            code = Exit.FAILED if remains else code
    return code


resume = _begins(
    MigrationVerb.RESUME,
    "Resume the paused migration ID: on a server at once, here with the command that began it.",
)
retry = _begins(
    MigrationVerb.RETRY,
    "Queue the failed, unverified and cancelled objects of the migration ID again.",
    click.Option(
        ["--reason"],
        metavar="REASON",
        help=(
            "Queue only the objects that failed for this reason; `relay status ID` lists them. A"
            " server moves these alone; `relay migrate -r` of a tree lists the source again, and so"
            " moves all that is missing."
        ),
    ),
)


@click.command()
@click.argument("id")
@URL
def acknowledge(id: str, url: str | None) -> int:
    """Note that you have seen the failures of the ended migration ID: it no longer needs
    attention."""
    confirm(summary_line(migrations_of(url).acknowledge(id)))
    return Exit.VERIFIED


@click.command()
@click.argument("id")
@click.option(
    "--slots", type=OrNone(COUNT), help="Maximum number of concurrent transfers, over all workers."
)
@click.option(
    "--bytes-per-second",
    type=OrNone(BytesPerSecond()),
    metavar="10M|none",
    help="Maximum bandwidth of reads and read-backs.",
)
@click.option(
    "--connections", type=OrNone(COUNT), help="Maximum number of concurrent requests to each store."
)
@click.option("--priority", type=click.IntRange(-100, 100), help="Priority: higher runs first.")
@URL
def limit(id: str, url: str | None, **change: Any) -> int:
    """Change the limits of the migration ID, also while it runs; `none` removes a limit."""
    # A flag that was left out is None. The word `none` removes a limit, for which the backends take
    # None.
    given = {
        name: None if value == NONE else value
        for name, value in change.items()
        if value is not None
    }
    if not given:
        raise click.UsageError(
            "give a limit: --slots, --bytes-per-second, --connections or --priority"
        )
    limited = migrations_of(url).limit(id, given)
    held = {name: most for name, most in limited["limits"].items() if most is not None}
    limits = ", ".join(f"{name} {most:,}" for name, most in held.items()) or "no limits"
    confirm(f"{summary_line(limited)}\n      priority {limited['priority']}, {limits}")
    return Exit.VERIFIED


@click.command("watch", epilog=EPILOG)
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only: no progress and no table.")
@URL
def watch_command(id: str, as_json: bool, quiet: bool, url: str | None) -> int:
    """Show the progress of the migration ID until it ends. Ctrl-C ends the display, not the
    migration."""
    return watch(migrations_of(url), id, quiet, as_json)


def _say_missing_names(migrations: MigrationBackend, id: str) -> None:
    """Say which names of a list have no object, once the source is listed."""
    from relay.engine.migration_request import filters_of_options
    from relay.engine.tree_listing import listed_object
    from relay.stores.interfaces import Entry

    migration = migrations.migration(id)
    filters = filters_of_options(migration["options"])
    if filters is None or not filters.files_from or migration["listing"] != "done":
        return
    listed = {listed_object(Entry(name)).name: name for name in filters.files_from}
    known = {str(row["name"]) for row in migrations.rows(id, ())}
    say_missing_names(filters, [name for shown, name in listed.items() if shown not in known])


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_flags(WORK, (ONCE,), FILTERS, PLACES)
@click.option("--priority", type=click.IntRange(-100, 100), help="Priority: higher runs first.")
@click.option(
    "--key", metavar="TEXT", help="Idempotency key: a repeated key never starts a second migration."
)
@click.option("--paused", is_flag=True, help="Start nothing until `relay resume`.")
@click.option("--wait", is_flag=True, help="Show its progress until it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@URL
def submit(
    url: str | None, key: str | None, wait: bool, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Submit a migration to a server; print its number and its id. The server runs it, even if this
    command is interrupted. SRC and DST are the server's remotes, its folders, and hosts of its
    network.
    """
    there = server_of(load_settings(), url, gives_credentials=True)
    if there is None:
        raise click.UsageError(
            "no server is named: set RELAY_URL or --url, or run `relay migrate` to move it from"
            " here"
        )
    if key is not None and not is_idempotency_key(key):
        raise click.UsageError("--key is not 1 to 255 visible ASCII characters")
    request = request_of(options)
    warn(options, quiet)
    made = there.submit(request, key)
    if not quiet and not as_json:
        confirm(f"migration {shown_number(made)}  {plain(str(made['id']))}")
    if wait:
        code = watch(there, made["id"], quiet, as_json)
        if not quiet:
            _say_missing_names(there, made["id"])
        return code
    if as_json:
        confirm(json.dumps(made))
    return Exit.VERIFIED
