"""Retry a failed page of a listing: the third place of retries (law 7).

Theory of operation. A listing may take hours and thousands of requests, so a transient failure of
one must not end it: the page is requested again, with backoff and Retry-After, within a budget of
seconds since the first failure. The entries before the failure were yielded already. The retry
skips them as long as they are the same, name by name. If they differ (the folder was changed
meanwhile), the whole page is yielded again: a name that comes twice does no harm, a missing one
would.

Decided here: when a page is requested again, and which of its entries are yielded. Never here: what
a page is."""

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
    """The retries of one page: up to `budget_seconds` after the first failure. A new entry resets
    the budget."""

    def __init__(
        self,
        budget_seconds: float,
        meter: Watchdog,
        random: Callable[[], float] = random,
        sleep: Callable[[float], None] = gevent.sleep,
    ) -> None:
        self._backoff = Backoff(budget_seconds)
        self._meter = meter
        self._random = random
        self._sleep = sleep
        self._failures, self._began = 0, 0.0

    def wait_or_raise(self, error: RelayError) -> None:
        """Wait before the page is requested again. Raises `error` if it is not retryable, or if the
        budget is used up, and the errors of the watchdog."""
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
        # Other processes show these times, so they are those of the wall clock.
        began = time() + self._began - self._meter.clock()
        self._meter.bear((error, self._failures, began, time() + wait))
        until = self._meter.clock() + wait
        while (left := until - self._meter.clock()) > 0:
            self._meter.check()
            self._sleep(min(left, self._meter.tick_seconds))
        self._meter.check()

    def retry(self, once: Callable[[], T]) -> T:
        """Return the result of a request, with retries. Raises as `wait_or_raise`."""
        try:
            while True:
                try:
                    return once()
                except RelayError as error:
                    self.wait_or_raise(error)
        finally:
            self._meter.bear(None)

    def entries(self, page: Page) -> Iterator[Entry]:
        """Yield the entries of a page, with retries. Raises as `wait_or_raise`."""
        given, mark, most = 0, 0, 0
        while True:
            try:
                with closing(page()) as entries:
                    for entry in _skip_seen(entries, given, mark):
                        given, mark = given + 1, hash((mark, entry.name))
                        self._meter.listed_entries += 1
                        if given > most:  # only entries beyond the last failure count as progress
                            most, self._failures, self._meter.borne = given, 0, None
                        yield entry
                self._meter.borne = None
                return
            except _Changed:
                given, mark = 0, 0
            except RelayError as error:
                self.wait_or_raise(error)


class _Changed(Exception):
    """A page that was requested again has different entries at its beginning."""


def _skip_seen(entries: Iterator[Entry], given: int, mark: int) -> Iterator[Entry]:
    """Yield the entries after the first `given`. Raises _Changed if the hash of those names is not
    `mark`."""
    seen = 0
    for number in range(given):
        entry = next(entries, None)
        if entry is None:
            raise _Changed
        seen = hash((seen, entry.name))
        if number == given - 1 and seen != mark:
            raise _Changed
    yield from entries
