"""A worker whose number of slots changes while it runs: every object is settled once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.slot_growth import Load, SlotGrowth
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Count
from relay.stores.local import LocalStore
from tests.faults.test_claims import DATA, accept_tree

COUNT = 60


class Scripted(SlotGrowth):
    """Takes the numbers of a list, and keeps the last one."""

    def follow(self, numbers: Iterator[int]) -> Scripted:
        self.numbers, self.loads = numbers, list[Load]()
        return self

    def note(self, load: Load) -> int:
        self.loads.append(load)
        self.slots = next(self.numbers, self.slots)
        return self.slots


class Gate:
    """Holds every object before it is published, and counts those that wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.waiting, self.most, self.commits = Event(), 0, 0, 0
        publish = LocalStore.publish

        def run_held(*args: Any, **options: Any) -> Any:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            self.opened.wait()
            gevent.sleep(0)
            self.waiting -= 1
            self.commits += 1
            return publish(*args, **options)

        monkeypatch.setattr(LocalStore, "publish", run_held)

    def await_waiting(self, count: int) -> None:
        with gevent.Timeout(30):
            while self.waiting < count:
                gevent.sleep(0.01)


@pytest.fixture
def runner(tmp_path: Path) -> TransferEngine:
    return TransferEngine(Settings(local_folders=str(tmp_path), slots=64))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def scripted_growth(*numbers: int) -> Scripted:
    return Scripted(first=numbers[0]).follow(iter(numbers))


def test_more_slots_move_more_objects_at_a_time(
    ledger: Ledger, tmp_path: Path, runner: TransferEngine, gate: Gate
) -> None:
    id = accept_tree(ledger, tmp_path, runner, COUNT)
    growth = scripted_growth(2, 2, 8)
    worker = Worker(ledger, runner, 2, id, growth=growth)
    working = gevent.spawn(worker.run)
    gate.await_waiting(8)
    assert worker.slots == 8
    gate.opened.set()
    with gevent.Timeout(60):
        working.get()
    assert gate.most == 8
    assert_all_moved(ledger, id, runner, gate)


def test_fewer_slots_end_with_their_objects(
    ledger: Ledger, tmp_path: Path, runner: TransferEngine, gate: Gate
) -> None:
    id = accept_tree(ledger, tmp_path, runner, COUNT)
    worker = Worker(ledger, runner, 8, id, growth=scripted_growth(8, 8, 1))
    working = gevent.spawn(worker.run)
    gate.await_waiting(8)
    with gevent.Timeout(30):
        while worker.slots > 1:
            gevent.sleep(0.01)
    assert len(worker.active) == 8  # no object is interrupted
    gate.opened.set()
    with gevent.Timeout(30):
        while len(worker.active) > 1:
            gevent.sleep(0)
    gate.most = gate.waiting
    with gevent.Timeout(60):
        working.get()
    assert gate.most <= 1
    assert_all_moved(ledger, id, runner, gate)


def test_a_number_that_goes_up_and_down_loses_no_object(
    ledger: Ledger, tmp_path: Path, runner: TransferEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.engine.worker.worker.LOAD_SECONDS", 0.001)
    id = accept_tree(ledger, tmp_path, runner, COUNT)
    numbers = [1 + index * 7 % 20 for index in range(10_000)]
    with gevent.Timeout(60):
        Worker(ledger, runner, 1, id, growth=scripted_growth(*numbers)).run()
    assert ledger.migration(id).tally == {"verified": Count(COUNT, COUNT * len(DATA))}
    assert all(row.attempts == 1 for row in ledger.page(id))
    assert runner.slots.held == 0


def test_a_stop_with_more_slots_hands_their_objects_back(
    ledger: Ledger, tmp_path: Path, runner: TransferEngine, gate: Gate
) -> None:
    id = accept_tree(ledger, tmp_path, runner, COUNT)
    worker = Worker(ledger, runner, 2, id, growth=scripted_growth(2, 8))
    working = gevent.spawn(worker.run)
    gate.await_waiting(8)
    worker.stop()
    gate.opened.set()
    with gevent.Timeout(30):
        working.get()
    assert ledger.migration(id).under_way == 0
    assert runner.slots.held == 0
    with gevent.Timeout(60):
        Worker(ledger, runner, 4, id).run()
    assert ledger.migration(id).count_in("verified").objects == COUNT


def test_the_load_counts_what_has_moved(
    ledger: Ledger, tmp_path: Path, runner: TransferEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.engine.worker.worker.LOAD_SECONDS", 0.001)
    id = accept_tree(ledger, tmp_path, runner, COUNT)
    growth = scripted_growth(1)
    worker = Worker(ledger, runner, 1, id, growth=growth)
    with gevent.Timeout(60):
        worker.run()
    loads = growth.loads
    for name in ("objects", "bytes", "cpu_seconds"):
        counts = [getattr(load, name) for load in loads]
        assert counts == sorted(counts)
    assert 0 < loads[-1].objects <= COUNT
    assert 0 < loads[-1].bytes <= COUNT * len(DATA)
    assert {load.complaints for load in loads} == {0}
    assert any(load.is_full for load in loads)


def test_other_processes_see_the_present_number(
    ledger: Ledger, tmp_path: Path, runner: TransferEngine, gate: Gate
) -> None:
    id = accept_tree(ledger, tmp_path, runner, COUNT)
    worker = Worker(ledger, runner, 2, id, growth=scripted_growth(2, 2, 5), lease_seconds=0.4)
    working = gevent.spawn(worker.run)
    gate.await_waiting(5)
    with gevent.Timeout(30):
        while ledger.migration(id).slots != 5:
            gevent.sleep(0.02)
    gate.opened.set()
    with gevent.Timeout(60):
        working.get()
    assert ledger.migration(id).slots is None


def assert_all_moved(ledger: Ledger, id: str, runner: TransferEngine, gate: Gate) -> None:
    assert ledger.migration(id).tally == {"verified": Count(COUNT, COUNT * len(DATA))}
    assert gate.commits == COUNT
    assert runner.slots.held == 0
