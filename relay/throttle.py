"""Who may go now.

Decided here: how many transfers run, how many wait and how long; how many requests one side of one store gets at a time
once it has asked us to slow down. Never here: what a transfer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import gevent
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


HOLD_CEILING = 60.0
"""The longest that everybody is held because of one Retry-After, in seconds."""
ROUND_SECONDS = 0.25
"""However fast a store answers, within so many seconds at most one more is let go: dozens of answers to HEAD say little
about how many uploads it bears."""
RELAXED = 256.0
"""From this limit on nobody is limited any more: the store has long stopped complaining."""


@dataclass(eq=False)
class Flow:
    """How many requests go to one side of one store at a time: additive increase, multiplicative decrease.

    Nobody is limited until the store says that it is too much (429, 503). Then half of those that were under way may
    go, nobody before the time that it named, and each round of answers without a complaint lets one more go. The
    complaints of one round halve once: all of them were sent before anybody knew. (RFC 5681 section 3 does so with
    segments.)
    """

    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], None] = gevent.sleep
    limit: float | None = None
    """None: nobody is limited."""
    under_way: int = 0
    _held_until: float = field(default=0.0, repr=False)
    _round: int = field(default=0, repr=False)
    _grown_at: float = field(default=0.0, repr=False)

    def enter(self, look: Callable[[], None], tick_seconds: float) -> int:
        """Wait for a turn, and return its round, which `leave` wants. `look` is called at least once a
        `tick_seconds`, and may raise: then nothing is held."""
        if self.limit is not None:
            while self._must_wait():
                self.sleep(min(tick_seconds, 0.05))
                look()
        self.under_way += 1
        return self._round

    def _must_wait(self) -> bool:
        if self.limit is None:
            return False
        return self.clock() < self._held_until or self.under_way >= max(1, int(self.limit))

    def leave(self, turn: int, complained: bool = False, retry_after: float | None = None) -> None:
        """Give the turn back, with what came of it."""
        under_way, self.under_way = self.under_way, self.under_way - 1
        if complained:
            if retry_after is not None:
                self._held_until = max(self._held_until, self.clock() + min(retry_after, HOLD_CEILING))
            if turn == self._round:
                self._round, self._grown_at = self._round + 1, self.clock()
                self.limit = max(1.0, min(self.limit or under_way, under_way) / 2)
        elif self.limit is not None and turn == self._round:
            now = self.clock()
            self.limit += min(1 / self.limit, (now - self._grown_at) / ROUND_SECONDS)
            self._grown_at = now
            if self.limit >= RELAXED:
                self.limit = None
