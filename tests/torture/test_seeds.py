"""Twenty seeds between lying stores in each run of the tests, 130 as a campaign; `make torture`
plays more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.torture.commands import ROOT


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("first", "count"), [(1, 20), pytest.param(21, 130, marks=pytest.mark.campaign)]
)
def test_no_rule_is_broken_between_stores_that_lie(first: int, count: int) -> None:
    words = ["--seed", str(first), "--seeds", str(count), "--no-shrink"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{count} seeds" in done.stdout
