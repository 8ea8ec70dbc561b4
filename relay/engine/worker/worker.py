"""The worker of one process: list trees, claim transfers from the ledger, run them, settle them.

Theory of operation. Some greenlets, one per slot, each run one transfer after the other
(`claim_runner.py`); their number may grow with the throughput (`slot_growth.py`). One greenlet
polls the ledger for them: in one transaction it settles the ended claims and claims as many
transfers as there is room for. It waits a moment between two polls, so that many small objects
share a transaction (`prefetch.py`). One greenlet lists trees (`lister.py`), one removes orphaned
uploads (`orphans.py`), one renews the lease (`lease.py`), one records pending retries
(`retry_reporter.py`), and one writes what moves (`live_reporter.py`). After `stop` nothing new is
claimed, running transfers are handed back with the parts that they have uploaded, and the worker is
removed from the ledger.

While the ledger does not answer, nothing is acknowledged and no transfer starts; ended transfers
wait to be settled. If the lease is lost, the running transfers are cancelled: other workers may
have claimed them.

Decided here: when the ledger is polled, and how much is claimed. Never here: how a failed transfer
is settled (`failure_policy.py`), and how an object moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from math import inf

import gevent
from gevent.event import Event
from gevent.pool import Group
from gevent.queue import SimpleQueue

from relay.engine.outcome import Outcome
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.active_transfers import ActiveTransfer, ActiveTransfers
from relay.engine.worker.claim_runner import ClaimRunner
from relay.engine.worker.claims_in_hand import ClaimsInHand
from relay.engine.worker.failure_policy import FailurePolicy
from relay.engine.worker.helped_uploads import HelpedUploads
from relay.engine.worker.lease import RENEW_SECONDS, Lease, boottime
from relay.engine.worker.lister import Lister
from relay.engine.worker.live_reporter import LiveReporter
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.orphans import OrphanSweeper
from relay.engine.worker.prefetch import GATHER_SECONDS, LONGEST_SECONDS, PrefetchSizer
from relay.engine.worker.refusals import RefusalJudge
from relay.engine.worker.retry_reporter import RetryReporter
from relay.engine.worker.slot_growth import Load, SlotGrowth
from relay.engine.worker.traffic import TrafficCounter
from relay.errors import LedgerBusy, LedgerFailed, RelayError
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.claims import ClaimRequest
from relay.ledger.ledger import Ledger
from relay.ledger.ledger_log import log_end
from relay.ledger.states import MigrationState, TransferVerb
from relay.ledger.upload_values import PartLease
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

LOOK_SECONDS = 1.0
"""Longest time between two checks of the ledger for paused, cancelled and ended migrations."""
IDLE_SECONDS = (0.03, 0.25)
"""First and longest wait before the next poll of an idle worker; the wait doubles each time.
Another process may be listing, or moving the last objects."""
LOAD_SECONDS = 0.1
"""How often the load is measured, if the number of slots may grow."""
TROUBLE_SECONDS = RENEW_SECONDS + 1.0
"""How long `trouble` shows a failed write to the ledger: until a writer has tried again."""


@dataclass(eq=False)
class Worker:
    """The worker of one process, on every migration of its kind, or on `only` one: `run` then
    returns when that migration has ended, or stands and is at rest."""

    ledger: Ledger
    engine: TransferEngine
    slots: int
    """The present number of slots."""
    only: str | None = None
    _: KW_ONLY
    ended: Callable[[Claim, Outcome | RelayError], None] = lambda claim, end: None
    """Called with every transfer that succeeded, or failed for good, in this process; not with one
    that a bug ended."""
    moved: Callable[[int], None] = lambda count: None
    """Called with the number of bytes that this process moved of an object, when it has ended the
    transfer or its help with the object's parts."""
    clock: Callable[[], float] = boottime
    lease_seconds: float = 30.0
    growth: SlotGrowth | None = None
    """Changes the number of slots; None keeps it."""

    def __post_init__(self) -> None:
        """Start without claims."""
        self._start_idle()
        jobs = MigrationCache(self.ledger, self.engine, self.clock)
        traffic = TrafficCounter(self.engine.count)
        self._build_claiming(jobs, traffic)
        self._build_transfers(jobs)
        self._build_services(jobs, traffic)
        jobs.in_use = self._migrations

    def _start_idle(self) -> None:
        """Start with no slot, and with a ledger that is not known to fail."""
        self._slot_greenlets = Group()
        self._live_slots = 0
        self._large_slots = self.slots
        self._ended_objects, self._moved_bytes = 0, 0
        self._is_full = False
        self._queue: SimpleQueue[tuple[Claim | PartLease, int] | None] = SimpleQueue()
        self._wake = Event()
        self._hungry = Event()
        self._over = Event()
        self._stopped = Event()
        self._look_at, self._idle = 0.0, 0.0
        self._trouble: RelayError | None = None
        self._silent_since: float | None = None
        self._met: RelayError | None = None
        self._met_until = -inf

    def _build_claiming(self, jobs: MigrationCache, traffic: TrafficCounter) -> None:
        """Build what the poll of the ledger uses."""
        self._lease = Lease(self.ledger, self.lease_seconds, self.clock, lambda: self.slots)
        self._claims = ClaimsInHand(self.ledger)
        self._pace = PrefetchSizer(self.slots, self.clock)
        self._jobs = jobs
        self._active = ActiveTransfers(self.engine, jobs, self.clock, traffic.note_end)

    def _build_transfers(self, jobs: MigrationCache) -> None:
        """Build what a slot uses to run a claim."""
        judge = RefusalJudge(jobs, self.clock, self._active.by_claim)
        self._failures = FailurePolicy(self.ledger, jobs, judge, self.ended)
        self._helped = HelpedUploads(
            ledger=self.ledger,
            active=self._active,
            over=self._over,
            clock=self.clock,
            moved=self._note_moved,
            only=self.only,
        )
        self._claim_runner = ClaimRunner(
            ledger=self.ledger,
            engine=self.engine,
            jobs=jobs,
            active=self._active,
            helped=self._helped,
            lease=self._lease,
            judge=judge,
            failures=self._failures,
            over=self._over,
            ended=self.ended,
            moved=self._note_moved,
        )

    def _build_services(self, jobs: MigrationCache, traffic: TrafficCounter) -> None:
        """Build the greenlets beside the poll and the slots."""
        self._lister = Lister(
            self.ledger,
            self.engine,
            jobs=jobs,
            over=self._over,
            found=self._wake.set,
            failed=self._note_trouble,
            only=self.only,
            is_alone=self._is_alone,
        )
        self._sweeper = OrphanSweeper(
            self.ledger, self.engine, jobs=jobs, over=self._over, only=self.only
        )
        self._reporter = RetryReporter(self.ledger, self._active, self._lister, self._note_trouble)
        self._live = LiveReporter(
            self.ledger.live, self._active, traffic, self._note_trouble, clock=self.clock
        )

    # -- the interface for other greenlets

    @property
    def active(self) -> Mapping[int, ActiveTransfer]:
        """The transfers that run in this process, by the id of their claim."""
        return self._active.by_claim

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._over.is_set()

    def stop(self) -> None:
        """Stop claiming, and hand back the running transfers within about a second. Then `run`
        returns."""
        self._over.set()
        self._active.cancel_all("this process stops")
        self._wake.set()
        self._hungry.set()

    def wake(self) -> None:
        """Poll now: a migration was accepted or changed."""
        self._wake.set()

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

    # -- the greenlets

    def run(self) -> None:
        """Work until `stop`, or until the `only` migration has ended. No claim is left behind; if
        the ledger does not answer, the claims expire with the lease. Raises LedgerFailed only
        before the first poll."""
        # Step 1: register. Claims of a worker that is not registered count as lost.
        self._lease.renew()
        self.ledger.leases.reclaim()
        self._set_slots(self.slots)
        # Step 2: the greenlets besides the poll.
        keep_lease = partial(
            self._lease.keep,
            self._stopped,
            lost=self._active.lose_lease,
            reclaimed=self._wake.set,
            failed=self._note_trouble,
        )
        report_retries = partial(self._reporter.run, self._stopped)
        tasks: list[Callable[[], None]]
        report_live = partial(self._live.run, self._stopped)
        tasks = [self._lister.run, self._sweeper.run, keep_lease, report_retries, report_live]
        if self.growth is not None:
            tasks.append(partial(self._adapt_slots, self.growth))
        others = [gevent.spawn(task) for task in tasks]
        # Step 3: poll until the end.
        try:
            while not self.stopping and not self._poll():
                self._wait_for_settlements()
        finally:
            # Step 4: end the slots, and only then the lease. Each slot takes one None, behind the
            # queued claims, which `ClaimRunner` hands back.
            self.stop()
            for _ in range(self._live_slots):
                self._queue.put(None)
            self._slot_greenlets.join()
            self._stopped.set()  # only now, so that the running transfers kept their lease
            gevent.joinall(others)
            self._leave()

    def _set_slots(self, slots: int) -> None:
        """Change the number of slots. A slot too many ends with its present transfer."""
        self.slots = self._pace.slots = slots
        while self._live_slots < slots:
            self._live_slots += 1
            self._slot_greenlets.spawn(self._work)

    def _adapt_slots(self, growth: SlotGrowth) -> None:
        """Let `growth` choose the number of slots until the worker stops."""
        while not self._over.wait(LOAD_SECONDS):
            slots = growth.note(self._load())
            # More slots need claims at once, and not when the present claims have ended.
            if slots != self.slots:
                self._set_slots(slots)
                self._wake.set()
                self._hungry.set()

    def _load(self) -> Load:
        return Load(
            objects=self._ended_objects,
            bytes=self._moved_bytes + self._active.moved_bytes,
            cpu_seconds=time.thread_time(),  # that of all greenlets
            complaints=self.engine.wire.complaints,
            failing=self._active.failing,
            is_full=self._is_full,
        )

    def _work(self) -> None:
        """Run one slot: queued claims, and help with queued part leases, until the worker stops or
        has a slot too many."""
        try:
            self._run_queued()
        finally:
            self._live_slots -= 1

    def _run_queued(self) -> None:
        while self._live_slots <= self.slots and (item := self._queue.get()) is not None:
            if self._queue.qsize() <= self._pace.low:
                self._hungry.set()
            claim, registration = item
            if isinstance(claim, PartLease):
                self._help(claim)
                continue
            try:
                end = self._claim_runner.run(claim, registration)
            except BaseException:  # this process ends
                self._note_end(Settlement(claim, TransferVerb.HAND_BACK))
                raise
            self._note_end(end)

    def _note_end(self, end: Settlement) -> None:
        self._ended_objects += end.verb != TransferVerb.HAND_BACK
        self._claims.add_settlement(end)
        self._wake.set()

    def _note_moved(self, count: int) -> None:
        self._moved_bytes += count
        self.moved(count)

    def _help(self, lease: PartLease) -> None:
        try:
            self._helped.help(lease)
        except LedgerFailed as error:
            self._note_trouble(error)
            self._claims.doubt()  # the ledger may still hold some parts for this worker
        finally:
            self._wake.set()

    def _leave(self) -> None:
        """Settle what has ended, and remove this worker from the ledger."""
        try:
            self._claims.settle_all()
            self.ledger.leases.leave()
            self._finish()
        except LedgerFailed as error:
            self.trouble = error

    # -- one poll

    def _wait_for_settlements(self) -> None:
        """Wait until a transfer has ended or a poll is due; then on, up to LONGEST_SECONDS, while
        enough claims are queued."""
        soon, late = IDLE_SECONDS
        self._idle = min(max(2 * self._idle, soon), late) if self._is_alone() else 0.0
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
            self._claims.release_unknown(self._helped.claims)
            claimed = self._settle_and_claim()
            if not claimed:
                self._join_upload()
            self._note_answer()
            idle = not claimed and self._is_alone()
            # An idle worker looks at once: the last settlement may have ended the migration.
            if not idle and self.clock() < self._look_at:
                return False
            return self._has_ended() and idle
        except LedgerFailed as error:
            self.trouble = error
            self._silent_since = self._silent_since or self.clock()
            # LedgerBusy changed nothing; after other errors a claim may have been committed.
            if not isinstance(error, LedgerBusy):
                self._claims.doubt()
            emit(LogEvent.LEDGER_FAILED, code=error.code, detail=error.message)
            gevent.sleep(LOOK_SECONDS)
            return False

    def _note_answer(self) -> None:
        self.trouble = None
        if self._silent_since is not None:
            seconds, self._silent_since = self.clock() - self._silent_since, None
            emit(LogEvent.LEDGER_BACK, seconds=round(seconds, 1))

    def _settle_and_claim(self) -> int:
        """Settle the ended claims, claim transfers, and apply pauses and limits; return the number
        of claims."""
        # The registration from before the poll: if the lease is lost during it, these claims may be
        # those of the earlier registration.
        began, registration = self.clock(), self._lease.registration
        ends = self._claims.settlements
        result = self._claims.settle_and_claim(
            ends, self._claim_request(), self.only, self._migrations()
        )
        self._pace.note_poll(len(ends), began)
        try:
            self._active.apply(result.standings)
            self._lister.apply(result.standings)
            self._live.apply(result.standings)
        finally:
            # Whatever happens, a stored claim needs a slot, which settles it.
            for claim in result.claims:
                self._queue.put((claim, registration))
        self._is_full = self._claims.running > self.slots
        return len(result.claims)

    def _migrations(self) -> set[str]:
        """Return the ids of the migrations that this process works on."""
        return self._claims.migrations() | self._active.migrations() | self._lister.migrations()

    def _claim_request(self) -> ClaimRequest:
        """Return the number of transfers to claim. Slots beyond the first number are for small
        objects: large ones have several connections each already."""
        busy = self._claims.running + len(self._helped.claims)
        room = 0 if self._runs_suspect() else self.slots + self._pace.ahead - busy
        # Half of the slots stay for small objects, as long as there are some.
        most = (self._large_slots + 1) // 2 - self._claims.large
        return ClaimRequest(
            all=room,
            large=most,
            only_large=self._large_slots - busy,
            alone=self._is_alone(),
            without=self._jobs.waiting(),
        )

    def _is_alone(self) -> bool:
        """Return whether this process has no claim and no part lease: a transfer that crashes it
        would affect no other."""
        return not self._claims.count and not self._helped.claims

    def _runs_suspect(self) -> bool:
        """Return whether a suspect transfer or listing runs here: then nothing else may start
        beside it."""
        return self._lister.is_suspect or self._claims.has_suspect

    def _join_upload(self) -> None:
        """Help with another worker's multipart upload, if a slot is free."""
        busy = self._claims.count + len(self._helped.claims)
        if busy >= self.slots or self.stopping or self._runs_suspect():
            return
        lease = self._helped.join()
        if lease is not None:
            self._queue.put((lease, self._lease.registration))

    def _has_ended(self) -> bool:
        """End the migrations that have no transfer left; return whether the `only` one is over."""
        self._look_at = self.clock() + LOOK_SECONDS
        self._finish()
        if self.only is None:
            return False
        found = self.ledger.migration(self.only)
        return found.state != MigrationState.RUNNING or found.is_at_rest

    def _finish(self) -> None:
        """End every migration that has no transfer left, and log each without secrets."""
        for migration in self.ledger.finish():
            self._jobs.forget(migration.id)
            log_end(migration)
