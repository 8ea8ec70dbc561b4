"""Migrations and their objects as plain values, for the API, the terminal and reports."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from relay.errors import LedgerFailed
from relay.ledger.event_values import EventCursor
from relay.ledger.states import ENDED
from relay.ledger.viewer import DEFAULT_TENANT
from relay.views.pass_members import standing_members

if TYPE_CHECKING:  # importing SQLAlchemy takes a fifth of a second, which few commands need
    from relay.ledger.ledger import Ledger
    from relay.ledger.migration_values import Migration
    from relay.ledger.pages import TransferRow

PATIENCE = 60
"""Seconds that a ledger may be unavailable while it is followed: its database may be restarted."""
FILTER_CHARACTERS = 300
"""Maximum length of a migration's filters as text."""
FIELDS = (
    "name",
    "state",
    "level",
    "bytes",
    "seconds",
    "attempts",
    "resent",
    "digest",
    "error",
    "detail",
)
"""The members of an object's line, in the order of the columns of a report."""


def summary(migration: Migration) -> dict[str, Any]:
    """Return all members of a migration as plain values."""
    return {
        **brief(migration),
        "options": dict(migration.options),
        "priority": migration.priority,
        "limits": migration.bounds.to_json(),
        "levels": dict(migration.efforts.levels),
        "bytes_resent": migration.efforts.resent,
        "retries": migration.efforts.retries,
        "error": migration.error,
    }


def brief(migration: Migration) -> dict[str, Any]:
    """Return the members of a migration that lists and lines of progress have."""
    return {
        "id": migration.id,
        "number": migration.number,
        "tenant": migration.tenant,
        "state": migration.state,
        "needs_attention": migration.needs_attention,
        "source": migration.source,
        "destination": migration.destination,
        "listing": migration.listing,
        "created": migration.created,
        "ended": migration.ended,
        "objects": {state: counted.objects for state, counted in sorted(migration.tally.items())},
        "bytes": {state: counted.bytes for state, counted in sorted(migration.tally.items())},
        "excluded": migration.excluded,
        "standing": standing_members(migration.standing),
        "bytes_in_parts": migration.in_parts,
        "under_way": migration.under_way,
        "slots": migration.slots,
        "retried": [dict(trouble) for trouble in migration.retried],
        "trouble": None,
    }


def is_over(migration: Migration) -> bool:
    """Return whether a migration has ended, and none of its transfers runs any longer."""
    return migration.state in ENDED and not migration.under_way


def progress_events(
    ledger: Ledger, id: str, sleep: Callable[[float], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a migration, and a `progress` each second, until it has ended and none of
    its transfers runs. Each comes with its kind and its members.

    While the ledger is unavailable, `progress` has its `trouble`; after PATIENCE seconds its
    LedgerFailed is raised."""
    away, since = 0, EventCursor()
    # Before the loop: an unknown migration, or a ledger that is away from the start, raises at
    # once.
    migration = ledger.migration(id)
    while True:
        try:
            # The state is read before the events: an ended migration has written its last event.
            migration = ledger.migration(migration.id)
            ended = is_over(migration)
            while events := ledger.events.after(migration.id, since, ended=ended):
                since = events[-1].cursor
                yield from ((event.kind, event.to_json()) for event in events)
            away = 0
        except LedgerFailed as error:
            away += 1
            if away > PATIENCE:
                raise
            trouble = {"code": error.code, "detail": error.title}
            yield "progress", {**brief(migration), "trouble": trouble}
            sleep(1.0)
            continue
        yield "progress", brief(migration)
        if ended:
            return
        sleep(1.0)


def report_line(row: TransferRow) -> dict[str, Any]:
    """Return the line of an object in a report, as plain values."""
    receipt, error = row.receipt or {}, row.error or {}
    digests = receipt.get("digests") or {}
    digest = next((f"{name}:{value}" for name, value in digests.items()), None)
    if error.get("detail"):
        details = [error["detail"], *error.get("remains", ())]
    else:
        details = receipt.get("notes") or []
    detail = "; ".join(details) or None
    return {
        "name": row.name,
        "state": row.state,
        "level": row.level,
        "bytes": row.bytes if row.bytes is not None else row.size,
        "seconds": row.seconds,
        "attempts": row.attempts,
        "resent": row.resent,
        "digest": digest,
        "error": error.get("code"),
        "detail": f"{error['side']}: {detail}" if error.get("side") else detail,
    }


def csv_line(row: dict[str, Any]) -> str:
    """Return the line of an object as CSV (RFC 4180), in the order of FIELDS."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([spreadsheet_cell(row[name]) for name in FIELDS])
    return line.getvalue()


def shown_number(migration: Mapping[str, Any]) -> str:
    """Return the number by which commands find a migration; with its tenant, unless that is the
    default one."""
    tenant = migration.get("tenant", DEFAULT_TENANT)  # an older server has no tenants
    number = str(migration["number"])
    return number if tenant == DEFAULT_TENANT else f"{tenant}:{number}"


def shown_filters(members: Mapping[str, Any]) -> str:
    """Return the filters of a migration as text, of at most FILTER_CHARACTERS and an ellipsis."""
    text = "; ".join(
        f"{name.replace('_', ' ')} {_filter_text(value)}".rstrip()
        for name, value in members.items()
    )
    return text if len(text) <= FILTER_CHARACTERS else f"{text[:FILTER_CHARACTERS]}…"


def _filter_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is True else str(value)


def html_lines(migration: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the report of a migration as a page that needs no other file. `rows` are its lines."""
    titled = {**migration, "number": shown_number(migration)}
    title = html.escape("Migration {number}: {source} to {destination}".format(**titled))
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield "<style>:root{color-scheme:light dark}body{font:14px/1.4 system-ui;margin:2rem}"
    yield "table{border-collapse:collapse}"
    yield (
        "td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid"
        " #8884}.failed{color:#c33}</style>"
    )
    yield f"<h1>{title}</h1><p>{html.escape(migration['state'])}</p>"
    yield "<table><tr>" + "".join(f"<th>{name}</th>" for name in FIELDS) + "</tr>"
    for row in rows:
        cells = "".join(
            # A name may turn the direction of what follows it; `bdi` keeps that in its cell.
            f"<td><bdi>{html.escape('' if row[name] is None else str(row[name]))}</bdi></td>"
            for name in FIELDS
        )
        yield f'<tr class="{html.escape(row["state"])}">{cells}</tr>'
    yield "</table></html>"


def spreadsheet_cell(value: Any) -> Any:
    """Return a value that a spreadsheet does not read as a formula (OWASP, "CSV injection")."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
