"""The live values of a page: as server-sent events, or as one JSON answer for a page that polls.

An event `set` has the changed texts and bars, ready to show; the script puts them into the elements
with their names. A page whose `shape` has changed loads itself again. Decided here: when a value is
sent. Never here: the values (`summaries.py`)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

from flask import Response, g, request

from relay.api.event_stream import JITTER, RETRY_MS, retry_field
from relay.api.migration_routes import follow, has_hung_up, json_answer
from relay.api.watcher import Subscription
from relay.errors import InvalidType, LedgerFailed
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

LOOK_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 15.0
"""Seconds after which a silent stream says that it is there: the script of the page knows then that
its values are current, and a write finds out if the client is gone."""
Look = Callable[[], dict[str, Any]]
Check = Callable[[], bool]
Groups = Mapping[Group, int]


class GroupCounts:
    """The latest counts of the groups that the lists of this process show."""

    def __init__(self) -> None:
        self._counts: dict[Viewer, tuple[float, Groups]] = {}

    def of(self, ledger: Ledger, viewer: Viewer) -> Callable[[], Groups]:
        """Return a function that counts the migrations of each group that a viewer sees; all lists
        of equal viewers share a count for LOOK_SECONDS."""

        def count() -> Groups:
            at, found = self._counts.get(viewer, (-inf, {}))
            if time.monotonic() - at > LOOK_SECONDS:
                # Before the ledger answers: other lists show the last count meanwhile.
                self._counts[viewer] = time.monotonic(), found
                self._counts[viewer] = time.monotonic(), ledger.group_counts(viewer)
            return self._counts[viewer][1]

        return count


def changes(
    frame: PageFrame, look: Look, ends: Check, still_admitted: Check, is_gone: Check
) -> Iterator[str]:
    """Yield the changed values after each wait of `is_gone`, and the state of the ledger while it
    is away, until the server drains, the client is gone, or `ends` says that nothing changes any
    more."""
    last: dict[str, Any] = {}
    sent = time.monotonic()
    yield f"{retry_field(RETRY_MS * random.uniform(*JITTER))}\n"
    while not frame.engine.draining:
        if not still_admitted():
            yield "event: gone\ndata: {}\n\n"
            return
        found = _look(frame, look)
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
        # A person who goes from page to page leaves streams, whose places the next ones need.
        if is_gone():
            return
    yield f"event: bye\ndata: {json.dumps({'text': words.DRAINING})}\nretry: 500\n\n"


@dataclass(eq=False)
class SampleReader:
    """The samples of one migration that a page has not got yet. The last one is read again: another
    worker may have added to it."""

    ledger: Ledger
    id: str
    since: int
    _next: float = 0.0

    def take(self, now: float) -> list[Sample]:
        """Return the new samples; none before the next ones are due. Raises LedgerFailed."""
        if now < self._next:
            return []
        found = self.ledger.samples(self.id, self.since)
        self._next = now + SAMPLE_SECONDS
        if found:
            self.since = found[-1].at
        return found


def stream(frame: PageFrame, counts: GroupCounts) -> Response:
    """Return the live values of a page as a stream. Raises MigrationUnknown, TooManyStreams,
    LedgerFailed, and a RequestError for a wrong query."""
    asked = _migrations_in_query(frame)
    is_one = "m" in request.args
    ids = [one.id for one in asked]

    def pieces(following: Subscription) -> Iterator[str]:
        if is_one:
            look, ends = _looks_at_one(frame, partial(_latest, following, ids))
        else:
            groups = counts.of(frame.ledger, frame.viewer)
            look, ends = _looks_at_list(frame, following, ids, groups)
        is_gone = partial(has_hung_up, request.environ, LOOK_SECONDS)
        return changes(frame, look, ends, g.still_admitted, is_gone)

    return follow(frame.works(), asked, pieces, moving=is_one)


def values(frame: PageFrame) -> Response:
    """Return the live values of a page once, for a page that polls; or that the ledger is away.
    Raises MigrationUnknown, and a RequestError for a wrong query."""
    return json_answer(_look(frame, partial(_values, frame)))


def _values(frame: PageFrame) -> dict[str, Any]:
    shown, ledger = _migrations_in_query(frame), frame.ledger
    if "list" in request.args:
        return list_update(frame, shown, ledger.group_counts(frame.viewer))
    if shown[0].state not in ENDED:
        ledger.watch([shown[0].id])
    samples = ledger.samples(shown[0].id, _history_begin(shown[0]))
    return migration_update(frame, shown[0], ledger.moving(shown[0].id), samples)


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
        return migration_update(frame, seen[0], moving, history.take(time.time()))

    return look, lambda: bool(seen) and is_over(seen[0])


def _look(frame: PageFrame, look: Look) -> dict[str, Any]:
    try:
        found = look()
    except LedgerFailed as error:
        return {"trouble": frame.ledger_away(error)}
    frame.outage.end()
    return found


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
