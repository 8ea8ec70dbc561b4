"""Work for an answer lets other greenlets run, every few milliseconds."""

from __future__ import annotations

from itertools import count

import pytest

from relay.api import object_reports
from relay.api.hub_pauses import HubPauses


def test_the_others_run_before_the_work_and_every_few_steps() -> None:
    clock, paused = count(), list[int]()
    pauses = HubPauses(3, clock=lambda: float(next(clock)), pause=lambda: paused.append(len(done)))
    done: list[int] = []
    for number in pauses.between(range(10)):
        done.append(number)
    assert done == list(range(10))
    assert paused == [0, 3, 6, 9]


def test_a_report_is_sent_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_reports, "BLOCK_CHARACTERS", 10)
    lines = [f"{number:04}\n" for number in range(5)]
    assert [*object_reports.in_blocks(lines)] == ["0000\n0001\n", "0002\n0003\n", "0004\n"]
