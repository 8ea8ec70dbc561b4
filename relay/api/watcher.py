"""The watcher of one server process: one greenlet that looks at the ledger for all clients that
follow migrations.

Theory of operation. Each client has a subscription: a mailbox with room for one state, the latest,
and a bounded queue of events. Once a second the watcher reads the states of all followed migrations
and their new events, in two statements, however many clients there are, and puts them into the
subscriptions. A third statement reads what is moved, for clients that show it; every five seconds
the watcher notes that their migrations are watched, so that workers write that. While all clients
only want states it reads these alone, twice a second. Without clients the greenlet ends, and
nothing is read.

A client that takes nothing costs its mailbox and its queue. If the queue is full, the oldest events
are left out, and the client learns that there is a gap. If its socket takes nothing for
SEND_SECONDS, its connection is closed.

Decided here: when the ledger is read for clients, and what each of them keeps. Never here: what the
ledger reads (`relay/ledger/followed_state.py`), and what a client is sent (`event_stream.py`)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event as Signal

from relay.errors import LedgerFailed, RelayError
from relay.errors.bugs import bug
from relay.ledger.event_values import Event, EventCursor
from relay.ledger.followed_state import Look
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Moving
from relay.views.migrations import brief

LOOK_SECONDS = 1.0
"""Time between two looks at the ledger while a client wants events."""
STATE_SECONDS = 0.5
"""The same while all clients only want states."""
WATCH_SECONDS = 5.0
"""How often the watcher notes that a migration is watched."""
MOST_QUEUED = 200
"""Maximum number of events that wait for one client."""
MOST_QUEUED_BYTES = 48 << 10
"""Maximum size of their texts. With the latest state, and what a socket takes at once, a stream
holds less than 64 KiB."""
SEND_SECONDS = 30.0
"""How long a client's socket may take nothing."""
_NO_CURSOR = EventCursor()


class FollowedLedger(Protocol):
    """The part of the ledger that the watcher reads."""

    def look(
        self,
        known: Mapping[str, Migration],
        since: EventCursor | None,
        watched: Collection[str] = (),
    ) -> Look:
        """As followed_state.look."""

    def watch(self, ids: Collection[str]) -> None:
        """As live_rows.watch."""

    def mark(self) -> EventCursor:
        """As event_log.mark."""


@dataclass(frozen=True)
class Notice:
    """An event that is ready to be sent: its text is JSON."""

    cursor: EventCursor
    migration_id: str
    kind: str
    text: str

    @classmethod
    def of(cls, event: Event) -> Notice:
        """Return an event, ready to be sent."""
        return cls(event.cursor, event.migration_id, event.kind, json.dumps(event.to_json()))


class ProgressTexts(Mapping[str, str]):
    """Migrations in brief as JSON, with the trouble of this process. A text is made when the first
    client asks for it; the clients of pages need none."""

    def __init__(self, migrations: Mapping[str, Migration], trouble: RelayError | None) -> None:
        """Nothing is made yet."""
        self._migrations, self._trouble = migrations, trouble
        self._texts: dict[str, str] = {}

    def __getitem__(self, id: str) -> str:
        """Return the text of one migration."""
        found = self._texts.get(id)
        if found is None:
            members = brief(self._migrations[id])
            if self._trouble is not None:
                members["trouble"] = {"code": self._trouble.code, "detail": self._trouble.title}
            found = self._texts[id] = json.dumps(members)
        return found

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""
        return iter(self._migrations)

    def __len__(self) -> int:
        """Return the number of migrations."""
        return len(self._migrations)


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a subscription holds when its client takes it."""

    migrations: Mapping[str, Migration]
    """The latest state of each migration; one that was deleted is missing."""
    progress: Mapping[str, str]
    """The same as JSON, in brief, with the trouble of this process; it may have others too."""
    moving: Mapping[str, Moving]
    """What is moved of each, for a client that shows it."""
    notices: Sequence[Notice]
    """The events since the last update, in order."""
    has_gap: bool
    """Whether events before these were left out."""
    failure: LedgerFailed | None
    """Why the last look at the ledger failed."""
    failing_seconds: float
    """For how long they have failed."""
    stopping: bool
    """Whether the server stops: this is the last update."""


@dataclass(eq=False)
class Subscription:
    """One client's mailbox. Only `Watcher` writes it."""

    ids: frozenset[str]
    _: KW_ONLY
    wants_events: bool
    wants_moving: bool = False
    migrations: Mapping[str, Migration]
    progress: Mapping[str, str]
    hang_up: Callable[[], None] = lambda: None
    """Closes the client's connection, so that a send to it fails."""
    sending_since: float | None = None
    """Since when its socket takes a piece; None while it has taken all."""

    def __post_init__(self) -> None:
        """Start with nothing to take."""
        self._notices: deque[Notice] = deque()
        self._queued_bytes = 0
        self._seen: dict[str, EventCursor] = {}
        self._has_gap = False
        self._failure: LedgerFailed | None = None
        self._failing_seconds = 0.0
        self._stopping = False
        self._moving: Mapping[str, Moving] = {}
        self._signal = Signal()

    # -- for the client's greenlet

    def wait(self, seconds: float) -> bool:
        """Wait for an update; return whether there is one."""
        return bool(self._signal.wait(seconds))

    def take(self) -> Update:
        """Return what there is, and forget the events."""
        update = Update(
            migrations=self.migrations,
            progress=self.progress,
            moving=self._moving,
            notices=tuple(self._notices),
            has_gap=self._has_gap,
            failure=self._failure,
            failing_seconds=self._failing_seconds,
            stopping=self._stopping,
        )
        self._notices.clear()
        self._queued_bytes, self._has_gap = 0, False
        self._signal.clear()
        return update

    def skip(self, id: str, until: EventCursor) -> None:
        """Leave out the events of a migration up to `until`, which the client has by other
        means."""
        self._seen[id] = max(until, self._seen.get(id, _NO_CURSOR))
        kept = [one for one in self._notices if one.migration_id != id or one.cursor > until]
        self._notices = deque(kept)
        self._queued_bytes = sum(len(one.text) for one in kept)

    # -- for the watcher

    def put(
        self,
        migrations: Mapping[str, Migration],
        progress: Mapping[str, str],
        notices: Iterable[Notice],
        *,
        moving: Mapping[str, Moving],
        has_gap: bool,
    ) -> None:
        """Replace the state, and queue events."""
        self.migrations, self.progress, self._moving = migrations, progress, moving
        self._failure, self._failing_seconds = None, 0.0
        self._has_gap |= has_gap and self.wants_events
        if self.wants_events:
            for notice in notices:
                self._queue(notice)
        self._signal.set()

    def _queue(self, notice: Notice) -> None:
        if notice.cursor <= self._seen.get(notice.migration_id, _NO_CURSOR):
            return
        self._seen[notice.migration_id] = notice.cursor
        self._notices.append(notice)
        self._queued_bytes += len(notice.text)
        while len(self._notices) > MOST_QUEUED or self._queued_bytes > MOST_QUEUED_BYTES:
            self._queued_bytes -= len(self._notices.popleft().text)
            self._has_gap = True

    def note_failure(
        self, error: LedgerFailed, seconds: float, progress: Mapping[str, str]
    ) -> None:
        """Note that the ledger does not answer; the state stays."""
        self._failure, self._failing_seconds, self.progress = error, seconds, progress
        self._signal.set()

    def stop(self) -> None:
        """Note that the server stops."""
        self._stopping = True
        self._signal.set()


@dataclass(frozen=True)
class _Held:
    """What clients that follow the same migrations get of one look."""

    migrations: Mapping[str, Migration]
    moving: Mapping[str, Moving]
    notices: Sequence[Notice]

    @classmethod
    def of(cls, ids: Iterable[str], found: Look, notices: Mapping[str, Sequence[Notice]]) -> _Held:
        """Return the part of a look that is about some migrations."""
        there = [id for id in ids if id in found.migrations]
        return cls(
            {id: found.migrations[id] for id in there},
            {id: found.moving[id] for id in there if id in found.moving},
            [notice for id in there for notice in notices.get(id, ())],
        )


@dataclass(eq=False)
class Watcher:
    """Looks at the ledger for all clients of one process."""

    ledger: FollowedLedger
    _: KW_ONLY
    trouble: Callable[[], RelayError | None] = lambda: None
    """Returns why this process can't use its ledger at the moment, or None."""
    is_stopping: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], None] = gevent.sleep
    spawn: Callable[[Callable[[], None]], Any] = gevent.spawn
    _known: dict[str, Migration] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start without clients, and without a greenlet."""
        self._subscriptions: set[Subscription] = set()
        self._mark: EventCursor | None = None
        self._is_running = False
        self._failing_since: float | None = None
        self._watched: frozenset[str] = frozenset()
        self._watch_at = -inf

    @property
    def followers(self) -> int:
        """Number of clients."""
        return len(self._subscriptions)

    @contextmanager
    def follow(
        self,
        migrations: Sequence[Migration],
        *,
        events: bool = False,
        moving: bool = False,
        hang_up: Callable[[], None] = lambda: None,
    ) -> Iterator[Subscription]:
        """As `subscribe`, for the time of the block."""
        subscription = self.subscribe(migrations, events=events, moving=moving, hang_up=hang_up)
        try:
            yield subscription
        finally:
            self.unsubscribe(subscription)

    def subscribe(
        self,
        migrations: Sequence[Migration],
        *,
        events: bool = False,
        moving: bool = False,
        hang_up: Callable[[], None] = lambda: None,
    ) -> Subscription:
        """Return a subscription to migrations that the caller has just read. With `events`, it gets
        every event that is committed from now on; with `moving`, the moving objects. Raises
        LedgerFailed."""
        if events and self._mark is None:
            mark = self.ledger.mark()
            # Another client may have set it meanwhile: the earlier one leaves nothing out.
            self._mark = mark if self._mark is None else min(mark, self._mark)
        # Equal states are one object, however many clients there are: a list follows fifty.
        shared = [
            one if one != self._known.get(one.id) else self._known[one.id] for one in migrations
        ]
        self._known.update({one.id: one for one in shared})
        found = {one.id: one for one in shared}
        subscription = Subscription(
            frozenset(found),
            wants_events=events,
            wants_moving=moving,
            migrations=found,
            progress=ProgressTexts(found, self.trouble()),
            hang_up=hang_up,
        )
        self._subscriptions.add(subscription)
        if not self._is_running:
            self._is_running = True
            self.spawn(self._run)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; a second call does nothing."""
        self._subscriptions.discard(subscription)
        if not any(one.wants_events for one in self._subscriptions):
            self._mark = None

    # -- the greenlet

    def _run(self) -> None:
        try:
            self._pause()
            while self._subscriptions:
                self.turn()
                self._pause()
        finally:
            self._is_running = False

    def _pause(self) -> None:
        wants_more = any(one.wants_events or one.wants_moving for one in self._subscriptions)
        self.sleep(LOOK_SECONDS if wants_more else STATE_SECONDS)

    def turn(self) -> None:
        """Look at the ledger once, and update every subscription. Raises nothing."""
        try:
            if self.is_stopping():
                for one in tuple(self._subscriptions):
                    one.stop()
                return
            self._hang_up_stuck()
            self._look()
        except LedgerFailed as error:
            self._note_failure(error)
        except Exception as error:  # noqa: BLE001 - a bug: logged, and the next turn may succeed
            self._note_failure(LedgerFailed(bug(error).message))

    def _look(self) -> None:
        began = tuple(self._subscriptions)
        ids = {id for one in began for id in one.ids}
        if not ids:
            return
        wants_events = any(one.wants_events for one in began)
        known = {id: self._known[id] for id in ids}
        watched = frozenset(id for one in began if one.wants_moving for id in one.ids)
        found = self.ledger.look(known, self._mark if wants_events else None, watched)
        self._failing_since = None
        current = tuple(self._subscriptions)
        # A client that came meanwhile may have asked for its past events before this look ended,
        # and nothing was read for it here: then the next look begins where this one did. What a
        # client gets twice, its subscription leaves out.
        if wants_events and all(one.ids <= ids for one in current if one.wants_events):
            self._mark = found.mark if self._mark is not None else None
        followed = {id for one in current for id in one.ids}
        states = {**self._known, **found.migrations}
        self._known = {id: one for id, one in states.items() if id in followed}
        self._deliver(found, [one for one in current if one.ids <= ids])
        self._watch(watched)

    def _watch(self, ids: frozenset[str]) -> None:
        """Note that some migrations are watched, every WATCH_SECONDS and where there is another
        one."""
        now = self.clock()
        if not ids or (ids <= self._watched and now < self._watch_at):
            return
        self._watched, self._watch_at = ids, now + WATCH_SECONDS
        with suppress(LedgerFailed):  # the next look reports it
            self.ledger.watch(ids)

    def _deliver(self, found: Look, to: Iterable[Subscription]) -> None:
        texts = ProgressTexts(found.migrations, self.trouble())
        notices: dict[str, list[Notice]] = {}
        for event in found.events:
            notices.setdefault(event.migration_id, []).append(Notice.of(event))
        # Clients of one page follow the same migrations: they share what they hold of them.
        held: dict[frozenset[str], _Held] = {}
        for one in to:
            if one.ids not in held:
                held[one.ids] = _Held.of(one.ids, found, notices)
            mine = held[one.ids]
            one.put(
                mine.migrations,
                texts,
                mine.notices,
                moving=mine.moving,
                has_gap=found.has_left_out,
            )

    def _note_failure(self, error: LedgerFailed) -> None:
        now = self.clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        texts = ProgressTexts(self._known, error)
        for one in tuple(self._subscriptions):
            one.note_failure(error, now - self._failing_since, texts)

    def _hang_up_stuck(self) -> None:
        """Close the connections of clients that take nothing."""
        latest = self.clock() - SEND_SECONDS
        for one in tuple(self._subscriptions):
            if one.sending_since is not None and one.sending_since < latest:
                one.hang_up()
