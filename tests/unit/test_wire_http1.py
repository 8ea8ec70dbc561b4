"""Heads and chunked framing, fed three ways: whole, a byte at a time, and with bytes after the
end."""

from __future__ import annotations

import pytest

from relay.errors import ProtocolViolation
from relay.transfer_limits import Limits
from relay.wire.http1 import ChunkDecoder, Framing, Head, framing_of, request_head, split_head

LIMITS = Limits()


def parse_three_ways(data: bytes) -> Head:
    """Parse a head in the three ways, assert that they agree, and return it."""
    whole = split_head(data, LIMITS, "source")
    assert whole is not None
    assert whole[1] == b""
    fed = b""
    for index in range(len(data) - 1):
        fed += data[index : index + 1]
        assert split_head(fed, LIMITS, "source") is None, fed
    byte_wise = split_head(fed + data[-1:], LIMITS, "source")
    trailing = split_head(data + b"HTTP/1.1 999", LIMITS, "source")
    assert byte_wise == whole
    assert trailing == (whole[0], b"HTTP/1.1 999")
    return whole[0]


GOOD = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing.LENGTH),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing.CHUNKED),
    "close": (b"HTTP/1.1 200 OK\r\nX-A: \xe9\r\nx-a: 2\r\n\r\n", Framing.CLOSE),
    "http/1.0": (b"HTTP/1.0 200 OK\r\n\r\n", Framing.CLOSE),
    "no reason": (b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n", Framing.LENGTH),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Framing.NONE),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Framing.NONE),
    "connection": (
        b"HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 5\r\n\r\n",
        Framing.LENGTH,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_heads_three_ways(name: str) -> None:
    data, framing = GOOD[name]
    head = parse_three_ways(data)
    assert framing_of("GET", head, "source") is framing
    assert framing_of("HEAD", head, "source") is Framing.NONE
    assert head.keeps_alive is (name not in ("http/1.0", "connection"))


def test_repeated_fields_join_and_names_fold_case() -> None:
    assert parse_three_ways(GOOD["close"][0]).get("X-a") == "\xe9, 2"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 1_0",
        b"Content-Length: \xd9\xa5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length:",
        b"Content-Length: 9223372036854775808",
        b"Content-Length: 99999999999999999999999999",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"X: a\r\n folded",
        b"X: a\x00b",
        b"X : a",
        b"X\x01: a",
        b"no colon",
    ],
)
def test_ambiguous_heads_are_refused(fields: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n"
    with pytest.raises(ProtocolViolation) as caught:
        split = split_head(data, LIMITS, "source")
        assert split is not None
        framing_of("GET", split[0], "source")
    assert caught.value.side == "source"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1001 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_an_invalid_head_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        split_head(data, LIMITS, "destination")


def test_a_transfer_encoding_of_http_1_0_is_refused() -> None:
    head = parse_three_ways(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(ProtocolViolation):
        framing_of("GET", head, "source")


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        ("GET", "/a b", ()),
        ("GET", "/a\r\nX: 1", ()),
        ("GE T", "/", ()),
        ("GET", "/", (("X\r\n", "1"),)),
        ("GET", "/", (("X", "1\r\nY: 2"),)),
        ("GET", "/", (("X", "1\x00"),)),
        ("GET", "/", (("", "1"),)),
        ("GET", "/é", ()),
    ],
)
def test_a_head_that_could_end_a_line_is_never_written(
    method: str, target: str, fields: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(ValueError):
        request_head(method, target, fields)


def test_a_head_is_written_as_it_was_given() -> None:
    written = request_head("PUT", "/a%7Eb?x=%zz|", (("Host", "h:1"), ("X", "é")))
    assert written == b"PUT /a%7Eb?x=%zz| HTTP/1.1\r\nHost: h:1\r\nX: \xe9\r\n\r\n"


def decode(data: bytes) -> tuple[bytes, bytes, ChunkDecoder]:
    """Decode a chunked body: the payload, the bytes after it, and the decoder."""
    chunks, payload = ChunkDecoder(LIMITS, "source"), b""
    while not chunks.done:
        if chunks.remaining:
            piece = data[: chunks.remaining]
            if not piece:
                return payload, data, chunks
            chunks.note_bytes(len(piece))
            payload, data = payload + piece, data[len(piece) :]
            continue
        following = chunks.next_line(data)
        if following is None:
            return payload, data, chunks
        data = data[following:]
    return payload, data, chunks


@pytest.mark.parametrize(
    ("coded", "payload", "trailers"),
    [
        (b"0\r\n\r\n", b"", []),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (
            b'00005;a=b;c="d"\r\nhello\r\n1 \r\n!\r\n0;x\r\nRepr-Digest: y\r\nZ:1\r\n\r\n',
            b"hello!",
            [("Repr-Digest", "y"), ("Z", "1")],
        ),
        (b"A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", b"0123456789abcdefghij", []),
    ],
)
def test_chunked_bodies_end_exactly_where_they_end(
    coded: bytes, payload: bytes, trailers: list[tuple[str, str]]
) -> None:
    for after in (b"", b"HTTP/1.1 200 OK\r\n"):
        decoded, rest, chunks = decode(coded + after)
        assert (decoded, rest, chunks.trailers) == (payload, after, trailers)
    for cut in range(len(coded)):
        assert not decode(coded[:cut])[2].done


@pytest.mark.parametrize(
    "coded",
    [
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\n",
        b"11111111111111111\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5;" + b"e" * 5000 + b"\r\n",
        b"5;\x00\r\nhello\r\n",
        b"1_0\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n" + b"T: 1\r\n" * 1001 + b"\r\n",
        b"0\r\nT: " + b"a" * 5000,
        b"g\r\n",
    ],
)
def test_malformed_chunks_are_refused(coded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(coded)
