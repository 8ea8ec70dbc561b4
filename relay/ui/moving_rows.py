"""Moving objects and samples, in the words of the page.

Decided here: which rows and points a page gets. Never here: where they come from
(`relay/ledger/live_rows.py`, `relay/ledger/samples.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from relay.ledger.sample_values import SAMPLE_SECONDS, Moving, MovingObject, Sample
from relay.ui import words
from relay.ui.figures import count, rate, share
from relay.ui.printable import visible
from relay.ui.summaries import Pace

ROWS: Final = 32
"""Maximum number of moving objects that a page shows."""
NAME_CHARACTERS: Final = 200
"""Maximum number of characters of a name in such a row."""
HISTORY_SECONDS: Final = 3600
"""How far back the chart of a running migration goes."""


def moving_rows(moving: Moving) -> list[list[Any]]:
    """Return a row for each moving object: its name, the share that has moved in per cent (None if
    its size is unknown), what happens to it, its rate, and its part and attempt."""
    return [_row(one) for one in moving.objects[:ROWS]]


def moving_title(moving: Moving) -> str:
    """Return the title above these rows."""
    shown = min(len(moving.objects), ROWS)
    if not moving.count:
        return ""
    return f"Moving now ({count(shown)} of {count(moving.count)})"


def chart_points(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the points of the chart: the time, and the bytes per second that moved and that were
    read back."""
    return [
        [one.at, round(one.moved / one.seconds), round(one.read_back / one.seconds)]
        for one in samples
        if one.seconds > 0
    ]


def with_rates(pace: Pace, moving: Moving, last: Sample | None, now: float) -> Pace:
    """Return a pace with the rate of the moving objects, if all of them are known, else that of the
    last sample. The counters of the ledger grow only when an object or a part has ended."""
    fresh = last if last is not None and now - last.at <= 3 * SAMPLE_SECONDS else None
    moved = None if fresh is None else fresh.moved / fresh.seconds
    read_back = 0.0 if fresh is None else fresh.read_back / fresh.seconds
    if moving.count and len(moving.objects) == moving.count:
        moved = float(sum(one.rate for one in moving.objects))
    if moved is None:
        return pace
    return replace(
        pace,
        bytes_per_second=moved,
        read_back_per_second=read_back,
        still_seconds=0.0 if moved or read_back else pace.still_seconds,
    )


def _row(one: MovingObject) -> list[Any]:
    done = None if not one.total else share(one.bytes, one.total)
    part = "" if one.part is None or one.parts is None else words.part_of(one.part, one.parts)
    attempt = words.attempt(one.attempt) if one.attempt > 1 else ""
    return [
        visible(one.name[:NAME_CHARACTERS]) or words.THE_OBJECT,
        done,
        words.PHASES.get(one.phase, one.phase),
        rate(one.rate) if one.rate else "",
        ", ".join(filter(None, (part, attempt))),
    ]
