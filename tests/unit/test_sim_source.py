"""The source answers as RFC 9110 and 9530 require, with the bytes of Content."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from simulators.client import get, head, talk
from simulators.source import Source

SIZE = 100_000
PATH = "/objects/report.bin"
TARGET = f"{PATH}?size={SIZE}"


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source(seed="unit") as running:
        yield running


def test_a_get_is_the_content(source: Source) -> None:
    reply = get(source.port, TARGET)
    assert (reply.status, reply.ending) == (200, "open")
    assert reply.body == source.content.read(PATH, 0, SIZE)
    assert reply.fields["content-length"] == str(SIZE)
    assert reply.fields["content-disposition"] == 'attachment; filename="report.bin"'
    assert reply.fields["accept-ranges"] == "bytes"
    assert reply.fields["etag"].startswith('"')
    assert "repr-digest" not in reply.fields


def test_a_generated_size_matches_its_head() -> None:
    with Source(seed="unit", min_bytes=1000, max_bytes=2000) as source:
        size = source.size_of("/any/path.zip")
        assert 1000 <= size <= 2000
        reply = talk(source.port, head("HEAD", "/any/path.zip"))
        assert reply.fields["content-length"] == str(size) and reply.body == b""
        assert len(get(source.port, "/any/path.zip").body) == size


def test_default_sizes_span_the_bounds(source: Source) -> None:
    sizes = [source.size_of(f"/{index}") for index in range(200)]
    assert min(sizes) >= 10_000_000 and max(sizes) <= 2_000_000_000


def test_an_empty_object(source: Source) -> None:
    reply = get(source.port, "/empty?size=0", Want_Repr_Digest="crc32c=1")
    assert (reply.status, reply.fields["content-length"], reply.body) == (200, "0", b"")
    assert reply.fields["repr-digest"] == "crc32c=:AAAAAA==:"


@pytest.mark.parametrize(
    ("asked", "offset", "length"),
    [
        ("0-0", 0, 1),
        ("10-19", 10, 10),
        ("99990-", 99_990, 10),
        ("-7", 99_993, 7),
        ("50-999999", 50, SIZE - 50),
    ],
)
def test_ranges(source: Source, asked: str, offset: int, length: int) -> None:
    reply = get(source.port, TARGET, Range=f"bytes={asked}")
    assert reply.status == 206
    assert reply.fields["content-range"] == f"bytes {offset}-{offset + length - 1}/{SIZE}"
    assert reply.body == source.content.read(PATH, offset, length)


def test_a_range_beyond_the_end(source: Source) -> None:
    reply = get(source.port, TARGET, Range=f"bytes={SIZE}-")
    assert (reply.status, reply.fields["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "items=0-1", "bytes=9-1", "bytes=-", "bytes=a-b"]
)
def test_ranges_that_are_ignored(source: Source, asked: str) -> None:
    assert get(source.port, TARGET, Range=asked).status == 200


def test_conditions(source: Source) -> None:
    first = get(source.port, TARGET)
    etag, modified = first.fields["etag"], first.fields["last-modified"]
    for fields, status in (
        ({"If_Match": etag}, 200),
        ({"If_Match": "*"}, 200),
        ({"If_Match": f'"other", {etag}'}, 200),
        ({"If_Match": '"other"'}, 412),
        ({"If_Match": f"W/{etag}"}, 412),
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": f"W/{etag}"}, 304),
        ({"If_None_Match": '"other"'}, 200),
        ({"If_Modified_Since": modified}, 304),
        ({"If_Unmodified_Since": "Tue, 17 Nov 1999 08:00:00 GMT"}, 412),
        ({"Range": "bytes=0-9", "If_Range": etag}, 206),
        ({"Range": "bytes=0-9", "If_Range": modified}, 206),
        ({"Range": "bytes=0-9", "If_Range": '"other"'}, 200),
        ({"Range": "bytes=0-9", "If_Range": f"W/{etag}"}, 200),
        ({"Range": "bytes=0-9", "If_Match": '"other"'}, 412),
    ):
        assert get(source.port, TARGET, **fields).status == status, fields


def test_digests_are_of_the_whole_object_even_in_a_range(source: Source) -> None:
    crc = base64.b64encode(source.content.crc32c(PATH, SIZE).to_bytes(4, "big")).decode()
    crc64 = base64.b64encode(source.content.crc64nvme(PATH, SIZE).to_bytes(8, "big")).decode()
    ranged = get(source.port, TARGET, Range="bytes=0-9", Want_Repr_Digest="crc32c=10")
    assert ranged.fields["repr-digest"] == f"crc32c=:{crc}:"
    both = talk(
        source.port, head("HEAD", TARGET, Want_Repr_Digest="crc64nvme=2, crc32c=1, sha-256=3")
    )
    assert both.fields["repr-digest"] == f"crc64nvme=:{crc64}:, crc32c=:{crc}:"
    assert "repr-digest" not in get(source.port, TARGET, Want_Repr_Digest="crc32c=0").fields


def test_digest_and_etag_can_be_left_out() -> None:
    with Source(seed="unit", digest=False, etag=False) as source:
        reply = get(source.port, TARGET, Want_Repr_Digest="crc32c=1")
        assert not {"repr-digest", "etag"} & set(reply.fields)


def test_a_name_that_is_not_ascii(source: Source) -> None:
    reply = get(source.port, "/d/na%C3%AFve%22.txt?size=1")
    assert reply.fields["content-disposition"] == (
        "attachment; filename=\"na_ve_.txt\"; filename*=UTF-8''na%C3%AFve%22.txt"
    )


def test_chunked_framing() -> None:
    with Source(seed="unit", framing="chunked") as source:
        reply = get(source.port, TARGET)
        assert (
            reply.fields["transfer-encoding"] == "chunked" and "content-length" not in reply.fields
        )
        assert reply.body == b"%x\r\n%s\r\n0\r\n\r\n" % (SIZE, source.content.read(PATH, 0, SIZE))
        assert reply.ending == "open"


def test_close_framing_is_the_old_kind() -> None:
    with Source(seed="unit", framing="close") as source:
        reply = get(source.port, TARGET)
        assert reply.wire.startswith(b"HTTP/1.0 200") and reply.ending == "fin"
        assert not {"content-length", "transfer-encoding"} & set(reply.fields)
        assert reply.body == source.content.read(PATH, 0, SIZE)


def test_keep_alive_answers_one_after_the_other(source: Source) -> None:
    reply = talk(
        source.port,
        head("GET", "/a?size=3") + head("GET", "/b?size=4", Connection="close"),
        patient=True,
    )
    assert reply.wire.count(b"HTTP/1.1 200 OK") == 2 and reply.ending == "fin"
    assert reply.wire.endswith(source.content.read("/b", 0, 4))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000, 431),
        (b"GET /?size=ten HTTP/1.1\r\n\r\n", 400),
        (b"PUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 405),
    ],
)
def test_requests_that_are_wrong(source: Source, request_bytes: bytes, status: int) -> None:
    reply = talk(source.port, request_bytes, limit_bytes=1000)
    assert reply.status == status


def test_the_journal_records_every_request(source: Source) -> None:
    get(source.port, "/told?size=5", X_Note="here")
    entry = next(entry for entry in source.journal.snapshot() if entry["path"] == "/told")
    assert (
        entry["method"] == "GET"
        and entry["status"] == 200
        and ["X-Note", "here"] in entry["headers"]
    )
    assert get(source.port, "/_journal").fields["content-type"] == "application/json"


def test_the_port_is_free_again_after_stop() -> None:
    source = Source(seed="unit")
    port = source.port
    assert get(port, "/a?size=1").status == 200
    source.stop()
    with pytest.raises(ConnectionRefusedError):
        get(port, "/a?size=1")
    with Source(port, seed="unit") as again:
        assert again.port == port
