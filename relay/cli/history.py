"""`relay status | report | pause | resume | cancel | retry`: the migrations of the ledger, without a server."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.filesize import decimal

from relay.api.told import FIELDS, csv_line, summary, told
from relay.cli.exits import Exit
from relay.cli.terminal import plain, say
from relay.config import load_settings

STATES = ("queued", "running", "verified", "unverified", "skipped", "failed", "cancelled")
FORMATS = ("table", "jsonl", "csv", "html")


def _ledger() -> Any:
    # Here and not above: SQLAlchemy takes a fifth of a second that `relay --help` need not wait.
    from relay.ledger.ledger import Ledger

    return Ledger.at(load_settings().ledger_url())


@click.command()
@click.argument("id", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, help="So many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def status(id: str | None, limit: int, as_json: bool) -> int:
    """Show the newest migrations, or all about the migration ID (its number will do)."""
    ledger = _ledger()
    for migration in [ledger.migration(id)] if id else ledger.migrations(limit):
        if as_json:
            say(json.dumps(summary(ledger, migration)))
        elif id:
            for name, value in summary(ledger, migration).items():
                say(f"{name:<14} {plain(value if isinstance(value, str) else json.dumps(value))}")
        else:
            say(_line(migration))
    return Exit.VERIFIED


def _line(migration: Any) -> str:
    done, every = migration.counted("verified", "unverified", "skipped"), migration.counted()
    failed = migration.counted("failed").objects
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(migration.created))
    text = f"{migration.number:>4}  {migration.state:<10} {when}  {done.objects:,} of {every.objects:,} objects, "
    text += f"{decimal(done.bytes)}" + (f", {failed:,} failed" if failed else "")
    return f"{text}  {plain(migration.source)} -> {plain(migration.destination)}"


@click.command()
@click.argument("id")
@click.option("--state", type=click.Choice(STATES), multiple=True, help="Only these; repeatable.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table")
def report(id: str, state: tuple[str, ...], form: str) -> int:
    """Print one row for each object of the migration ID: what was proved, or what went wrong."""
    ledger = _ledger()
    migration = ledger.migration(id)
    for line in _FORMS[form](migration, _rows(ledger, migration.id, state)):
        say(line)
    return Exit.VERIFIED


def _rows(ledger: Any, id: str, states: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    after = 0
    while page := ledger.page(id, states, after):
        yield from (told(row) for row in page)
        after = page[-1].id


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


def _html(migration: Any, rows: Rows) -> Iterator[str]:
    title = html.escape(f"Migration {migration.number}: {migration.source} to {migration.destination}")
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield "<style>:root{color-scheme:light dark}body{font:14px/1.4 system-ui;margin:2rem}"
    yield "table{border-collapse:collapse}"
    yield "td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #8884}.failed{color:#c33}</style>"
    yield f"<h1>{title}</h1><p>{html.escape(migration.state)}</p>"
    yield "<table><tr>" + "".join(f"<th>{name}</th>" for name in FIELDS) + "</tr>"
    for row in rows:
        cells = "".join(f"<td>{html.escape('' if row[name] is None else str(row[name]))}</td>" for name in FIELDS)
        yield f'<tr class="{row["state"]}">{cells}</tr>'
    yield "</table></html>"


_FORMS: dict[str, Callable[[Any, Rows], Iterator[str]]] = {"table": _table, "jsonl": _jsonl, "csv": _csv, "html": _html}


def _verb(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument("id")
    def command(id: str) -> int:
        migration = _ledger().act(id, name)
        say(_line(migration))
        return Exit.VERIFIED

    return command


pause = _verb("pause", "Let nothing more of the migration ID begin; who works on it stops within about a second.")
resume = _verb("resume", "Let the migration ID go on: a server's runners do, or the command that began it.")
cancel = _verb("cancel", "End the migration ID. What has arrived stays.")
retry = _verb("retry", "Queue what failed, could not be verified, or was cancelled of the migration ID.")
