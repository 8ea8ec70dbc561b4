"""The progress of a transfer as plain values, and its rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from relay.engine.transfer.transfer import Transfer

WINDOW_SECONDS = 5.0


class Rate:
    """The rate of a growing count, in bytes per second over the last `window_seconds`."""

    def __init__(
        self, clock: Callable[[], float] = monotonic, window_seconds: float = WINDOW_SECONDS
    ) -> None:
        self._clock, self._window = clock, window_seconds
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> float:
        """Record the current count; return the rate in bytes per second."""
        now = self._clock()
        self._seen.append((now, count))
        # One sample that is older than the window stays, so that the rate covers all of it.
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()
        since, before = self._seen[0]
        return (count - before) / (now - since) if now > since else 0.0


def progress_of(transfer: Transfer, rate: Rate) -> Mapping[str, Any]:
    """Return the progress of a transfer. Its `rate` is in bytes per second, with read-backs."""
    return {"trouble": None, **transfer.progress(), "rate": round(rate.add(transfer.meter.moved))}
