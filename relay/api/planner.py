"""The greenlets of one server process that make plans: a dry run each, whose findings are written
to the ledger.

Theory of operation. A client's plan is a row, which any process of the server may claim. The
process that accepted it is woken at once; every process looks when it starts, and again every few
seconds as long as some plan is unmade, since the process that makes it may be killed. Else each
looks once a minute, since the process that accepted one may be gone. The findings are written once
a second; that write says too whether the plan was stopped, deleted, started or claimed by another
process, and its dry run ends then.

Decided here: who makes which plan, and how long. Never here: what a dry run finds
(`relay/engine/dry_run.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.pool import Pool

from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob, stored_request
from relay.engine.retries import listing_trouble
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import error_members
from relay.errors import ConfigError, LedgerFailed, RelayError
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Spec
from relay.ledger.plan_values import PlanClaim
from relay.ledger.plans import LEADS_ELSEWHERE, LEADS_ELSEWHERE_HINT
from relay.prices.price_list import Price, load_prices
from relay.sorting.spill import SpillSpace
from relay.views.dry_runs import plan_members, time_members
from relay.views.problems import bug
from relay.wire.yielding import yield_to_hub

ABREAST: Final = 4
"""Number of plans that one process makes at a time."""
SAMPLE: Final = 1000
"""Number of objects that a plan compares on both sides: all of a smaller tree."""
HELD_ROWS: Final = 10_000
"""Number of a listing's rows that are sorted in memory, in some milliseconds."""
NOTE_SECONDS: Final = 1.0
"""How often the findings are written."""
KILL_SECONDS: Final = 1.0
"""How long a dry run has to end once it is stopped. One that is inside a call into a mount that
hangs is left behind: nothing ends that."""
STOP_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 2.0
"""How often a process looks for plans whose process is gone."""
IDLE_SECONDS: Final = 60.0
"""How often it looks while it knows of no unmade plan: one read of an index."""


@dataclass(eq=False)
class Planner:
    """Makes the plans of one ledger in one process."""

    ledger: Ledger
    engine: TransferEngine
    sample: int = SAMPLE

    def __post_init__(self) -> None:
        """Start with nothing to do."""
        self._wake, self._stopped = Event(), Event()
        self._making: Any = Pool(ABREAST)

    @property
    def making(self) -> int:
        """The number of plans that this process makes now."""
        return ABREAST - int(self._making.free_count())

    def wake(self) -> None:
        """Look for plans now."""
        self._wake.set()

    def stop(self) -> None:
        """Hand back the plans that are being made, and take no more. Waits up to STOP_SECONDS for
        that."""
        self._stopped.set()
        self._wake.set()
        self._making.join(STOP_SECONDS)

    def run(self) -> None:
        """Make plans until `stop`."""
        while not self._stopped.is_set():
            self._wake.clear()
            self._wake.wait(self._start_due())

    def _start_due(self) -> float:
        """Start the plans that wait for a worker; return the seconds after which to look again."""
        try:
            while self._making.free_count():
                claim = self.ledger.plans.claim()
                if claim is None:
                    break
                self._making.spawn(self._make, claim)
            return LOOK_SECONDS if self.ledger.plans.is_unmade() else IDLE_SECONDS
        except LedgerFailed:
            return LOOK_SECONDS

    def _make(self, claim: PlanClaim) -> None:
        """Make one plan, and write its findings or why it has failed."""
        try:
            self._carry_out(claim)
        except RelayError as error:
            self._end(claim, {}, error)
        except Exception as error:  # noqa: BLE001 - else the plan would never end
            self._end(claim, {}, bug(error))

    def _carry_out(self, claim: PlanClaim) -> None:
        prices = load_prices(self.engine.settings.prices)
        findings = _Findings(lambda: self._dry_run(claim), prices=prices)
        running = gevent.spawn(findings.run)
        ends: Any = (running, self._stopped)
        try:
            while True:
                gevent.wait(ends, NOTE_SECONDS, count=1)
                if running.dead or self._stopped.is_set():
                    break
                if not self._note(claim, findings.members()):
                    break
        finally:
            running.kill(timeout=KILL_SECONDS)
        if findings.is_over:
            self._end(claim, self._with_time(claim, findings), findings.error)
        elif self._stopped.is_set():
            self._try(lambda: self.ledger.plans.hand_back(claim))

    def _dry_run(self, claim: PlanClaim) -> DryRun:
        """Return the dry run of a plan. Raises as MigrationRequest.locate; ConfigError if the plan
        now leads to other locations than when it was accepted; and EgressDenied."""
        order = stored_request(claim.plan, claim.secret)
        places = order.locate(self.engine.remotes)
        spec = order.spec_at(*places, self.engine.remotes)
        if not self._is_at(claim, spec):
            raise ConfigError(LEADS_ELSEWHERE, hint=LEADS_ELSEWHERE_HINT)
        for place in places:
            if place.host:
                self.engine.policy.check_name(place.host, place.port)
        job = MigrationJob.from_request(claim.plan.id, order, *places)
        limits = self.engine.limits
        settings = self.engine.settings
        space = SpillSpace(
            settings.spill_folder(),
            settings.spill_bytes,
            held_rows=HELD_ROWS,
            pause=yield_to_hub,
        )
        return DryRun(
            job,
            self.engine.stores,
            limits=limits,
            space=space,
            sample=self.sample,
            receipt_of=lambda name: self._receipt_of(spec, claim.plan.tenant, name),
        )

    def _receipt_of(self, spec: Spec, tenant: str, name: str) -> Mapping[str, Any] | None:
        """As DestinationLedger.receipt_of_spec; None while the ledger is away."""
        try:
            return self.ledger.destinations.receipt_of_spec(spec, tenant, name)
        except LedgerFailed:
            return None

    def _is_at(self, claim: PlanClaim, spec: Spec) -> bool:
        """As PlanLedger.is_at, however long the ledger is away."""
        while True:
            try:
                return self.ledger.plans.is_at(claim.plan, spec)
            except LedgerFailed:
                gevent.sleep(LOOK_SECONDS)

    def _note(self, claim: PlanClaim, report: Mapping[str, Any]) -> bool:
        """Write the findings so far; return whether the plan is still to be made."""
        try:
            return self.ledger.plans.note(claim, report)
        except LedgerFailed:
            return True  # the next write may succeed

    def _with_time(self, claim: PlanClaim, findings: _Findings) -> dict[str, Any]:
        """Return the findings at the end, with the time that the migration will need."""
        report = findings.members()
        if not report:
            return report
        measured: list[Any] = []
        with suppress(LedgerFailed):
            measured = self.ledger.plans.find_measured(claim.plan)
        return {**report, "time": time_members(report["decisions"], measured)}

    def _end(self, claim: PlanClaim, report: Mapping[str, Any], error: RelayError | None) -> None:
        """Write the end of a plan, however long the ledger is away."""
        why = None if error is None else error_members(error)
        while not self._try(lambda: self.ledger.plans.end(claim, report, why)):
            if self._stopped.wait(LOOK_SECONDS):
                return

    def _try(self, do: Callable[[], object]) -> bool:
        """Call `do`; return False if the ledger does not answer."""
        try:
            do()
            return True
        except LedgerFailed:
            return False


@dataclass(eq=False)
class _Findings:
    """A dry run, and how it ended. Finding its locations is a part of it: that may hang too."""

    begin: Callable[[], DryRun]
    _: KW_ONLY
    prices: Sequence[Price]
    dry_run: DryRun | None = None
    is_over: bool = False
    error: RelayError | None = None

    def run(self) -> None:
        """Run to the end, or until this greenlet is killed."""
        try:
            self.dry_run = self.begin()
            self.dry_run.run()
        except RelayError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a bug is shown as one
            self.error = bug(error)
        self.is_over = True

    def members(self) -> dict[str, Any]:
        """Return what was found so far, and the pending retry of the listing."""
        if self.dry_run is None:
            return {}
        waits = listing_trouble(self.dry_run.listing)
        retry = {} if waits is None or self.is_over else {"retry": waits.to_json()}
        return {**plan_members(self.dry_run, self.dry_run.report, self.prices), **retry}
