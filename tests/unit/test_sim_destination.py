"""The destination shows only whole uploads, reports exactly the received bytes, and keeps its
conditions."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from simulators.client import get, head, put, talk
from simulators.content import Content
from simulators.destination import Destination

CONTENT = Content("unit")
BODY = CONTENT.read("/a", 0, 300_000)


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination() as running:
        yield running


@pytest.fixture
def keeping_destination() -> Iterator[Destination]:
    with Destination(
        digests=("crc32c", "crc64nvme", "md5", "sha256"), keep_bytes=1_000_000
    ) as running:
        yield running


def last_received(destination: Destination) -> dict[str, Any]:
    return destination.received.snapshot()[-1]


def test_put_then_overwrite(destination: Destination) -> None:
    first = put(destination.port, "/a", BODY, Content_Type="text/csv")
    assert (first.status, first.ending) == (201, "open")
    entry = last_received(destination)
    assert (entry["path"], entry["method"], entry["size"], entry["complete"]) == (
        "/a",
        "PUT",
        len(BODY),
        True,
    )
    assert entry["digests"] == {
        name: CONTENT.digest(name, "/a", len(BODY)) for name in ("crc32c", "crc64nvme")
    }
    assert entry["etag"] == first.fields["etag"] and entry["headers"]["content-type"] == "text/csv"
    second = put(destination.port, "/a", b"other")
    assert second.status == 204 and second.fields["etag"] != first.fields["etag"]


def test_every_digest(keeping_destination: Destination) -> None:
    put(keeping_destination.port, "/a", BODY)
    digests = last_received(keeping_destination)["digests"]
    assert digests["md5"] == hashlib.md5(BODY).hexdigest()
    assert digests["sha256"] == hashlib.sha256(BODY).hexdigest()


def test_no_digest_discards_and_counts() -> None:
    with Destination(digests=()) as destination:
        assert put(destination.port, "/a", BODY).status == 201
        assert (
            last_received(destination)["size"] == len(BODY)
            and last_received(destination)["digests"] == {}
        )


def test_head_says_size_etag_and_digest(destination: Destination) -> None:
    created = put(destination.port, "/a", BODY, Want_Repr_Digest="crc32c=1")
    crc = base64.b64encode(CONTENT.crc32c("/a", len(BODY)).to_bytes(4, "big")).decode()
    assert created.fields["repr-digest"] == f"crc32c=:{crc}:"
    reply = talk(destination.port, head("HEAD", "/a", Want_Repr_Digest="crc32c=1"))
    assert reply.status == 200 and reply.fields["content-length"] == str(len(BODY))
    assert reply.fields["etag"] == created.fields["etag"]
    assert reply.fields["repr-digest"] == f"crc32c=:{crc}:"
    assert talk(destination.port, head("HEAD", "/none")).status == 404


def test_post_makes_a_new_object_each_time(keeping_destination: Destination) -> None:
    first, second = (
        put(keeping_destination.port, "/inbox/", BODY, method="POST") for _ in range(2)
    )
    assert (first.status, second.status) == (201, 201)
    assert first.fields["location"] != second.fields["location"]
    assert get(keeping_destination.port, first.fields["location"]).body == BODY


def test_get_without_keep_says_why(destination: Destination) -> None:
    put(destination.port, "/a", BODY)
    reply = get(destination.port, "/a")
    assert reply.status == 405 and b"--keep" in reply.body


def test_get_with_keep(keeping_destination: Destination) -> None:
    put(keeping_destination.port, "/a", BODY, Content_Type="text/csv")
    reply = get(keeping_destination.port, "/a")
    assert reply.body == BODY and reply.fields["content-type"] == "text/csv"
    ranged = get(keeping_destination.port, "/a", Range="bytes=5-14")
    assert (ranged.status, ranged.body) == (206, BODY[5:15])
    assert get(keeping_destination.port, "/a", Range="bytes=300000-").status == 416


def test_kept_bytes_are_bounded(keeping_destination: Destination) -> None:
    for name in "abcd":
        put(keeping_destination.port, f"/{name}", BODY)
    assert [get(keeping_destination.port, f"/{name}").status for name in "abcd"] == [
        200,
        200,
        200,
        405,
    ]
    talk(keeping_destination.port, head("DELETE", "/a"))
    put(keeping_destination.port, "/d", BODY)
    assert get(keeping_destination.port, "/d").body == BODY


def test_chunked_bodies(destination: Destination) -> None:
    body = b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n"
    reply = talk(destination.port, head("PUT", "/c", Transfer_Encoding="chunked") + body)
    assert (reply.status, reply.ending, last_received(destination)["size"]) == (201, "open", 7)


@pytest.mark.parametrize(
    "body", [b"-3\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"x\r\n", b"0x3\r\nabc\r\n"]
)
def test_malformed_chunks_store_nothing(destination: Destination, body: bytes) -> None:
    reply = talk(destination.port, head("PUT", "/c", Transfer_Encoding="chunked") + body)
    assert (reply.status, reply.ending) == (400, "fin")
    assert last_received(destination)["complete"] is False
    assert talk(destination.port, head("HEAD", "/c")).status == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 411),
        ({"Content_Length": "1_0"}, 400),
        ({"Content_Length": "+5"}, 400),
        ({"Content_Length": "5, 5"}, 400),
        ({"Content_Length": "5", "Transfer_Encoding": "chunked"}, 400),
        ({"Transfer_Encoding": "gzip"}, 501),
    ],
)
def test_framing_that_is_refused(
    destination: Destination, fields: dict[str, str], status: int
) -> None:
    reply = talk(destination.port, head("PUT", "/a", **fields))
    assert (reply.status, reply.ending) == (status, "fin")


def test_expect_is_honoured_before_the_body(destination: Destination) -> None:
    with socket.create_connection(("127.0.0.1", destination.port), 5) as sock:
        sock.sendall(head("PUT", "/a", Content_Length=3, Expect="100-continue"))
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert sock.recv(1000).startswith(b"HTTP/1.1 201")


def test_preconditions_answer_before_the_body(destination: Destination) -> None:
    etag = put(destination.port, "/a", BODY).fields["etag"]
    for fields in ({"If_None_Match": "*"}, {"If_Match": '"other"'}):
        early = talk(destination.port, head("PUT", "/a", Content_Length=10**9, **fields))
        assert early.status == 412 and early.fields["connection"] == "close"
        assert put(destination.port, "/a", BODY, **fields).status == 412
    assert put(destination.port, "/none", BODY, If_Match="*").status == 412
    assert talk(destination.port, head("HEAD", "/a")).fields["etag"] == etag
    assert put(destination.port, "/a", BODY, If_Match=etag).status == 204
    assert put(destination.port, "/b", BODY, If_None_Match="*").status == 201


def test_an_early_answer_survives_a_large_upload(destination: Destination) -> None:
    put(destination.port, "/a", b"x")
    reply = put(destination.port, "/a", bytes(20_000_000), If_None_Match="*")
    assert (reply.status, reply.ending) == (412, "fin")


def test_a_broken_upload_is_never_visible(destination: Destination) -> None:
    before = put(destination.port, "/a", b"old").fields["etag"]
    with socket.create_connection(("127.0.0.1", destination.port), 5) as sock:
        sock.sendall(head("PUT", "/a", Content_Length=10) + b"12345")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1000) == b""
    assert (
        last_received(destination)["complete"] is False and last_received(destination)["size"] == 5
    )
    assert talk(destination.port, head("HEAD", "/a")).fields["etag"] == before


def test_delete(destination: Destination) -> None:
    etag = put(destination.port, "/a", b"x").fields["etag"]
    assert talk(destination.port, head("DELETE", "/a", If_Match='"other"')).status == 412
    assert talk(destination.port, head("DELETE", "/a", If_Match=etag)).status == 204
    assert talk(destination.port, head("DELETE", "/a")).status == 404
    assert talk(destination.port, head("PATCH", "/a")).status == 405


def test_received_is_json_and_can_be_cleared(destination: Destination) -> None:
    put(destination.port, "/a", b"x")
    assert b'"path": "/a"' in get(destination.port, "/_received").body
    assert talk(destination.port, head("DELETE", "/_received")).status == 204
    assert get(destination.port, "/_received").body == b"[]"
