"""Work for an answer lets other greenlets run, every few milliseconds."""

from __future__ import annotations

from itertools import count

import gevent
import pytest

from relay.api import object_reports
from relay.api.hub_pauses import HubPauses, Stagger


def test_the_others_run_before_the_work_and_every_few_steps() -> None:
    clock, paused = count(), list[int]()
    pauses = HubPauses(3, clock=lambda: float(next(clock)), pause=lambda: paused.append(len(done)))
    done: list[int] = []
    for number in pauses.between(range(10)):
        done.append(number)
    assert done == list(range(10))
    assert paused == [0, 3, 6, 9]


def test_those_that_come_together_go_on_one_by_one() -> None:
    """Also where the hub is late: the next one waits from then on."""
    now, lateness, began = [10.0], 0.25, list[float]()

    def sleep(seconds: float) -> None:
        gevent.sleep(0)
        now[0] += seconds + lateness

    stagger = Stagger(0.5, clock=lambda: now[0], sleep=sleep)

    def begin() -> None:
        stagger.wait()
        began.append(now[0])

    gevent.joinall([gevent.spawn(begin) for _ in range(3)], raise_error=True)
    assert began == [10.0, 10.75, 11.5]
    now[0] = 20.0
    begin()
    assert began[-1] == 20.0


def test_a_report_is_sent_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_reports, "BLOCK_CHARACTERS", 10)
    lines = [f"{number:04}\n" for number in range(5)]
    assert [*object_reports.in_blocks(lines)] == ["0000\n0001\n", "0002\n0003\n", "0004\n"]
