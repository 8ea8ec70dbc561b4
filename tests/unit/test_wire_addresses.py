"""Which address of a host is used, and when the next one is tried."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from relay.errors import ConnectFailed, RelayError, TooManyFiles
from relay.location import Origin
from relay.wire.address_race import REMEMBERED, AddressRace, SilentAddresses, interleave
from relay.wire.dial import Dialer
from tests.conftest import LOOPBACK, QUICK

ONE, TWO, THREE = (("v6", "one"), ("v4", "two"), ("v4", "three"))


@dataclass(eq=False)
class Connection:
    """An open connection, or one that was closed."""

    address: Any
    is_open: bool = True

    def close(self) -> None:
        self.is_open = False


@dataclass
class Network:
    """Connects to addresses: the `silent` ones never answer, `failures` fail."""

    silent: tuple[Any, ...] = ()
    failures: dict[Any, RelayError] = field(default_factory=dict)
    tried: list[Any] = field(default_factory=list)
    made: list[Connection] = field(default_factory=list)

    def connect(self, address: Any) -> Connection:
        self.tried.append(address)
        if address in self.failures:
            raise self.failures[address]
        if address in self.silent:
            Event().wait()
        self.made.append(Connection(address))
        return self.made[-1]


def run(network: Network, known: SilentAddresses, *addresses: Any) -> Connection:
    with gevent.Timeout(10):
        race = AddressRace(network.connect, known, attempt_seconds=0.02)
        _, connection = race.run(known.last(addresses))
    assert isinstance(connection, Connection)
    return connection


def refusal(text: str = "refused") -> ConnectFailed:
    return ConnectFailed(text, side="source")


def test_an_address_that_does_not_answer_is_tried_last_afterwards() -> None:
    now = [0.0]
    network, known = Network(silent=(ONE,)), SilentAddresses(lambda: now[0])
    assert run(network, known, ONE, TWO, THREE).address == TWO
    assert network.tried == [ONE, TWO]
    assert run(network, known, ONE, TWO, THREE).address == TWO
    assert network.tried == [ONE, TWO, TWO]
    now[0] += 3600
    assert known.last([ONE, TWO]) == [ONE, TWO]


def test_a_refusal_is_followed_by_the_next_address_at_once() -> None:
    network, known = Network(failures={ONE: refusal()}), SilentAddresses()
    with gevent.Timeout(10):
        address, _ = AddressRace(network.connect, known, attempt_seconds=3600).run([ONE, TWO])
    assert (address, network.tried) == (TWO, [ONE, TWO])
    assert known.last([ONE, TWO]) == [TWO, ONE]


def test_the_last_failure_is_raised_if_none_answers() -> None:
    network = Network(failures={ONE: refusal("first"), TWO: refusal("last")})
    with pytest.raises(ConnectFailed, match="last"):
        run(network, SilentAddresses(), ONE, TWO)


def test_an_error_of_this_system_ends_the_attempts() -> None:
    network, known = Network(failures={ONE: TooManyFiles("none")}), SilentAddresses()
    with pytest.raises(TooManyFiles):
        run(network, known, ONE, TWO, THREE)
    assert network.tried == [ONE]
    assert known.last([ONE, TWO]) == [ONE, TWO]


@pytest.mark.parametrize("answers", [True, False])
def test_a_dial_without_a_file_for_more_goes_on(answers: bool) -> None:
    """The first address answers late, after no socket could be opened for the second one."""
    go, tried = Event(), list[Any]()

    def connect(address: Any) -> Connection:
        tried.append(address)
        if address == TWO:
            go.set()
            raise TooManyFiles("none")
        go.wait()
        gevent.idle()
        if not answers:
            raise refusal()
        return Connection(address)

    race = AddressRace(connect, SilentAddresses(), attempt_seconds=0.01)
    with gevent.Timeout(10), nullcontext() if answers else pytest.raises(TooManyFiles):
        assert race.run([ONE, TWO, THREE])[0] == ONE
    assert tried == [ONE, TWO]


def test_a_connection_that_comes_too_late_is_closed() -> None:
    """Both answer at the same moment."""
    go, network = Event(), Network()

    def connect(address: Any) -> Connection:
        if address == TWO:
            go.set()
        go.wait()
        return network.connect(address)

    with gevent.Timeout(10):
        AddressRace(connect, SilentAddresses(), attempt_seconds=0.01).run([ONE, TWO])
        gevent.sleep(0.05)
    assert sum(one.is_open for one in network.made) == 1


def test_a_later_attempt_that_had_no_time_is_not_silent() -> None:
    """The first address answers late, after the second one was begun."""
    go, known = Event(), SilentAddresses()

    def connect(address: Any) -> Connection:
        if address == TWO:
            go.set()
            Event().wait()
        go.wait()
        return Connection(address)

    with gevent.Timeout(10):
        address, _ = AddressRace(connect, known, attempt_seconds=0.01).run([ONE, TWO])
    assert address == ONE
    assert known.last([TWO, ONE]) == [TWO, ONE]


def test_the_memory_of_addresses_is_bounded() -> None:
    known = SilentAddresses()
    every = [("v4", number) for number in range(REMEMBERED + 1)]
    for address in every:
        known.note_silent(address)
    assert known.last([every[1], every[0]]) == [every[0], every[1]]


def test_families_take_turns() -> None:
    six = [("v6", number) for number in range(3)]
    assert interleave([*six, TWO]) == [six[0], TWO, *six[1:]]


@contextmanager
def swallowing(address: tuple[str, int]) -> Iterator[None]:
    """Listen with a full backlog: the kernel drops further SYNs, as a broken route does."""
    with ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(address)
        hole.listen(0)
        for _ in range(4):
            made = stack.enter_context(socket.socket())
            made.setblocking(False)
            made.connect_ex(address)
        gevent.sleep(0.1)
        yield


def test_a_first_address_that_swallows_packets_delays_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in ("127.0.0.2", "127.0.0.1")
        ]
        limits = replace(QUICK, connect_seconds=3600.0)
        dialer = Dialer(LOOPBACK, limits, pytest.fail, resolver=lambda *_: found)
        with swallowing(("127.0.0.2", port)), gevent.Timeout(20):
            for _ in range(3):
                dialer.dial(Origin("http", "both.example", port), "source").close()
