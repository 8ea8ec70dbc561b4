"""The end of a transfer names the leftovers that an attempt could not remove."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.config import Settings
from relay.engine.cleanup import (
    FailedUpload,
    abort_upload,
    remove_failed_upload,
    remove_lost_uploads,
    remove_object,
)
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Plan
from relay.engine.transfer.attempt import Attempt
from relay.engine.transfer.precheck import DestinationCheck
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.conversions import settlement_of
from relay.errors import (
    Leftover,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    RelayError,
    Unavailable,
    remaining,
)
from relay.ledger.prior_state_values import PriorState
from relay.location import Location, parse_location
from relay.receipt import Level, Receipt, State, Version
from relay.stores.interfaces import Destination, ObjectInfo, PutResult, UnknownObject, Upload
from tests.values import claim_of, outcome_of

SOURCE, PLACE = parse_location("http://127.0.0.1/a"), parse_location("http://127.0.0.1/b")
RECEIPT = Receipt(
    level=Level.READ_BACK,
    bytes=1,
    digests={},
    source=Version(),
    destination=Version(),
    attempts=2,
    bytes_resent=0,
)


def with_leftover(error: RelayError, place: str) -> RelayError:
    error.leave(Leftover.PARTIAL, place, "refused")
    return error


def busy_error(place: str) -> RelayError:
    """Return a retryable failure with a leftover at a place."""
    return with_leftover(Unavailable("busy", side="destination"), place)


def done(state: State, *notes: str) -> Outcome:
    """Return a good end of the transfer, with a receipt unless it is a skip."""
    if state is State.SKIPPED:
        return outcome_of(state, SOURCE, PLACE, bytes=0, notes=notes)
    return outcome_of(state, SOURCE, PLACE, receipt=RECEIPT)


@pytest.fixture
def transfer(tmp_path: Path) -> Transfer:
    runner = TransferEngine(Settings(egress_allow="127.0.0.1", retry_budget=5))
    made = runner.transfer(Plan(SOURCE, PLACE))
    made.sleep = lambda seconds: None
    return made


def end_attempts(monkeypatch: pytest.MonkeyPatch, *ends: RelayError | Outcome) -> None:
    """Let the attempts end in these ways, one after the other."""
    waiting: Iterator[RelayError | Outcome] = iter(ends)

    def run(self: Attempt) -> Outcome:
        end = next(waiting)
        if isinstance(end, RelayError):
            raise end
        return end

    monkeypatch.setattr(Attempt, "run", run)


def sentence_about(place: str) -> str:
    """Return the sentence about the leftover at a place."""
    return f"A partial object may remain at {place} (refused); check, and delete it."


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("again", [False, True])
def test_a_later_failure_names_an_earlier_leftover_once(
    monkeypatch: pytest.MonkeyPatch, transfer: Transfer, times: int, again: bool
) -> None:
    last: RelayError = Rejected("last", side="destination")
    last = with_leftover(last, "place/one") if again else last
    end_attempts(monkeypatch, *(busy_error("place/one") for _ in range(times)), last)
    with pytest.raises(Rejected) as raised:
        transfer.run()
    assert raised.value.hint.count("may remain") == 1
    assert sentence_about("place/one") in raised.value.hint


@pytest.mark.parametrize(
    ("place", "end", "notes"),
    [
        ("place/.temporary", done(State.VERIFIED), (sentence_about("place/.temporary"),)),
        (
            "place/.temporary",
            done(State.SKIPPED, "same"),
            ("same", sentence_about("place/.temporary")),
        ),
        (str(PLACE), done(State.VERIFIED), ()),
    ],
)
def test_a_good_end_notes_a_leftover_that_it_has_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
    transfer: Transfer,
    place: str,
    end: Outcome,
    notes: tuple[str, ...],
) -> None:
    end_attempts(monkeypatch, busy_error(place), end)
    ended = transfer.run()
    assert (ended.receipt or ended).notes == notes


@pytest.mark.parametrize("state", State)
def test_a_leftover_elsewhere_is_kept_at_every_end(
    monkeypatch: pytest.MonkeyPatch, transfer: Transfer, state: State
) -> None:
    end_attempts(monkeypatch, busy_error("place/.temporary"), done(state))
    kept = settlement_of(claim_of(size=1), transfer.run(), 0).remains
    unproved = {str(PLACE)} if state is State.UNVERIFIED else set()
    assert kept.keys() == {"place/.temporary"} | unproved


@dataclass
class Keeps:
    """A destination that denies each deletion: its objects `there`, and those that it hides."""

    there: frozenset[str]
    hidden: frozenset[str] = frozenset()

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        return tuple(location.object_named(f"{token}.{end}") for end in ("part", "upload"))

    def delete(self, location: Location, version: Version) -> None:
        raise PermissionDenied("DELETE was answered 403", side="destination")

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        if location.name in self.hidden:
            return UnknownObject(PermissionDenied("HEAD was answered 403", side="destination"))
        if location.name not in self.there:
            raise NotFound("it is not there", side="destination")
        return ObjectInfo(Version(size=1), location)


FOLDER = parse_location("http://127.0.0.1/folder/")


@pytest.mark.parametrize(
    ("there", "hidden", "names"),
    [
        (set(), set(), None),
        ({"one.part", "two.upload"}, set(), ["one.part", "two.upload"]),
        ({"two.part"}, {"one.part", "one.upload"}, ["one.part", "two.part"]),
    ],
)
def test_a_leftover_that_may_not_be_removed_is_named(
    there: set[str], hidden: set[str], names: list[str] | None
) -> None:
    keeps = cast(Destination, Keeps(frozenset(there), frozenset(hidden)))
    kept = remove_lost_uploads(keeps, FOLDER, ("one", "two"), {})
    assert (
        None if kept is None else sorted(place.rpartition("/")[2] for place in kept.remains)
    ) == names
    assert kept is None or all(f"may remain at {FOLDER}{name}" in kept.hint for name in names or ())


class Assembled(Keeps):
    """A destination that shows the object of an upload before it is published."""

    def abort(self, upload: Upload) -> None:
        """Delete nothing."""

    def delete(self, location: Location, version: Version) -> None:
        self.there -= {location.name}


@pytest.mark.parametrize("is_replaced", [False, True])
def test_an_abort_keeps_the_only_whole_object(is_replaced: bool) -> None:
    """The server deleted the object that it was to replace, as for an upload without parts."""
    shown = Assembled(frozenset({"one.part", *([FOLDER.name] if is_replaced else [])}))
    left = shown.staged_locations(FOLDER, "one")[0]
    remains = {str(left): remaining(Leftover.WHOLE, left, "deleted")}
    abort_upload(cast(Destination, shown), Upload(FOLDER, "one", checked=False), remains)
    assert (left.name in shown.there, bool(remains)) == (not is_replaced, not is_replaced)


def test_the_receipt_names_leftovers_of_a_lost_process(
    monkeypatch: pytest.MonkeyPatch, transfer: Transfer
) -> None:
    end_attempts(monkeypatch, done(State.SKIPPED))
    transfer._progress.remains |= with_leftover(
        Unavailable("gone", side="destination"), "place/lost"
    ).remains
    assert transfer.run().notes == (sentence_about("place/lost"),)


@pytest.mark.parametrize(("place", "asked"), [(PLACE, Version()), (None, Version(etag='"one"'))])
def test_a_unique_name_is_removed_with_any_tag(place: Location | None, asked: Version) -> None:
    deleted: list[Version] = []
    destination = cast(
        Destination, SimpleNamespace(delete=lambda location, version: deleted.append(version))
    )
    stored = PutResult(Version(etag='"one"'), SOURCE, {}, place=place)
    assert remove_object(destination, stored, Rejected("damaged", side="destination"))
    assert deleted == [asked]


@pytest.mark.parametrize("sendings", [1, 2])
def test_leftovers_are_kept_with_every_outcome_of_a_412(sendings: int) -> None:
    refused = cast(
        PreconditionFailed,
        with_leftover(PreconditionFailed("412", side="destination"), "place/temporary"),
    )
    progress = Progress(sendings=sendings)

    def head(place: Location) -> ObjectInfo:
        raise NotFound("404", side="destination")

    store, skip = SimpleNamespace(head=head), IfExists.SKIP
    target = SimpleNamespace(place=PLACE, destination=store, if_absent=True, if_exists=skip)
    unused = cast(Any, None)
    check = DestinationCheck(unused, progress, cast(Any, target), unused, unused)
    with pytest.raises(Unavailable):
        check.on_precondition_failed(refused)
    assert list(progress.remains) == ["place/temporary"]


@pytest.mark.parametrize("sizes", [(0, 5), (0, 0, 3), (0, 0, 0)])
def test_a_piece_that_is_empty_at_first_is_inspected_again(sizes: tuple[int, ...]) -> None:
    """A server may create the file before it writes the bytes; one that stays empty is of unknown
    owner, and reported."""
    waiting, deleted = iter(sizes), []

    def head(place: Location) -> ObjectInfo:
        size = next(waiting)
        return ObjectInfo(Version(size=size, etag=f'"{size}"'), place)

    fake = SimpleNamespace(head=head, delete=lambda place, version: deleted.append(version.size))
    error = Unavailable("it broke", side="destination")
    broken = FailedUpload(place=PLACE, before=PriorState(known=True), sent=5, length=9)
    waits = [lambda: None] * len(sizes)
    remove_failed_upload(cast(Destination, fake), broken, error, waits, lambda there: True)
    assert deleted == [size for size in sizes if size]
    assert bool(error.remains) == (sizes[-1] == 0)
