"""The time that a migration still needs, from what its last minutes cost.

Theory of operation. Moving an object costs a slot some time for itself (requests, proof) and some
for each byte. Each sample says how many slot-seconds were spent on how many objects and bytes; a
weighted ridge regression finds the two costs, with the recent samples counting more. The rest of
the objects and bytes at these costs, over the slots that are busy, is the time left: so a tree
whose small objects come last is not estimated by the rate of its large ones. The last object may
take longer than that: no slot can help with it. The range is that of estimates from resampled
samples.

Nothing is said where it would be a guess: too few samples, nothing moves, objects are still being
listed, or the migration is small.

Decided here: the estimate, when there is none, and when a shown one changes. Never here: its
words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Final

from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Moving, Sample
from relay.ledger.states import PENDING, TransferState

HALF_LIFE_SECONDS: Final = 120.0
"""The age at which a sample counts half."""
BUSY_SECONDS: Final = 60.0
"""The same for the number of busy slots."""
WINDOW_SECONDS: Final = 300
"""Older samples do not count: the estimate holds if the last five minutes are typical."""
FEWEST_SAMPLES: Final = 3
FEWEST_OBJECTS, FEWEST_BYTES = 20, 1 << 30
"""A smaller migration has no estimate: it must lack both."""
STALL_SECONDS: Final = 60
"""Without progress for this long there is no estimate."""
RIDGE: Final = 1e-3
"""The weight that keeps the regression stable where objects are all of one size."""
RESAMPLES: Final = 30
LOW, HIGH = 0.2, 0.8
"""The share of the resampled estimates below each end of the range."""
CHANGE, CHANGE_SECONDS = 0.1, 10.0
"""A shown value moves only if the estimate has differed by more than this share for that time."""
_RESTS: Final = frozenset({"waiting", "settled"})
"""Phases in which a slot does nothing."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What is left to do."""

    objects: int
    bytes: int
    all_objects: int
    all_bytes: int
    """What there was to do."""
    largest_bytes: int = 0
    """The rest of the object that takes longest, and its rate."""
    largest_rate: float = 0.0
    moved_share: float = 1.0
    """The share of the settled bytes that had to be moved: the others were skipped."""


@dataclass(frozen=True)
class TimeLeft:
    """An estimate in seconds, and its range."""

    seconds: float
    low: float
    high: float

    def after(self, seconds: float) -> TimeLeft:
        """Return the estimate as it is some seconds later."""
        return TimeLeft(*(max(0.0, one - seconds) for one in (self.seconds, self.low, self.high)))


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """What was done between two samples."""

    age: float
    objects: int
    bytes: int
    slot_seconds: float
    seconds: int


def rest_of(migration: Migration, moving: Moving) -> Rest:
    """Return what is left of a migration that moves `moving`, as far as that is known."""
    pending, every = migration.count_in(*PENDING), migration.count_in()
    # Parts that are stored count for both: those of the moving objects, and of unfinished uploads.
    there = max(migration.in_parts, sum(one.bytes for one in moving.objects))
    moved = migration.count_in(TransferState.VERIFIED, TransferState.UNVERIFIED).bytes
    settled = moved + migration.count_in(TransferState.SKIPPED).bytes
    rests = [
        (one.total - one.bytes, float(one.rate))
        for one in moving.objects
        if one.total is not None and one.rate > 0
    ]
    largest, rate = max(rests, default=(0, 0.0))
    return Rest(
        objects=pending.objects,
        bytes=max(0, pending.bytes - there),
        all_objects=every.objects,
        all_bytes=every.bytes,
        largest_bytes=max(0, largest),
        largest_rate=rate,
        moved_share=moved / settled if settled else 1.0,
    )


def time_left(
    samples: Sequence[Sample], rest: Rest, *, now: float, listing: bool = False, seed: int = 0
) -> TimeLeft | None:
    """Return the time that a running migration still needs, or None where it can't be said.
    `samples` are in order; `now` is in seconds since 1970."""
    steps = list(_steps(samples, now))
    is_small = rest.all_objects < FEWEST_OBJECTS and rest.all_bytes < FEWEST_BYTES
    if listing or is_small or not _is_enough(steps):
        return None
    best = _estimate(steps, rest)
    if best is None:
        return None
    found = _resample(steps, rest, seed) or [best]
    low, high = (quantile_of(found, share) for share in (LOW, HIGH))
    return TimeLeft(best, min(low, best), max(high, best))


def times_of(samples: Sequence[Sample], rest: Rest, *, now: float, seed: int = 0) -> list[float]:
    """Return estimates of the time for a rest, in seconds and in order: from samples drawn at
    random from those of a migration. Empty where it can't be said, as `time_left`."""
    steps = list(_steps(samples, now))
    is_small = rest.all_objects < FEWEST_OBJECTS and rest.all_bytes < FEWEST_BYTES
    return [] if is_small or not _is_enough(steps) else _resample(steps, rest, seed)


def quantile_of(found: Sequence[float], share: float) -> float:
    """Return the value below which this share of sorted values is."""
    return found[min(int(share * len(found)), len(found) - 1)]


def _resample(steps: Sequence[_Interval], rest: Rest, seed: int) -> list[float]:
    chance = Random(seed)  # noqa: S311 - so that two processes show the same range
    resampled = (_estimate(chance.choices(steps, k=len(steps)), rest) for _ in range(RESAMPLES))
    return sorted(one for one in resampled if one is not None)


def _steps(samples: Sequence[Sample], now: float) -> Iterator[_Interval]:
    recent = [one for one in samples if one.at >= now - WINDOW_SECONDS]
    for before, one in pairwise(recent):
        busy = sum(spent for phase, spent in one.slot_seconds.items() if phase not in _RESTS)
        objects = max(0, one.objects - before.objects)
        age = max(0.0, now - one.at - one.seconds)
        yield _Interval(
            age=age, objects=objects, bytes=one.moved, slot_seconds=busy, seconds=one.seconds
        )


def _is_enough(steps: Sequence[_Interval]) -> bool:
    moves = any(step.objects or step.bytes for step in steps if step.age <= STALL_SECONDS)
    return moves and len(steps) >= FEWEST_SAMPLES


def _estimate(steps: Sequence[_Interval], rest: Rest) -> float | None:
    """Return the time left in seconds by some steps, or None if they show no cost or no busy
    slot."""
    by_object, by_byte = _costs(steps)
    weights = [_weight(step, BUSY_SECONDS) for step in steps]
    spans = sum(weight * step.seconds for weight, step in zip(weights, steps, strict=True))
    busy = sum(weight * step.slot_seconds for weight, step in zip(weights, steps, strict=True))
    if not spans or not busy:
        return None
    work = rest.objects * by_object + rest.bytes * rest.moved_share * by_byte
    alone = rest.largest_bytes / rest.largest_rate if rest.largest_rate > 0 else 0.0
    return max(work / (busy / spans), alone)


def _weight(step: _Interval, half_life: float) -> float:
    return float(0.5 ** (step.age / half_life))


def _costs(steps: Sequence[_Interval]) -> tuple[float, float]:
    """Return the slot-seconds of an object and of a byte; neither is negative."""
    weights = [_weight(step, HALF_LIFE_SECONDS) for step in steps]

    def mean(value: Callable[[_Interval], float]) -> float:
        products = [w * value(step) for w, step in zip(weights, steps, strict=True)]
        return float(sum(products))

    # In units in which both are about 1, so that the ridge treats them alike.
    objects, moved = mean(lambda step: step.objects), mean(lambda step: step.bytes)
    time = mean(lambda step: step.slot_seconds)
    if not objects or not moved:
        return (time / objects if objects else 0.0, time / moved if moved else 0.0)
    many, long = objects / len(steps), moved / len(steps)
    oo = mean(lambda step: (step.objects / many) ** 2)
    bb = mean(lambda step: (step.bytes / long) ** 2)
    ob = mean(lambda step: step.objects / many * step.bytes / long)
    ot = mean(lambda step: step.objects / many * step.slot_seconds)
    bt = mean(lambda step: step.bytes / long * step.slot_seconds)
    ridge = RIDGE * (oo + bb)
    whole = (oo + ridge) * (bb + ridge) - ob * ob
    by_object = ((bb + ridge) * ot - ob * bt) / whole
    by_byte = ((oo + ridge) * bt - ob * ot) / whole
    if by_object < 0:
        by_object, by_byte = 0.0, bt / (bb + ridge)
    elif by_byte < 0:
        by_object, by_byte = ot / (oo + ridge), 0.0
    return by_object / many, by_byte / long


@dataclass(eq=False)
class ShownTime:
    """The value that a client sees: it moves only where the estimate differs for some time."""

    _shown: TimeLeft | None = None
    _at: float = 0.0
    _since: float | None = None

    def show(self, estimate: TimeLeft | None, now: float) -> TimeLeft | None:
        """Return the value to show for an estimate; between two changes it counts down."""
        if estimate is None or self._shown is None:
            self._shown, self._at, self._since = estimate, now, None
            return estimate
        running = self._shown.after(now - self._at)
        if abs(estimate.seconds - running.seconds) <= CHANGE * max(running.seconds, 1.0):
            self._since = None
            return running
        self._since = now if self._since is None else self._since
        if now - self._since < CHANGE_SECONDS:
            return running
        self._shown, self._at, self._since = estimate, now, None
        return estimate
