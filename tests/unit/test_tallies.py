"""What a process counts: names of remotes are few, and bytes are counted once."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.config import Settings
from relay.engine.transfer.progress import Progress
from relay.engine.transfer_engine import ByteMover, TransferEngine
from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    RelayError,
    SourceTruncated,
    Stalled,
    Throttled,
    UnsafeKey,
)
from relay.location import parse_location
from relay.stores.remotes import Remotes
from relay.tallies import MOST_REMOTES, OTHER, Carried, Distribution, Tallies


def test_a_distribution_counts_each_value_once() -> None:
    """A value on a bound is in the bucket of that bound, as Prometheus' `le` wants it."""
    made = Distribution((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        made.add(value)
    assert (made.counts, made.sum) == ([2, 2, 1], pytest.approx(8.65))


def test_further_names_of_remotes_are_other() -> None:
    """Of each side, whatever the number of routes; and a route stays the same."""
    tallies = Tallies()
    for number in range(MOST_REMOTES + 5):
        tallies.route(f"from{number}", f"to{number}")
    last = tallies.route(f"from{MOST_REMOTES + 4}", "to0")
    assert (last.source, last.destination) == (OTHER, "to0")
    assert tallies.route("from1", "to1") is tallies.route("from1", "to1")
    names = {remote for remote, side, _ in tallies.bytes if side == "source"}
    assert len(names) == MOST_REMOTES + 1
    # The first of these events must be an increase of a series that is there.
    assert tallies.stalls["from0", "source"] == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("old:photos/", "old"),
        ("HTTP:x", "http"),
        ("https://host/path:1", "http"),
        ("list+old:list.csv", "http"),
    ],
)
def test_a_remote_is_named_as_it_is_configured(text: str, name: str) -> None:
    """Never by a host, a path or another text of a user."""
    assert Remotes.name_of(text, parse_location("https://host/path")) == name


@pytest.mark.parametrize(
    ("error", "kind", "side"),
    [
        (Throttled("", side="source"), "throttled", "source"),
        (ConnectionLost("", side="destination"), "connection", "destination"),
        (Stalled("", side="destination"), "connection", "destination"),
        (SourceTruncated(""), "content", "source"),
        (UnsafeKey(""), OTHER, "relay"),
    ],
)
def test_a_retry_has_a_class(error: RelayError, kind: str, side: str) -> None:
    """One of a handful, by the type of the error."""
    tallies = Tallies()
    tallies.route("a", "b").note_retry("part", error)
    assert dict(tallies.retries) == {("part", side, kind): 1}


def test_failures_of_a_store_count_for_its_remote() -> None:
    """Stalls and mismatches; other failures do not."""
    tallies = Tallies()
    route = tallies.route("a", "b")
    for error in (
        Stalled("", side="source"),
        IntegrityMismatch("", side="destination"),
        ConnectionLost("", side="source"),
        UnsafeKey(""),
    ):
        route.note_failure(error)
    assert {key for key, count in tallies.stalls.items() if count} == {("a", "source")}
    assert {key for key, count in tallies.integrity_mismatches.items() if count} == {
        ("b", "destination")
    }


@pytest.mark.parametrize(
    ("method", "status", "labels"),
    [
        ("GET", 206, ("get", "2xx")),
        ("PROPFIND", 207, ("list", "2xx")),
        ("PUT", 429, ("put", "429")),
        ("MKCOL", 503, (OTHER, "5xx")),
        ("HEAD", None, ("head", "none")),
        ("HEAD", 999, ("head", "none")),
    ],
)
def test_a_request_counts_by_method_and_status(
    method: str, status: int | None, labels: tuple[str, str]
) -> None:
    """A store chooses the status; only known classes become labels."""
    tallies = Tallies()
    tallies.route("a", "b").note_request("destination", method, status, None)
    assert dict(tallies.store_requests) == {("b", "destination", *labels): 1}


class Parts:
    """A multipart upload that has moved some bytes."""

    def __init__(self, moved: int, copying: bool = False) -> None:
        self.moved_bytes, self.context = moved, SimpleNamespace(copying=copying)


def carried_after(steps: Sequence[tuple[str, Any]]) -> list[Carried]:
    """Return what a transfer has carried after each step: `begin` an attempt, or set a member."""
    progress, found = Progress(), []
    for name, value in steps:
        if name == "begin":
            progress.begin_attempt()
        else:
            setattr(progress, name, value)
        found.append(progress.carried_bytes)
    return found


def test_the_bytes_of_all_attempts_are_counted_once() -> None:
    """A body of an earlier attempt is not counted again while the next one has none."""
    first, second = SimpleNamespace(count=7), SimpleNamespace(count=5)
    assert carried_after(
        [
            ("begin", None),
            ("body", first),
            ("begin", None),
            ("body", second),
            ("begin", None),
            ("parts", Parts(11)),
            ("begin", None),
            ("copied", 13),
            ("begin", None),
            ("parts", Parts(17, copying=True)),
        ]
    ) == [
        Carried(moved, copied)
        for moved, copied in (
            *((0, 0), (7, 0), (7, 0), (12, 0), (12, 0)),
            *((23, 0), (23, 0), (23, 13), (23, 13), (23, 30)),
        )
    ]


def test_bytes_are_added_to_both_sides_as_they_move() -> None:
    """Each reading adds the difference; what a failed upload drops is not taken back."""
    engine = TransferEngine(Settings())
    meter = SimpleNamespace(tally=engine.tallies.route("a", "b"))
    moving = SimpleNamespace(meter=meter, counted=Carried(), carried_bytes=Carried())
    for seen in ((100, 0, 0, 0), (250, 5, 40, 0), (200, 5, 40, 9), (250, 5, 40, 9)):
        moving.carried_bytes = Carried(*seen)
        engine.count(cast(ByteMover, moving))
    assert dict(engine.tallies.bytes) == {
        ("a", "source", "payload"): 250,
        ("b", "destination", "payload"): 250,
        ("b", "destination", "resent"): 40,
        ("b", "destination", "read_back"): 9,
    }
    assert dict(engine.tallies.server_copied_bytes) == {("b",): 5}


def test_an_object_counts_by_size_when_it_has_a_receipt() -> None:
    """A skipped or failed object took some time, which says nothing about the stores."""
    tallies = Tallies()
    tallies.end_transfer("verified", "read_back", 1 << 20, 0.2)
    tallies.end_transfer("unverified", "size", (1 << 20) + 1, 0.2)
    tallies.end_transfer("skipped", None, 5, 0.2)
    tallies.end_transfer("failed", None, None, 0.2)
    assert dict(tallies.transfers) == {
        ("verified", "read_back"): 1,
        ("unverified", "size"): 1,
        ("skipped", "none"): 1,
        ("failed", "none"): 1,
    }
    assert set(tallies.transfer_seconds) == {("up_to_1_mib",), ("up_to_64_mib",)}
