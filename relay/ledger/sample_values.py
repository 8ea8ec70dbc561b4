"""The moving objects of a migration, and the work that was done for it, as plain values.

Never here: how they are stored (`live_rows.py`, `samples.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SAMPLE_SECONDS: Final = 10
"""The time that one new sample covers."""


@dataclass(frozen=True, kw_only=True)
class MovingObject:
    """An object that a worker moves at the moment."""

    migration_id: str
    name: str
    phase: str
    bytes: int
    """The bytes that have moved, including those that are not acknowledged yet."""
    total: int | None
    rate: int
    """Bytes per second over the last seconds."""
    attempt: int
    part: int | None
    """Number of the parts that the destination has; None for an object in one request."""
    parts: int | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Moving:
    """The moving objects of one migration."""

    objects: Sequence[MovingObject] = ()
    """Some of them: each worker names the longest-running ones."""
    count: int = 0
    """Number of all of them."""


@dataclass(kw_only=True)
class Traffic:
    """What a worker has done for one migration in some time."""

    moved: int = 0
    """Bytes of objects that reached the destination, or are on their way; also those that a store
    copied itself, and those of attempts that failed."""
    read_back: int = 0
    """Bytes that were read again from the destination, as a proof."""
    slot_seconds: dict[str, float] = field(default_factory=dict)
    """How long its slots were in each phase of a transfer."""

    def add(self, other: Traffic) -> None:
        """Add what was done in another time."""
        self.moved += other.moved
        self.read_back += other.read_back
        for phase, seconds in other.slot_seconds.items():
            self.slot_seconds[phase] = self.slot_seconds.get(phase, 0.0) + seconds


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What all workers have done for one migration in some seconds."""

    at: int
    """When it begins (seconds since 1970)."""
    seconds: int
    """How much time it covers."""
    moved: int
    read_back: int
    """As those of Traffic."""
    objects: int
    """Number of the migration's objects that had been settled at its end."""
    slot_seconds: Mapping[str, float]
