"""What one process counts of its transfers, and when it writes that into the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from gevent.event import Event

from relay.config import Settings
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.active_transfers import ActiveTransfer, ActiveTransfers
from relay.engine.worker.live_reporter import MOST_BYTES, MOST_OBJECTS, PATIENT_TURNS, LiveReporter
from relay.engine.worker.traffic import TrafficCounter
from relay.errors import LedgerFailed
from relay.ledger.live_ledger import LiveLedger
from relay.ledger.migration_values import MigrationView
from relay.ledger.sample_values import Traffic
from relay.tallies import Carried
from relay.throttle import Bounds
from tests.values import claim_of


class FakeTransfer(Transfer):
    """A transfer whose progress the test sets."""

    def __init__(self, name: str = "a") -> None:
        self.moved, self.earlier, self.proved, self.counts = 0, 0, 0, None
        self.counted = Carried()
        self.shown_phase = "piping"
        self.name = name

    moved_bytes = property(lambda self: self.moved)  # type: ignore[assignment]
    bytes = property(lambda self: self.moved)  # type: ignore[assignment]
    total = property(lambda self: 100)  # type: ignore[assignment]
    attempt = property(lambda self: 1)  # type: ignore[assignment]
    phase = property(lambda self: self.shown_phase)  # type: ignore[assignment]
    trouble = property(lambda self: None)  # type: ignore[assignment]
    part_counts = property(lambda self: self.counts)  # type: ignore[assignment]
    carried_bytes = property(  # type: ignore[assignment]
        lambda self: Carried(self.earlier + self.moved, read_back=self.proved)
    )
    meter = property(lambda self: SimpleNamespace(tally=_TALLY))  # type: ignore[assignment]


_ENGINE = TransferEngine(Settings())
_TALLY = _ENGINE.tallies.route("a", "b")


def active_of(
    name: str = "a", id: int = 1, migration: str = "m", began: float = 0.0
) -> ActiveTransfer:
    """Return a running transfer."""
    return ActiveTransfer(claim_of(name, id=id, migration_id=migration), FakeTransfer(name), began)


def fake(active: ActiveTransfer) -> FakeTransfer:
    """Return its transfer."""
    return cast(FakeTransfer, active.transfer)


@dataclass(eq=False)
class FakeLedger:
    """A ledger that notes what is written."""

    lives: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    samples: list[dict[str, Traffic]] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    failure: LedgerFailed | None = None

    def write_live(self, members: str) -> None:
        """As LiveLedger.write_live."""
        self.texts.append(members)
        self.lives.append(json.loads(members))

    def write_samples(self, done: Mapping[str, Traffic], now: float) -> set[str]:
        """As LiveLedger.write_samples."""
        if self.failure is not None:
            raise self.failure
        self.samples.append(dict(done))
        return self.ended & set(done)


@dataclass(eq=False)
class Desk:
    """A reporter with a ledger, running transfers and clocks that the test sets."""

    ledger: FakeLedger = field(default_factory=FakeLedger)
    running: dict[int, ActiveTransfer] = field(default_factory=dict)
    now: float = 1000.0
    failures: list[LedgerFailed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.traffic = TrafficCounter(_ENGINE.count)
        self.reporter = LiveReporter(
            cast(LiveLedger, self.ledger),
            cast(ActiveTransfers, SimpleNamespace(by_claim=self.running)),
            self.traffic,
            self.failures.append,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )

    def turns(self, count: int) -> None:
        """Let seconds pass, with a turn after each."""
        for _ in range(count):
            self.now += 1
            self.reporter.turn()

    def watch(self, *ids: str) -> None:
        """Let a poll find which migrations are watched."""
        view = MigrationView(state="running", bounds=Bounds(), place=0, of=1, watched=True)
        self.reporter.apply(dict.fromkeys(ids, view))


def test_an_idle_process_writes_nothing() -> None:
    desk = Desk()
    desk.watch("m")
    desk.turns(30)
    assert desk.ledger.lives == desk.ledger.samples == []


def test_moving_objects_are_written_only_while_watched() -> None:
    desk = Desk()
    desk.running[1] = active = active_of()
    desk.running[2] = active_of("b", 2, "other")
    desk.turns(3)
    assert desk.ledger.lives == []
    desk.watch("m")
    for moved in (10, 30, 50):
        fake(active).moved, fake(active).counts = moved, (moved // 10, 9)
        desk.turns(1)
    last = desk.ledger.lives[-1]
    assert last["moving"] == {"m": 1}
    assert last["objects"] == [
        {
            "migration_id": "m",
            "name": "a",
            "phase": "piping",
            "bytes": 50,
            "total": 100,
            "rate": 20,
            "attempt": 1,
            "part": 5,
            "parts": 9,
        }
    ]
    desk.watch()
    desk.turns(3)
    assert len(desk.ledger.lives) == 3


def test_a_row_of_live_state_is_bounded() -> None:
    """In objects and in bytes: the longest-running are named, and all are counted."""
    desk = Desk()
    desk.watch("m")
    for number in range(200):
        desk.running[number] = active_of(f"{number:03}", number, began=-float(number))
    desk.turns(1)
    (found,) = desk.ledger.lives
    assert found["moving"] == {"m": 200} and len(found["objects"]) == MOST_OBJECTS
    assert [one["name"] for one in found["objects"]][:2] == ["199", "198"]
    for number in range(200):
        desk.running[number] = active_of("ü" * 1000, number)
    desk.turns(1)
    assert 0 < len(desk.ledger.lives[-1]["objects"]) < MOST_OBJECTS
    assert all(len(text) <= MOST_BYTES for text in desk.ledger.texts)


def test_a_sample_has_what_moved_in_ten_seconds() -> None:
    """Of transfers that run, and of those that ended meanwhile."""
    desk = Desk()
    desk.running[1] = one = active_of()
    desk.running[2] = two = active_of("b", 2)
    desk.turns(2)
    fake(one).moved = 30
    fake(two).moved = 5
    desk.turns(1)
    fake(one).shown_phase = "verifying"
    fake(one).proved = 25
    desk.turns(1)
    desk.traffic.note_end(desk.running.pop(1))
    fake(two).moved = 9
    desk.turns(6)
    (sample,) = desk.ledger.samples
    assert sample["m"] == Traffic(
        moved=39, read_back=25, slot_seconds={"piping": 13.0, "verifying": 1.0}
    )
    desk.turns(10)
    assert desk.ledger.samples[1]["m"] == Traffic(slot_seconds={"piping": 10.0})


def test_a_failed_attempt_is_part_of_the_sample() -> None:
    """The next one shows its own bytes; the sample has those of both, each once."""
    desk = Desk()
    desk.running[1] = active = active_of()
    fake(active).moved = 30
    desk.turns(1)
    fake(active).earlier, fake(active).moved = 40, 4
    desk.turns(9)
    (sample,) = desk.ledger.samples
    assert (sample["m"].moved, sample["m"].read_back) == (44, 0)


def test_samples_and_metrics_have_the_same_bytes() -> None:
    """Also if the metrics are read in between."""
    desk, before = Desk(), sum(_ENGINE.tallies.bytes.values())
    desk.running[1] = active = active_of()
    for moved in (10, 30, 30, 70):
        fake(active).moved = moved
        _ENGINE.count(fake(active))
        desk.turns(1)
    fake(active).moved, fake(active).proved = 90, 5
    desk.traffic.note_end(desk.running.pop(1))
    desk.turns(6)
    (sample,) = desk.ledger.samples
    assert (sample["m"].moved, sample["m"].read_back) == (90, 5)
    assert sum(_ENGINE.tallies.bytes.values()) - before == 90 + 90 + 5


def test_a_sample_that_fails_is_written_with_the_next() -> None:
    desk = Desk()
    desk.running[1] = active = active_of()
    fake(active).moved = 30
    desk.ledger.failure = LedgerFailed("away")
    desk.turns(10)
    assert (len(desk.failures), desk.ledger.samples) == (1, [])
    desk.ledger.failure = None
    fake(active).moved = 40
    desk.turns(10)
    assert desk.ledger.samples[0]["m"].moved == 40


def test_a_resting_migration_is_asked_about_for_a_while() -> None:
    """When it has ended its samples are merged; one that is paused for long costs nothing."""
    desk = Desk()
    desk.running[1] = active_of()
    desk.running[2] = active_of("b", 2, "other")
    desk.turns(10)
    for id in (1, 2):
        desk.traffic.note_end(desk.running.pop(id))
    desk.turns(10)
    desk.ledger.ended = {"m"}
    desk.turns(300)
    asked = [sorted(sample) for sample in desk.ledger.samples]
    assert asked[:3] == [["m", "other"]] * 3
    assert asked[3:] == [["other"]] * (PATIENT_TURNS - 1)


def test_the_last_sample_is_written_at_the_end() -> None:
    desk = Desk()
    desk.running[1] = active = active_of()
    fake(active).moved = 30
    desk.turns(1)
    stopped = Event()
    stopped.set()
    desk.reporter.run(stopped)
    assert desk.ledger.samples[0]["m"].moved == 30
