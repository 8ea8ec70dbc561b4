"""When a loop over a peer's bytes yields to the hub, checks its clocks, and waits for the throttle.

A fast socket never blocks, so a loop that reads it would starve every other greenlet of the worker.
Decided here: how often such a loop yields. Never here: what it reads."""

from __future__ import annotations

import os
from time import monotonic

import gevent

from relay.wire.stream import READ, Stream
from relay.wire.watchdog import Watchdog

_ALWAYS_READY = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def yield_to_hub() -> None:
    """Let every other greenlet, timer and socket of this hub run, then return.

    Not `gevent.sleep(0)`: that only queues behind the other callbacks, and the loop runs up to 50
    of them before it looks at its timers and sockets. Four pumps that take 4 ms each would hold up
    `/healthz` for 200 ms. Waiting for a descriptor that is always ready goes once around the whole
    loop, and never sleeps."""
    hub = gevent.get_hub()
    watcher = hub.loop.io(_ALWAYS_READY, READ)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


class YieldTimer:
    """Decides when a loop yields, and when it checks its clocks."""

    def __init__(self, meter: Watchdog) -> None:
        self.meter = meter
        now = monotonic()
        self._yield_at = now + meter.limits.yield_seconds
        self._tick_at = now + meter.tick_seconds

    def step(self, stream: Stream) -> None:
        """Call once a piece. Yields to the hub, and ticks, when it is time. Raises what the meter
        raises."""
        now = monotonic()
        if now >= self._tick_at:
            self.meter.check_progress(stream.side)
            self._tick_at = now + self.meter.tick_seconds
        if now >= self._yield_at:
            yield_to_hub()
            self._yield_at = monotonic() + self.meter.limits.yield_seconds

    def note_wait(self) -> None:
        """Record that a wait has let the others run."""
        self._yield_at = monotonic() + self.meter.limits.yield_seconds

    def allowance(self, wanted: int) -> int:
        """Return the number of the `wanted` bytes that may be read now, at least one; waits for the
        throttle. `note_spent` returns those that were not read. Raises what `Watchdog.check`
        raises."""
        throttle = self.meter.throttle
        if throttle is None:
            return wanted
        if throttle.bucket.rate is None:
            return wanted
        since = self.meter.clock()
        granted = throttle.take(wanted, self.meter.check, self.meter.tick_seconds)
        waited = self.meter.clock() - since
        if waited:
            self.meter.exclude_wait(waited)
            self.note_wait()
        return granted

    def note_spent(self, granted: int, count: int | None) -> None:
        """Note how many of the `allowance` bytes came (None: none yet)."""
        throttle = self.meter.throttle
        if throttle is not None and throttle.bucket.rate is not None:
            throttle.bucket.put_back(granted - (count or 0))
