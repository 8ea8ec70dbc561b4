"""Pauses in the work for an answer. A greenlet that computes holds up every transfer and every
other answer of its process, so a page with a hundred rows is not made in one piece, nor a report
with a million.

Decided here: how long a piece of such work takes. Never here: the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Final, TypeVar

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
