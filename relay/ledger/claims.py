"""Workers, their leases, and claims by compare-and-set (`settling.py` ends claims).

Theory of operation. A worker registers itself with the time at which its lease expires, and renews
the lease every few seconds. A claim takes queued rows and writes the worker's id and a new fence
into them; every later write about a claim compares both. A worker is lost when its lease has
expired, its machine has restarted, or its process has ended. The rows of a lost worker return to
the queue, and each counts the loss: a row with which LAPSES workers were lost is quarantined."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    String,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)

from relay.errors import LeaseLost
from relay.ledger.counters import CounterDelta
from relay.ledger.database import Database, boot_id, process_identity
from relay.ledger.limits import room
from relay.ledger.migration_rows import bounds_of, write_event
from relay.ledger.names import in_chunks as in_chunks
from relay.ledger.rows import ARRIVED, MARKED, TERMINAL, UNNOTED, Claim, PriorState
from relay.ledger.schema import (
    LARGE,
    LARGE_BYTES,
    NOT_THERE,
    QUEUED,
    RUNNING,
    keys,
    migrations,
    parts,
    runners,
    transfers,
)
from relay.ledger.states import TRANSFER, ListingState, MigrationState, TransferState, TransferVerb

LEASE_SECONDS: Final = 30.0
"""How long claims hold after a renewal of the lease."""
LAPSES: Final = 5
"""Number of workers lost with one transfer at which it is quarantined: perhaps it crashes them."""
SUSPECT: Final = 2
"""Number of workers lost with one transfer from which it is claimed only alone: if it crashes its
worker, no other transfer is affected."""

LATEST_SECONDS: Final = 120.0
"""Upper bound of the delay of a claim that is handed back."""
EMPTY_SECONDS: Final = 3600.0
"""How long a destination that was found empty is assumed to be empty. After that every object is
looked up with HEAD."""
FORGOTTEN: Final = 2
"""Maximum number of claims of one transfer among the commits that a ledger has lost."""
DOUBTED: Final = 1_000_000
"""Added to a listing's fence after commits may have been lost: an object that is listed then may
have been listed, and claimed, before."""


@dataclass(frozen=True, kw_only=True)
class WorkerId:
    """A worker's identity, as it registers in the ledger."""

    id: str
    host: str
    boot: str
    process: str
    kind: str = TERMINAL
    """The kind of migrations that it works on."""

    @classmethod
    def of_this_process(cls, id: str, kind: str = TERMINAL) -> WorkerId:
        """Return the identity of this process."""
        return cls(
            id=id,
            host=platform.node(),
            boot=boot_id(),
            process=process_identity(os.getpid()) or str(os.getpid()),
            kind=kind,
        )


# -- leases


def renew(
    connection: Connection, database: Database, who: WorkerId, seconds: float = LEASE_SECONDS
) -> bool:
    """Renew a worker's lease for `seconds` from now. Returns False, and registers the worker, if it
    was not registered or had been removed as lost."""
    until = database.clock(connection) + seconds
    changed = connection.execute(
        update(runners).where(runners.c.id == who.id).values(until=until)
    ).rowcount
    if changed:
        return True
    row = {"id": who.id, "host": who.host, "boot": who.boot, "process": who.process, "until": until}
    connection.execute(insert(runners), row)
    _distrust_restored_ledger(connection, database)
    return False


_STORAGE: Final = "storage"
_KEEP_STORAGE: Final = text(
    "INSERT INTO keys (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value ="
    " excluded.value"
)


def _distrust_restored_ledger(connection: Connection, database: Database) -> None:
    """Distrust recent commits if the database is not where the last worker registered itself: it is
    a backup, or a replica that may have been behind."""
    now, kept = database.storage(connection), keys.c.name == _STORAGE
    was = connection.execute(select(keys.c.value).where(kept)).scalar()
    if now is None or now == was:
        return
    if was is not None:
        distrust_recent_commits(connection)
    connection.execute(_KEEP_STORAGE, {"name": _STORAGE, "value": now})


def leave(connection: Connection, who: WorkerId) -> None:
    """Hand back a worker's claims and remove the worker; no claim counts as a crash."""
    _requeue(connection, [who.id], TransferVerb.HAND_BACK)
    connection.execute(delete(runners).where(runners.c.id == who.id))


def reclaim(connection: Connection, database: Database, who: WorkerId) -> int:
    """Return the claims of lost workers to the queue; return the number of claims.

    Raises RenewedMeanwhile if one of those workers renewed its lease in this moment: its claims
    hold, so the transaction must be rolled back."""
    now = database.clock(connection)
    others = connection.execute(select(runners).where(runners.c.id != who.id)).all()
    gone = [row for row in others if _is_gone(row, now, who, database.sqlite)]
    strays = _unregistered_owners(connection, who)
    if not gone and not strays:
        return 0
    count = _requeue(connection, [*(row.id for row in gone), *strays], TransferVerb.LAPSE)
    # SQLite's file is on the machine of its workers, which may have another name since it started
    # again: a container's name often changes. Or the file is a copy from another machine.
    here = [row for row in gone if database.sqlite or row.host == who.host]
    if any(row.boot != who.boot for row in here):
        distrust_recent_commits(connection)
    for row in gone:
        as_seen = (runners.c.id == row.id) & (runners.c.until == row.until)
        if not connection.execute(delete(runners).where(as_seen)).rowcount:
            raise RenewedMeanwhile
    return count


class RenewedMeanwhile(Exception):
    """A worker that seemed lost has renewed its lease."""


def first_fence(listing: int) -> int:
    """Return the first fence of a transfer that a listing with this fence adds."""
    return FORGOTTEN * (listing // DOUBTED)


def lost_workers(connection: Connection, database: Database, who: WorkerId) -> list[str]:
    """Return the ids of lost workers, and of owners of claims that are not registered. Reads
    only."""
    now = database.clock(connection)
    others = connection.execute(select(runners).where(runners.c.id != who.id)).all()
    return [
        row.id for row in others if _is_gone(row, now, who, database.sqlite)
    ] + _unregistered_owners(connection, who)


def distrust_recent_commits(connection: Connection) -> None:
    """Stop assuming that queued transfers were never started and that destinations are empty.

    For a ledger that may have lost its newest commits: the machine crashed and its disk had
    acknowledged writes that it did not keep, or the database was restored from a backup.

    A lost claim had a fence that must not be used again, and may have left an object under its
    name. So FORGOTTEN fences of each queued transfer are skipped. A transfer that was lost itself
    skips them when it is listed again (`first_fence`)."""
    is_open = migrations.c.state.in_((MigrationState.RUNNING, MigrationState.PAUSED))
    unended = select(migrations.c.id).where(is_open)
    connection.execute(
        update(migrations).where(is_open).values(destination_empty=False, looked=None)
    )
    single = unended.where(migrations.c.listing == ListingState.NONE)
    queued = transfers.c.state == TransferState.QUEUED
    forgotten = transfers.c.fence + FORGOTTEN
    entered = case((transfers.c.twins == MARKED, forgotten + 1), else_=transfers.c.twins)
    skipped = {"fence": forgotten, "twins": entered}
    connection.execute(
        update(transfers).where(transfers.c.migration_id.in_(unended), queued).values(**skipped)
    )
    # The running listings as well: their workers claim them again.
    open_listing = migrations.c.listing.in_((ListingState.DUE, ListingState.RUNNING))
    connection.execute(
        update(migrations)
        .where(is_open, open_listing)
        .values(listing_fence=migrations.c.listing_fence + DOUBTED)
    )
    # Running transfers as well: where the destination was empty, no prior state was recorded, and
    # that the destination was empty is forgotten here.
    unrecorded = transfers.c.before.is_(None) | (transfers.c.before == ARRIVED)
    unknown = transfers.c.migration_id.in_(unended) & (queued | RUNNING) & unrecorded
    connection.execute(update(transfers).where(unknown).values(before=_unknown_since()))
    left = (
        transfers.c.migration_id.in_(unended)
        & (queued | RUNNING)
        & transfers.c.before.contains(UNNOTED)
    )
    noted = func.replace(transfers.c.before, UNNOTED, UNNOTED.replace("false", "true"))
    connection.execute(update(transfers).where(left).values(before=noted))
    untouched = transfers.c.migration_id.in_(single) & queued & (transfers.c.attempts == 0)
    connection.execute(update(transfers).where(untouched).values(attempts=1))


def _unknown_since() -> ColumnElement[str]:
    """Return the text of a PriorState that is unknown since the migration was accepted."""
    head, _, tail = PriorState(known=False, since=0.5).to_text().partition("0.5")
    of = (
        select(migrations.c.created)
        .where(migrations.c.id == transfers.c.migration_id)
        .scalar_subquery()
    )
    return literal(head) + cast(of, Text) + literal(tail)


def _unregistered_owners(connection: Connection, who: WorkerId) -> list[str]:
    """Return the owners of claims and parts that are not registered: a worker that was removed as
    lost, claimed once more before it noticed, and ended."""
    found: set[str] = set()
    for owner, held in ((transfers.c.owner, RUNNING), (parts.c.owner, NOT_THERE)):
        entered = owner.in_(select(runners.c.id)) | (owner == who.id)
        query = select(owner).where(held, owner.is_not(None), ~entered).distinct()
        found |= set(connection.execute(query).scalars())
    return sorted(found)


def _is_gone(row: Row[Any], now: float, who: WorkerId, one_machine: bool) -> bool:
    if one_machine and row.boot != who.boot:
        return True  # the machine restarted, and with it the clock and every process
    if row.until < now:
        return True
    here = row.host == who.host and row.boot == who.boot
    number, _, namespace = row.process.partition("@")
    pid = number.partition(".")[0]
    # A pid means nothing in another container, or where /proc shows nothing: then only the lease's
    # expiry counts.
    if not (
        here
        and one_machine
        and pid.isdigit()
        and namespace
        and namespace == who.process.partition("@")[2]
    ):
        return False
    found = process_identity(int(pid))
    return found is None or ("@" in found and found != row.process)


def _requeue(connection: Connection, owners: Sequence[str], verb: str) -> int:
    """Release the claims, listings and parts of some workers; return the number of claimed
    transfers."""
    claimed = (transfers.c.owner.in_(owners)) & RUNNING
    listed = migrations.c.listing_owner.in_(owners) & (migrations.c.listing == ListingState.RUNNING)
    more = 1 if verb == TransferVerb.LAPSE else 0
    due = {
        "listing": ListingState.DUE,
        "listing_owner": None,
        "listing_lapses": migrations.c.listing_lapses + more,
    }
    connection.execute(update(migrations).where(listed).values(**due))
    _quarantine_listings(connection)
    connection.execute(update(parts).where(NOT_THERE, parts.c.owner.in_(owners)).values(owner=None))
    return _release(connection, connection.execute(_RELEASABLE.where(claimed)).all(), verb)


def _quarantine_listings(connection: Connection) -> None:
    """Fail the listings with which LAPSES workers were lost: perhaps the listing crashes them."""
    lost = (migrations.c.listing == ListingState.DUE) & (migrations.c.listing_lapses >= LAPSES)
    error = json.dumps(
        {"code": "quarantined", "side": "relay", "detail": _POISON_LIST, "hint": _LIST_AGAIN}
    )
    failed = (
        update(migrations)
        .where(lost)
        .values(listing=ListingState.FAILED, error=error)
        .returning(migrations.c.id)
    )
    for id in connection.execute(failed).scalars().all():
        write_event(connection, id, "listing_failed", json.loads(error))


_POISON_LIST = (
    f"{LAPSES} workers were lost while they listed the source; retry the migration to list it again"
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
        transfers.c.size,
        transfers.c.lapses,
    )
    .order_by(transfers.c.id)
    .with_for_update()
)
"""The rows are locked, in the order that every transaction uses, before they are read: a worker
that seems lost may settle in this moment."""


def _release(connection: Connection, rows: Sequence[Any], verb: str) -> int:
    """Take claims from their owners with a verb; return the number of claims. A row with too many
    crashes is quarantined, one of a cancelled migration is cancelled."""
    if not rows:
        return 0
    changes = CounterDelta()
    more = 1 if verb == TransferVerb.LAPSE else 0
    cancelled = _cancelled_among(connection, {row.migration_id for row in rows})
    changed: dict[str, list[int]] = {}
    now = time.time()
    for row in rows:
        step = verb
        if row.lapses + more >= LAPSES:
            step = TransferVerb.QUARANTINE
        elif row.migration_id in cancelled:
            step = "cancel"
        changed.setdefault(step, []).append(row.id)
        after = TRANSFER[step].to
        changes.count_transition(row.migration_id, TransferState.RUNNING, after, row.size, row.size)
    error = json.dumps({"code": "quarantined", "side": "relay", "detail": _POISON})
    for step, ids in changed.items():
        values: dict[str, Any] = {
            "state": TRANSFER[step].to,
            "owner": None,
            "lapses": transfers.c.lapses + more,
        }
        values["ended"] = now
        if step == TransferVerb.QUARANTINE:
            values["error"] = error
        for some in in_chunks(ids):
            connection.execute(update(transfers).where(transfers.c.id.in_(some)).values(**values))
    changes.write(connection)
    return len(rows)


_POISON = (
    f"{LAPSES} workers were lost while they had this object; retry the migration to move it again"
)


# -- claims


CLAIMED: Final = (
    transfers.c.id,
    transfers.c.migration_id,
    transfers.c.fence,
    transfers.c.name,
    transfers.c.url,
    transfers.c.size,
    transfers.c.etag,
    transfers.c.modified,
    transfers.c.attempts,
    transfers.c.lapses,
    transfers.c.resent,
    transfers.c.digests,
    transfers.c.before,
    transfers.c.twins,
)
"""The columns that a Claim is made of, in its order."""


def claim_of(row: Any, renewed: int, looked: float | None = None, empty: bool = False) -> Claim:
    """Return the claim in a row of CLAIMED. `looked` is the time at which its tree's destination
    was found empty; `empty` means that it was found empty at some time."""
    # Unpacked, since access by name costs each claim a microsecond more.
    id, migration_id, fence, name, url, size, etag, modified, *counts, digests, before, twins = row
    attempts, lapses, resent = counts
    kept = PriorState.from_text(before)
    was = kept if kept is None or kept.noted else None
    untouched = kept is not None and 0 < kept.unsent == fence - 1
    sent = not (untouched or (kept is not None and kept.arrived))
    if was is None and sent and empty and fence > 1:
        was = PriorState(known=True, assumed=True)
    return Claim(
        id=id,
        migration_id=migration_id,
        fence=fence,
        name=name,
        url=url,
        size=size,
        etag=etag,
        modified=modified,
        attempts=attempts,
        lapses=lapses,
        resent=resent,
        digests=json.loads(digests) if digests else {},
        renewed=renewed,
        before=was,
        empty=looked is not None and 0 <= time.time() - looked < EMPTY_SECONDS,
        remains=kept.remains if kept is not None else {},
        twins=twins,
        rid=kept.rid if kept is not None else 0,
        untouched=untouched,
    )


@dataclass(frozen=True, kw_only=True)
class ClaimRequest:
    """The number of transfers that a worker has room for.

    Large objects are claimed first, largest first, so that none is left to run alone in the end.
    Their number is limited, so that small objects do not wait behind them."""

    all: int
    """Maximum number of transfers."""
    large: int = 0
    """Maximum number of `is_large` transfers among them, while small ones are queued."""
    only_large: int = 0
    """Maximum number of large transfers if no small ones are queued."""
    alone: bool = True
    """Whether a suspect transfer may be claimed: the worker has no other claim or part lease."""


_OURS: Final = (migrations.c.state == literal_column("'running'")) & or_(
    migrations.c.id == bindparam("only"),
    and_(
        bindparam("only", type_=String).is_(None),
        or_(migrations.c.runner.is_(None), migrations.c.runner == bindparam("kind")),
    ),
)
"""Condition for a migration that this worker may work on: the `only` one, or any of the worker's
`kind`. (The kind of `only` was checked when it was chosen.)"""
_WAITING = (
    select(migrations.c.id, migrations.c.renewed)
    .add_columns(migrations.c.looked, migrations.c.destination_empty)
    .add_columns(migrations.c.slots, migrations.c.bytes_per_second, migrations.c.connections)
    .where(_OURS)
    .order_by(migrations.c.priority.desc(), migrations.c.number)
)
_DUE = (transfers.c.not_before <= bindparam("now")) | (
    transfers.c.not_before > bindparam("now") + LATEST_SECONDS
)
"""A delay beyond LATEST_SECONDS means that the clock was set back: the transfer is due."""
_TRUSTED = transfers.c.lapses < SUSPECT


def _any(*conditions: Any) -> Any:
    queued = exists().where(transfers.c.migration_id == migrations.c.id, QUEUED, _DUE, *conditions)
    return select(queued).select_from(migrations).where(_OURS)


_CLAIMABLE: Final = {True: _any(), False: _any(_TRUSTED)}
"""By whether the worker is alone."""


def has_claimable(
    connection: Connection, who: WorkerId, alone: bool, only: str | None = None
) -> bool:
    """Say if there seems to be a transfer to `claim`; with `alone`, a suspect one counts as well.
    Reads only."""
    reported = {"now": time.time(), "only": only, "kind": who.kind}
    return any(connection.execute(_CLAIMABLE[alone], reported).scalars())


def claim(
    connection: Connection,
    who: WorkerId,
    wanted: ClaimRequest,
    only: str | None,
    changes: CounterDelta,
) -> list[Claim]:
    """Claim the `wanted` transfers, by the priority and then the age of their migrations; with
    `only`, from that migration alone. Add the change of the tallies to `changes`.

    A migration's bound on concurrent transfers holds over all workers. A suspect transfer is
    claimed last and alone: if nothing else was claimed, and this worker moves no part for
    another."""
    if wanted.all <= 0:
        return []
    claiming = _Claiming(connection, who, changes)
    rows = connection.execute(_WAITING, {"only": only, "kind": who.kind}).all()
    for migration in rows:
        claiming.claim_from(migration, wanted)
    moving = exists().where(NOT_THERE, parts.c.owner == who.id)
    if wanted.alone and not claiming.found and not connection.execute(select(moving)).scalar():
        for migration in rows:
            if not claiming.found and claiming.room(migration, 1):
                claiming.take(migration, 1, _SUSPECTS)
    return claiming.found


@dataclass(eq=False)
class _Claiming:
    """The state of one call of `claim`."""

    connection: Connection
    who: WorkerId
    changes: CounterDelta
    found: list[Claim] = field(default_factory=list)

    def claim_from(self, migration: Any, wanted: ClaimRequest) -> None:
        """Claim transfers of one migration, up to the room that `found` leaves."""
        left = wanted.all - len(self.found)
        left = self.room(migration, left) if left > 0 else 0
        left -= self.take(
            migration, min(left, wanted.large - sum(map(is_large, self.found))), _LARGE
        )
        left -= self.take(migration, left, _SMALL)
        self.take(migration, min(left, wanted.only_large - len(self.found)), _LARGE)

    def room(self, migration: Any, most: int) -> int:
        """Return how many transfers of a migration, up to `most`, may be claimed."""
        more = self.changes.objects(migration.id, TransferState.RUNNING)
        return room(self.connection, migration.id, bounds_of(migration), most, more)

    def take(self, migration: Any, most: int, which: Update) -> int:
        """Claim up to `most` transfers with one statement; return how many were claimed."""
        if most <= 0:
            return 0
        reported = {
            "migration": migration.id,
            "most": most,
            "now": time.time(),
            "the_owner": self.who.id,
        }
        about = migration.renewed, migration.looked, migration.destination_empty
        taken = [claim_of(row, *about) for row in self.connection.execute(which, reported).all()]
        taken.sort(key=lambda claim: claim.id)
        claimed = (TransferState.QUEUED, TransferState.RUNNING)
        for one in taken:
            self.changes.count_transition(migration.id, *claimed, one.size, one.size)
            self.changes.count_retries(migration.id, 1 if one.attempts > 1 else 0)
        self.found += taken
        return len(taken)


def is_large(claim: Claim) -> bool:
    """Say if a claimed object has at least LARGE_BYTES."""
    return claim.size is not None and claim.size >= LARGE_BYTES


def _claim_statement(condition: Any, *order: Any) -> Update:
    """Return the statement that claims the first queued transfers of a kind. Concurrent claims skip
    the rows that it has locked."""
    queued = (
        select(transfers.c.id)
        .where(transfers.c.migration_id == bindparam("migration"), condition, _DUE)
        .order_by(*order)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
        # PostgreSQL may otherwise run the subquery again for each row that it compares, and lock
        # and claim other rows each time.
        .cte("queued")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(transfers)
        .where(transfers.c.id.in_(select(queued.c.id)))
        .values(
            state=TRANSFER["claim"].to,
            owner=bindparam("the_owner"),
            fence=transfers.c.fence + 1,
            attempts=transfers.c.attempts + 1,
        )
        .returning(*CLAIMED)
    )


_LARGE = _claim_statement(LARGE & _TRUSTED, transfers.c.size.desc(), transfers.c.id)
_SMALL = _claim_statement(
    QUEUED & _TRUSTED & (transfers.c.size.is_(None) | (transfers.c.size < LARGE_BYTES)),
    transfers.c.id,
)
_SUSPECTS = _claim_statement(
    QUEUED & (transfers.c.lapses >= SUSPECT), transfers.c.lapses, transfers.c.id
)
"""The statements are built once: building one costs as much as running it."""


def release_unknown_claims(
    connection: Connection, who: WorkerId, kept: Iterable[Claim], shared: Iterable[int] = ()
) -> int:
    """Hand back the claims and parts that the ledger holds for this worker and the worker does not
    know; return the number of claims.

    If the answer to a claim was lost, the ledger knows the claim and the worker does not. `kept`
    are the claims that the worker knows, `shared` the transfers whose parts it moves."""
    held = _RELEASABLE.where(transfers.c.owner == who.id, RUNNING)
    known = {(claim.id, claim.fence) for claim in kept}
    rows = [row for row in connection.execute(held) if (row.id, row.fence) not in known]
    ours = select(parts.c.transfer_id).where(NOT_THERE, parts.c.owner == who.id).distinct()
    left = set(connection.execute(ours).scalars()) - {id for id, _ in known} - set(shared)
    free_parts(connection, who, left)
    return _release(connection, rows, TransferVerb.HAND_BACK)


def free_parts(connection: Connection, who: WorkerId, ids: Iterable[int]) -> None:
    """Release this worker's parts of some transfers that have not been stored yet."""
    for some in in_chunks(list(ids)):
        mine = NOT_THERE & (parts.c.owner == who.id) & parts.c.transfer_id.in_(some)
        connection.execute(update(parts).where(mine).values(owner=None))


def _cancelled_among(connection: Connection, ids: Iterable[str]) -> set[str]:
    query = select(migrations.c.id).where(
        migrations.c.id.in_(list(ids)), migrations.c.state == MigrationState.CANCELLED
    )
    return set(connection.execute(query).scalars())


def check_claim(connection: Connection, who: WorkerId, claim: Claim) -> None:
    """Raise LeaseLost if another worker may have a claim's transfer now."""
    held = select(transfers.c.id).where(
        transfers.c.id == claim.id,
        transfers.c.fence == claim.fence,
        transfers.c.owner == who.id,
        RUNNING,
    )
    if connection.execute(held).first() is None:
        raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")
