"""What an S3 may answer, and the one right reaction: a scripted bucket that misbehaves on request.

What a well-behaved one does is in tests/contract/test_s3.py, on a real server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import gevent
import pytest

from relay.digest import Digester
from relay.errors import (
    Cancelled,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Rejected,
    RelayError,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from relay.location import Location
from relay.receipt import Level, State
from relay.stores.aws import S3Config, s3_location
from relay.stores.sigv4 import Credentials, Signer
from simulators.content import Content
from simulators.spawn import Spawned, spawn
from tests.conftest import QUICK, Certificates, Engine
from tests.faults.clouds import received
from tests.scripted import Peer, Talk

PART = 5 << 20
SIZE = PART + 1000
"""Two parts."""


def document(name: str, *members: tuple[str, str]) -> bytes:
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in members)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{inner}</{name}>'.encode()


def reply(status: int, body: bytes = b"", *fields: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields))
    return head.encode() + b"\r\n" + body


def refusal(status: int, code: str, *fields: str) -> bytes:
    return reply(status, document("Error", ("Code", code), ("Message", "as it is written")), *fields)


BEGUN = reply(200, document("InitiateMultipartUploadResult", ("UploadId", "up/1")))
GONE = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Bucket:
    """A bucket; `answers` are what each operation answers first, one after the other, before it does as it should.

    One that is empty is none: the work is done, and the connection closed. An old one knows neither checksums behind
    the bytes nor those of a whole; one that is `blind` stores their coding with the bytes.
    """

    answers: dict[str, list[bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    old: bool = False
    blind: bool = False
    fields: tuple[str, ...] = ()
    """What every answer to HEAD and GET says besides."""
    parts: dict[int, bytes] = field(default_factory=dict)
    whole: bytes | None = None

    def __call__(self, talk: Talk) -> None:
        while request := talk.head():
            if b"100-continue" in request:
                talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = received(talk, request) if request.split()[0] in (b"PUT", b"POST") else b""
            if body is None:
                return
            operation = self._operation(request)
            self.asked.append(operation)
            self.requests.append(request)
            scripted = self.answers.get(operation, [])
            if scripted and not scripted[0]:
                scripted.pop(0)
                self._answer(operation, request, body)
                return
            talk.send(scripted.pop(0) if scripted else self._answer(operation, request, body))

    def _operation(self, request: bytes) -> str:
        method, target = request.split(b" ", 2)[:2]
        if target.endswith(b"?tagging="):
            return "tags"
        if b"uploads=" in target:
            return "begin" + (" whole" if b"FULL_OBJECT" in request else "")
        if b"uploadId=" not in target:
            return method.decode().lower()
        return {b"PUT": "part", b"POST": "complete", b"DELETE": "abort", b"GET": "parts"}[method]

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        if operation.startswith("begin"):
            return BEGUN
        if operation == "part":
            number = int(request.partition(b"partNumber=")[2].partition(b"&")[0])
            if self.old and b"x-amz-trailer" in request:
                return refusal(501, "NotImplemented")
            self.parts[number] = self._decoded(request, body)
            return reply(200, b"", f'ETag: "{self._tag(self.parts[number], f"part-{number}")}"')
        if operation == "complete":
            return self._completed()
        if operation == "put":
            if self.old and (b"x-amz-trailer" in request or b"x-amz-checksum" in request):
                return refusal(501, "NotImplemented")
            self.whole = self._decoded(request, body)
            return reply(200, b"", f'ETag: "{self._tag(self.whole, "one")}"')
        if operation == "parts":
            return GONE if self.whole is not None else reply(200, document("ListPartsResult"))
        if operation in ("abort", "delete"):
            return b"HTTP/1.1 204 X\r\n\r\n"
        if self.whole is None:
            return GONE
        extra = "".join(f"{line}\r\n" for line in self.fields)
        head = f'HTTP/1.1 200 X\r\nContent-Length: {len(self.whole)}\r\nETag: "whole-2"\r\n{extra}\r\n'.encode()
        return head + (self.whole if operation == "get" else b"")

    def _completed(self) -> bytes:
        if not self.parts:
            return refusal(404, "NoSuchUpload")
        self.whole = b"".join(self.parts[number] for number in sorted(self.parts))
        self.parts.clear()
        return reply(200, document("CompleteMultipartUploadResult", ("ETag", '"whole-2"')))

    def _decoded(self, request: bytes, body: bytes) -> bytes:
        if b"x-amz-trailer" not in request or self.blind:
            return body
        size, _, rest = body.partition(b"\r\n")
        return rest[: int(size, 16)]

    def _tag(self, data: bytes, other: str) -> str:
        return hashlib.md5(data).hexdigest() if self.old else other


@pytest.fixture(scope="module")
def source() -> Iterator[Spawned]:
    with spawn("src", "--seed", "5") as server:
        yield server


@pytest.fixture
def engine(certificates: Certificates) -> Iterator[Engine]:
    made = Engine(certificates.ca_file, QUICK)
    made.runner.limits = made.runner.wire.limits = QUICK.__class__(
        **{**vars(QUICK), "parted_bytes": PART, "part_bytes": PART, "parts_in_flight": 1}
    )
    yield made
    made.assert_nothing_left()


def patient(engine: Engine) -> Engine:
    """Let what may pass be tried again."""
    engine.runner.settings = engine.runner.settings.model_copy(update={"retry_budget": 10})
    return engine


def place(peer: Peer, signer: Signer | None = None) -> Location:
    signer = signer or Signer(lambda: Credentials("KEY", "SECRET"), "us-east-1")
    return s3_location(S3Config(signer, peer.url("")), "bucket", "a/b.bin")


def many(bucket: Bucket) -> list[Bucket]:
    return [bucket] * 40


@pytest.mark.parametrize(
    ("status", "code", "error", "retryable"),
    [
        (404, "NoSuchBucket", NotFound, False),
        (403, "AccessDenied", PermissionDenied, False),
        (403, "SignatureDoesNotMatch", Unauthenticated, False),
        (400, "ExpiredToken", Unauthenticated, False),
        (301, "PermanentRedirect", Rejected, False),
        (400, "AuthorizationHeaderMalformed", Rejected, False),
        (503, "SlowDown", Throttled, True),
        (500, "InternalError", Unavailable, True),
        (409, "ConditionalRequestConflict", Unavailable, True),
        (400, "RequestTimeout", Unavailable, True),
        (400, "BadDigest", IntegrityMismatch, True),
        (418, "Teapot", Rejected, False),
    ],
)
def test_the_code_decides_not_the_status(
    engine: Engine, source: Spawned, status: int, code: str, error: type[RelayError], retryable: bool
) -> None:
    bucket = Bucket({"put": [refusal(status, code)]})
    with Peer(many(bucket)) as peer, pytest.raises(RelayError) as caught:
        engine.migrate(source.url("/objects/a?size=1000"), place(peer))
    assert type(caught.value) is error
    assert (caught.value.side, caught.value.retryable) == ("destination", retryable)
    assert bucket.whole is None


@pytest.mark.parametrize(
    "text", [b"", b"<html>no</html>", b"<Error><Code>NoSuch", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"]
)
def test_a_refusal_without_a_code_counts_by_its_status(engine: Engine, source: Spawned, text: bytes) -> None:
    with Peer(many(Bucket({"put": [reply(403, text)]}))) as peer, pytest.raises(PermissionDenied):
        engine.migrate(source.url("/objects/a?size=1000"), place(peer))


def test_f55_a_wrong_clock_is_set_by_the_servers_and_the_request_made_again(engine: Engine, source: Spawned) -> None:
    theirs = datetime.now(UTC) + timedelta(hours=3)
    skewed = refusal(403, "RequestTimeTooSkewed", f"Date: {format_datetime(theirs, usegmt=True)}")
    signer = Signer(lambda: Credentials("KEY", "SECRET"), "us-east-1")
    with Peer(many(Bucket({"put": [skewed]}))) as peer:
        outcome = patient(engine).migrate(source.url("/objects/a?size=1000"), place(peer, signer))
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    stamp = dict(signer.fields("GET", "host", "/"))["x-amz-date"]
    assert stamp.startswith(theirs.strftime("%Y%m%dT%H"))


def test_f54_a_store_without_checksums_is_asked_without_and_read_back(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"begin whole": [refusal(400, "InvalidArgument")]})
    with Peer(many(bucket)) as peer:
        outcome = engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked.count("begin") == 1
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.READ_BACK
    with Content(5) as content:
        digester = Digester(("crc64nvme",))
        digester.update(bucket.whole or b"")
        assert digester.digests()["crc64nvme"].hex() == content.digest("crc64nvme", "/objects/a", SIZE)


@pytest.mark.parametrize(("size", "level"), [(1000, Level.WHOLE_DIGEST), (SIZE, Level.PART_DIGESTS)])
def test_f54_a_store_that_knows_only_md5_proves_by_that(
    engine: Engine, source: Spawned, size: int, level: Level
) -> None:
    """Found out once: the next object goes the right way at once."""
    bucket = Bucket({"begin whole": [refusal(501, "NotImplemented")] * 2}, old=True)
    with Peer(many(bucket)) as peer:
        for attempts in (2, 1) if size == 1000 else (1, 1):
            outcome = patient(engine).migrate(source.url(f"/objects/a?size={size}"), place(peer))
            assert outcome.receipt is not None
            assert (outcome.receipt.level, outcome.receipt.attempts) == (level, attempts)
            first, bucket.asked[:] = bucket.asked.copy(), []
    assert not any(b"x-amz-trailer" in request for request in bucket.requests[len(bucket.requests) - len(first) :])
    with Content(5) as content:
        assert bucket.whole == content.read("/objects/a", 0, size)


def test_f54_a_store_that_knows_only_md5_takes_what_is_held(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(old=True)
    url = source.url("/objects/a?size=1000&fault=framing(chunked);on(HEAD,status(405))")
    with Peer(many(bucket)) as peer:
        outcome = patient(engine).migrate(url, place(peer))
    assert outcome.state is State.VERIFIED
    assert b"\r\nContent-MD5: " in next(r for r in reversed(bucket.requests) if r.startswith(b"PUT"))


def test_f54_a_store_that_keeps_the_coding_with_the_bytes_is_found_out(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(blind=True)
    with Peer(many(bucket)) as peer:
        outcome = patient(engine).migrate(source.url("/objects/a?size=1000"), place(peer))
    assert "delete" in bucket.asked
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.READ_BACK
    with Content(5) as content:
        assert bucket.whole == content.read("/objects/a", 0, 1000)


def test_a_store_that_is_only_slow_keeps_its_checksums(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"put": [refusal(503, "SlowDown")]})
    with Peer(many(bucket)) as peer:
        patient(engine).migrate(source.url("/objects/a?size=1000"), place(peer))
    assert all(b"x-amz-trailer" in request for request in bucket.requests if request.startswith(b"PUT"))


def test_a_bucket_that_takes_no_tags_gets_the_object_and_the_receipt_says_so(engine: Engine) -> None:
    tagged = Bucket(fields=("x-amz-tagging-count: 1",))
    tagged.whole = b"bytes"
    tag = b"<TagSet><Tag><Key>a b</Key><Value>c&amp;d</Value></Tag></TagSet>"
    tagged.answers["tags"] = [reply(200, document("Tagging").replace(b"></", b">" + tag + b"</"))] * 2
    bucket = Bucket({"put": [refusal(403, "AccessDenied")]})
    with Peer(many(tagged)) as old, Peer(many(bucket)) as new:
        outcome = patient(engine).migrate(place(old), place(new))
    puts = [request for request in bucket.requests if request.startswith(b"PUT")]
    assert [b"\r\nx-amz-tagging: a%20b=c%26d\r\n" in put for put in puts] == [True, False]
    assert outcome.receipt is not None
    assert "the destination does not take the object's tags" in outcome.receipt.notes
    assert bucket.whole == b"bytes"


def test_f38_an_upload_that_was_completed_without_an_answer_is_not_sent_again(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"complete": [b""]})
    with Peer(many(bucket)) as peer:
        outcome = engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert outcome.receipt is not None
    assert (outcome.receipt.level, outcome.receipt.attempts) == (Level.READ_BACK, 1)
    assert bucket.asked.count("part") == 2
    assert "abort" not in bucket.asked


def test_f38_an_object_whose_answer_was_lost_is_known_as_ours(engine: Engine, source: Spawned) -> None:
    """With `fail` the second attempt finds something there: what the first one sent."""
    bucket = Bucket({"put": [b""]})
    with Peer(many(bucket)) as peer:
        outcome = patient(engine).migrate(source.url("/objects/a?size=1000"), place(peer), if_exists="fail")
    assert outcome.state is State.VERIFIED
    assert bucket.asked.count("put") == 1


def test_a_bucket_of_another_region_is_asked_there(engine: Engine, source: Spawned) -> None:
    """By the field that AWS sends with its redirects, and by the text that others answer."""
    elsewhere = document("Error", ("Code", "AuthorizationHeaderMalformed"), ("Region", "eu-south-2"))
    moved = b"HTTP/1.1 301 X\r\nContent-Length: 0\r\nx-amz-bucket-region: eu-west-1\r\n\r\n"
    bucket = Bucket({"head": [moved], "put": [reply(400, elsewhere)]})
    with Peer(many(bucket)) as peer:
        patient(engine).migrate(source.url("/objects/a?size=1000"), place(peer), if_exists="skip")
    regions = [re.search(rb"Credential=KEY/[0-9]+/([^/]+)/", request) for request in bucket.requests]
    assert [found and found[1].decode() for found in regions] == [
        "us-east-1",
        *["eu-west-1"] * 2,
        *["eu-south-2"] * (len(regions) - 3),
    ]
    assert bucket.whole is not None


@pytest.mark.parametrize("times", [1, 2])
def test_f40_a_part_that_is_refused_for_now_is_sent_again_by_itself(
    engine: Engine, source: Spawned, times: int
) -> None:
    bucket = Bucket({"part": [refusal(503, "SlowDown") for _ in range(times)]})
    with Peer(many(bucket)) as peer:
        outcome = patient(engine).migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked.count("part") == 2 + times
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 1
    assert outcome.receipt.bytes_resent == times * PART


def test_f41_a_part_without_an_etag_is_not_believed(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"part": [reply(200)]})
    with Peer(many(bucket)) as peer, pytest.raises(ProtocolViolation):
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked[-1] == "abort"


def test_f41_a_part_that_arrived_damaged_is_sent_again(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"part": [reply(200, b"", 'ETag: "x"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA=")]})
    with Peer(many(bucket)) as peer:
        outcome = patient(engine).migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked.count("part") == 3
    assert outcome.receipt is not None
    assert outcome.receipt.bytes_resent == PART


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(200, b"   \n" + document("Error", ("Code", "InternalError"))), Unavailable),
        (reply(200, document("Error", ("Code", "Unheard"))), Unavailable),
        (refusal(400, "InvalidPart"), Rejected),
        (refusal(400, "BadDigest"), IntegrityMismatch),
        (reply(200, b"<CompleteMultipartUploadResult><ETag>"), RelayError),
    ],
)
def test_f39_an_error_inside_a_200_is_an_error_and_the_upload_is_thrown_away(
    engine: Engine, source: Spawned, answer: bytes, error: type[RelayError]
) -> None:
    bucket = Bucket({"complete": [answer]})
    with Peer(many(bucket)) as peer, pytest.raises(error):
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked[-1] == "abort"
    assert bucket.whole is None


def test_f39_blanks_before_the_answer_to_complete_are_waited_through(engine: Engine, source: Spawned) -> None:
    done = document("CompleteMultipartUploadResult", ("ETag", '"whole-2"'))
    bucket = Bucket({"complete": [reply(200, b" " * 500 + b"\n" + done)]})
    bucket.whole = b""  # nothing was put together, which verification has to find
    with Peer(many(bucket)) as peer, pytest.raises(IntegrityMismatch):
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))


@pytest.mark.parametrize("fault", ["at(0,on(GET,stall_after(1000)))", "on(GET,status(503,retry_after=8))"])
def test_a_cancel_is_seen_in_every_part_and_the_upload_thrown_away(engine: Engine, source: Spawned, fault: str) -> None:
    """While bytes are waited for, and while a part waits for its next attempt."""
    bucket = Bucket()
    with Peer(many(bucket)) as peer:
        plan = engine.plan(source.url(f"/objects/c?size={SIZE}&fault={fault}"), place(peer))
        transfer = patient(engine).runner.transfer(plan)
        gevent.spawn_later(0.5, transfer.cancel)
        with gevent.Timeout(6), pytest.raises(Cancelled):
            engine.runner.run(transfer)
    assert bucket.asked[-1] == "abort"
    assert bucket.whole is None


def test_an_upload_that_cannot_be_thrown_away_is_told_of(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"part": [refusal(403, "AccessDenied")], "abort": [refusal(403, "AccessDenied")]})
    with Peer(many(bucket)) as peer, pytest.raises(PermissionDenied) as caught:
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert "may remain at s3://bucket/a/b.bin" in caught.value.hint
