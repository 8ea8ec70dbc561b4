"""The limits of one migration: bytes a second by a clock that only the tests move, requests at a
time, and the shares."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Cancelled, ConnectFailed, Stalled
from relay.location import parse_location
from relay.stores.http import HttpStore
from relay.stores.http_client import HttpClient
from relay.throttle import (
    BURST_SECONDS,
    Bounds,
    ConcurrencyLimiter,
    Throttle,
    TokenBucket,
    throttle_of,
)
from relay.transfer_limits import Limits
from relay.wire.body import Body
from relay.wire.exchange import Response, Wire
from relay.wire.pump import YieldTimer
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Certificates, Engine
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.scripted import Peer, answer
from tests.unit.test_flow import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


# -- bytes a second


def take_for(bucket: TokenBucket, clock: Clock, seconds: float, wanted: int = 1 << 20) -> int:
    """Take all available bytes for a number of seconds of the clock; return their number."""
    until, taken = clock.now + seconds, 0
    while clock.now < until:
        granted = bucket.take(wanted)
        taken += granted
        if not granted:
            clock.sleep(min(bucket.seconds_until_grant(wanted) + 1e-9, until - clock.now + 1e-9))
    return taken


def test_without_a_rate_everything_may_go(clock: Clock) -> None:
    bucket = TokenBucket(clock)
    assert [bucket.take(n) for n in (1, 1 << 20, 1 << 40)] == [1, 1 << 20, 1 << 40]
    assert bucket.seconds_until_grant(5) == 0.0


@pytest.mark.parametrize("rate", [1, 7, 1000, 123_456, 5e6, 1e9])
def test_over_a_minute_the_rate_is_kept_and_used(clock: Clock, rate: float) -> None:
    bucket = TokenBucket(clock)
    bucket.set_rate(rate)
    moved = take_for(bucket, clock, 60)
    assert (
        rate * 60 - max(1.0, rate * BURST_SECONDS)
        <= moved
        <= rate * 60 + max(1.0, rate * BURST_SECONDS)
    )


def test_a_pause_saves_up_no_more_than_the_bucket_holds(clock: Clock) -> None:
    bucket = TokenBucket(clock)
    bucket.set_rate(1000)
    clock.sleep(3600)
    taken = 0
    while granted := bucket.take(10_000):
        taken += granted
    assert 0.9 * 1000 * BURST_SECONDS < taken <= 1000 * BURST_SECONDS


def test_bytes_that_did_not_come_can_be_taken_again(clock: Clock) -> None:
    bucket = TokenBucket(clock)
    bucket.set_rate(1000)
    clock.sleep(0.1)
    granted = bucket.take(50)
    bucket.put_back(granted - 10)
    assert granted == 50
    assert sum(iter(lambda: bucket.take(10), 0)) == pytest.approx(90, abs=10)


def test_the_rate_may_change_at_any_time(clock: Clock) -> None:
    bucket = TokenBucket(clock)
    bucket.set_rate(1e9)
    take_for(bucket, clock, 1)
    clock.sleep(10)
    bucket.set_rate(100)
    assert take_for(bucket, clock, 10) <= 100 * (10 + BURST_SECONDS)
    bucket.set_rate(None)
    assert bucket.take(1 << 30) == 1 << 30
    bucket.set_rate(100)
    assert bucket.take(1) == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(1, 1 << 21), st.floats(0, 1), st.floats(1, 1e7)),
        min_size=1,
        max_size=60,
    )
)
def test_no_more_bytes_move_than_the_bucket_held(
    steps: list[tuple[float, int, float, float]],
) -> None:
    clock = Clock()
    bucket, moved, allowed, most = TokenBucket(clock), 0.0, 0.0, 1.0
    for wait, wanted, came, rate in steps:
        bucket.set_rate(rate)
        most = max(most, rate * BURST_SECONDS)
        clock.sleep(wait)
        allowed += wait * rate
        granted = bucket.take(wanted)
        assert 0 <= granted <= wanted
        count = int(granted * came)
        bucket.put_back(granted - count)
        moved += count
    assert moved <= allowed + most + 1e-6 * allowed


def test_a_throttled_stream_is_not_stalled(clock: Clock) -> None:
    meter = Watchdog(Limits(stall_seconds=5, stall_bytes=1000), clock)
    meter.throttle = Throttle(TokenBucket(clock), sleep=clock.sleep)
    meter.throttle.allow(Bounds(bytes_per_second=10))
    pace, moved = YieldTimer(meter), 0
    while clock.now < 60:
        granted = pace.allowance(1 << 20)
        pace.note_spent(granted, granted)
        meter.moved += granted
        moved += granted
        meter.check_progress("source")
    assert 590 <= moved <= 610
    clock.sleep(5)  # and from now on no byte comes
    with pytest.raises(Stalled):
        meter.check_progress("source")


def test_a_cancel_is_seen_while_a_stream_is_held_up(clock: Clock) -> None:
    meter = Watchdog(Limits(), clock)
    meter.throttle = Throttle(TokenBucket(clock), sleep=clock.sleep)
    meter.throttle.allow(Bounds(bytes_per_second=1))
    meter.cancel()
    with pytest.raises(Cancelled):
        YieldTimer(meter).allowance(1)
    assert clock.now <= meter.tick_seconds
    assert throttle_is_idle(meter.throttle)


def throttle_is_idle(throttle: Throttle) -> bool:
    """Return whether its queues are empty: the next stream need not wait for the clock."""
    throttle.bucket.set_rate(None)
    return throttle.take(1 << 20, lambda: None, 10) == 1 << 20


def test_streams_that_share_a_rate_take_turns(
    clock: Clock,
) -> None:
    """A thousand of them, each with a sleep of its own."""
    sleeps, came = [0], list[int]()

    def sleep(seconds: float) -> None:
        sleeps[0] += 1
        clock.sleep(seconds)
        gevent.sleep(0)

    throttle = Throttle(TokenBucket(clock), sleep=sleep)
    throttle.allow(Bounds(bytes_per_second=16_000))

    def stream(name: int) -> None:
        for _ in range(3):
            assert throttle.take(1 << 20, do_nothing, 10) == 1000
            came.append(name)

    jobs = [gevent.spawn(stream, name) for name in range(1000)]
    gevent.joinall(jobs, timeout=60, raise_error=True)
    assert [set(came[first : first + 1000]) for first in (0, 1000, 2000)] == [set(range(1000))] * 3
    assert clock.now == pytest.approx(3000 * 1000 / 16_000, abs=1)
    assert sleeps[0] <= 3500


# -- requests at a time


def do_nothing() -> None:
    return


def test_the_gate_admits_up_to_its_limit_in_order() -> None:
    gate, came, go = ConcurrencyLimiter(2), [], Event()

    def request(name: int) -> None:
        gate.enter(name, do_nothing, 10)
        came.append(name)
        assert gate.under_way <= 2
        go.wait()
        gate.leave(name)

    jobs = [gevent.spawn(request, name) for name in range(7)]
    gevent.idle()
    assert came == [0, 1]
    go.set()
    gevent.joinall(jobs, timeout=10, raise_error=True)
    assert (came, gate.under_way) == (list(range(7)), 0)


def test_a_holder_does_not_wait_for_itself() -> None:
    gate = ConcurrencyLimiter(1)
    gate.enter("a", do_nothing, 1)
    gate.enter("a", do_nothing, 1)
    gate.leave("a")
    assert gate.under_way == 1
    gate.leave("a")
    assert gate.under_way == 0


def test_a_wider_limit_admits_waiters_and_a_narrower_ends_none() -> None:
    gate = ConcurrencyLimiter(1)
    jobs = [gevent.spawn(gate.enter, name, do_nothing, 10) for name in range(5)]
    gevent.idle()
    assert gate.under_way == 1
    gate.set_limit(3)
    gevent.joinall(jobs, timeout=10, count=3)
    gevent.idle()
    assert gate.under_way == 3
    gate.set_limit(1)
    assert gate.under_way == 3
    gate.set_limit(None)
    gevent.joinall(jobs, timeout=10, raise_error=True)
    assert gate.under_way == 5


def test_a_cancelled_waiter_holds_nothing() -> None:
    gate, cancelled = ConcurrencyLimiter(1), [False]
    gate.enter("first", do_nothing, 1)

    def look() -> None:
        if cancelled[0]:
            raise Cancelled("enough")

    def wait() -> str:
        with pytest.raises(Cancelled):
            gate.enter("second", look, 0.01)
        return "cancelled"

    waits = gevent.spawn(wait)
    third = gevent.spawn(gate.enter, "third", do_nothing, 0.01)
    gevent.idle()
    cancelled[0] = True
    assert waits.get(timeout=10) == "cancelled"
    gate.leave("first")
    third.get(timeout=10)
    assert gate.under_way == 1


# -- on the wire


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    ("verify", "times"), [("size", 1), ("auto", 2)], ids=["spliced or copied", "and read back"]
)
def test_every_pump_path_keeps_to_the_rate(
    engine: Engine, certificates: Certificates, clock: Clock, secure: bool, verify: str, times: int
) -> None:
    tls = certificates.server if secure else None
    cloud, kept, rate = Cloud(), Cloud(), 10_000
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA)), tls) as source,
        Peer(destination_script(kept), tls) as destination,
    ):
        transfer = engine.runner.transfer(
            engine.plan(source.url("/a"), destination.url("/b"), verify=verify)
        )
        transfer.meter.throttle = throttle = Throttle(TokenBucket(clock), sleep=clock.sleep)
        throttle.allow(Bounds(bytes_per_second=rate))
        outcome = engine.runner.run(transfer)
    assert (outcome.bytes, kept.objects) == (len(DATA), {b"/b": DATA})
    assert clock.now == pytest.approx(times * len(DATA) / rate, abs=BURST_SECONDS + 0.1)
    assert all(gate.under_way == 0 for gate in throttle.gates.values())


def test_a_request_is_under_way_until_its_answer_was_read(wire: Wire) -> None:
    throttle = Throttle()
    throttle.allow(Bounds(connections=1))

    def ask(peer: Peer, meter: Watchdog) -> Response:
        meter.throttle = throttle
        return HttpClient(wire, "source", meter).send("GET", parse_location(peer.url()), ())

    with Peer(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as peer:
        first = ask(peer, Watchdog(QUICK))
        second = gevent.spawn(ask, peer, Watchdog(QUICK))
        gevent.idle()
        assert (peer.connections, throttle.gates["source"].under_way) == (1, 1)
        assert first.body.read() == b"hello"
        assert second.get(timeout=10).body.read() == b"hello"
        assert throttle.gates["source"].under_way == 0


def test_a_request_waiting_for_its_migration_delays_no_other(wire: Wire) -> None:
    """A transfer may need an answer before it reads on: without this, each of two would wait for
    the other."""
    throttle = Throttle()
    throttle.allow(Bounds(connections=1))

    def ask(peer: Peer, meter: Watchdog) -> Body:
        meter.throttle = throttle
        body = HttpStore(wire, "source", meter).get(parse_location(peer.url())).body
        assert body is not None
        return body

    with Peer(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as peer:
        one, other = Watchdog(QUICK), Watchdog(QUICK)
        first = ask(peer, one)
        flow = wire.limiter(parse_location(peer.url()).origin, "source")
        flow.limit = 1.0
        waiting = gevent.spawn(ask, peer, other)
        gevent.idle()
        beside = gevent.spawn(ask, peer, one).get(timeout=10)
        assert (beside.read(), first.read()) == (b"hello", b"hello")
        assert waiting.get(timeout=10).read() == b"hello"
    assert (throttle.gates["source"].under_way, flow.under_way) == (0, 0)


def test_a_failed_request_releases_its_permit(wire: Wire) -> None:
    meter = Watchdog(QUICK)
    meter.throttle = throttle = Throttle()
    place = parse_location("http://127.0.0.1:1/nobody")
    with pytest.raises(ConnectFailed):
        HttpClient(wire, "source", meter).send("GET", place, ())
    assert throttle.gates["source"].under_way == 0


# -- shares


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 10**9))
def test_the_shares_of_all_processes_are_the_whole(connections: int, of: int, rate: int) -> None:
    shares = [Throttle() for _ in range(of)]
    for place, share in enumerate(shares):
        share.allow(Bounds(None, rate, connections), place, of)
    limits = [share.gates["source"].limit or 0 for share in shares]
    assert sum(limits) == max(connections, of)
    assert min(limits) >= 1
    assert sum(share.bucket.rate or 0 for share in shares) == pytest.approx(rate)


def test_no_bounds_hold_nothing() -> None:
    assert throttle_of(Bounds()) is None
    assert Bounds(slots=7, connections=3).transfers == 3
    assert Bounds(bytes_per_second=3).transfers is None
