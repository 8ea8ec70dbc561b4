"""Clients that follow a migration: all clients of one migration share one query of its state, and
the number of those that wait for one answer is bounded. Streams are bounded by the connections of
their worker alone: a browser's EventSource gives up at a refusal.

Decided here: how many clients wait, how often the ledger is queried. Never here: the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from gevent.lock import BoundedSemaphore

from relay.ledger.rows import Migration


class PollAgain(Exception):
    """A wait ended without an event: query the ledger again."""


class Waiters:
    """The clients of this process that wait for a migration to end; at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.waiting = 0

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Take a place for the time of a `with` block; yield False if all places are taken."""
        if self.waiting >= self._most:
            yield False
            return
        self.waiting += 1
        try:
            yield True
        finally:
            self.waiting -= 1


class PollCache:
    """A cache of migrations: each is queried at most once in `seconds`, by all its clients."""

    def __init__(
        self,
        look: Callable[[str], Migration],
        seconds: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._look, self._seconds, self._clock = look, seconds, clock
        self._turn = BoundedSemaphore()
        self._seen: dict[str, tuple[float, Migration]] = {}

    def migration(self, id: str) -> Migration:
        """Return a migration as it was at most `seconds` ago. Raises as the ledger does."""
        found = self._cached_migration(id)
        if found is not None:
            return found
        with self._turn:
            # Another client may have queried it while this one waited for its turn.
            found = self._cached_migration(id)
            if found is None:
                found = self._look(id)
                # Drop old entries, or the cache would keep each migration that was ever followed.
                self._seen = {
                    other: seen for other, seen in self._seen.items() if self._is_fresh(seen[0])
                }
                self._seen[id] = self._clock(), found
        return found

    def _cached_migration(self, id: str) -> Migration | None:
        when, found = self._seen.get(id, (None, None))
        return found if when is not None and self._is_fresh(when) else None

    def _is_fresh(self, when: float) -> bool:
        return self._clock() - when < self._seconds
