"""Sections of the benchmark of stores run to their end: of relay's workers, where every counted
object was moved by one of them, and of small objects over a line with latency."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.postgres import programs
from loadtests.bench.seaweed import find_weed

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        find_weed() is None or shutil.which("rclone") is None,
        reason="SeaweedFS and rclone are wanted",
    ),
]


def measure_section(section: str, folder: Path, *words: str) -> list[list[str]]:
    """Run one round of a section; return the cells of its rows, as they stand in a page."""
    page = folder / "README.md"
    opening, closing = f"<!-- bench-stores {section} -->", f"<!-- /bench-stores {section} -->"
    page.write_text(f"before\n{opening}\n{closing}\nafter\n")
    words = ("--only", section, "--rounds", "1", "--folder", f"{folder}", *words)
    command = [sys.executable, "-m", "loadtests.stores", *words, "--write", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [page]
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_a_short_run_of_one_worker_and_of_two_fills_its_table(tmp_path: Path) -> None:
    rows = measure_section("workers", tmp_path, "--many", "300")
    moved = {row[0]: [int(count) for count in row[-2].split(",")] for row in rows}
    kinds = ["SQLite", "PostgreSQL"] if programs() else ["SQLite"]
    assert list(moved) == [
        f"{count}, {kind}" for kind in kinds for count in ("one worker", "two workers")
    ]
    assert all(sum(counts) == 300 for counts in moved.values())
    assert all(
        len(counts) == (2 if name.startswith("two") else 1) for name, counts in moved.items()
    )


def test_a_short_run_over_high_latency_fills_its_table(tmp_path: Path) -> None:
    rows = measure_section("s3-small-wan", tmp_path, "--distant", "60")
    assert [row[0] for row in rows] == [
        "relay",
        "relay, `--slots 64`",
        "rclone",
        "rclone, best flags, 64 transfers",
    ]
    assert all(float(row[1].replace(",", "")) > 0 for row in rows)


def test_the_starts_of_commands_are_measured(tmp_path: Path) -> None:
    rows = measure_section("starts", tmp_path)
    assert [row[0].split()[0] for row in rows] == ["`relay"] * 3 + ["`rclone"] * 3
    assert all(float(row[3]) > 0 for row in rows)
