"""The watcher of a process: what each client's subscription holds, and when the ledger is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import gevent
import gevent.socket
import pytest

from relay.api import watcher as watching
from relay.api.event_stream import (
    COMMENT,
    PastEvents,
    event_pieces,
    hang_up_of,
    note_sending,
)
from relay.api.watcher import LOOK_SECONDS, MOST_QUEUED, STATE_SECONDS, Notice, Watcher
from relay.errors import LedgerFailed
from relay.ledger.event_values import Event, EventCursor
from relay.ledger.followed_state import Look
from relay.ledger.migration_values import Migration
from relay.views.migrations import PATIENCE

RUNNING = Migration(
    id="a",
    number=1,
    state="running",
    source="s",
    destination="d",
    options={},
    listing="none",
    cursor=None,
    error=None,
    priority=0,
    created=0.0,
    ended=None,
)
ENDED = replace(RUNNING, state="succeeded", ended=1.0)
NO_PAST = PastEvents(notices=(), until=EventCursor(), has_gap=False)


def event(number: int, id: str = "a", **members: str) -> Event:
    """Return an event."""
    return Event(
        cursor=EventCursor(0, number), migration_id=id, at=1.0, kind="failed", members=members
    )


@dataclass(eq=False)
class FakeLedger:
    """A ledger whose states and events the test sets."""

    states: dict[str, Migration] = field(default_factory=lambda: {"a": RUNNING})
    events: list[Event] = field(default_factory=list)
    failure: Exception | None = None
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def look(
        self,
        known: Mapping[str, Migration],
        since: EventCursor | None,
        watched: Collection[str] = (),
    ) -> Look:
        """As Ledger.look."""
        self.asked.append("states" if since is None else "states and events")
        if self.failure is not None:
            raise self.failure
        mark = self.mark()
        found = [
            one
            for one in self.events
            if since is not None and one.cursor > since and one.migration_id in known
        ]
        self.meanwhile()
        states = {id: self.states[id] for id in known if id in self.states}
        return Look(migrations=states, events=found, mark=mark, has_left_out=False)

    def watch(self, ids: Collection[str]) -> None:
        """As LiveLedger.watch."""
        self.asked.append("watch")

    def mark(self) -> EventCursor:
        """As Ledger.mark."""
        return self.events[-1].cursor if self.events else EventCursor()


@dataclass(eq=False)
class Clock:
    """A clock whose sleepers wake at once, a bounded number of times."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Note a sleep."""
        self.slept.append(seconds)
        self.now += seconds
        assert len(self.slept) < 100
        self.then()


def watcher_of(ledger: FakeLedger, clock: Clock | None = None) -> Watcher:
    """Return a watcher whose greenlet the test runs."""
    return Watcher(ledger, clock=clock or Clock(), spawn=lambda run: None)


def test_a_slow_client_has_the_latest_state_only() -> None:
    ledger = FakeLedger()
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING])
    for number in range(5):
        ledger.states["a"] = replace(RUNNING, slots=number)
        watcher.turn()
    assert following.wait(0)
    assert json.loads(following.take().progress["a"])["slots"] == 4
    assert not following.wait(0)


def test_clients_of_one_page_share_what_they_hold() -> None:
    ledger = FakeLedger(states={"a": RUNNING, "b": replace(RUNNING, id="b")})
    watcher = watcher_of(ledger)
    page = [watcher.subscribe(list(ledger.states.values())) for _ in range(3)]
    other = watcher.subscribe([RUNNING])
    watcher.turn()
    held = [one.take().migrations for one in page]
    assert set(held[0]) == {"a", "b"} and all(one is held[0] for one in held)
    assert set(other.take().migrations) == {"a"}


def test_a_full_queue_leaves_out_the_oldest_events() -> None:
    """The client learns that there is a gap, once."""
    ledger = FakeLedger()
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING], events=True)
    ledger.events = [event(number) for number in range(1, MOST_QUEUED + 3)]
    watcher.turn()
    update = following.take()
    assert (len(update.notices), update.has_gap) == (MOST_QUEUED, True)
    assert update.notices[0].cursor == EventCursor(0, 3)
    ledger.events.append(event(999))
    watcher.turn()
    update = following.take()
    assert ([one.cursor.id for one in update.notices], update.has_gap) == ([999], False)


def test_a_queue_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_QUEUED_BYTES", 1000)
    ledger = FakeLedger()
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING], events=True)
    ledger.events = [event(number, name="x" * 300) for number in range(1, 9)]
    watcher.turn()
    update = following.take()
    assert update.has_gap and sum(len(one.text) for one in update.notices) <= 1000


def test_each_client_gets_its_own_migrations_events_once() -> None:
    """Also one that came while the ledger was read, and has its past events from there."""
    ledger = FakeLedger(states={"a": RUNNING, "b": replace(RUNNING, id="b")})
    watcher = watcher_of(ledger)
    first = watcher.subscribe([ledger.states["a"]], events=True)
    came = []

    def come() -> None:
        ledger.meanwhile = lambda: None
        # Committed after the look has read the events, and before the client asks for its past.
        ledger.events.append(event(3, "b"))
        came.append(watcher.subscribe([ledger.states["b"]], events=True))

    ledger.events = [event(1), event(2, "b")]
    ledger.meanwhile = come
    watcher.turn()
    (second,) = came
    second.skip("b", EventCursor(0, 2))
    ledger.events.append(event(4))
    watcher.turn()
    watcher.turn()
    assert [one.cursor.id for one in first.take().notices] == [1, 4]
    assert [one.cursor.id for one in second.take().notices] == [3]


def test_the_greenlet_runs_only_while_clients_follow() -> None:
    """Once a second for clients that want events, twice for those that only want states."""
    ledger, clock = FakeLedger(), Clock()
    runs: list[Callable[[], None]] = []
    watcher = Watcher(ledger, clock=clock, sleep=clock.sleep, spawn=runs.append)
    assert (runs, ledger.asked) == ([], [])
    states = watcher.subscribe([RUNNING])
    events = watcher.subscribe([RUNNING], events=True)
    assert len(runs) == 1

    def leave() -> None:
        if len(clock.slept) == 3:
            watcher.unsubscribe(events)
        if len(clock.slept) == 5:
            watcher.unsubscribe(states)

    clock.then = leave
    runs[0]()
    assert clock.slept == [LOOK_SECONDS] * 3 + [STATE_SECONDS] * 2
    assert ledger.asked == ["states and events"] * 2 + ["states"] * 2
    watcher.subscribe([RUNNING])
    assert len(runs) == 2, "it starts again"


def test_a_failing_ledger_is_reported_to_each_client() -> None:
    """With the last state; for how long it fails ends with the next answer."""
    ledger, clock = FakeLedger(), Clock()
    watcher = watcher_of(ledger, clock)
    following = watcher.subscribe([RUNNING], events=True)
    ledger.failure = LedgerFailed("away")
    watcher.turn()
    clock.now += 5
    watcher.turn()
    update = following.take()
    assert update.failure is ledger.failure and update.failing_seconds == 5
    assert json.loads(update.progress["a"])["trouble"]["code"] == "ledger-failed"
    ledger.failure = None
    watcher.turn()
    update = following.take()
    assert (update.failure, update.failing_seconds) == (None, 0)
    assert json.loads(update.progress["a"])["trouble"] is None


def test_a_bug_of_a_look_ends_no_stream() -> None:
    ledger = FakeLedger(failure=KeyError("planted"))
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING])
    watcher.turn()
    failure = following.take().failure
    assert failure is not None and "KeyError" in failure.message
    ledger.failure = None
    watcher.turn()
    assert following.take().failure is None


def test_a_client_that_takes_nothing_is_hung_up() -> None:
    ledger, clock = FakeLedger(), Clock()
    watcher = watcher_of(ledger, clock)
    closed: list[str] = []
    stuck = watcher.subscribe([RUNNING], hang_up=lambda: closed.append("stuck"))
    watcher.subscribe([RUNNING], hang_up=lambda: closed.append("well"))
    pieces = note_sending(stuck, iter("ab"), clock)
    assert next(pieces) == "a"
    clock.now += 30
    watcher.turn()
    assert closed == []
    clock.now += 1
    watcher.turn()
    assert closed == ["stuck"]
    assert next(pieces) == "b"
    assert list(pieces) == [] and stuck.sending_since is None


def test_hanging_up_ends_a_send_that_waits() -> None:
    """The socket itself stays the server's to close."""
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        sending = gevent.spawn(_send, ours, bytes(64 << 20))
        gevent.sleep(0)
        assert not sending.ready()
        hang_up_of({"gunicorn.socket": ours})()
        sending.join(10)
        assert isinstance(sending.value, OSError)
        assert ours.fileno() >= 0
    hang_up_of({"gunicorn.socket": ours})()
    hang_up_of({})()


def _send(sock: gevent.socket.socket, data: bytes) -> OSError | None:
    try:
        sock.sendall(data)
    except OSError as error:
        return error
    return None


# -- the pieces of a stream


def kinds(pieces: Iterator[str]) -> list[str]:
    """Return the kinds of events in pieces, with `retry` and `:` for the others."""
    return [
        line.partition(": ")[2] if line.startswith("event: ") else line.partition(":")[0] or ":"
        for line in "".join(pieces).splitlines()
        if line.startswith(("event: ", "retry: ", ":"))
    ]


def test_a_stream_begins_with_the_past_and_ends_with_the_state() -> None:
    """Each event comes before the state that it led to."""
    ledger = FakeLedger(states={"a": ENDED})
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING], events=True)
    ledger.events = [event(1), event(2)]
    watcher.turn()
    past = PastEvents(notices=[Notice.of(event(1))], until=EventCursor(0, 1), has_gap=True)
    pieces = list(event_pieces(following, "a", past, lambda low, high: high))
    assert kinds(iter(pieces)) == ["retry", "resync", "failed", "failed", "progress"]
    assert pieces[0] == "retry: 2500\n"
    assert pieces[2].startswith("id: 0-1\nevent: failed\ndata: {")
    assert json.loads(pieces[-1].partition("data: ")[2])["ended"] == 1.0


def test_a_silent_stream_sends_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the server notices a client that is gone."""
    ledger = FakeLedger()
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING], events=True)
    pieces = event_pieces(following, "a", NO_PAST)
    assert kinds(iter([next(pieces), next(pieces)])) == ["retry", "progress"]
    waited: list[float] = []
    monkeypatch.setattr(following, "wait", lambda seconds: bool(waited.append(seconds)))
    assert [next(pieces), next(pieces)] == [COMMENT] * 2
    assert waited == [15.0] * 2


def test_a_stopping_server_says_goodbye() -> None:
    """With a short time after which the client comes back."""
    ledger, stopping = FakeLedger(), [False]
    watcher = Watcher(ledger, is_stopping=lambda: stopping[0], spawn=lambda run: None)
    following = watcher.subscribe([RUNNING], events=True)
    pieces = event_pieces(following, "a", NO_PAST)
    assert kinds(iter([next(pieces), next(pieces)])) == ["retry", "progress"]
    stopping[0] = True
    watcher.turn()
    assert list(pieces) == ["retry: 500\nevent: bye\ndata: {}\n\n"]


def test_a_ledger_that_stays_away_ends_a_stream() -> None:
    ledger, clock = FakeLedger(failure=LedgerFailed("away")), Clock()
    watcher = watcher_of(ledger, clock)
    following = watcher.subscribe([RUNNING], events=True)
    pieces = event_pieces(following, "a", NO_PAST)
    assert kinds(iter([next(pieces), next(pieces)])) == ["retry", "progress"]
    watcher.turn()
    assert json.loads(next(pieces).partition("data: ")[2])["trouble"] is not None
    clock.now += PATIENCE + 1
    watcher.turn()
    with pytest.raises(LedgerFailed):
        next(pieces)


def test_a_deleted_migration_ends_its_stream() -> None:
    ledger = FakeLedger()
    watcher = watcher_of(ledger)
    following = watcher.subscribe([RUNNING], events=True)
    pieces = event_pieces(following, "a", NO_PAST)
    assert kinds(iter([next(pieces), next(pieces)])) == ["retry", "progress"]
    ledger.states = {}
    watcher.turn()
    assert list(pieces) == []
