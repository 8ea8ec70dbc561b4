"""What works through the ledger in one process: lists trees, claims transfers, makes them, and settles them.

Theory of operation. A fixed number of greenlets, one a slot, each make one transfer after the other. One greenlet
keeps them fed: it settles in one transaction what has ended, and claims in another as much as there is room for; it
waits a moment between two rounds, so that many small objects share a transaction. One lists, and one keeps the lease.
All of them go on until they are told to stop; then nothing new is claimed, what runs is handed back with what it has
reached, and the runner is taken out of the ledger.

When the ledger does not answer nothing is acknowledged and nothing new begins; what is moved meanwhile waits to be
settled. When a claim turns out not to be ours any more its transfer is stopped, and another runner has it.

Decided here: when something is claimed, tried later, or set aside. Never here: how an object moves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from itertools import islice
from math import inf
from time import monotonic
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.queue import SimpleQueue

from relay.engine.order import Job
from relay.engine.runner import Runner
from relay.engine.transfer import Known, Outcome, Transfer
from relay.engine.tree import told, write_tree
from relay.errors import (
    Cancelled,
    LeaseLost,
    LedgerBusy,
    LedgerFailed,
    NotFound,
    PermissionDenied,
    RelayError,
    StoreFull,
    Unauthenticated,
    Unsupported,
)
from relay.failpoints import reach
from relay.ledger.claims import LAPSES, SUSPECT
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Begun, Claim, Listing, Migration, Settlement, StoredPart
from relay.receipt import State, Version
from relay.throttle import Throttle
from relay.wire.meter import Meter

log = logging.getLogger("relay.claimer")

GATHER_SECONDS = 0.02
"""How long ended transfers are gathered before they are settled together."""
LOOK_SECONDS = 1.0
"""How often the ledger is looked at for work when there is none, and for what others told a migration to do."""
RENEW_SECONDS = 5.0
"""How often, at least, the lease is put off, and the claims of lost runners are taken back."""
LOST = 10
"""So many earlier claims of an object are looked for at its destination."""
AHEAD = 3
"""So many times the slots are claimed at most: those that run, those that wait to run, those that wait to be settled.
With fewer, small objects run out while the ledger is asked for more."""
JOBS = 64
"""So many migrations are kept at hand."""


@dataclass(frozen=True)
class ClaimJournal:
    """The notes of a transfer that is claimed from a ledger."""

    ledger: Ledger
    claim: Claim
    sure: Callable[[], bool] = lambda: False
    """Says that the lease can't have lapsed, so that nobody need ask."""

    def begun(self) -> Begun | None:
        """As Journal.begun."""
        return self.ledger.begun(self.claim)

    def begin(self, upload: Begun) -> None:
        """As Journal.begin."""
        self.ledger.begin(self.claim, upload)

    def store(self, part: StoredPart) -> None:
        """As Journal.store."""
        self.ledger.store(self.claim, part)

    def commit(self, digest: str) -> None:
        """As Journal.commit."""
        self.ledger.commit(self.claim, digest)

    def forget(self) -> None:
        """As Journal.forget."""
        self.ledger.forget(self.claim)

    def held(self) -> None:
        """As Journal.held."""
        if not self.sure():
            self.ledger.check(self.claim)


@dataclass(eq=False)
class Active:
    """A transfer that runs, for who watches."""

    claim: Claim
    transfer: Transfer
    stopped: bool = False


@dataclass(eq=False)
class Claimer:
    """One process's share of the ledger's work. `only` one migration: then `run` returns when that has ended."""

    ledger: Ledger
    runner: Runner
    slots: int
    only: str | None = None
    ended: Callable[[Claim, Outcome | RelayError], None] = lambda claim, end: None
    """Told of every transfer that ended here."""
    clock: Callable[[], float] = monotonic
    lease_seconds: float = 30.0

    active: dict[int, Active] = field(default_factory=dict)
    trouble: RelayError | None = None
    """Why the ledger can't be worked with at the moment, if it can't."""

    def __post_init__(self) -> None:
        """Nothing is claimed yet."""
        self._queue: SimpleQueue[tuple[Claim, int] | None] = SimpleQueue()
        self._settlements: list[Settlement] = []
        self._in_hand: dict[int, Claim] = {}
        self._renewed, self._entries = -inf, 0
        self._doubtful = self._listing_doubtful = False
        self._jobs: dict[str, tuple[int, Job]] = {}
        self._throttles: dict[str, Throttle] = {}
        self._asked: dict[str, float] = {}
        self._facts: dict[str, bool] = {}
        self._wake, self._over = Event(), Event()
        self._stopping = False
        self._look_at = 0.0

    # -- from outside

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    def stop(self) -> None:
        """Claim nothing more, and hand back what runs within about a second. `run` returns then."""
        self._stopping = True
        self._over.set()
        for active in tuple(self.active.values()):
            self._break(active, "this process stops")
        self._wake.set()

    def look(self) -> None:
        """Look for work now: something was accepted or told."""
        self._wake.set()

    def run(self) -> None:
        """Work until told to stop, or until the one migration has ended. Leaves no claim behind but those of a
        ledger that does not answer, which lapse. Raises LedgerFailed only where it never began."""
        self._renew()
        self.ledger.reclaim()
        workers = [gevent.spawn(self._work) for _ in range(self.slots)]
        others = [gevent.spawn(self._list), gevent.spawn(self._keep)]
        try:
            while not self._stopping and not self._round():
                self._wake.wait(LOOK_SECONDS)
                self._wake.clear()
                gevent.sleep(GATHER_SECONDS)
        finally:
            self.stop()
            for _ in workers:
                self._queue.put(None)
            gevent.joinall(workers)
            gevent.joinall(others)
            self._leave()

    # -- one round

    def _round(self) -> bool:
        """Settle, claim, and see what others said. Returns True when the one migration has ended."""
        try:
            self._settle()
            claims, entry = self._claimed()
            try:
                self._obey({claim.migration_id for claim in claims})
            finally:
                for claim in claims:
                    self._queue.put((claim, entry))
            self.trouble = None
            idle = not claims and not self._in_hand
            return (idle or self.clock() >= self._look_at) and self._finished() and idle
        except LedgerFailed as error:
            self.trouble = error
            self._doubtful |= not isinstance(error, LedgerBusy)  # which did nothing
            log.warning("ledger", extra={"members": {"code": error.code, "detail": error.message}})
            gevent.sleep(LOOK_SECONDS)
            return False

    def _claimed(self) -> tuple[list[Claim], int]:
        """Claim as much as there is room for; return it, and the entry of ours under which it was claimed.

        After a failure it is not known which claims were made: those that the ledger has and we have not are handed
        back first.
        """
        if self._doubtful:
            self.ledger.disown(tuple(self._in_hand.values()))
            self._facts.clear()
            self._doubtful = False
        room = AHEAD * self.slots - len(self._in_hand) + len(self._settlements)
        if any(claim.lapses >= SUSPECT for claim in self._in_hand.values()):
            room = 0  # what may kill this process is to take nothing else along
        claims = self.ledger.claim(room, self.only, alone=not self._in_hand) if room > 0 else []
        self._in_hand |= {claim.id: claim for claim in claims}
        if claims:
            reach("after-claim")
        return claims, self._entries

    def _settle(self) -> None:
        ends = tuple(self._settlements)
        if ends:
            reach("before-settle")
            self.ledger.settle(ends)
            reach("after-settle")
            del self._settlements[: len(ends)]  # more may have come while we waited
            for end in ends:
                self._in_hand.pop(end.claim.id, None)

    def _finished(self) -> bool:
        self._look_at = self.clock() + LOOK_SECONDS
        for migration in self.ledger.finish():
            self._jobs.pop(migration.id, None)
        return self.only is not None and self.ledger.migration(self.only).state not in ("running",)

    def _obey(self, claimed: set[str]) -> None:
        """Stop the transfers of migrations that were cancelled or paused by somebody, and keep to the bounds as they
        are now."""
        running = tuple(self.active.values())
        ids = sorted(claimed | {active.claim.migration_id for active in running})
        standings = self.ledger.standings(ids) if ids else {}
        for id, standing in standings.items():
            self._throttle(id).allow(standing.bounds, standing.place, standing.of)
        for active in running:
            state = standings[active.claim.migration_id].state
            if state in ("paused", "cancelled") and not active.transfer.meter.committed:
                self._break(active, f"the migration was {state}", goes_on=state == "paused")

    def _throttle(self, id: str) -> Throttle:
        """Return what holds a migration's transfers back in this process."""
        found = self._throttles.setdefault(id, Throttle())
        if len(self._throttles) > JOBS:
            used = {active.claim.migration_id for active in self.active.values()} | {id}
            self._throttles = {name: one for name, one in self._throttles.items() if name in used}
        return found

    def _crowded(self, id: str) -> bool:
        """Say if as many transfers of a migration run here as its bounds let; they were narrowed since it was claimed
        then."""
        most = self._throttle(id).bounds.transfers
        return most is not None and sum(one.claim.migration_id == id for one in self.active.values()) >= most

    def _break(self, active: Active, why: str, goes_on: bool = True) -> None:
        """Stop a transfer; where nobody is to go on with it, it throws away what it had begun."""
        active.stopped = True
        active.transfer.cancel(Cancelled(why, retryable=goes_on))

    def _leave(self) -> None:
        try:
            self._settle()
            self.ledger.leave()
            self.ledger.finish()
        except LedgerFailed as error:
            self.trouble = error

    # -- the lease

    def _renew(self) -> bool:
        """Put the lease off, and remember until when, by our own clock, nobody can have taken our claims."""
        asked = self.clock()
        held = self.ledger.renew(self.lease_seconds)
        self._renewed = asked
        self._entries += not held
        return held

    def _sure(self, entry: int) -> bool:
        """Say if what was claimed since this process entered itself for the `entry`th time is ours beyond doubt."""
        return entry == self._entries and self.clock() - self._renewed < self.lease_seconds

    def _keep(self) -> None:
        every = min(RENEW_SECONDS, self.lease_seconds / 4)
        due = self.clock() + every
        while not self._over.wait(0.1):
            if self.clock() < due:
                continue
            due = self.clock() + every
            try:
                if not self._renew():
                    for active in tuple(self.active.values()):
                        active.transfer.cancel(LeaseLost("this process was taken for gone"))
                if self.ledger.reclaim():
                    self._wake.set()
            except LedgerFailed as error:
                self.trouble = error

    # -- transfers

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            claim, entry = item
            try:
                end = self._made(claim, entry)
            except Exception as error:  # noqa: BLE001 - a bug: this object fails with it, and the others go on
                log.exception("bug")
                end = Settlement(claim, "failed", error=told(RelayError(repr(error))))
            except (GreenletExit, gevent.Timeout) as error:  # somebody's, in the middle of this object
                again = claim.attempts < LAPSES
                end = Settlement(claim, "hand_back" if again else "failed", error=told(RelayError(repr(error))))
            except BaseException:  # this process ends
                self._ended(claim, Settlement(claim, "hand_back"))
                raise
            self._ended(claim, end)

    def _ended(self, claim: Claim, end: Settlement | None) -> None:
        if end is None:
            self._in_hand.pop(claim.id, None)
        else:
            self._settlements.append(end)
        self._wake.set()

    def _made(self, claim: Claim, entry: int) -> Settlement | None:
        """Make one transfer; return how it is settled, or None where the claim is not ours any more."""
        if self._stopping or self._crowded(claim.migration_id):
            return Settlement(claim, "hand_back")
        transfer: Transfer | None = None
        try:
            job = self._job(claim.migration_id, claim.renewed)
            transfer = self.runner.transfer(job.plan(claim))
            transfer.meter.throttle = self._throttle(claim.migration_id)
            transfer.known = self._known(claim)
            transfer.journal = ClaimJournal(self.ledger, claim, partial(self._sure, entry))
            transfer.admitted = True
            self.active[claim.id] = active = Active(claim, transfer)
            try:
                outcome = self.runner.run(transfer)
            finally:
                del self.active[claim.id]
        except LeaseLost:
            return None
        except RelayError as error:
            return self._failed(claim, transfer, error, transfer is not None and active.stopped)
        self.ended(claim, outcome)
        return settled(claim, outcome, transfer.resent)

    def _failed(self, claim: Claim, transfer: Transfer | None, error: RelayError, stopped: bool) -> Settlement:
        resent = transfer.resent if transfer else 0
        if stopped or self._stopping or isinstance(error, LedgerFailed):
            return Settlement(claim, "hand_back", resent=resent)
        denied = isinstance(error, PermissionDenied) and self._denied(claim, error)
        if denied or isinstance(error, Unauthenticated | StoreFull):
            # The others would fail with the same: better all wait for new credentials, or for room.
            self._pause(claim.migration_id, error)
            return Settlement(claim, "hand_back", resent=resent)
        self.ended(claim, error)
        seconds = transfer.meter.seconds() if transfer else None
        return Settlement(claim, "failed", resent=resent, seconds=seconds, error=told(error))

    def _denied(self, claim: Claim, error: PermissionDenied) -> bool:
        """Say if it is not this object alone that the source denies, but what it let us list before."""
        id, now = claim.migration_id, self.clock()
        if error.side != "source" or not claim.name or claim.url or now < self._asked.get(id, -1.0):
            return False
        try:
            job = self._job(id, claim.renewed)
            source = self.runner.stores.source(job.source, Meter(self.runner.limits))
            next(iter(source.list(job.source)), None)
        except (Unauthenticated, PermissionDenied):
            return True
        except RelayError:
            pass  # it does not tell
        self._asked = {id: now + LOOK_SECONDS}  # so many may be denied, one after the other
        return False

    def _pause(self, id: str, error: RelayError) -> None:
        with suppress(RelayError):  # it is over, or paused already
            self.ledger.pause_for(id, told(error))

    def _known(self, claim: Claim) -> Known:
        modified = claim.modified
        when = format_datetime(datetime.fromtimestamp(modified, UTC), usegmt=True) if modified is not None else None
        listed = Version(claim.size, claim.etag, when) if claim.name else None
        digests = {name: bytes.fromhex(value) for name, value in claim.digests.items()}
        return Known(
            listed=listed,
            promised=Version(claim.size, digests=digests) if claim.url else None,
            absent=self._facts.get(claim.migration_id, False) and claim.attempts == 1,
            begun=claim.attempts > 1,
            token=_token(claim, claim.fence),
            lost=tuple(_token(claim, fence) for fence in range(max(1, claim.fence - LOST), claim.fence)),
        )

    def _job(self, id: str, renewed: int) -> Job:
        """Return a migration's job, with credentials that are no older than `renewed`. Raises ConfigError where it
        can't be made any more."""
        known, job = self._jobs.get(id, (-1, None))
        if job is None or known < renewed:
            migration = self.ledger.migration(id)
            job = Job.of(migration, self.ledger.secret(id), self.runner.remotes)
            self._facts[id] = migration.destination_empty
            self._jobs.pop(id, None)
            for old in tuple(islice(self._jobs, max(0, len(self._jobs) + 1 - JOBS))):
                del self._jobs[old]
            self._jobs[id] = (migration.renewed, job)
        return job

    # -- listings

    def _list(self) -> None:
        while not self._stopping:
            try:
                if self._listing_doubtful:  # a claim may have been made, or a page written, and we were not told
                    self.ledger.disown_listings()
                    self._listing_doubtful = False
                listing = self.ledger.claim_listing(self.only)
                if listing is not None:
                    self._listed(listing.migration_id, listing)
                    continue
            except LeaseLost:
                continue
            except LedgerFailed as error:
                self.trouble, self._listing_doubtful = error, True
            self._over.wait(LOOK_SECONDS / 4)

    def _listed(self, id: str, listing: Listing) -> None:
        try:
            job = self._job(id, listing.renewed)
            if listing.cursor is None:
                self._facts[id] = self._empty(job)
                self.ledger.learn_empty(id, self._facts[id])
            meter = Meter(self.runner.limits)
            meter.throttle = self._throttle(id)
            source = self.runner.stores.source(job.source, meter)
            write_tree(
                self.ledger,
                listing,
                self._woken(source.list(job.source, True, listing.cursor)),
                lambda: not self._stopping,
            )
        except (LedgerFailed, LeaseLost):
            raise
        except Unauthenticated as error:
            self._pause(id, error)
            self.ledger.hand_back_listing(listing)
        except RelayError as error:
            self.ledger.end_listing(listing, told(error))
        except Exception as error:  # noqa: BLE001 - a bug: this listing fails with it
            log.exception("bug")
            self.ledger.end_listing(listing, told(RelayError(repr(error))))
        self._wake.set()

    def _woken(self, entries: Any) -> Any:
        for count, entry in enumerate(entries):
            if count % 1000 == 1:
                self._wake.set()
            yield entry

    def _empty(self, job: Job) -> bool:
        """Say if nothing is at the destination, so that nobody needs to look for each object."""
        store = self.runner.stores.destination(job.destination, Meter(self.runner.limits))
        try:
            return next(iter(store.list(job.destination, False)), None) is None
        except NotFound:
            return True
        except (Unsupported, RelayError):
            return False


def _token(claim: Claim, fence: int) -> str:
    """Return what no other claim of any transfer has."""
    return f"{claim.migration_id[:13]}-{claim.id}-{fence}"


def settled(claim: Claim, outcome: Outcome, resent: int) -> Settlement:
    """Return how a transfer that ended well is settled."""
    receipt: dict[str, Any] | None = None if outcome.receipt is None else dict(outcome.receipt.to_json())
    if receipt is None and outcome.notes:
        receipt = {"notes": list(outcome.notes)}
    verb = {State.VERIFIED: "verified", State.UNVERIFIED: "unverified", State.SKIPPED: "skipped"}[outcome.state]
    return Settlement(
        claim,
        verb,
        bytes=outcome.bytes if outcome.receipt else claim.size,
        resent=resent,
        seconds=round(outcome.seconds, 3),
        level=outcome.receipt.level.value if outcome.receipt else None,
        receipt=receipt,
    )


def progress(migration: Migration) -> Mapping[str, int]:
    """Return how many objects and bytes of a migration are settled, and how many are known."""
    done = migration.counted("verified", "unverified", "skipped", "failed", "cancelled")
    every = migration.counted()
    return {"objects": done.objects, "bytes": done.bytes, "objects_known": every.objects, "bytes_known": every.bytes}
