"""Deadlines, stalls and cancels of a transfer, checked at each wait.

Decided here: the stall rule, the total time, and how a cancel is seen. A pump and every wait for an
answer call `check_progress` (or `check`, where no bytes are expected) at least once a second. Never
here: waiting."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from relay.config import Limits
from relay.errors import Cancelled, RelayError, Side, Stalled, StoreTimeout
from relay.throttle import Throttle

_TOTAL = (
    "Raise RELAY_TOTAL_SECONDS (in the terminal also --total-seconds). What has arrived in parts is"
    " kept: the same command, or a retry, goes on with the rest."
)


class Watchdog:
    """Counts the bytes of one transfer as they move, and raises from `check_progress` when it must
    not go on.

    `moved` counts every byte of payload that was handed over, in all attempts.
    """

    def __init__(
        self, limits: Limits, clock: Callable[[], float] = monotonic, whole: Watchdog | None = None
    ) -> None:
        """Start the clocks. `whole` is the meter of the transfer that this one measures a part of:
        its cancel, and its total time, hold here too."""
        self.limits, self.clock, self._whole = limits, clock, whole
        self.moved = 0
        self._started = self._moved_at = clock()
        self._seen = 0
        self._why: RelayError | None = None
        self.throttle: Throttle | None = None if whole is None else whole.throttle
        """What holds the transfer back, where its migration has bounds, or may get some."""
        self.committed = False
        """What it measures may be seen by everybody from now on: whoever would only rather not have
        it is too late."""
        self.borne: tuple[RelayError, int, float, float] | None = None
        """What is tried again at the moment: why, how often it has failed, since when, and when
        next (since 1970)."""
        self.reported = 0
        """How many entries a listing has given."""
        self.tick_seconds = min(limits.tick_seconds, limits.stall_seconds / 4)
        self.restart()

    def restart(self) -> None:
        """Begin a new window of the stall rule: another body, or another attempt, starts to
        move."""
        self._window, self._window_moved = self.clock(), self.moved

    def exclude_wait(self, seconds: float) -> None:
        """Let the stall rule's clock stand still for a wait that neither side is to blame for."""
        self._window += seconds

    def cancel(self, why: RelayError | None = None) -> None:
        """Let the next `check_progress` raise `why` (Cancelled if none is given). From another
        greenlet."""
        self._why = why or Cancelled("the transfer was cancelled")

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
        """Look if we may go on where no bytes need move. Raises Cancelled, or StoreTimeout for the
        total."""
        if self._whole is not None:
            self._whole.check()
        if self._why is not None:
            raise self._why
        if self.seconds() >= self.limits.total_seconds:
            message = f"not done within {self.limits.total_seconds:g} s, the limit for all of it"
            raise StoreTimeout(message, side="relay", retryable=False, hint=_TOTAL)

    def commit(self) -> None:
        """Look for the last time before what can't be taken back. Raises as `check`."""
        self.check()
        self.committed = True

    def check_progress(self, waiting_for: Side) -> None:
        """As `check`, where bytes should move: raises Stalled too, blaming `waiting_for`."""
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
