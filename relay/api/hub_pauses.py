"""Pauses in the work for an answer. A greenlet that computes holds up every transfer and every
other answer of its process, so a page with a hundred rows is not made in one piece, nor a report
with a million; and of many answers that begin together, each begins for itself.

Decided here: how long a piece of such work takes. Never here: the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Final, TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from relay.wire.yielding import yield_to_hub

WORK_SECONDS: Final = 0.004
"""How long a greenlet works for an answer before it lets the others run."""
T = TypeVar("T")


class HubPauses:
    """Decides when the work for one answer lets the other greenlets run."""

    def __init__(
        self,
        seconds: float = WORK_SECONDS,
        clock: Callable[[], float] = monotonic,
        pause: Callable[[], None] = yield_to_hub,
    ) -> None:
        """The first step pauses: nothing is known about the work before it."""
        self._seconds, self._clock, self._pause = seconds, clock, pause
        self._until = float("-inf")

    def step(self) -> None:
        """Call after each small step of the work. Lets the others run when it is time."""
        if self._clock() >= self._until:
            self._pause()
            self._until = self._clock() + self._seconds

    def between(self, values: Iterable[T]) -> Iterator[T]:
        """Yield the values, with a step before each."""
        for value in values:
            self.step()
            yield value


class Stagger:
    """Lets greenlets that come together go on one after the other, at least `seconds` apart. The
    hub runs up to fifty greenlets that are ready before it looks at its timers and sockets."""

    def __init__(
        self,
        seconds: float = WORK_SECONDS,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], None] = gevent.sleep,
    ) -> None:
        """The first one goes on at once."""
        self._seconds, self._clock, self._sleep = seconds, clock, sleep
        self._next = float("-inf")
        self._turn = BoundedSemaphore()

    def wait(self) -> None:
        """Wait until this greenlet may go on."""
        # One sleeps at a time. If each slept until its own moment, a late hub would wake many.
        with self._turn:
            left = self._next - self._clock()
            if left > 0:
                self._sleep(left)
            self._next = self._clock() + self._seconds
