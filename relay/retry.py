"""Backoff: how long to wait before the next attempt, and when to stop.

Decided here: the waits. Never here: which operations are retried (a whole transfer with a fresh
body, a part with its bytes still in memory, a page of a listing; law 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

RETRY_AFTER_CEILING = 3600.0
"""The longest Retry-After that is honoured, in seconds."""


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter, within a budget of seconds since the trouble began."""

    budget_seconds: float
    first_seconds: float = 0.25
    ceiling_seconds: float = 15.0

    def wait(
        self, attempt: int, elapsed: float, retry_after: float | None, random: Callable[[], float]
    ) -> float | None:
        """Return how long to wait after failed attempt number `attempt` (from 1), or None if the
        budget is spent.

        A store's Retry-After is the minimum, with up to a tenth more, so that not all clients
        return at the same moment. A Retry-After beyond the budget returns None at once, since a
        wait would hold the client for nothing."""
        step = min(self.ceiling_seconds, self.first_seconds * 2 ** min(attempt - 1, 30))
        wait = step * random()
        if retry_after is not None:
            wait = max(wait, min(max(retry_after, 0.0), RETRY_AFTER_CEILING) * (1 + 0.1 * random()))
        return wait if elapsed + wait < self.budget_seconds else None


@dataclass(eq=False)
class Patience:
    """The rest of the retry budget of one operation.

    The budget counts from the first failure, so an operation that ran well for hours has all of it.
    It is reset when an attempt gets farther than any before, by any byte. The time in which an
    attempt moves bytes does not count. So an operation that always fails at the same place ends,
    but only after several attempts."""

    backoff: Backoff
    random: Callable[[], float]
    clock: Callable[[], float]
    _: KW_ONLY
    failures: int = 0
    """Number of consecutive failures."""
    _reached: int = 0
    _spent: float = 0.0
    _waited: float = 0.0
    """When the last wait ended, by the clock."""

    def wait(self, reached: int, moved_at: float, retry_after: float | None) -> float | None:
        """Return how long to wait after an attempt that failed now, in seconds, or None if the
        budget is spent.

        The attempt got as far as byte `reached`, and moved its last byte at `moved_at` by the
        clock.
        """
        now = self.clock()
        if not self.failures or reached > self._reached:
            self.failures, self._spent = 0, 0.0
        else:
            # Only the time since the last byte counts here; the wait before the attempt was counted
            # when it began.
            self._spent += now - max(self._waited, min(moved_at, now))
        self._reached = max(self._reached, reached)
        self.failures += 1
        wait = self.backoff.wait(self.failures, self._spent, retry_after, self.random)
        if wait is not None:
            self._spent += wait
            self._waited = now + wait
        return wait

    def renew(self) -> None:
        """Reset the budget for another operation."""
        self.failures, self._reached, self._spent = 0, 0, 0.0
