"""The live values of a page: as server-sent events, or as one JSON answer for a page that polls.

An event `set` has the changed texts and bars, ready to show; the script puts them into the elements
with their names. A page whose `shape` has changed loads itself again. Decided here: when a value is
sent. Never here: the values (`summaries.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Final

import gevent
from flask import Response, g, request

from relay.api.event_stream import hang_up_of, note_sending
from relay.api.migration_routes import json_answer, stream_answer
from relay.api.watcher import Subscription
from relay.errors import InvalidType, LedgerFailed, Overloaded
from relay.ledger.ledger import Ledger
from relay.ledger.overview import Group
from relay.ledger.rows import Migration
from relay.ui import words
from relay.ui.frame import PageFrame
from relay.ui.migration_list import ROWS, list_update
from relay.ui.migration_screen import migration_update
from relay.ui.queries import number_of
from relay.views.migrations import is_over

SSE: Final = "text/event-stream"
LOOK_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 15.0
"""Seconds after which a silent stream says that it is there: the script of the page knows then that
its values are current, and a write finds out if the client is gone."""
STREAMS: Final = 200
"""Maximum number of streams of this process; further pages poll."""

Look = Callable[[], dict[str, Any]]
Check = Callable[[], bool]
Groups = Mapping[Group, int]


class Streams:
    """The open streams of this process."""

    def __init__(self, most: int = STREAMS) -> None:
        self._most = most
        self._groups: tuple[float, Groups] = -inf, {}
        self.open = 0

    def groups(self, ledger: Ledger) -> Callable[[], Groups]:
        """Return a function that counts the migrations of each group; all lists share a count for
        LOOK_SECONDS."""

        def count() -> Groups:
            at, found = self._groups
            if time.monotonic() - at > LOOK_SECONDS:
                # Before the ledger answers: other lists show the last count meanwhile.
                self._groups = time.monotonic(), found
                self._groups = time.monotonic(), ledger.group_counts()
            return self._groups[1]

        return count

    def events(
        self, frame: PageFrame, look: Look, ends: Check, still_admitted: Check
    ) -> Iterator[str]:
        """Yield the events of one stream until the server drains, or `ends` says that nothing
        changes any more. Raises Overloaded if too many streams are open."""
        if self.open >= self._most:
            raise Overloaded("too many pages are open on this process", retry_after=30.0)
        return self._events(frame, look, ends, still_admitted)

    def _events(
        self, frame: PageFrame, look: Look, ends: Check, still_admitted: Check
    ) -> Iterator[str]:
        self.open += 1
        try:
            yield "retry: 2000\n\n"
            yield from changes(frame, look, ends, still_admitted)
        finally:
            self.open -= 1


def changes(frame: PageFrame, look: Look, ends: Check, still_admitted: Check) -> Iterator[str]:
    """Yield the changed values once a second, and the state of the ledger while it is away."""
    last: dict[str, Any] = {}
    sent = time.monotonic()
    while not frame.engine.draining:
        if not still_admitted():
            yield "event: gone\ndata: {}\n\n"
            return
        found = _look(look)
        news = _difference(last, found)
        if news:
            yield f"event: set\ndata: {json.dumps(news)}\n\n"
            last, sent = found, time.monotonic()
        elif time.monotonic() - sent > SILENT_SECONDS:
            yield "event: beat\ndata: {}\n\n"
            sent = time.monotonic()
        if "trouble" not in found and ends():
            yield "event: end\ndata: {}\n\n"
            return
        gevent.sleep(LOOK_SECONDS)
    yield f"event: bye\ndata: {json.dumps({'text': words.DRAINING})}\nretry: 500\n\n"


def stream(frame: PageFrame, streams: Streams) -> Response:
    """Return the live values of a page as a stream. Raises MigrationUnknown, Overloaded, and a
    RequestError for a wrong query."""
    watcher, asked = frame.works().watcher, _migrations_in_query(frame)
    following = watcher.subscribe(asked, hang_up=hang_up_of(request.environ))
    try:
        shown = partial(_latest, following, [one.id for one in asked])
        look, ends = _looks(frame, shown, streams.groups(frame.ledger))
        pieces = note_sending(following, streams.events(frame, look, ends, g.still_admitted))
        response = stream_answer(pieces, SSE)
    except BaseException:
        watcher.unsubscribe(following)
        raise
    response.call_on_close(lambda: watcher.unsubscribe(following))
    return response


def values(frame: PageFrame) -> Response:
    """Return the live values of a page once, for a page that polls. Raises as `stream`, and
    LedgerFailed."""
    shown = _migrations_in_query(frame)
    look, _ = _looks(frame, lambda: shown, frame.ledger.group_counts)
    return json_answer(look())


def _migrations_in_query(frame: PageFrame) -> list[Migration]:
    """Return the migrations that a page shows. Raises MigrationUnknown, LedgerFailed, and a
    RequestError for a wrong query."""
    if ("m" in request.args) == ("list" in request.args):
        raise InvalidType("the query names neither m nor list", hint="Load the page again.")
    if "m" in request.args:
        return [frame.ledger.migration(str(number_of(request.args["m"], "m")))]
    numbers = [number_of(text, "list") for text in request.args["list"].split(",")][:ROWS]
    found = {one.number: one for one in frame.ledger.migrations_by_number(numbers)}
    return [found[number] for number in numbers if number in found]


def _latest(following: Subscription, ids: Sequence[str]) -> list[Migration]:
    """Return the migrations of a page, in its order, as the watcher has seen them last. Raises
    LedgerFailed while the ledger is away."""
    update = following.take()
    if update.failure is not None:
        raise update.failure
    return [update.migrations[id] for id in ids if id in update.migrations]


def _looks(
    frame: PageFrame, shown: Callable[[], list[Migration]], groups: Callable[[], Groups]
) -> tuple[Look, Check]:
    if "list" in request.args:
        return (lambda: list_update(frame, shown(), groups())), lambda: False
    latest: list[Migration] = []

    def look() -> dict[str, Any]:
        latest[:] = shown()
        return migration_update(frame, latest[0])

    return look, lambda: bool(latest) and is_over(latest[0])


def _look(look: Look) -> dict[str, Any]:
    try:
        return look()
    except LedgerFailed as error:
        at = time.strftime("%H:%M", time.gmtime())
        return {"trouble": words.ledger_away(f"{at} UTC", error.code)}


def _difference(last: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the members of `found` that `last` does not have."""
    if "trouble" in found:
        return {} if "trouble" in last else found
    news = {
        name: {key: one for key, one in found[name].items() if last.get(name, {}).get(key) != one}
        for name in ("texts", "bars")
    }
    others = {
        name: one
        for name, one in found.items()
        if name not in news and (one != last.get(name) or name not in last)
    }
    changed = {name: members for name, members in news.items() if members} | others
    return {**changed, **({"well": True} if "trouble" in last else {})}
