"""The numbers of all workers, added up from their files, as Prometheus' text format has them.

Theory of operation. `prometheus_client` keeps each series in a file as its name, which is JSON, and
its value, at a place that never changes; new series come behind the others. So the names of a file
are read once, and each answer reads only values. `prometheus_client`'s own sum parses every name
each time, which costs ten times the CPU of this one.

Decided here: the sum and its text. Never here: the content of the files (`publisher.py`).
Source: prometheus_client/mmap_dict.py (the file), prometheus_client/multiprocess.py (the sum), and
Prometheus' "Exposition formats" (the text)."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from relay.metrics.metric_table import METRICS, Kind, Metric
from relay.tallies import Labels

_INTEGER: Final = Struct("i").unpack_from
_DOUBLE: Final = Struct("d").unpack_from
_FIRST: Final = 8
"""Where the first series of a file begins; before it is the end of the last one."""

Readings = Mapping[str, Mapping[Labels, float]]
"""Values by the metric's name without its prefix, and the values of its labels."""


class Series(NamedTuple):
    """The name of one series."""

    name: str
    """The full name of the metric, with `_bucket` or `_sum` for those of a histogram."""
    labels: str
    """The labels without `le`, as the text has them between braces."""
    le: str
    """The upper bound of a bucket; empty for any other series."""


@dataclass(eq=False)
class _File:
    """The names of the series of one file, and the places of their values."""

    inode: int
    read: int = _FIRST
    series: list[tuple[Series, int]] = field(default_factory=list)

    def is_of(self, data: bytes) -> bool:
        """Return whether a file with this content has at least the series that are known."""
        return _end(data) >= self.read

    def add_to(self, sums: dict[Series, float], data: bytes) -> None:
        """Add the values of a file with this content."""
        self._learn(data)
        for series, place in self.series:
            sums[series] += _DOUBLE(data, place)[0]

    def _learn(self, data: bytes) -> None:
        """Read the names behind those that are known."""
        end = _end(data)
        while self.read < end:
            length = _INTEGER(data, self.read)[0]
            begin = self.read + 4
            # The name is padded so that the value begins at a multiple of eight.
            place = begin + length + (8 - (length + 4) % 8)
            _, name, labels, _ = json.loads(data[begin : begin + length])
            le = labels.pop("le", "")
            self.series.append((Series(name, _labels_text(labels), le), place))
            self.read = place + 16


def _end(data: bytes) -> int:
    """Return where the last series of a file ends; a new file is empty for a moment."""
    return max(_FIRST, _INTEGER(data, 0)[0]) if len(data) > _FIRST else _FIRST


class SharedSums:
    """The sums over the files of one folder; not for two threads at a time."""

    def __init__(self, folder: Path, metrics: Iterable[Metric] = METRICS) -> None:
        """Nothing is read yet."""
        self._folder, self._metrics = folder, tuple(metrics)
        self._files: dict[str, _File] = {}

    def text(self, readings: Readings) -> bytes:
        """Return all metrics as text: those of the files, and the `readings`. Raises OSError."""
        by_name: dict[str, dict[tuple[str, str], float]] = {}
        for series, value in self._read().items():
            by_name.setdefault(series.name, {})[series.labels, series.le] = value
        parts: list[str] = []
        for metric in self._metrics:
            lines = [*_lines(metric, by_name, readings.get(metric.name, {}))]
            if lines:
                name, help = metric.full_name, metric.help.replace("\\", r"\\").replace("\n", r"\n")
                parts.append(f"# HELP {name} {help}\n# TYPE {name} {metric.type}\n")
                parts += lines
        return "".join(parts).encode()

    def _read(self) -> dict[Series, float]:
        """Return the sum of each series over all files."""
        sums: defaultdict[Series, float] = defaultdict(float)
        files: dict[str, _File] = {}
        for path in sorted(self._folder.glob("*.db")):
            try:
                with path.open("rb") as opened:
                    inode = os.fstat(opened.fileno()).st_ino
                    data = opened.read()
            except FileNotFoundError:  # a worker has ended meanwhile, and its gauges are removed
                continue
            known = self._files.get(path.name)
            if known is None or known.inode != inode or not known.is_of(data):
                known = _File(inode)
            known.add_to(sums, data)
            files[path.name] = known
        self._files = files
        return sums


def _lines(
    metric: Metric,
    values: Mapping[str, Mapping[tuple[str, str], float]],
    readings: Mapping[Labels, float],
) -> Iterator[str]:
    """Yield the lines of one metric."""
    name = metric.full_name
    if metric.kind is Kind.READING:
        for found, value in readings.items():
            yield _line(name, _labels_text(dict(zip(metric.labels, found, strict=True))), value)
    elif metric.kind is Kind.HISTOGRAM:
        yield from _histogram_lines(metric, values)
    else:
        for (labels, _), value in values.get(name, {}).items():
            yield _line(name, labels, value)


def _histogram_lines(
    metric: Metric, values: Mapping[str, Mapping[tuple[str, str], float]]
) -> Iterator[str]:
    """Yield the lines of a histogram: each bucket has the values of those below it too."""
    name, buckets = metric.full_name, values.get(f"{metric.full_name}_bucket", {})
    bounds = (*map(str, metric.bounds), "+Inf")
    for (labels, _), total in values.get(f"{name}_sum", {}).items():
        count = 0.0
        for bound in bounds:
            count += buckets.get((labels, bound), 0.0)
            yield _line(f"{name}_bucket", f'{labels}{"," if labels else ""}le="{bound}"', count)
        yield _line(f"{name}_count", labels, count)
        yield _line(f"{name}_sum", labels, total)


def _line(name: str, labels: str, value: float) -> str:
    number = "+Inf" if value == inf else repr(float(value))
    return f"{name}{{{labels}}} {number}\n" if labels else f"{name} {number}\n"


def _labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as the text has them between braces, in one order."""
    return ",".join(f'{name}="{_escape(text)}"' for name, text in sorted(labels.items()))


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
