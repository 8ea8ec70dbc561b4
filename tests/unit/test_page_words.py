"""The page's numbers, sentences and texts of strangers, without a server."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from relay.ledger.migration_values import Count, Migration
from relay.ledger.overview import Group
from relay.ledger.sample_values import Moving, MovingObject, Sample
from relay.ledger.states import MIGRATION, ListingState, MigrationState, TransferState
from relay.receipt import Level
from relay.ui import words
from relay.ui.estimates import Estimates
from relay.ui.figures import duration, percent, rate, short_duration, size, sizes
from relay.ui.moving_rows import _row, chart_points, moving_rows, moving_title, with_rates
from relay.ui.paces import Paces
from relay.ui.printable import bdi_of, visible
from relay.ui.summaries import (
    LEVELS,
    Pace,
    can_acknowledge,
    live_texts,
    note_of,
    row_of,
    row_shape,
)
from relay.views.time_left import WINDOW_SECONDS, TimeLeft

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


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (200, "3 min 20"), (720, "12 min"), (10_200, "2 h 50")]
)
def test_a_range_names_one_unit(seconds: float, text: str) -> None:
    assert plain(short_duration(seconds)) == text


def test_a_share_of_100_means_all() -> None:
    assert plain(percent(999_999, 1_000_000)) == "99 %"
    almost = replace(TREE, tally={"verified": Count(9, 10**9), "queued": Count(1, 1)})
    assert plain(live_texts(almost).texts["percent"]) == "99 %"
    empty = replace(almost, tally={"verified": Count(9, 10**9), "queued": Count(1, 0)})
    assert live_texts(empty).value == 99


@pytest.mark.parametrize(
    ("state", "listing"), [("partial", "failed"), ("cancelled", "due"), ("cancelled", "running")]
)
def test_a_tree_that_was_not_listed_is_never_all(state: str, listing: str) -> None:
    """The listing broke off behind the objects that it had named, and they arrived."""
    error = {"code": "store-unavailable", "side": "source", "detail": "after 2 of 9"}
    tree = replace(TREE, state=state, listing=listing, error=error, tally={"verified": Count(2, 9)})
    assert plain(live_texts(tree).texts["percent"]) == "99 %"
    assert live_texts(replace(tree, listing="done")).value == 100
    if state == "partial":
        reason = words.needs_you(error)
        assert note_of(tree) == (f"Partial: 2 verified. {reason}", "after 2 of 9")


def test_a_button_counts_what_it_queues() -> None:
    tally = {
        "verified": Count(9),
        "failed": Count(3),
        "cancelled": Count(4),
        "unverified": Count(5),
    }
    tree = replace(TREE, state="cancelled", tally=tally)
    assert row_of(tree).retried == 12
    assert row_of(replace(tree, listing="running")).retried == 0


def test_the_texts_of_a_running_migration() -> None:
    left = TimeLeft(11_400, 10_200, 13_230)
    pace = Pace(bytes_per_second=1.84e8, objects_per_second=210, left=left)
    live = live_texts(TREE, pace)
    texts = {name: plain(text) for name, text in live.texts.items()}
    assert texts["percent"] == "70 %"
    assert texts["objects"] == "293,161 of 412,908 objects"
    assert texts["bytes"] == "2.91 of 4.10 TB"
    assert texts["speed"] == "184 MB/s, 210 objects/s"
    assert texts["left"] == "3 h 10 min left"
    assert texts["estimate"] == (
        "about 3 h 10 min left (2 h 50 - 3 h 40), if the last 5 minutes are typical"
    )
    assert plain(live.spoken) == "70 per cent, 3 h 10 min left"


def test_a_listing_has_no_per_cent() -> None:
    tree = replace(TREE, listing="running", tally={"queued": Count(118_000, 5)})
    live = live_texts(tree)
    assert live.value is None and live.texts["left"] == live.texts["percent"] == ""
    assert live.texts["objects"] == "Still listing: 118,000 objects so far"


def test_a_standstill_is_named() -> None:
    pace = Pace(bytes_per_second=0, still_seconds=74, left=TimeLeft(60, 50, 70))
    texts = live_texts(TREE, pace).texts
    assert plain(texts["activity"]) == "No byte moved for 1 min 14 s"
    assert texts["left"] == texts["estimate"] == ""


def test_a_pause_counts_what_stops() -> None:
    paused = replace(TREE, state="paused", tally={"running": Count(7, 0)})
    assert live_texts(paused).texts["activity"] == "Pausing: 7 transfers stop."
    assert words.pausing("paused", 0) == "Paused. Nothing is under way."


def test_what_needs_a_person_is_named() -> None:
    error = {"code": "store-unauthenticated", "side": "source", "detail": "401", "hint": "h"}
    paused = replace(TREE, state="paused", error=error, needs_attention=True)
    assert note_of(paused) == (
        "Needs you: The source does not accept the credentials any more.",
        "401",
    )
    assert not can_acknowledge(paused)
    full = replace(paused, error={**error, "code": "store-full"})
    assert row_of(paused).needs_credentials and not row_of(full).needs_credentials
    # Between two looks it may have been resumed, and paused for something else.
    assert row_shape(paused) != row_shape(full)
    assert live_texts(paused).shape != live_texts(full).shape
    failed = replace(paused, state="failed")
    assert can_acknowledge(failed) and note_of(failed)[0].startswith("Needs you: ")
    seen = replace(failed, needs_attention=False)
    assert not can_acknowledge(seen) and not note_of(seen)[0].startswith("Needs you: ")
    assert row_shape(seen) != row_shape(failed)
    assert live_texts(seen).shape != live_texts(failed).shape
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
    assert pace.still_seconds == 0
    now[0] += 70
    last = replace(TREE, tally={**TREE.tally, "verified": done})
    assert paces.note(last).still_seconds == 70


class SampledLedger:
    """A ledger with samples of 100 objects of 1 MB each in ten seconds, by ten slots."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def samples_of(self, ids: Collection[str], since: int) -> dict[str, list[Sample]]:
        """As LiveLedger.samples_of."""
        self.asked.append(sorted(ids))
        return {
            id: [
                Sample(
                    at=at,
                    seconds=10,
                    moved=10**8,
                    read_back=0,
                    objects=10 * at,
                    slot_seconds={"piping": 100.0},
                )
                for at in range(since // 10 * 10 + 10, since + WINDOW_SECONDS - 10, 10)
            ]
            for id in ids
        }


def test_the_time_left_is_read_every_ten_seconds() -> None:
    """For all migrations of a page at once; between two estimates it counts down."""
    now = [10_000.0]
    estimates, ledger = Estimates(lambda: now[0]), SampledLedger()
    trees = [replace(TREE, id=id, tally={"queued": Count(6_000, 6 * 10**9)}) for id in "ab"]
    for second in range(25):
        estimates.read(ledger, trees)  # type: ignore[arg-type]
        shown = [estimates.shown_time(tree, Moving()) for tree in trees]
        assert shown[0] is not None and shown[0] == shown[1]
        assert shown[0].seconds == pytest.approx(600 - second, rel=0.01)
        assert shown[0].low <= shown[0].seconds <= shown[0].high
        now[0] += 1
    assert ledger.asked == [["a", "b"]] * 3


def test_a_clock_that_is_set_back_stops_no_estimate() -> None:
    now = [10_000.0]
    estimates, ledger = Estimates(lambda: now[0]), SampledLedger()
    for _ in range(2):
        estimates.read(ledger, [TREE])  # type: ignore[arg-type]
        now[0] -= 3600
    assert len(ledger.asked) == 2


@pytest.mark.parametrize(
    "change", [{"state": "paused"}, {"listing": "running"}, {"state": "partial"}]
)
def test_a_guess_is_not_shown(change: dict[str, str]) -> None:
    """Nor is anything read for it."""
    estimates, ledger = Estimates(lambda: 10_000.0), SampledLedger()
    estimates.read(ledger, [TREE])  # type: ignore[arg-type]
    assert estimates.shown_time(TREE, Moving()) is not None
    changed = replace(TREE, **change)  # type: ignore[arg-type]
    estimates.read(ledger, [changed])  # type: ignore[arg-type]
    assert estimates.shown_time(changed, Moving()) is None
    assert len(ledger.asked) == 1


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
