"""A standing migration as plain values: when its passes begin, its phase, and its passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from relay.ledger.states import Phase

MINUTES: Final = 24 * 60


@dataclass(frozen=True)
class PassHours:
    """The part of each day in which passes may begin, in minutes since midnight by the clock of
    this machine. If `until` is not behind `begin`, it is a time of the next day."""

    begin: int
    until: int

    @classmethod
    def parse(cls, text: str) -> PassHours:
        """Parse `22:00-06:00`. Raises ValueError."""
        begin, dash, until = text.partition("-")
        if not dash:
            raise ValueError(text)
        found = cls(_minute(begin), _minute(until))
        if found.begin == found.until:
            raise ValueError(text)
        return found

    def __str__(self) -> str:
        return "-".join(f"{at // 60:02}:{at % 60:02}" for at in (self.begin, self.until))

    def next_moment(self, at: float) -> float:
        """Return the first moment at or after `at` (seconds since 1970) that lies in these
        hours."""
        here = datetime.fromtimestamp(at).astimezone()
        minute = here.hour * 60 + here.minute
        length = (self.until - self.begin) % MINUTES
        if (minute - self.begin) % MINUTES < length:
            return at
        begins = here.replace(
            hour=self.begin // 60, minute=self.begin % 60, second=0, microsecond=0, tzinfo=None
        )
        if minute >= self.begin:
            begins += timedelta(days=1)
        return max(at, begins.timestamp())


def _minute(text: str) -> int:
    hours, colon, minutes = text.strip().partition(":")
    is_time = colon and len(minutes) == 2 and (hours + minutes).isdecimal() and hours.isascii()
    if not is_time or int(hours) > 23 or int(minutes) > 59:
        raise ValueError(text)
    return int(hours) * 60 + int(minutes)


@dataclass(frozen=True)
class PassTimes:
    """When the passes of a standing migration begin: one in `every` seconds, or at once if
    the last one took longer; and only in the `hours`, if any are given."""

    every: float
    hours: PassHours | None = None

    def next_due(self, begun: float, now: float) -> float:
        """Return when the pass after one that was `begun` is due."""
        at = max(now, begun + self.every)
        return at if self.hours is None else self.hours.next_moment(at)

    def is_due(self, due: float, now: float) -> bool:
        """Return whether a pass that is `due` may begin. Where the clock was set back it may, as
        soon as the time is further away than any pass would wait."""
        longest = self.every + (0 if self.hours is None else MINUTES * 60)
        return due <= now or due > now + longest


@dataclass(frozen=True)
class StandingState:
    """A standing migration's phase, and when its next pass is due: None while one is under way."""

    phase: str
    times: PassTimes
    due: float | None

    @property
    def is_at_rest(self) -> bool:
        """Whether no pass is under way, and the migration has not been finished."""
        return self.due is not None and self.phase != Phase.FINISHED

    def is_due(self, now: float) -> bool:
        """Return whether its next pass may begin."""
        return self.due is not None and self.times.is_due(self.due, now)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass of a standing migration, as in the table `passes`."""

    number: int
    kind: str
    begun: float
    listed_at: float | None
    ended: float | None
    complete: bool | None
    listed: int
    changed: int
    gone: int
    copied: int
    bytes: int
    deleted: int
    refused: int
    failed: int
    p50: float | None
    p90: float | None
    outcome: Mapping[str, Any] | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether its listing was complete and equal to that of the pass before it, and nothing had
        to be copied."""
        return bool(self.complete) and not (self.changed or self.gone or self.copied)


@dataclass(frozen=True, kw_only=True)
class FeedRow:
    """A row of the feed of a standing migration. `members` are the versions and the proof."""

    seq: int
    at: float
    name: str
    event: str
    members: Mapping[str, Any]
