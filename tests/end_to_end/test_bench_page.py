"""The page's benchmark and the siege run to their ends, in short. Their budgets are not judged here:
other programs share the cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.paints import has_chromium
from loadtests.page import SECTIONS, marks
from tests.postgres import programs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(500)]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the load tests. One that takes too long stops its servers before it ends."""
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=420)
        except subprocess.TimeoutExpired:
            process.terminate()
            _, err = process.communicate(timeout=60)
            pytest.fail(f"took too long: {err}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


FEW = (
    "--migrations",
    "120",
    "--transfers",
    "600",
    "--rounds",
    "1",
    "--seconds",
    "1",
    "--tab-seconds",
    "3",
)


def write_marks(page: Path) -> None:
    """Write a page with the marks of every section."""
    blocks = [
        f"{opening}\nold {name}\n{closing}"
        for name in SECTIONS
        for opening, closing in [marks(name)]
    ]
    page.write_text("\n".join(["before", *blocks, "after", ""]))


def test_a_short_run_fills_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    write_marks(page)
    done = run(
        *("loadtests.page", *FEW, "--objects", "50", "--pairs", "2"),
        *("--folder", str(tmp_path), "--write", str(page)),
    )
    assert done.returncode == 0, done.stderr
    head = "| what | SQLite |" + (" PostgreSQL |" if programs() else "") + " budget | met |"
    lines = page.read_text().splitlines()
    sections = 6 if has_chromium() else 4
    assert lines.count(head) == sections
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == sections + 11 + (8 if has_chromium() else 0) + 9 + 1 + 2
    assert all(line in done.stdout for line in rows)
    assert list(tmp_path.iterdir()) == [page]


def test_a_section_alone_leaves_the_other_tables(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    write_marks(page)
    done = run(
        *("loadtests.page", *FEW, "--only", "scrapes", "--ledgers", "SQLite"),
        *("--folder", str(tmp_path), "--write", str(page)),
    )
    assert done.returncode == 0, done.stderr
    kept = [name for name in SECTIONS if f"old {name}" in page.read_text()]
    assert kept == [name for name in SECTIONS if name != "scrapes"]
    assert "| a scrape a second: CPU |" in page.read_text()


def test_a_short_siege_prints_its_table() -> None:
    done = run("loadtests.siege", "--seconds", "4", "--quiet", "3", "--objects", "30")
    assert done.returncode in (0, 1), done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| slow", "| flood"))]
    assert len(rows) == 10
