"""Run one claimed transfer, from its claim to its settlement.

Theory of operation. The claim gives the transfer its plan, its hints and its journal. However the
transfer ends, there is a settlement: the ledger ignores that of a claim that is no longer ours.

Decided here: what a transfer gets from its claim, and what a bug in it means. Never here: how an
error is settled (`failure_policy.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import gevent
from gevent import GreenletExit
from gevent.event import Event

from relay.engine.outcome import Outcome
from relay.engine.transfer.donor import Donor, EqualContent
from relay.engine.transfer.names_under_way import NameUnderWay
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import error_members
from relay.engine.worker.active_transfers import ActiveTransfer, ActiveTransfers
from relay.engine.worker.claim_journal import ClaimJournal, NoteWriter
from relay.engine.worker.conversions import hand_back_unrun, hints_of_claim, settlement_of
from relay.engine.worker.failure_policy import FailurePolicy, hand_back
from relay.engine.worker.helped_uploads import HelpedUploads
from relay.engine.worker.lease import Lease
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.moved_contents import MovedContents, MovedObject, Turn
from relay.engine.worker.refusals import RefusalJudge
from relay.errors import LeaseLost, Leftover, RelayError
from relay.errors.bugs import bug
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.releases import MOST_CRASHES
from relay.ledger.states import TransferVerb

HELP_CHECK_SECONDS = 0.1
"""How often a transfer checks if this process has stopped helping with the same object."""
TWIN_SECONDS = 1.0
"""Delay of an object whose name the destination may fold into that of a running transfer."""
RIVAL_SECONDS = 30.0
"""Delay of an object whose name the destination may cut to that of a running transfer."""


@dataclass(eq=False, kw_only=True)
class ClaimRunner:
    """Runs the claimed transfers of one process, each in the greenlet that calls `run`."""

    ledger: Ledger
    engine: TransferEngine
    jobs: MigrationCache
    active: ActiveTransfers
    helped: HelpedUploads
    lease: Lease
    judge: RefusalJudge
    failures: FailurePolicy
    over: Event
    """Set when the process stops: then no transfer begins."""
    ended: Callable[[Claim, Outcome | RelayError], None]
    """Called with every transfer that succeeded, or that a bug failed for good."""
    moved: Callable[[int], None]
    """Called with the bytes that this process has moved of an object."""

    def __post_init__(self) -> None:
        """Start without notes."""
        self._notes = NoteWriter(self.ledger)
        self._contents = MovedContents()

    def run(self, claim: Claim, registration: int) -> Settlement:
        """Run the transfer of a claim that was made during that registration of the worker, and
        return its settlement."""
        try:
            return self._run(claim, registration)
        # A bug fails this object only.
        except (Exception, GreenletExit, gevent.Timeout) as error:  # noqa: BLE001
            return self._settle_bug(claim, None, error)
        finally:
            self._contents.leave(claim.migration_id, claim.name)

    def _run(self, claim: Claim, registration: int) -> Settlement:
        if self.over.is_set() or self.active.is_at_limit(claim.migration_id):
            return hand_back_unrun(claim)
        wait = self.judge.seconds_to_wait(claim)
        if wait:
            return hand_back_unrun(claim, wait=wait)
        self._await_end_of_help(claim)
        transfer: Transfer | None = None
        active: ActiveTransfer | None = None
        try:
            unlocated = self.jobs.settle_unlocated(claim)
            if unlocated is not None:
                return unlocated
            transfer = self.active.prepare(claim)
            transfer.known = hints_of_claim(claim)
            wait = self._enter(claim, transfer)
            if wait:
                return hand_back_unrun(claim, wait=wait)
            holds = partial(self.lease.holds, registration)
            transfer.journal = ClaimJournal(self.ledger, claim, sure=holds, notes=self._notes)
            # This greenlet is the slot: the claim must not fail because the engine's queue is full.
            transfer.admitted = True
            active = self.active.add(claim, transfer)
            try:
                outcome = self.engine.run(transfer)
            finally:
                self.active.remove(active)
        except LeaseLost as error:
            # The claim may be ours after all: it was made after this process was removed as lost
            # and before it registered again.
            return hand_back(claim, transfer, error)
        except RelayError as error:
            self.moved(transfer.moved_bytes if transfer else 0)
            stopped = self.over.is_set() or (active is not None and active.stopped)
            if isinstance(error, NameUnderWay) and not stopped:
                return hand_back(claim, transfer, error, wait=RIVAL_SECONDS)
            return self.failures.settle(claim, transfer, error, stopped=stopped)
        except (Exception, GreenletExit, gevent.Timeout) as error:  # noqa: BLE001
            return self._settle_bug(claim, transfer, error)
        return self._settle_success(active, transfer, outcome)

    def _await_end_of_help(self, claim: Claim) -> None:
        """Wait until the parts have ended that this process moves of the object as a helper."""
        # The ledger names the owner of a part by its worker, which is the same for both: to resume
        # the upload would release the helper's parts while they move. And one process moves at most
        # `parts_in_flight` parts of one object, so that a crash costs no more.
        while claim.id in self.helped.claims and not self.over.is_set():
            gevent.sleep(HELP_CHECK_SECONDS)

    def _enter(self, claim: Claim, transfer: Transfer) -> float:
        """Give the transfer what it has to know of other objects. Returns the seconds to wait while
        one of them is being moved, else 0. Raises LedgerFailed, LeaseLost."""
        if claim.twins and not self._enter_folded(claim, transfer):
            return TWIN_SECONDS
        return self._enter_content(claim, transfer) if transfer.plan.once else 0.0

    def _enter_folded(self, claim: Claim, transfer: Transfer) -> bool:
        """Give the transfer the places of the objects that the destination may store as this one.
        Returns False while one of them runs. Raises LedgerFailed, LeaseLost."""
        names = self.ledger.destinations.enter_folded(claim)
        if names is None:
            return False
        twins = self.jobs.locations_of(claim, names)
        transfer.known = replace(transfer.known, twins=twins)
        return True

    def _enter_content(self, claim: Claim, transfer: Transfer) -> float:
        """Give the transfer an object of equal content that the destination may copy, if this
        process has moved one. Returns the seconds to wait while one is being moved, else 0. Raises
        LedgerFailed."""
        store = transfer.plan.source.store
        content = EqualContent.of_listed(claim.size, claim.etag, claim.digests, store)
        if content is None:
            return 0.0
        turn = self._contents.enter(claim.migration_id, claim.name, content)
        if isinstance(turn, MovedObject):
            (place,) = self.jobs.locations_of(claim, (turn.name,))
            donor = Donor(
                name=turn.name,
                place=place,
                content=content,
                version=turn.receipt.destination,
                digests=turn.receipt.digests,
            )
            transfer.known = replace(transfer.known, donor=donor)
        elif content.is_of_etag:
            transfer.known = replace(transfer.known, needs_md5=True)
        if turn is Turn.WAIT:
            return self._contents.seconds_to_wait(claim.migration_id, content)
        return 0.0

    def _settle_success(
        self, active: ActiveTransfer, transfer: Transfer, outcome: Outcome
    ) -> Settlement:
        # Bytes that were read of a skipped object do not count as moved.
        self.moved(min(transfer.moved_bytes, outcome.bytes))
        self.ended(active.claim, outcome)
        claim = active.claim
        self._contents.note_verified(claim.migration_id, claim.name, outcome.receipt)
        self.judge.note_success(
            active,
            outcome,
            is_read=transfer.has_read_source,
            is_inspected=transfer.has_inspected,
        )
        return settlement_of(active.claim, outcome, transfer.resent)

    def _settle_bug(
        self, claim: Claim, transfer: Transfer | None, error: BaseException
    ) -> Settlement:
        """Return the settlement of a transfer that a bug ended, with a note of the object that may
        be at its destination. One that a kill or a timeout of its greenlet ended is tried again."""
        failure = bug(error)
        if transfer is not None and transfer.has_sent:
            failure.leave(Leftover.SENT, transfer.plan.destination, "nothing has proved it")
        end = replace(hand_back(claim, transfer, failure), error=error_members(failure))
        if not isinstance(error, Exception) and claim.attempts < MOST_CRASHES:
            return end
        self.ended(claim, failure)
        return replace(end, verb=TransferVerb.FAILED)
