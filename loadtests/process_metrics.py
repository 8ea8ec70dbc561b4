"""Metrics of relay's workers while they work: memory, descriptors, bytes written to the disk, once
a second."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from loadtests.bench.measures import MIB
from loadtests.bench.processes import memory, written_bytes


@dataclass(frozen=True)
class ProcessSample:
    """One sample: seconds on the clock, resident bytes, open descriptors."""

    at: float
    rss: int
    descriptors: int


@dataclass
class ProcessMetrics:
    """The measurements of these processes. `settle` seconds of the beginning do not count for the
    slopes."""

    pids: Sequence[int]
    settle: float = 30.0
    samples: list[ProcessSample] = field(default_factory=list)
    disk: int = 0
    _disk_before: int | None = None

    def sample(self) -> None:
        """Take one sample. Raises BenchError if a process has ended, which is a finding too."""
        written = sum(written_bytes(pid) for pid in self.pids)
        if self._disk_before is None:
            self._disk_before = written
        self.disk = written - self._disk_before
        rss = sum(memory(pid, "VmRSS") for pid in self.pids)
        descriptors = sum(len(os.listdir(Path(f"/proc/{pid}/fd"))) for pid in self.pids)
        self.samples.append(ProcessSample(monotonic(), rss, descriptors))

    @property
    def peak_mib(self) -> float:
        """Maximum resident memory in MiB."""
        return max((sample.rss for sample in self.samples), default=0) / MIB

    @property
    def minutes(self) -> float:
        """Length of the interval of the slopes in minutes."""
        counted = self._settled_samples()
        return (counted[-1].at - counted[0].at) / 60 if counted else 0.0

    @property
    def rss_slope(self) -> float:
        """Growth of memory in MiB a minute, by least squares."""
        return slope([(sample.at / 60, sample.rss / MIB) for sample in self._settled_samples()])

    @property
    def descriptor_slope(self) -> float:
        """Growth of the number of open descriptors a minute."""
        return slope(
            [(sample.at / 60, float(sample.descriptors)) for sample in self._settled_samples()]
        )

    def _settled_samples(self) -> list[ProcessSample]:
        return [sample for sample in self.samples if sample.at - self.samples[0].at >= self.settle]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line through points by least squares; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
