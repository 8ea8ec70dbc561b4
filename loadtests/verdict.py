"""Judge the figures of a load by thresholds.toml: takes values, returns lines."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from loadtests.bench.measures import BenchError

SLOPES_NEED_MINUTES = 1.5
"""Slopes over a shorter time say little about a leak."""


@dataclass(frozen=True)
class Figures:
    """The measured figures; None for those without a measurement."""

    requests: int
    failure_ratio: float | None = None
    healthz_p99: float | None = None
    small_p50: float | None = None
    small_p95: float | None = None
    small_p99: float | None = None
    of_calibration: float | None = None
    peak_rss_mib: float | None = None
    disk_bytes: float | None = None
    rss_slope: float | None = None
    descriptor_slope: float | None = None


@dataclass(frozen=True)
class Line:
    """One threshold: its name, the figure, the limit, and whether it is kept; `met` is None without
    a measurement."""

    what: str
    figure: float | None
    limit: float
    met: bool | None

    def __str__(self) -> str:
        mark = {True: "yes", False: "NO ", None: "-  "}[self.met]
        figure = "not measured" if self.figure is None else f"{self.figure:.4g}"
        return f"{mark} {self.what}: {figure} (limit {self.limit:g})"


AT_MOST, AT_LEAST = float.__le__, float.__ge__
RULES: tuple[tuple[str, str, str, str, Callable[[float, float], bool]], ...] = (
    ("answers", "failure_ratio", "failure_ratio", "failed requests, of all", AT_MOST),
    ("answers", "healthz_p99_seconds", "healthz_p99", "/healthz p99, seconds", AT_MOST),
    ("small", "p50_seconds", "small_p50", "small files p50, seconds", AT_MOST),
    ("small", "p95_seconds", "small_p95", "small files p95, seconds", AT_MOST),
    ("small", "p99_seconds", "small_p99", "small files p99, seconds", AT_MOST),
    ("throughput", "of_calibration", "of_calibration", "MB/s, of one transfer alone", AT_LEAST),
    ("workers", "peak_rss_mib", "peak_rss_mib", "workers' peak memory, MiB", AT_MOST),
    ("workers", "disk_bytes", "disk_bytes", "bytes that the workers wrote to a disk", AT_MOST),
    ("workers", "rss_mib_per_minute", "rss_slope", "workers' memory grows, MiB a minute", AT_MOST),
    (
        "workers",
        "descriptors_per_minute",
        "descriptor_slope",
        "workers' descriptors grow, a minute",
        AT_MOST,
    ),
)
"""Section and name in the file, field of Figures, its text, and the direction of the limit."""


def read_thresholds(path: Path) -> dict[str, dict[str, float]]:
    """Read the file. Raises BenchError if it is missing, is not TOML, or names an unknown
    figure."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{path}: {error}") from None
    known = {(section, name) for section, name, *_ in RULES}
    for section, values in found.items():
        for name in values if isinstance(values, dict) else [""]:
            if (section, name) not in known:
                raise BenchError(f"{path}: [{section}] {name} is not a threshold")
    return found


def judge(figures: Figures, thresholds: Mapping[str, Mapping[str, float]]) -> list[Line]:
    """Return a line for each threshold. A load without one request has failed under any
    thresholds."""
    names = {field.name for field in fields(Figures)}
    lines = [Line("requests", float(figures.requests), 1, figures.requests > 0)]
    for section, name, field_name, words, may_be in RULES:
        if field_name not in names or name not in thresholds.get(section, {}):
            continue
        limit = float(thresholds[section][name])
        figure = getattr(figures, field_name)
        lines.append(
            Line(words, figure, limit, None if figure is None else may_be(float(figure), limit))
        )
    return lines
