"""The benchmark against an earlier commit runs the code of that commit, and reports it as such."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.seaweed import find_weed

ROOT = Path(__file__).resolve().parents[2]
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(240),
    pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is wanted"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an earlier commit is wanted"),
]


def bench(checkout: Path, commit: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["--only", "s3-many", "--before", commit]
    words += ["--rounds", "1", "--many", "100", "--folder", str(folder)]
    command = [sys.executable, "-m", "loadtests.stores", *words]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=220)


def test_both_versions_move_all_and_have_a_row(tmp_path: Path) -> None:
    done = bench(ROOT, "HEAD", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    rows = [row for row in rows if row and row[0] in ("relay", "relay of HEAD")]
    assert [row[0] for row in rows] == ["relay", "relay of HEAD"]
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in rows), (
        "objects a second, and CPU-ms an object"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_code_of_the_commit_runs(tmp_path: Path) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "folder"
    folder.mkdir()
    subprocess.run([*GIT, "clone", "-q", "--shared", str(ROOT), str(checkout)], check=True)
    main = checkout / "relay" / "__main__.py"
    whole = main.read_text()
    main.write_text("raise SystemExit('the code of the commit')\n")
    subprocess.run([*GIT, "-C", str(checkout), "commit", "-qam", "broken"], check=True)
    main.write_text(whole)
    done = bench(checkout, "HEAD", folder)
    assert done.returncode == 1
    assert "0/1 relay: " in done.stderr
    assert "relay of HEAD ended with 1: the code of the commit" in done.stderr


def test_an_unknown_commit_is_reported(tmp_path: Path) -> None:
    done = bench(ROOT, "no-such-commit", tmp_path)
    assert done.returncode == 1
    assert "bench: no-such-commit: " in done.stderr and list(tmp_path.iterdir()) == []
