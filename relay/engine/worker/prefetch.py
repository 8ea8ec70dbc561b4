"""How far ahead of its slots a worker claims, and how long it collects settlements before the next
transaction.

Theory of operation. A turn at the ledger costs much the same for one object as for a hundred, and
while it writes every other runner waits: few turns and large ones are what lets two runners be
faster than one. So small objects are claimed as far ahead as they are moved in a fraction of a
second, and what has ended is gathered for as long, or until so little waits that it would not last
for another turn. Large objects are hardly claimed ahead at all: whoever has a free slot is to have
the next one, and not whoever came first.

Decided here: nothing but these two numbers, from what was seen of the last turns. Never here: what
is claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, exp
from time import monotonic
from typing import Final

GATHER_SECONDS: Final = 0.02
"""How long ended transfers are gathered, at least, before they are settled together."""
LONGEST_SECONDS: Final = 0.2
"""And at most, while there is enough to do."""
AHEAD: Final = 8
"""So many times the slots are claimed ahead at most: what is lost with a process counts against all
that it has."""
MEMORY_SECONDS: Final = 0.25
"""How long what was seen counts."""


@dataclass(eq=False)
class PrefetchSizer:
    """What the last turns were like: objects a second, and how long a turn takes, the wait for the
    lock included."""

    slots: int
    clock: Callable[[], float] = monotonic
    rate: float = 0.0
    seconds: float = 0.0
    _turned: float | None = None

    def note_poll(self, ended: int, began: float) -> None:
        """A turn is over that `began` at that time; it settled so many."""
        now = self.clock()
        since = now - self._turned if self._turned is not None else now - began
        self._turned = now
        weight = 1.0 - exp(-since / MEMORY_SECONDS) if self.rate else 1.0
        self.rate += weight * (ended / max(since, GATHER_SECONDS) - self.rate)
        self.seconds += weight * (now - began - self.seconds)

    @property
    def ahead(self) -> int:
        """How many to claim besides those that run: what lasts until the turn after the next is
        over."""
        return min(ceil(self.rate * (LONGEST_SECONDS + 3 * self.seconds)), AHEAD * self.slots)

    @property
    def low(self) -> int:
        """With so few waiting it is time for another turn: they just last for it."""
        return min(ceil(self.rate * 2 * self.seconds), self.ahead // 2)
