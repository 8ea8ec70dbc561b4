"""Movers compared: each moves the same objects, in turn, in several rounds; and the table of the
results.

Decided here: how a run is measured and reported. Never here: which objects are moved.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

from loadtests.bench.measures import BenchError
from loadtests.bench.processes import memory

MIB = 1 << 20


def say(text: str) -> None:
    """Print the progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Cost:
    """The cost of one run: wall and CPU seconds, peak memory in bytes; of a server with several
    workers, how many objects each has moved, and how many of the CPU seconds were those of native
    threads."""

    wall: float
    cpu: float
    memory: int
    moved: tuple[int, ...] = ()
    native: float = 0.0


class Mover(Protocol):
    """A program that moves (or lists) all objects."""

    @property
    def name(self) -> str:
        """Its name in the table."""

    def measure_move(self, target: str, seconds: float) -> Cost:
        """Move all objects once, to `target`. Raises BenchError if it fails, or takes longer than
        `seconds`."""


@dataclass(frozen=True)
class Program:
    """A program with its flags, which is started, works, and ends; `command(target)` are its
    words."""

    name: str
    command: Callable[[str], Sequence[str]]
    environment: dict[str, str]
    well: frozenset[int] = frozenset({0})
    """The exit codes of a successful move."""

    def measure_move(self, target: str, seconds: float) -> Cost:
        """As Mover's; its start is part of its cost."""
        before = time.monotonic()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                list(self.command(target)),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            status, usage, peak = _await_end(process, before + seconds, self.name)
            if status not in self.well:
                said.seek(0)
                text = said.read()[-400:].decode(errors="replace")
                raise BenchError(f"{self.name} ended with {status}: {text}")
        return Cost(time.monotonic() - before, usage.ru_utime + usage.ru_stime, peak)


@dataclass
class Section:
    """One comparison: `count` objects of `bytes` together; `check(target)` raises BenchError if an
    object is missing."""

    name: str
    title: str
    count: int
    bytes: int
    movers: Sequence[Mover]
    check: Callable[[str], None]
    base: int = -1
    """The mover to which the others are compared: the last is the peer's best."""
    lines: Mapping[str, float] = field(default_factory=dict)
    """The MB/s that the connections of each mover carry, if they are limited."""
    costs: dict[str, list[Cost]] = field(default_factory=dict)


def _await_end(
    process: subprocess.Popen[bytes], until: float, name: str
) -> tuple[int, resource.struct_rusage, int]:
    """Return status, use and peak memory; ru_maxrss would include our own memory, which the process
    had before exec."""
    peak = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage, peak
        with suppress(BenchError, OSError):  # one of them has just ended
            peak = max(peak, sum(memory(pid, "VmHWM") for pid in _family(process.pid)))
        if time.monotonic() > until:
            process.kill()
            os.wait4(process.pid, 0)
            process.returncode = -9
            raise BenchError(f"{name} took too long")
        time.sleep(0.01)


def _family(pid: int) -> list[int]:
    """Return a process and its children. Raises OSError when it has ended."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def run(section: Section, rounds: int, seconds: float) -> None:
    """Run every mover once to warm up, and then in each round."""
    for turn in range(rounds + 1):
        for number, mover in enumerate(section.movers):
            target = f"{section.name}-{turn}-{number}"
            cost = mover.measure_move(target, seconds)
            section.check(target)
            say(
                f"{section.name} {turn}/{rounds} {mover.name}: {cost.wall:.2f} s, {cost.cpu:.2f}"
                " CPU-s"
            )
            if turn:
                section.costs.setdefault(mover.name, []).append(cost)


# -- the report


def table(section: Section, rounds: int) -> list[str]:
    """Return the section's rows in Markdown, with ratios to one of them."""
    best = section.costs[section.movers[section.base].name]
    large = section.count == 1
    served = any(cost.moved for cost in best)
    unit = "MB/s" if large else "objects/s"
    cost = "CPU-s/GiB" if large else "CPU-ms an object"
    limited = " of its connections |" if section.lines else ""
    lines = [
        f"**{section.title}** (median of {rounds} rounds)",
        "",
        f"| | {unit} | ratio | {cost} | ratio | peak memory |"
        + (" moved by each | native threads |" if served else limited),
        "|---|---:|---:|---:|---:|---:|" + ("---:|---:|" if served else "---:|" if limited else ""),
    ]
    for mover in section.movers:
        costs = section.costs[mover.name]
        wall, cpu = median(c.wall for c in costs), median(c.cpu for c in costs)
        speed = section.bytes / 1e6 / wall if large else section.count / wall
        each = cpu / section.bytes * (1 << 30) if large else cpu / section.count * 1e3
        lines.append(
            f"| {mover.name} | {_figure(speed)} | {median(c.wall for c in best) / wall:.2f} |"
            f" {each:.3g} | {cpu / median(c.cpu for c in best):.2f} |"
            f" {max(c.memory for c in costs) / MIB:.0f} MiB |"
            + (
                _worker_shares(costs)
                if served
                else f" {speed / section.lines[mover.name]:.2f} |"
                if limited
                else ""
            )
        )
    return [*lines, ""]


def _figure(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def _worker_shares(costs: Sequence[Cost]) -> str:
    """Return what each worker has moved, in the run of the median, and the share of CPU in native
    threads."""
    usual = sorted(costs, key=lambda cost: cost.wall)[len(costs) // 2]
    each = ", ".join(f"{count:,}" for count in sorted(usual.moved, reverse=True))
    return f" {each} | {median(cost.native / cost.cpu for cost in costs):.0%} |"
