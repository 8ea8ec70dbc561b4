"""The live values of a page: as server-sent events, or as one JSON answer for a page that polls.

An event `set` has the changed texts and bars, ready to show; the script puts them into the elements
with their names. A page whose `shape` has changed loads itself again. Decided here: when a value is
sent. Never here: the values (`summaries.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
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
from relay.ledger.sample_values import SAMPLE_SECONDS, Moving, Sample
from relay.ledger.states import ENDED
from relay.ledger.viewer import Viewer
from relay.ui import words
from relay.ui.frame import PageFrame
from relay.ui.migration_list import ROWS, list_update
from relay.ui.migration_screen import migration_update
from relay.ui.moving_rows import HISTORY_SECONDS
from relay.ui.queries import name_of
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
        self._groups: dict[Viewer, tuple[float, Groups]] = {}
        self.open = 0

    def groups(self, ledger: Ledger, viewer: Viewer) -> Callable[[], Groups]:
        """Return a function that counts the migrations of each group that a viewer sees; all lists
        of equal viewers share a count for LOOK_SECONDS."""

        def count() -> Groups:
            at, found = self._groups.get(viewer, (-inf, {}))
            if time.monotonic() - at > LOOK_SECONDS:
                # Before the ledger answers: other lists show the last count meanwhile.
                self._groups[viewer] = time.monotonic(), found
                self._groups[viewer] = time.monotonic(), ledger.group_counts(viewer)
            return self._groups[viewer][1]

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


@dataclass(eq=False)
class SampleReader:
    """The samples of one migration that a page has not got yet. The last one is read again: another
    worker may have added to it."""

    ledger: Ledger
    id: str
    since: int
    _: KW_ONLY
    last: Sample | None = None
    _next: float = 0.0

    def take(self, now: float) -> list[Sample]:
        """Return the new samples; none before the next ones are due. Raises LedgerFailed."""
        if now < self._next:
            return []
        found = self.ledger.samples(self.id, self.since)
        self._next = now + SAMPLE_SECONDS
        if found:
            self.last, self.since = found[-1], found[-1].at
        return found


def stream(frame: PageFrame, streams: Streams) -> Response:
    """Return the live values of a page as a stream. Raises MigrationUnknown, Overloaded, and a
    RequestError for a wrong query."""
    watcher, asked = frame.works().watcher, _migrations_in_query(frame)
    is_one = "m" in request.args
    following = watcher.subscribe(asked, moving=is_one, hang_up=hang_up_of(request.environ))
    try:
        ids = [one.id for one in asked]
        if is_one:
            look, ends = _looks_at_one(frame, partial(_latest, following, ids))
        else:
            look, ends = _looks_at_list(
                frame, following, ids, streams.groups(frame.ledger, frame.viewer)
            )
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
    shown, ledger = _migrations_in_query(frame), frame.ledger
    if "list" in request.args:
        return json_answer(list_update(frame, shown, ledger.group_counts(frame.viewer)))
    if shown[0].state not in ENDED:
        ledger.watch([shown[0].id])
    samples = ledger.samples(shown[0].id, _history_begin(shown[0]))
    moving = ledger.moving(shown[0].id)
    return json_answer(migration_update(frame, shown[0], moving, samples))


def _migrations_in_query(frame: PageFrame) -> list[Migration]:
    """Return the migrations that a page shows. Raises MigrationUnknown, LedgerFailed, and a
    RequestError for a wrong query."""
    if ("m" in request.args) == ("list" in request.args):
        raise InvalidType("the query names neither m nor list", hint="Load the page again.")
    if "m" in request.args:
        return [frame.migration(name_of(request.args["m"], "m"))]
    names = [name_of(text, "list") for text in request.args["list"].split(",")][:ROWS]
    found = {one.name: one for one in frame.ledger.migrations_by_name(names, frame.viewer)}
    return [found[name] for name in names if name in found]


def _history_begin(migration: Migration) -> int:
    """Return the time from which a page shows the samples of a migration."""
    return 0 if migration.state in ENDED else int(time.time()) - HISTORY_SECONDS


def _latest(following: Subscription, ids: Sequence[str]) -> tuple[list[Migration], Moving]:
    """Return the migrations of a page, in its order, and what the first one moves, as the watcher
    has seen them last. Raises LedgerFailed while the ledger is away."""
    update = following.take()
    if update.failure is not None:
        raise update.failure
    found = [update.migrations[id] for id in ids if id in update.migrations]
    return found, update.moving.get(ids[0], Moving()) if ids else Moving()


def _looks_at_list(
    frame: PageFrame, following: Subscription, ids: Sequence[str], groups: Callable[[], Groups]
) -> tuple[Look, Check]:
    return (lambda: list_update(frame, _latest(following, ids)[0], groups())), lambda: False


def _looks_at_one(
    frame: PageFrame, latest: Callable[[], tuple[list[Migration], Moving]]
) -> tuple[Look, Check]:
    ledger, seen = frame.ledger, list[Migration]()
    histories: list[SampleReader] = []

    def look() -> dict[str, Any]:
        found, moving = latest()
        seen[:] = found or seen
        if not histories:
            histories.append(SampleReader(ledger, seen[0].id, _history_begin(seen[0])))
        history = histories[0]
        samples = history.take(time.time())
        return migration_update(frame, seen[0], moving, samples, history.last)

    return look, lambda: bool(seen) and is_over(seen[0])


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
        # Points are new ones, and rows replace those of before.
        if name not in news and one != last.get(name, [] if name in ("points", "rows") else None)
    }
    if not found.get("points"):
        others.pop("points", None)
    changed = {name: members for name, members in news.items() if members} | others
    return {**changed, **({"well": True} if "trouble" in last else {})}
