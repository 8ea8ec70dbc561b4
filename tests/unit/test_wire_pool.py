"""Unused connections, silent names, and abandoned threads."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic
from typing import Any

import gevent
import pytest

from relay.errors import ConnectFailed, StoreTimeout, TooManyFiles
from relay.location import Origin
from relay.process.native_threads import in_native_thread
from relay.transfer_limits import Limits
from relay.wire.dial import Dialer, Pool
from relay.wire.resolver import Addresses, Names
from relay.wire.stream import Stream
from tests.conftest import LOOPBACK, QUICK

SHORT = replace(QUICK, idle_seconds=0.2)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a listener that any address of 127.0.0.0/8 leads to; it accepts nothing, and closes
    nothing."""
    with socket.create_server(("0.0.0.0", 0), backlog=500) as made:
        yield made


def origin(listener: socket.socket, number: int) -> Origin:
    return Origin("http", f"127.0.{number // 250}.{number % 250 + 1}", listener.getsockname()[1])


def pool_of(limits: Limits) -> Pool:
    return Pool(Dialer(LOOPBACK, limits, pytest.fail), limits)


def use_once(pool: Pool, there: Origin) -> Stream:
    stream, _ = pool.take(there, "source")
    pool.give(there, stream, reusable=True)
    return stream


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_idle_connections_of_unused_origins_are_closed(
    listener: socket.socket,
) -> None:
    pool, before = pool_of(SHORT), count_descriptors()
    for number in range(40):
        use_once(pool, origin(listener, number))
    assert pool.open == 40
    with gevent.Timeout(5):
        while pool.open:
            gevent.sleep(0.02)  # no request is sent meanwhile
    assert count_descriptors() <= before  # an earlier test's file may be closed meanwhile


def test_used_connections_stay_open(listener: socket.socket) -> None:
    pool, kept = pool_of(SHORT), origin(listener, 1)
    first = use_once(pool, kept)
    until = monotonic() + 0.6
    while monotonic() < until:
        gevent.sleep(0.02)
        assert use_once(pool, kept) is first
    pool.close()


def test_idle_connections_are_bounded_and_the_newest(listener: socket.socket) -> None:
    pool = pool_of(replace(QUICK, idle_connections=5))
    streams = [use_once(pool, origin(listener, number)) for number in range(12)]
    assert [stream.closed for stream in streams] == [True] * 7 + [False] * 5
    assert pool.take(origin(listener, 11), "source") == (streams[-1], True)
    pool.discard(streams[-1])
    pool.close()
    assert pool.open == 0


def test_each_origin_gets_its_newest_back(listener: socket.socket) -> None:
    pool, there = pool_of(QUICK), origin(listener, 1)
    streams = [pool.take(there, "source")[0] for _ in range(3)]
    for stream in streams:
        pool.give(there, stream, reusable=True)
    assert [pool.take(there, "source")[0] for _ in range(3)] == streams[::-1]
    for stream in streams:
        pool.discard(stream)


def test_idle_connections_are_closed_at_the_descriptor_limit(listener: socket.socket) -> None:
    """An unused connection must not prevent the opening of another one."""
    pool = pool_of(QUICK)
    idle = [use_once(pool, origin(listener, number)) for number in range(3)]
    with ExitStack() as stack:
        limits = pytest.importorskip("resource")
        soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
        stack.callback(limits.setrlimit, limits.RLIMIT_NOFILE, (soft, hard))
        limits.setrlimit(
            limits.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard)
        )
        while True:
            try:
                stack.callback(os.close, os.dup(0))
            except OSError:
                break
        stream, reused = pool.take(origin(listener, 9), "source")
        assert not reused
        assert all(one.closed for one in idle)
        pool.discard(stream)
        taken = [os.dup(0), os.dup(0), os.dup(0)]
        with pytest.raises(TooManyFiles):
            pool.take(origin(listener, 9), "source")
        for descriptor in taken:
            os.close(descriptor)


# -- names


class Silent:
    """A resolver that answers nothing for names that begin with 'silent', until it is released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Addresses:
        """Resolve it, in a native thread."""
        self.asked.append(host)
        if host.startswith("silent"):
            self.go.wait(20)
        if host == "wrong":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]


@pytest.fixture
def silent_server() -> Iterator[Silent]:
    """Return one; its threads end with the test."""
    made = Silent()
    yield made
    made.go.set()


def test_silent_names_delay_no_names_and_no_disk_writes(silent_server: Silent) -> None:
    names = Names(32, silent_server)
    waiting = [gevent.spawn(names, f"silent{number}", 80) for number in range(20)]
    gevent.sleep(0.05)
    with gevent.Timeout(2):
        assert in_native_thread(lambda: "written") == "written"
        assert names("other", 80)[0][4] == ("127.0.0.1", 80)
    gevent.killall(waiting)


def test_a_silent_name_takes_one_thread(silent_server: Silent, listener: socket.socket) -> None:
    limits = replace(QUICK, connect_seconds=0.1)
    names = Names(2, silent_server)
    pool = Pool(Dialer(LOOPBACK, limits, pytest.fail, resolver=names), limits)
    for _ in range(5):
        with pytest.raises(StoreTimeout):
            pool.take(Origin("http", "silent", 80), "source")
    assert silent_server.asked == ["silent"]
    stream, _ = pool.take(Origin("http", "localhost", listener.getsockname()[1]), "source")
    pool.discard(stream)
    silent_server.go.set()
    with gevent.Timeout(5):
        assert names("silent", 80)[0][4] == ("127.0.0.1", 80)


def test_silent_names_beyond_the_threads_time_out(silent_server: Silent) -> None:
    names = Names(3, silent_server)
    waiting = [gevent.spawn(names, f"silent{number}", 80) for number in range(8)]
    gevent.sleep(0.05)
    gevent.killall(waiting)
    silent_server.go.set()
    with gevent.Timeout(5):
        assert names("other", 80)
    assert len(silent_server.asked) <= 5


def test_a_name_that_does_not_resolve_is_an_error_each_time(silent_server: Silent) -> None:
    dialer = Dialer(LOOPBACK, QUICK, pytest.fail, resolver=Names(2, silent_server))
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            dialer.dial(Origin("http", "wrong", 80), "source")


# -- functions in a native thread


def test_a_killed_greenlet_ends_with_its_thread(tmp_path: Any) -> None:
    """Otherwise it would close a descriptor that is still written to, and soon belongs to another
    file."""
    began, go, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        began.set()
        go.wait(10)
        ended.append("work")

    def run() -> None:
        try:
            in_native_thread(work)
        finally:
            ended.append("caller")

    caller = gevent.spawn(run)
    while not began.is_set():
        gevent.sleep(0.001)
    gevent.spawn_later(0.1, go.set)
    caller.kill()
    assert ended == ["work", "caller"]


def test_a_timeout_is_raised_when_the_thread_has_ended() -> None:
    go = threading.Event()
    gevent.spawn_later(0.1, go.set)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        in_native_thread(lambda: go.wait(10))
    assert go.is_set()
