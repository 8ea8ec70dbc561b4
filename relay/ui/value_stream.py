"""The steps of every stream of live values, as server-sent events.

`set` has the values that changed, ready to show. `beat` says in a long silence that the shown
values are current. The stream ends with `end` behind the last values, with `gone` once its token or
session has ended, with `bye` while the server stops, and with nothing if its client is gone.

Decided here: these steps. Never here: the values (`live_values.py`, `plan_stream.py`)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from relay.api.event_stream import JITTER, RETRY_MS, retry_field
from relay.ui import words
from relay.ui.feeds import Values, news_between, silent_event

LOOK_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 15.0
"""Seconds after which a silent stream says that it is there: the script of the page knows then that
its values are current, or still old, and a write finds out if the client is gone."""


@dataclass(frozen=True, kw_only=True)
class ValueStream:
    """The live values of one page, for one client."""

    look: Callable[[], tuple[Values, bool]]
    """Returns the values now, or the trouble of the ledger, and whether they are the last."""
    still_admitted: Callable[[], bool]
    is_draining: Callable[[], bool]
    is_gone: Callable[[], bool]
    """Waits for the time between two looks; returns at once if the client is gone."""
    news: Callable[[Values, Values], str] = news_between
    """Returns as `news_between`."""

    def events(self) -> Iterator[str]:
        """Yield the events until the stream ends."""
        last: Values = {}
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
            if self.is_gone():
                return
        yield f"event: bye\ndata: {json.dumps({'text': words.DRAINING})}\nretry: 500\n\n"
