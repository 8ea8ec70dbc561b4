"""Retry a failed page of a listing: the third place of retries (law 7).

Theory of operation. A listing may take hours and thousands of requests, so that one that fails in a
way that passes must not end it: its page is asked for again, with backoff and Retry-After, within
the budget of seconds since the trouble began. What a page gave before it broke was given on
already. So when it comes again it is passed over as long as it is the same, name by name; where it
is not (somebody changed the folder meanwhile) all of the page is given again, since a name that
comes twice does no harm, and one that is left out would.

Decided here: when a page is asked for again, and what of it is given. Never here: what a page is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from random import random
from time import time
from typing import TypeVar

import gevent

from relay.errors import RelayError
from relay.retry import Backoff
from relay.stores.interfaces import Entry
from relay.wire.watchdog import Watchdog

T = TypeVar("T")
Page = Callable[[], Generator[Entry, None, None]]


class ListingRetries:
    """How long one page's trouble is borne: `budget_seconds` from its begin; what is given in
    between ends it."""

    def __init__(
        self,
        budget_seconds: float,
        meter: Watchdog,
        random: Callable[[], float] = random,
        sleep: Callable[[float], None] = gevent.sleep,
    ) -> None:
        self._backoff, self._meter, self._random, self._sleep = (
            Backoff(budget_seconds),
            meter,
            random,
            sleep,
        )
        self._failures, self._began = 0, 0.0

    def wait_or_raise(self, error: RelayError) -> None:
        """Wait before the page is asked for again. Raises `error` where that would not help, or
        took too long; what the meter raises."""
        if not error.retryable:
            raise error
        if not self._failures:
            self._began = self._meter.clock()
        self._failures += 1
        wait = self._backoff.wait(
            self._failures, self._meter.clock() - self._began, error.retry_after, self._random
        )
        if wait is None:
            raise error
        self._meter.borne = (
            error,
            self._failures,
            time() + self._began - self._meter.clock(),
            time() + wait,
        )
        until = self._meter.clock() + wait
        while (left := until - self._meter.clock()) > 0:
            self._meter.check()
            self._sleep(min(left, self._meter.tick_seconds))
        self._meter.check()

    def retry(self, once: Callable[[], T]) -> T:
        """Return what a request gives, asked as often as it takes. Raises as `wait_or_raise`."""
        while True:
            try:
                found = once()
                self._meter.borne = None
                return found
            except RelayError as error:
                self.wait_or_raise(error)

    def entries(self, page: Page) -> Iterator[Entry]:
        """Yield what a page gives, read as often as it takes. Raises as `wait_or_raise`."""
        given, mark, most = 0, 0, 0
        while True:
            try:
                with closing(page()) as entries:
                    for entry in _skip_seen(entries, given, mark):
                        given, mark = given + 1, hash((mark, entry.name))
                        self._meter.reported += 1
                        if given > most:  # it gets on; the same once more is no relief
                            most, self._failures, self._meter.borne = given, 0, None
                        yield entry
                self._meter.borne = None
                return
            except _Changed:
                given, mark = 0, 0
            except RelayError as error:
                self.wait_or_raise(error)


class _Changed(Exception):
    """A page that came again begins otherwise."""


def _skip_seen(entries: Iterator[Entry], given: int, mark: int) -> Iterator[Entry]:
    """Yield what comes behind the first `given` entries. Raises _Changed where these are not those
    of `mark`."""
    seen = 0
    for number in range(given):
        entry = next(entries, None)
        if entry is None:
            raise _Changed
        seen = hash((seen, entry.name))
        if number == given - 1 and seen != mark:
            raise _Changed
    yield from entries
