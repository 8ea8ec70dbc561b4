"""The benchmark of a plan's merge measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plan_bench import KINDS, run_case


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_case_is_measured(tmp_path: Path, kind: str) -> None:
    found = run_case(kind, 2000, tmp_path)
    assert (found["names"], found["rows"]) == (2000, 3500)
    assert found["pairs_per_second"] > 0 and found["peak_mib"] > 0
    assert not list(tmp_path.iterdir())
