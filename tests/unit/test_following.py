"""The cost of clients that follow a migration: one query for all of them, and a bounded number of
places."""

from __future__ import annotations

from typing import Any, cast

import gevent
import pytest

from relay.api.following import PollCache, Waiters
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Migration
from relay.views.migrations import progress_events

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


def test_one_read_serves_all_followers_of_a_migration() -> None:
    """Followers that arrive during the query, and those that arrive soon after; each migration has
    its own query."""
    asked: list[str] = []
    now = [0.0]

    def look(id: str) -> Any:
        gevent.sleep(0.01)
        asked.append(id)
        return f"{id} at {now[0]}"

    looks = PollCache(look, 0.5, lambda: now[0])
    crowd = [gevent.spawn(looks.migration, id) for id in ("a", "b") for _ in range(100)]
    gevent.joinall(crowd, raise_error=True)
    assert sorted(asked) == ["a", "b"]
    assert {job.value for job in crowd} == {"a at 0.0", "b at 0.0"}
    now[0] = 0.5
    assert (looks.migration("a"), looks.migration("a")) == ("a at 0.5", "a at 0.5")
    assert sorted(asked) == ["a", "a", "b"]


def test_followers_by_events_share_one_query() -> None:
    """Of the migration's state; each has its own list of events."""
    asked: list[str] = []

    def look(id: str) -> Any:
        asked.append(id)
        return RUNNING

    class Events:
        @staticmethod
        def events(id: str, since: int) -> list[dict[str, Any]]:
            return []

    looks, ledger = PollCache(look, 60.0), cast(Ledger, Events())
    for _ in range(9):
        follower = progress_events(ledger, "a", 0, lambda _: None, looks.migration)
        assert [next(follower)[0] for _ in range(3)] == ["progress"] * 3
    assert asked == ["a"]


def test_an_inspection_that_fails_affects_no_other() -> None:
    """It raises in the follower that made it, and the next follower queries again."""
    answers: list[Any] = [OSError(), "there"]

    def look(_: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    looks = PollCache(look, 0.5)
    with pytest.raises(OSError):
        looks.migration("a")
    assert looks.migration("a") == "there"


def test_waiting_places_are_bounded_and_released() -> None:
    """Also if waiting ends by an exception; a client without a place releases none."""
    waiters = Waiters(1)
    with waiters.place() as first, waiters.place() as second:
        assert (first, second) == (True, False)
    with pytest.raises(KeyError), waiters.place():
        raise KeyError
    with waiters.place() as third:
        assert third
    with Waiters(0).place() as none:
        assert not none
