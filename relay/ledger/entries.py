"""Apply one page of a listing to the ledger.

Theory of operation. An entry that no listing has named yet becomes a transfer. An entry that this
listing has named already is a repetition: a listing restarts after its worker was lost. An entry of
an earlier listing, which the user has restarted since, is moved again if the object did not arrive
or has changed. If it can't be moved, and may have changed, it fails, though an older version of it
has arrived. So no entry is lost: `migrations.entries` counts the entries, and the tallies count
their transfers.

Decided here: what an entry means for the transfer of its name. Never here: which transfer that is,
and whether its object has changed (`listed_objects.py`); which worker lists, and how far
(`listings.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, delete, insert, select, update

from relay.errors import DestinationLost
from relay.ledger.claim_values import ARRIVED_EARLIER, MARKED
from relay.ledger.counters import CounterDelta
from relay.ledger.distrust import first_fence
from relay.ledger.gone_objects import last_used_id
from relay.ledger.listed_objects import ListedRows, was_read
from relay.ledger.listing_values import ListedObject, ListingClaim
from relay.ledger.names import has_name, in_chunks
from relay.ledger.prior_state_values import (
    PriorState,
)
from relay.ledger.schema import (
    LAPSED,
    TRUSTED,
    migrations,
    receipts,
    transfers,
)
from relay.ledger.states import COMPLETED, PRESENT, TransferState
from relay.ledger.unproved import find_unproved

_INSERTED: Final = (
    *("id", "migration_id", "state", "name", "fence", "before", "folded"),
    *("error", "size", "etag", "modified", "url", "identity", "listings", "digests", "planned"),
)
_IN_ORDER: Final = itemgetter(*_INSERTED)
_NEW: Final = (
    f"INSERT INTO transfers ({', '.join(_INSERTED)}) VALUES ({', '.join('?' * len(_INSERTED))})"
)
"""Statement for SQLite's driver: SQLAlchemy would process the values of each row once more, which
takes longer than SQLite's own work."""


def write_page(
    connection: Connection,
    listing: ListingClaim,
    page: Sequence[ListedObject],
    *,
    if_exists: str,
    folded: Callable[[str], str | None],
    is_empty: bool = False,
) -> int:
    """Write a page of entries; return the number of objects that no earlier page has named.

    `if_exists` is the migration's option, `folded` returns the digest of a name's folded form, and
    `is_empty` says that the destination was empty when this listing began."""
    rows = ListedRows(connection, listing, page)
    changes = CounterDelta()
    if listing.standing:
        _count_for_pass(listing, rows, changes)
    _insert(connection, listing, rows.new, if_exists=if_exists, changes=changes, folded=folded)
    _list_again(connection, listing, rows, if_exists=if_exists, is_empty=is_empty, changes=changes)
    changes.write(connection)
    return len(rows.new)


def _count_for_pass(listing: ListingClaim, rows: ListedRows, changes: CounterDelta) -> None:
    """Count the names of a page, each once in a listing, and those that the listing of the pass
    before did not have, or had in another version."""
    # A name of a listing that a person asked for meanwhile counts as changed.
    known = [(one, row) for one, row in rows.earlier if row.listings == listing.base]
    listed = len(rows.new) + len(rows.earlier)
    changed = listed - len(known) + sum(bool(rows.differing[row.id]) for _, row in known)
    id = listing.migration_id
    changes.passes.add(id, "listed", listed)
    changes.passes.add(id, "known", len(known))
    changes.passes.add(id, "changed", changed)


# -- new entries


def _insert(
    connection: Connection,
    listing: ListingClaim,
    new: Sequence[ListedObject],
    *,
    if_exists: str,
    changes: CounterDelta,
    folded: Callable[[str], str | None],
) -> None:
    if not new:
        return
    left = find_unproved(connection, listing.migration_id, if_exists, [one.name for one in new])
    fence = first_fence(listing.fence)
    begun = _unknown_since_accepted(connection, listing.migration_id) if fence else None
    used = last_used_id(connection)
    rows = [
        {
            "id": used + number if used else None,
            "migration_id": listing.migration_id,
            "state": (TransferState.FAILED if one.error else TransferState.QUEUED).value,
            "name": one.name,
            # An object that another migration left counts as claimed once, so that the first
            # claim inspects the destination (`hints_of_claim`).
            "fence": fence + (one.name in left),
            "before": left.get(one.name, begun),
            "folded": folded(one.name),
            **_listed_columns(one, listing),
        }
        for number, one in enumerate(new, 1)
    ]
    _insert_rows(connection, rows)
    failed: dict[str, list[str]] = {}
    for one, row in zip(new, rows, strict=True):
        changes.add(listing.migration_id, row["state"], 1, one.size)
        if one.error:
            of = (listing.migration_id, one.name, one.error, one.size or 0)
            failed.setdefault(changes.failures.add(connection, *of), []).append(one.name)
    for reason, names in sorted(failed.items()):
        for some in in_chunks(names):
            ours = (transfers.c.migration_id == listing.migration_id) & has_name(connection, some)
            ours &= transfers.c.name.in_(some)
            connection.execute(update(transfers).where(ours).values(reason=reason))


def _insert_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert transfers with the columns of `_INSERTED`. The database assigns an id of None."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_NEW, [_IN_ORDER(row) for row in rows])
        return
    for row in rows:
        del row["id"]  # `last_used_id` gives none there, and the column does not take None
    connection.execute(insert(transfers), rows)


def _unknown_since_accepted(connection: Connection, id: str) -> str:
    """Return the prior state of objects whose rows the ledger may have lost: they may have been
    sent since the migration was accepted, with a note that was lost with them."""
    created = select(migrations.c.created).where(migrations.c.id == id)
    since = connection.execute(created).scalar_one()
    return PriorState(known=False, since=since, doubted=True).to_text()


def _listed_columns(one: ListedObject, listing: ListingClaim) -> dict[str, Any]:
    """Return the columns of an object's row that a listing gives."""
    return {
        "error": json.dumps(one.error) if one.error else None,
        "size": one.size,
        "etag": one.etag,
        "modified": one.modified,
        "url": one.url,
        "identity": one.identity,
        "listings": listing.listings,
        "digests": json.dumps(one.digests) if one.digests else None,
        "planned": one.planned,
    }


# -- entries of an earlier listing


@dataclass(frozen=True)
class _Step:
    """The new state of a transfer that a listing names again."""

    state: str
    restarts: bool
    """Whether its attempts and results are reset."""


def _list_again(
    connection: Connection,
    listing: ListingClaim,
    rows: ListedRows,
    *,
    if_exists: str,
    is_empty: bool,
    changes: CounterDelta,
) -> None:
    begun: list[int] = []
    same: list[int] = []
    # A pass does not send again what could not be proved: only a person asks for that.
    arrived = PRESENT if listing.standing else COMPLETED
    changed = {
        row.id: one
        for one, row in rows.earlier
        if row.state in arrived and _may_have_changed(one, rows.differing[row.id], if_exists)
    }
    read = _read_versions(connection, changed)
    written = _written_columns(connection, rows, changed) if listing.standing else {}
    for one, row in rows.earlier:
        if one.error is not None and row.lapses and row.url is None:
            # Something may be left of it: its transfer reports that, and fails with the same error.
            one = replace(one, error=None)
        is_changed = row.id in changed and row.id not in read
        step = _step(one, row, arrived, is_changed=is_changed, is_empty=is_empty)
        # An arrived object keeps the version that arrived, and a running one its claim's URL.
        kept = step.state in arrived or row.state == TransferState.RUNNING
        if step.state in arrived and row.id not in read:
            same.append(row.id)
            continue
        values: dict[str, Any] = (
            {"listings": listing.listings} if kept else _listed_columns(one, listing)
        )
        if row.id in read and step.state in arrived:  # the version that arrived has these
            values |= {"etag": one.etag, "modified": one.modified}
        if row.state == TransferState.RUNNING and one.error is None:
            # If that is another version, the end of the claim does not settle it (`settling.py`).
            columns = _listed_columns(one, listing)
            values |= {name: columns[name] for name in ("size", "etag", "modified", "digests")}
            running = (TransferState.RUNNING, TransferState.RUNNING)
            changes.count_transition(listing.migration_id, *running, row.size, one.size)
        if step.restarts:
            values |= _reset_columns(row, if_exists) | written.get(row.id, {})
            begun.append(row.id)
            changes.count_proof(listing.migration_id, row.level, None)
            changes.count_retries(listing.migration_id, -max(0, row.attempts - 1))
        if not kept:
            values["reason"] = _count_step(
                connection, listing, one, row, step=step, changes=changes
            )
        connection.execute(_UPDATE.values(state=step.state, **values), {"the_id": row.id})
    for some in in_chunks(begun):
        connection.execute(delete(receipts).where(receipts.c.transfer_id.in_(some)))
    for some in in_chunks(same):
        named = update(transfers).where(transfers.c.id.in_(some))
        connection.execute(named.values(listings=listing.listings))


def _count_step(
    connection: Connection,
    listing: ListingClaim,
    one: ListedObject,
    row: Any,
    *,
    step: _Step,
    changes: CounterDelta,
) -> str | None:
    """Count the new state of a transfer; return the reason for which it failed, or None."""
    was = row.bytes if row.bytes is not None else row.size
    is_now = one.size if step.restarts or row.bytes is None else row.bytes
    changes.count_transition(listing.migration_id, row.state, step.state, was, is_now)
    changes.failures.remove(listing.migration_id, row.reason, 1, was or 0)
    if step.state != TransferState.FAILED:
        return None
    of = (listing.migration_id, one.name, one.error, is_now or 0)
    return changes.failures.add(connection, *of)


_UPDATE: Final = update(transfers).where(transfers.c.id == bindparam("the_id"))
_FRESH: Final[dict[str, Any]] = {
    "attempts": 0,
    "lapses": TRUSTED,
    "not_before": 0.0,
    "bytes": None,
    "seconds": None,
    "level": None,
    "ended": case((LAPSED, transfers.c.ended)),
}


_OURS: Final = PriorState(known=False, doubted=True).to_text()


def _reset_columns(row: Any, if_exists: str) -> dict[str, Any]:
    """Return the columns of a transfer that restarts.

    With `if_exists` "fail", or a single object whose source may name it, and an object that had
    arrived, an object at the destination may be ours, since only a listing said otherwise. It can't
    be an unfinished piece of ours, which might be overwritten: the object had arrived
    completely."""
    columns = dict(_FRESH)
    is_kept = if_exists == "fail" or (if_exists == "overwrite" and not row.name)
    if row.state == TransferState.VERIFIED and is_kept:
        columns["before"] = _OURS
    if row.state in COMPLETED and row.twins > MARKED:
        columns["twins"] = ARRIVED_EARLIER
    return columns


def _read_versions(connection: Connection, changed: Mapping[int, ListedObject]) -> Collection[int]:
    """Return the ids of arrived objects that changed between their first listing and their
    transfer: this listing names the version that was read, and another one than the first did."""
    tagged = {
        id: one
        for id, one in changed.items()
        # An entry of a list of URLs is identified by its URL, and by the digests that the list has.
        if one.error is None and one.etag is not None and one.identity is None and not one.digests
    }
    columns = (receipts.c.transfer_id, receipts.c.receipt)
    found: set[int] = set()
    for some in in_chunks(list(tagged)):
        of_some = select(*columns).where(receipts.c.transfer_id.in_(some))
        for id, receipt in connection.execute(of_some):
            if was_read(json.loads(receipt), tagged[id].size, tagged[id].etag):
                found.add(id)
    return found


def _may_have_changed(one: ListedObject, other: bool | None, if_exists: str) -> bool:
    """Return whether an object may differ from the one that has arrived. If the listing gives
    nothing to compare but the size (`other` is None), return True for the options under which the
    transfer then inspects the destination, or overwrites it. An entry with an error does not prove
    the contrary, whatever the migration replaces."""
    if other is None:
        return one.error is not None or if_exists in ("changed", "overwrite")
    return other


def _written_columns(
    connection: Connection, rows: ListedRows, changed: Mapping[int, ListedObject]
) -> dict[int, dict[str, str | None]]:
    """Return the column `written` of each arrived object that may have changed, by its id."""
    found: dict[int, dict[str, str | None]] = {id: {"written": None} for id in changed}
    certain = [
        row.id
        for one, row in rows.earlier
        if row.id in changed and (one.error is not None or rows.differing[row.id])
    ]
    versions = _written_versions(connection, certain)
    return found | {id: {"written": versions[id]} for id in certain}


def _written_versions(
    connection: Connection, ids: Sequence[int], unwritten: str = "{}"
) -> dict[int, str]:
    """Return the version that the destination reported for the object written there, as JSON, by
    the ids of some arrived objects; `unwritten` without a receipt: it was there before."""
    found = dict.fromkeys(ids, unwritten)
    columns = (receipts.c.transfer_id, receipts.c.receipt)
    for some in in_chunks(ids):
        of_some = select(*columns).where(receipts.c.transfer_id.in_(some))
        for id, receipt in connection.execute(of_some):
            version = json.loads(receipt).get("destination")
            if version:
                names = ("size", "etag", "last_modified")
                members = {name: version.get(name) for name in names}
                found[id] = json.dumps({**members, "id": version.get("version")})
    return found


def _step(
    one: ListedObject, row: Any, arrived: Collection[str], *, is_changed: bool, is_empty: bool
) -> _Step:
    """Return the new state of a transfer; its object needs no work in the states `arrived`."""
    if row.state == TransferState.RUNNING:
        return _Step(TransferState.RUNNING, restarts=False)
    has_arrived = row.state in arrived
    if has_arrived and not (is_empty or is_changed):
        return _Step(row.state, restarts=False)
    if one.error is not None:
        return _Step(TransferState.FAILED, restarts=has_arrived)
    return _Step(TransferState.QUEUED, restarts=row.state != TransferState.QUEUED)


def begin_again(
    connection: Connection, migration: str, ids: Sequence[int], *, is_refuted: bool = False
) -> bool:
    """Restart transfers whose objects have arrived and are gone from their destination. Return
    whether the source must be listed again: the URL of an object of a list was deleted, so that its
    transfer fails until the list gives the URL again.

    An audit has `is_refuted` objects that may be there and are not the source's: another writer's
    is not replaced then, and no date proves that ours is the right one."""
    changes, listed = CounterDelta(), False
    options = connection.execute(
        select(migrations.c.options).where(migrations.c.id == migration)
    ).scalar()
    if_exists = json.loads(options or "{}").get("if_exists", "")
    for some in in_chunks(ids):
        arrived = transfers.c.id.in_(some) & (transfers.c.migration_id == migration)
        arrived &= transfers.c.state.in_(sorted(PRESENT if is_refuted else COMPLETED))
        written = _written_versions(connection, some, _NEVER_OURS) if is_refuted else {}
        for row in connection.execute(
            select(transfers).where(arrived).order_by(transfers.c.id).with_for_update()
        ).all():
            state = TransferState.QUEUED if row.identity is None else TransferState.FAILED
            listed |= row.identity is not None
            was = row.bytes if row.bytes is not None else row.size
            changes.count_transition(migration, row.state, state, was, row.size)
            changes.count_proof(migration, row.level, None)
            changes.count_retries(migration, -max(0, row.attempts - 1))
            error = reason = None
            if state == TransferState.FAILED:
                error = json.dumps(_VANISHED)
                of = (migration, row.name, _VANISHED, row.size or 0)
                reason = changes.failures.add(connection, *of)
            columns = {"error": error, "reason": reason, **_reset_columns(row, if_exists)}
            columns["written"] = written.get(row.id)
            connection.execute(_UPDATE.values(state=state, **columns), {"the_id": row.id})
        connection.execute(delete(receipts).where(receipts.c.transfer_id.in_(some)))
    changes.write(connection)
    return listed


_NEVER_OURS: Final = '{"size": -1}'
"""A version that no object has: the object at the destination is another writer's."""
_VANISHED: Final = {
    "code": DestinationLost.code,
    "side": "destination",
    "detail": "it had arrived, but is no longer at its destination",
    "hint": "Run the same command again, which reads the list again.",
}
