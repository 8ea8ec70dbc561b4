"""Any split of any response gives the same body, and any cut of it raises; over real socket
pairs."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.digest import Digester
from relay.errors import ProtocolViolation, RelayError
from relay.transfer_limits import Limits
from relay.wire.body import Body
from relay.wire.http1 import framing_of
from relay.wire.pump import BodyWriter, pump
from relay.wire.response_reader import ResponseReader
from relay.wire.stream import Stream
from relay.wire.watchdog import Watchdog

LIMITS = Limits(stall_seconds=5, head_seconds=5)
payloads = st.binary(max_size=3000)
splits = st.lists(st.integers(min_value=1, max_value=700), max_size=12)


def sized_response(payload: bytes, _: Sequence[int]) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload


def chunked_response(payload: bytes, sizes: Sequence[int]) -> bytes:
    coded, rest = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", payload
    for size in [*sizes, 65536]:
        piece, rest = rest[:size], rest[size:]
        if piece:
            coded += b"%x;ext=%d\r\n" % (len(piece), size) + piece + b"\r\n"
    return coded + b"0\r\nT: 1\r\n\r\n"


codings = st.sampled_from([sized_response, chunked_response])


def fed_stream(pieces: Sequence[bytes]) -> tuple[Stream, gevent.Greenlet]:  # type: ignore[type-arg]
    """Return a stream into which a greenlet feeds the pieces, each on its own, and then the end."""
    near, far = socket.socketpair()
    far.setblocking(True)

    def feed() -> None:
        with far:
            for piece in pieces:
                far.sendall(piece)
                gevent.sleep(0)

    return Stream(near, "source"), gevent.spawn(feed)


def read_response(stream: Stream) -> Body:
    """Read the head from a stream, and return its body."""
    meter = Watchdog(LIMITS)
    head = ResponseReader(stream, meter).wait(5)
    assert head is not None
    return Body(stream, framing_of("GET", head, "source"), head, meter, lambda s, _: None)


def cut_pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


@settings(max_examples=150, deadline=None)
@given(payloads, codings, splits, splits)
def test_any_split_gives_the_same_body(
    payload: bytes, code: object, chunks: list[int], sizes: list[int]
) -> None:
    surplus = b"HTTP/1.1 200"
    stream, feeder = fed_stream(cut_pieces(code(payload, chunks) + surplus, sizes))  # type: ignore[operator]
    try:
        body = read_response(stream)
        body.digest_with(("crc64nvme",))
        assert body.read() == payload
        expected = Digester(("crc64nvme",))
        expected.update(payload)
        assert body.digests == expected.digests()
        feeder.join()
        rest = bytearray()
        piece = memoryview(bytearray(100))
        while count := stream.read_now(piece):
            rest += piece[:count]
        assert rest == surplus
    finally:
        feeder.join()
        stream.close()


@settings(max_examples=150, deadline=None)
@given(payloads, codings, splits, splits, st.data())
def test_any_cut_raises(
    payload: bytes, code: object, chunks: list[int], sizes: list[int], data: st.DataObject
) -> None:
    whole = code(payload, chunks)  # type: ignore[operator]
    cut = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    stream, feeder = fed_stream(cut_pieces(whole[:cut], sizes))
    try:
        with pytest.raises(RelayError):
            read_response(stream).read()
    finally:
        feeder.join()
        stream.close()


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=5000))
def test_any_bytes_are_a_response_or_our_own_error(noise: bytes) -> None:
    stream, feeder = fed_stream([b"HTTP/1.1 ", noise])
    try:
        read_response(stream).read()
    except RelayError as error:
        assert error.side == "source"
        assert isinstance(error, ProtocolViolation) or error.retryable
    finally:
        feeder.join()
        stream.close()


@settings(max_examples=60, deadline=None)
@given(payloads, codings, splits, splits, st.booleans(), st.booleans())
def test_any_body_is_piped_byte_for_byte(
    payload: bytes,
    code: object,
    chunks: list[int],
    sizes: list[int],
    digest: bool,
    to_chunked: bool,
) -> None:
    stream, feeder = fed_stream(cut_pieces(code(payload, chunks), sizes))  # type: ignore[operator]
    near, far = socket.socketpair()
    outlet_stream = Stream(near, "destination")
    try:
        body = read_response(stream)
        if digest:
            body.digest_with(("crc32c",))
        meter = Watchdog(LIMITS)
        assert pump(
            body, BodyWriter(outlet_stream, meter, ResponseReader(outlet_stream, meter), to_chunked)
        )
        outlet_stream.close()
        received = b""
        while piece := far.recv(65536):
            received += piece
        assert (join_chunks(received) if to_chunked else received) == payload
    finally:
        feeder.join()
        stream.close()
        outlet_stream.close()
        far.close()


def join_chunks(coded: bytes) -> bytes:
    payload = b""
    while True:
        line, _, coded = coded.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert coded == b"\r\n"
            return payload
        payload += coded[:size]
        assert coded[size : size + 2] == b"\r\n"
        coded = coded[size + 2 :]
