"""The run as Markdown, for the terminal and the README."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from loadtests.bench.measures import BASE, MIB, BenchError, Row, Verdict, find, ratio, told

OPEN, CLOSE = "<!-- bench -->", "<!-- /bench -->"
_TITLES = {"http": "Plain HTTP on both sides", "https": "TLS on both sides"}
_NOTE = (
    "Medians, for CPU with the least and the most of the rounds. CPU is user and system time of the mover alone: of "
    "relay's worker, or of the other programs from start to end. The peers are one nginx with a "
    "worker for each core, on the same cores, its files in memory. Machines are noisy and share "
    "their cores: compare the ratios of one run, not absolute "
    "figures, and not those of two runs. Before each move as much memory as it needs is touched once, since a virtual "
    "machine may have given it back to its host. rclone runs with its defaults, by `copyto` from HTTP to WebDAV; no "
    "digest is common to both of these, so it compares sizes."
)
_ONE_CIPHER = (
    "All movers are held to this one suite; left to themselves (`--cipher ''`), relay and curl ask for AES-256 first, "
    "as OpenSSL does, and rclone for AES-128, as Go does, which is not the movers' work."
)


@dataclass
class Report:
    """Everything that one run found."""

    size: int
    rounds: int
    versions: dict[str, str]
    one_cipher: bool = True
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    day: str = field(default_factory=lambda: date.today().isoformat())

    @property
    def sound(self) -> bool:
        """Whether every mover moved everything whole."""
        return all(row.whole for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "date": self.day,
            "size": self.size,
            "rounds": self.rounds,
            "one_cipher": self.one_cipher,
            "machine": machine(),
            "versions": self.versions,
            "rows": [row.to_json() for row in self.rows],
            "verdicts": [vars(verdict) for verdict in self.verdicts],
        }

    def markdown(self) -> str:
        """Return the block that goes between the README's marks."""
        schemes = dict.fromkeys(row.scheme for row in self.rows)
        parts = [self._heading(), *(self._table(scheme) for scheme in schemes), self._targets(), self._notes()]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _heading(self) -> str:
        used = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"`make bench` on {self.day}: one object of {_size(self.size)}, medians of {self.rounds} interleaved "
            f"rounds, on {machine()}; {used}."
        )

    def _table(self, scheme: str) -> str:
        base = find(self.rows, scheme, BASE)
        base_cpu, base_rate = (base.cpu, base.rate) if base else (None, None)
        lines = [
            f"**{_TITLES[scheme]}**",
            "",
            "| mover | MB/s | CPU-s/GiB | CPU, of rclone's | throughput, of rclone's | whole |",
            "|---|--:|--:|--:|--:|:-:|",
        ]
        for row in (row for row in self.rows if row.scheme == scheme):
            small = "" if row.size == self.size else f" ({_size(row.size)}, scaled)"
            cells = [
                row.label + small,
                told(row.rate),
                told(row.cpu) + (f" ({told(row.cpu_range[0])}–{told(row.cpu_range[1])})" if row.cpu_range else ""),
                told(ratio(row.cpu, base_cpu)),
                told(ratio(row.rate, base_rate)),
                "yes" if row.whole else "**no**",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _targets(self) -> str:
        if not self.verdicts:
            return ""
        lines = ["| what | figure | target | met |", "|---|---|---|:-:|"]
        lines += [f"| {v.what} | {v.figure} | {v.target} | {'yes' if v.met else '**no**'} |" for v in self.verdicts]
        return "\n".join(lines)

    def _notes(self) -> str:
        failed = [f"{row.key} over {row.scheme} failed: {_one_line(row.failure)}." for row in self.rows if row.failure]
        ciphers: dict[str, list[str]] = {}
        for row in self.rows:
            if row.cipher:
                ciphers.setdefault(row.cipher, []).append(row.key)
        spoken = "; ".join(f"{cipher}: {', '.join(keys)}" for cipher, keys in ciphers.items())
        tls = [f"Agreed over TLS: {spoken}."] if spoken else []
        if tls and self.one_cipher:
            tls.append(_ONE_CIPHER)
        return " ".join([_NOTE, *tls, *failed])


def machine() -> str:
    """Return what this machine has, in a few words."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''}" + (f" ({found[1].strip()})" if found else "")


def has_marks(path: Path) -> bool:
    """Say if a file has the place for the block."""
    return path.is_file() and re.search(f"{OPEN}.*{CLOSE}", path.read_text(encoding="utf-8"), re.S) is not None


def write_into(path: Path, block: str, opening: str = OPEN, closing: str = CLOSE) -> None:
    """Replace what stands between the marks. Raises BenchError if they are not there."""
    text = path.read_text(encoding="utf-8")
    before, mark, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not mark or not end:
        raise BenchError(f"{path} has no {opening} … {closing}")
    path.write_text(f"{before}{opening}\n{block}{closing}{after}", encoding="utf-8")


def _size(size: int) -> str:
    return f"{size / MIB / 1024:g} GiB" if size % (MIB * 1024) == 0 else f"{size / MIB:g} MiB"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("|", "/").split())
