"""The page's numbers, sentences and texts of strangers, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.ledger.overview import Group
from relay.ledger.rows import Count, Migration
from relay.ledger.sample_values import Moving, MovingObject, Sample
from relay.ledger.states import MIGRATION, ListingState, MigrationState, TransferState
from relay.receipt import Level
from relay.ui import words
from relay.ui.figures import duration, percent, rate, size, sizes
from relay.ui.moving_rows import _row, chart_points, moving_rows, moving_title, with_rates
from relay.ui.paces import Paces
from relay.ui.printable import bdi_of, visible
from relay.ui.summaries import LEVELS, Pace, live_texts, note_of, row_shape

TREE = Migration(
    id="m",
    number=412,
    state="running",
    source="old:photos",
    destination="new:photos",
    options={"recursive": True},
    listing="done",
    cursor=None,
    error=None,
    priority=0,
    created=0.0,
    ended=None,
    tally={
        "verified": Count(293_100, 2_910_000_000_000),
        "failed": Count(61, 0),
        "queued": Count(119_747, 1_190_000_000_000),
    },
)


def plain(text: str) -> str:
    """Return a text with ordinary spaces."""
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_995, "10.0 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (184_000_000, "184 MB"),
        (2_910_000_000_000, "2.91 TB"),
        (5 * 10**21, "5,000 EB"),
    ],
)
def test_sizes_have_three_digits(number: int, text: str) -> None:
    assert plain(size(number)) == text


def test_two_sizes_share_a_unit() -> None:
    assert plain(sizes(2.91e12, 4.1e12)) == "2.91 of 4.10 TB"
    assert plain(sizes(0, 999)) == "0 of 999 B"
    assert plain(rate(1.84e8)) == "184 MB/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (720, "12 min"),
        (11_400, "3 h 10 min"),
        (7200, "2 h"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert plain(duration(seconds)) == text


def test_a_share_of_100_means_all() -> None:
    assert plain(percent(999_999, 1_000_000)) == "99 %"
    almost = replace(TREE, tally={"verified": Count(9, 10**9), "queued": Count(1, 1)})
    assert plain(live_texts(almost).texts["percent"]) == "99 %"
    empty = replace(almost, tally={"verified": Count(9, 10**9), "queued": Count(1, 0)})
    assert live_texts(empty).value == 99


def test_the_texts_of_a_running_migration() -> None:
    pace = Pace(bytes_per_second=1.84e8, objects_per_second=210, seconds_left=11_400)
    live = live_texts(TREE, pace)
    texts = {name: plain(text) for name, text in live.texts.items()}
    assert texts["percent"] == "70 %"
    assert texts["objects"] == "293,161 of 412,908 objects"
    assert texts["bytes"] == "2.91 of 4.10 TB"
    assert texts["speed"] == "184 MB/s, 210 objects/s"
    assert texts["left"] == "about 3 h 10 min left"
    assert plain(live.spoken) == "70 per cent, 3 h 10 min left"


def test_a_listing_has_no_per_cent() -> None:
    tree = replace(TREE, listing="running", tally={"queued": Count(118_000, 5)})
    live = live_texts(tree, Pace(seconds_left=5))
    assert live.value is None and live.texts["left"] == live.texts["percent"] == ""
    assert live.texts["objects"] == "Still listing: 118,000 objects so far"


def test_a_standstill_is_named() -> None:
    texts = live_texts(TREE, Pace(bytes_per_second=0, still_seconds=74)).texts
    assert plain(texts["activity"]) == "No byte moved for 1 min 14 s"


def test_a_pause_counts_what_stops() -> None:
    paused = replace(TREE, state="paused", tally={"running": Count(7, 0)})
    assert live_texts(paused).texts["activity"] == "Pausing: 7 transfers stop."
    assert words.pausing("paused", 0) == "Paused. Nothing is under way."


def test_what_needs_a_person_is_named() -> None:
    error = {"code": "store-unauthenticated", "side": "source", "detail": "401", "hint": "h"}
    paused = replace(TREE, state="paused", error=error)
    assert note_of(paused) == (
        "Needs you: The source does not accept the credentials any more.",
        "401",
    )
    partial = replace(TREE, state="partial", tally={"verified": Count(18_204), "failed": Count(3)})
    assert note_of(partial)[0] == "Partial: 18,204 verified, 3 failed"


def test_empty_lists_have_their_sentence() -> None:
    assert words.nothing_found(Group.ALL, "", 0) == words.NO_MIGRATIONS
    text = words.nothing_found(Group.RUNNING, "", 10_214)
    assert text == "None of 10,214 migrations is running."
    assert words.nothing_found(Group.ALL, "x", 1) == "None of 1 migration matches “x”."


def test_a_cancel_says_what_it_removes() -> None:
    text = "Cancel #412? What has arrived stays. 4 unfinished uploads are removed."
    assert words.confirm_cancel(412, 4) == text
    assert words.confirm_cancel(412, 0) == "Cancel #412? What has arrived stays."


def test_every_state_has_words() -> None:
    assert set(words.STATES) == set(words.OFFERED) == set(MigrationState)
    assert set(words.OBJECT_STATES) == set(TransferState)
    assert set(words.GROUPS) == set(Group)
    assert set(words.LEVELS) == {level.value for level in Level} == set(LEVELS)
    assert all(words.is_listing(state) in (True, False) for state in ListingState)


def test_a_button_is_a_legal_verb() -> None:
    for state, verbs in words.OFFERED.items():
        assert all(state in MIGRATION[verb].origins for verb in verbs), state


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photos/ü 東京.jpg", "photos/ü 東京.jpg"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\nb\x00\x7f", "a\\nb\\x00\\x7f"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\udcff\ud800", "\\xff\\ud800"),
    ],
)
def test_what_is_invisible_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown
    shown.encode()


def test_a_name_is_never_html() -> None:
    assert bdi_of("<script>&'\"") == "<bdi>&lt;script&gt;&amp;&#39;&#34;</bdi>"


def test_the_pace_of_a_watched_migration() -> None:
    now = [1000.0]
    paces = Paces(lambda: now[0])
    assert paces.note(TREE) == Pace()
    for second in range(1, 41):
        now[0] += 1
        done = Count(293_100 + 10 * second, 2_910_000_000_000 + 10**8 * second)
        pace = paces.note(replace(TREE, tally={**TREE.tally, "verified": done}))
    assert pace.bytes_per_second == pytest.approx(1e8)
    assert pace.objects_per_second == pytest.approx(10)
    assert pace.seconds_left == pytest.approx(11_970, rel=0.1)
    assert pace.still_seconds == 0
    now[0] += 70
    last = replace(TREE, tally={**TREE.tally, "verified": done})
    assert paces.note(last).still_seconds == 70


def test_a_guess_is_not_shown() -> None:
    now = [0.0]
    paces = Paces(lambda: now[0])
    tree = replace(TREE, tally={"verified": Count(1, 10), "queued": Count(3, 30)})
    for _ in range(100):
        now[0] += 1
        pace = paces.note(tree)
    assert pace.seconds_left is None
    assert paces.note(replace(tree, state="paused")) == Pace()


def test_what_moves_has_its_rows() -> None:
    one = MovingObject(
        migration_id="m",
        name="photos/2019/a\u202e.tar",
        phase="piping",
        bytes=710,
        total=1000,
        rate=22_000_000,
        attempt=2,
        part=40,
        parts=56,
    )
    moving = Moving(objects=[one] * 40, count=200)
    assert moving_title(moving) == "Moving now (32 of 200)" and len(moving_rows(moving)) == 32
    row = ["photos/2019/a\\u202e.tar", 71, "moving", "22.0\u00a0MB/s", "part 40 of 56, attempt 2"]
    assert moving_rows(moving)[0] == row
    unknown = replace(one, total=None, rate=0, attempt=1, part=None, name="")
    assert _row(unknown) == ["the object", None, "moving", "", ""]
    assert moving_title(Moving()) == ""


def test_the_rate_is_that_of_what_moves() -> None:
    pace = Pace(bytes_per_second=0.0, still_seconds=90.0)
    sample = Sample(at=100, seconds=10, moved=50, read_back=20, objects=0, slot_seconds={})
    some = Moving(
        objects=[
            MovingObject(
                migration_id="m",
                name="a",
                phase="piping",
                bytes=1,
                total=2,
                rate=7,
                attempt=1,
                part=None,
                parts=None,
            )
        ],
        count=1,
    )
    now = with_rates(pace, some, None, 105.0)
    assert (now.bytes_per_second, now.still_seconds) == (7.0, 0.0)
    more = with_rates(pace, replace(some, count=2), sample, 105.0)
    assert (more.bytes_per_second, more.read_back_per_second) == (5.0, 2.0)
    assert with_rates(pace, Moving(), sample, 200.0) == pace
    assert chart_points([sample]) == [[100, 5, 2]]


def test_a_row_is_the_same_in_list_and_stream() -> None:
    """Else the list would load itself again for ever: its own query reads no retries."""
    live = replace(TREE, retried=({"name": "a"},), helpers=3, slots=4)
    assert row_shape(live) == row_shape(TREE)
    assert row_shape(replace(TREE, state="paused")) != row_shape(TREE)
