"""The receipts of objects that a migration skipped, since an earlier one had moved them.

Theory of operation. A command that runs each night skips what has not changed. The proof of such an
object is in the migration that moved it to the same place.

Decided here: which receipt counts, and of which objects none does. Never here: what it proves
(`engine/receipt_comparison.py`)."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Connection, select

from relay.ledger.deletion_tables import deletions
from relay.ledger.deletion_values import DeletionState
from relay.ledger.names import has_name, md5
from relay.ledger.pages import TransferRow
from relay.ledger.place_forms import is_same_place
from relay.ledger.schema import migrations, receipts, transfers
from relay.ledger.states import TransferState

MOST_EARLIER: Final = 30
"""Number of migrations that are asked, the newest first: each costs a look-up a name."""


def earlier_migrations(connection: Connection, id: str) -> list[str]:
    """Return the ids of the migrations of the same tenant that were accepted before one, from the
    same source to the same place, the newest first."""
    columns = (
        *(migrations.c.id, migrations.c.number, migrations.c.tenant, migrations.c.source),
        *(migrations.c.places, migrations.c.place, migrations.c.destination),
    )
    mine = connection.execute(select(*columns).where(migrations.c.id == id)).one()
    rows = connection.execute(select(*columns).where(is_same_place(mine))).all()
    found = [
        row
        for row in rows
        if row.number < mine.number and row.tenant == mine.tenant and _has_same_source(row, mine)
    ]
    return [row.id for row in heapq.nlargest(MOST_EARLIER, found, key=attrgetter("number"))]


def _has_same_source(one: Any, other: Any) -> bool:
    """Return whether two migrations to one place have one source: a receipt of another one proves
    nothing of this one's object."""
    if None in (one.places, other.places):
        return bool(one.source == other.source)
    return bool(one.places == other.places)


def with_earlier_receipts(
    connection: Connection, rows: Sequence[TransferRow], earlier: Sequence[str]
) -> list[TransferRow]:
    """Return rows; one that was skipped as it is in the newest of the `earlier` migrations that
    verified its object."""
    names = [row.name for row in rows if row.state == TransferState.SKIPPED]
    if not names or not earlier:
        return list(rows)
    columns = (transfers.c.migration_id, transfers.c.name, transfers.c.level, receipts.c.receipt)
    query = select(*columns).join(receipts, receipts.c.transfer_id == transfers.c.id)
    query = query.where(transfers.c.migration_id.in_(list(earlier)), has_name(connection, names))
    query = query.where(transfers.c.state == TransferState.VERIFIED)
    age = {id: number for number, id in enumerate(earlier)}
    newest: dict[str, Any] = {}
    for row in connection.execute(query):
        known = newest.get(row.name)
        if known is None or age[row.migration_id] < age[known.migration_id]:
            newest[row.name] = row
    return [_as_in(row, newest.get(row.name)) for row in rows]


def without_deleted(
    connection: Connection, id: str, rows: Sequence[TransferRow]
) -> list[TransferRow]:
    """Return rows without the objects that the migration's mirror has deleted at the destination
    since they arrived."""
    hashes = [md5(row.name) for row in rows]
    query = select(deletions.c.name, deletions.c.at).where(
        deletions.c.migration_id == id,
        deletions.c.side == "destination",
        deletions.c.hash.in_(hashes),
        deletions.c.state == DeletionState.DELETED,
        deletions.c.undone.is_(None),
    )
    deleted: dict[str, float] = {row.name: row.at for row in connection.execute(query)}
    return [row for row in rows if deleted.get(row.name, -1.0) < (row.ended or 0.0)]


def _as_in(row: TransferRow, earlier: Any | None) -> TransferRow:
    if earlier is None or row.state != TransferState.SKIPPED:
        return row
    receipt = json.loads(earlier.receipt)
    return replace(row, state=TransferState.VERIFIED.value, level=earlier.level, receipt=receipt)
