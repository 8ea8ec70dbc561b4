"""The number of claims ahead and the time between polls, computed from the last polls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from relay.engine.worker.prefetch import AHEAD, LONGEST_SECONDS, PrefetchSizer


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def sizer_at(objects: float, turn: float, slots: int = 32) -> PrefetchSizer:
    """Return the sizer of a worker that moved `objects` a second for ten seconds, with polls
    of `turn` seconds."""
    clock = Clock()
    pace = PrefetchSizer(slots, clock)
    for _ in range(100):
        began = clock.now + 0.1 - turn
        clock.now += 0.1
        pace.note_poll(round(objects / 10), began)
    return pace


def test_without_a_measure_a_worker_claims_for_its_slots() -> None:
    pace = PrefetchSizer(32, Clock())
    assert (pace.ahead, pace.low) == (0, 0)


@pytest.mark.parametrize("objects", [20, 200, 500])
def test_claims_ahead_last_a_fraction_of_a_second(objects: int) -> None:
    pace = sizer_at(objects, 0.0)
    assert pace.rate == pytest.approx(objects, rel=0.01)
    assert pace.ahead == pytest.approx(objects * LONGEST_SECONDS, abs=1)
    assert pace.low == 0


def test_waiting_for_the_lock_claims_more_and_earlier() -> None:
    free, kept = sizer_at(200, 0.01), sizer_at(200, 0.08)
    assert kept.ahead > free.ahead
    assert kept.low > free.low
    assert kept.low == pytest.approx(
        200 * 2 * 0.08, abs=1
    )  # it lasts exactly for a poll, and as long again
    assert kept.low <= kept.ahead // 2


@pytest.mark.parametrize("slots", [1, 8, 32])
def test_prefetching_is_bounded(slots: int) -> None:
    pace = sizer_at(100_000, 0.05, slots)
    assert (pace.ahead, pace.low) == (AHEAD * slots, AHEAD * slots // 2)


def test_old_failures_do_not_count() -> None:
    clock = Clock()
    pace = PrefetchSizer(32, clock)
    for _ in range(50):
        clock.now += 0.1
        pace.note_poll(50, clock.now)
    assert pace.ahead >= 100
    for _ in range(5):
        clock.now += 1.0
        pace.note_poll(0, clock.now)
    assert pace.ahead <= 1


def test_the_first_ended_objects_are_enough_to_measure() -> None:
    clock = Clock()
    pace = PrefetchSizer(32, clock)
    clock.now += 0.05
    pace.note_poll(0, clock.now)
    clock.now += 0.05
    pace.note_poll(30, clock.now)
    assert pace.ahead > 32
