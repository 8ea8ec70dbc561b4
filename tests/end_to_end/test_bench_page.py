"""The page's benchmark and the siege run to their ends, in short. Their budgets are not judged here:
other programs share the cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.paints import has_chromium
from tests.postgres import programs

ROOT = Path(__file__).resolve().parents[2]
OPEN, CLOSE = "<!-- bench-page -->", "<!-- /bench-page -->"

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the load tests."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


def test_a_short_run_fills_the_table(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{OPEN}\n{CLOSE}\nafter\n")
    few = ("--migrations", "120", "--transfers", "600", "--rounds", "1", "--seconds", "1")
    done = run(
        *("loadtests.page", *few, "--objects", "50"),
        *("--folder", str(tmp_path), "--write", str(page)),
    )
    assert done.returncode == 0, done.stderr
    head = "| what | SQLite |" + (" PostgreSQL |" if programs() else "") + " budget | met |"
    lines = page.read_text().splitlines()
    assert head in lines
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 1 + 11 + (4 if has_chromium() else 0) + 8 + 1 + 2
    assert list(tmp_path.iterdir()) == [page]


def test_a_short_siege_prints_its_table() -> None:
    done = run("loadtests.siege", "--seconds", "4", "--quiet", "3", "--objects", "30")
    assert done.returncode in (0, 1), done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| slow", "| flood"))]
    assert len(rows) == 10
