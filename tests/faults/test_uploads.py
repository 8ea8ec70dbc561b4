"""Faults after a correct upload to S3: the store loses it, changes it, or answers unclearly.

Over a scripted bucket; `test_s3.py` covers the meaning of single answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gevent
import pytest

from relay.engine.multipart.part_sizes import ranges_of
from relay.engine.multipart.part_workers import (
    MAX_REREADS,
    PartContext,
    PartWorkers,
    numbered_parts,
)
from relay.engine.transfer import server_copy
from relay.errors import (
    AlreadyExists,
    DestinationLost,
    DestinationMutates,
    IntegrityMismatch,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    RelayError,
    StoreFull,
    Unavailable,
    UploadGone,
)
from relay.receipt import Level, State, Version
from relay.retry import Backoff
from relay.stores.interfaces import ObjectInfo, Part, StoreProvider, Upload
from relay.stores.local_locations import local_location
from relay.stores.s3.quirks import TRAILERS, UNCONDITIONAL, EndpointQuirks
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog
from simulators.content import Content
from simulators.spawn import Spawned
from tests.conftest import Engine
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import (
    DONE,
    GONE,
    IN_PARTS,
    PART,
    SIZE,
    Bucket,
    place,
    refusal,
    repeat_script,
    reply,
    with_retries,
)
from tests.faults.scripted_s3_objects import Shelf
from tests.scripted import Peer, Talk

SMALL = 1000
SIZES = [SMALL, SIZE]


@pytest.fixture
def engine_limits() -> Limits:
    return IN_PARTS


def url(source: Spawned, size: int) -> str:
    return source.url(f"/objects/a?size={size}")


MANGLED: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "flipped": lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:],
    "zero tail": lambda data: data[:-9] + bytes(9),
    "longer": lambda data: data + b"!",
}


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MANGLED)
def test_f35_f36_a_wrong_object_is_found_and_removed(
    engine: Engine, source: Spawned, kind: str, size: int, sums: bool
) -> None:
    """Whether the store reports the checksum of its object, or has to be read; for a small object
    it reports a wrong one."""
    bucket = Bucket(mangle=MANGLED[kind], sums=sums and size == SIZE)
    with Peer(repeat_script(bucket)) as peer, pytest.raises(IntegrityMismatch) as caught:
        engine.migrate(url(source, size), place(peer))
    assert caught.value.side == "destination"
    assert bucket.whole is None


@pytest.mark.parametrize("sums", [False, True])
def test_f36_f42_parts_in_another_order_are_another_object(
    engine: Engine, source: Spawned, sums: bool
) -> None:
    bucket = Bucket(order=lambda numbers: sorted(numbers, reverse=True), sums=sums)
    with Peer(repeat_script(bucket)) as peer, pytest.raises(IntegrityMismatch):
        engine.migrate(url(source, SIZE), place(peer))
    assert bucket.whole is None


def test_f42_a_part_that_is_put_in_twice_is_another_object(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(order=lambda numbers: [*sorted(numbers), max(numbers)], sums=True)
    with Peer(repeat_script(bucket)) as peer, pytest.raises(IntegrityMismatch):
        engine.migrate(url(source, SIZE), place(peer))
    assert bucket.whole is None


@pytest.mark.parametrize("size", SIZES)
def test_f37_a_late_object_is_waited_for_until_a_limit(
    engine: Engine, source: Spawned, size: int
) -> None:
    late = Bucket({"head": [GONE] * 2})
    with Peer(repeat_script(late)) as peer:
        outcome = engine.migrate(url(source, size), place(peer))
    assert outcome.state is State.VERIFIED
    never = Bucket({"head": [GONE] * 40, "get": [GONE] * 40})
    with Peer(repeat_script(never)) as peer, pytest.raises(DestinationLost):
        engine.migrate(url(source, size), place(peer))


def test_f38_f39_the_outcome_of_a_cut_complete_is_determined(
    engine: Engine, source: Spawned
) -> None:
    """The store has assembled the object: it is not sent again."""
    bucket = Bucket({"complete": [lambda talk: talk.send(reply(200, DONE[:60]))]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(url(source, SIZE), place(peer))
    assert outcome.state is State.VERIFIED
    assert (bucket.asked.count("part"), bucket.asked.count("complete")) == (2, 1)
    assert "abort" not in bucket.asked


@pytest.mark.parametrize("shown", ["the same size", "nothing"])
def test_f38_an_unproved_object_of_a_lost_completion_is_named(
    engine: Engine, tmp_path: Path, shown: str
) -> None:
    """Only its size is proved, or its inspection is denied; and the source vanishes."""
    file = tmp_path / "a"
    file.write_bytes(bytes(SIZE))

    def hang_up(talk: Talk) -> None:
        file.unlink()
        if shown == "nothing":
            bucket.answers["head"] = [reply(403)] * 9
        talk.reset()

    bucket = Bucket({"complete": [hang_up]})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(RelayError) as caught:
        engine.migrate(local_location(file, destination=False), place(peer), verify="size")
    assert bucket.whole is not None
    assert [text[:13] for text in caught.value.remains.values()] == ["What was sent"]


def test_f39_a_store_that_sends_blanks_is_not_stalled(engine: Engine, source: Spawned) -> None:
    """For longer than the stall rule's window, with far fewer bytes than the rule requires."""
    limits = engine.runner.limits

    def slowly(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        until = time.monotonic() + 2 * limits.stall_seconds
        while time.monotonic() < until:
            talk.send(b"1\r\n \r\n")
            time.sleep(limits.stall_seconds / 5)
        talk.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(DONE), DONE))

    bucket = Bucket({"complete": [slowly]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(url(source, SIZE), place(peer))
    assert outcome.state is State.VERIFIED
    assert bucket.asked.count("complete") == 1


def test_f39_a_complete_that_fails_for_now_is_repeated(engine: Engine, source: Spawned) -> None:
    inside = reply(200, b" \n" + refusal(500, "InternalError").partition(b"\r\n\r\n")[2])
    bucket = Bucket({"complete": [inside, refusal(503, "SlowDown")]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url(source, SIZE), place(peer))
    assert outcome.receipt is not None
    assert (outcome.receipt.attempts, outcome.receipt.bytes_resent) == (1, 0)
    assert (bucket.asked.count("part"), bucket.asked.count("complete")) == (2, 3)


@pytest.mark.parametrize(("sums", "level"), [(True, Level.WHOLE_DIGEST), (False, Level.READ_BACK)])
def test_f41_f53_a_missing_checksum_lowers_the_level(
    engine: Engine, source: Spawned, sums: bool, level: Level
) -> None:
    """The parts' entity tags look like MD5 here, and are not digests of the bytes, as under
    SSE-KMS."""
    bucket = Bucket({"part": []}, sums=sums)
    bucket._tag = lambda data, other: "0123456789abcdef" * 2  # type: ignore[method-assign]
    with Peer(repeat_script(bucket)) as peer:
        for size in SIZES:
            outcome = engine.migrate(url(source, size), place(peer))
            assert outcome.receipt is not None
            assert outcome.receipt.level is level


@pytest.mark.parametrize("operation", ["part", "complete"])
def test_f43_an_upload_that_is_gone_restarts(
    engine: Engine, source: Spawned, contents: Content, operation: str
) -> None:
    bucket = Bucket({operation: [refusal(404, "NoSuchUpload")]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url(source, SIZE), place(peer))
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    assert outcome.receipt.bytes_resent == (PART if operation == "part" else SIZE)
    assert bucket.asked.count("begin whole") == 2
    assert bucket.whole == contents.read("/objects/a", 0, SIZE)


def test_f43_an_upload_that_is_always_gone_restarts_twice(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"part": [refusal(404, "NoSuchUpload")] * 40})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(UploadGone) as caught:
        with_retries(engine).migrate(url(source, SIZE), place(peer))
    assert caught.value.side == "destination"
    assert bucket.asked.count("begin whole") == 3
    assert bucket.asked.count("abort") == 3


def test_f43_an_upload_restarts_past_the_retry_budget(engine: Engine, source: Spawned) -> None:
    """A large object is under way for hours, and the budget is for passing failures."""
    bucket = Bucket({"complete": [refusal(404, "NoSuchUpload")]})
    with Peer(repeat_script(bucket)) as peer:
        transfer = with_retries(engine).runner.transfer(engine.plan(url(source, SIZE), place(peer)))
        transfer = replace(transfer, random=lambda: 0.05)
        transfer.meter._started -= 3600
        outcome = engine.runner.run(transfer)
    assert outcome.state is State.VERIFIED


@pytest.mark.parametrize("size", SIZES)
def test_f44_a_concurrent_writer_is_not_overwritten(
    engine: Engine, source: Spawned, size: int
) -> None:
    class Between(Bucket):
        """Another writer stores an object right before ours is accepted."""

        def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
            if operation in ("put", "complete"):
                self.whole = b"theirs"
                return refusal(412, "PreconditionFailed")
            return super()._answer(operation, request, body)

    for policy in ("skip", "fail"):
        bucket = Between()
        with Peer(repeat_script(bucket)) as peer:
            if policy == "skip":
                assert (
                    engine.migrate(url(source, size), place(peer), if_exists=policy).state
                    is State.SKIPPED
                )
            else:
                with pytest.raises(AlreadyExists):
                    engine.migrate(url(source, size), place(peer), if_exists=policy)
        assert bucket.whole == b"theirs"
        assert ("abort" in bucket.asked) == (size == SIZE)


def test_f44_a_conflict_at_complete_wants_a_new_upload(engine: Engine, source: Spawned) -> None:
    bucket = Bucket({"complete": [refusal(409, "ConditionalRequestConflict")]})
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url(source, SIZE), place(peer), if_exists="fail")
    assert outcome.state is State.VERIFIED
    assert [name for name in bucket.asked if name in ("begin whole", "complete", "abort")] == [
        *("begin whole", "complete", "abort"),
        *("begin whole", "complete"),
    ]


@pytest.mark.parametrize("theirs", [b"theirs", b"t" * SIZE], ids=["another size", "the same size"])
def test_f45_an_object_of_another_writer_is_left_and_named(
    engine: Engine, source: Spawned, theirs: bytes
) -> None:
    bucket = Bucket()

    def overwrite(talk: Talk) -> None:
        bucket.whole, bucket.tag = theirs, "theirs"
        talk.send(reply(200, DONE))

    bucket.answers["complete"] = [overwrite]
    with Peer(repeat_script(bucket)) as peer, pytest.raises(PreconditionFailed) as caught:
        with_retries(engine).migrate(url(source, SIZE), place(peer))
    assert "Another writer" in caught.value.hint
    assert bucket.whole == theirs
    assert "delete" not in bucket.asked


@pytest.mark.parametrize(
    ("code", "status"),
    [("QuotaExceeded", 403), ("XMinioStorageFull", 507), ("XMinioAdminBucketQuotaExceeded", 400)],
)
@pytest.mark.parametrize("size", SIZES)
def test_f48_a_full_store_fails_at_once_and_leaves_nothing(
    engine: Engine, source: Spawned, code: str, status: int, size: int
) -> None:
    operation = "put" if size == SMALL else "part"
    bucket = Bucket({operation: [refusal(status, code)] * 9})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(StoreFull) as caught:
        with_retries(engine).migrate(url(source, size), place(peer))
    assert caught.value.side == "destination"
    assert bucket.asked.count(operation) == 1
    assert bucket.whole is None
    assert ("abort" in bucket.asked) == (size == SIZE)


@pytest.mark.parametrize("size", SIZES)
def test_f52_a_store_that_changes_bytes_is_known_after_two(
    engine: Engine, source: Spawned, size: int
) -> None:
    bucket = Bucket(mangle=MANGLED["longer"])
    with Peer(repeat_script(bucket)) as peer, pytest.raises(DestinationMutates) as caught:
        with_retries(engine).migrate(url(source, size), place(peer))
    assert (caught.value.side, caught.value.retryable) == ("destination", False)
    assert bucket.asked.count("put" if size == SMALL else "complete") == 2
    assert bucket.whole is None


# -- F54: features that endpoints lack


@dataclass(frozen=True)
class Profile:
    """How an endpoint refuses a feature that it lacks, by the names of fields; and the proof that
    remains."""

    refuses: dict[bytes, bytes]
    old: bool = True
    sums: bool = False
    level: Level = Level.WHOLE_DIGEST
    conditional: bool = True


UNKNOWN = refusal(501, "NotImplemented")
INVALID = refusal(400, "InvalidArgument")
PROFILES = {
    "aws": Profile({}, old=False, sums=True),
    "r2": Profile({b"x-amz-trailer": UNKNOWN, b"x-amz-checksum-type": UNKNOWN}),
    "b2": Profile(
        {b"x-amz-trailer": INVALID, b"x-amz-checksum": INVALID, b"If-None-Match": UNKNOWN},
        conditional=False,
    ),
    "minio, old": Profile({b"x-amz-trailer": refusal(400, "XAmzContentSHA256Mismatch")}),
    "gcs, xml": Profile(
        {b"x-amz-trailer": INVALID, b"x-amz-checksum": INVALID, b"If-None-Match": INVALID},
        conditional=False,
    ),
    "ceph": Profile({b"x-amz-trailer": refusal(411, "MissingContentLength")}),
    "no preconditions": Profile(
        {b"If-None-Match": UNKNOWN}, old=False, sums=True, conditional=False
    ),
    "a signature that is spoilt": Profile(
        {
            b"x-amz-trailer": refusal(403, "SignatureDoesNotMatch"),
            b"x-amz-checksum": refusal(403, "AccessDenied"),
        }
    ),
    "a wall before it": Profile({b"x-amz-trailer": reply(403), b"x-amz-checksum": reply(403)}),
    "sums of its own, and 401": Profile(
        {b"x-amz-trailer": refusal(401, "Unauthorized")}, old=False, sums=True
    ),
    "sums of its own, and 400": Profile(
        {b"x-amz-trailer": refusal(400, "AuthorizationHeaderMalformed")}, old=False, sums=True
    ),
    "no word of why": Profile(
        {b"x-amz-trailer": reply(501), b"If-None-Match": reply(501)}, conditional=False
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_f54_a_missing_feature_is_detected_once(
    engine: Engine, source: Spawned, contents: Content, name: str
) -> None:
    """The level is in the receipt; a precondition that could not be sent is noted there."""
    profile = PROFILES[name]
    bucket = Bucket(refuses=profile.refuses, old=profile.old, sums=profile.sums)
    with Peer(repeat_script(bucket)) as peer:
        for attempt in ("first", "second"):
            bucket.whole = None
            outcome = with_retries(engine).migrate(
                url(source, SMALL), place(peer), if_exists="fail"
            )
            assert outcome.receipt is not None
            assert outcome.receipt.level is profile.level
            assert (UNCONDITIONAL not in outcome.receipt.notes) == profile.conditional
            assert bucket.whole == contents.read("/objects/a", 0, SMALL)
            if attempt == "second":
                assert outcome.receipt.attempts == 1
        last = next(request for request in reversed(bucket.requests) if request.startswith(b"PUT"))
        assert (b"x-amz-trailer" in last) == (
            not any(b"trailer" in field for field in profile.refuses)
        )
        assert (b"If-None-Match" in last) == profile.conditional


@pytest.mark.parametrize("name", PROFILES)
def test_f54_objects_in_parts_too(
    engine: Engine, source: Spawned, contents: Content, name: str
) -> None:
    profile = PROFILES[name]
    bucket = Bucket(refuses=profile.refuses, old=profile.old, sums=profile.sums)
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url(source, SIZE), place(peer), if_exists="fail")
    assert outcome.receipt is not None
    assert outcome.receipt.level is (Level.WHOLE_DIGEST if profile.sums else Level.PART_DIGESTS)
    assert (UNCONDITIONAL not in outcome.receipt.notes) == profile.conditional
    assert bucket.whole == contents.read("/objects/a", 0, SIZE)


def test_f54_a_checksum_left_out_without_effect_returns(engine: Engine, source: Spawned) -> None:
    """An endpoint that refuses for another reason keeps its checksums and its preconditions."""
    bucket = Bucket({"put": [INVALID] * 4})
    with Peer(repeat_script(bucket)) as peer:
        with pytest.raises(Rejected):
            with_retries(engine).migrate(url(source, SMALL), place(peer), if_exists="fail")
        bucket.answers.clear()
        outcome = engine.migrate(url(source, SMALL), place(peer), if_exists="fail")
    assert outcome.receipt is not None
    assert not outcome.receipt.notes
    last = next(request for request in reversed(bucket.requests) if request.startswith(b"PUT"))
    assert b"x-amz-trailer" in last and b"If-None-Match: *" in last


def test_f54_an_answer_to_another_upload_proves_nothing(engine: Engine, source: Spawned) -> None:
    """The refused upload is repeated without a precondition; another one is accepted meanwhile with
    it."""
    bucket = Bucket(sums=True)

    def meanwhile(talk: Talk) -> None:
        EndpointQuirks(
            engine.runner.wire.memory, place(peer).origin, "bucket", "/bucket/other"
        ).note_accepted(reported=True)
        bucket.whole = None
        talk.send(INVALID)

    bucket.answers["put"] = [INVALID, INVALID, meanwhile, INVALID, INVALID]
    with Peer(repeat_script(bucket)) as peer:
        with pytest.raises(Rejected):
            with_retries(engine).migrate(url(source, SMALL), place(peer), if_exists="fail")
        bucket.answers.clear()
        outcome = engine.migrate(url(source, SMALL), place(peer), if_exists="fail")
    assert outcome.receipt is not None
    assert UNCONDITIONAL not in outcome.receipt.notes
    last = next(request for request in reversed(bucket.requests) if request.startswith(b"PUT"))
    assert b"If-None-Match: *" in last


DENIED = refusal(403, "AccessDenied")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["denied", "taken"])
def test_f54_a_real_denial_is_checked_once(
    engine: Engine, source: Spawned, size: int, first: str
) -> None:
    """Not even once if the endpoint is known to accept checksums."""
    bucket, operation = Bucket(sums=True), "put" if size == SMALL else "part"
    with Peer(repeat_script(bucket)) as peer:
        if first == "taken":
            engine.migrate(url(source, size), place(peer))
        bucket.asked.clear()
        bucket.answers[operation] = [DENIED] * 9
        with pytest.raises(PermissionDenied) as caught:
            with_retries(engine).migrate(url(source, size), place(peer))
        assert not caught.value.retryable
        assert bucket.asked.count(operation) == (2 if first == "denied" else 1)
        bucket.answers.clear()
        outcome = engine.migrate(url(source, size), place(peer))
    assert outcome.receipt is not None
    assert (outcome.receipt.level, outcome.receipt.attempts) == (Level.WHOLE_DIGEST, 1)
    last = next(request for request in reversed(bucket.requests) if request.startswith(b"PUT"))
    assert b"x-amz-trailer" in last


def test_f54_a_denial_without_a_second_attempt_is_reported(engine: Engine, source: Spawned) -> None:
    with (
        Peer(repeat_script(Bucket({"put": [DENIED]}))) as peer,
        pytest.raises(PermissionDenied) as caught,
    ):
        engine.migrate(url(source, SMALL), place(peer))
    assert caught.value.side == "destination"


def test_f54_a_denial_among_accepted_checksums_is_its_own(engine: Engine, source: Spawned) -> None:
    """The denied upload is repeated without a checksum; its arrival proves nothing about an
    endpoint that accepts checksums."""
    bucket = Bucket(sums=True)

    def meanwhile(talk: Talk) -> None:
        engine.runner.wire.memory.learn(place(peer).origin, TRAILERS)  # another one was accepted
        talk.send(reply(200, b"", 'ETag: "one"'))

    bucket.answers["put"] = [DENIED, meanwhile]
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url(source, SMALL), place(peer))
        assert outcome.receipt is not None and outcome.receipt.attempts == 2
        engine.migrate(url(source, SMALL), place(peer))
    sent = [
        b"x-amz-trailer" in request for request in bucket.requests if request.startswith(b"PUT")
    ]
    assert sent == [True, False, True]


def test_a_refused_precondition_leaves_the_checksum_alone(engine: Engine, source: Spawned) -> None:
    named = b"<Error><Code>NotImplemented</Code><Header>If-None-Match</Header></Error>"
    bucket = Bucket(refuses={b"If-None-Match": reply(501, named)}, sums=True)
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(url(source, SMALL), place(peer), if_exists="fail")
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    puts = [request for request in bucket.requests if request.startswith(b"PUT")]
    assert all(b"x-amz-trailer" in put for put in puts)


# -- B73: sizes


TOO_LARGE = {
    "no ranges": (60 << 30, b""),
    "ranges": (49 << 40, b'ETag: "v1"\r\nAccept-Ranges: bytes\r\n'),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_b73_an_object_too_large_for_s3_is_refused_at_once(engine: Engine, kind: str) -> None:
    """An object of 60 GiB of which parts of 5 MiB only can be read; one of 49 TiB in any number of
    parts."""
    size, fields = TOO_LARGE[kind]
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (size, fields)
    bucket, cloud = Bucket(), Cloud()
    with (
        Peer([source_script(cloud, fixed_answer(head), head)] * 4) as there,
        Peer(repeat_script(bucket)) as peer,
    ):
        with pytest.raises(Rejected) as caught:
            with_retries(engine).migrate(there.url(), place(peer))
    assert caught.value.side == "destination"
    assert not {"put", "part", "begin whole"} & set(bucket.asked)


@dataclass
class Copier:
    """A store that copies parts: the first `most` of them, and none that is requested later."""

    most: int
    asked: int = 0

    def destination(self, *_: object) -> Copier:
        return self

    def copy_part(self, upload: Upload, number: int, *_: object) -> Part:
        self.asked += 1
        if number > self.most:
            raise Unavailable("it is busy", side="destination")
        return Part(number, 5, '"tag"', checked=False)


@pytest.mark.parametrize("most", [0, 1])
def test_a_resumed_copy_is_abandoned_like_other_uploads(most: int) -> None:
    """After few refusals if it has accepted no part, and within the budget if it has."""
    with Peer([]) as peer:
        there = place(peer)
    copier = Copier(most)
    way = PartContext(
        stores=cast(StoreProvider, copier),
        found=ObjectInfo(Version(size=10), there),
        source=there,
        place=there,
        meter=Watchdog(IN_PARTS),
        limits=replace(IN_PARTS, parts_in_flight=1),
        backoff=Backoff(1.0),
        random=lambda: 0.01,
        sleep=lambda _: gevent.sleep(0),
        copying=True,
    )
    workers = PartWorkers(way, ranges_of(10, 5), resumed=True)
    with pytest.raises(Unavailable):
        workers.run(Upload(there, "id", checked=False), numbered_parts(iter((1, 2))))
    assert workers.taken == most
    assert most or copier.asked <= 2 * MAX_REREADS


def test_a_multipart_copy_counts_its_fruitless_resumes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a dead upload is resumed until the budget is spent, and by the next command too."""
    counts: list[int] = []

    class Dead:
        """A resumed upload that accepts no part; in the end the store permits no copies."""

        bytes = moved_bytes = under_way = 0
        discarded = "discarded"
        context = SimpleNamespace(copying=True)

        def __init__(self, *_: object, fruitless: int = 0, **__: object) -> None:
            counts.append(fruitless)
            self.fruitless = fruitless + 1

        def run(self) -> None:
            raise (Unavailable if len(counts) < 3 else Rejected)("it is dead", side="destination")

        def may_be_whole(self, _: object) -> bool:
            return False

    monkeypatch.setattr(server_copy, "MultipartUpload", Dead)
    monkeypatch.setattr(server_copy, "COPY_BYTES", 10)
    shelf = Shelf(objects={"old": b"1" * 20})
    with Peer(shelf) as peer:
        new = place(peer)
        old = new.with_target("/bucket/old")
        outcome = with_retries(engine).migrate(old, new)
    assert (outcome.state, counts) == (State.VERIFIED, [0, 1, 2])
    assert shelf.objects["a/b.bin"] == shelf.objects["old"]
