"""The feed of a page, which all its streams share: its values are computed once for each state that
the watcher has read, and each change of them is written as JSON once.

Decided here: how long a result is shared. Never here: the values (`migration_screen.py`,
`migration_list.py`), and when a stream looks (`value_stream.py`)."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from gevent.lock import BoundedSemaphore

from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import SAMPLE_SECONDS, Moving, Sample
from relay.ui.frame import PageFrame
from relay.ui.migration_screen import migration_update
from relay.ui.moving_rows import HISTORY_SECONDS

Values = Mapping[str, Any]
Compute = Callable[[Sequence[Migration], Moving], Values]

CHANGES: Final = 8
"""Number of the last changes whose JSON is kept: not all streams look at the same moment."""
POINTS: Final = HISTORY_SECONDS // SAMPLE_SECONDS
"""Maximum number of points of a chart that grows."""


@dataclass(eq=False)
class Feed:
    """The values of one page, for all its streams. `compute` may wait for the ledger, and raises
    LedgerFailed."""

    compute: Compute
    streams: int = 0
    _: KW_ONLY
    _state: tuple[object, ...] | None = None
    _values: Values = field(default_factory=dict)
    _changes: OrderedDict[tuple[int, int], tuple[Values, Values, str]] = field(
        default_factory=OrderedDict
    )
    """By the ids of both values, which stay alive beside the JSON."""
    _turn: BoundedSemaphore = field(default_factory=BoundedSemaphore)

    def values(self, found: Sequence[Migration], moving: Moving) -> Values:
        """Return the values of a state. The same mapping is returned as long as the watcher gives
        the same objects. Raises LedgerFailed."""
        with self._turn:
            state = (*found, moving)
            before = self._state or ()
            if len(before) != len(state) or any(
                one is not other for one, other in zip(before, state, strict=True)
            ):
                self._values = self.compute(found, moving)
                self._state = state
            return self._values

    def change(self, last: Values, now: Values) -> str:
        """Return the members of `now` that `last` does not have, as JSON; '' if there are none."""
        key = id(last), id(now)
        known = self._changes.get(key)
        if known is None:
            known = last, now, news_between(last, now)
            self._changes[key] = known
            if len(self._changes) > CHANGES:
                self._changes.popitem(last=False)
        return known[2]


class Feeds:
    """The feeds of the pages that streams of this process show now."""

    def __init__(self) -> None:
        self._feeds: dict[object, Feed] = {}

    @contextmanager
    def of(self, key: object, make: Callable[[], Compute]) -> Iterator[Feed]:
        """Give the feed of the page `key` for the time of a block; it is made for the first stream,
        and forgotten after the last one."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(make())
        feed.streams += 1
        try:
            yield feed
        finally:
            feed.streams -= 1
            if not feed.streams:
                del self._feeds[key]


@dataclass(eq=False)
class SampleReader:
    """The new samples of one migration. The last one is read again: another worker may have added
    to it."""

    ledger: Ledger
    id: str
    since: int
    _next: float = 0.0

    def take(self, now: float) -> list[Sample]:
        """Return the new samples; none before the next ones are due, by a clock that is never set
        back. Raises LedgerFailed."""
        if now < self._next:
            return []
        found = self.ledger.live.samples(self.id, self.since)
        self._next = now + SAMPLE_SECONDS
        if found:
            self.since = found[-1].at
        return found


@dataclass(eq=False)
class MigrationValues:
    """The values of one migration's page, with all points of its chart."""

    frame: PageFrame
    reader: SampleReader
    _points: list[list[int]] = field(default_factory=list)

    def __call__(self, found: Sequence[Migration], moving: Moving) -> Values:
        """Return the values now; of no migration there are none."""
        if not found:
            return {"texts": {}, "bars": {}}
        samples = self.reader.take(time.monotonic())
        values = migration_update(self.frame, found[0], moving, samples)
        new = values["points"]
        if new:
            before = [point for point in self._points if point[0] < new[0][0]]
            self._points = [*before[-POINTS:], *new]
        return {**values, "points": self._points}


def difference(last: Values, found: Values) -> dict[str, Any]:
    """Return the members of `found` that `last` does not have: of texts, bars and points those that
    have changed, of other members all."""
    if "trouble" in found:
        return {} if "trouble" in last else dict(found)
    changed: dict[str, Any] = {"well": True} if "trouble" in last else {}
    for name, one in found.items():
        before = last.get(name, _NOTHING.get(name))
        if one is before or one == before:
            continue
        if name in ("texts", "bars"):
            one = {key: value for key, value in one.items() if before.get(key) != value}
        elif name == "points":
            known = set(map(tuple, before))
            one = [point for point in one if tuple(point) not in known]
        if one or name == "rows":
            changed[name] = one
    return changed


def news_between(last: Values, now: Values) -> str:
    """Return the members of `now` that `last` does not have, as JSON; '' if there are none."""
    news = difference(last, now)
    return json.dumps(news) if news else ""


def silent_event(last: Values) -> str:
    """Return the event of a stream that was silent for a while: the page is current, or the ledger
    is still away."""
    if "trouble" in last:
        return f"event: set\ndata: {json.dumps(last)}\n\n"
    return "event: beat\ndata: {}\n\n"


_NOTHING: Final[Values] = {"texts": {}, "bars": {}, "points": [], "rows": []}
"""The members of a page that shows no values yet."""
