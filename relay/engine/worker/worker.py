"""The worker of one process: list trees, claim transfers from the ledger, run them, settle them.

Theory of operation. A fixed number of greenlets, one per slot, each run one transfer after the
other. One greenlet polls the ledger for them: in one transaction it settles the ended claims and
claims as many transfers as there is room for. It waits a moment between two polls, so that many
small objects share a transaction (`prefetch.py`). One greenlet lists trees, one removes orphaned
uploads (`orphans.py`), one renews the lease, and one records pending retries. After `stop` nothing
new is claimed, running transfers are handed back with the parts that they have uploaded, and the
worker is removed from the ledger.

While the ledger does not answer, nothing is acknowledged and no transfer starts; ended transfers
wait to be settled. If the lease is lost, the running transfers are cancelled: other workers may
have claimed them.

Decided here: when a transfer is claimed, retried later, or quarantined. Never here: how an object
moves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.queue import SimpleQueue

from relay.engine.listing import error_members
from relay.engine.outcome import Outcome
from relay.engine.retries import PendingRetry
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.claim_journal import ClaimJournal, NoteWriter
from relay.engine.worker.conversions import hints_of_claim, settlement_of
from relay.engine.worker.lister import Lister
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.orphans import OrphanSweeper
from relay.engine.worker.part_helper import PartHelper
from relay.engine.worker.prefetch import GATHER_SECONDS, LONGEST_SECONDS, PrefetchSizer
from relay.engine.worker.refusals import AGAIN_SECONDS, RefusalJudge, Verdict
from relay.errors import (
    Cancelled,
    KeyCollision,
    LeaseLost,
    LedgerBusy,
    LedgerFailed,
    LedgerRefused,
    PermissionDenied,
    RelayError,
)
from relay.errors.bugs import bug
from relay.ledger.claims import LAPSES, SUSPECT, ClaimRequest, is_large
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Claim, Listing, MigrationView, PartLease, Settlement
from relay.process.failpoints import reach
from relay.throttle import Throttle

log = logging.getLogger("relay.claimer")

LOOK_SECONDS = 1.0
"""Longest time between two checks of the ledger for paused, cancelled and ended migrations."""
IDLE_SECONDS = (0.03, 0.25)
"""First and longest wait before the next poll of an idle worker; the wait doubles each time.
Another process may be listing, or moving the last objects."""
RENEW_SECONDS = 5.0
"""Longest time between two renewals of the lease; claims of lost workers are reclaimed as often."""
JOIN_SECONDS = 0.5
"""How often a worker without claims looks for another worker's multipart upload to help with."""
TROUBLE_SECONDS = RENEW_SECONDS + 1.0
"""How long `trouble` shows a failed write to the ledger: until a writer has tried again."""
SHARE_SECONDS = 0.1
"""How often a transfer checks if this process has stopped helping with the same object."""
TWIN_SECONDS = 1.0
"""Delay of an object whose name the destination may fold into that of a running transfer."""
SHUN_SECONDS = 30.0
"""How long a worker does not help with an object again after helping has failed."""


def boottime() -> float:
    """Return the seconds since this machine started, including those in suspend: leases expire
    during suspend, and another worker may have claimed our transfers (clock_gettime(2),
    CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(eq=False)
class ActiveTransfer:
    """A transfer that runs in this process, or this process's help with another worker's parts."""

    claim: Claim
    transfer: Transfer | PartHelper
    began: float
    stopped: bool = False


@dataclass(eq=False)
class Worker:
    """The worker of one process, on every migration of its kind, or on `only` one: `run` then
    returns when that migration has ended."""

    ledger: Ledger
    runner: TransferEngine
    slots: int
    only: str | None = None
    ended: Callable[[Claim, Outcome | RelayError], None] = lambda claim, end: None
    """Called with every transfer that ended in this process."""
    moved: Callable[[int], None] = lambda count: None
    """Called with the number of bytes that this process moved of an object, when it has ended the
    transfer or its help with the object's parts."""
    clock: Callable[[], float] = boottime
    lease_seconds: float = 30.0

    active: dict[int, ActiveTransfer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start without claims."""
        self._queue: SimpleQueue[tuple[Claim | PartLease, int] | None] = SimpleQueue()
        self._settlements: list[Settlement] = []
        self._in_hand: dict[int, Claim] = {}
        self._renewed, self._entries = -inf, 0
        self._doubtful = False
        self._jobs = MigrationCache(self.ledger, self.runner)
        self._trouble: RelayError | None = None
        self._met: RelayError | None = None
        self._met_until = -inf
        self._notes = NoteWriter(self.ledger)
        self._shares: set[int] = set()
        self._lister: Lister | None = None
        self._shunned: dict[int, float] = {}
        self._join_at = 0.0
        self._judge = RefusalJudge(self._jobs, self.clock, self.active)
        self._pace = PrefetchSizer(self.slots, self.clock)
        self._wake, self._hungry, self._over, self._stopped = Event(), Event(), Event(), Event()
        self._look_at, self._idle = 0.0, 0.0

    # -- control

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._over.is_set()

    def stop(self) -> None:
        """Stop claiming, and hand back the running transfers within about a second. Then `run`
        returns."""
        self._over.set()
        for active in tuple(self.active.values()):
            self._cancel_transfer(active, "this process stops")
        self._wake.set()
        self._hungry.set()

    def wake(self) -> None:
        """Poll now: a migration was accepted or changed."""
        self._wake.set()

    def run(self) -> None:
        """Work until `stop`, or until the `only` migration has ended. No claim is left behind; if
        the ledger does not answer, the claims expire with the lease. Raises LedgerFailed only
        before the first poll."""
        self._renew_lease()
        self.ledger.reclaim()
        workers = [gevent.spawn(self._work) for _ in range(self.slots)]
        self._lister = lister = Lister(
            self.ledger,
            self.runner,
            self._jobs,
            self._over,
            self._wake.set,
            self._note_trouble,
            self.only,
            self._is_alone,
        )
        sweeper = OrphanSweeper(self.ledger, self.runner, self._jobs, self._over, self.only)
        tasks = (lister.run, sweeper.run, self._keep_lease, self._report_retries)
        others = [gevent.spawn(task) for task in tasks]
        try:
            while not self.stopping and not self._poll():
                self._wait_for_settlements()
        finally:
            self.stop()
            for _ in workers:
                self._queue.put(None)
            gevent.joinall(workers)
            self._stopped.set()  # only now, so that the running transfers kept their lease
            gevent.joinall(others)
            self._leave()

    # -- one poll

    def _wait_for_settlements(self) -> None:
        """Wait until a transfer has ended or a poll is due; then on, up to LONGEST_SECONDS, while
        enough claims are queued."""
        soon, late = IDLE_SECONDS
        self._idle = 0.0 if self._in_hand or self._shares else min(max(2 * self._idle, soon), late)
        self._wake.wait(self._idle or LOOK_SECONDS)
        self._wake.clear()
        gevent.sleep(GATHER_SECONDS)
        if self._queue.qsize() > self._pace.low and not self.stopping:
            self._hungry.clear()
            self._hungry.wait(LONGEST_SECONDS)

    def _poll(self) -> bool:
        """Settle, claim, and apply pauses and limits. Returns True when the `only` migration has
        ended."""
        try:
            self._release_unknown_claims()
            claimed = self._settle_and_claim()
            if not claimed:
                self._join_part_lease()
            self.trouble = None
            idle = not claimed and not self._in_hand and not self._shares
            return (idle or self.clock() >= self._look_at) and self._finished() and idle
        except LedgerFailed as error:
            self.trouble = error
            # LedgerBusy changed nothing; after other errors a claim may have been committed.
            self._doubtful |= not isinstance(error, LedgerBusy)
            log.warning(
                "ledger.failed", extra={"members": {"code": error.code, "detail": error.message}}
            )
            gevent.sleep(LOOK_SECONDS)
            return False

    def _release_unknown_claims(self) -> None:
        """Hand back the claims that the ledger holds for this worker and the worker does not know:
        the answer to a claim may have been lost."""
        if self._doubtful:
            self.ledger.release_unknown_claims(tuple(self._in_hand.values()), tuple(self._shares))
            self._doubtful = False

    def _settle_and_claim(self) -> int:
        """Settle the ended claims, claim transfers, and apply pauses and limits; return the number
        of claims."""
        began, entry, ends = self.clock(), self._entries, tuple(self._settlements)
        watched = {claim.migration_id for claim in self._in_hand.values()}
        watched |= {active.claim.migration_id for active in self.active.values()}
        if ends:
            reach("before-settle")
        try:
            turn = self.ledger.settle_and_claim(ends, self._claim_request(), self.only, watched)
        except LedgerRefused:
            self._settle_each(ends)
            raise
        if ends:
            reach("after-settle")
        self._ends_settled(ends)
        self._pace.note_poll(len(ends), began)
        self._in_hand |= {claim.id: claim for claim in turn.claims}
        if turn.claims:
            reach("after-claim")
        try:
            self._stop_ended_migrations(turn.standings)
        finally:
            for claim in turn.claims:
                self._queue.put((claim, entry))
        return len(turn.claims)

    def _settle_each(self, ends: Sequence[Settlement]) -> None:
        """Settle one by one the claims that the ledger refuses together. A claim whose settlement
        the ledger can't store fails."""
        for end in ends:
            try:
                self.ledger.settle([end])
            except LedgerRefused as error:
                self.ledger.settle([Settlement(end.claim, "failed", error=error_members(error))])
            self._settlements.remove(end)
            self._forget_claim(end.claim)

    def _claim_request(self) -> ClaimRequest:
        """Return the number of transfers to claim."""
        busy = len(self._in_hand) - len(self._settlements) + len(self._shares)
        room = self.slots + self._pace.ahead - busy
        if self._runs_suspect():
            room = 0
        most = (self.slots + 1) // 2 - sum(map(is_large, self._in_hand.values()))
        return ClaimRequest(room, most, self.slots - busy, self._is_alone())

    def _is_alone(self) -> bool:
        """Say if this process has no claim and no part lease: a transfer that crashes it would
        affect no other."""
        return not self._in_hand and not self._shares

    def _runs_suspect(self) -> bool:
        """Say if a suspect transfer or listing runs here: then nothing else may start beside it."""
        listed = self._lister is not None and self._lister.is_suspect
        return listed or any(claim.lapses >= SUSPECT for claim in self._in_hand.values())

    def _forget_claim(self, claim: Claim) -> None:
        """Remove a claim from those in hand, but not a newer claim of the same object."""
        held = self._in_hand.get(claim.id)
        if held is not None and held.fence == claim.fence:
            del self._in_hand[claim.id]

    def _ends_settled(self, ends: Sequence[Settlement]) -> None:
        del self._settlements[: len(ends)]  # more may have been added while the ledger was asked
        for end in ends:
            self._forget_claim(end.claim)

    def _join_part_lease(self) -> None:
        """Help with another worker's multipart upload, if a slot is free."""
        now, busy = self.clock(), len(self._in_hand) + len(self._shares)
        if busy >= self.slots or self.stopping or now < self._join_at or self._runs_suspect():
            return
        self._join_at = now + JOIN_SECONDS
        self._shunned = {id: until for id, until in self._shunned.items() if until > now}
        share = self.ledger.join_upload(self.only, (*self._shares, *self._shunned))
        if share is not None:
            self._shares.add(share.claim.id)
            self._queue.put((share, self._entries))

    def _finished(self) -> bool:
        self._look_at = self.clock() + LOOK_SECONDS
        self._finish()
        return self.only is not None and self.ledger.migration(self.only).state not in ("running",)

    def _finish(self) -> None:
        """End every migration that has no transfer left, and log each without secrets."""
        for migration in self.ledger.finish():
            self._jobs.forget(migration.id)
            named = ("id", "number", "state", "source", "destination")
            objects = {state: counted.objects for state, counted in sorted(migration.tally.items())}
            members = {name: getattr(migration, name) for name in named}
            log.info(
                "migration.ended",
                extra={"members": {**members, "objects": objects, "error": migration.error}},
            )

    def _stop_ended_migrations(self, standings: Mapping[str, MigrationView]) -> None:
        """Stop the transfers of paused and cancelled migrations, and apply the current bounds."""
        for id, standing in standings.items():
            self._throttle(id).allow(standing.bounds, standing.place, standing.of)
        for active in tuple(self.active.values()):
            # None if the transfer started while the ledger was asked.
            found = standings.get(active.claim.migration_id)
            if (
                found
                and found.state in ("paused", "cancelled")
                and not active.transfer.meter.committed
            ):
                self._cancel_transfer(
                    active, f"the migration was {found.state}", goes_on=found.state == "paused"
                )

    def _throttle(self, id: str) -> Throttle:
        """Return the throttle of a migration's transfers in this process."""
        return self._jobs.throttle(
            id, lambda: {active.claim.migration_id for active in self.active.values()}
        )

    def _is_at_limit(self, id: str) -> bool:
        """Say if a migration has reached its bound on concurrent transfers in this process: the
        bound may have been lowered after the claim."""
        most = self._throttle(id).bounds.transfers
        return (
            most is not None
            and sum(one.claim.migration_id == id for one in self.active.values()) >= most
        )

    def _cancel_transfer(self, active: ActiveTransfer, why: str, goes_on: bool = True) -> None:
        """Cancel a transfer. Unless it `goes_on` later, it aborts its upload."""
        active.stopped = True
        active.transfer.cancel(Cancelled(why, retryable=goes_on))

    def _leave(self) -> None:
        try:
            ends = tuple(self._settlements)
            if ends:
                reach("before-settle")
                self.ledger.settle(ends)
                reach("after-settle")
            self._ends_settled(ends)
            self.ledger.leave()
            self._finish()
        except LedgerFailed as error:
            self.trouble = error

    # -- the lease

    def _renew_lease(self) -> bool:
        """Renew the lease, and remember when by our own clock: until it expires no other worker can
        have taken our claims. Returns False if this worker had been removed as lost."""
        asked = self.clock()
        held = self.ledger.renew(self.lease_seconds)
        self._renewed = asked
        self._entries += not held
        return held

    def _has_lease(self, entry: int) -> bool:
        """Say if the claims made during the `entry`th registration of this worker are certainly
        still ours."""
        return entry == self._entries and self.clock() - self._renewed < self.lease_seconds

    def _keep_lease(self) -> None:
        every = min(RENEW_SECONDS, self.lease_seconds / 4)
        due = self.clock() + every
        while not self._stopped.wait(0.1):
            if self.clock() < due:
                continue
            due = self.clock() + every
            try:
                if not self._renew_lease():
                    for active in tuple(self.active.values()):
                        active.transfer.cancel(LeaseLost("the lease of this process had expired"))
                if self.ledger.reclaim():
                    self._wake.set()
            except LedgerFailed as error:
                self._note_trouble(error)

    def _report_retries(self) -> None:
        """Record this process's pending retries in the ledger, at most once a second, so that other
        processes can show them."""
        written: dict[int, PendingRetry] = {}
        listed: dict[Listing, PendingRetry] = {}
        while not self._stopped.wait(LOOK_SECONDS):
            claims, now = {}, {}
            for id, active in tuple(self.active.items()):
                if isinstance(active.transfer, Transfer):  # not parts: their owner reports those
                    claims[id], now[id] = active.claim, active.transfer.trouble
            changed = [(claims[id], one) for id, one in now.items() if one != written.get(id)]
            try:
                if changed:
                    self.ledger.note_retried(
                        [(claim, one.to_json() if one else None) for claim, one in changed]
                    )
                written = {id: one for id, one in now.items() if one is not None}
                listed = self._report_listing_retries(listed)
            except LedgerFailed as error:
                self._note_trouble(error)

    def _report_listing_retries(
        self, written: Mapping[Listing, PendingRetry]
    ) -> dict[Listing, PendingRetry]:
        """Record the pending retries of listings that differ from `written`; return the current
        ones."""
        now = self._lister.troubles() if self._lister is not None else {}
        for listing, trouble in now.items():
            if trouble != written.get(listing):
                self.ledger.note_listing(listing, trouble.to_json() if trouble else None)
        return {listing: trouble for listing, trouble in now.items() if trouble is not None}

    @property
    def trouble(self) -> RelayError | None:
        """The reason why the ledger can't be used at the moment, or None. A ledger that can be read
        but not written counts: a failed write is shown for TROUBLE_SECONDS."""
        return self._trouble or (self._met if self.clock() < self._met_until else None)

    @trouble.setter
    def trouble(self, error: RelayError | None) -> None:
        self._trouble = error

    def _note_trouble(self, error: LedgerFailed) -> None:
        self._met, self._met_until = error, self.clock() + TROUBLE_SECONDS

    # -- transfers

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._queue.qsize() <= self._pace.low:
                self._hungry.set()
            claim, entry = item
            if isinstance(claim, PartLease):
                self._help(claim)
                continue
            try:
                end = self._run_transfer(claim, entry)
            except Exception as error:  # noqa: BLE001 - a bug fails this object only
                end = Settlement(claim, "failed", error=error_members(bug(error)))
            except (GreenletExit, gevent.Timeout) as error:  # raised into the middle of a transfer
                again = claim.attempts < LAPSES
                end = Settlement(
                    claim, "hand_back" if again else "failed", error=error_members(bug(error))
                )
            except BaseException:  # this process ends
                self._ended(Settlement(claim, "hand_back"))
                raise
            self._ended(end)

    def _ended(self, end: Settlement) -> None:
        self._settlements.append(end)
        self._wake.set()

    def _run_transfer(self, claim: Claim, entry: int) -> Settlement:
        """Run one transfer and return its settlement. The ledger ignores the settlement of a claim
        that is no longer ours."""
        if self.stopping or self._is_at_limit(claim.migration_id):
            return Settlement(claim, "hand_back")
        transfer: Transfer | None = None
        active: ActiveTransfer | None = None
        while claim.id in self._shares and not self.stopping:
            gevent.sleep(SHARE_SECONDS)  # let the parts finish that this process moves as a helper
        try:
            unlocated = self._jobs.settle_unlocated(claim)
            if unlocated is not None:
                return unlocated
            transfer = self._transfer(claim)
            transfer.known = hints_of_claim(claim)
            if claim.twins:
                names = self.ledger.enter_folded(claim)
                if names is None:
                    return Settlement(claim, "hand_back", wait=TWIN_SECONDS)
                twins = self._jobs.locations_of(claim, names)
                transfer.known = replace(transfer.known, twins=twins)
            transfer.journal = ClaimJournal(
                self.ledger, claim, partial(self._has_lease, entry), self._notes
            )
            transfer.admitted = True
            self.active[claim.id] = active = ActiveTransfer(claim, transfer, self.clock())
            try:
                outcome = self.runner.run(transfer)
            finally:
                self._remove_active(active)
        except LeaseLost as error:
            # The claim may be ours after all: it was made after this process was removed as lost
            # and before it registered again.
            return self._hand_back(claim, transfer, error)
        except RelayError as error:
            self.moved(transfer.moved if transfer else 0)
            return self._settle_failure(
                claim, transfer, error, active is not None and active.stopped
            )
        # Bytes that were read of a skipped object do not count as moved.
        self.moved(min(transfer.moved, outcome.bytes))
        self.ended(claim, outcome)
        self._jobs.note_success(claim)
        self._judge.note_success(claim, active.began)
        return settlement_of(claim, outcome, transfer.resent)

    def _remove_active(self, active: ActiveTransfer) -> None:
        """Remove a transfer from `active`, but not a newer one of the same object: after a lost
        lease the object may have been claimed here again."""
        if self.active.get(active.claim.id) is active:
            del self.active[active.claim.id]

    def _hand_back(
        self, claim: Claim, transfer: Transfer | None, error: RelayError, wait: float = 0.0
    ) -> Settlement:
        """Return the settlement of a claim that is handed back because of an error."""
        resent, unsent, rid = (
            (transfer.resent, transfer.unsent, transfer.frees_slot)
            if transfer
            else (0, False, False)
        )
        end = Settlement(
            claim,
            "hand_back",
            resent=resent,
            unsent=unsent,
            wait=wait,
            remains=error.remains,
            rid=rid,
        )
        return replace(end, untouched=transfer.untouched) if transfer else end

    def _transfer(self, claim: Claim) -> Transfer:
        """Return the transfer of a claimed object, with its migration's throttle."""
        job = self._jobs.job(claim.migration_id, claim.renewed)
        transfer = self.runner.transfer(job.plan(claim), str(claim.id))
        transfer.meter.throttle = self._throttle(claim.migration_id)
        return transfer

    def _settle_failure(
        self, claim: Claim, transfer: Transfer | None, error: RelayError, stopped: bool
    ) -> Settlement:
        over = stopped or self.stopping
        if isinstance(error, KeyCollision) and not (transfer and transfer.has_sent):
            # If this fails the object counts as sent, which is the safe side.
            with suppress(LedgerFailed, LeaseLost):
                self.ledger.leave_folded(claim)
        if isinstance(error, PermissionDenied) and not over:
            error = self._judge.classify_denial(claim, error)
        if over or isinstance(error, LedgerFailed):
            return self._hand_back(claim, transfer, error)
        verdict = self._judge.judge(claim, error)
        if isinstance(verdict, LedgerFailed) or verdict is Verdict.LATER:
            return self._hand_back(
                claim, transfer, error, AGAIN_SECONDS if verdict is Verdict.LATER else 0.0
            )
        if verdict is Verdict.ALL:
            # Every other object would fail the same way, so the migration waits for new credentials
            # or for free space.
            self._jobs.pause(claim.migration_id, error)
            return self._hand_back(claim, transfer, error)
        self.ended(claim, error)
        return replace(
            self._hand_back(claim, transfer, error),
            verb="failed",
            seconds=transfer.meter.seconds() if transfer else None,
            error=error_members(error),
        )

    # -- help with parts

    def _help(self, share: PartLease) -> None:
        """Move parts of another worker's object. Only that worker settles the object, whatever
        happens here."""
        id = share.claim.id
        try:
            self._end_help(share)
        except LedgerFailed as error:
            self._note_trouble(error)
            self._doubtful = True  # the ledger may still hold some parts for this worker
        except RelayError as error:
            self._shunned[id] = self.clock() + SHUN_SECONDS
            log.info(
                "part_help.failed", extra={"members": {"code": error.code, "detail": error.message}}
            )
        except Exception as error:  # noqa: BLE001 - a bug: the other worker continues alone
            self._shunned[id] = self.clock() + SHUN_SECONDS
            bug(error)
        finally:
            self._shares.discard(id)
            self._wake.set()

    def _end_help(self, share: PartLease) -> None:
        claim = share.claim
        sharing: PartHelper | None = None
        try:
            if not self.stopping:
                sharing = PartHelper.for_lease(share, self._transfer(claim), self.ledger)
        finally:
            if sharing is None:
                self._shunned[claim.id] = self.clock() + SHUN_SECONDS
                self.ledger.release_parts(claim)
        if sharing is not None:
            self.active[claim.id] = active = ActiveTransfer(claim, sharing, self.clock())
            try:
                sharing.run()
            finally:
                self._remove_active(active)
                self.moved(sharing.moved)
