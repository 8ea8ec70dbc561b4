"""Who may go now.

Decided here: how many transfers run, how many wait and how long. Never here: what a transfer is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    def slot(self) -> Iterator[None]:
        """Hold one slot. Raises Overloaded when the line is full, or the wait was too long; nothing is held then."""
        self._acquire()
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
            self._semaphore.release()

    def _acquire(self) -> None:
        if self._semaphore.acquire(blocking=False):
            return
        if self.waiting >= self._waiters:
            raise Overloaded(
                f"{self._slots} transfers run and {self.waiting} wait; the line is full", retry_after=5.0
            )
        self.waiting += 1
        try:
            acquired = self._semaphore.acquire(timeout=self._wait_seconds)
        finally:
            self.waiting -= 1
        if not acquired:
            raise Overloaded(f"no slot came free within {self._wait_seconds:g} s", retry_after=5.0)
