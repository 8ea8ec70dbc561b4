"""How long a pass, and a cutover, will take: from the passes so far.

Theory of operation. A pass is a listing and the copies that it leaves to be made. The number of
those grows with the time since the pass before, at the rate of the last passes; each costs what it
cost in them. The newest pass counts twice as much as the one before it. A cutover is such a pass, a
second listing that finds nothing, and the audit. Each pass keeps the forecast that was made for it:
by its errors the middle of the next one is corrected, and its upper bound is chosen.

Decided here: both forecasts. Never here: what a pass counts (`pass_counts.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from relay.ledger.standing_values import Pass
from relay.ledger.states import PassKind

PASSES: Final = 6
"""Number of passes that are read: five, and the one before them."""
RATIOS: Final = 3
"""Number of earlier forecasts from which their errors count."""
UNTRIED: Final = 1.5
"""The upper bound, as a multiple of the middle, before that."""
LEAST: Final = 1.15
"""The same, at least."""
CORRECTION: Final = (0.5, 2.0)
"""Bounds of the correction of the middle."""


@dataclass(frozen=True)
class Forecast:
    """Seconds that half of all such passes are expected not to exceed, and nine of ten."""

    p50: float
    p90: float


def pass_forecast(passes: Sequence[Pass], now: float) -> Forecast | None:
    """Return the time of a pass that begins `now`, or None if no pass has ended. `passes` are the
    newest ones, the newest first."""
    ended = [one for one in passes if one.ended is not None and one.listed_at is not None]
    if not ended:
        return None
    return _with_errors(ended, _listing(ended) + _copies(ended, now))


def cutover_forecast(
    passes: Sequence[Pass], now: float, audit_seconds: float | None
) -> Forecast | None:
    """Return the time of a cutover that begins `now`, as `pass_forecast`. `audit_seconds` is the
    time of the last audit; without one it is that of a listing of each side."""
    ended = [one for one in passes if one.ended is not None and one.listed_at is not None]
    if not ended:
        return None
    listing = _listing(ended)
    audit = 2 * listing if audit_seconds is None else audit_seconds
    return _with_errors(ended, 2 * listing + _copies(ended, now) + audit)


def _listing(ended: Sequence[Pass]) -> float:
    return _average([(one.listed_at or one.begun) - one.begun for one in ended])


def _copies(ended: Sequence[Pass], now: float) -> float:
    """Return the expected seconds between the end of a listing and that of its copies."""
    pairs = list(zip(ended, ended[1:], strict=False))
    rates = [one.copied / max(1e-3, one.begun - before.begun) for one, before in pairs]
    if not rates:  # of one pass it is not known for how long its changes had gathered
        return 0.0
    later = [one for one in ended if one.copied and one.kind != PassKind.FIRST]
    costs = [
        max(0.0, (one.ended or 0.0) - (one.listed_at or 0.0)) / one.copied
        for one in later or [one for one in ended if one.copied]
    ]
    age = max(0.0, now - ended[0].begun)
    return _average(rates) * age * (_average(costs) if costs else 0.0)


def _average(newest_first: Sequence[float]) -> float:
    weights = [0.5**place for place in range(len(newest_first))]
    total = sum(weight * value for weight, value in zip(weights, newest_first, strict=True))
    return total / sum(weights)


def _with_errors(ended: Sequence[Pass], seconds: float) -> Forecast:
    """Return a forecast that the errors of earlier ones correct."""
    ratios = sorted(
        ((one.ended or 0.0) - one.begun) / one.p50 for one in ended if one.p50 and one.p50 > 0
    )
    if len(ratios) < RATIOS:
        return Forecast(seconds, seconds * UNTRIED)
    smallest, largest = CORRECTION
    middle = min(largest, max(smallest, median(ratios)))
    # With this few errors the greatest one is the best estimate of nine of ten.
    upper = max(middle * LEAST, ratios[-1] * LEAST)
    return Forecast(seconds * middle, seconds * upper)
