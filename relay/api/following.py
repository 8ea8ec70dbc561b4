"""Clients that follow a migration: a bounded number waits, and one look serves all of one
migration.

Decided here: how many wait, how often the ledger is asked. Never here: what they are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from gevent.lock import BoundedSemaphore

from relay.ledger.rows import Migration


class LookAgain(Exception):
    """Nothing came in time: it is time for the next look."""


class Waiters:
    """The clients of this process that wait for an end; at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.waiting = 0

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Hold a place meanwhile, and yield whether there was one."""
        had = self.waiting < self._most
        self.waiting += had
        try:
            yield had
        finally:
            self.waiting -= had


class Looks:
    """Looks at migrations, each at most once in `seconds`, however many clients follow it."""

    def __init__(
        self,
        look: Callable[[str], Migration],
        seconds: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._look, self._seconds, self._clock = look, seconds, clock
        self._turn = BoundedSemaphore()
        self._seen: dict[str, tuple[float, Migration]] = {}

    def at(self, id: str) -> Migration:
        """Return a migration as it was at most `seconds` ago. Raises what the ledger does."""
        if (found := self._fresh(id)) is None:
            with self._turn:  # those that come meanwhile share what the first one saw
                if (found := self._fresh(id)) is None:
                    found = self._look(id)
                    self._seen = {
                        other: seen for other, seen in self._seen.items() if self._is_fresh(seen[0])
                    }
                    self._seen[id] = self._clock(), found
        return found

    def _fresh(self, id: str) -> Migration | None:
        when, found = self._seen.get(id, (None, None))
        return found if when is not None and self._is_fresh(when) else None

    def _is_fresh(self, when: float) -> bool:
        return self._clock() - when < self._seconds
