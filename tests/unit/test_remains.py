"""What an attempt left, and could not remove, is told by how the whole transfer ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config import Settings
from relay.engine.course import Course
from relay.engine.outcome import Outcome
from relay.engine.plan import Plan
from relay.engine.runner import Runner
from relay.engine.transfer import Transfer
from relay.errors import Rejected, RelayError, Unavailable
from relay.location import parse_location
from relay.receipt import Level, Receipt, State, Version

SOURCE, PLACE = parse_location("http://127.0.0.1/a"), parse_location("http://127.0.0.1/b")


def left(error: RelayError, place: str) -> RelayError:
    error.leave("A partial object", place, "refused")
    return error


def receipt() -> Receipt:
    return Receipt(
        level=Level.READ_BACK, bytes=1, digests={}, source=Version(), destination=Version(), attempts=2, bytes_resent=0
    )


@pytest.fixture
def transfer(tmp_path: Path) -> Transfer:
    runner = Runner(Settings(egress_allow="127.0.0.1", retry_budget=5))
    made = runner.transfer(Plan(SOURCE, PLACE))
    made.sleep = lambda seconds: None
    return made


def ending(monkeypatch: pytest.MonkeyPatch, *ends: RelayError | Outcome) -> None:
    """Let the attempts end so, one after the other."""
    waiting: Iterator[RelayError | Outcome] = iter(ends)

    def run(self: Course) -> Outcome:
        end = next(waiting)
        if isinstance(end, RelayError):
            raise end
        return end

    monkeypatch.setattr(Course, "run", run)


def test_a_later_failure_says_what_an_earlier_one_left(monkeypatch: pytest.MonkeyPatch, transfer: Transfer) -> None:
    ending(monkeypatch, left(Unavailable("first", side="destination"), "place/one"), Rejected("last", side="source"))
    with pytest.raises(Rejected) as raised:
        transfer.run()
    assert raised.value.hint.count("A partial object may remain at place/one") == 1


def test_of_one_place_it_is_said_once(monkeypatch: pytest.MonkeyPatch, transfer: Transfer) -> None:
    errors = [left(Unavailable("busy", side="destination"), "place/one") for _ in range(2)]
    ending(monkeypatch, *errors, left(Rejected("last", side="destination"), "place/one"))
    with pytest.raises(Rejected) as raised:
        transfer.run()
    assert raised.value.hint.count("may remain") == 1


def test_a_good_end_notes_what_was_left_elsewhere(monkeypatch: pytest.MonkeyPatch, transfer: Transfer) -> None:
    done = Outcome("id", State.VERIFIED, SOURCE, PLACE, 1, 0.1, receipt())
    ending(monkeypatch, left(Unavailable("busy", side="destination"), "place/.temporary"), done)
    ended = transfer.run()
    assert ended.receipt is not None
    assert [note for note in ended.receipt.notes if "place/.temporary" in note]


def test_what_lay_at_the_object_s_own_place_is_replaced(monkeypatch: pytest.MonkeyPatch, transfer: Transfer) -> None:
    done = Outcome("id", State.VERIFIED, SOURCE, PLACE, 1, 0.1, receipt())
    ending(monkeypatch, left(Unavailable("busy", side="destination"), str(PLACE)), done)
    ended = transfer.run()
    assert ended.receipt is not None and not ended.receipt.notes


def test_a_skip_notes_it_too(monkeypatch: pytest.MonkeyPatch, transfer: Transfer) -> None:
    ending(
        monkeypatch,
        left(Unavailable("busy", side="destination"), "place/.temporary"),
        Outcome("id", State.SKIPPED, SOURCE, PLACE, 0, 0.1, None, ("unchanged",)),
    )
    notes = transfer.run().notes
    assert notes[0] == "unchanged" and "place/.temporary" in notes[1]
