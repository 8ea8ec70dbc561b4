"""Read the meters of one process: its slots, connections and memory, and the bytes that have moved
since the last reading.

Decided here: which number of the engine a metric shows. Never here: files and Prometheus."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from time import monotonic

import gevent

from relay.engine.transfer_engine import ByteMover, TransferEngine
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.tallies import OTHER, Labels

READ_SECONDS = 1.0
"""How often the meters are read."""
TICK_SECONDS = 0.1
"""How often a timer shows whether the hub is late."""
BLOCKED_SECONDS = 1.0
"""How late a timer is at least that the log names."""
FILES_EVERY = 5
"""The open files are counted at every fifth reading: there may be ten thousand."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Gauges = Mapping[str, Mapping[Labels, float]]
"""Values of gauges, by the metric's name and the values of its labels."""


class Readings:
    """The meters of one process. `moving` returns what moves bytes besides the engine's running
    transfers."""

    def __init__(
        self, engine: TransferEngine, moving: Callable[[], Iterable[ByteMover]] = tuple
    ) -> None:
        """Nothing is read yet."""
        self._engine, self._moving = engine, moving
        self._count, self._files = 0, 0

    def take(self) -> Gauges:
        """Read the gauges, and add what has moved to the engine's tallies."""
        engine, tallies = self._engine, self._engine.tallies
        for one in {*engine.running, *self._moving()}:
            engine.count(one)
        used = os.times()
        tallies.worker_cpu_seconds[()] = used.user + used.system
        if self._count % FILES_EVERY == 0:
            self._files = _open_files()
        self._count += 1
        slots = engine.slots
        return {
            "workers": {(): 1},
            "draining": {(): float(engine.draining)},
            "worker_resident_bytes": {(): _resident_bytes()},
            "worker_open_fds": {(): self._files},
            "slots": {
                ("held",): slots.held,
                ("free",): engine.settings.slots - slots.held,
                ("waiting",): slots.waiting,
            },
            "store_connections": self._connections(),
            "streams": {(): tallies.open_streams},
        }

    def _connections(self) -> dict[Labels, float]:
        """Return the connections in use, allowed and idle, by remote and side."""
        idle = self._engine.wire.pool.idle_counts()
        found: defaultdict[Labels, float] = defaultdict(float)
        limits: defaultdict[tuple[str, str], float] = defaultdict(float)
        for origin, side, limiter in self._engine.wire.limiters():
            remote = limiter.remote or OTHER
            found[remote, side, "in_use"] += limiter.under_way
            found[remote, side, "idle"] += idle[origin, side]
            # Without a complaint of the store nothing but the slots limits them.
            limits[remote, side] += inf if limiter.limit is None else max(1, int(limiter.limit))
        for (remote, of), limit in limits.items():
            found[remote, of, "allowed"] = limit
        return dict(found)

    def watch_hub(self) -> None:
        """Measure how late a timer fires, until this greenlet is killed."""
        while True:
            due = monotonic() + TICK_SECONDS
            gevent.sleep(TICK_SECONDS)
            late = max(0.0, monotonic() - due)
            self._engine.tallies.hub_late_seconds[()].add(late)
            if late > BLOCKED_SECONDS:
                emit(LogEvent.HUB_BLOCKED, seconds=round(late, 2))


def _resident_bytes() -> int:
    """Return the resident memory of this process (proc_pid_statm(5)); 0 without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _open_files() -> int:
    """Return the number of open descriptors of this process; 0 without /proc."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
