"""One transfer, from queued to settled: take a slot, run an attempt, retry while that may help.

Theory of operation. `Transfer.run` makes attempts until one succeeds, one fails for good, or the
budget of seconds is spent, which counts from when the trouble began. Each attempt starts from
nothing: a fresh head, a fresh body, a fresh upload; no byte of an earlier one is reused, but those
of parts that the journal has. Whatever ends an attempt, its body is closed, which breaks an upload
that was not whole.

Decided here: what is tried again (law 7), and when. Never here: what an attempt does (`course.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import random
from typing import Any

import gevent

from relay.config import Limits
from relay.engine.multipart.journal import Journal
from relay.engine.multipart.part_workers import RESTART_ERRORS, PartContext, pause
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Plan
from relay.engine.retries import WHOLE, PendingRetries, PendingRetry
from relay.engine.transfer.attempt import Attempt
from relay.engine.transfer.context import ObjectHints, TransferContext
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.readable_accounts import ReadableAccounts
from relay.errors import (
    Cancelled,
    CredentialsWithdrawn,
    IntegrityMismatch,
    LeaseLost,
    LedgerFailed,
    PermissionDenied,
    RelayError,
    SourceDigestWrong,
    StoreError,
)
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.retry import Backoff, Patience
from relay.stores.interfaces import ObjectInfo, StoreProvider
from relay.throttle import Slots
from relay.wire.watchdog import Watchdog

MAX_RESTARTS = 2
"""So often an object begins anew because its source became another version, or its upload was
thrown away. The budget of seconds is for what may pass; these may come after hours."""
RESUMABLE_ENDS = (Cancelled, CredentialsWithdrawn, LeaseLost, LedgerFailed)
"""Ends after which a later run resumes the object, where there is a journal: its leftovers are not
reported yet."""


@dataclass(eq=False)
class Transfer:
    """One object from one Location to another. Run it once, in a greenlet of its own or in the
    caller's.

    Others may read where it stands while it runs, and may call `cancel`.
    """

    id: str
    plan: Plan
    stores: StoreProvider
    slots: Slots
    limits: Limits
    backoff: Backoff
    random: Callable[[], float] = random
    sleep: Callable[[float], None] = gevent.sleep
    known: ObjectHints = ObjectHints()
    journal: Journal | None = None
    admitted: bool = False
    """It is not one of those who stand in line for a slot: whoever started it knows that one is
    free."""
    allowed: ReadableAccounts = field(default_factory=ReadableAccounts)

    def __post_init__(self) -> None:
        """Start the clocks."""
        self.meter = Watchdog(self.limits)
        self._progress = Progress()
        self._has_read = False  # bytes of the object: the text of a refusal is none of them
        self._undeclared: str | None = None
        """The digests of bytes of the source that do not have the one that it declares."""
        self._patience = Patience(self.backoff, self.random, self.meter.clock)
        self._troubles = PendingRetries()
        self._anew = 0

    # -- what others may see and do

    @property
    def phase(self) -> str:
        """What it is at: waiting, opening, copying, piping, verifying, settled."""
        return self._progress.phase

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1; 0 before the first."""
        return self._progress.attempt

    @property
    def bytes(self) -> int:
        """As Progress.bytes."""
        return self._progress.bytes

    @property
    def moved(self) -> int:
        """As Progress.moved."""
        return self._progress.moved

    @property
    def under_way(self) -> int:
        """As Progress.under_way."""
        return self._progress.under_way

    @property
    def total(self) -> int | None:
        """The object's length in bytes, None while it is unknown."""
        return self._progress.total

    @property
    def resent(self) -> int:
        """The bytes that were sent in vain, in all attempts."""
        return self._progress.resent

    @property
    def unsent(self) -> bool:
        """Whether it may be written down what was at the destination, and no byte has gone there
        after all."""
        return self._progress.noted and not self._progress.sendings

    @property
    def untouched(self) -> bool:
        """Whether no byte has gone to the destination, nor has any of a process before this one."""
        return not (self.known.begun or self._progress.sendings or self._progress.noted)

    @property
    def has_sent(self) -> bool:
        """Whether an attempt may have put something there, those of lost processes included."""
        return self._progress.sendings > 0

    @property
    def trouble(self) -> PendingRetry | None:
        """What of it is tried again, why, and when next; None while all goes well, or bytes move
        again."""
        worst, progress = self._troubles.worst, self._progress
        moves = progress.phase not in ("waiting", "opening") and progress.moved > 0
        return None if worst is not None and worst.what == WHOLE and moves else worst

    @property
    def frees_slot(self) -> bool:
        """As Progress.is_rid."""
        return self._progress.is_rid

    def progress(self) -> Mapping[str, Any]:
        """Return where the transfer stands, as plain values; with the `trouble`, while something is
        tried again."""
        trouble = self.trouble
        return {
            "id": self.id,
            "phase": self.phase,
            "bytes": self.bytes,
            "total": self.total,
            "attempt": self.attempt,
            "seconds": round(self.meter.seconds(), 3),
            **({"trouble": trouble.to_json()} if trouble is not None else {}),
        }

    def cancel(self, why: RelayError | None = None) -> None:
        """Let it end with `why` (Cancelled if none is given) within about a second."""
        self.meter.cancel(why)

    def part_context(self, place: Location, found: ObjectInfo, digested: bool) -> PartContext:
        """Return how parts of what was `found` go to `place`, for one who moves some of them and
        not the whole."""
        return self._context().part_context(place, found, digested)

    def _context(self) -> TransferContext:
        return TransferContext(
            self.id,
            self.plan,
            self.known,
            self.stores,
            self.limits,
            self.backoff,
            self.random,
            self.sleep,
            self.meter,
            self.journal,
            self._troubles,
            self._progress.remains,
        )

    # -- attempts

    def run(self) -> Outcome:
        """Make the transfer. Raises the last attempt's RelayError; nothing of ours is left then,
        but parts in the journal."""
        terms, before = self._context(), self.known.before
        if before is not None and before.assumed and terms.if_absent:
            before = None  # it would be written down
        self._progress.before, self._progress.sendings = before, int(before is not None)
        self._progress.remains.update(self.known.remains)
        if self.known.lapsed and self._may_show(terms, before):
            self._progress.unproved = (
                self.plan.destination
            )  # a piece may be there, until somebody has looked
        course = Attempt(terms, self._progress, self.allowed)
        try:
            while True:
                try:
                    return self._and_remains(self._attempt(course))
                except RelayError as failure:
                    error = self._classify_failure(failure)
                    error.keep(self._progress.remains)
                    self._progress.remains.update(error.remains)
                    if isinstance(error, PermissionDenied) and not error.retryable:
                        raise self._credentials_withdrawn(error) from None
                    self._wait_after(error)
        except RelayError as error:
            error.keep(self._progress.remains)  # a cancel between two attempts has none
            left = self._progress.unproved
            if left is not None and not (isinstance(error, RESUMABLE_ENDS) and self._is_noted()):
                error.leave("What was sent", left, "nothing has proved it")
            raise
        finally:
            self._progress.phase = "settled"
            self._troubles.over(WHOLE)

    def _is_noted(self) -> bool:
        """Write down that something of ours may be there, for whoever comes next: also for another
        migration, which may leave alone what is there. Return whether that is known: not without a
        journal, nor where the ledger is away."""
        noted = self._progress.to_note
        if self.journal is None:
            return False
        try:
            if noted is not None:
                self.journal.note(noted)
        except LeaseLost:
            pass  # another runner has the object, and counts this one as lost
        except LedgerFailed:
            return False
        return True

    def _may_show(self, terms: TransferContext, before: PriorState | None) -> bool:
        """Say if what a process sent that was lost may be seen at the object's own place. Where
        everything may be overwritten nobody notes that something goes there."""
        place = self.plan.destination
        if place.path.endswith("/") or place.method == "POST":
            return False
        if self.plan.if_exists is not IfExists.OVERWRITE:
            return before is not None and not before.assumed
        destination = self.stores.destination(place, self.meter)
        return not (
            terms.publishes_atomically(destination) or destination.staged_locations(place, "")
        )

    def _classify_failure(self, error: RelayError) -> RelayError:
        """Return a failure, or what it means: the same bytes twice that do not have the source's
        digest are no accident."""
        seen = (
            error.seen if isinstance(error, IntegrityMismatch) and error.side == "source" else None
        )
        if seen is None or seen != self._undeclared:
            self._undeclared = seen or self._undeclared
            return error
        wrong = SourceDigestWrong(f"{self.plan.source}, twice: {error.message}")
        wrong.keep(error.remains)
        return wrong

    def _and_remains(self, outcome: Outcome) -> Outcome:
        """Add what attempts before the last one left, and nobody has removed: not at the object's
        own place, where another thing is by now."""
        left = {
            place: text
            for place, text in self._progress.remains.items()
            if place != str(outcome.destination)
        }
        if not left:
            return outcome
        outcome, notes = replace(outcome, remains=left), tuple(left.values())
        if outcome.receipt is None:
            return replace(outcome, notes=(*outcome.notes, *notes))
        return replace(
            outcome, receipt=replace(outcome.receipt, notes=(*outcome.receipt.notes, *notes))
        )

    def _attempt(self, course: Attempt) -> Outcome:
        """Make one attempt while holding a slot; the slot is let go while we wait for the next."""
        progress = self._progress
        progress.phase = "waiting"
        with self.slots.slot(admitted=self.admitted or progress.attempt > 0, tick=self.meter.check):
            progress.begin_attempt()
            self.meter.committed = False
            try:
                return course.run()
            finally:
                self._has_read = self._has_read or progress.moved > 0
                progress.close()

    def _credentials_withdrawn(self, error: PermissionDenied) -> StoreError:
        """Return what a denial means: of one who was allowed before, that his credentials are not
        good any more.

        He was, if he has read some of the object, or parts of it have arrived. Without a journal
        nobody could go on."""
        if self.journal is None:
            return error
        written = self.journal.recorded_upload()
        allowed = (error.side == "source" and self._has_read) or bool(written and written.parts)
        if not allowed:
            return error
        withdrawn = CredentialsWithdrawn(
            error.message, side=error.side, store_status=error.store_status
        )
        withdrawn.keep(error.remains)
        return withdrawn

    def _wait_after(self, error: RelayError) -> None:
        """Wait before the next attempt, or raise `error` if there is to be none."""
        again = error.retryable and self.attempt and not isinstance(error, LedgerFailed)
        wait = self._wait(error) if again else None
        if wait is None:
            raise error
        self._progress.phase = "waiting"
        self.meter.check()  # a cancelled transfer is not tried again
        self._troubles.note(WHOLE, error, self._patience.failures, wait)
        pause(wait, self.meter, self.sleep)

    def _wait(self, error: RelayError) -> float | None:
        """Return how long to wait before the next attempt, in seconds, or None if there is to be
        none."""
        if isinstance(error, RESTART_ERRORS):
            self._anew += 1
            if self._anew > MAX_RESTARTS:
                return None
            self._patience.renew()
        return self._patience.wait(self._progress.bytes, self.meter.moved_at, error.retry_after)
