"""Who works on what: runners and their leases, claims by compare-and-set, and how claims end.

Theory of operation. A runner enters itself with a time until which its claims hold, and puts that off every few
seconds. A claim takes queued rows and writes the runner's id and a new fence into them; everything that is written
about a claim later compares both. Rows whose runner is gone (its time is over, its machine was started anew, or its
process is no more) go back to the queue, and count that: a row at which runner after runner dies is set aside.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from relay.errors import LeaseLost
from relay.ledger.database import Database, boot, process
from relay.ledger.limits import room
from relay.ledger.migrations import bounds_of, tell
from relay.ledger.rows import Claim, Settlement
from relay.ledger.schema import (
    LARGE,
    LARGE_BYTES,
    NOT_THERE,
    QUEUED,
    migrations,
    parts,
    receipts,
    runners,
    transfers,
    uploads,
)
from relay.ledger.states import TRANSFER
from relay.ledger.tally import Changes

LEASE_SECONDS: Final = 30.0
LAPSES: Final = 5
"""So many runners may be lost with one transfer before it is set aside: perhaps it is what kills them."""
SUSPECT: Final = 2
"""A transfer with which so many were lost is claimed only by itself: if it kills its runner it takes no other along."""

FORGOTTEN: Final = 2
"""So many claims of one transfer may be among the commits that a ledger has lost."""


@dataclass(frozen=True)
class Who:
    """A runner, as it enters itself."""

    id: str
    host: str
    boot: str
    process: str

    @classmethod
    def here(cls, id: str) -> Who:
        """Return who this process is."""
        return cls(id, platform.node(), boot(), process(os.getpid()) or str(os.getpid()))


# -- runners


def renew(connection: Connection, database: Database, who: Who, seconds: float = LEASE_SECONDS) -> bool:
    """Let a runner's claims hold for `seconds` from now on. False: it was not entered, or was taken for gone."""
    until = database.clock(connection) + seconds
    changed = connection.execute(update(runners).where(runners.c.id == who.id).values(until=until)).rowcount
    if changed:
        return True
    row = {"id": who.id, "host": who.host, "boot": who.boot, "process": who.process, "until": until}
    connection.execute(insert(runners), row)
    return False


def leave(connection: Connection, who: Who) -> None:
    """Hand back every claim, and take the runner out; nothing counts as lapsed."""
    _requeue(connection, [who.id], "hand_back")
    connection.execute(delete(runners).where(runners.c.id == who.id))


def reclaim(connection: Connection, database: Database, who: Who) -> int:
    """Put the claims of runners that are gone back into the queue; return how many."""
    now = database.clock(connection)
    others = connection.execute(select(runners).where(runners.c.id != who.id)).all()
    gone = [row.id for row in others if _gone(row, now, who, database.sqlite)]
    gone += _strays(connection, who)
    if not gone:
        return 0
    if any(row.host == who.host and row.boot != who.boot for row in others):
        doubt(connection)
    count = _requeue(connection, gone, "lapse")
    connection.execute(delete(runners).where(runners.c.id.in_(gone)))
    return count


def doubt(connection: Connection) -> None:
    """Believe no longer that what is queued was never begun, and that nothing is at the destinations.

    A claim that was forgotten had a fence that nobody may have again, and may have left something under its name; so
    those fences are passed over, and count as lost.

    For a ledger that may have lost its newest commits: the machine went down, with a disk that said more than it did;
    or a database was put in another's place.
    """
    running = select(migrations.c.id).where(migrations.c.state == "running")
    connection.execute(update(migrations).where(migrations.c.state == "running").values(destination_empty=False))
    single = running.where(migrations.c.listing == "none")
    queued = transfers.c.state == "queued"
    forgotten = transfers.c.fence + FORGOTTEN
    connection.execute(update(transfers).where(transfers.c.migration_id.in_(running), queued).values(fence=forgotten))
    untouched = transfers.c.migration_id.in_(single) & queued & (transfers.c.attempts == 0)
    connection.execute(update(transfers).where(untouched).values(attempts=1))


def _strays(connection: Connection, who: Who) -> list[str]:
    """Return the owners of claims and parts that are not entered at all: one that was taken for gone, claimed once more
    before it knew, and ended."""
    found: set[str] = set()
    for owner, held in ((transfers.c.owner, transfers.c.state == "running"), (parts.c.owner, NOT_THERE)):
        entered = owner.in_(select(runners.c.id)) | (owner == who.id)
        query = select(owner).where(held, owner.is_not(None), ~entered).distinct()
        found |= set(connection.execute(query).scalars())
    return sorted(found)


def _gone(row: Row[Any], now: float, who: Who, one_machine: bool) -> bool:
    if one_machine and row.boot != who.boot:
        return True  # its clock began anew, and so did everything else
    if row.until < now:
        return True
    here = row.host == who.host and row.boot == who.boot
    pid = row.process.partition(".")[0]
    # A process of another container has other numbers; then only the time tells.
    return here and one_machine and pid.isdigit() and process(int(pid)) != row.process


def _requeue(connection: Connection, owners: Sequence[str], verb: str) -> int:
    claimed = (transfers.c.owner.in_(owners)) & (transfers.c.state == "running")
    connection.execute(
        update(migrations)
        .where(migrations.c.listing_owner.in_(owners), migrations.c.listing == "running")
        .values(listing="due", listing_owner=None)
    )
    connection.execute(update(parts).where(NOT_THERE, parts.c.owner.in_(owners)).values(owner=None))
    return _let_go(connection, connection.execute(_LET_GO.where(claimed)).all(), verb)


_LET_GO = select(transfers.c.id, transfers.c.fence, transfers.c.migration_id, transfers.c.size, transfers.c.lapses)


def _let_go(connection: Connection, rows: Sequence[Any], verb: str) -> int:
    """Take claims from whoever has them; return how many."""
    if not rows:
        return 0
    changes = Changes()
    more = 1 if verb == "lapse" else 0
    cancelled = _stopped(connection, {row.migration_id for row in rows})
    changed: dict[str, list[int]] = {}
    for row in rows:
        step = "quarantine" if row.lapses + more >= LAPSES else "cancel" if row.migration_id in cancelled else verb
        changed.setdefault(step, []).append(row.id)
        changes.moved(row.migration_id, "running", TRANSFER[step].to, row.size, row.size)
    error = json.dumps({"code": "quarantined", "side": "relay", "detail": _POISON})
    for step, ids in changed.items():
        values: dict[str, Any] = {"state": TRANSFER[step].to, "owner": None, "lapses": transfers.c.lapses + more}
        values |= {"error": error} if step == "quarantine" else {}
        for some in _chunks(ids):
            connection.execute(update(transfers).where(transfers.c.id.in_(some)).values(**values))
    changes.write(connection)
    return len(rows)


_POISON = f"{LAPSES} workers were lost while they had this object; it is set aside until you retry it"


def _chunks(ids: Sequence[int], most: int = 500) -> Iterable[Sequence[int]]:
    return (ids[i : i + most] for i in range(0, len(ids), most))


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
)
"""The columns that a Claim is made of."""


def claim_of(row: Any, renewed: int) -> Claim:
    """Return the claim that a row of CLAIMED tells of."""
    return Claim(**{**row._mapping, "digests": json.loads(row.digests) if row.digests else {}, "renewed": renewed})


@dataclass(frozen=True)
class Wanted:
    """What a runner has room for: `all` transfers in all, of them `large` ones while there are small ones to claim, and
    `alone` one that is suspect.

    Large ones are claimed first, the largest before the others, so that none is left to run alone in the end; and never
    so many that the small ones would stand behind them.
    """

    all: int
    large: int = 0
    only_large: int = 0
    """So many large ones where there are no small ones left."""
    alone: bool = True


def claim(connection: Connection, who: Who, wanted: Wanted, only: str | None = None) -> list[Claim]:
    """Claim what there is room for, of the most urgent migrations and the oldest first; `only` of one.

    Of a migration with bounds never more than those let run at a time, over all runners. One that is suspect comes
    last, and by itself: where there is nothing else, and the runner is alone with it.
    """
    told = (migrations.c.slots, migrations.c.bytes_per_second, migrations.c.connections, migrations.c.renewed)
    waiting = select(migrations.c.id, *told).where(migrations.c.state == "running")
    if only is not None:
        waiting = waiting.where(migrations.c.id == only)
    rows = connection.execute(waiting.order_by(migrations.c.priority.desc(), migrations.c.number)).all()
    found: list[Claim] = []
    for migration in rows:
        found += _of_one(connection, who, migration, wanted, found)
    for migration in rows if wanted.alone and wanted.all else ():
        if not found and room(connection, migration.id, bounds_of(migration), 1):
            found = _claimed(connection, who, migration, 1, _SUSPECTS)
    return found


def _of_one(connection: Connection, who: Who, migration: Any, wanted: Wanted, found: list[Claim]) -> list[Claim]:
    """Claim of one migration what there is still room for besides what was `found` in others."""
    left = wanted.all - len(found)
    left = room(connection, migration.id, bounds_of(migration), left) if left > 0 else 0
    before = sum(large(claim) for claim in found)
    taken = _claimed(connection, who, migration, min(left, wanted.large - before), _LARGE)
    taken += _claimed(connection, who, migration, left - len(taken), _SMALL)
    more = min(left - len(taken), wanted.only_large - len(found) - len(taken))
    return taken + _claimed(connection, who, migration, more, _LARGE)


def large(claim: Claim) -> bool:
    """Say if the object is a large one."""
    return claim.size is not None and claim.size >= LARGE_BYTES


_TRUSTED = transfers.c.lapses < SUSPECT
_LARGE = (LARGE & _TRUSTED, (transfers.c.size.desc(), transfers.c.id))
_SMALL = (QUEUED & _TRUSTED & (transfers.c.size.is_(None) | (transfers.c.size < LARGE_BYTES)), (transfers.c.id,))
_SUSPECTS = (QUEUED & (transfers.c.lapses >= SUSPECT), (transfers.c.lapses, transfers.c.id))
"""Which of the queued transfers, and in which order."""


def _claimed(connection: Connection, who: Who, migration: Any, limit: int, which: tuple[Any, Any]) -> list[Claim]:
    if limit <= 0:
        return []
    condition, order = which
    queued = (
        select(transfers.c.id)
        .where(transfers.c.migration_id == migration.id, condition, transfers.c.not_before <= time.time())
        .order_by(*order)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(transfers)
        .where(transfers.c.id.in_(queued.scalar_subquery()))
        .values(
            state=TRANSFER["claim"].to,
            owner=who.id,
            fence=transfers.c.fence + 1,
            attempts=transfers.c.attempts + 1,
        )
        .returning(*CLAIMED)
    )
    found = [claim_of(row, migration.renewed) for row in connection.execute(taken)]
    found.sort(key=lambda claim: claim.id)
    changes = Changes()
    for one in found:
        changes.moved(migration.id, "queued", "running", one.size, one.size)
    changes.write(connection)
    return found


def disown(connection: Connection, who: Who, kept: Iterable[Claim], shared: Iterable[int] = ()) -> int:
    """Hand back what stands as this runner's and is not among those that it has in hand; return how many claims.

    A claim, or a part of a transfer that it shares in, whose answer was lost is one of which the ledger knows, and the
    runner does not.
    """
    held = _LET_GO.where(transfers.c.owner == who.id, transfers.c.state == "running")
    known = {(claim.id, claim.fence) for claim in kept}
    rows = [row for row in connection.execute(held) if (row.id, row.fence) not in known]
    ours = select(parts.c.transfer_id).where(NOT_THERE, parts.c.owner == who.id).distinct()
    lost = set(connection.execute(ours).scalars()) - {id for id, _ in known} - set(shared)
    _free(connection, who, lost)
    return _let_go(connection, rows, "hand_back")


def _free(connection: Connection, who: Who, ids: Iterable[int]) -> None:
    """Let anybody have the parts of some transfers that are this runner's, and not there yet."""
    for some in _chunks(list(ids)):
        mine = NOT_THERE & (parts.c.owner == who.id) & parts.c.transfer_id.in_(some)
        connection.execute(update(parts).where(mine).values(owner=None))


# -- how they end

_SETTLE = (
    update(transfers)
    .where(
        transfers.c.id == bindparam("the_id"),
        transfers.c.fence == bindparam("the_fence"),
        transfers.c.owner == bindparam("the_owner"),
        transfers.c.state == "running",
    )
    .values(
        state=bindparam("new_state"),
        owner=None,
        bytes=bindparam("new_bytes"),
        size=bindparam("new_size"),
        resent=transfers.c.resent + bindparam("more_resent"),
        seconds=bindparam("new_seconds"),
        level=bindparam("new_level"),
        error=bindparam("new_error"),
        not_before=bindparam("new_not_before"),
        ended=bindparam("new_ended"),
    )
)
_HELD = (
    select(transfers.c.id, transfers.c.fence, transfers.c.size, migrations.c.state.label("stage"))
    .join(migrations, migrations.c.id == transfers.c.migration_id)
    .where(transfers.c.state == "running")
)


def settle(connection: Connection, who: Who, ends: Sequence[Settlement]) -> list[Claim]:
    """Write how claims ended; return those that were not ours any more, of which nothing is written."""
    held = {
        (row.id, row.fence): row
        for some in _chunks([end.claim.id for end in ends])
        for row in connection.execute(_HELD.where(transfers.c.owner == who.id, transfers.c.id.in_(some)))
    }
    now, changes = time.time(), Changes()
    rows: list[dict[str, Any]] = []
    proofs: list[dict[str, Any]] = []
    lost: list[Claim] = []
    for end in ends:
        row = held.get((end.claim.id, end.claim.fence))
        if row is None:
            lost.append(end.claim)
            continue
        verb = "cancel" if end.verb == "hand_back" and row.stage == "cancelled" else end.verb
        state = TRANSFER[verb].to
        size = end.bytes if end.bytes is not None else row.size
        changes.moved(end.claim.migration_id, "running", state, row.size, size)
        rows.append(_settled(end, who, state, size, now))
        if end.receipt is not None:
            proofs.append({"transfer_id": end.claim.id, "receipt": json.dumps(end.receipt, separators=(",", ":"))})
        if verb == "failed":
            tell(connection, end.claim.migration_id, "failed", {"name": end.claim.name, **(end.error or {})})
    if rows:
        connection.execute(_SETTLE, rows)
        _free(connection, who, [row["the_id"] for row in rows if row["new_state"] == "queued"])
        _forget(
            connection, [row["the_id"] for row in rows if row["new_state"] in ("verified", "unverified", "skipped")]
        )
        _forget_urls(connection, [end.claim.id for end in ends if end.claim.url])
    if proofs:
        connection.execute(
            delete(receipts).where(receipts.c.transfer_id == bindparam("the_id")),
            [{"the_id": p["transfer_id"]} for p in proofs],
        )
        connection.execute(insert(receipts), proofs)
    changes.write(connection)
    return lost


def _settled(end: Settlement, who: Who, state: str, size: int | None, now: float) -> dict[str, Any]:
    return {
        "the_id": end.claim.id,
        "the_fence": end.claim.fence,
        "the_owner": who.id,
        "new_state": state,
        "new_bytes": end.bytes,
        "new_size": size,
        "more_resent": end.resent,
        "new_seconds": end.seconds,
        "new_level": end.level,
        "new_error": None if end.error is None else json.dumps(end.error, separators=(",", ":")),
        "new_not_before": now + end.wait if end.wait else 0.0,
        "new_ended": None if state == "queued" else now,
    }


def _forget(connection: Connection, ids: Sequence[int]) -> None:
    """An object that has arrived needs no record of its parts."""
    for some in _chunks(ids):
        begun = list(connection.execute(select(uploads.c.transfer_id).where(uploads.c.transfer_id.in_(some))).scalars())
        if begun:
            connection.execute(delete(parts).where(parts.c.transfer_id.in_(begun)))
            connection.execute(delete(uploads).where(uploads.c.transfer_id.in_(begun)))


def _forget_urls(connection: Connection, ids: Sequence[int]) -> None:
    """Nor does it need the URL that a list gave, which may hold a signature."""
    arrived = transfers.c.state.in_(("verified", "skipped"))
    for some in _chunks(ids):
        connection.execute(update(transfers).where(transfers.c.id.in_(some), arrived).values(url=None))


def _stopped(connection: Connection, ids: Iterable[str]) -> set[str]:
    query = select(migrations.c.id).where(migrations.c.id.in_(list(ids)), migrations.c.state == "cancelled")
    return set(connection.execute(query).scalars())


def check(connection: Connection, who: Who, claim: Claim) -> None:
    """Raise LeaseLost if a claim is not ours any more."""
    held = select(transfers.c.id).where(
        transfers.c.id == claim.id,
        transfers.c.fence == claim.fence,
        transfers.c.owner == who.id,
        transfers.c.state == "running",
    )
    if connection.execute(held).first() is None:
        raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")
