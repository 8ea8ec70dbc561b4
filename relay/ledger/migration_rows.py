"""Migrations in the ledger: read them, and lock one.

Decided here: how a row becomes a `Migration`, and which migrations a kind of worker sees. Never
here: what changes a state (`acceptance.py`, `actions.py`, `endings.py`), and its events
(`event_log.py`)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    literal_column,
    select,
    true,
)

from relay.errors import (
    MigrationUnknown,
)
from relay.ledger.counters import efforts_of, parts_of, tallies_of
from relay.ledger.retried import pending_retries, split_listing_retry
from relay.ledger.rows import Efforts, Migration
from relay.ledger.schema import (
    NOT_THERE,
    RUNNING,
    migrations,
    parts,
    runners,
    secrets,
    transfers,
)
from relay.ledger.states import (
    ListingState,
    TransferState,
)
from relay.throttle import Bounds

_ID = re.compile(r"[0-9a-f-]{1,36}")


def one(connection: Connection, id: str, runner: str | None = None) -> Migration:
    """Return a migration by its id, or by the number that people use. Raises MigrationUnknown; also
    for a migration that belongs to another kind of worker than `runner`."""
    numbered = id.isascii() and id.isdigit() and len(id) < 10
    named = migrations.c.number == int(id) if numbered else migrations.c.id == id
    row = None
    if _ID.fullmatch(id) is not None:  # a database refuses some characters
        row = connection.execute(select(migrations).where(named, of_kind(runner))).first()
    if row is None:
        raise MigrationUnknown(f"there is no migration {id!a}")
    return _with_counts(connection, [row])[0]


def of_kind(runner: str | None) -> ColumnElement[bool]:
    """Return the condition for the migrations of one kind of worker, and for those whose kind is
    unknown. None means every migration."""
    if runner is None:
        return true()
    return migrations.c.runner.is_(None) | (migrations.c.runner == runner)


def many(
    connection: Connection, limit: int, before: int | None = None, runner: str | None = None
) -> list[Migration]:
    """Return up to `limit` migrations, newest first. With `before`, only those with a lower
    number."""
    query = (
        select(migrations).where(of_kind(runner)).order_by(migrations.c.number.desc()).limit(limit)
    )
    if before is not None:
        query = query.where(migrations.c.number < before)
    return _with_counts(connection, connection.execute(query).all())


def _with_counts(connection: Connection, rows: Sequence[Row[Any]]) -> list[Migration]:
    """Return the migrations of some rows, with their counters."""
    ids = [row.id for row in rows]
    tallies = tallies_of(connection, ids)
    arrived = parts_of(connection, ids)
    efforts = efforts_of(connection, ids)
    helpers = helper_counts(connection, ids)
    moving = [id for id in ids if TransferState.RUNNING in tallies[id]]
    retried = pending_retries(connection, moving)
    slots = slots_of(connection, moving)
    return [
        replace(
            migration_of_row(
                row,
                tallies[row.id],
                arrived.get(row.id, 0),
                efforts.get(row.id, Efforts()),
                helpers[row.id],
            ),
            retried=(*listing_retried(row.listing, row.error), *retried.get(row.id, ())),
            slots=slots.get(row.id),
        )
        for row in rows
    ]


def listing_retried(listing: str, error: str | None) -> Iterator[Mapping[str, Any]]:
    """Yield the pending retry of a migration's listing, if it has one; `error` is the column."""
    trouble = split_listing_retry(error)[1]
    if trouble is not None and listing == ListingState.RUNNING:
        yield {"name": "", **trouble}


def secret(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the stored locations and credentials of both stores, or None if they were deleted."""
    text = connection.execute(
        select(secrets.c.locations).where(secrets.c.migration_id == id)
    ).scalar()
    return None if text is None else json.loads(text)


def migration_of_row(
    row: Row[Any], tally: Mapping[str, Any], in_parts: int, efforts: Efforts, helpers: int
) -> Migration:
    """Return a row of the table as a value, with its counters."""
    return Migration(
        id=row.id,
        number=row.number,
        state=row.state,
        source=row.source,
        destination=row.destination,
        options=json.loads(row.options),
        listing=row.listing,
        cursor=row.cursor,
        error=split_listing_retry(row.error)[0],
        priority=row.priority,
        created=row.created,
        ended=row.ended,
        destination_empty=bool(row.destination_empty),
        bounds=bounds_of(row),
        renewed=row.renewed,
        entries=row.entries,
        runner=row.runner,
        tally=tally,
        in_parts=in_parts,
        efforts=efforts,
        helpers=helpers,
    )


def bounds_of(row: Any) -> Bounds:
    """Return the bounds in a migration's row."""
    return Bounds(row.slots, row.bytes_per_second, row.connections)


def lock_migration(connection: Connection, id: str) -> Migration:
    """Return a migration as `one` does, and lock its row until this transaction ends: a decision
    that depends on its state then holds.

    In SQLite a writing transaction has the lock already. Raises MigrationUnknown."""
    found = one(connection, id)
    query = (
        select(migrations.c.id).where(migrations.c.id == found.id).with_for_update(key_share=True)
    )
    connection.execute(query)
    return one(connection, found.id)


_OF: Final = transfers.c.migration_id + literal_column("''")
"""A transfer's migration, as an expression. With the bare column SQLite would scan all transfers of
the migration by its index, and look for parts of each; few parts are being moved."""


def select_helpers(ids: Sequence[str]) -> Select[Any]:
    """Return the query for the helpers of some migrations: migration, transfer and helper. The
    transfer may have no owner, because its worker was lost or has ended."""
    return (
        select(transfers.c.migration_id, transfers.c.id, parts.c.owner)
        .join(parts, parts.c.transfer_id == transfers.c.id)
        .where(NOT_THERE, _OF.in_(ids), parts.c.owner.is_not(None))
        .where(parts.c.owner.is_distinct_from(transfers.c.owner))
        .distinct()
    )


def helper_counts(connection: Connection, ids: Sequence[str]) -> Counter[str]:
    """Return the number of helpers of each migration."""
    return Counter(row.migration_id for row in connection.execute(select_helpers(ids)))


def slots_of(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """Return the number of slots of the workers that run transfers of each migration. Workers of an
    older relay do not count."""
    if not ids:
        return {}
    found: Counter[str] = Counter()
    for row in connection.execute(select_slots(ids)):
        found[row.migration_id] += row.slots
    return dict(found)


def select_slots(ids: Sequence[str]) -> Select[Any]:
    """Return the query for the workers that run transfers of some migrations: migration, worker and
    its `slots`."""
    return (
        select(transfers.c.migration_id, runners.c.id, runners.c.slots)
        .join(runners, runners.c.id == transfers.c.owner)
        .where(transfers.c.migration_id.in_(ids), RUNNING, runners.c.slots.is_not(None))
        .distinct()
    )
