"""Servers that speak S3 in their own way: a feature that they refuse is detected once, and left out
or replaced."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from relay.engine.doctor import Answer, Finding, probe_writable
from relay.engine.multipart.part_sizes import split_into_ranges
from relay.engine.scratch import ScratchFolder, body_from_bytes
from relay.errors import (
    IntegrityMismatch,
    PermissionDenied,
    RangeIgnored,
    Rejected,
    RelayError,
    Unauthenticated,
    UploadGone,
)
from relay.location import Origin
from relay.receipt import Level, State, Version
from relay.stores.http_fields import strong_tag
from relay.stores.interfaces import ByteRange, ObjectInfo
from relay.stores.local_locations import local_location
from relay.stores.s3 import store, upload_limits
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.quirks import WRONG_WHOLE, EndpointQuirks
from relay.stores.s3.sigv4 import MOST_REGIONS, AwsCredentials, Signer
from relay.stores.s3.upload_refusals import UploadRefusal
from relay.transfer_limits import Limits
from relay.wire.capabilities import CapabilityCache
from relay.wire.watchdog import Watchdog
from simulators.content import Content
from simulators.spawn import Spawned
from tests.conftest import QUICK, Engine
from tests.faults.scripted_s3 import (
    IN_PARTS,
    SIZE,
    Bucket,
    crc64nvme,
    document,
    place,
    refusal,
    repeat_script,
    reply,
    with_retries,
)
from tests.scripted import Peer

ONE, TWO = "/objects/a?size=1000", f"/objects/big?size={SIZE}"


@pytest.fixture
def engine_limits() -> Limits:
    return IN_PARTS


def content_of(contents: Content, path: str) -> bytes:
    """Return the source's location for one of the two."""
    name, _, size = path.partition("?size=")
    return contents.read(name, 0, int(size))


# -- a refused checksum behind the bytes


@pytest.mark.parametrize("path", [ONE, TWO], ids=["one request", "in parts"])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "Unauthorized"),
        (400, "AuthorizationHeaderMalformed"),
        (400, "BadRequest"),
        (400, "SomethingElse"),
        (403, "Forbidden"),
        (405, "MethodNotAllowed"),
        (411, "MissingContentLength"),
        (415, "UnsupportedMediaType"),
        (501, "NotImplemented"),
    ],
)
def test_an_upload_with_a_refused_checksum_goes_without(
    engine: Engine, source: Spawned, contents: Content, status: int, code: str, path: str
) -> None:
    bucket = Bucket(refuses={b"x-amz-trailer": refusal(status, code)}, old=True)
    with Peer(repeat_script(bucket)) as peer:
        for _ in range(2):
            outcome = with_retries(engine).migrate(source.url(path), place(peer))
            assert outcome.state is State.VERIFIED
    assert bucket.whole == content_of(contents, path)
    tried = [b"x-amz-trailer" in one for one in bucket.requests if one.startswith(b"PUT")]
    assert tried[0]
    assert not any(tried[2:])


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(401, "Unauthorized", Unauthenticated), (400, "SomethingElse", Rejected)],
)
def test_a_lasting_refusal_is_reported_and_not_remembered(
    engine: Engine, source: Spawned, status: int, code: str, error: type[Exception]
) -> None:
    bucket = Bucket({"put": [refusal(status, code)] * 2})
    with Peer(repeat_script(bucket)) as peer:
        with pytest.raises(error, match=str(status)):
            with_retries(engine).migrate(source.url(ONE), place(peer))
        assert bucket.asked.count("put") == 2
        engine.migrate(source.url(ONE), place(peer))
    assert b"x-amz-trailer" in next(
        one for one in reversed(bucket.requests) if one.startswith(b"PUT")
    )


def test_an_endpoint_that_took_a_checksum_is_believed(engine: Engine, source: Spawned) -> None:
    bucket = Bucket(sums=True)
    with Peer(repeat_script(bucket)) as peer:
        engine.migrate(source.url(ONE), place(peer))
        bucket.asked.clear()
        bucket.answers["put"] = [refusal(401, "Unauthorized")] * 9
        with pytest.raises(Unauthenticated):
            with_retries(engine).migrate(source.url(ONE), place(peer))
    assert bucket.asked.count("put") == 1


# -- a read that may not ask for the checksum


def test_an_endpoint_without_a_checksum_mode_is_read_without_it(engine: Engine) -> None:
    """Backblaze B2 refuses a HEAD and a GET that ask for the checksum, and so each object failed,
    on both sides."""

    class Strict(Bucket):
        def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
            if b"\r\nx-amz-checksum-mode: " not in request:
                return super()._answer(operation, request, body)
            return refusal(400, "InvalidArgument") if operation == "get" else reply(400)

    there, here = Strict(whole=b"as it is"), Strict(old=True)
    refused = []
    with Peer(repeat_script(there)) as source, Peer(repeat_script(here)) as peer:
        for _ in range(2):
            outcome = with_retries(engine).migrate(place(source), place(peer), verify="read_back")
            assert outcome.state is State.VERIFIED
            sent = (*there.requests, *here.requests)
            refused.append(sum(b"\r\nx-amz-checksum-mode: " in one for one in sent))
    assert here.whole == there.whole
    assert refused[0] == refused[1] <= 4


# -- a part that is stored with its coding


def test_parts_stored_with_their_coding_are_resent_plain(
    engine: Engine, source: Spawned, contents: Content
) -> None:
    class Blind(Bucket):
        def _decode_upload(self, request: bytes, body: bytes) -> bytes:
            return body if b"partNumber=" in request else super()._decode_upload(request, body)

        def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
            if operation == "parts" and self.parts:
                rows = b"".join(
                    document(
                        "Part",
                        ("PartNumber", str(n)),
                        ("Size", str(len(data))),
                        ("ETag", f'"part-{n}"'),
                    )[39:]
                    for n, data in self.parts.items()
                )
                return reply(200, b"<ListPartsResult>" + rows + b"</ListPartsResult>")
            return super()._answer(operation, request, body)

    bucket = Blind()
    with Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(source.url(TWO), place(peer))
        assert outcome.state is State.VERIFIED
        assert bucket.whole == content_of(contents, TWO)
        assert bucket.asked.count("parts") == 1
        bucket.requests.clear()
        engine.migrate(source.url(TWO), place(peer))
    assert not any(b"x-amz-trailer" in one for one in bucket.requests if b"partNumber=" in one)


def test_an_object_stored_with_its_coding_is_named_if_it_stays(
    engine: Engine, source: Spawned, contents: Content
) -> None:
    bucket = Bucket(blind=True, answers={"delete": [refusal(405, "MethodNotAllowed")] * 9})
    with Peer(repeat_script(bucket)) as peer:
        with pytest.raises(IntegrityMismatch) as caught:
            engine.migrate(source.url(ONE), place(peer))
        assert "may remain at s3://bucket/a/b.bin" in caught.value.hint
        assert engine.migrate(source.url(ONE), place(peer)).state is State.VERIFIED
    assert bucket.whole == content_of(contents, ONE)


@pytest.mark.parametrize("path", [ONE, TWO], ids=["one request", "in parts"])
def test_a_wrong_length_is_noticed_by_size_alone(
    engine: Engine, source: Spawned, path: str
) -> None:
    bucket = Bucket(mangle=lambda data: data + b"more")
    with Peer(repeat_script(bucket)) as peer, pytest.raises(IntegrityMismatch):
        engine.migrate(source.url(path), place(peer), verify="size")


# -- a digest of the whole that is computed otherwise


def test_a_whole_refused_with_equal_parts_is_read_back(
    engine: Engine, source: Spawned, contents: Content
) -> None:
    wrong = refusal(400, "BadDigest")
    bucket = Bucket(refuses={b"x-amz-checksum-crc64nvme": wrong}, sums=True)
    with Peer(repeat_script(bucket)) as peer:
        for completes in (3, 1):
            bucket.asked.clear()
            outcome = engine.migrate(source.url(TWO), place(peer))
            assert outcome.receipt is not None
            assert outcome.receipt.level is Level.READ_BACK
            assert WRONG_WHOLE in outcome.receipt.notes
            assert bucket.asked.count("complete") == completes
            assert bucket.asked.count("part") == 2
    assert bucket.whole == content_of(contents, TWO)


def test_a_whole_refused_for_uncompared_parts_stays_refused(
    engine: Engine, source: Spawned
) -> None:
    bucket = Bucket(refuses={b"x-amz-checksum-crc64nvme": refusal(400, "BadDigest")})
    with Peer(repeat_script(bucket)) as peer, pytest.raises(IntegrityMismatch):
        engine.migrate(source.url(TWO), place(peer))
    assert bucket.asked.count("complete") == 1


# -- regions


def keys(region: str = "us-east-1") -> S3Config:
    return S3Config(Signer(lambda: AwsCredentials("KEY", "SECRET"), region))


def region_of(request: bytes) -> str:
    found = re.search(rb"Credential=KEY/[0-9]+/([^/]+)/", request)
    return found[1].decode() if found else ""


def test_each_bucket_of_one_remote_has_a_region_of_its_own() -> None:
    config = keys()
    one, two = (s3_location(config, bucket, "a").account.signer for bucket in ("eu", "us"))  # type: ignore[union-attr]
    assert one.learn_region("eu-west-1", "us-east-1")
    assert two.region == "us-east-1"
    assert s3_location(config, "eu", "b").account.signer is one  # type: ignore[union-attr]
    assert one.same_key(two)


def test_a_request_signed_for_an_old_region_is_repeated() -> None:
    signer = keys().signer_of("eu")
    assert signer.learn_region("eu-west-1", "us-east-1")
    assert signer.learn_region("eu-west-1", "us-east-1")  # another concurrent request
    assert not signer.learn_region("eu-west-1", "eu-west-1")


def test_a_bucket_that_always_redirects_fails(engine: Engine, source: Spawned) -> None:
    class Turning(Bucket):
        def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
            there = "eu-west-1" if region_of(request) != "eu-west-1" else "eu-west-2"
            code = document("Error", ("Code", "PermanentRedirect"))
            return reply(301, b"" if operation == "head" else code, f"x-amz-bucket-region: {there}")

    bucket = Turning()
    with Peer(repeat_script(bucket)) as peer, pytest.raises(Rejected):
        with_retries(engine).migrate(source.url(ONE), place(peer))
    assert len(bucket.asked) <= 3 * MOST_REGIONS


def test_a_region_in_an_error_text_refuses_no_checksum(engine: Engine, source: Spawned) -> None:
    text = document("Error", ("Code", "AuthorizationHeaderMalformed"), ("Region", "eu-south-2"))
    bucket = Bucket({"put": [reply(400, text)]})
    with Peer(repeat_script(bucket)) as peer:
        with_retries(engine).migrate(source.url(ONE), place(peer))
    puts = [one for one in bucket.requests if one.startswith(b"PUT")]
    assert [region_of(one) for one in puts] == ["us-east-1", "eu-south-2"]
    assert all(b"x-amz-trailer" in one for one in puts)


# -- entity tags


@pytest.mark.parametrize("length", [100, 129, 600, 1022])
def test_a_long_entity_tag_is_sent_back_whole(engine: Engine, length: int) -> None:
    bucket = Bucket(fields=("Accept-Ranges: bytes",))
    bucket.whole, bucket.tag = b"b" * SIZE, "t" * length
    with Peer(repeat_script(bucket)) as peer:
        store = engine.runner.stores.source(place(peer), Watchdog(QUICK))
        found = store.head(place(peer))
        opened = store.get(place(peer), found.version)  # type: ignore[union-attr]
        assert opened.body is not None
        opened.body.close()
    field = b'\r\nIf-Match: "' + b"t" * length + b'"\r\n'
    assert field in bucket.requests[-1]


@pytest.mark.parametrize(
    "text",
    [
        *('"' + "t" * 1023 + '"', '"a\tb"', "", None, '"a\x7fb"', '"\u6f22"', '"\ud800"'),
        *('""', 'W/""', ' "" '),
    ],
)
def test_an_unrepeatable_entity_tag_is_ignored(text: str | None) -> None:
    assert strong_tag(text) is None


def test_an_empty_entity_tag_pins_no_version(engine: Engine) -> None:
    """A server without hashes shows it for every object: a range may be of another one."""
    bucket = Bucket(fields=("Accept-Ranges: bytes",))
    bucket.whole, bucket.tag = b"b" * SIZE, ""
    with Peer(repeat_script(bucket)) as peer:
        store = engine.runner.stores.source(place(peer), Watchdog(QUICK))
        found = store.head(place(peer))
        assert isinstance(found, ObjectInfo)
        assert found.version.etag is None
        pinned = Version(SIZE, '"x"')
        with pytest.raises(RangeIgnored):
            store.get(place(peer), pinned, ByteRange(0, 0))
        store.get(place(peer), found.version, ByteRange(0, 0)).body.close()  # type: ignore[union-attr]
    assert b"If-Match" not in bucket.requests[-1]


@pytest.mark.parametrize("tag", ["*", '"a", "b"', '"a","b"', 'W/"a"', '""', 'W/""', "", None])
def test_a_tag_of_several_versions_pins_none(tag: str | None) -> None:
    assert Version(etag=tag).strong_etag is None


@pytest.mark.parametrize("tag", ['"a"', '"a, b"', "a-2", '"*"', '"\u00e4"'])
def test_a_tag_of_one_version_pins_it(tag: str) -> None:
    assert Version(etag=tag).strong_etag == tag


# -- the doctor's report


def findings(engine: Engine, bucket: Bucket) -> dict[str, Finding]:
    with Peer(repeat_script(bucket)) as peer:
        folder = place(peer).with_target("/bucket/")
        patient = ScratchFolder(engine.runner.stores, folder, lambda: Watchdog(QUICK))
        return {finding.what: finding for finding in probe_writable(patient)}


@pytest.mark.parametrize(
    ("status", "code"), [(400, "XAmzContentSHA256Mismatch"), (401, "Unauthorized")]
)
def test_the_doctor_takes_the_fallbacks_of_a_migration(
    engine: Engine, status: int, code: str
) -> None:
    bucket = Bucket(refuses={b"x-amz-trailer": refusal(status, code)}, old=True)
    assert findings(engine, bucket)["write and read"].answer is Answer.YES


class Comparing(Bucket):
    """A bucket that compares a checksum among the fields, or only repeats it."""

    echoes = False
    checksum = ""

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        given = re.search(rb"\r\nx-amz-checksum-crc64nvme: (\S+)\r\n", request)
        if operation == "put" and given is not None:
            self.checksum = given[1].decode()
            if not self.echoes and self.checksum != crc64nvme(body):
                return refusal(400, "BadDigest")
            self.fields = (f"x-amz-checksum-crc64nvme: {self.checksum}",)
        return super()._answer(operation, request, body)


@pytest.mark.parametrize(("echoes", "answer"), [(True, Answer.NO), (False, Answer.YES)])
def test_the_doctor_finds_stores_that_echo_a_checksum(
    engine: Engine, echoes: bool, answer: Answer
) -> None:
    bucket = Comparing()
    bucket.echoes = echoes
    found = findings(engine, bucket)["compares"]
    assert found.answer is answer
    assert ("echoed" in found.means) is echoes


# -- objects that cannot be read in ranges, and are larger than one request


def test_a_large_object_without_ranges_is_sent_in_parts(
    engine: Engine, source: Spawned, contents: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(upload_limits.PARTS, largest=1000)
    monkeypatch.setattr(store, "limits_of", lambda host: small)
    engine.runner.limits = engine.runner.wire.limits = replace(IN_PARTS, parted_bytes=1 << 40)
    bucket = Bucket(sums=True)
    with Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(source.url(TWO), place(peer))
    assert outcome.state is State.VERIFIED
    assert bucket.asked.count("part") == 2
    assert bucket.whole == content_of(contents, TWO)


def test_the_largest_object_is_the_current_limit() -> None:
    assert upload_limits.PARTS.object_bytes == 10_000 * (5 << 30)


@pytest.mark.parametrize(
    ("host", "most", "largest"),
    [
        ("s3.fr-par.scw.cloud", 1000, 5 * 10**9),
        ("bucket.of.s3.nl-ams.scw.cloud", 1000, 5 * 10**9),
        ("123.eu.r2.cloudflarestorage.com", 10_000, (5 << 30) - (5 << 20)),
        ("s3.eu-central-1.amazonaws.com", 10_000, 5 << 30),
        ("s3.fr-par.scw.cloud.example.com", 10_000, 5 << 30),
    ],
)
def test_parts_are_planned_by_the_limits_of_the_endpoint(
    engine: Engine, host: str, most: int, largest: int
) -> None:
    config = S3Config(Signer(lambda: None, "us-east-1"), f"https://{host}")
    where = s3_location(config, "bucket", "key")
    bucket = store.S3Store(engine.runner.wire, "destination", Watchdog(QUICK))
    found = bucket.part_limits(where)
    assert found is not None
    assert (found.most, found.largest) == (most, largest)
    spans = split_into_ranges(100 * 10**9, 16 << 20, found)
    assert len(spans) <= most and all(span.length == spans[0].length for span in spans[:-1])


@pytest.mark.parametrize(
    ("status", "code", "value"),
    [(403, "SignatureDoesNotMatch", "\xe9"), (400, "MetadataTooLarge", "x" * 3000)],
)
def test_two_concurrent_refused_uploads_are_both_resent(status: int, code: str, value: str) -> None:
    """The result of one was unknown when the other was sent; a refusal of its repetition is another
    one."""
    memory, origin = CapabilityCache(), Origin("https", "host.example", 443)
    one, other = (
        EndpointQuirks(memory, origin, "bucket", path) for path in ("/bucket/one", "/bucket/other")
    )
    refused = UploadRefusal(status=status, code=code, fields=(("x-amz-meta-a", value),))
    left_out = one.leave_out(refused)
    assert left_out is not None
    assert other.leave_out(refused) == left_out
    assert other.leave_out(replace(refused, fields=(("x-amz-meta-a", "x"),))) is None


# -- answers to HEAD


def test_metadata_that_fits_no_field_is_noted(engine: Engine, tmp_path: Path) -> None:
    bucket = Bucket(fields=("x-amz-missing-meta: 2",), whole=b"bytes")
    with Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(place(peer), local_location(tmp_path / "a", destination=True))
    assert outcome.receipt is not None
    assert "the source does not return 2 fields of the object's metadata" in outcome.receipt.notes


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "InvalidAccessKeyId", Unauthenticated),
        (400, "ExpiredToken", Unauthenticated),
        (403, "AccessDenied", PermissionDenied),
    ],
)
def test_the_reason_of_a_refused_head_is_asked_for(
    engine: Engine, tmp_path: Path, status: int, code: str, error: type[RelayError]
) -> None:
    bucket = Bucket({"head": [reply(status)] * 3, "get": [refusal(status, code)] * 3})
    there = local_location(tmp_path / "a", destination=True)
    with Peer(repeat_script(bucket)) as peer, pytest.raises(error, match=code):
        engine.migrate(place(peer), there)
    assert bucket.asked == ["head", "get"]


def test_a_wrong_clock_is_corrected_after_a_bare_head(engine: Engine, tmp_path: Path) -> None:
    wrong = Signer(
        lambda: AwsCredentials("KEY", "SECRET"),
        "us-east-1",
        clock=lambda: datetime(2020, 1, 1, tzinfo=UTC),
    )
    now = f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}"
    bucket = Bucket({"head": [reply(403)], "get": [refusal(403, "RequestTimeTooSkewed", now)]})
    bucket.whole = b"bytes"
    with Peer(repeat_script(bucket)) as peer:
        with_retries(engine).migrate(
            place(peer, wrong), local_location(tmp_path / "a", destination=True)
        )
    assert (tmp_path / "a").read_bytes() == b"bytes"


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_passing_refusal_of_head_fails_nothing(
    engine: Engine, tmp_path: Path, side: str, status: int
) -> None:
    """As the first request by a clock that is corrected meanwhile."""
    local, bucket = tmp_path / "a", Bucket({"head": [reply(status)]})
    bucket.whole = b"bytes"
    local.write_bytes(b"bytes")
    with Peer(repeat_script(bucket)) as peer:
        if side == "source":
            outcome = with_retries(engine).migrate(
                place(peer), local_location(local, destination=True), if_exists="overwrite"
            )
        else:
            outcome = with_retries(engine).migrate(
                local_location(local, destination=False), place(peer), if_exists="skip"
            )
    assert outcome.state == (State.VERIFIED if side == "source" else State.SKIPPED)
    assert bucket.asked[:3] == ["head", "get", "head"]
    assert "put" not in bucket.asked


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_lasting_refusal_of_head_fails_at_once(
    engine: Engine, tmp_path: Path, status: int
) -> None:
    bucket = Bucket({"head": [reply(status)] * 9})
    bucket.whole = b"bytes"
    with Peer(repeat_script(bucket)) as peer, pytest.raises(RelayError) as caught:
        with_retries(engine).migrate(place(peer), local_location(tmp_path / "a", destination=True))
    assert not caught.value.retryable
    assert bucket.asked == ["head", "get", "head"]


@pytest.mark.parametrize(("most", "planned"), [(1000, 1000), (10_000, 10_000)])
def test_an_endpoint_that_refuses_a_part_number_gets_fewer_parts(
    engine: Engine, most: int, planned: int
) -> None:
    """OpenStack Swift allows 1,000 parts by default."""
    text = f"Part number must be an integer between 1 and {most}, inclusive"
    error = document("Error", ("Code", "InvalidArgument"), ("Message", text))
    bucket = Bucket(sums=True, answers={"part": [reply(400, error)]})
    with Peer(repeat_script(bucket)) as peer:
        where = place(peer)
        s3 = store.S3Store(engine.runner.wire, "destination", Watchdog(QUICK))
        upload = s3.begin(where)
        with body_from_bytes(b"x", Watchdog(QUICK)) as body, pytest.raises(RelayError) as caught:
            s3.put_part(upload, 1001, body)
    assert isinstance(caught.value, UploadGone) is (most == 1000)
    limits_now = s3.part_limits(where)
    assert limits_now is not None and limits_now.most == planned
