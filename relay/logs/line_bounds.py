"""How many lines of an event are written: further ones are counted, and the count is a line.

Decided here: when a line is left out. Never here: the bounds (`event_table.py`)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, Final

from relay.logs.event_table import EVENTS, LOGGER, LineBound, LogEvent
from relay.logs.line_formats import event_of

MOST_WINDOWS: Final = 1000
"""Maximum number of windows that are remembered; beyond it all of them end early."""

Key = tuple[object, ...]
"""The event or the group, and the values of the bound's `each`."""


@dataclass(eq=False, kw_only=True)
class _Window:
    """The lines of one key since the first of them."""

    began: float
    bound: LineBound
    level: int
    given: Mapping[str, Any]
    """The members by which the bound tells windows apart."""
    written: int = 0
    left: Counter[object] = field(default_factory=Counter)
    """Numbers of lines that were left out, by the bound's member `by`."""


class LineBounds(logging.Filter):
    """Filters the records of a handler by the bounds of their events."""

    def __init__(
        self,
        write: Callable[[logging.LogRecord], object],
        workers: int = 1,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`write` writes a count, `workers` processes share each bound."""
        super().__init__()
        self._write, self.workers, self._clock = write, workers, clock
        self._windows: dict[Key, _Window] = {}
        self._due = inf  # when the first window ends

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written. Before it, count lines are written that are due."""
        event, members = event_of(record)
        if event is LogEvent.LINES_LEFT_OUT:
            return True
        ending = members.get("migration") if event is LogEvent.MIGRATION_ENDED else None
        if ending is not None or self._clock() >= self._due:
            self.write_counts(of=ending)
        bound = EVENTS[event].bound
        key: Key = (bound.group or event, *(_comparable(members.get(name)) for name in bound.each))
        window = self._windows.get(key)
        if window is None:
            given = {name: members[name] for name in bound.each if name in members}
            window = self._begin(key, bound, record.levelno, given)
        if window.written < max(1, bound.most // self.workers):
            window.written += 1
            self._carry(record, window)
            return True
        window.left[_comparable(members.get(bound.by)) if bound.by else None] += 1
        return False

    def write_counts(self, *, everything: bool = False, of: object = None) -> None:
        """Write the counts of the windows that have ended: of all with `everything`, and of the
        migration `of`."""
        for window, group in self._pop_ended(everything, of):
            for value, count in window.left.items():
                members = {**window.given, "of": group, "count": count}
                if window.bound.by and value is not None:
                    members[window.bound.by] = value
                self._write(_count_record(window.level, members))

    def _begin(self, key: Key, bound: LineBound, level: int, given: Mapping[str, Any]) -> _Window:
        if len(self._windows) >= MOST_WINDOWS:
            self.write_counts(everything=True)
        window = _Window(began=self._clock(), bound=bound, level=level, given=given)
        self._windows[key] = window
        self._due = min(self._due, window.began + bound.seconds)
        return window

    def _carry(self, record: logging.LogRecord, window: _Window) -> None:
        """Put the number of lines since the last one into a line that carries it."""
        name = window.bound.carried
        members = getattr(record, "members", None)
        if name is not None and isinstance(members, dict):
            members[name] = 1 + window.left.total()
            window.left.clear()

    def _pop_ended(self, everything: bool, of: object) -> Iterator[tuple[_Window, str]]:
        now = self._clock()
        for key, window in tuple(self._windows.items()):
            is_over = now - window.began >= window.bound.seconds
            is_of = of is not None and window.given.get("migration") == of
            if window.bound.carried:
                if is_over and not window.left:
                    del self._windows[key]
                elif is_over:  # the next line has the count
                    window.written, window.began = 0, now
            elif is_over or is_of or everything:
                del self._windows[key]
                yield window, str(key[0])
        ends = (window.began + window.bound.seconds for window in self._windows.values())
        self._due = min(ends, default=inf)


def _count_record(level: int, members: Mapping[str, Any]) -> logging.LogRecord:
    event = LogEvent.LINES_LEFT_OUT
    return logging.makeLogRecord(
        {
            "name": LOGGER,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": event.value,
            "event": event,
            "members": members,
        }
    )


def _comparable(value: object) -> object:
    """Return a value by which windows differ; an odd one must not break the caller."""
    return value if value is None or isinstance(value, str | int) else type(value).__name__
