"""How far ahead of its slots a worker claims, and how long it collects settlements before the next
transaction.

Theory of operation. A poll of the ledger costs about the same for one object as for a hundred, and
every other worker waits while it writes. So few and large polls make two workers faster than one.
Small objects are claimed ahead for a fraction of a second. Settlements are collected for the same
time, or until the queued claims would only just last for another poll. Large objects are hardly
claimed ahead: the next one should go to the worker that has a free slot.

Decided here: these two numbers, from the last polls. Never here: which objects are claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from math import ceil, exp
from time import monotonic
from typing import Final

GATHER_SECONDS: Final = 0.02
"""Shortest time for which settlements are collected before they are written together."""
LONGEST_SECONDS: Final = 0.2
"""Longest such time, while enough claims are queued."""
AHEAD: Final = 8
"""Maximum number of claims ahead, as a multiple of the slots: a crash counts against every claim of
its process."""
MEMORY_SECONDS: Final = 0.25
"""Time constant of the moving averages."""


@dataclass(eq=False)
class PrefetchSizer:
    """Moving averages of the last polls: objects per second (`rate`), and the duration of a poll
    with its wait for the lock (`seconds`)."""

    slots: int
    clock: Callable[[], float] = monotonic
    _: KW_ONLY
    rate: float = 0.0
    seconds: float = 0.0
    ahead: int = 0
    """The number of claims to hold besides the running ones, which last until the poll after the
    next is over."""
    low: int = 0
    """The number of queued claims at which the next poll is due: they just last for it."""
    _turned: float | None = None

    def note_poll(self, ended: int, began: float) -> None:
        """Record a poll that `began` at a time of `clock` and settled `ended` transfers."""
        now = self.clock()
        since = now - self._turned if self._turned is not None else now - began
        self._turned = now
        # The averages are those of time, not of polls: a short interval changes them little.
        weight = 1.0 - exp(-since / MEMORY_SECONDS) if self.rate else 1.0
        self.rate += weight * (ended / max(since, GATHER_SECONDS) - self.rate)
        self.seconds += weight * (now - began - self.seconds)
        lasting = ceil(self.rate * (LONGEST_SECONDS + 3 * self.seconds))
        self.ahead = min(lasting, AHEAD * self.slots)
        self.low = min(ceil(self.rate * 2 * self.seconds), self.ahead // 2)
