"""Who may go now.

Decided here: how many transfers run, how many wait and how long. Never here: what a transfer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from gevent.lock import BoundedSemaphore

from relay.errors import Overloaded


class Slots:
    """So many transfers at a time, and a bounded line of those who wait.

    The slot belongs to the greenlet that holds the context open, and comes back however that ends (`GreenletExit`
    and `gevent.Timeout` included).
    """

    def __init__(self, slots: int, waiters: int, wait_seconds: float) -> None:
        """`slots` at a time; `waiters` more may wait, each at most `wait_seconds`."""
        self._semaphore = BoundedSemaphore(slots)
        self._slots, self._waiters, self._wait_seconds = slots, waiters, wait_seconds
        self.held = 0
        self.waiting = 0

    @contextmanager
    def slot(self, admitted: bool = False, tick: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold one slot. Raises Overloaded when the line is full, or the wait was too long; nothing is held then.

        `admitted` is for one that held a slot before: it waits outside the bounds, as long as `tick` lets it, which
        is called at least once a second and may raise.
        """
        self._acquire(admitted, tick)
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
            self._semaphore.release()

    def _acquire(self, admitted: bool, tick: Callable[[], None]) -> None:
        if self._semaphore.acquire(blocking=False):
            return
        if self.waiting >= self._waiters and not admitted:
            raise Overloaded(f"{self._slots} transfers run and {self.waiting} wait; the line is full", retry_after=5.0)
        deadline = monotonic() + self._wait_seconds
        self.waiting += 1
        try:
            while not self._semaphore.acquire(timeout=min(1.0, max(deadline - monotonic(), 0.01))):
                tick()
                if not admitted and monotonic() >= deadline:
                    raise Overloaded(f"no slot came free within {self._wait_seconds:g} s", retry_after=5.0)
        finally:
            self.waiting -= 1
