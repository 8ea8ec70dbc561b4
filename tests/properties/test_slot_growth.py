"""The number of slots that grows by itself stays within its bounds, at any rate."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from relay.engine.worker.slot_growth import HOLD_SECONDS, Load, SlotGrowth

FIRST, MOST, TICK = 10, 64, 0.25


@dataclass(frozen=True)
class Step:
    """What happens between two measurements."""

    seconds: float
    objects: int
    bytes: int
    cpu_seconds: float
    complaints: int
    failing: int
    is_full: bool


steps = st.builds(
    Step,
    seconds=st.floats(0.0, 20.0),
    objects=st.integers(0, 10_000),
    bytes=st.integers(-(1 << 20), 1 << 40),  # a new attempt counts its bytes from 0
    cpu_seconds=st.floats(0.0, 20.0),
    complaints=st.sampled_from([0, 0, 0, 1, 50]),
    failing=st.sampled_from([0, 0, 1, 64]),
    is_full=st.booleans(),
)


@given(st.lists(steps, max_size=60), st.integers(-1, 100), st.integers(1, MOST))
def test_the_number_stays_within_its_bounds(taken: list[Step], room: int, first: int) -> None:
    now = 0.0
    growth = SlotGrowth(first=first, most=MOST, room=lambda: room, clock=lambda: now)
    objects = moved = complaints = 0
    cpu = 0.0
    for step in taken:
        now, objects, moved = now + step.seconds, objects + step.objects, moved + step.bytes
        cpu, complaints = cpu + step.cpu_seconds, complaints + step.complaints
        before = growth.slots
        slots = growth.note(
            Load(
                objects=objects,
                bytes=moved,
                cpu_seconds=cpu,
                complaints=complaints,
                failing=step.failing,
                is_full=step.is_full,
            )
        )
        assert first <= slots <= MOST
        assert slots <= 2 * before
        assert slots <= before or (step.is_full and slots - before <= room)


def pass_time(
    growth: SlotGrowth, load: Load, now: list[float], seconds: float, most: float
) -> Load:
    """Let time pass on stores that take 0.2 s for an object, and at most `most` a second."""
    objects = float(load.objects)
    for _ in range(round(seconds / TICK)):
        now[0] += TICK
        objects += TICK * min(growth.slots / 0.2, most)
        load = Load(objects=int(objects), bytes=0, cpu_seconds=0.0, complaints=0)
        growth.note(load)
    return load


@given(st.floats(FIRST / 0.2, 2 * MOST / 0.2), st.floats(0.05, 0.4))
def test_it_finds_the_plateau_and_leaves_it_when_the_rate_falls(most: float, part: float) -> None:
    now = [0.0]
    growth = SlotGrowth(first=FIRST, most=MOST, clock=lambda: now[0])
    load = pass_time(growth, Load(objects=0, bytes=0, cpu_seconds=0.0, complaints=0), now, 11, most)
    reached = growth.slots
    # Enough for three quarters of what the stores allow, or all slots that there may be.
    assert reached / 0.2 >= 0.75 * most or reached == MOST
    assert reached == FIRST or reached / 2 / 0.2 < most  # and no doubling too many
    lowest, left = reached, part * min(most, reached / 0.2)
    for _ in range(round(2 * HOLD_SECONDS[0] / TICK)):
        load = pass_time(growth, load, now, TICK, left)
        lowest = min(lowest, growth.slots)
    assert lowest == FIRST
