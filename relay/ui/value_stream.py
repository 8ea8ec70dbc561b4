"""The steps of every stream of live values, as server-sent events.

`set` has the values that changed, ready to show. `beat` says in a long silence that the shown
values are current. The stream ends with `end` behind the last values, with `gone` once its token or
session has ended, with `bye` while the server stops, and with nothing if its client is gone.

Streams of one page share its values, and its change since their last look. They look at moments of
their own: two hundred streams that look in one turn of the hub hold up everything else for some
forty milliseconds.

Decided here: these steps, and when a stream looks. Never here: the values (`live_values.py`,
`plan_stream.py`)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from relay.api.event_stream import JITTER, RETRY_MS, retry_field
from relay.ui import words
from relay.ui.feeds import Values, news_between, silent_event

LOOK_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 15.0
"""Seconds after which a silent stream says that it is there: the script of the page knows then that
its values are current, or still old, and a write finds out if the client is gone."""
NOTHING_SHOWN: Final[Values] = {}
"""What a page shows before its first values: one object, so that streams share their JSON."""


class LookTimes:
    """When one stream looks: once in LOOK_SECONDS, at a moment of its own. Streams that began
    together, or have waited for the same answer of the ledger, do not stay together."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance` returns a number from 0 to 1."""
        self._clock, self._moment = clock, chance() * LOOK_SECONDS

    def wait(self) -> float:
        """Return the seconds until the next look: LOOK_SECONDS, or up to half of it more or less
        where the stream has lost its moment."""
        half = LOOK_SECONDS / 2
        return half + (self._moment - self._clock() - half) % LOOK_SECONDS


@dataclass(frozen=True, kw_only=True)
class ValueStream:
    """The live values of one page, for one client."""

    look: Callable[[], tuple[Values, bool]]
    """Returns the values now, or the trouble of the ledger, and whether they are the last."""
    still_admitted: Callable[[], bool]
    is_draining: Callable[[], bool]
    is_gone: Callable[[float], bool]
    """Waits for some seconds, the time between two looks; returns at once if the client is gone."""
    news: Callable[[Values, Values], str] = news_between
    """Returns as `news_between`."""
    times: LookTimes = field(default_factory=LookTimes)

    def events(self) -> Iterator[str]:
        """Yield the events until the stream ends."""
        last = NOTHING_SHOWN
        sent = time.monotonic()
        yield f"{retry_field(RETRY_MS * random.uniform(*JITTER))}\n"
        while not self.is_draining():
            if not self.still_admitted():
                yield "event: gone\ndata: {}\n\n"
                return
            found, is_last = self.look()
            news = self.news(last, found) if found is not last else ""
            last = found
            if news:
                yield f"event: set\ndata: {news}\n\n"
                sent = time.monotonic()
            elif time.monotonic() - sent > SILENT_SECONDS:
                yield silent_event(last)
                sent = time.monotonic()
            if is_last:
                yield "event: end\ndata: {}\n\n"
                return
            # A person who goes from page to page leaves streams, whose places the next ones need.
            if self.is_gone(self.times.wait()):
                return
        yield f"event: bye\ndata: {json.dumps({'text': words.DRAINING})}\nretry: 500\n\n"
