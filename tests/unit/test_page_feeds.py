"""What the streams of one process share: values that are computed once, and changes that are written
once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.errors import LedgerFailed
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Moving
from relay.ui import value_stream
from relay.ui.feeds import CHANGES, Feed, Feeds, Values, difference, silent_event
from relay.ui.live_values import look_at
from relay.ui.value_stream import LookTimes, ValueStream

NOTHING = Moving()


def state(number: int) -> list[Migration]:
    """Return a state of the ledger, which is not equal to any other."""
    return [cast(Migration, {"number": number})]


class Counter:
    """Computes the values of a state, and counts how often."""

    def __init__(self) -> None:
        self.count, self.failure = 0, False

    def __call__(self, found: Sequence[Migration], moving: Moving) -> Values:
        """Return the values."""
        self.count += 1
        if self.failure:
            raise LedgerFailed("away")
        return {"texts": {"n": cast(dict[str, Any], found[0])["number"]}, "bars": {}}


def test_streams_share_values_and_their_json() -> None:
    compute = Counter()
    feed, first, second = Feed(compute), state(1), state(2)
    one = [feed.values(first, NOTHING) for _ in range(200)]
    two = [feed.values(second, NOTHING) for _ in range(200)]
    assert compute.count == 2 and all(found is one[0] for found in one)
    texts = [feed.change(before, now) for before, now in zip(one, two, strict=True)]
    assert json.loads(texts[0]) == {"texts": {"n": 2}}
    assert all(text is texts[0] for text in texts)
    assert feed.change(two[0], two[0]) == ""


def test_other_moving_objects_are_another_state() -> None:
    compute = Counter()
    feed, first = Feed(compute), state(1)
    feed.values(first, NOTHING)
    feed.values(first, Moving(count=1))
    assert compute.count == 2


def test_a_failure_is_not_kept_as_values() -> None:
    compute = Counter()
    feed, first = Feed(compute), state(1)
    compute.failure = True
    with pytest.raises(LedgerFailed):
        feed.values(first, NOTHING)
    compute.failure = False
    assert feed.values(first, NOTHING)["texts"] == {"n": 1}


def test_streams_look_at_moments_of_their_own() -> None:
    """Also those that began together, or that an answer of the ledger has woken together."""
    now = [100.0]
    parts = iter(range(10))
    times = [LookTimes(lambda: now[0], lambda: next(parts) / 10) for _ in range(10)]
    for late in (0.0, 0.4, 0.97):
        now[0] = 100.0 + late
        looks = sorted(now[0] + one.wait() for one in times)
        assert all(0.5 <= look - now[0] < 1.5 for look in looks)
        gaps = [second - first for first, second in pairwise(looks)]
        assert min(gaps) == pytest.approx(0.1)


def test_first_values_are_written_as_json_once() -> None:
    """A server that restarts gets all its streams at one moment."""
    feed, first, written = Feed(Counter()), state(1), list[str]()

    def news(last: Values, now: Values) -> str:
        written.append(feed.change(last, now))
        return written[-1]

    for _ in range(2):
        stream = ValueStream(
            look=lambda: (feed.values(first, NOTHING), True),
            news=news,
            still_admitted=lambda: True,
            is_draining=lambda: False,
            is_gone=lambda seconds: False,
        )
        list(stream.events())
    assert written[0] and written[0] is written[1]


def test_few_changes_are_kept() -> None:
    """A stream that looks late gets a difference of its own."""
    feed = Feed(Counter())
    values = [feed.values(state(number), NOTHING) for number in range(3 * CHANGES)]
    for before, now in zip(values, values[1:], strict=False):
        feed.change(before, now)
    assert len(feed._changes) == CHANGES
    assert json.loads(feed.change(values[0], values[-1])) == {"texts": {"n": 3 * CHANGES - 1}}


def test_a_feed_ends_with_its_last_stream() -> None:
    feeds, made = Feeds(), list[Counter]()

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    with feeds.of("page", make) as one:
        with feeds.of("page", make) as two:
            assert one is two
        with feeds.of("page", make) as three:
            assert one is three
    with feeds.of("page", make) as four:
        assert one is not four
    assert len(made) == 2 and not feeds._feeds


def test_a_stream_gets_what_it_does_not_have() -> None:
    """Of texts, bars and points those that changed; rows and the shape as a whole."""
    first = {
        "texts": {"a": "1", "b": "2"},
        "bars": {"bar": [1, "1"]},
        "shape": "x",
        "rows": [["one"]],
        "points": [[10, 1, 0], [20, 2, 0]],
    }
    assert difference({}, first) == first
    assert difference(first, first) == {}
    second = {
        **first,
        "rows": [],
        "points": [[20, 3, 0], [30, 4, 0]],
        "texts": {"a": "1", "b": "3"},
    }
    assert difference(first, second) == {
        "texts": {"b": "3"},
        "rows": [],
        "points": [[20, 3, 0], [30, 4, 0]],
    }
    assert difference({}, {"texts": {}, "bars": {}, "rows": [], "points": []}) == {}


def test_trouble_is_said_once_and_its_end_too() -> None:
    values: Values = {"texts": {"a": "1"}, "bars": {}}
    trouble: Values = {"trouble": "The ledger does not answer."}
    assert difference(values, trouble) == trouble
    assert difference(trouble, {"trouble": "It still does not."}) == {}
    assert difference(trouble, values) == {"well": True, "texts": {"a": "1"}}


def test_trouble_is_repeated_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat would tell the page that its values are current."""
    monkeypatch.setattr(value_stream, "SILENT_SECONDS", -1.0)
    trouble = {"trouble": "away"}

    def fail() -> Any:
        raise LedgerFailed("away")

    frame: Any = SimpleNamespace(ledger_away=lambda _: trouble["trouble"])
    feed = Feed(Counter())
    stream = ValueStream(
        look=lambda: look_at(frame, fail, feed, ends=False),
        news=feed.change,
        still_admitted=lambda: True,
        is_draining=lambda: False,
        is_gone=lambda seconds: False,
    ).events()
    next(stream)
    events = [next(stream) for _ in range(3)]
    assert events == [f"event: set\ndata: {json.dumps(trouble)}\n\n"] * 3
    assert silent_event({"texts": {}}) == "event: beat\ndata: {}\n\n"


def test_a_stream_says_what_changed_and_how_it_ends() -> None:
    """Behind a trouble the page shows everything again; each look follows a wait."""
    first: Values = {"texts": {"a": "1", "b": "2"}, "bars": {}}
    second: Values = {"texts": {"a": "1", "b": "3"}, "bars": {}}
    looks = iter([(first, False), ({"trouble": "away"}, False), (first, False), (second, True)])
    stream = ValueStream(
        look=lambda: next(looks),
        still_admitted=lambda: True,
        is_draining=lambda: False,
        is_gone=lambda seconds: False,
    )
    found = list(stream.events())[1:]
    assert [json.loads(text.partition("data: ")[2]) for text in found] == [
        {"texts": {"a": "1", "b": "2"}},
        {"trouble": "away"},
        {"well": True, "texts": {"a": "1", "b": "2"}},
        {"texts": {"b": "3"}},
        {},
    ]
    assert found[-1] == "event: end\ndata: {}\n\n"
    for change, event in (
        ({"still_admitted": lambda: False}, "gone"),
        ({"is_draining": lambda: True}, "bye"),
    ):
        (text,) = list(replace(stream, **change).events())[1:]
        assert text.startswith(f"event: {event}\n")
