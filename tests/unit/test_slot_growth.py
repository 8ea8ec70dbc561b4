"""The number of slots that a command chooses by itself, on an injected clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.engine.worker.slot_growth import (
    BUSY,
    HOLD_SECONDS,
    LONGEST_SECONDS,
    MOST_SLOTS,
    OBJECT_BYTES,
    Load,
    SlotGrowth,
)
from relay.process.memory import available_bytes

FIRST, TICK = 10, 0.1
SMALL = 64 << 10


@dataclass
class Stores:
    """Two stores and a line on which an object takes `seconds`, and at most `objects` a second and
    `bytes_per_second` pass, with a growth that is asked ten times a second."""

    seconds: float = 0.2
    objects: float = 1e9
    bytes_per_second: float = 1e12
    size: int = SMALL
    cpu: float = 0.001
    """CPU seconds of an object."""
    complains_above: int = 1000
    """The number of slots above which a store answers 429."""
    failing: int = 0
    is_full: bool = True
    room: int = MOST_SLOTS
    now: float = 100.0
    seen: list[int] = field(default_factory=list)
    """The number of slots at each tick."""

    def __post_init__(self) -> None:
        self.growth = SlotGrowth(first=FIRST, room=lambda: self.room, clock=lambda: self.now)
        self.load = [0.0, 0.0, 0.0, 0.0]

    def run(self, seconds: float) -> list[int]:
        """Let time pass; return the number of slots at each tick of it."""
        begin = len(self.seen)
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            slots = self.growth.slots
            rate = min(slots / self.seconds, self.objects, self.bytes_per_second / self.size)
            ended = TICK * rate
            complained = float(slots > self.complains_above)
            steps = (ended, ended * self.size, ended * self.cpu, complained)
            self.load = [before + step for before, step in zip(self.load, steps, strict=True)]
            objects, moved, cpu, complaints = self.load
            self.growth.note(
                Load(
                    objects=int(objects),
                    bytes=int(moved),
                    cpu_seconds=cpu,
                    complaints=int(complaints),
                    failing=self.failing,
                    is_full=self.is_full,
                )
            )
            self.seen.append(self.growth.slots)
        return self.seen[begin:]


def test_a_distant_store_gets_the_most_slots_soon() -> None:
    seen = Stores().run(10)
    assert sorted(set(seen)) == [FIRST, 20, 40, MOST_SLOTS]
    assert seen == sorted(seen)
    assert seen.index(MOST_SLOTS) * TICK < 3


def test_a_step_that_helps_nothing_is_undone() -> None:
    stores = Stores(objects=FIRST / 0.2)
    seen = stores.run(60)
    assert set(seen) == {FIRST, 2 * FIRST}
    assert seen.count(FIRST) > 0.8 * len(seen)


def test_trials_without_gain_become_rare() -> None:
    seen = Stores(objects=FIRST / 0.2).run(3600)
    trials = sum(after > before for before, after in zip(seen, seen[1:], strict=False))
    assert trials <= 3600 / HOLD_SECONDS[1] + 8


def test_a_busy_process_gets_no_more_slots() -> None:
    rate = FIRST / 0.2
    assert set(Stores(cpu=1.01 * BUSY / rate).run(600)) == {FIRST}


def test_slots_of_a_busy_process_go_when_the_rate_falls() -> None:
    stores = Stores(cpu=1.01 * BUSY / (2 * FIRST / 0.2))
    stores.run(30)
    assert stores.growth.slots == 2 * FIRST
    stores.objects = 0.4 * 2 * FIRST / 0.2
    assert FIRST in stores.run(12)


def test_large_objects_on_a_full_line_get_no_more_slots() -> None:
    stores = Stores(seconds=1.0, size=32 * OBJECT_BYTES, bytes_per_second=50e6)
    seen = stores.run(600)
    assert set(seen) <= {FIRST, 2 * FIRST}
    assert seen.count(FIRST) > 0.8 * len(seen)


def test_few_objects_are_enough_to_decide() -> None:
    """None of them ends while the rate is measured, but their bytes move."""
    stores = Stores(seconds=40.0, size=40 * OBJECT_BYTES)
    stores.run(4 * 2 * LONGEST_SECONDS)
    assert stores.growth.slots == MOST_SLOTS


def test_stores_that_stall_get_no_more_slots() -> None:
    assert set(Stores(objects=0.0).run(600)) == {FIRST}


def test_nothing_is_decided_without_waiting_objects() -> None:
    assert set(Stores(is_full=False).run(600)) == {FIRST}


def test_the_number_grows_no_further_than_there_is_memory() -> None:
    assert set(Stores(room=0).run(60)) == {FIRST}
    assert max(Stores(room=3).run(1.5)) == FIRST + 3


def test_a_complaint_halves_and_is_remembered_for_a_while() -> None:
    stores = Stores(complains_above=50)
    seen = stores.run(60)
    first = seen.index(MOST_SLOTS)
    assert seen[first + 1] == MOST_SLOTS // 2
    assert set(seen[first + 1 : first + round(HOLD_SECONDS[0] / TICK)]) == {MOST_SLOTS // 2}
    assert seen.count(MOST_SLOTS) <= 4


def test_the_complaints_of_one_moment_halve_once() -> None:
    stores = Stores()
    stores.run(10)
    stores.complains_above = MOST_SLOTS // 2 - 1
    assert stores.run(3 * TICK) == [MOST_SLOTS // 2] * 3


def test_no_complaint_goes_below_the_first_number() -> None:
    assert min(Stores(complains_above=0).run(60)) == FIRST


@pytest.mark.parametrize(("failing", "left"), [(1, MOST_SLOTS), (9, MOST_SLOTS // 2)])
def test_only_several_failing_transfers_are_a_complaint(failing: int, left: int) -> None:
    stores = Stores()
    stores.run(10)
    stores.failing = failing
    assert stores.run(TICK) == [left]


def test_a_short_pause_does_not_start_the_climb_again() -> None:
    stores = Stores()
    stores.run(20)
    stores.objects = 0.0
    stores.run(1.5)
    stores.objects = 1e9
    assert set(stores.run(20)) == {MOST_SLOTS}


def test_a_lower_rate_starts_the_climb_again() -> None:
    stores = Stores()
    stores.run(15)
    stores.objects = FIRST / 0.2
    assert FIRST in stores.run(10)
    seen = stores.run(120)
    assert seen.count(FIRST) > 0.7 * len(seen)


# -- the memory that is left

MEMINFO = "MemTotal:  8 kB\nMemAvailable:    2048 kB\nSwapTotal: 0 kB\n"


@dataclass
class System:
    """The files of a system, in a folder."""

    folder: Path

    def available(self, **files: str) -> int | None:
        """Return the memory that is left by these files."""
        for name, text in files.items():
            (self.folder / name.replace("memory_", "memory.")).write_text(text)
        return available_bytes(self.folder / "meminfo", self.folder)


def group_files(most: str) -> dict[str, str]:
    """Return the files of a control group that has 900 bytes in use, 100 of them page cache."""
    return {"memory_max": most, "memory_current": "900\n", "memory_stat": "a 1\ninactive_file 100"}


Files = Callable[[], dict[str, str]]


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (lambda: {}, None),
        (lambda: {"meminfo": MEMINFO}, 2 << 20),
        (lambda: {"meminfo": MEMINFO, **group_files("max\n")}, 2 << 20),
        (lambda: {"meminfo": MEMINFO, **group_files("1000\n")}, 200),
        (lambda: group_files("500\n"), 0),
        (lambda: {"meminfo": "nothing of it"}, None),
    ],
    ids=["none", "a machine", "no limit", "a limit", "over the limit", "another form"],
)
def test_the_memory_that_is_left(tmp_path: Path, files: Files, left: int | None) -> None:
    assert System(tmp_path).available(**files()) == left


def test_this_machine_has_memory_left() -> None:
    left = available_bytes()
    assert left is None or left > 0
