"""How fast each watched migration moves: differences of what this process saw of it.

Only migrations that a page shows are recorded, once a second. Decided here: the windows. Never
here: where the counts come from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from relay.ledger.rows import Migration
from relay.ledger.states import MigrationState
from relay.ui import words
from relay.ui.summaries import Pace, bytes_done, bytes_left, objects_done

SHORT_SECONDS: Final = 10.0
"""Window of the rate that is shown."""
LONG_SECONDS: Final = 300.0
"""Window of the rate that the remaining time is computed from."""
LEAST_SECONDS: Final = 30.0
LEAST_OBJECTS: Final = 20
LEAST_BYTES: Final = 1 << 30
"""Below these an estimate of the remaining time would be a guess."""
KEPT: Final = 500
"""Maximum number of migrations that are remembered."""


@dataclass(frozen=True)
class _Snapshot:
    at: float
    bytes: int
    objects: int


@dataclass(eq=False)
class _History:
    seen: deque[_Snapshot] = field(default_factory=deque)
    moved_at: float = 0.0


class Paces:
    """The pace of each migration that a page of this process has shown."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._histories: dict[str, _History] = {}

    def note(self, migration: Migration) -> Pace:
        """Record a migration as it is now, and return its pace."""
        if migration.state != MigrationState.RUNNING:
            self._histories.pop(migration.id, None)
            return Pace()
        now = _Snapshot(self._clock(), bytes_done(migration), objects_done(migration))
        history = self._histories.pop(migration.id, None) or _History(moved_at=now.at)
        self._histories[migration.id] = history  # at the end: the oldest is dropped first
        if len(self._histories) > KEPT:
            del self._histories[next(iter(self._histories))]
        last = history.seen[-1] if history.seen else None
        if last is None or (last.bytes, last.objects) != (now.bytes, now.objects):
            history.moved_at = now.at
        if last is None or now.at - last.at >= 0.5:
            history.seen.append(now)
        while len(history.seen) > 2 and history.seen[1].at <= now.at - LONG_SECONDS:
            history.seen.popleft()
        return self._pace(migration, history, now)

    def _pace(self, migration: Migration, history: _History, now: _Snapshot) -> Pace:
        short = _since(history, now.at - SHORT_SECONDS)
        if now.at - short.at < 1:
            return Pace()
        seconds = now.at - short.at
        return Pace(
            bytes_per_second=max(0.0, (now.bytes - short.bytes) / seconds),
            objects_per_second=max(0.0, (now.objects - short.objects) / seconds),
            seconds_left=_seconds_left(migration, history.seen[0], now),
            still_seconds=now.at - history.moved_at,
        )


def _since(history: _History, at: float) -> _Snapshot:
    """Return the newest record that is not younger than `at`, else the oldest."""
    found = history.seen[0]
    for one in history.seen:
        if one.at > at:
            break
        found = one
    return found


def _seconds_left(migration: Migration, first: _Snapshot, now: _Snapshot) -> float | None:
    seconds = now.at - first.at
    every = migration.count_in()
    is_small = every.objects < LEAST_OBJECTS and every.bytes < LEAST_BYTES
    if seconds < LEAST_SECONDS or is_small or words.is_listing(migration.listing):
        return None
    moved, ended = now.bytes - first.bytes, now.objects - first.objects
    by_bytes = bytes_left(migration) * seconds / moved if moved > 0 else None
    by_objects = (every.objects - now.objects) * seconds / ended if ended > 0 else None
    # Small objects are bound by their number, large ones by their bytes: the slower one counts.
    known = [one for one in (by_bytes, by_objects) if one is not None]
    return max(known) if known else None
