"""The objects of a migration as a report that streams: NDJSON, CSV, or a page of HTML of its own.

A report may have a million lines, and others need the process meanwhile. So the rows are read
ROWS_READ at a time, each time behind the last one; other greenlets run between the lines; and the
lines are sent in blocks, since each piece of an answer is a system call.

Decided here: how a report is read and sent. Never here: its lines (`relay/views/migrations.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from flask import g

from relay.api.hub_pauses import HubPauses
from relay.errors import Unauthorized
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.pages import TransferRow
from relay.views.migrations import FIELDS, brief, csv_line, html_lines, report_line

ROWS_READ: Final = 200
"""Number of rows that are read at a time: PostgreSQL's become objects in one piece."""
BLOCK_CHARACTERS: Final = 16 << 10


def json_lines(
    ledger: Ledger, id: str, states: Sequence[str], reason: str | None = None
) -> Iterator[str]:
    """Return the report of a migration as NDJSON, an object in each line: those in one of the
    `states` that failed for the `reason`. Either one that is empty leaves no object out."""
    return in_blocks(json.dumps(row) + "\n" for row in _lines(ledger, id, states, reason))


def sheet(
    ledger: Ledger, id: str, states: Sequence[str], reason: str | None = None
) -> Iterator[str]:
    """Return the same report as CSV, with a header."""
    rows = _lines(ledger, id, states, reason)
    return in_blocks(chain([",".join(FIELDS) + "\r\n"], (csv_line(row) + "\r\n" for row in rows)))


def html_page(
    ledger: Ledger, migration: Migration, states: Sequence[str], reason: str | None = None
) -> Iterator[str]:
    """Return the same report as an HTML page of its own."""
    rows = _lines(ledger, migration.id, states, reason)
    named = ({**row, "name": row["name"] or migration.source} for row in rows)
    return in_blocks(html_lines(brief(migration), named))


def rows_behind(
    ledger: Ledger,
    id: str,
    states: Sequence[str],
    *,
    after: int,
    limit: int,
    reason: str | None = None,
) -> list[TransferRow]:
    """Return up to `limit` objects, as Ledger.page does. Raises LedgerFailed."""
    found: list[TransferRow] = []
    while len(found) < limit:
        wanted = min(ROWS_READ, limit - len(found))
        more = ledger.page(id, states, found[-1].id if found else after, wanted, reason)
        found += more
        if len(more) < wanted:
            break
    return found


def in_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines, many at a time; other greenlets run between them."""
    block: list[str] = []
    length = 0
    for line in HubPauses().between(lines):
        block.append(line)
        length += len(line)
        if length >= BLOCK_CHARACTERS:
            yield "".join(block)
            block, length = [], 0
    if block:
        yield "".join(block)


def _lines(
    ledger: Ledger, id: str, states: Sequence[str], reason: str | None
) -> Iterator[dict[str, Any]]:
    """Return the lines of a report, which is cut off by an error once the token or the session of
    this request ends. Call it in the request. Raises LedgerFailed: the first rows are read before
    the answer begins, whose status can still be that of a problem."""
    still_admitted: Callable[[], bool] = g.still_admitted
    first = ledger.page(id, states, 0, ROWS_READ, reason)

    def lines() -> Iterator[dict[str, Any]]:
        found = first
        while found:
            if not still_admitted():
                raise Unauthorized("the token or the session has ended")
            yield from (report_line(row) for row in found)
            found = ledger.page(id, states, found[-1].id, ROWS_READ, reason)

    return lines()
