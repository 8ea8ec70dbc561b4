"""Possible answers of an S3, and the right reaction: a scripted bucket that misbehaves on request.

The correct answers are tested in tests/contract/test_s3.py, on a real server."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import ClassVar

import gevent
import pytest

from relay.digest import Digester
from relay.errors import (
    Cancelled,
    ConfigError,
    DestinationMutates,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Rejected,
    RelayError,
    StoreError,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from relay.receipt import Level, State
from relay.stores.s3.account import account_of
from relay.stores.s3.quirks import UNTAGGED
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.transfer_limits import Limits
from simulators.content import Content
from simulators.spawn import Spawned
from tests.conftest import SEED, Engine
from tests.faults.scripted_s3 import (
    IN_PARTS,
    PART,
    SIZE,
    Bucket,
    document,
    place,
    refusal,
    repeat_script,
    reply,
    with_retries,
)
from tests.faults.scripted_s3_objects import Shelf
from tests.scripted import Peer, Talk


@pytest.fixture
def engine_limits() -> Limits:
    return IN_PARTS


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
    engine: Engine,
    source: Spawned,
    status: int,
    code: str,
    error: type[RelayError],
    retryable: bool,
) -> None:
    bucket = Bucket(
        {"put": [reply(200, b"", f"x-amz-checksum-crc64nvme: {'A' * 11}="), refusal(status, code)]}
    )
    with Peer(repeat_script(bucket)) as peer:
        with pytest.raises(IntegrityMismatch):  # but it knows checksums, so it does not deny those
            engine.migrate(source.url("/objects/a?size=1000"), place(peer))
        with pytest.raises(RelayError) as caught:
            engine.migrate(source.url("/objects/a?size=1000"), place(peer))
    assert type(caught.value) is error
    assert (caught.value.side, caught.value.retryable) == ("destination", retryable)
    assert bucket.whole is None


@pytest.mark.parametrize(
    "text", [b"", b"<html>no</html>", b"<Error><Code>NoSuch", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"]
)
def test_a_refusal_without_a_code_counts_by_its_status(
    engine: Engine, source: Spawned, text: bytes
) -> None:
    with (
        Peer(repeat_script(Bucket({"put": [reply(403, text)]}))) as peer,
        pytest.raises(PermissionDenied),
    ):
        engine.migrate(source.url("/objects/a?size=1000"), place(peer))


def test_f55_a_wrong_clock_is_corrected_by_the_server(engine: Engine, source: Spawned) -> None:
    theirs = datetime.now(UTC) + timedelta(hours=3)
    skewed = refusal(403, "RequestTimeTooSkewed", f"Date: {format_datetime(theirs, usegmt=True)}")
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1")
    with Peer(repeat_script(Bucket({"put": [skewed]}))) as peer:
        outcome = with_retries(engine).migrate(
            source.url("/objects/a?size=1000"), place(peer, signer)
        )
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    stamp = dict(signer.fields("GET", "host", "/"))["x-amz-date"]
    assert stamp.startswith(theirs.strftime("%Y%m%dT%H"))


def test_f55_two_requests_of_a_wrong_clock_are_both_repeated(
    engine: Engine, source: Spawned
) -> None:
    """Each was under way when the other's refusal set the clock."""
    theirs = datetime.now(UTC) + timedelta(hours=3)
    skewed = refusal(403, "RequestTimeTooSkewed", f"Date: {format_datetime(theirs, usegmt=True)}")
    signer, both = (
        Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"),
        threading.Barrier(2),
    )

    def late(talk: Talk) -> None:
        both.wait(20)
        talk.send(skewed)

    with Peer(repeat_script(Bucket({"put": [late, late]}))) as peer:
        with_retries(engine)
        url = source.url("/objects/a?size=1000")
        moves = [gevent.spawn(engine.migrate, url, place(peer, signer)) for _ in range(2)]
        assert [move.get(timeout=60).receipt.attempts for move in moves] == [2, 2]


def test_f55_a_clock_is_corrected_a_limited_number_of_times(
    engine: Engine, source: Spawned
) -> None:
    theirs = datetime.now(UTC) + timedelta(hours=3)
    skewed = refusal(403, "RequestTimeTooSkewed", f"Date: {format_datetime(theirs, usegmt=True)}")
    bucket = Bucket({"put": [skewed] * 9})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(Rejected) as caught:
        with_retries(engine).migrate(source.url("/objects/a?size=1000"), place(peer))
    assert "clock" in caught.value.hint
    assert bucket.asked.count("put") == 2


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
def test_f26_replaced_credentials_are_read_again_once(
    engine: Engine, source: Spawned, code: str
) -> None:
    old, new = AwsCredentials("OLD", "SECRET", "token"), AwsCredentials("NEW", "SECRET", "token")
    signer = Signer(lambda: old, "us-east-1", reread=lambda: lambda: new)
    bucket = Bucket({"put": [refusal(403, code)]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(
            source.url("/objects/a?size=1000"), place(peer, signer)
        )
    assert outcome.state is State.VERIFIED
    puts = [request for request in bucket.requests if request.startswith(b"PUT")]
    assert [b"Credential=NEW/" in put for put in puts] == [False, True]


@pytest.mark.parametrize("reread", [None, "the same", "others that are refused too", "none"])
def test_f26_credentials_that_stay_refused_are_final(
    engine: Engine, source: Spawned, reread: str | None
) -> None:
    asked: list[int] = []

    def again() -> Callable[[], AwsCredentials | None]:
        asked.append(1)
        if reread == "none":
            raise ConfigError("there are no credentials any more")
        name = "KEY" if reread == "the same" else f"KEY{len(asked)}"
        return lambda: AwsCredentials(name, "SECRET")

    signer = Signer(
        lambda: AwsCredentials("KEY", "SECRET"), "us-east-1", reread=again if reread else None
    )
    bucket = Bucket({"put": [refusal(400, "ExpiredToken")] * 9})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(Unauthenticated):
        with_retries(engine).migrate(source.url("/objects/a?size=1000"), place(peer, signer))
    assert len(asked) == (1 if reread else 0)
    assert bucket.asked.count("put") == (2 if reread == "others that are refused too" else 1)


def test_f26_a_refused_request_takes_the_key_another_found() -> None:
    """After any number of concurrent refusals the settings are read once."""
    asked: list[int] = []

    def again() -> Callable[[], AwsCredentials | None]:
        asked.append(1)
        return lambda: AwsCredentials("NEW", "SECRET")

    signer = Signer(lambda: AwsCredentials("OLD", "SECRET"), "us-east-1", reread=again)
    refused = signer.credentials()
    assert [signer.renew(refused) for _ in range(3)] == [True] * 3
    assert not signer.renew(signer.credentials())
    assert asked == [1]


def test_a_clock_that_is_set_back_delays_no_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read again a minute after the last time, by a clock that nothing sets."""
    asked: list[int] = []

    def again() -> Callable[[], AwsCredentials | None]:
        asked.append(1)
        return lambda: AwsCredentials(f"NEW{len(asked)}", "SECRET")

    times, seconds = [datetime(2026, 1, 2, tzinfo=UTC)], [5.0]
    monkeypatch.setattr("relay.stores.s3.sigv4.monotonic", lambda: seconds[0])
    signer = Signer(
        lambda: AwsCredentials("OLD", "SECRET"), "us-east-1", clock=lambda: times[0], reread=again
    )
    for wait, is_renewed in ((0, True), (59, False), (1, True)):
        times[0] -= timedelta(days=1)
        seconds[0] += wait
        assert signer.renew(signer.credentials()) is is_renewed
    assert len(asked) == 2


def test_a_digest_in_an_answer_ends_the_doubt_about_head(engine: Engine, source: Spawned) -> None:
    """The second object uses the connection of the first, though HEAD announced a body there."""
    absent = b"HTTP/1.1 404 X\r\nContent-Length: 11\r\n\r\n"
    bucket = Bucket(sums=True, answers={"head": [absent] * 4})
    with Peer(repeat_script(bucket)) as peer:
        for key in "abcd":
            there = place(peer).with_target(f"/bucket/{key}")
            engine.migrate(source.url("/objects/a?size=1000"), there, if_exists="changed")
        assert peer.connections == 1
    assert bucket.asked == ["head", "put"] * 4


def test_f54_a_store_without_checksums_is_read_back(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"begin whole": [refusal(400, "InvalidArgument")]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked.count("begin") == 1
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.READ_BACK
    with Content(SEED) as content:
        digester = Digester(("crc64nvme",))
        digester.update(bucket.whole or b"")
        assert digester.digests()["crc64nvme"].hex() == content.digest(
            "crc64nvme", "/objects/a", SIZE
        )


@pytest.mark.parametrize(
    ("size", "level"), [(1000, Level.WHOLE_DIGEST), (SIZE, Level.PART_DIGESTS)]
)
def test_f54_a_store_that_knows_only_md5_proves_by_that(
    engine: Engine, source: Spawned, size: int, level: Level
) -> None:
    """Detected once: the next object is sent the right way at once."""
    bucket = Bucket({"begin whole": [refusal(501, "NotImplemented")] * 2}, old=True)
    with Peer(repeat_script(bucket)) as peer:
        for attempts in (2, 1) if size == 1000 else (1, 1):
            outcome = with_retries(engine).migrate(
                source.url(f"/objects/a?size={size}"), place(peer)
            )
            assert outcome.receipt is not None
            assert (outcome.receipt.level, outcome.receipt.attempts) == (level, attempts)
            first, bucket.asked[:] = bucket.asked.copy(), []
    assert not any(
        b"x-amz-trailer" in request
        for request in bucket.requests[len(bucket.requests) - len(first) :]
    )
    with Content(SEED) as content:
        assert bucket.whole == content.read("/objects/a", 0, size)


@pytest.mark.parametrize(
    "answer",
    [
        b"<CompleteMultipartUploadResult/>",
        b"<html/>",
        document("CompleteMultipartUploadResult", ("ETag", "W/x")),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_digests_of_parts_need_the_layout_of_the_object(
    engine: Engine, source: Spawned, answer: bytes, done: bool
) -> None:
    """An old object of the same length may still be there: the answer does not identify the new
    one."""
    bucket = Bucket({"complete": [reply(200, answer)] * 9}, old=True, whole=b"o" * SIZE, tag="old")
    with Content(SEED) as content:
        if done:
            bucket.whole = content.read("/objects/a", 0, SIZE)
    with Peer(repeat_script(bucket)) as peer:
        if done:
            outcome = with_retries(engine).migrate(
                source.url(f"/objects/a?size={SIZE}"), place(peer)
            )
            assert outcome.receipt is not None
            assert outcome.receipt.level is Level.READ_BACK
        else:
            with pytest.raises(DestinationMutates):
                with_retries(engine).migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
            assert bucket.whole == b"o" * SIZE


def test_f54_a_store_with_md5_alone_accepts_held_bytes(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(old=True)
    url = source.url("/objects/a?size=1000&fault=framing(chunked);on(HEAD,status(405))")
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url, place(peer))
    assert outcome.state is State.VERIFIED
    assert b"\r\nContent-MD5: " in next(
        r for r in reversed(bucket.requests) if r.startswith(b"PUT")
    )


@pytest.mark.parametrize(("tags", "level"), [(True, Level.PART_DIGESTS), (False, Level.READ_BACK)])
def test_f27_an_uncompared_content_md5_proves_no_part(
    engine: Engine, source: Spawned, tags: bool, level: Level
) -> None:
    """Its entity tag shows whether the store compared the bytes; a store that ignores the field
    proves nothing."""
    bucket = Bucket(
        old=True, tags=tags, refuses={b"x-amz-checksum": refusal(501, "NotImplemented")}
    )
    url = source.url(f"/objects/a?size={SIZE}&fault=framing(chunked);on(HEAD,status(405))")
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url, place(peer))
    parts = [request for request in bucket.requests if b"partNumber" in request]
    assert parts and all(b"\r\nContent-MD5: " in part for part in parts[-2:])
    assert outcome.receipt is not None
    assert (outcome.state, outcome.receipt.level) == (State.VERIFIED, level)


def test_f54_a_store_that_keeps_the_coding_is_detected(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(blind=True)
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(source.url("/objects/a?size=1000"), place(peer))
    assert "delete" in bucket.asked
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.READ_BACK
    with Content(SEED) as content:
        assert bucket.whole == content.read("/objects/a", 0, 1000)


class SizelessOnce(Bucket):
    """Its first answer to HEAD about an object has no length, as behind a proxy that compresses."""

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        answer = super()._answer(operation, request, body)
        if operation != "head" or self.whole is None or self.asked.count("put") > 1:
            return answer
        return re.sub(rb"Content-Length: \d+\r\n", b"", answer)


def test_a_head_without_a_length_proves_no_coding(engine: Engine, source: Spawned) -> None:
    bucket = SizelessOnce(blind=True)
    with Peer(repeat_script(bucket)) as peer:
        with_retries(engine).migrate(source.url("/objects/a?size=1000"), place(peer))
    with Content(SEED) as content:
        assert bucket.whole == content.read("/objects/a", 0, 1000)


def test_a_store_that_is_only_slow_keeps_its_checksums(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"put": [refusal(503, "SlowDown")]})
    with Peer(repeat_script(bucket)) as peer:
        with_retries(engine).migrate(source.url("/objects/a?size=1000"), place(peer))
    assert all(
        b"x-amz-trailer" in request for request in bucket.requests if request.startswith(b"PUT")
    )


@pytest.fixture
def old_bucket() -> Bucket:
    """Return a bucket whose object has a tag, for any number of reads."""
    bucket = Bucket(fields=("x-amz-tagging-count: 1", "Accept-Ranges: bytes"))
    bucket.whole = b"bytes"
    tag = b"<TagSet><Tag><Key>a b</Key><Value>c&amp;d</Value></Tag></TagSet>"
    bucket.answers["tags"] = [
        reply(200, document("Tagging").replace(b"></", b">" + tag + b"</"))
    ] * 40
    return bucket


@pytest.fixture
def tagged_server(old_bucket: Bucket) -> Iterator[Peer]:
    """Return the server of it."""
    with Peer(repeat_script(old_bucket)) as peer:
        yield peer


TAGS = b"\r\nx-amz-tagging: a%20b=c%26d\r\n"
DENIED = refusal(403, "AccessDenied")
UNKNOWN = refusal(501, "NotImplemented")


def tags_of(bucket: Bucket) -> list[bool]:
    """Return which of the uploads carried the tags, and forget those uploads."""
    found = [TAGS in request for request in bucket.requests if request.startswith(b"PUT")]
    bucket.requests.clear()
    return found


def test_a_bucket_without_tags_gets_the_object_with_a_note(
    engine: Engine, tagged_server: Peer
) -> None:
    """It is detected once."""
    bucket = Bucket(refuses={b"x-amz-tagging": DENIED})
    with Peer(repeat_script(bucket)) as new:
        for tries in ([True, False], [False]):
            outcome = with_retries(engine).migrate(place(tagged_server), place(new))
            assert outcome.receipt is not None
            assert UNTAGGED in outcome.receipt.notes
            assert tags_of(bucket) == tries
    assert bucket.whole == b"bytes"


def test_the_permissions_of_one_key_say_nothing_of_others(
    engine: Engine, tagged_server: Peer
) -> None:
    bucket = Bucket(refuses={b"x-amz-tagging": DENIED})
    with Peer(repeat_script(bucket)) as new:
        for owner, denied in (("one", True), ("other", False), ("one", True)):
            bucket.refuses = {b"x-amz-tagging": DENIED} if denied else {}
            there = place(new)
            there = replace(there, account=replace(account_of(there), owner=owner))
            outcome = with_retries(engine).migrate(place(tagged_server), there)
            assert outcome.receipt is not None
            assert (UNTAGGED in outcome.receipt.notes) is denied
            assert tags_of(bucket)[-1] is not denied


def test_a_multipart_object_without_its_tags_has_a_note(
    engine: Engine, tagged_server: Peer, old_bucket: Bucket
) -> None:
    bucket, old_bucket.whole = (
        Bucket(refuses={b"x-amz-tagging": DENIED}, sums=True),
        random.Random(1).randbytes(SIZE),
    )
    with Peer(repeat_script(bucket)) as new:
        outcome = with_retries(engine).migrate(place(tagged_server), place(new))
    assert outcome.receipt is not None
    assert outcome.receipt.notes == (UNTAGGED,)
    assert bucket.asked.count("part") == 2
    assert bucket.whole == old_bucket.whole


@pytest.mark.parametrize("refused", [DENIED, UNKNOWN], ids=["denied", "unknown"])
def test_an_upload_refused_without_tags_too_is_not_remembered(
    engine: Engine, tagged_server: Peer, refused: bytes
) -> None:
    bucket = Bucket({"put": [refused] * 8})
    with Peer(repeat_script(bucket)) as new:
        with pytest.raises((PermissionDenied, Rejected)) as caught:
            with_retries(engine).migrate(place(tagged_server), place(new))
        assert not caught.value.retryable
        assert set(tags_of(bucket)) == {True, False}
        bucket.answers.clear()
        outcome = engine.migrate(place(tagged_server), place(new))
    assert outcome.receipt is not None
    assert outcome.receipt.notes == ()
    assert tags_of(bucket) == [True]


@pytest.mark.parametrize("refused", [DENIED, UNKNOWN], ids=["denied", "unknown"])
@pytest.mark.parametrize("tags", [True, False], ids=["with tags", "without tags"])
def test_an_endpoint_without_checksums_keeps_tags(
    engine: Engine, tagged_server: Peer, refused: bytes, tags: bool
) -> None:
    bucket = Bucket(
        refuses={b"x-amz-trailer": refused} | ({} if tags else {b"x-amz-tagging": refused}),
        old=True,
    )
    with Peer(repeat_script(bucket)) as new:
        for _ in range(2):
            outcome = with_retries(engine).migrate(place(tagged_server), place(new))
            assert outcome.receipt is not None
            assert outcome.receipt.level is Level.WHOLE_DIGEST
            assert (UNTAGGED in outcome.receipt.notes) is not tags
    assert tags_of(bucket)[-2:] == [tags, tags]


def test_f38_an_upload_completed_without_answer_is_not_resent(
    engine: Engine, source: Spawned
) -> None:
    bucket = Bucket({"complete": [b""]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert outcome.receipt is not None
    assert (outcome.receipt.level, outcome.receipt.attempts) == (Level.READ_BACK, 1)
    assert bucket.asked.count("part") == 2
    assert "abort" not in bucket.asked


class Website(Shelf):
    """Its one object redirects; CopyObject does not copy that."""

    redirects: ClassVar[list[bytes]] = []

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        if method == "PUT":
            self.redirects.extend(
                re.findall(rb"\r\nx-amz-website-redirect-location: (\S+)", request)
            )
            return super()._done(method, key, request, body)
        found = super()._done(method, key, request, body)
        return found.replace(b"\r\n\r\n", b"\r\nx-amz-website-redirect-location: /there\r\n\r\n", 1)


def test_a_copy_has_the_redirect_of_a_website(engine: Engine) -> None:
    shelf = Website({"a": b"a page"})
    with Peer([shelf] * 8) as peer:
        old, new = (replace(place(peer), target=f"/bucket/{one}") for one in ("a", "b"))
        outcome = engine.migrate(old, new)
    assert outcome.receipt is not None
    assert any("server-side copy" in note for note in outcome.receipt.notes)
    assert shelf.redirects == [b"/there"]


class Labelling(Shelf):
    """Records the directives of the tags."""

    directives: ClassVar[list[bytes]] = []

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        if b"x-amz-copy-source" in request:
            self.directives.append(request.partition(b"\r\nx-amz-tagging-directive: ")[2][:7])
        return super()._done(method, key, request, body)


@pytest.mark.parametrize("more", [(), (("cache-control", "no-store"),)])
def test_a_copy_has_the_tags_of_the_command(
    engine: Engine, more: tuple[tuple[str, str], ...]
) -> None:
    """CopyObject ignores them without the directive."""
    shelf = Labelling({"a": b"an object"})
    shelf.directives.clear()
    with Peer([shelf] * 8) as peer:
        old, new = (replace(place(peer), target=f"/bucket/{one}") for one in ("a", "b"))
        for headers in (more, (*more, ("x-amz-tagging", "team=blue"))):
            engine.migrate(old, replace(new, headers=headers))
    assert shelf.directives == [b"", b"REPLACE"]


class Archiving(Shelf):
    """One of its objects cannot be copied."""

    copies: ClassVar[list[bytes]] = []

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        copied = re.search(rb"\r\nx-amz-copy-source: (\S+)", request)
        self.copies.extend(copied.groups() if copied else ())
        if copied is not None and copied[1].endswith(b"frozen"):
            return refusal(403, "InvalidObjectState")
        return super()._done(method, key, request, body)


def test_a_copy_refused_for_one_object_stays_on_for_others(engine: Engine) -> None:
    shelf = Archiving({key: key.encode() for key in ("a", "frozen", "c")})
    with Peer([shelf] * 20) as peer:
        for key in tuple(shelf.objects):
            old, new = (
                replace(place(peer), target=f"/bucket/{one}") for one in (key, f"new-{key}")
            )
            assert engine.migrate(old, new).state is State.VERIFIED
    assert shelf.copies == [b"/bucket/a", b"/bucket/frozen", b"/bucket/c"]


@pytest.mark.parametrize(("status", "named"), [(504, True), (403, False)])
def test_f38_an_error_names_a_possibly_completed_upload(
    engine: Engine, source: Spawned, status: int, named: bool
) -> None:
    """A gateway's answer leaves the store's work open; a refusal means that the store does
    nothing."""
    bucket = Bucket({"complete": [lambda talk: talk.send(refusal(status, "Code"))]})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(StoreError) as caught:
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert ("may remain" in caught.value.hint) is named


def test_f38_an_object_with_a_lost_answer_is_recognised_as_ours(
    engine: Engine, source: Spawned
) -> None:
    """With `fail` the second attempt finds an object: the one that the first attempt sent."""
    bucket = Bucket({"put": [b""]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(
            source.url("/objects/a?size=1000"), place(peer), if_exists="fail"
        )
    assert outcome.state is State.VERIFIED
    assert bucket.asked.count("put") == 1


def test_a_bucket_of_another_region_is_asked_there(engine: Engine, source: Spawned) -> None:
    """By the field that AWS sends with its redirects, and by the text of other servers."""
    elsewhere = document(
        "Error", ("Code", "AuthorizationHeaderMalformed"), ("Region", "eu-south-2")
    )
    moved = b"HTTP/1.1 301 X\r\nContent-Length: 0\r\nx-amz-bucket-region: eu-west-1\r\n\r\n"
    bucket = Bucket({"head": [moved], "put": [reply(400, elsewhere)]})
    with Peer(repeat_script(bucket)) as peer:
        with_retries(engine).migrate(
            source.url("/objects/a?size=1000"), place(peer), if_exists="skip"
        )
    regions = [
        re.search(rb"Credential=KEY/[0-9]+/([^/]+)/", request) for request in bucket.requests
    ]
    assert [found and found[1].decode() for found in regions] == [
        "us-east-1",
        *["eu-west-1"] * 2,
        *["eu-south-2"] * (len(regions) - 3),
    ]
    assert bucket.whole is not None


@pytest.mark.parametrize("times", [1, 2])
def test_f40_a_part_with_a_passing_refusal_is_resent_alone(
    engine: Engine, source: Spawned, times: int
) -> None:
    bucket = Bucket({"part": [refusal(503, "SlowDown") for _ in range(times)]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked.count("part") == 2 + times
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 1
    sent = [
        int(found[1])
        for request in bucket.requests
        if (found := re.search(rb"partNumber=(\d)", request))
    ]
    assert outcome.receipt.bytes_resent == (sent.count(1) - 1) * PART + (sent.count(2) - 1) * (
        SIZE - PART
    )


def test_f41_a_part_without_an_etag_is_not_believed(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"part": [reply(200)]})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(ProtocolViolation):
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked[-1] == "abort"


def test_f41_a_part_that_arrived_damaged_is_sent_again(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(
        {"part": [reply(200, b"", 'ETag: "x"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA=")]}
    )
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
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
def test_f39_an_error_inside_a_200_aborts_the_upload(
    engine: Engine, source: Spawned, answer: bytes, error: type[RelayError]
) -> None:
    bucket = Bucket({"complete": [answer]})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(error):
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert bucket.asked[-1] == "abort"
    assert bucket.whole is None


def test_f39_blanks_before_an_answer_to_complete_are_read(engine: Engine, source: Spawned) -> None:
    done = document("CompleteMultipartUploadResult", ("ETag", '"whole-2"'))
    bucket = Bucket({"complete": [reply(200, b" " * 500 + b"\n" + done)]})
    bucket.whole = b""  # nothing was assembled, which verification has to detect
    with Peer(repeat_script(bucket)) as peer, pytest.raises(IntegrityMismatch):
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))


@pytest.mark.parametrize(
    "fault", ["at(0,on(GET,stall_after(1000)))", "on(GET,status(503,retry_after=8))"]
)
def test_a_cancel_ends_every_part_and_aborts_the_upload(
    engine: Engine, source: Spawned, fault: str
) -> None:
    """While relay waits for bytes, and while a part waits for its next attempt."""
    bucket = Bucket()
    with Peer(repeat_script(bucket)) as peer:
        plan = engine.plan(source.url(f"/objects/c?size={SIZE}&fault={fault}"), place(peer))
        transfer = with_retries(engine).runner.transfer(plan)
        gevent.spawn_later(0.5, transfer.cancel)
        with gevent.Timeout(6), pytest.raises(Cancelled):
            engine.runner.run(transfer)
    assert bucket.asked[-1] == "abort"
    assert bucket.whole is None


def test_an_upload_that_cannot_be_aborted_is_named(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(
        {"part": [refusal(403, "AccessDenied")], "abort": [refusal(403, "AccessDenied")]}
    )
    with Peer(repeat_script(bucket)) as peer, pytest.raises(PermissionDenied) as caught:
        engine.migrate(source.url(f"/objects/a?size={SIZE}"), place(peer))
    assert "may remain at s3://bucket/a/b.bin" in caught.value.hint
