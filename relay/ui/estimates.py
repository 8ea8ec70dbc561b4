"""The time left of the migrations that pages of this process show.

Theory of operation. An estimate takes a regression for each resample, some milliseconds. So one is
made for each new sample of a migration, by the first page that shows it; until the next one it
counts down, for all pages. The samples of all migrations of a page are read in one query.

Decided here: when samples are read, and which migrations are remembered. Never here: the estimate
(`relay/views/time_left.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import gevent

from relay.ledger.live_ledger import LiveLedger
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import SAMPLE_SECONDS, Moving, Sample
from relay.ledger.states import MigrationState
from relay.ui import words
from relay.views.time_left import WINDOW_SECONDS, ShownTime, TimeLeft, rest_of, time_left

KEPT: Final = 500
"""Maximum number of migrations that are remembered."""


@dataclass(eq=False, kw_only=True)
class _Estimate:
    """What is known of one migration."""

    read_at: float
    samples: Sequence[Sample] | None = None
    """Those that no estimate was made from yet."""
    made_at: float = 0.0
    left: TimeLeft | None = None
    shown: ShownTime = field(default_factory=ShownTime)
    last: Sample | None = None
    """The latest sample."""


class Estimates:
    """The time left of each running migration that a page of this process has shown."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since 1970, as samples have them."""
        self._clock = clock
        self._known: dict[str, _Estimate] = {}

    def read(self, ledger: LiveLedger, migrations: Iterable[Migration]) -> None:
        """Read the samples of those migrations that run and have newer ones, in one query or none.
        Raises LedgerFailed."""
        now = self._clock()
        due = [one.id for one in migrations if _is_estimated(one) and self._is_due(one.id, now)]
        if not due:
            return
        for id in due:
            # Before the ledger answers, so that other pages do not ask for the same. At the end:
            # the oldest is dropped first.
            known = self._known.pop(id, None) or _Estimate(read_at=now)
            known.read_at = now
            self._known[id] = known
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        for id, samples in ledger.samples_of(due, int(now) - WINDOW_SECONDS).items():
            if id in self._known:
                self._known[id].samples = samples
                self._known[id].last = samples[-1] if samples else None

    def last_sample(self, id: str) -> Sample | None:
        """Return the latest sample of a migration, as far as it was read."""
        return self._known[id].last if id in self._known else None

    def shown_time(self, migration: Migration, moving: Moving) -> TimeLeft | None:
        """Return the time left to show of a migration whose samples were read, or None where there
        is none. `moving` is what it moves, as far as the page knows that."""
        if not _is_estimated(migration):
            self._known.pop(migration.id, None)
            return None
        known, now = self._known.get(migration.id), self._clock()
        if known is None:
            return None
        if known.samples is not None:
            samples, known.samples = known.samples, None
            known.left = time_left(samples, rest_of(migration, moving), now=now)
            known.made_at = now
            gevent.sleep(0)  # a list may need fifty of them at once
        left = None if known.left is None else known.left.after(now - known.made_at)
        return known.shown.show(left, now)

    def _is_due(self, id: str, now: float) -> bool:
        known = self._known.get(id)
        # A clock that was set back is another moment, too.
        return known is None or abs(now - known.read_at) >= SAMPLE_SECONDS


def _is_estimated(migration: Migration) -> bool:
    return migration.state == MigrationState.RUNNING and not words.is_listing(migration.listing)
