"""How fast each watched migration moves: differences of what this process saw of it.

Only migrations that a page shows are recorded, once a second. Decided here: the windows. Never
here: where the counts come from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from relay.ledger.migration_values import Migration
from relay.ledger.states import MigrationState
from relay.ui.summaries import Pace, bytes_done, objects_done

WINDOW_SECONDS: Final = 10.0
"""Window of the rate that is shown."""
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
        while len(history.seen) > 2 and history.seen[1].at <= now.at - WINDOW_SECONDS:
            history.seen.popleft()
        before = history.seen[0]
        seconds = now.at - before.at
        if seconds < 1:
            return Pace()
        return Pace(
            bytes_per_second=max(0.0, (now.bytes - before.bytes) / seconds),
            objects_per_second=max(0.0, (now.objects - before.objects) / seconds),
            still_seconds=now.at - history.moved_at,
        )
