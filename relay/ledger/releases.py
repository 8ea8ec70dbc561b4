"""Take claims from workers: of a lost worker, of one that leaves, and claims that their worker does
not know.

Theory of operation. A released transfer returns to the queue. If its worker was lost, the transfer
counts that, and with MOST_CRASHES losses it is quarantined. A listing is released in the same way.

Decided here: the new state of a released row. Never here: which workers are lost (`leases.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, select, update

from relay.ledger.claim_values import Claim
from relay.ledger.counters import CounterDelta
from relay.ledger.event_log import write_event
from relay.ledger.names import in_chunks
from relay.ledger.reasons import mark_failed
from relay.ledger.schema import NOT_THERE, RUNNING, migrations, parts, transfers
from relay.ledger.states import (
    TRANSFER,
    EventKind,
    ListingState,
    MigrationState,
    TransferState,
    TransferVerb,
)
from relay.ledger.workers import WorkerId

MOST_CRASHES: Final = 5
"""Number of workers lost with one transfer at which it is quarantined: perhaps it crashes them."""
_POISON = (
    f"{MOST_CRASHES} workers were lost while they had this object; retry the migration to move it"
    " again"
)
_POISON_LIST = (
    f"{MOST_CRASHES} workers were lost while they listed the source; retry the migration to list"
    " it again"
)
_LIST_AGAIN = (
    "Check the log of those workers, and the source's listing. `relay retry`, or the same command,"
    " lists the source again."
)
_RELEASABLE = (
    select(
        transfers.c.id,
        transfers.c.fence,
        transfers.c.migration_id,
        transfers.c.name,
        transfers.c.size,
        transfers.c.lapses,
        transfers.c.owner,
    )
    .order_by(transfers.c.id)
    .with_for_update()
)
"""The rows are locked, in the order that every transaction uses, before they are read: a worker
that seems lost may settle in this moment."""


class Released(NamedTuple):
    """The numbers of released claims, and of transfers and listings that were quarantined."""

    claims: int = 0
    quarantined: int = 0


def release_claims(
    connection: Connection,
    owners: Sequence[str],
    verb: str,
    lost_for: Mapping[str, float] = MappingProxyType({}),
) -> Released:
    """Release the claims, listings and parts of some workers; return the numbers of transfers, and
    of quarantined transfers and listings. `lost_for` says for how many seconds the lease of a
    worker has been over: its claims ended then."""
    claimed = (transfers.c.owner.in_(owners)) & RUNNING
    listed = migrations.c.listing_owner.in_(owners) & (migrations.c.listing == ListingState.RUNNING)
    more = 1 if verb == TransferVerb.LAPSE else 0
    due = {
        "listing": ListingState.DUE,
        "listing_owner": None,
        "listing_lapses": migrations.c.listing_lapses + more,
    }
    connection.execute(update(migrations).where(listed).values(**due))
    listings = _quarantine_listings(connection)
    connection.execute(update(parts).where(NOT_THERE, parts.c.owner.in_(owners)).values(owner=None))
    rows = connection.execute(_RELEASABLE.where(claimed)).all()
    found = _release(connection, rows, verb, lost_for)
    return found._replace(quarantined=found.quarantined + listings)


def release_unknown_claims(
    connection: Connection, worker: WorkerId, kept: Iterable[Claim], shared: Iterable[int] = ()
) -> int:
    """Hand back the claims and parts that the ledger holds for this worker and the worker does not
    know; return the number of claims.

    If the answer to a claim was lost, the ledger knows the claim and the worker does not. `kept`
    are the claims that the worker knows, `shared` the transfers whose parts it moves."""
    held = _RELEASABLE.where(transfers.c.owner == worker.id, RUNNING)
    # With the fence: the worker may know an earlier claim of the same transfer.
    known = {(claim.id, claim.fence) for claim in kept}
    rows = [row for row in connection.execute(held) if (row.id, row.fence) not in known]
    ours = select(parts.c.transfer_id).where(NOT_THERE, parts.c.owner == worker.id).distinct()
    left = set(connection.execute(ours).scalars()) - {id for id, _ in known} - set(shared)
    free_parts(connection, worker, left)
    return _release(connection, rows, TransferVerb.HAND_BACK).claims


def free_parts(connection: Connection, worker: WorkerId, ids: Iterable[int]) -> None:
    """Release this worker's parts of some transfers that have not been stored yet."""
    for some in in_chunks(list(ids)):
        mine = NOT_THERE & (parts.c.owner == worker.id) & parts.c.transfer_id.in_(some)
        connection.execute(update(parts).where(mine).values(owner=None))


def _quarantine_listings(connection: Connection) -> int:
    """Fail the listings with which MOST_CRASHES workers were lost: perhaps they crash them. Return
    their number."""
    lost = (migrations.c.listing == ListingState.DUE) & (
        migrations.c.listing_lapses >= MOST_CRASHES
    )
    error = json.dumps(
        {"code": "quarantined", "side": "relay", "detail": _POISON_LIST, "hint": _LIST_AGAIN}
    )
    failed = (
        update(migrations)
        .where(lost)
        .values(listing=ListingState.FAILED, error=error)
        .returning(migrations.c.id)
    )
    ids = connection.execute(failed).scalars().all()
    for id in ids:
        write_event(connection, id, EventKind.LISTING_FAILED, json.loads(error))
    return len(ids)


def _release(
    connection: Connection,
    rows: Sequence[Any],
    verb: str,
    lost_for: Mapping[str, float] = MappingProxyType({}),
) -> Released:
    """Take claims from their owners with a verb; return the numbers of claims. A row with too many
    crashes is quarantined, one of a cancelled migration is cancelled."""
    if not rows:
        return Released()
    changes = CounterDelta()
    more = 1 if verb == TransferVerb.LAPSE else 0
    cancelled = _cancelled_among(connection, {row.migration_id for row in rows})
    changed: dict[tuple[str, float], list[int]] = {}
    now = time.time()
    error = {"code": "quarantined", "side": "relay", "detail": _POISON}
    failed: dict[str, list[int]] = {}
    for row in rows:
        step = verb
        if row.lapses + more >= MOST_CRASHES:
            step = TransferVerb.QUARANTINE
        elif row.migration_id in cancelled:
            step = TransferVerb.CANCEL
        ended = now - lost_for.get(row.owner, 0.0)
        changed.setdefault((step, ended), []).append(row.id)
        after = TRANSFER[step].to
        changes.count_transition(row.migration_id, TransferState.RUNNING, after, row.size, row.size)
        if step == TransferVerb.QUARANTINE:
            of = (row.migration_id, row.name, error, row.size or 0)
            failed.setdefault(changes.failures.add(connection, *of), []).append(row.id)
    for (step, ended), ids in changed.items():
        values: dict[str, Any] = {
            "state": TRANSFER[step].to,
            "owner": None,
            "lapses": transfers.c.lapses + more,
            "ended": ended,
            "error": json.dumps(error) if step == TransferVerb.QUARANTINE else None,
        }  # else the error may be a pending retry of the lost worker
        for some in in_chunks(ids):
            connection.execute(update(transfers).where(transfers.c.id.in_(some)).values(**values))
    mark_failed(connection, failed)
    changes.write(connection)
    quarantined = (ids for (step, _), ids in changed.items() if step == TransferVerb.QUARANTINE)
    return Released(len(rows), sum(map(len, quarantined)))


def _cancelled_among(connection: Connection, ids: Iterable[str]) -> set[str]:
    query = select(migrations.c.id).where(
        migrations.c.id.in_(list(ids)), migrations.c.state == MigrationState.CANCELLED
    )
    return set(connection.execute(query).scalars())
