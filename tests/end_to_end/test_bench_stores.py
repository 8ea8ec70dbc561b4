"""The benchmark of relay's workers runs to its end, and every object that it counts was moved by
one of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.postgres import programs
from loadtests.bench.seaweed import weed

ROOT = Path(__file__).resolve().parents[2]
OPEN, CLOSE = "<!-- bench-stores workers -->", "<!-- /bench-stores workers -->"


@pytest.mark.campaign
@pytest.mark.timeout(240)
@pytest.mark.skipif(
    weed() is None or shutil.which("rclone") is None, reason="SeaweedFS and rclone are wanted"
)
def test_a_short_run_of_one_worker_and_of_two_fills_its_table(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{OPEN}\n{CLOSE}\nafter\n")
    words = [
        "--only",
        "workers",
        "--rounds",
        "1",
        "--many",
        "300",
        "--folder",
        str(tmp_path),
        "--write",
        str(page),
    ]
    command = [sys.executable, "-m", "loadtests.stores", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr
    rows = [
        line.split("|")
        for line in page.read_text().splitlines()
        if "worker" in line and line.startswith("| ")
    ]
    moved = {row[1].strip(): [int(count) for count in row[-3].split(",")] for row in rows}
    kinds = ["SQLite", "PostgreSQL"] if programs() else ["SQLite"]
    assert list(moved) == [
        f"{count}, {kind}" for kind in kinds for count in ("one worker", "two workers")
    ]
    assert all(sum(counts) == 300 for counts in moved.values())
    assert all(
        len(counts) == (2 if name.startswith("two") else 1) for name, counts in moved.items()
    )
    assert list(tmp_path.iterdir()) == [page]
