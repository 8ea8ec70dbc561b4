"""Slowing down when a store asks for it, and speeding up again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Cancelled
from relay.throttle import RELAXED, ROUND_SECONDS, AdaptiveLimiter, Bounds, Throttle
from tests.conftest import Engine


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def flow_on(clock: Clock) -> AdaptiveLimiter:
    return AdaptiveLimiter(clock=clock, sleep=clock.sleep)


def do_nothing() -> None:
    return


def test_no_upload_waits_without_a_complaint(clock: Clock) -> None:
    flow = flow_on(clock)
    turns = [flow.enter(do_nothing, 1.0) for _ in range(10_000)]
    for turn in turns:
        flow.leave(turn)
    assert (flow.limit, flow.under_way, clock.now) == (None, 0, 0.0)


def test_the_complaints_of_one_round_halve_once(clock: Clock) -> None:
    flow = flow_on(clock)
    turns = [flow.enter(do_nothing, 1.0) for _ in range(16)]
    for turn in turns:
        flow.leave(turn, complained=True)
    assert flow.limit == 8.0


def test_a_round_without_a_complaint_raises_the_limit(clock: Clock) -> None:
    flow = flow_on(clock)
    turns = [flow.enter(do_nothing, 1.0) for _ in range(4)]
    for turn in turns:
        flow.leave(turn, complained=True)
    assert flow.limit == 2.0
    for _ in range(2):
        clock.now += ROUND_SECONDS
        flow.leave(flow.enter(do_nothing, 1.0))
    assert flow.limit == pytest.approx(2.9)
    for _ in range(int(RELAXED**2)):
        clock.now += ROUND_SECONDS
        flow.leave(flow.enter(do_nothing, 1.0))
    assert flow.limit is None


def test_quick_responses_do_not_raise_the_limit_faster(clock: Clock) -> None:
    flow = flow_on(clock)
    turns = [flow.enter(do_nothing, 1.0) for _ in range(8)]
    for turn in turns:
        flow.leave(turn, complained=True)
    for _ in range(1000):
        clock.now += ROUND_SECONDS / 1000
        flow.leave(flow.enter(do_nothing, 1.0))
    assert flow.limit == pytest.approx(5.0)


def test_retry_after_delays_every_request(clock: Clock) -> None:
    flow = flow_on(clock)
    flow.leave(flow.enter(do_nothing, 1.0), complained=True, retry_after=7.0)
    flow.enter(do_nothing, 1.0)
    assert 7.0 <= clock.now < 7.2


def test_a_cancelled_waiter_of_a_gate_holds_nothing(clock: Clock) -> None:
    flow = flow_on(clock)
    flow.leave(flow.enter(do_nothing, 1.0), complained=True, retry_after=30.0)

    def look() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        flow.enter(look, 1.0)
    assert flow.under_way == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=300))
def test_the_limit_is_never_below_one_and_nothing_is_lost(steps: list[tuple[bool, int]]) -> None:
    clock = Clock()
    flow, turns = flow_on(clock), []
    for complains, which in steps:
        if turns and (which % 2 or len(turns) >= max(1, int(flow.limit or 50))):
            flow.leave(turns.pop(which % len(turns)), complains)
        else:
            turns.append(flow.enter(do_nothing, 1.0))
        assert flow.under_way == len(turns)
        assert flow.limit is None or flow.limit >= 1.0


MOST = 3


@pytest.fixture
def touchy_store() -> Iterator[tuple[str, dict[str, int]]]:
    """Return a store that accepts a number of concurrent uploads, and its counts."""
    counts = {"now": 0, "refused": 0, "taken": 0}
    lock, there = threading.Lock(), {"/source"}

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:  # noqa: N802 - the name that the library asks for
            self.send_response(200 if self.path in there else 404)
            self.send_header("Content-Length", "5" if self.path in there else "0")
            self.end_headers()

        def do_GET(self) -> None:  # noqa: N802 - the name that the library asks for
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"12345")

        def do_PUT(self) -> None:  # noqa: N802 - the name that the library asks for
            with lock:
                counts["now"] += 1
                good = counts["now"] <= MOST
                counts["taken" if good else "refused"] += 1
            self.rfile.read(int(self.headers["Content-Length"]))
            threading.Event().wait(0.02)  # the time that it needs for a request
            with lock:
                counts["now"] -= 1
                there.update([self.path] if good else [])
            self.send_response(201 if good else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", counts
    server.shutdown()
    server.server_close()


def test_an_overloaded_store_gets_fewer_requests_and_accepts_all(
    patient_engine: Engine, touchy_store: tuple[str, dict[str, int]]
) -> None:
    base, counts = touchy_store
    runner = patient_engine.runner

    def move(index: int) -> None:
        plan = patient_engine.plan(f"{base}/source", f"{base}/{index}", verify="size")
        runner.run(runner.transfer(plan))

    jobs = [gevent.spawn(move, index) for index in range(60)]
    gevent.joinall(jobs, timeout=30)
    assert all(job.successful() for job in jobs)
    assert counts["taken"] == 60
    assert counts["refused"] < 40
    assert runner.wire.complaints == counts["refused"]


def test_transfers_with_bounded_requests_stay_below_the_limit(
    engine: Engine, touchy_store: tuple[str, dict[str, int]]
) -> None:
    """Nothing is retried here: one request too many would fail its transfer."""
    base, counts = touchy_store
    runner, throttle = engine.runner, Throttle()
    throttle.allow(Bounds(connections=MOST))

    def move(index: int) -> None:
        transfer = runner.transfer(engine.plan(f"{base}/source", f"{base}/{index}", verify="size"))
        transfer.meter.throttle = throttle
        runner.run(transfer)

    jobs = [gevent.spawn(move, index) for index in range(60)]
    gevent.joinall(jobs, timeout=30)
    assert all(job.successful() for job in jobs)
    assert (counts["taken"], counts["refused"]) == (60, 0)
