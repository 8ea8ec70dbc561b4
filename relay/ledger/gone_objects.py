"""Forget the objects of a migration that its source no longer has.

Theory of operation. A listing that the user has restarted names what the source has now. An object
of an earlier one that failed, and that this one does not name, could only fail again, so its row is
deleted. A row stays if other migrations must know what its object may have left at the destination.

Decided here: which rows are deleted, and that their ids are not used again. Never here: what an
entry means that a listing does name (`entries.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select

from relay.ledger.counters import CounterDelta
from relay.ledger.listing_values import ListingClaim
from relay.ledger.names import has_name, in_chunks
from relay.ledger.prior_state_values import (
    CONFIRMED,
    DOUBTED,
    REMAINING,
    SENT,
    UNKNOWN,
    UNNOTED,
)
from relay.ledger.schema import events, keys, transfers, uploads
from relay.ledger.states import TRANSFER, EventKind, TransferState, TransferVerb

_RETRYABLE: Final = TRANSFER[TransferVerb.RETRY].origins - {TransferState.UNVERIFIED}
_USED: Final = "transfers"
"""The key of the highest deleted transfer id: SQLite would assign that id again."""
_COUNTED: Final = (
    transfers.c.id,
    transfers.c.state,
    transfers.c.bytes,
    transfers.c.size,
    transfers.c.attempts,
    transfers.c.resent,
    transfers.c.reason,
)
"""The columns of a deleted row that the counters of its migration need."""


def forget_gone(connection: Connection, listing: ListingClaim) -> int:
    """Delete the failed and cancelled transfers that this listing no longer names and that have
    left nothing behind: they could only fail again. One with leftovers stays, and so does a
    cancelled one that the destination had accepted, or that a lost worker may have sent: other
    migrations must know of it. A transfer that failed since this listing began stays, so that its
    command ends with that failure in either order. Return the number of deleted transfers.

    After an empty listing nothing is deleted: a source that is not mounted looks like that. Nor is
    anything after a listing that could not list one of its folders: it may have named it there."""
    of_this = transfers.c.migration_id == listing.migration_id
    listed = of_this & (transfers.c.listings == listing.listings)
    gone = of_this & (transfers.c.listings < listing.listings) & transfers.c.state.in_(_RETRYABLE)
    if not connection.execute(select(exists().where(listed) & exists().where(gone))).scalar():
        return 0
    failed = listed & (transfers.c.state == TransferState.FAILED)
    if _has_row(connection, failed & transfers.c.name.endswith("/")):
        return 0
    gone &= _has_left_nothing() & _ended_before(_restart_time(connection, listing))
    if _is_below_failed(connection, gone, failed):
        return 0
    return _delete_rows(connection, listing.migration_id, gone)


def _has_row(connection: Connection, condition: ColumnElement[bool]) -> bool:
    return bool(connection.execute(select(exists().where(condition))).scalar())


def _has_left_nothing() -> ColumnElement[bool]:
    """Return the condition of a transfer without a lost worker, a recorded upload and lasting
    leftovers. A cancelled one was not accepted by the destination, either."""
    before = transfers.c.before
    is_left = before.contains(REMAINING) & (before.contains(SENT) | before.contains(CONFIRMED))
    is_unknown = before.contains(UNKNOWN) & ~before.contains(UNNOTED) & ~before.contains(DOUBTED)
    is_unproved = before.contains(SENT) | is_unknown
    is_cancelled = transfers.c.state == TransferState.CANCELLED
    is_unlost = (transfers.c.lapses == 0) & ~exists().where(uploads.c.transfer_id == transfers.c.id)
    return is_unlost & (before.is_(None) | ~(is_left | (is_cancelled & is_unproved)))


def _restart_time(connection: Connection, listing: ListingClaim) -> float:
    """Return when the user restarted the listing, 0 for the first one."""
    restarted = (events.c.migration_id == listing.migration_id) & (
        events.c.kind == EventKind.LIST_AGAIN
    )
    return connection.execute(select(func.max(events.c.at)).where(restarted)).scalar() or 0.0


def _ended_before(time: float) -> ColumnElement[bool]:
    return transfers.c.ended.is_(None) | (transfers.c.ended <= time)


def _is_below_failed(
    connection: Connection, gone: ColumnElement[bool], failed: ColumnElement[bool]
) -> bool:
    """Return whether one of the `gone` names is below a `failed` one. That may be a folder that is
    away for a moment: a mount inside a local folder answers for no name, so that nothing shows that
    it is a folder."""
    names = connection.execute(select(transfers.c.name).where(gone)).scalars()
    return any(
        _has_row(connection, failed & has_name(connection, some))
        for some in in_chunks(_folders_above(names))
    )


def _folders_above(names: Iterable[str]) -> list[str]:
    """Return the folders of some names in a tree, and the folders of these, without a '/' at the
    end."""
    found: set[str] = set()
    for name in names:
        while "/" in name:
            name = name.rpartition("/")[0]
            found.add(name)
    return sorted(found)


def _delete_rows(connection: Connection, id: str, gone: ColumnElement[bool]) -> int:
    """Delete transfers of a migration, and take them from its counters; return their number."""
    rows = connection.execute(delete(transfers).where(gone).returning(*_COUNTED)).all()
    _store_last_used_id(connection, max((row.id for row in rows), default=0))
    changes = CounterDelta()
    for row in rows:
        size = (row.bytes if row.bytes is not None else row.size) or 0
        changes.add(id, row.state, -1, -size)
        changes.failures.remove(id, row.reason, 1, size)
    changes.count_retries(id, -sum(max(0, row.attempts - 1) for row in rows))
    changes.count_resent_bytes(id, -sum(row.resent for row in rows))
    changes.write(connection)
    return len(rows)


# -- the ids of deleted transfers


def last_used_id(connection: Connection) -> int:
    """Return the highest id that was used and deleted: new transfers get higher ids, since uploads
    may exist under the deleted ones. Return 0 if the database assigns the ids."""
    if connection.dialect.name != "sqlite":
        return 0
    used = int(connection.execute(select(keys.c.value).where(keys.c.name == _USED)).scalar() or 0)
    highest = connection.execute(select(func.max(transfers.c.id))).scalar() or 0
    return used if used > highest else 0


def _store_last_used_id(connection: Connection, highest: int) -> None:
    if connection.dialect.name == "sqlite" and highest > last_used_id(connection):
        connection.execute(delete(keys).where(keys.c.name == _USED))
        connection.execute(insert(keys), {"name": _USED, "value": str(highest)})
