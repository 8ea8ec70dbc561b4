"""How long to wait before trying again.

Decided here: the waits. Never here: what is tried again (`engine/transfer.py`: a whole transfer with a fresh body,
and nothing else; law 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RETRY_AFTER_CEILING = 3600.0
"""The longest Retry-After that is honoured, in seconds."""


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter, within a budget of seconds since the first attempt began."""

    budget_seconds: float
    first_seconds: float = 0.25
    ceiling_seconds: float = 15.0

    def wait(
        self, attempt: int, elapsed: float, retry_after: float | None, random: Callable[[], float]
    ) -> float | None:
        """Return how long to wait after failed attempt number `attempt` (from 1), or None if the budget is spent.

        A store's Retry-After is the least that is waited, with up to a tenth more so that many don't come back in
        one moment; a Retry-After that goes beyond the budget ends the matter at once, as waiting for it in vain
        would hold a client.
        """
        step = min(self.ceiling_seconds, self.first_seconds * 2 ** (attempt - 1))
        wait = step * random()
        if retry_after is not None:
            wait = max(wait, min(max(retry_after, 0.0), RETRY_AFTER_CEILING) * (1 + 0.1 * random()))
        return wait if elapsed + wait < self.budget_seconds else None
