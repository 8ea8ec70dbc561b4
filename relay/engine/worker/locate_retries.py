"""Retry to find the locations of migrations whose credentials can't be read for the moment.

Theory of operation. A remote may take its credentials from a program, a role or the machine itself
(IMDS), and each of these may be late when a machine starts. So a migration whose locations could
not be found is tried again, with backoff, within the retry budget. Meanwhile nothing of it is
claimed here: the migrations of other stores go on.

Decided here: when the next attempt is due. Never here: which errors may pass (`ConfigError`'s
`retryable`), and the pause after the last attempt (`migration_cache.py`)."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from random import random as any_random
from time import monotonic, time

from relay.engine.retries import PendingRetry
from relay.errors import RelayError
from relay.ledger.retried import LOCATING
from relay.retry import Backoff

SPENT_SECONDS = 1.0
"""How long the last error of a migration that is given up is raised again, so that the claims that
wait with it do not each repeat the attempt."""
FORGET_SECONDS = 600.0
"""How long after its next attempt was due a failure is forgotten."""


@dataclass(frozen=True, kw_only=True)
class _LocateFailure:
    """The failure to locate a migration that is tried again."""

    error: RelayError
    renewed: int
    """The number of the credentials that could not be read."""
    failures: int
    since: float
    """When the first attempt failed, by the clock."""
    again: float
    """When the next one is due, by the clock."""
    is_spent: bool = False
    """Whether the budget is spent: the migration is paused."""


class LocateRetries:
    """The migrations of one process whose locations are tried again, until `budget_seconds` after
    the first failure."""

    def __init__(
        self,
        budget_seconds: float,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = any_random,
    ) -> None:
        """Start without failures."""
        self._backoff = Backoff(budget_seconds)
        self._clock, self._random = clock, random
        self._troubles: dict[str, _LocateFailure] = {}

    def waiting(self) -> frozenset[str]:
        """Return the ids of the migrations whose next attempt is not due yet."""
        now = self._clock()
        return frozenset(id for id, trouble in self._troubles.items() if now < trouble.again)

    def error_of(self, id: str, renewed: int) -> RelayError | None:
        """Return the last error of a migration whose next attempt is not due yet, or None. Newer
        credentials than those that failed, by their number `renewed`, are due at once."""
        trouble = self._troubles.get(id)
        if trouble is None or self._clock() >= trouble.again or renewed > trouble.renewed:
            return None
        return copy(trouble.error)  # each caller adds its own traceback and notes

    def seconds_left(self, id: str) -> float | None:
        """Return the seconds until the next attempt, or None if there is none."""
        trouble = self._troubles.get(id)
        if trouble is None or trouble.is_spent:
            return None
        return max(0.0, trouble.again - self._clock())

    def note_failure(self, id: str, renewed: int, error: RelayError) -> PendingRetry | None:
        """Note that an attempt has failed. Return the next one, or None if a retry does not help or
        the budget is spent."""
        now = self._clock()
        # One that nothing was claimed of since, as a cancelled one, is forgotten.
        self._troubles = {
            name: one for name, one in self._troubles.items() if now - one.again < FORGET_SECONDS
        }
        before = self._troubles.pop(id, None)
        if not error.retryable:
            return None
        if before is None or before.is_spent or renewed > before.renewed:
            failures, since = 1, now
        else:
            failures, since = before.failures + 1, before.since
        wait = self._backoff.wait(failures, now - since, error.retry_after, self._random)
        self._troubles[id] = _LocateFailure(
            error=error,
            renewed=renewed,
            failures=failures,
            since=since,
            again=now + (SPENT_SECONDS if wait is None else wait),
            is_spent=wait is None,
        )
        if wait is None:
            return None
        return PendingRetry(
            what=LOCATING,
            code=error.code,
            side=error.side,
            detail=error.message,
            failures=failures,
            since=time() - (now - since),
            again=time() + wait,
        )

    def end(self, id: str) -> bool:
        """Note that an attempt has succeeded, or that the migration is over. Return whether earlier
        attempts had failed."""
        return self._troubles.pop(id, None) is not None
