"""The measured values, and their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

GIB = 1 << 30
MIB = 1 << 20
BASE = "rclone"
"""The key of the mover to which ratios refer."""
BEST_BASE = "rclone-best"
"""The key that replaces it if rclone's defaults mostly wait: its WebDAV sleeps 10 ms before each
call."""
BASELINE = "baseline"
"""The key of the simplest loops in C."""


class BenchError(Exception):
    """A missing prerequisite of the benchmark; its text is one clear line."""


@dataclass(frozen=True)
class Cost:
    """The cost of one move: wall seconds, and CPU seconds (user and system) of the mover alone."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Sample:
    """One move of one object."""

    cost: Cost
    whole: bool


@dataclass
class Row:
    """All moves of one mover in one section: `objects` of together `size` bytes each time."""

    key: str
    label: str
    section: str
    size: int
    objects: int = 1
    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None
    cipher: str | None = None

    @property
    def rate(self) -> float | None:
        """The median wall throughput in MB/s (10^6 bytes); None if it never moved anything."""
        walls = [s.cost.wall for s in self.samples]
        return self.size / median(walls) / 1e6 if walls else None

    @property
    def cpu(self) -> float | None:
        """The median CPU seconds per GiB."""
        spent = [s.cost.cpu for s in self.samples]
        return median(spent) * GIB / self.size if spent else None

    @property
    def object_rate(self) -> float | None:
        """The median of the objects a second."""
        walls = [s.cost.wall for s in self.samples]
        return self.objects / median(walls) if walls else None

    @property
    def object_cpu(self) -> float | None:
        """The median CPU milliseconds an object."""
        spent = [s.cost.cpu for s in self.samples]
        return median(spent) * 1e3 / self.objects if spent else None

    @property
    def cpu_range(self) -> tuple[float, float] | None:
        """The least and the most CPU seconds per GiB; None with fewer than two samples."""
        spent = [s.cost.cpu * GIB / self.size for s in self.samples]
        return (min(spent), max(spent)) if len(spent) > 1 else None

    @property
    def is_whole(self) -> bool:
        """Whether every moved object was compared with the source, and was the same."""
        return self.failure is None and bool(self.samples) and all(s.whole for s in self.samples)

    def to_json(self) -> dict[str, Any]:
        """Return the row with its derived values."""
        return asdict(self) | {
            "mb_per_second": self.rate,
            "cpu_per_gib": self.cpu,
            "whole": self.is_whole,
        }


@dataclass(frozen=True)
class Verdict:
    """One figure against its target."""

    what: str
    figure: str
    target: str
    met: bool


def ratio(mine: float | None, other: float | None) -> float | None:
    """Return mine / other where both exist."""
    return mine / other if mine is not None and other else None


def find(rows: list[Row], section: str, key: str) -> Row | None:
    """Return the row of one mover in one section."""
    return next((row for row in rows if row.section == section and row.key == key), None)


def compare(
    rows: list[Row], section: str, most_cpu: float, most_of_baseline: float
) -> list[Verdict]:
    """Compare relay's row of one section with rclone's: CPU at most `most_cpu` of it, throughput no
    lower; and its CPU with the baseline's, if there is one."""
    mine, base = find(rows, section, "relay"), find(rows, section, BASE)
    if mine is None or base is None:
        return []
    sound = mine.is_whole and base.is_whole
    cpu, rate = ratio(mine.cpu, base.cpu), ratio(mine.rate, base.rate)
    sides = "plain" if section == "plain" else "TLS on both sides"
    baseline = find(rows, section, BASELINE)
    above = ratio(mine.cpu, baseline.cpu) if baseline else None
    held = (
        []
        if baseline is None
        else [
            Verdict(
                f"{sides}: CPU per GiB, of the baseline's",
                figure_text(above),
                f"≤ {most_of_baseline:.2f}",
                sound and baseline.is_whole and above is not None and above <= most_of_baseline,
            )
        ]
    )
    return [
        *held,
        Verdict(
            f"{sides}: CPU per GiB, of rclone's",
            figure_text(cpu),
            f"≤ {most_cpu:.2f}",
            sound and cpu is not None and cpu <= most_cpu,
        ),
        Verdict(
            f"{sides}: throughput, of rclone's",
            figure_text(rate),
            "≥ 1.00",
            sound and rate is not None and rate >= 1,
        ),
    ]


def figure_text(value: float | None) -> str:
    """Return a figure with a sensible number of digits."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
