"""The time left of simulated migrations: workloads of objects over slots, sampled as a worker
samples them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from math import ceil
from random import Random
from statistics import median

import pytest

from relay.ledger.migration_values import Count
from relay.ledger.sample_values import Moving, MovingObject, Sample
from relay.views.time_left import CHANGE_SECONDS, Rest, ShownTime, TimeLeft, rest_of, time_left
from tests.unit.test_page_words import TREE

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
    starts = range(0, int(until) // 10 * 10, 10)
    moved, slot_seconds = defaultdict[int, float](float), defaultdict[int, float](float)
    ended = Counter[int]()
    for one in done:
        ended[ceil(one.end / 10) * 10 - 10] += 1
        for at in range(int(one.begin) // 10 * 10, ceil(one.end), 10):
            span = max(0.0, min(one.end, at + 10) - max(one.begin, at))
            moved[at] += one.moved * span / max(one.end - one.begin, 1e-9)
            slot_seconds[at] += span
    objects = accumulate(ended[at] for at in starts)
    return [
        Sample(
            at=at,
            seconds=10,
            moved=round(moved[at]),
            read_back=0,
            objects=count,
            slot_seconds={"piping": slot_seconds[at]},
        )
        for at, count in zip(starts, objects, strict=True)
    ]


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
        all_objects=len(done),
        all_bytes=whole,
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


@cache
def workload(kind: str) -> Sequence[Moved]:
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


REST = Rest(objects=100, bytes=1000 * MIB, all_objects=200, all_bytes=2000 * MIB)


def test_too_little_data_gives_no_time() -> None:
    few = [sample(at) for at in range(0, 30, 10)]
    assert time_left(few, REST, now=30.0) is None
    more = [sample(at) for at in range(0, 40, 10)]
    assert time_left(more, REST, now=40.0) is not None
    assert time_left(more, REST, now=40.0, listing=True) is None
    small = Rest(objects=5, bytes=MIB, all_objects=19, all_bytes=1023 * MIB)
    assert time_left(more, small, now=40.0) is None
    assert time_left(more, replace(small, all_objects=20), now=40.0) is not None
    assert time_left(more, replace(small, all_bytes=1024 * MIB), now=40.0) is not None


def test_a_stall_gives_no_time() -> None:
    moving = [sample(at) for at in range(0, 60, 10)]
    stalled = [sample(at, moved=0, objects=50) for at in range(60, 140, 10)]
    assert time_left([*moving, *stalled[:3]], REST, now=90.0) is not None
    assert time_left([*moving, *stalled], REST, now=140.0) is None


def test_one_large_object_takes_as_long_as_it_takes() -> None:
    """The other slots can't help."""
    samples = [sample(at) for at in range(0, 60, 10)]
    rest = replace(REST, objects=1, bytes=MIB, largest_bytes=1000 * MIB, largest_rate=float(MIB))
    found = time_left(samples, rest, now=60.0)
    assert found is not None and found.seconds == 1000


def test_a_shown_time_moves_only_for_a_reason() -> None:
    """It counts down; an estimate that differs must do so for some time."""
    shown = ShownTime()

    def show(seconds: float, now: float) -> float:
        found = shown.show(TimeLeft(seconds, seconds * 0.9, seconds * 1.2), now)
        assert found is not None and found.low <= found.seconds <= found.high
        return found.seconds

    assert show(100.0, 0.0) == 100
    assert show(95.0, 10.0) == 90
    assert show(200.0, 20.0) == 80
    assert show(80.0, 25.0) == 75
    for second in range(30, 40):
        assert show(200.0, float(second)) == 100 - second
    assert show(200.0, 30 + CHANGE_SECONDS) == 200
    assert shown.show(None, 50.0) is None
    assert show(70.0, 60.0) == 70
    assert TimeLeft(50.0, 20.0, 80.0).after(30.0) == TimeLeft(20.0, 0.0, 50.0)


def test_the_rest_is_what_no_part_has() -> None:
    """The largest object counts alone; as large a share as so far is expected to be skipped."""
    tally = {
        "queued": Count(90, 9_000),
        "running": Count(2, 1_500),
        "verified": Count(30, 3_000),
        "skipped": Count(10, 1_000),
        "failed": Count(5, 500),
    }
    rest = rest_of(replace(TREE, tally=tally, in_parts=200), Moving())
    assert (rest.objects, rest.bytes, rest.moved_share) == (92, 10_300, 0.75)
    assert (rest.all_objects, rest.all_bytes) == (137, 15_000)
    objects = [moving_object(700, 100, 50), moving_object(800, 250, 0), moving_object(None, 9, 9)]
    rest = rest_of(replace(TREE, tally=tally), Moving(objects=objects, count=3))
    assert (rest.bytes, rest.largest_bytes, rest.largest_rate) == (10_500 - 359, 600, 50.0)
    nothing = Rest(objects=0, bytes=0, all_objects=0, all_bytes=0)
    assert rest_of(replace(TREE, tally={}), Moving()) == nothing


def moving_object(total: int | None, moved: int, rate: int) -> MovingObject:
    """Return an object that moves."""
    return MovingObject(
        migration_id="m",
        name="a",
        phase="piping",
        bytes=moved,
        total=total,
        rate=rate,
        attempt=1,
        part=None,
        parts=None,
    )


@pytest.mark.parametrize("kind", WORKLOADS)
def test_a_shown_time_does_not_jump(kind: str) -> None:
    """Within a minute it is never twice, or half, of the value before."""
    done = workload(kind)
    end = max(one.end for one in done)
    samples, shown, said = samples_of(done, end), ShownTime(), dict[int, float]()
    for now in range(int(end * 0.1) // 10 * 10 + 10, int(end) - 60, 10):
        known = [one for one in samples if one.at + 10 <= now]
        found = shown.show(time_left(known, rest_at(done, now), now=now), now)
        if found is not None:
            said[now] = found.seconds
    jumps = [
        (now, before, said[now])
        for now in said
        for then in range(now - 60, now, 10)
        if then in said and (before := said[then] - (now - then)) > 60
        if not before / 2 <= said[now] <= before * 2
    ]
    assert said and not jumps
