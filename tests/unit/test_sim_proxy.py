"""The bad network changes the bytes as each toxic is documented, and not otherwise."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from simulators.client import Reply, get, put
from simulators.destination import Destination
from simulators.proxy import Proxy
from simulators.source import Source

SIZE = 500_000
TARGET = f"/a?size={SIZE}"


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source(seed="unit") as running:
        yield running


def fetch_through(source: Source, **toxics: object) -> Reply:
    with Proxy(f"127.0.0.1:{source.port}", **toxics) as proxy:
        return get(proxy.port, TARGET)


def test_without_toxics_all_passes(source: Source) -> None:
    with Proxy(f"127.0.0.1:{source.port}") as proxy:
        for _ in range(3):
            assert get(proxy.port, TARGET).body == source.content.read("/a", 0, SIZE)
        assert proxy.connections == 3
        assert proxy.url("/x") == f"http://127.0.0.1:{proxy.port}/x"


def test_round_trips_are_counted_on_each_connection(source: Source) -> None:
    with Proxy(f"127.0.0.1:{source.port}") as proxy:
        for count in (1, 2):
            get(proxy.port, TARGET)
            assert proxy.round_trips == count
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            for count in (3, 4):
                client.sendall(b"HEAD /a?size=1 HTTP/1.1\r\n")
                client.sendall(b"Host: a\r\n\r\n")
                assert client.recv(4096).endswith(b"\r\n\r\n")
                assert proxy.round_trips == count


def test_latency_and_jitter_delay_but_keep_order(source: Source) -> None:
    started = time.monotonic()
    reply = fetch_through(source, latency=0.06, jitter=0.02)
    assert reply.body == source.content.read("/a", 0, SIZE)
    assert time.monotonic() - started >= 0.08  # in each direction, at least


def test_rate(source: Source) -> None:
    started = time.monotonic()
    assert len(fetch_through(source, rate=2_000_000.0).body) == SIZE
    assert 0.2 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("toxic", "ending"), [("cut_after", "fin"), ("reset_after", "reset"), ("stall_after", "open")]
)
def test_ends_after_a_number_of_bytes(source: Source, toxic: str, ending: str) -> None:
    reply = fetch_through(source, **{toxic: 10_000})
    assert reply.ending == ending
    assert len(reply.wire) == 10_000 if ending != "reset" else len(reply.wire) <= 10_000


def test_a_stall_that_ends(source: Source) -> None:
    assert len(fetch_through(source, stall_after=1000, stall_seconds=0.1).body) == SIZE


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_blackhole(source: Source, direction: str) -> None:
    assert fetch_through(source, blackhole=direction) == Reply(b"", "open")


def test_blackhole_after(source: Source) -> None:
    assert len(fetch_through(source, blackhole="down", blackhole_after=5000).wire) == 5000


def test_flip_down(source: Source) -> None:
    clean = get(source.port, TARGET).wire
    flipped = fetch_through(source, flip=400_000).wire
    different = [
        index for index, pair in enumerate(zip(clean, flipped, strict=True)) if pair[0] != pair[1]
    ]
    assert different == [400_000]


def test_flip_up() -> None:
    with (
        Destination() as destination,
        Proxy(f"127.0.0.1:{destination.port}", flip=10_000, direction="up") as proxy,
    ):
        for port in (destination.port, proxy.port):
            assert put(port, "/a", bytes(20_000)).status in (201, 204)
        first, second = (entry["digests"]["crc32c"] for entry in destination.received.snapshot())
        assert first != second


def test_slices_change_nothing(source: Source) -> None:
    with Proxy(f"127.0.0.1:{source.port}", slice=7) as proxy:
        assert get(proxy.port, "/a?size=5000").body == source.content.read("/a", 0, 5000)


def test_half_close_ends_one_way_only(source: Source) -> None:
    with (
        Proxy(f"127.0.0.1:{source.port}", half_close=100) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), 5) as sock,
    ):
        sock.sendall(b"GET /a?size=9 HTTP/1.1\r\n\r\n")
        got = b""
        while block := sock.recv(1000):
            got += block
        assert len(got) == 100
        sock.sendall(b"GET /later?size=9 HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + 5
        while not any(entry["path"] == "/later" for entry in source.journal.snapshot()):
            assert time.monotonic() < deadline


def test_slow_close(source: Source) -> None:
    with Proxy(f"127.0.0.1:{source.port}", slow_close=0.15) as proxy:
        started = time.monotonic()
        assert get(proxy.port, "/a?size=9", Connection="close").ending == "fin"
        assert time.monotonic() - started >= 0.15


def test_a_target_that_refuses() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with Proxy(f"127.0.0.1:{free.getsockname()[1]}") as proxy:
            assert get(proxy.port, "/") == Reply(b"", "reset")


def test_mistakes() -> None:
    with pytest.raises(TypeError):
        Proxy("127.0.0.1:1", smell=3)
    with pytest.raises(ValueError):
        Proxy("localhost")
