"""The time left of simulated migrations: workloads of objects over slots, sampled as a worker
samples them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from statistics import median

import pytest

from relay.ledger.sample_values import Sample
from relay.views.time_left import CHANGE_SECONDS, Rest, ShownTime, time_left

KIB, MIB = 1 << 10, 1 << 20
SLOTS = 8


@dataclass(frozen=True)
class Moved:
    """One object of a simulated migration: when its slot took it and let it go."""

    begin: float
    end: float
    size: int
    moved: int


def run(objects: Sequence[tuple[int, float]], rate: Callable[[float], float]) -> list[Moved]:
    """Move objects of a size and a fixed time each over SLOTS slots; `rate` is that of a slot at a
    time. A size below zero is skipped."""
    free = [0.0] * SLOTS
    done = []
    for size, fixed in objects:
        begin = heappop(free)
        seconds = fixed + max(size, 0) / rate(begin)
        heappush(free, begin + seconds)
        done.append(Moved(begin, begin + seconds, abs(size), max(size, 0)))
    return done


def samples_of(done: Sequence[Moved], until: float) -> list[Sample]:
    """Return the samples of the time up to `until`, of ten seconds each."""
    return [
        Sample(
            at=at,
            seconds=10,
            moved=round(sum(one.moved * overlap(one, at) for one in done)),
            read_back=0,
            objects=sum(one.end <= at + 10 for one in done),
            slot_seconds={"piping": sum(overlap(one, at) * (one.end - one.begin) for one in done)},
        )
        for at in range(0, int(until) // 10 * 10, 10)
    ]


def overlap(one: Moved, at: int) -> float:
    """Return the share of an object's time that lies in ten seconds."""
    span = min(one.end, at + 10) - max(one.begin, at)
    return max(0.0, span) / max(one.end - one.begin, 1e-9)


def rest_at(done: Sequence[Moved], now: float) -> Rest:
    """Return what is left at a time."""
    settled = [one for one in done if one.end <= now]
    running = [one for one in done if one.begin <= now < one.end]
    whole = sum(one.size for one in done)
    moved = sum(one.moved * min(1.0, (now - one.begin) / (one.end - one.begin)) for one in running)
    sizes = sum(one.size for one in settled)
    share = sum(one.moved for one in settled) / sizes if sizes else 1.0
    last = max(running, key=lambda one: one.end, default=None)
    return Rest(
        objects=len(done) - len(settled),
        bytes=max(0, round(whole - sizes - moved)),
        moved_share=share,
        largest_bytes=0
        if last is None
        else round(last.moved * (last.end - now) / (last.end - last.begin)),
        largest_rate=0.0 if last is None else last.moved / (last.end - last.begin),
    )


def sizes(kind: str, chance: Random) -> Iterator[int]:
    """Yield the sizes of a workload's objects."""
    if kind == "small":
        yield from (64 * KIB for _ in range(12000))
    elif kind == "large":
        yield from (256 * MIB for _ in range(160))
    elif kind == "mixed":
        yield from (int(chance.lognormvariate(14, 2)) for _ in range(4000))
    elif kind == "small last":
        mixed = [256 * MIB] * 60 + [64 * KIB] * 2000
        chance.shuffle(mixed)
        yield from mixed
        yield from (64 * KIB for _ in range(4000))
    elif kind == "skipped":
        yield from (chance.choice((-1, 1, 1)) * 8 * MIB for _ in range(3000))
    else:
        yield from (32 * MIB for _ in range(1000))


WORKLOADS = ("small", "large", "mixed", "small last", "skipped", "varying rate")


def workload(kind: str) -> list[Moved]:
    """Return a simulated migration."""
    chance = Random(kind)  # noqa: S311 - the same each time
    objects = [(size, chance.uniform(0.2, 0.4)) for size in sizes(kind, chance)]
    if kind == "varying rate":
        return run(objects, lambda at: (10 if int(at) // 60 % 2 else 14) * MIB)
    return run(objects, lambda at: 12 * MIB * chance.uniform(0.8, 1.2))


@pytest.mark.parametrize("kind", WORKLOADS)
def test_the_median_error_is_at_most_a_quarter(kind: str) -> None:
    """From a tenth of the work on."""
    done = workload(kind)
    end = max(one.end for one in done)
    errors = []
    samples = samples_of(done, end)
    for now in range(int(end * 0.1) // 10 * 10 + 10, int(end) - 10, 10):
        found = time_left(
            [one for one in samples if one.at + 10 <= now], rest_at(done, now), now=now
        )
        if found is not None:
            errors.append(abs(found.seconds - (end - now)) / (end - now))
            assert found.low <= found.seconds <= found.high
    assert len(errors) > 5
    assert median(errors) <= 0.25, (kind, median(errors))


def sample(at: int, **members: float) -> Sample:
    """Return a sample of two busy slots."""
    values = {"moved": 100 * MIB, "objects": at, "read_back": 0} | members
    return Sample(at=at, seconds=10, slot_seconds={"piping": 20.0}, **values)  # type: ignore[arg-type]


REST = Rest(objects=100, bytes=1000 * MIB)


def test_too_little_data_gives_no_time() -> None:
    few = [sample(at) for at in range(0, 30, 10)]
    assert time_left(few, REST, now=30.0) is None
    more = [sample(at) for at in range(0, 40, 10)]
    assert time_left(more, REST, now=40.0) is not None
    assert time_left(more, REST, now=40.0, listing=True) is None
    slow = [sample(at, moved=MIB, objects=1) for at in range(0, 60, 10)]
    assert time_left(slow, REST, now=60.0) is None


def test_a_stall_gives_no_time() -> None:
    moving = [sample(at) for at in range(0, 60, 10)]
    stalled = [sample(at, moved=0, objects=50) for at in range(60, 140, 10)]
    assert time_left([*moving, *stalled[:3]], REST, now=90.0) is not None
    assert time_left([*moving, *stalled], REST, now=140.0) is None


def test_one_large_object_takes_as_long_as_it_takes() -> None:
    """The other slots can't help."""
    samples = [sample(at) for at in range(0, 60, 10)]
    rest = Rest(objects=1, bytes=MIB, largest_bytes=1000 * MIB, largest_rate=float(MIB))
    found = time_left(samples, rest, now=60.0)
    assert found is not None and found.seconds == 1000


def test_a_shown_time_moves_only_for_a_reason() -> None:
    """It counts down; an estimate that differs must do so for some time."""
    shown = ShownTime()
    assert shown.show(100.0, 0.0) == 100
    assert shown.show(95.0, 10.0) == 90
    assert shown.show(200.0, 20.0) == 80
    assert shown.show(80.0, 25.0) == 75
    for second in range(30, 40):
        assert shown.show(200.0, float(second)) == 100 - second
    assert shown.show(200.0, 30 + CHANGE_SECONDS) == 200
    assert shown.show(None, 50.0) is None
    assert shown.show(70.0, 60.0) == 70
