"""The number of clients that follow migrations in one process.

Decided here: how many requests wait for one answer, and how many streams are open. Never here: the
answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relay.errors import TooManyStreams

RETRY_SECONDS = 10.0
"""When a client without a place may ask again."""


class PollAgain(Exception):
    """A wait ended without an event: look at the migration again."""


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


class StreamPlaces:
    """The streams of events of this process: at most `most`, and of one token at most
    `most_of_token`."""

    def __init__(self, most: int, most_of_token: int) -> None:
        self._most, self._most_of_token = most, most_of_token
        self._of_token: Counter[str] = Counter()
        self.open = 0

    def require(self, token: str | None) -> None:
        """Raise TooManyStreams if no place is free for a token; None is a caller without one of its
        own. A stream asks this before it reads the ledger: a refused client comes back soon."""
        if self.open >= self._most:
            raise TooManyStreams(
                f"this process serves {self._most} streams of events", retry_after=RETRY_SECONDS
            )
        if token is not None and self._of_token[token] >= self._most_of_token:
            raise TooManyStreams(
                f"this token has {self._most_of_token} streams of events in this process",
                retry_after=RETRY_SECONDS,
            )

    def take(self, token: str | None) -> Callable[[], None]:
        """Take a place for a stream; return the function that releases it, which may be called
        twice. Raises as `require`."""
        self.require(token)
        self._change(token, 1)
        held = [token]

        def release() -> None:
            if held:
                self._change(held.pop(), -1)

        return release

    def _change(self, token: str | None, by: int) -> None:
        self.open += by
        if token is not None:
            self._of_token[token] += by
            if not self._of_token[token]:
                del self._of_token[token]
