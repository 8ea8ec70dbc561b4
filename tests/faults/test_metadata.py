"""Metadata of an object is kept or noted at every store, in any length and alphabet."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from relay.engine.outcome import Outcome
from relay.errors import MetadataUnkept
from relay.location import Location, parse_location
from relay.receipt import Level
from relay.stores.local_locations import local_location
from relay.stores.metadata import encode_value, metadata_of_head, squeeze_blanks, unshown_notes
from relay.stores.s3.checksums import coding_fields
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.http1 import Head
from tests.conftest import Engine
from tests.faults.scripted_peers import Cloud, destination_script
from tests.faults.scripted_s3 import (
    IN_PARTS,
    SIZE,
    Bucket,
    place,
    refusal,
    repeat_script,
    reply,
    with_retries,
)
from tests.faults.test_webdav import Dav
from tests.scripted import Peer

LONG = "x" * 1200
JAPANESE = "attachment; filename*=UTF-8''" + "%E5%86%99%E7%9C%9F" * 30
RAW = "J\u00c3\u00b8rn"
"""The bytes of a name in UTF-8, as a field's value is held."""


@pytest.fixture
def engine_limits() -> Limits:
    return IN_PARTS


def bucket_with(*fields: str, size: int = 5) -> Bucket:
    """Return a bucket whose object has these fields."""
    bucket = Bucket(fields=("Accept-Ranges: bytes", *fields))
    bucket.whole = random.Random(1).randbytes(size)
    return bucket


def move(engine: Engine, old: Bucket, new: Bucket, **options: object) -> Outcome:
    with Peer(repeat_script(old)) as source, Peer(repeat_script(new)) as destination:
        return with_retries(engine).migrate(place(source), place(destination), **options)


def notes(outcome: Outcome) -> str:
    assert outcome.receipt is not None
    return "; ".join(outcome.receipt.notes)


def uploads(bucket: Bucket) -> list[str]:
    """Return the heads of the requests that describe the object."""
    wanted = ("put", "begin", "begin whole")
    pairs = zip(bucket.asked, bucket.requests, strict=True)
    return [request.decode("latin-1") for operation, request in pairs if operation in wanted]


@pytest.mark.parametrize("size", [5, SIZE], ids=["one request", "in parts"])
@pytest.mark.parametrize(
    "field",
    [
        f"x-amz-meta-x-amz-key-v2: {LONG}",
        f"x-amz-meta-author: {RAW}",
        "x-amz-meta-author: =?UTF-8?B?SsO4cm4=?=",
        "x-amz-meta-percent: J%C3%B8rn",
        "x-amz-meta-nothing: ",
        "x-amz-meta-two: a  b",
        "x-amz-meta-mtime: 2020-05-17T08:00:00Z",
        "x-amz-meta-mtime: 1589702400000",
        "x-amz-meta-mtime: -86400.5",
        f"Content-Disposition: {JAPANESE}",
        f'Content-Disposition: attachment; filename="{RAW}"',
        "Expires: Thu, 01 Jan 2037 00:00:00 GMT",
        "x-amz-website-redirect-location: /there",
    ],
)
def test_metadata_a_bucket_can_keep_moves_with_the_object(
    engine: Engine, field: str, size: int
) -> None:
    new = Bucket(sums=True)
    # UTF-8 of a name in the test's own text is on the wire in the bucket's answer
    old = bucket_with(field.encode("latin-1").decode("utf-8"), size=size)
    outcome = move(engine, old, new, metadata="strict")
    assert notes(outcome) == ""
    name, _, value = field.partition(": ")
    [sent] = uploads(new)
    line = next(line for line in sent.split("\r\n") if line.lower().startswith(f"{name.lower()}:"))
    assert line.partition(":")[2].strip() == value.strip()


def test_a_repeated_field_is_joined(engine: Engine) -> None:
    new = Bucket()
    move(engine, bucket_with("x-amz-meta-a: 1", "x-amz-meta-a: 2"), new)
    assert "x-amz-meta-a: 1, 2\r\n" in uploads(new)[0]


def test_metadata_over_the_limit_is_left_out_with_a_note(engine: Engine) -> None:
    fields = [f"x-amz-meta-{letter}: {LONG}" for letter in "abc"]
    new = Bucket({"put": [refusal(400, "MetadataTooLarge")]})
    outcome = move(engine, bucket_with(*fields), new)
    assert "x-amz-meta-b, x-amz-meta-c" in notes(outcome)
    first, second = uploads(new)
    assert all(letter in first for letter in fields)
    assert fields[0] in second
    assert fields[1] not in second


def test_a_store_that_takes_ascii_alone_gets_rfc_2047(engine: Engine) -> None:
    new = Bucket({"put": [refusal(403, "SignatureDoesNotMatch")]})
    outcome = move(engine, bucket_with("x-amz-meta-author: Jørn"), new)
    assert notes(outcome) == ""
    assert "x-amz-meta-author: =?UTF-8?B?SsO4cm4=?=\r\n" in uploads(new)[-1]


TAGGED = ("x-amz-tagging-count: 3",)


def test_unreadable_tags_are_noted(engine: Engine) -> None:
    old = bucket_with(*TAGGED)
    old.answers["tags"] = [refusal(403, "AccessDenied")] * 9
    outcome = move(engine, old, Bucket())
    assert "the object's tags can't be read at the source" in notes(outcome)
    with pytest.raises(MetadataUnkept):
        move(engine, old, new := Bucket(), metadata="strict")
    assert uploads(new) == []


@pytest.mark.parametrize("code", ["NotImplemented", "AccessDenied", "InvalidTag"])
def test_strict_tags_are_never_left_out(engine: Engine, code: str) -> None:
    text = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    for metadata, kept in (("keep", True), ("strict", False)):
        old, new = bucket_with(*TAGGED), Bucket(refuses={b"x-amz-tagging": refusal(400, code)})
        old.answers["tags"] = [reply(200, text)] * 9
        if kept:
            assert "tags" in notes(move(engine, old, new, metadata=metadata))
        else:
            with pytest.raises(Exception, match="tags|answered 400"):
                move(engine, old, new, metadata=metadata)
            assert new.whole is None


REDIRECTED = b"x-amz-website-redirect-location"


@pytest.mark.parametrize("size", [5, SIZE], ids=["one request", "in parts"])
@pytest.mark.parametrize("text", [REDIRECTED.decode(), ""], ids=["named", "unnamed"])
def test_a_redirect_that_no_bucket_keeps_is_noted(engine: Engine, text: str, size: int) -> None:
    """R2 answers 501, and names the field in its message; others name none."""
    message = f"Header '{text}' with value '/there' not implemented" if text else "No"
    document = f"<Error><Code>NotImplemented</Code><Message>{message}</Message></Error>".encode()
    new = Bucket(refuses={REDIRECTED: reply(501, document)}, sums=True)
    old = bucket_with(f"{REDIRECTED.decode()}: /there", size=size)
    with Peer(repeat_script(old)) as source, Peer(repeat_script(new)) as destination:
        patient = with_retries(engine)
        found = patient.migrate(place(source), place(destination))
        assert f"does not keep {REDIRECTED.decode()}" in notes(found)
        assert found.receipt is not None and found.receipt.level is not Level.SIZE
        tries = len(uploads(new))
        # A multipart upload is first tried without the checksum of the whole object.
        assert tries == (2 if size < SIZE else 3)
        assert "checksum" in "".join(uploads(new)[-1:]).lower()
        patient.migrate(place(source), place(destination))
        assert len(uploads(new)) == tries + 1
        with pytest.raises(MetadataUnkept):
            patient.migrate(place(source), place(destination), metadata="strict")
        assert len(uploads(new)) == tries + 1


def test_a_redirect_that_must_be_kept_fails_its_object(engine: Engine) -> None:
    document = b"<Error><Code>NotImplemented</Code><Message>%s</Message></Error>" % REDIRECTED
    new = Bucket(refuses={REDIRECTED: reply(501, document)})
    with pytest.raises(MetadataUnkept):
        move(engine, bucket_with(f"{REDIRECTED.decode()}: /there"), new, metadata="strict")
    assert new.whole is None


OWN = ("x-amz-meta-key: secret-value", "Content-Encoding: gzip", "Cache-Control: no-store")


@pytest.mark.parametrize("kind", ["local", "http", "webdav"])
def test_metadata_that_a_store_cannot_keep_is_noted(
    engine: Engine, tmp_path: Path, kind: str
) -> None:
    dav, cloud = Dav(), Cloud()
    with (
        Peer(repeat_script(bucket_with(*OWN))) as old,
        Peer([dav] * 40) as davs,
        Peer([destination_script(cloud)] * 40) as plain,
    ):
        places: dict[str, Location | str] = {
            "local": local_location(tmp_path / "a", destination=True),
            "http": plain.url("/a"),
            "webdav": webdav_location(davs.url("/a"), destination=True),
        }
        outcome = engine.migrate(place(old), places[kind])
        assert "x-amz-meta-key" in notes(outcome)
        assert "secret-value" not in notes(outcome)
        with pytest.raises(MetadataUnkept) as caught:
            engine.migrate(place(old), places[kind], metadata="strict")
        assert caught.value.side == "destination"


class Answering(Dav):
    """Adds to each object's answer what Nextcloud and ownCloud add."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        more = b"200 X\r\nCache-Control: no-store\r\nContent-Disposition: attachment\r\n"
        return super()._done(method, path, request, body).replace(b"200 X\r\n", more)


@pytest.mark.parametrize("kind", ["local", "s3", "webdav"])
def test_fields_of_the_answers_of_webdav_do_not_describe_objects(
    engine: Engine, tmp_path: Path, kind: str
) -> None:
    """A bucket would forbid caches and browsers to show the objects, and nothing else would take
    one with all its metadata."""
    dav, new = Answering(objects={b"/from": b"bytes"}), Bucket(sums=True)
    with Peer([dav] * 40) as davs, Peer(repeat_script(new)) as bucket:
        places = {
            "local": local_location(tmp_path / "a", destination=True),
            "s3": place(bucket),
            "webdav": webdav_location(davs.url("/a"), destination=True),
        }
        outcome = engine.migrate(
            webdav_location(davs.url("/from")), places[kind], metadata="strict", server_copy=False
        )
    assert notes(outcome) == ""
    assert not any("no-store" in head or "attachment" in head for head in uploads(new))


def test_the_users_own_fields_of_a_signed_url_go_to_a_bucket() -> None:
    fields = (("x-goog-meta-a", "1"), ("X-Ms-Meta-b", "2"), ("x-amz-meta-c", "3"))
    assert metadata_of_head(Head(200, "OK", "1.1", fields)) == (
        ("x-amz-meta-a", "1"),
        ("x-amz-meta-b", "2"),
        ("x-amz-meta-c", "3"),
    )


def test_fields_that_become_one_keep_both_values() -> None:
    """Two fields of a name would be signed as one."""
    fields = (("x-amz-meta-a", "1"), ("x-goog-meta-A", "2"), ("x-amz-meta-a", "3"))
    head = Head(200, "OK", "1.1", fields)
    assert metadata_of_head(head) == (("x-amz-meta-a", "1, 2, 3"),)


@pytest.mark.parametrize(
    ("coding", "kept"),
    [
        ("aws-chunked", None),
        ("aws-chunked,gzip", "gzip"),
        ("gzip, AWS-Chunked", "gzip"),
        ("gzip, br", "gzip, br"),
    ],
)
def test_the_framing_of_an_upload_is_not_its_coding(coding: str, kept: str | None) -> None:
    head = Head(200, "OK", "1.1", (("Content-Encoding", coding),))
    assert dict(metadata_of_head(head)).get("Content-Encoding") == kept


def test_encoded_words_are_short_and_decode_to_the_original() -> None:
    from email.header import decode_header, make_header  # noqa: PLC0415

    text = "写真の長い名前" * 20
    found = encode_value(text.encode().decode("latin-1"))
    assert found.isascii()
    assert all(len(word) <= 75 for word in found.split(" "))
    assert str(make_header(decode_header(found))) == text
    assert encode_value("plain") == "plain"
    assert encode_value("\xf8") == "=?UTF-8?B?w7g=?="


def test_bytes_that_python_strips_are_signed_unchanged() -> None:
    value = "à…".encode().decode("latin-1")  # 0xa0 and 0x85 are among its bytes
    assert squeeze_blanks(f"  {value}  b\t") == f"{value} b"
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1")
    signer.fields("PUT", "host", "/a", (("x-amz-meta-a", value),))


CODED = (
    "Content-Encoding: gzip",
    "Cache-Control: no-store",
    'Content-Disposition: inline; filename="a"',
)


@pytest.mark.parametrize("kind", ["http", "webdav"])
def test_an_accepted_but_hidden_member_is_reported(engine: Engine, kind: str) -> None:
    """Only the destination shows it; an unpublished object never exists at its name if all metadata
    is required."""
    dav, cloud = Dav(), Cloud()
    with (
        Peer(repeat_script(bucket_with(*CODED))) as old,
        Peer([dav] * 40) as davs,
        Peer([destination_script(cloud)] * 40) as plain,
    ):
        there = (
            plain.url("/a") if kind == "http" else webdav_location(davs.url("/a"), destination=True)
        )
        outcome = engine.migrate(place(old), there)
        for name in ("Content-Encoding", "Cache-Control", "Content-Disposition"):
            assert notes(outcome).count(name) == 1
        dav.objects.clear()
        with pytest.raises(MetadataUnkept):
            engine.migrate(place(old), there, metadata="strict")
        assert dav.objects == {}


@pytest.mark.parametrize("value", ["a  b", "J\u00c3\u00b8rn"])
def test_metadata_in_another_form_is_not_lost(value: str) -> None:
    fields = (("x-amz-meta-a", value), ("mtime", "1"), ("Content-Type", "text/plain"))
    shown = (("X-Amz-Meta-A", "a b" if value.isascii() else "=?UTF-8?B?SsO4cm4=?="),)
    location = local_location(Path("/a"), destination=True)
    assert unshown_notes(fields, shown, location, ()) == ()
    assert unshown_notes(fields, (), location, ("no x-amz-meta-a",)) == ()
    assert len(unshown_notes(fields, (), location, ())) == 1


@pytest.mark.parametrize(
    ("host", "metadata", "coding"),
    [
        ("b.s3.eu-west-1.amazonaws.com", (), "aws-chunked"),
        ("b.s3.eu-west-1.amazonaws.com", (("Content-Encoding", "gzip"),), "aws-chunked,gzip"),
        ("minio.example.com", (("Content-Encoding", "gzip"),), "gzip"),
        ("minio.example.com", (), None),
    ],
)
def test_only_aws_gets_the_framing_in_content_encoding(
    host: str, metadata: tuple[tuple[str, str], ...], coding: str | None
) -> None:
    fields = coding_fields(parse_location(f"https://{host}/k"), metadata, 5)
    assert dict(fields).get("Content-Encoding") == coding
    assert ("x-amz-decoded-content-length", "5") in fields
