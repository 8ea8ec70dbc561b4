"""A hundred and fifty seeds between lying stores; `make torture` plays more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.torture.commands import ROOT

SEEDS = 150


@pytest.mark.timeout(900)
def test_no_rule_is_broken_between_stores_that_lie() -> None:
    words = ["--seed", "1", "--seeds", str(SEEDS), "--no-shrink"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *words], cwd=ROOT, capture_output=True, text=True, timeout=880
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{SEEDS} seeds" in done.stdout
