"""The ledger's benchmark runs to its end, and every transfer that it counts was settled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import programs

ROOT = Path(__file__).resolve().parents[2]
OPEN, CLOSE = "<!-- bench-ledger -->", "<!-- /bench-ledger -->"


@pytest.mark.campaign
def test_a_short_run_fills_its_table(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{OPEN}\n{CLOSE}\nafter\n")
    words = ["--objects", "1500", "--folder", str(tmp_path), "--write", str(page)]
    command = [sys.executable, "-m", "tests.ledger_bench", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = [
        line
        for line in page.read_text().splitlines()
        if line.startswith(("| SQLite", "| PostgreSQL"))
    ]
    assert len(rows) == (10 if programs() else 5)
    assert list(tmp_path.iterdir()) == [page]
