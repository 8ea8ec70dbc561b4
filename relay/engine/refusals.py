"""What it means that a store wants credentials for one object (401): is that the object's own, or everybody's?

Theory of operation. One protected object must not stop all others, and withdrawn credentials must not fail all that is
left. One such answer does not tell which it is, but the others do: an object that is refused waits a moment, and comes
again. Where a transfer that began after the refusal has ended well, the store knows the credentials, and the refusal is
the object's own. Where nobody gets through any more, it is everybody's, and the migration waits.

Decided here: that. Never here: who waits, and how (`claimer.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from relay.ledger.rows import Claim

PATIENCE: Final = 8
"""So many objects in a row are refused before it is everybody's: more would only knock at a closed door."""
AGAIN_SECONDS: Final = 1.0
"""How soon one that is refused comes again."""
KEPT: Final = 64
"""So many migrations are remembered."""

Key = tuple[str, int]
"""A migration, and which of its credentials."""


class Verdict(Enum):
    """What a refusal is."""

    OWN = "own"
    LATER = "later"
    """Nobody can tell yet."""
    ALL = "all"


@dataclass(eq=False)
class Refusals:
    """What this process has seen of them."""

    clock: Callable[[], float]
    _good: dict[Key, float] = field(default_factory=dict)
    _waiting: dict[Key, dict[int, float]] = field(default_factory=dict)

    def passed(self, claim: Claim, began: float) -> None:
        """Note that a transfer that began then has ended well."""
        key = (claim.migration_id, claim.renewed)
        self._good[key] = max(began, self._good.pop(key, -inf))
        if len(self._good) > KEPT:
            del self._good[next(iter(self._good))]

    def has_passed(self, claim: Claim) -> bool:
        """Say if any transfer has ended well with the credentials of this claim."""
        return (claim.migration_id, claim.renewed) in self._good

    def judge(self, claim: Claim, is_busy_since: Callable[[float], bool]) -> Verdict:
        """Judge the refusal of a claim. `is_busy_since` says if others of its migration, which began after a moment,
        are still under way."""
        key, now = (claim.migration_id, claim.renewed), self.clock()
        waiting = self._waiting.setdefault(key, {})
        first, good = waiting.setdefault(claim.id, now), self._good.get(key, -inf)
        if good > first:
            del waiting[claim.id]
            return Verdict.OWN
        in_a_row = sum(since > good for since in waiting.values())
        if in_a_row < PATIENCE and (first == now or is_busy_since(first)):
            return Verdict.LATER
        del self._waiting[key]
        return Verdict.ALL
