"""One transfer, from queued to settled: take a slot, run an attempt, retry while that may help.

Theory of operation. `Transfer.run` makes attempts until one succeeds, one fails permanently, or the
retry budget (in seconds since the first failure) is spent. Each attempt starts from nothing: a new
HEAD, a new body, a new upload. It reuses no byte of an earlier attempt, except the parts in the
journal. However an attempt ends, its body is closed, which breaks an incomplete upload.

Decided here: which failures are retried (law 7), and when. Never here: the steps of an attempt
(`attempt.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import random
from typing import Any

import gevent

from relay.engine.multipart.journal import Journal
from relay.engine.multipart.part_workers import RESTART_ERRORS, PartContext, pause
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Plan
from relay.engine.retries import WHOLE, PendingRetries, PendingRetry
from relay.engine.transfer.attempt import Attempt
from relay.engine.transfer.context import ObjectHints, TransferContext
from relay.engine.transfer.finalize import ReadableAccounts, UnseenObject
from relay.engine.transfer.names_under_way import NamesUnderWay
from relay.engine.transfer.progress import Phase, Progress
from relay.engine.transfer.target import Target
from relay.errors import (
    Cancelled,
    CredentialsWithdrawn,
    DestinationLost,
    IntegrityMismatch,
    LeaseLost,
    LedgerFailed,
    Leftover,
    PermissionDenied,
    RelayError,
    SourceDigestWrong,
    StoreError,
    remaining,
)
from relay.ledger.prior_state_values import PriorState
from relay.location import Location
from relay.retry import Backoff, Patience
from relay.stores.interfaces import ObjectInfo, StoreProvider
from relay.tallies import Carried
from relay.throttle import Slots
from relay.transfer_limits import Limits
from relay.wire.capabilities import CapabilityCache
from relay.wire.watchdog import Watchdog

MAX_RESTARTS = 2
"""Maximum number of restarts from the first byte after the source changed or the upload was
aborted. The retry budget does not limit these: it is for transient failures, and a restart may
happen after hours."""
RESUMABLE_ENDS = (Cancelled, CredentialsWithdrawn, LeaseLost, LedgerFailed)
"""Failures after which a later run resumes the object, if there is a journal. Its leftovers are not
reported yet."""


@dataclass(eq=False, kw_only=True)
class Transfer:
    """Moves one object from one Location to another. Call `run` once, in any greenlet; and once
    more after a skip, if the ledger knows more of the object by then (`known`).

    Other greenlets may read its progress and call `cancel` meanwhile.
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
    """True: the limits of the slot queue do not apply, since the caller limits its transfers."""
    allowed: ReadableAccounts = field(default_factory=ReadableAccounts)
    memory: CapabilityCache = field(default_factory=CapabilityCache)
    names: NamesUnderWay = field(default_factory=NamesUnderWay)

    def __post_init__(self) -> None:
        """Start the clocks."""
        self.meter = Watchdog(self.limits)
        self._progress = Progress()
        self._has_read = False  # bytes of the object itself, not of an error's text
        self._mismatched_digests: str | None = None
        """The computed digests of the last source bytes that did not match the declared digest."""
        self._patience = Patience(self.backoff, self.random, self.meter.clock)
        self._pending_retries = PendingRetries()
        self._restarts = 0
        self._has_compared_unseen = False
        self.counted = Carried()
        """What the engine has added to its tallies so far."""

    # -- the interface for other greenlets

    @property
    def phase(self) -> Phase:
        """The current phase."""
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
    def moved_bytes(self) -> int:
        """As Progress.moved_bytes."""
        return self._progress.moved_bytes

    @property
    def under_way(self) -> int:
        """As Progress.under_way."""
        return self._progress.under_way

    @property
    def carried_bytes(self) -> Carried:
        """As Progress.carried_bytes, and the bytes that were read back."""
        proved = sum(body.count for body in self.meter.proofs)
        return self._progress.carried_bytes._replace(read_back=proved)

    @property
    def total(self) -> int | None:
        """The object's length in bytes, None while it is unknown."""
        return self._progress.total

    @property
    def part_counts(self) -> tuple[int, int] | None:
        """How many parts the destination has, and the object's number of parts; None for an object
        that is not moved in parts."""
        parts = self._progress.parts
        return parts.part_counts if parts is not None else None

    @property
    def resent(self) -> int:
        """The bytes that had to be sent again, or will have to be, in all attempts."""
        return self._progress.resent

    @property
    def unsent(self) -> bool:
        """True if the journal may have the prior state of the destination, and yet no byte was
        sent."""
        return self._progress.noted and not self._progress.sendings

    @property
    def has_sent_nothing(self) -> bool:
        """True if neither this process nor an earlier one has sent a byte to the destination."""
        return not (self.known.begun or self._progress.sendings or self._progress.noted)

    @property
    def has_sent(self) -> bool:
        """True if an attempt may have stored something, including attempts of crashed processes."""
        return self._progress.sendings > 0

    @property
    def has_read_source(self) -> bool:
        """True if the source has described or opened the object."""
        return self._progress.source_answered

    @property
    def has_inspected(self) -> bool:
        """True if the destination has answered an inspection of the place."""
        return self._progress.answered

    @property
    def place(self) -> str:
        """The object's location as it is printed; that of its folder, until its source has named
        it and an attempt sends it."""
        before = self._progress.before
        named = before.place if before is not None else None
        return named or str(self.plan.destination)

    @property
    def trouble(self) -> PendingRetry | None:
        """The pending retry that has lasted longest; None without one, or once bytes move again."""
        worst, progress = self._pending_retries.worst, self._progress
        if worst is not None and worst.what == WHOLE:
            moves = progress.phase not in ("waiting", "opening") and progress.moved_bytes > 0
            return None if moves else worst
        return worst

    @property
    def frees_slot(self) -> bool:
        """As Progress.is_rid."""
        return self._progress.is_rid

    def progress(self) -> Mapping[str, Any]:
        """Return the progress as JSON values, with `trouble` while a retry is pending."""
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
        """Make `run` raise `why` (default: Cancelled) within about a second."""
        self.meter.cancel(why)

    def part_context(self, place: Location, found: ObjectInfo, digested: bool) -> PartContext:
        """Return the context of part transfers from the version `found` to `place`, for a worker
        that helps with some parts only."""
        return self._context().part_context(place, found, digested)

    def _context(self) -> TransferContext:
        return TransferContext(
            id=self.id,
            plan=self.plan,
            known=self.known,
            stores=self.stores,
            limits=self.limits,
            backoff=self.backoff,
            random=self.random,
            sleep=self.sleep,
            meter=self.meter,
            journal=self.journal,
            troubles=self._pending_retries,
            memory=self.memory,
            names=self.names,
            remains=self._progress.remains,
        )

    # -- attempts

    def run(self) -> Outcome:
        """Move the object. Raises the last attempt's RelayError. On failure nothing of ours is left
        at the destination, except the parts in the journal and the leftovers that the error
        names."""
        context, before = self._context(), self.known.before
        if before is not None and before.assumed and self.plan.if_exists.only_if_absent:
            before = None  # an assumption must not become a note in the journal
        # A recorded prior state means that an earlier process was about to send bytes.
        self._progress.before, self._progress.sendings = before, int(before is not None)
        self._progress.remains.update(self.known.remains)
        if self.known.after_crash and self.plan.destination.method == "POST":
            # No attempt replaces it.
            place = str(self.plan.destination)
            why = "a process crashed while it sent the object"
            self._progress.remains.setdefault(place, remaining(Leftover.SENT, place, why))
        if self.known.after_crash and self._may_show(context, before):
            self._progress.unproved = (
                self.plan.destination
            )  # an unproved object may be there, until an attempt has inspected the place
        attempt = Attempt(context, self._progress, self.allowed)
        try:
            while True:
                try:
                    return self._add_remains(self._run_attempt(attempt))
                except RelayError as failure:
                    error = self._classify_failure(failure)
                    if self.meter.tally is not None:
                        self.meter.tally.note_failure(error)
                    error.keep(self._progress.remains)
                    self._progress.remains.update(error.remains)
                    if isinstance(error, PermissionDenied) and not error.retryable:
                        raise self._classify_denial(error) from None
                    self._wait_after(error)
        except RelayError as error:
            error.keep(self._progress.remains)  # a cancel between two attempts has no leftovers yet
            left = self._progress.unproved
            if left is not None and not (
                isinstance(error, RESUMABLE_ENDS) and self._note_unproved()
            ):
                # The one that is there may be the only object, so it must not be taken for ours.
                is_lost = isinstance(error, DestinationLost)
                why = "the one there may be from before" if is_lost else "nothing has proved it"
                error.leave(Leftover.SENT, left, why)
            raise
        finally:
            self._progress.phase = "settled"
            self._pending_retries.over(WHOLE)

    def _note_unproved(self) -> bool:
        """Note in the journal that an unproved object of ours may be at the destination, so that
        the next attempt, or another migration, does not skip it. Return whether it is noted: False
        without a journal, or while the ledger is unavailable."""
        noted = self._progress.to_note
        if self.journal is None:
            return False
        try:
            if noted is not None:
                self.journal.note(noted)
        except LeaseLost:
            pass  # another worker has the object, and treats this attempt as crashed
        except LedgerFailed:
            return False
        return True

    def _may_show(self, context: TransferContext, before: PriorState | None) -> bool:
        """Return whether a crashed process may have left an object at the object's own place:
        partial, or complete and unproved. The journal has no note of that with if_exists=overwrite,
        or where the prior state was assumed."""
        place = self.plan.destination
        if place.path.endswith("/") or place.method == "POST":
            return False
        is_assumed = before is not None and before.assumed
        if self.plan.if_exists is not IfExists.OVERWRITE and not is_assumed:
            return before is not None
        target = Target(context)
        target.reset()
        return target.shows_unproved

    def _classify_failure(self, error: RelayError) -> RelayError:
        """Return the failure, or SourceDigestWrong: if two reads return the same bytes, and they do
        not match the source's digest, the digest is wrong and not the transfer."""
        seen = (
            error.seen if isinstance(error, IntegrityMismatch) and error.side == "source" else None
        )
        if seen is None or seen != self._mismatched_digests:
            self._mismatched_digests = seen or self._mismatched_digests
            return error
        wrong = SourceDigestWrong(f"{self.plan.source}, twice: {error.message}")
        wrong.keep(error.remains)
        return wrong

    def _add_remains(self, outcome: Outcome) -> Outcome:
        """Add the leftovers of earlier attempts to the outcome. Those at the object's own place are
        omitted, since the object has replaced them, unless each attempt creates another one."""
        is_post = self.plan.destination.method == "POST"
        left = {
            place: text
            for place, text in self._progress.remains.items()
            if is_post or place != str(outcome.destination)
        }
        if not left:
            return outcome
        outcome, notes = replace(outcome, remains=left), tuple(left.values())
        if outcome.receipt is None:
            return replace(outcome, notes=(*outcome.notes, *notes))
        return replace(
            outcome, receipt=replace(outcome.receipt, notes=(*outcome.receipt.notes, *notes))
        )

    def _run_attempt(self, attempt: Attempt) -> Outcome:
        """Run one attempt while holding a slot. The slot is free during the wait for the next."""
        progress = self._progress
        progress.phase = "waiting"
        # A retry has waited in the queue before, so it is not refused there.
        with self.slots.slot(admitted=self.admitted or progress.attempt > 0, tick=self.meter.check):
            progress.begin_attempt()
            try:
                return attempt.run()
            finally:
                # No request is under way any longer, so a cancel counts again.
                self.meter.committed = False
                self._has_read = self._has_read or progress.moved_bytes > 0
                progress.close()

    def _classify_denial(self, error: PermissionDenied) -> StoreError:
        """Turn a 403 into CredentialsWithdrawn if the same credentials worked earlier in this
        transfer: bytes of the object were read, or parts of it were acknowledged.

        Without a journal nothing could be resumed, so the 403 stays as it is."""
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
        """Wait before the next attempt. Raises `error` if it is not retried, and Cancelled."""
        # Without an attempt it is Overloaded, from the wait for a slot: the client tries again.
        again = error.retryable and self.attempt and not isinstance(error, LedgerFailed)
        wait = self._next_wait(error) if again else None
        if wait is None:
            raise error
        self._progress.phase = "waiting"
        self.meter.check()  # a cancelled transfer is not retried
        self._pending_retries.note(WHOLE, error, self._patience.failures, wait)
        if self.meter.tally is not None:
            self.meter.tally.note_retry("transfer", error)
        pause(wait, self.meter, self.sleep)

    def _next_wait(self, error: RelayError) -> float | None:
        """Return the seconds to wait before the next attempt, or None if `error` is final."""
        if isinstance(error, RESTART_ERRORS):
            self._restarts += 1
            if self._restarts > MAX_RESTARTS:
                return None
            self._patience.renew()
        wait = self._patience.wait(self._progress.bytes, self.meter.moved_at, error.retry_after)
        if wait is None and isinstance(error, UnseenObject) and not self._has_compared_unseen:
            # No store has failed: another command came first. So this costs no budget.
            self._has_compared_unseen, wait = True, 0.0
        return wait
