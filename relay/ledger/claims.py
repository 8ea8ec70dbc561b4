"""Claims by compare-and-set (`settling.py` ends claims).

Theory of operation. A claim takes queued rows and writes the worker's id and a new fence into them;
every later write about a claim compares both. Large transfers, small ones and those that were lost
with a worker are claimed separately."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    Connection,
    String,
    Update,
    and_,
    bindparam,
    exists,
    literal_column,
    or_,
    select,
    update,
)

from relay.errors import LeaseLost
from relay.ledger.claim_values import Claim
from relay.ledger.counters import CounterDelta
from relay.ledger.limits import room
from relay.ledger.migration_rows import bounds_of, number_of
from relay.ledger.prior_state_values import PriorState
from relay.ledger.schema import (
    LARGE,
    LARGE_BYTES,
    NOT_THERE,
    QUEUED,
    RUNNING,
    migrations,
    parts,
    transfers,
)
from relay.ledger.states import TRANSFER, TransferState, TransferVerb
from relay.ledger.workers import WorkerId
from relay.receipt import Version

SUSPECT: Final = 2
"""Number of workers lost with one transfer from which it is claimed only alone: if it crashes its
worker, no other transfer is affected."""
LATEST_SECONDS: Final = 120.0
"""Upper bound of the delay of a claim that is handed back."""
EMPTY_SECONDS: Final = 3600.0
"""How long a destination that was found empty is assumed to be empty. After that every object is
looked up with HEAD."""
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
    transfers.c.written,
    transfers.c.planned,
)
"""The columns that a Claim is made of, in its order."""


def claim_of(
    row: Any,
    renewed: int,
    looked: float | None = None,
    empty: bool = False,
    *,
    number: int | None = None,
    tenant: str | None = None,
) -> Claim:
    """Return the claim in a row of CLAIMED. `looked` is the time at which its tree's destination
    was found empty; `empty` means that it was found empty at some time. `number` and `tenant` name
    its migration."""
    # Unpacked, since access by name costs each claim a microsecond more.
    id, migration_id, fence, name, url, size, etag, modified, *counts, digests, before = row[:13]
    attempts, crash_count, resent = counts
    twins, written, planned = row[13:16]
    kept = PriorState.from_text(before)
    # Not noted: the text names leftovers only.
    was = kept if kept is None or kept.noted else None
    # `unsent` must be the claim just before this one: a lost claim wrote nothing.
    untouched = kept is not None and 0 < kept.unsent == fence - 1
    sent = not (untouched or (kept is not None and kept.arrived))
    # Where the destination was empty, claims do not record it (`precheck.prepare_upload`).
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
        crash_count=crash_count,
        resent=resent,
        digests=json.loads(digests) if digests else {},
        renewed=renewed,
        before=was,
        empty=looked is not None and 0 <= time.time() - looked < EMPTY_SECONDS,
        remains=kept.remains if kept is not None else {},
        twins=twins,
        rid=kept.rid if kept is not None else 0,
        untouched=untouched,
        number=number,
        tenant=tenant,
        written=None if written is None else Version(**json.loads(written)),
        planned=planned,
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
    without: Collection[str] = ()
    """Migrations of which nothing is claimed: this worker can't locate them at the moment."""


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
    .add_columns(migrations.c.ordinal, migrations.c.number, migrations.c.tenant)
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
    connection: Connection, worker: WorkerId, alone: bool, only: str | None = None
) -> bool:
    """Return whether there seems to be a transfer to `claim`; with `alone`, a suspect one counts as
    well. Reads only."""
    values = {"now": time.time(), "only": only, "kind": worker.kind}
    return any(connection.execute(_CLAIMABLE[alone], values).scalars())


def claim(
    connection: Connection,
    worker: WorkerId,
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
    claiming = _Claiming(connection, worker, changes)
    waiting = connection.execute(_WAITING, {"only": only, "kind": worker.kind}).all()
    rows = [row for row in waiting if row.id not in wanted.without]
    for migration in rows:
        claiming.claim_from(migration, wanted)
    moving = exists().where(NOT_THERE, parts.c.owner == worker.id)
    if wanted.alone and not claiming.found and not connection.execute(select(moving)).scalar():
        for migration in rows:
            if not claiming.found and claiming.room(migration, 1):
                claiming.take(migration, 1, _SUSPECTS)
    return claiming.found


@dataclass(eq=False)
class _Claiming:
    """The state of one call of `claim`."""

    connection: Connection
    worker: WorkerId
    changes: CounterDelta
    found: list[Claim] = field(default_factory=list)

    def claim_from(self, migration: Any, wanted: ClaimRequest) -> None:
        """Claim transfers of one migration, up to the room that `found` leaves."""
        left = wanted.all - len(self.found)
        left = self.room(migration, left) if left > 0 else 0
        # Some large objects, then small ones, and more large ones if that leaves room.
        left -= self.take(
            migration, min(left, wanted.large - sum(map(is_large, self.found))), _LARGE
        )
        left -= self.take(migration, left, _SMALL)
        self.take(migration, min(left, wanted.only_large - len(self.found)), _LARGE)

    def room(self, migration: Any, most: int) -> int:
        """Return how many transfers of a migration, up to `most`, may be claimed."""
        # The tally has the changes of this transaction only at its end (`CounterDelta.write`).
        more = self.changes.objects(migration.id, TransferState.RUNNING)
        return room(self.connection, migration.id, bounds_of(migration), most, more)

    def take(self, migration: Any, most: int, which: Update) -> int:
        """Claim up to `most` transfers with one statement; return how many were claimed."""
        if most <= 0:
            return 0
        values = {
            "migration": migration.id,
            "most": most,
            "now": time.time(),
            "the_owner": self.worker.id,
        }
        about = migration.renewed, migration.looked, migration.destination_empty
        rows = self.connection.execute(which, values).all()
        number, tenant = number_of(migration), migration.tenant
        taken = [claim_of(row, *about, number=number, tenant=tenant) for row in rows]
        # The order of RETURNING is arbitrary (sqlite.org/lang_returning.html).
        taken.sort(key=lambda claim: claim.id)
        claimed = (TransferState.QUEUED, TransferState.RUNNING)
        for one in taken:
            self.changes.count_transition(migration.id, *claimed, one.size, one.size)
            self.changes.count_retries(migration.id, 1 if one.attempts > 1 else 0)
        self.found += taken
        return len(taken)


def is_large(claim: Claim) -> bool:
    """Return whether a claimed object has at least LARGE_BYTES."""
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
            state=TRANSFER[TransferVerb.CLAIM].to,
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


def check_claim(connection: Connection, worker: WorkerId, claim: Claim) -> None:
    """Raise LeaseLost if another worker may have a claim's transfer now."""
    held = select(transfers.c.id).where(
        transfers.c.id == claim.id,
        transfers.c.fence == claim.fence,
        transfers.c.owner == worker.id,
        RUNNING,
    )
    if connection.execute(held).first() is None:
        raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")
