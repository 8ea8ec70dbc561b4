"""Deadlines, stalls and cancels of a transfer, checked at each wait.

Decided here: the stall rule, the total time, and how a cancel is seen. A pump and every wait for an
answer call `check_progress` (or `check`, where no bytes are expected) at least once a second. Never
here: waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Protocol

from relay.errors import Cancelled, RelayError, Side, Stalled, StoreTimeout
from relay.tallies import RouteTally
from relay.throttle import Throttle
from relay.transfer_limits import Limits

_TOTAL = (
    "Raise RELAY_TOTAL_SECONDS (in the terminal also --total-seconds). Uploaded parts are kept: the"
    " same command, or a retry, resumes with the rest."
)


class Countable(Protocol):
    """Something that counts bytes while they are read, such as a Body."""

    count: int


class Watchdog:
    """Counts the bytes of one transfer, and enforces its deadline, the stall rule and a cancel.

    `moved` counts the bytes of payload that were moved in all attempts.
    """

    def __init__(
        self, limits: Limits, clock: Callable[[], float] = monotonic, whole: Watchdog | None = None
    ) -> None:
        """Start the clocks. For a part of a transfer, `whole` is the transfer's watchdog; its
        cancel and its deadline apply to the part too."""
        self.limits, self.clock, self._whole = limits, clock, whole
        self.moved = 0
        self._started = self._moved_at = clock()
        self._seen = 0
        self._why: RelayError | None = None
        self.throttle: Throttle | None = None if whole is None else whole.throttle
        """The limits of the transfer's migration, if it has or may get some."""
        self.tally: RouteTally | None = None if whole is None else whole.tally
        """Where the requests and failures of this transfer or listing are counted, if they are."""
        self.proofs: tuple[Countable, ...] = ()
        """The bodies that are, or were, read back from the destination to prove the object."""
        self.committed = False
        """Whether a request that makes the object visible is under way: too late for an optional
        cancel. False again while a failed one waits for its retry."""
        self.borne: tuple[RelayError, int, float, float] | None = None
        """The failure that is being retried: the error, the number of failures, the time of the
        first and of the next attempt (seconds since 1970)."""
        self.listed_entries = 0
        """Number of entries that a listing has returned."""
        # A stall is noticed at the latest a quarter of its time late.
        self.tick_seconds = min(limits.tick_seconds, limits.stall_seconds / 4)
        self.restart()

    @classmethod
    def of_listing(cls, limits: Limits) -> Watchdog:
        """Return the watchdog of a listing, which may last longer than a transfer: each of its
        requests has limits of its own."""
        return cls(replace(limits, total_seconds=inf))

    def restart(self) -> None:
        """Begin a new window of the stall rule, for another body or another attempt."""
        self._window, self._window_moved = self.clock(), self.moved

    def exclude_wait(self, seconds: float) -> None:
        """Exclude a wait that neither side caused from the stall rule."""
        self._window += seconds

    def cancel(self, why: RelayError | None = None) -> None:
        """Make the next `check` or `check_progress` raise `why` (default: Cancelled). Called from
        another greenlet."""
        self._why = why or Cancelled("the transfer was cancelled")

    def bear(self, failure: tuple[RelayError, int, float, float] | None) -> None:
        """Set `borne`, of the whole too; None also there, unless it bears another part's
        failure."""
        if self._whole is not None and (failure is not None or self._whole.borne is self.borne):
            self._whole.bear(failure)
        self.borne = failure

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._why is not None

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return self.clock() - self._started

    @property
    def moved_at(self) -> float:
        """When the last byte moved, by the clock, to the nearest second."""
        if self.moved != self._seen:
            self._seen, self._moved_at = self.moved, self.clock()
        return self._moved_at

    def check(self) -> None:
        """Check for a cancel and the deadline. Raises the error of the cancel, or StoreTimeout."""
        if self._whole is not None:
            self._whole.check()
        if self._why is not None:
            raise self._why
        if self.seconds() >= self.limits.total_seconds:
            message = f"not done within {self.limits.total_seconds:g} s, the limit of a transfer"
            raise StoreTimeout(message, side="relay", retryable=False, hint=_TOTAL)

    def commit(self) -> None:
        """Check for the last time before the object becomes visible. Raises as `check`."""
        self.check()
        self.committed = True

    def check_progress(self, waiting_for: Side) -> None:
        """Check while bytes should move. Raises as `check`, and Stalled with side `waiting_for`."""
        self.check()
        now, limits = self.clock(), self.limits
        if self.moved != self._seen:
            self._seen, self._moved_at = self.moved, now
        if now - self._window < limits.stall_seconds:
            return
        moved = self.moved - self._window_moved
        if moved < max(1, limits.stall_bytes * limits.stall_seconds):
            raise Stalled(
                f"only {moved} bytes moved in {limits.stall_seconds:g} s, while waiting for this"
                " side",
                side=waiting_for,
            )
        self.restart()
