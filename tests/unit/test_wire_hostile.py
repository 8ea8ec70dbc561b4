"""Input of a hostile peer, and the time for which it delays others: never for longer than a tenth
of a second."""

from __future__ import annotations

import array
import base64
import fcntl
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import process_time, thread_time

import gevent
import pytest

from relay.digest import parse_fields
from relay.errors import ProtocolViolation
from relay.location import parse_location
from relay.transfer_limits import Limits
from relay.wire.body import Body
from relay.wire.exchange import Request, Wire
from relay.wire.http1 import ChunkDecoder, split_head
from relay.wire.pump import drain, fill, pump
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Certificates
from tests.scripted import Peer, Talk
from tests.unit.test_pump import CHUNKED, Bench, Ticker, bench

HELD = 0.1
"""Law 10, in seconds of this thread's own work, so that other processes do not matter."""
ONE_BYTE = b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"


@contextmanager
def limit_hold() -> Iterator[None]:
    """Fail if other greenlets had no turn for longer than that."""
    ticker = Ticker()
    ticking = gevent.spawn(ticker.run)
    gevent.sleep(0.02)
    yield
    gevent.sleep(0.02)
    ticking.kill()
    assert ticker.ticks > 2
    assert ticker.latest < HELD


FIELDS: dict[str, str] = {
    "one name": "a" * 60_000,
    "blanks": " " * 60_000,
    "blanks before a name": " " * 59_000 + "a=",
    "blanks in a member": "a" + " " * 59_000,
    "names": "a=" * 30_000,
    "commas": "," * 60_000,
    "colons": ":" * 60_000,
    "parameters": "sha-256=::" + ";" * 59_000,
    "members": "sha-256=:AAAA:," * 4_000,
    "a long value": "sha-256=:" + "A" * 59_000,
    "signs": "a=" + "=" * 59_000,
}


@pytest.mark.parametrize("name", ["repr-digest", "digest", "x-goog-hash", "content-md5"])
@pytest.mark.parametrize("value", FIELDS.values(), ids=FIELDS)
def test_a_field_of_60_kilobytes_is_read_at_once(name: str, value: str) -> None:
    before = thread_time()
    assert parse_fields({name: value}.get) == {}
    assert thread_time() - before < HELD


def test_the_front_of_a_long_field_counts() -> None:
    good = "crc32c=:" + base64.b64encode(b"abcd").decode() + ":"
    assert parse_fields({"repr-digest": f"{good}, x={'a' * 60_000}"}.get) == {"crc32c": b"abcd"}


LINES = {
    "a size and blanks": b"1" + b" " * 4000 + b"\x01\r\n",
    "a size and an extension": b"1;" + b"a" * 4000 + b"\x01\r\n",
    "digits": b"1" * 4000 + b"\r\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_long_line_of_the_chunked_coding_is_refused_at_once(line: bytes) -> None:
    before = thread_time()
    with pytest.raises(ProtocolViolation):
        ChunkDecoder(Limits(), "source").next_line(line)
    assert thread_time() - before < HELD


def test_a_long_trailer_is_refused_at_once() -> None:
    chunks = ChunkDecoder(Limits(), "source")
    chunks.next_line(b"0\r\n")
    before = thread_time()
    with pytest.raises(ProtocolViolation):
        chunks.next_line(b"a:" + b" \t" * 2000 + b"\x01\r\n")
    assert thread_time() - before < HELD


@pytest.mark.parametrize(
    "line",
    [b"X: " + b" " * 60_000, b"A: b\r\n" * 99, b"X" * 60_000],
    ids=["blanks", "many", "long"],
)
def test_a_head_of_60_kilobytes_is_read_or_refused_at_once(line: bytes) -> None:
    before = thread_time()
    try:
        split_head(
            b"HTTP/1.1 200 OK\r\n" + line.removesuffix(b"\r\n") + b"\r\n\r\n", Limits(), "source"
        )
    except ProtocolViolation:
        pass
    assert thread_time() - before < HELD


def pump_all(made: Bench) -> None:
    made.take_all()
    assert pump(made.body, made.outlet)


def read_whole(made: Bench) -> None:
    assert made.body.read() == b"x" * 60_000


def fill_all(made: Bench) -> None:
    assert fill(made.body, memoryview(bytearray(60_000))) == 60_000


READERS: dict[str, Callable[[Bench], None]] = {
    "pump": pump_all,
    "read": read_whole,
    "drain": lambda made: drain(made.body),
    "fill": fill_all,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_chunks_of_one_byte_yield_to_others(reader: Callable[[Bench], None]) -> None:
    """All of them have arrived already, so no read waits; and their work is linear."""
    with bench(CHUNKED, chunked=True, limits=Limits()) as made:
        made.body.connection.leftover = ONE_BYTE
        before = process_time()
        with limit_hold():
            reader(made)
        assert process_time() - before < 5
        assert made.body.count == 60_000


def test_a_long_fast_answer_yields_to_others() -> None:
    """Like a listing's page: no pump moves it, and its reader never waits."""
    data = bytes(32 << 20)
    with bench(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data), limits=Limits()
    ) as made:
        made.body.connection.leftover = b""
        made.body.connection.read_now = lambda view: len(view)  # type: ignore[method-assign]
        with limit_hold():
            assert len(made.body.read()) == len(data)


def test_tls_records_of_one_byte_come_some_at_a_time(
    wire: Wire, certificates: Certificates
) -> None:
    """Their sender chooses their size; each costs as much as a full one."""
    count = 3000

    def tiny(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
        go.wait(10)
        for _ in range(count):
            talk.sock.send(b"x")

    go = threading.Event()
    with Peer(tiny, certificates.server) as peer:
        there = parse_location(peer.url())
        meter = Watchdog(QUICK)
        request = Request(
            "GET", there.origin, there.host_header, there.target, side="source", meter=meter
        )
        body = wire.exchange(request).body
        go.set()
        with gevent.Timeout(10):
            while waiting_bytes(body) < count * 22:
                gevent.sleep(0.01)
        view, steps = memoryview(bytearray(1 << 20)), []
        while (step := body.read_now(view)) != 0:
            if step is None:
                body.wait()
            steps.append(step or 0)
        assert sum(steps) == count
        assert 0 < max(steps) <= 512


def test_a_head_that_comes_in_tiny_records_arrives(wire: Wire, certificates: Certificates) -> None:
    def tiny(talk: Talk) -> None:
        talk.head()
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2000 + b"\r\nContent-Length: 0\r\n\r\n":
            talk.sock.send(bytes([byte]))
        talk.linger(1)

    with Peer(tiny, certificates.server) as peer:
        there = parse_location(peer.url())
        request = Request(
            "GET",
            there.origin,
            there.host_header,
            there.target,
            side="source",
            meter=Watchdog(QUICK),
        )
        assert wire.exchange(request).head.status == 200
        wire.pool.close()


def waiting_bytes(body: Body) -> int:
    found = array.array("i", [0])
    fcntl.ioctl(body.connection.fileno(), termios.FIONREAD, found)
    return found[0]
