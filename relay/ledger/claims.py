"""Workers, their leases, and claims by compare-and-set (`settling.py` ends claims).

Theory of operation. A runner enters itself with a time until which its claims hold, and puts that
off every few seconds. A claim takes queued rows and writes the runner's id and a new fence into
them; everything that is written about a claim later compares both. Rows whose runner is gone (its
time is over, its machine was started anew, or its process is no more) go back to the queue, and
count that: a row at which runner after runner dies is set aside."""

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
    update,
)

from relay.errors import LeaseLost
from relay.ledger.counters import CounterDelta
from relay.ledger.database import Database, boot_id, process_identity
from relay.ledger.limits import room
from relay.ledger.migrations import bounds_of, write_event
from relay.ledger.names import in_chunks as in_chunks
from relay.ledger.rows import ARRIVED, MARKED, TERMINAL, UNNOTED, Claim, PriorState
from relay.ledger.schema import (
    LARGE,
    LARGE_BYTES,
    NOT_THERE,
    QUEUED,
    RUNNING,
    migrations,
    parts,
    runners,
    transfers,
)
from relay.ledger.states import TRANSFER

LEASE_SECONDS: Final = 30.0
LAPSES: Final = 5
"""So many runners may be lost with one transfer before it is set aside: perhaps it is what kills
them."""
SUSPECT: Final = 2
"""A transfer with which so many were lost is claimed only by itself: if it kills its runner it
takes no other along."""

LATEST_SECONDS: Final = 120.0
"""A claim that is handed back is put off for less."""
EMPTY_SECONDS: Final = 3600.0
"""So long it is believed that nothing is at a destination where nothing was: only whoever looks at
an object knows."""
FORGOTTEN: Final = 2
"""So many claims of one transfer may be among the commits that a ledger has lost."""
DOUBTED: Final = 1_000_000
"""So much is added to a listing's fence each time: what is listed then may have been listed, and
claimed, before."""


@dataclass(frozen=True)
class WorkerId:
    """A runner, as it enters itself."""

    id: str
    host: str
    boot: str
    process: str
    kind: str = TERMINAL
    """Whose migrations it works on."""

    @classmethod
    def of_this_process(cls, id: str, kind: str = TERMINAL) -> WorkerId:
        """Return who this process is."""
        return cls(
            id, platform.node(), boot_id(), process_identity(os.getpid()) or str(os.getpid()), kind
        )


# -- runners


def renew(
    connection: Connection, database: Database, who: WorkerId, seconds: float = LEASE_SECONDS
) -> bool:
    """Let a runner's claims hold for `seconds` from now on. False: it was not entered, or was taken
    for gone."""
    until = database.clock(connection) + seconds
    changed = connection.execute(
        update(runners).where(runners.c.id == who.id).values(until=until)
    ).rowcount
    if changed:
        return True
    row = {"id": who.id, "host": who.host, "boot": who.boot, "process": who.process, "until": until}
    connection.execute(insert(runners), row)
    return False


def leave(connection: Connection, who: WorkerId) -> None:
    """Hand back every claim, and take the runner out; nothing counts as lapsed."""
    _requeue(connection, [who.id], "hand_back")
    connection.execute(delete(runners).where(runners.c.id == who.id))


def reclaim(connection: Connection, database: Database, who: WorkerId) -> int:
    """Put the claims of runners that are gone back into the queue; return how many.

    Raises RenewedMeanwhile where one of them put its lease off at this very moment: it was told
    that its claims hold, so that nothing of this may happen."""
    now = database.clock(connection)
    others = connection.execute(select(runners).where(runners.c.id != who.id)).all()
    gone = [row for row in others if _is_gone(row, now, who, database.sqlite)]
    strays = _unregistered_owners(connection, who)
    if not gone and not strays:
        return 0
    count = _requeue(connection, [*(row.id for row in gone), *strays], "lapse")
    if any(row.host == who.host and row.boot != who.boot for row in gone):
        distrust_recent_commits(connection)
    for row in gone:
        as_seen = (runners.c.id == row.id) & (runners.c.until == row.until)
        if not connection.execute(delete(runners).where(as_seen)).rowcount:
            raise RenewedMeanwhile
    return count


class RenewedMeanwhile(Exception):
    """A runner that seemed gone is not."""


def first_fence(listing: int) -> int:
    """Return the fence with which a transfer begins that a listing of this fence writes."""
    return FORGOTTEN * (listing // DOUBTED)


def lost_workers(connection: Connection, database: Database, who: WorkerId) -> list[str]:
    """Return the runners that are gone, and those that have claims and are not entered. Writes
    nothing."""
    now = database.clock(connection)
    others = connection.execute(select(runners).where(runners.c.id != who.id)).all()
    return [
        row.id for row in others if _is_gone(row, now, who, database.sqlite)
    ] + _unregistered_owners(connection, who)


def distrust_recent_commits(connection: Connection) -> None:
    """Believe no longer that what is queued was never begun, and that nothing is at the
    destinations.

    A claim that was forgotten had a fence that nobody may have again, and may have left something
    under its name; so those fences are passed over, and count as lost. So are those of transfers
    that were forgotten themselves, when they are listed again (`first_fence`).

    For a ledger that may have lost its newest commits: the machine went down, with a disk that said
    more than it did; or a database was put in another's place."""
    running = select(migrations.c.id).where(migrations.c.state == "running")
    connection.execute(
        update(migrations)
        .where(migrations.c.state == "running")
        .values(destination_empty=False, looked=None)
    )
    single = running.where(migrations.c.listing == "none")
    queued = transfers.c.state == "queued"
    forgotten = transfers.c.fence + FORGOTTEN
    entered = case((transfers.c.twins == MARKED, forgotten + 1), else_=transfers.c.twins)
    skipped = {"fence": forgotten, "twins": entered}
    connection.execute(
        update(transfers).where(transfers.c.migration_id.in_(running), queued).values(**skipped)
    )
    again = (migrations.c.state == "running") & (migrations.c.listing == "due")
    connection.execute(
        update(migrations).where(again).values(listing_fence=migrations.c.listing_fence + DOUBTED)
    )
    # Also of what moves: where its destination was empty nobody wrote down what was there, and that
    # is forgotten here.
    untold = transfers.c.before.is_(None) | (transfers.c.before == ARRIVED)
    unknown = transfers.c.migration_id.in_(running) & (queued | RUNNING) & untold
    connection.execute(update(transfers).where(unknown).values(before=_unknown_since()))
    left = (
        transfers.c.migration_id.in_(running)
        & (queued | RUNNING)
        & transfers.c.before.contains(UNNOTED)
    )
    noted = func.replace(transfers.c.before, UNNOTED, UNNOTED.replace("false", "true"))
    connection.execute(update(transfers).where(left).values(before=noted))
    untouched = transfers.c.migration_id.in_(single) & queued & (transfers.c.attempts == 0)
    connection.execute(update(transfers).where(untouched).values(attempts=1))


def _unknown_since() -> ColumnElement[str]:
    """Return the Before of a transfer of which nothing is known since its migration was
    accepted."""
    head, _, tail = PriorState(known=False, since=0.5).to_text().partition("0.5")
    of = (
        select(migrations.c.created)
        .where(migrations.c.id == transfers.c.migration_id)
        .scalar_subquery()
    )
    return literal(head) + cast(of, Text) + literal(tail)


def _unregistered_owners(connection: Connection, who: WorkerId) -> list[str]:
    """Return the owners of claims and parts that are not entered at all: one that was taken for
    gone, claimed once more before it knew, and ended."""
    found: set[str] = set()
    for owner, held in ((transfers.c.owner, RUNNING), (parts.c.owner, NOT_THERE)):
        entered = owner.in_(select(runners.c.id)) | (owner == who.id)
        query = select(owner).where(held, owner.is_not(None), ~entered).distinct()
        found |= set(connection.execute(query).scalars())
    return sorted(found)


def _is_gone(row: Row[Any], now: float, who: WorkerId, one_machine: bool) -> bool:
    if one_machine and row.boot != who.boot:
        return True  # its clock began anew, and so did everything else
    if row.until < now:
        return True
    here = row.host == who.host and row.boot == who.boot
    number, _, namespace = row.process.partition("@")
    pid = number.partition(".")[0]
    # A process of another container has other numbers; then only the time tells. So it does where
    # /proc tells nothing.
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
    """Take everything from some runners; return how many claims of transfers that were."""
    claimed = (transfers.c.owner.in_(owners)) & RUNNING
    listed = migrations.c.listing_owner.in_(owners) & (migrations.c.listing == "running")
    more = 1 if verb == "lapse" else 0
    due = {
        "listing": "due",
        "listing_owner": None,
        "listing_lapses": migrations.c.listing_lapses + more,
    }
    connection.execute(update(migrations).where(listed).values(**due))
    _set_aside_listings(connection)
    connection.execute(update(parts).where(NOT_THERE, parts.c.owner.in_(owners)).values(owner=None))
    return _let_go(connection, connection.execute(_LET_GO.where(claimed)).all(), verb)


def _set_aside_listings(connection: Connection) -> None:
    """Let a listing fail at which runner after runner was lost: perhaps it is what kills them."""
    lost = (migrations.c.listing == "due") & (migrations.c.listing_lapses >= LAPSES)
    error = json.dumps(
        {"code": "quarantined", "side": "relay", "detail": _POISON_LIST, "hint": _AGAIN}
    )
    failed = (
        update(migrations)
        .where(lost)
        .values(listing="failed", error=error)
        .returning(migrations.c.id)
    )
    for id in connection.execute(failed).scalars().all():
        write_event(connection, id, "listing_failed", json.loads(error))


_POISON_LIST = (
    f"{LAPSES} workers were lost while they listed the source; that is set aside until you retry it"
)
_AGAIN = (
    "Look at the log of those workers, and at what the source lists; `retry`, or the same command,"
    " lists again."
)
_LET_GO = (
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
"""Who is thought gone may settle at this very moment: its rows are locked, in the order in which
everybody locks them, and seen as they are then."""


def _let_go(connection: Connection, rows: Sequence[Any], verb: str) -> int:
    """Take claims from whoever has them; return how many."""
    if not rows:
        return 0
    changes = CounterDelta()
    more = 1 if verb == "lapse" else 0
    cancelled = _cancelled_among(connection, {row.migration_id for row in rows})
    changed: dict[str, list[int]] = {}
    now = time.time()
    for row in rows:
        step = (
            "quarantine"
            if row.lapses + more >= LAPSES
            else "cancel"
            if row.migration_id in cancelled
            else verb
        )
        changed.setdefault(step, []).append(row.id)
        changes.count_transition(row.migration_id, "running", TRANSFER[step].to, row.size, row.size)
    error = json.dumps({"code": "quarantined", "side": "relay", "detail": _POISON})
    for step, ids in changed.items():
        values: dict[str, Any] = {
            "state": TRANSFER[step].to,
            "owner": None,
            "lapses": transfers.c.lapses + more,
        }
        values |= {"error": error, "ended": now} if step == "quarantine" else {"ended": now}
        for some in in_chunks(ids):
            connection.execute(update(transfers).where(transfers.c.id.in_(some)).values(**values))
    changes.write(connection)
    return len(rows)


_POISON = (
    f"{LAPSES} workers were lost while they had this object; it is set aside until you retry it"
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
    """Return the claim that a row of CLAIMED tells of; nothing was found at its tree's destination
    when that was `looked` at, or once (`empty`)."""
    *reported, digests, before, twins = row
    kept = PriorState.from_text(before)
    was = kept if kept is None or kept.noted else None
    untouched = kept is not None and 0 < kept.unsent == reported[2] - 1
    if (
        was is None
        and not (untouched or (kept is not None and kept.arrived))
        and empty
        and reported[2] > 1
    ):
        was = PriorState(known=True, assumed=True)
    fresh = looked is not None and 0 <= time.time() - looked < EMPTY_SECONDS
    more = {
        "digests": json.loads(digests) if digests else {},
        "renewed": renewed,
        "before": was,
        "empty": fresh,
    }
    more |= {"twins": twins, "remains": kept.remains if kept is not None else {}}
    more |= {"rid": kept.rid if kept is not None else 0, "untouched": untouched}
    return Claim(*reported, **more)


@dataclass(frozen=True)
class ClaimRequest:
    """What a runner has room for: `all` transfers in all, of them `is_large` ones while there are
    small ones to claim, and `alone` one that is suspect: the runner has nothing else in hand, and
    moves no part of what others have.

    Large ones are claimed first, the largest before the others, so that none is left to run alone
    in the end; and never so many that the small ones would stand behind them."""

    all: int
    large: int = 0
    only_large: int = 0
    """So many large ones where there are no small ones left."""
    alone: bool = True


_OURS: Final = (migrations.c.state == literal_column("'running'")) & or_(
    migrations.c.id == bindparam("only"),
    and_(
        bindparam("only", type_=String).is_(None),
        or_(migrations.c.runner.is_(None), migrations.c.runner == bindparam("kind")),
    ),
)
"""Of a migration: it is the `only` one, or any that belongs to this `kind` of runner. (Which
migration is `only` was said by who may work on it.)"""
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
"""Nobody puts one off for so long: the clock was set back since."""
_TRUSTED = transfers.c.lapses < SUSPECT


def _any(*conditions: Any) -> Any:
    queued = exists().where(transfers.c.migration_id == migrations.c.id, QUEUED, _DUE, *conditions)
    return select(queued).select_from(migrations).where(_OURS)


_CLAIMABLE: Final = {True: _any(), False: _any(_TRUSTED)}
"""By whether the runner is alone."""


def has_claimable(
    connection: Connection, who: WorkerId, alone: bool, only: str | None = None
) -> bool:
    """Say if there seems to be something to `claim`, also of what is suspect if the runner is
    `alone`. Writes nothing."""
    reported = {"now": time.time(), "only": only, "kind": who.kind}
    return any(connection.execute(_CLAIMABLE[alone], reported).scalars())


def claim(
    connection: Connection,
    who: WorkerId,
    wanted: ClaimRequest,
    only: str | None,
    changes: CounterDelta,
) -> list[Claim]:
    """Claim what there is room for, of the most urgent migrations and the oldest first; `only` of
    one. What that changes in the tallies goes to `changes`.

    Of a migration with bounds never more than those let run at a time, over all runners. One that
    is suspect comes last, and by itself: where there is nothing else, and the runner is alone with
    it, without a part that it moves of another's."""
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
    """What one call of `claim` has found until now."""

    connection: Connection
    who: WorkerId
    changes: CounterDelta
    found: list[Claim] = field(default_factory=list)

    def claim_from(self, migration: Any, wanted: ClaimRequest) -> None:
        """Claim of one migration what there is still room for besides what was found in others."""
        left = wanted.all - len(self.found)
        left = self.room(migration, left) if left > 0 else 0
        left -= self.take(
            migration, min(left, wanted.large - sum(map(is_large, self.found))), _LARGE
        )
        left -= self.take(migration, left, _SMALL)
        self.take(migration, min(left, wanted.only_large - len(self.found)), _LARGE)

    def room(self, migration: Any, most: int) -> int:
        """Return how many of at most so many may be claimed of a migration."""
        more = self.changes.objects(migration.id, "running")
        return room(self.connection, migration.id, bounds_of(migration), most, more)

    def take(self, migration: Any, most: int, which: Update) -> int:
        """Claim up to so many; return how many."""
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
        for one in taken:
            self.changes.count_transition(migration.id, "queued", "running", one.size, one.size)
            self.changes.count_retries(migration.id, 1 if one.attempts > 1 else 0)
        self.found += taken
        return len(taken)


def is_large(claim: Claim) -> bool:
    """Say if the object is a large one."""
    return claim.size is not None and claim.size >= LARGE_BYTES


def _claim_statement(condition: Any, *order: Any) -> Update:
    """Return what claims the first queued transfers of one kind; whoever else claims passes over
    them meanwhile."""
    queued = (
        select(transfers.c.id)
        .where(transfers.c.migration_id == bindparam("migration"), condition, _DUE)
        .order_by(*order)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
        # PostgreSQL may run a subquery again for each row that it compares, and lock, and take,
        # others each time.
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
"""They are written once: making one costs as much as running it."""


def release_unknown_claims(
    connection: Connection, who: WorkerId, kept: Iterable[Claim], shared: Iterable[int] = ()
) -> int:
    """Hand back what stands as this runner's and is not among those that it has in hand; return how
    many claims.

    A claim, or a part of a transfer that it shares in, whose answer was lost is one of which the
    ledger knows, and the runner does not."""
    held = _LET_GO.where(transfers.c.owner == who.id, RUNNING)
    known = {(claim.id, claim.fence) for claim in kept}
    rows = [row for row in connection.execute(held) if (row.id, row.fence) not in known]
    ours = select(parts.c.transfer_id).where(NOT_THERE, parts.c.owner == who.id).distinct()
    left = set(connection.execute(ours).scalars()) - {id for id, _ in known} - set(shared)
    free_parts(connection, who, left)
    return _let_go(connection, rows, "hand_back")


def free_parts(connection: Connection, who: WorkerId, ids: Iterable[int]) -> None:
    """Let anybody have the parts of some transfers that are this runner's, and not there yet."""
    for some in in_chunks(list(ids)):
        mine = NOT_THERE & (parts.c.owner == who.id) & parts.c.transfer_id.in_(some)
        connection.execute(update(parts).where(mine).values(owner=None))


def _cancelled_among(connection: Connection, ids: Iterable[str]) -> set[str]:
    query = select(migrations.c.id).where(
        migrations.c.id.in_(list(ids)), migrations.c.state == "cancelled"
    )
    return set(connection.execute(query).scalars())


def check_claim(connection: Connection, who: WorkerId, claim: Claim) -> None:
    """Raise LeaseLost if a claim is not ours any more."""
    held = select(transfers.c.id).where(
        transfers.c.id == claim.id,
        transfers.c.fence == claim.fence,
        transfers.c.owner == who.id,
        RUNNING,
    )
    if connection.execute(held).first() is None:
        raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")
