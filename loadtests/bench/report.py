"""The run as Markdown, for the terminal and docs/benchmarks.md."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from loadtests.bench.measures import (
    BASE,
    BEST_BASE,
    MIB,
    BenchError,
    Row,
    Verdict,
    figure_text,
    find,
    ratio,
)
from loadtests.bench.sections import MANY, Section

OPEN, CLOSE = "<!-- bench -->", "<!-- /bench -->"
_NOTE = (
    "Medians, for CPU with the least and the most of the rounds. CPU is user and system time of the"
    " mover alone: of relay's worker, or of the other programs from start to end. The clouds are"
    " one nginx with a worker for each core, on the same cores, its files in memory. Machines are"
    " noisy and share their cores: compare the ratios of one run, not absolute figures, and not"
    " those of two runs. Before each move as much memory as it needs is touched once, since a"
    " virtual machine may have given it back to its host. rclone runs with its defaults unless its"
    " row says more, by `copyto` or `copy` from HTTP to WebDAV; no digest is common to both of"
    " these, so it compares sizes. relay is asked by one `POST /migrate` an object, over as many"
    " connections as there are slots."
)
_ONE_CIPHER = (
    "All movers are held to this one suite; left to themselves (`--cipher ''`), relay and curl ask"
    " for AES-256 first, as OpenSSL does, and rclone for AES-128, as Go does, which is not the"
    " movers' work."
)


@dataclass
class Report:
    """The results of one run."""

    sections: tuple[Section, ...]
    rounds: int
    versions: dict[str, str]
    one_cipher: bool = True
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    day: str = field(default_factory=lambda: date.today().isoformat())

    @property
    def is_sound(self) -> bool:
        """Whether every mover moved all objects whole."""
        return all(row.is_whole for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "date": self.day,
            "sections": [vars(section) for section in self.sections],
            "rounds": self.rounds,
            "one_cipher": self.one_cipher,
            "machine": machine(),
            "versions": self.versions,
            "rows": [row.to_json() for row in self.rows],
            "verdicts": [vars(verdict) for verdict in self.verdicts],
        }

    def markdown(self) -> str:
        """Return the block that goes between the page's marks."""
        tables = [self._table(section) for section in self.sections]
        return (
            "\n\n".join(filter(None, [self._heading(), *tables, self._targets(), self._notes()]))
            + "\n"
        )

    def _heading(self) -> str:
        used = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"`make bench` on {self.day}: medians of {self.rounds} interleaved rounds, on"
            f" {machine()}; {used}."
        )

    def _table(self, section: Section) -> str:
        rows = [row for row in self.rows if row.section == section.name]
        if not rows:
            return ""
        unit = ("objects/s", "CPU-ms/object") if section.count >= MANY else ("MB/s", "CPU-s/GiB")
        each = (
            f"{section.count:,} of {_size(section.size)}"
            if section.count > 1
            else _size(section.size)
        )
        lines = [
            f"**{section.title}** ({each})",
            "",
            (
                f"| mover | {unit[0]} | {unit[1]} | CPU, of rclone's | throughput, of rclone's |"
                " whole |"
            ),
            "|---|--:|--:|--:|--:|:-:|",
        ]
        base = find(self.rows, section.name, BEST_BASE if section.count >= MANY else BASE)
        lines += [f"| {' | '.join(_cells(row, base, section))} |" for row in rows]
        return "\n".join(lines)

    def _targets(self) -> str:
        if not self.verdicts:
            return ""
        lines = ["| what | figure | target | met |", "|---|---|---|:-:|"]
        lines += [
            f"| {v.what} | {v.figure} | {v.target} | {'yes' if v.met else '**no**'} |"
            for v in self.verdicts
        ]
        return "\n".join(lines)

    def _notes(self) -> str:
        failed = [
            f"{row.key} ({row.section}) failed: {_one_line(row.failure)}."
            for row in self.rows
            if row.failure
        ]
        ciphers: dict[str, dict[str, None]] = {}
        for row in self.rows:
            if row.cipher:
                ciphers.setdefault(row.cipher, {})[row.key] = None
        spoken = "; ".join(f"{cipher}: {', '.join(keys)}" for cipher, keys in ciphers.items())
        tls = [f"Agreed over TLS: {spoken}."] if spoken else []
        if tls and self.one_cipher:
            tls.append(_ONE_CIPHER)
        return " ".join([_NOTE, *tls, *failed])


def _cells(row: Row, base: Row | None, section: Section) -> list[str]:
    small = "" if row.size == section.bytes else f" ({_size(row.size)}, scaled)"
    if section.count >= MANY:
        rate, cpu = figure_text(row.object_rate), figure_text(row.object_cpu)
    else:
        rate = figure_text(row.rate)
        cpu = figure_text(row.cpu) + (
            f" ({figure_text(row.cpu_range[0])}–{figure_text(row.cpu_range[1])})"
            if row.cpu_range
            else ""
        )
    return [
        row.label + small,
        rate,
        cpu,
        figure_text(ratio(row.cpu, base.cpu if base else None)),
        figure_text(ratio(row.rate, base.rate if base else None)),
        "yes" if row.is_whole else "**no**",
    ]


def machine() -> str:
    """Return a short description of this machine."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''}" + (f" ({found[1].strip()})" if found else "")


def check_outputs(
    readme: Path | None, *files: Path | None, opening: str = OPEN, closing: str = CLOSE
) -> None:
    """Raise BenchError, before anything is measured, if the results could not be written: a
    `readme` without the marks, `files` in a missing folder."""
    if readme is not None and not has_marks(readme, opening, closing):
        raise BenchError(f"{readme} has no {opening} … {closing} to write the result between")
    for file in files:
        if file is not None and not os.access(file.parent, os.W_OK | os.X_OK):
            raise BenchError(
                f"{file} can't be written: {file.parent} is not a folder that is ours to write"
            )


def has_marks(path: Path, opening: str = OPEN, closing: str = CLOSE) -> bool:
    """Return whether a file has the marks of the block."""
    if not path.is_file():
        return False
    _, _, rest = path.read_text(encoding="utf-8").partition(opening)
    return closing in rest


def write_into(path: Path, block: str, opening: str = OPEN, closing: str = CLOSE) -> None:
    """Replace the text between the marks. Raises BenchError if they are missing."""
    text = path.read_text(encoding="utf-8")
    before, mark, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not mark or not end:
        raise BenchError(f"{path} has no {opening} … {closing}")
    path.write_text(f"{before}{opening}\n{block}{closing}{after}", encoding="utf-8")


def _size(size: int) -> str:
    for unit, name in ((MIB * 1024, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("|", "/").split())
