"""The live values of a page: as server-sent events, or as one JSON answer for a page that polls.

An event `set` has the changed texts and bars, ready to show; the script puts them into the elements
with their names. A page whose `shape` has changed loads itself again. Decided here: which state of
the ledger a page shows. Never here: the values (`summaries.py`), and the steps of a stream
(`value_stream.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from typing import Final

from flask import Response, g, request

from relay.api.answers import json_answer
from relay.api.hub_pauses import Stagger
from relay.api.migration_streams import follow, has_hung_up, require_stream_place
from relay.api.watcher import Subscription
from relay.errors import InvalidType, LedgerFailed
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.overview import Group
from relay.ledger.sample_values import Moving
from relay.ledger.states import ENDED
from relay.ledger.viewer import Viewer
from relay.ui.feeds import Feed, Feeds, MigrationValues, SampleReader, Values
from relay.ui.frame import PageFrame
from relay.ui.migration_list import ROWS, ListValues, list_update
from relay.ui.migration_screen import migration_update
from relay.ui.moving_rows import HISTORY_SECONDS
from relay.ui.queries import name_of
from relay.ui.value_stream import LOOK_SECONDS, ValueStream
from relay.views.migrations import is_over

Groups = Mapping[Group, int]
Latest = Callable[[], tuple[Sequence[Migration], Moving]]
"""Returns the migrations of a page as the watcher has seen them last, and what the only one of them
moves. Raises LedgerFailed while the ledger is away."""
NOTHING_MOVES: Final = Moving()


class SharedValues:
    """What the streams of this process share: the feeds of their pages, the latest counts of the
    groups of the list, and the moments at which they begin: a server that restarts gets all its
    streams together."""

    def __init__(self) -> None:
        self._counts: dict[Viewer, tuple[float, Groups]] = {}
        self.feeds = Feeds()
        self.beginnings = Stagger()

    def groups(self, ledger: Ledger, viewer: Viewer) -> Callable[[], Groups]:
        """Return a function that counts the migrations of each group that a viewer sees; all lists
        of equal viewers share a count for LOOK_SECONDS."""

        def count() -> Groups:
            at, found = self._counts.get(viewer, (-inf, {}))
            if time.monotonic() - at > LOOK_SECONDS:
                # Before the ledger answers: other lists show the last count meanwhile.
                self._counts[viewer] = time.monotonic(), found
                self._counts[viewer] = time.monotonic(), ledger.overview.group_counts(viewer)
            return self._counts[viewer][1]

        return count


def stream(frame: PageFrame, shared: SharedValues) -> Response:
    """Return the live values of a page as a stream. Raises MigrationUnknown, TooManyStreams,
    LedgerFailed, and a RequestError for a wrong query."""
    require_stream_place(frame.works())
    shared.beginnings.wait()
    asked = _migrations_in_query(frame)
    is_one = "m" in request.args
    is_gone = partial(has_hung_up, request.environ)
    still_admitted: Callable[[], bool] = g.still_admitted
    made = _feed_of(frame, shared, asked)
    # A stream keeps no migrations of its own: fifty of them are 100 KB.
    ids = [one.id for one in asked]

    def pieces(following: Subscription) -> Iterator[str]:
        latest = partial(_latest, following, ids)
        with made as feed:
            yield from ValueStream(
                look=partial(look_at, frame, latest, feed, ends=is_one),
                news=feed.change,
                still_admitted=still_admitted,
                is_draining=lambda: frame.engine.draining,
                is_gone=is_gone,
            ).events()

    return follow(frame.works(), asked, pieces, moving=is_one)


def values(frame: PageFrame) -> Response:
    """Return the live values of a page once, for a page that polls; or that the ledger is away.
    Raises MigrationUnknown, and a RequestError for a wrong query."""
    try:
        found = _values(frame)
    except LedgerFailed as error:
        found = {"trouble": frame.ledger_away(error)}
    return json_answer(found)


def _values(frame: PageFrame) -> Values:
    shown, ledger = _migrations_in_query(frame), frame.ledger
    if "list" in request.args:
        return list_update(frame, shown, ledger.overview.group_counts(frame.viewer))
    if shown[0].state not in ENDED:
        ledger.live.watch([shown[0].id])
    samples = ledger.live.samples(shown[0].id, _history_begin(shown[0]))
    return migration_update(frame, shown[0], ledger.live.moving(shown[0].id), samples)


def _migrations_in_query(frame: PageFrame) -> list[Migration]:
    """Return the migrations that a page shows. Raises MigrationUnknown, LedgerFailed, and a
    RequestError for a wrong query."""
    if ("m" in request.args) == ("list" in request.args):
        raise InvalidType("the query names neither m nor list", hint="Load the page again.")
    if "m" in request.args:
        return [frame.migration(name_of(request.args["m"], "m"))]
    names = [name_of(text, "list") for text in request.args["list"].split(",")][:ROWS]
    found = {one.name: one for one in frame.ledger.overview.migrations_by_name(names, frame.viewer)}
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
    return found, update.moving.get(ids[0], NOTHING_MOVES) if ids else NOTHING_MOVES


def _feed_of(
    frame: PageFrame, shared: SharedValues, asked: Sequence[Migration]
) -> AbstractContextManager[Feed]:
    """Return the feed of a page, which all its streams share."""
    ids, viewer, ledger = tuple(one.id for one in asked), frame.viewer, frame.ledger
    if "m" in request.args:
        reader = partial(SampleReader, ledger, ids[0], _history_begin(asked[0]))
        return shared.feeds.of(ids, lambda: MigrationValues(frame, reader()))
    groups = shared.groups(ledger, viewer)
    return shared.feeds.of((viewer, ids), lambda: ListValues(frame, groups))


def look_at(frame: PageFrame, latest: Latest, feed: Feed, *, ends: bool) -> tuple[Values, bool]:
    """Return the values of a page now, or the trouble of the ledger, and whether they are the last:
    the only migration of a page that `ends` with it is over."""
    try:
        shown, moving = latest()
        values = feed.values(shown, moving)
    except LedgerFailed as error:
        return {"trouble": frame.ledger_away(error)}, False
    frame.outage.end()
    return values, ends and bool(shown) and is_over(shown[0])
