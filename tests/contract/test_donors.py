"""Copies of an object of equal content: only of the version that was verified, with the metadata of
the object itself; anything else is moved."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

import pytest

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.outcome import Outcome
from relay.engine.transfer.donor import Donor, EqualContent
from relay.engine.transfer.server_copy import ServerCopier
from relay.engine.worker.moved_contents import MovedContents, MovedObject, Turn
from relay.errors import InvalidType
from relay.location import Location
from relay.receipt import Level, Receipt, State, Version
from relay.stores.interfaces import ObjectInfo
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import s3_location
from tests.conftest import Engine
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer
from tests.seaweed import Seaweed

DATA, OTHER = os.urandom(50_000), os.urandom(50_000)


def put(engine: Engine, place: Location, data: bytes, kind: str, more: str = "") -> Receipt:
    head = "HTTP/1.1 200 OK\r\n" + more
    head += f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    with Peer(source_script(Cloud(), fixed_answer(head.encode(), data))) as peer:
        receipt = engine.migrate(peer.url(), place).receipt
    assert receipt is not None
    return receipt


def content_of(data: bytes) -> EqualContent:
    return EqualContent(len(data), "etag", hashlib.md5(data, usedforsecurity=False).digest())


def move(engine: Engine, source: Location, place: Location, donor: Donor) -> Outcome:
    transfer = engine.runner.transfer(engine.plan(source, place, server_copy=False))
    transfer.known = replace(transfer.known, donor=donor)
    return engine.runner.run(transfer)


@pytest.mark.parametrize("case", ["same", "stale", "gone", "other content", "changed", "foreign"])
def test_only_the_verified_version_is_copied(engine: Engine, seaweed: Seaweed, case: str) -> None:
    def at(name: str) -> Location:
        return s3_location(seaweed.config, seaweed.bucket, f"{case}/{name}")

    client: Any = seaweed.client()
    # A server may keep the donor's fields, as rclone serve s3 does.
    secret = "x-amz-meta-secret: of-donor\r\n" if case == "foreign" else ""
    receipt = put(engine, at("donor"), DATA, "image/x-donor", secret)
    data = OTHER if case == "other content" else DATA
    put(engine, at("source"), data, "image/x-own")
    if case == "changed":  # behind relay's back
        put(engine, at("donor"), OTHER, "image/x-donor")
    if case == "gone":
        client.delete_object(Bucket=seaweed.bucket, Key=f"{case}/donor")
    version = receipt.destination
    donor = Donor(
        name="donor",
        place=at("donor"),
        content=content_of(DATA),
        version=replace(version, etag='"another"', id=None) if case == "stale" else version,
        digests=receipt.digests,
    )
    outcome = move(engine, at("source"), at("new"), donor)
    assert outcome.state is State.VERIFIED and outcome.receipt is not None
    is_copied = any("copied from 'donor'" in note for note in outcome.receipt.notes)
    assert is_copied is (case == "same")
    assert outcome.receipt.level is Level.WHOLE_DIGEST
    found = client.get_object(Bucket=seaweed.bucket, Key=f"{case}/new")
    assert found["Body"].read() == data and found["ContentType"] == "image/x-own"
    assert "secret" not in found["Metadata"]


def test_a_donor_that_changes_meanwhile_is_not_copied(
    engine: Engine, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request names its version: the object is moved, and its source is not blamed."""

    def at(name: str) -> Location:
        return s3_location(seaweed.config, seaweed.bucket, f"race/{name}")

    receipt = put(engine, at("donor"), DATA, "image/x-donor")
    put(engine, at("source"), DATA, "image/x-own")
    there = ObjectInfo(receipt.destination, at("donor"))
    put(engine, at("donor"), OTHER, "image/x-donor")
    monkeypatch.setattr(ServerCopier, "_donor_there", lambda *_: there)
    donor = Donor(
        name="donor",
        place=at("donor"),
        content=content_of(DATA),
        version=receipt.destination,
        digests=receipt.digests,
    )
    outcome = move(engine, at("source"), at("new"), donor)
    assert outcome.state is State.VERIFIED and outcome.receipt is not None
    assert not any("copied from" in note for note in outcome.receipt.notes)
    client: Any = seaweed.client()
    found = client.get_object(Bucket=seaweed.bucket, Key="race/new")
    assert found["Body"].read() == DATA and found["ContentType"] == "image/x-own"


@pytest.mark.parametrize("more", [{"recursive": False}, {"moves": True}])
def test_once_is_refused_where_it_is_unsafe(more: dict[str, bool]) -> None:
    options = {"recursive": True, "once": True, **more}
    request = MigrationRequest(Endpoint("/a/"), Endpoint("/b/"), **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="once"):
        request.locate(Remotes({}, folders=None))


def test_equal_content_needs_a_digest() -> None:
    md5 = hashlib.md5(DATA, usedforsecurity=False)
    one = EqualContent.of_listed(5, f'"{md5.hexdigest()}"', {}, "s3")
    assert one == EqualContent(5, "etag", md5.digest())
    assert EqualContent.of_listed(5, f'"{md5.hexdigest()}"', {}, "webdav") is None
    assert EqualContent.of_listed(5, f'"{md5.hexdigest()}-2"', {}, "s3") is None
    assert (
        EqualContent.of_listed(5, None, {"crc32c": "00" * 4, "crc64nvme": "00" * 8}, "s3") is None
    )
    assert EqualContent.of_listed(0, f'"{md5.hexdigest()}"', {}, "s3") is None
    both = EqualContent.of_listed(5, None, {"md5": "00" * 16, "sha-256": "11" * 32}, "http")
    assert both is not None and both.algorithm == "sha-256"
    assert both.is_of(Version(5, digests={"sha-256": b"\x11" * 32}))
    assert not both.is_of(Version(5, digests={"md5": bytes(16)}))
    assert not both.is_of(Version(6, digests={"sha-256": b"\x11" * 32}))


def test_one_object_of_a_content_is_first() -> None:
    now = 100.0
    contents, content = MovedContents(most=1, clock=lambda: now), content_of(DATA)
    receipt = Receipt(
        level=Level.WHOLE_DIGEST,
        bytes=5,
        digests={"crc64nvme": bytes(8), "md5": content.digest},
        source=Version(5),
        destination=Version(5),
        attempts=1,
        bytes_resent=0,
    )
    assert contents.enter("m", "a", content) is Turn.FIRST
    assert contents.enter("m", "b", content) is Turn.WAIT
    assert contents.seconds_to_wait("m", content) == 1.0
    now = 110.0  # a large object is asked about a few times only
    assert contents.seconds_to_wait("m", content) == 10.0
    now = 1000.0
    assert contents.seconds_to_wait("m", content) == 60.0
    contents.leave("m", "b")
    assert contents.enter("m", "b", content) is Turn.WAIT
    assert contents.enter("n", "b", content) is Turn.FIRST  # another migration
    contents.leave("m", "a")  # it failed: the next one is the first
    assert contents.enter("m", "b", content) is Turn.FIRST
    contents.note_verified("m", "b", replace(receipt, level=Level.SIZE))
    contents.leave("m", "b")
    assert contents.enter("m", "c", content) is Turn.FIRST
    contents.note_verified("m", "c", receipt)
    contents.leave("m", "c")
    assert contents.enter("m", "d", content) == MovedObject("c", receipt)
    contents.leave("m", "d")
    other = content_of(OTHER + b"x")
    contents.enter("m", "e", other)
    contents.note_verified("m", "e", replace(receipt, digests={"md5": other.digest}))
    assert contents.enter("m", "f", content) is Turn.FIRST  # forgotten: it is moved once more


def test_etags_that_are_no_md5_have_no_duplicates() -> None:
    """A server may make its ETags of a time and a size, which many objects have in common."""
    contents, content, other = MovedContents(), content_of(DATA), content_of(OTHER)
    parted = Receipt(
        level=Level.WHOLE_DIGEST,
        bytes=5,
        digests={"crc64nvme": bytes(8)},
        source=Version(5),
        destination=Version(5),
        attempts=1,
        bytes_resent=0,
    )
    whole = replace(parted, digests={"md5": other.digest})
    # An object in parts has no MD5: it counts once another one has shown what the ETags are.
    for name, receipt, of in (("a", parted, content), ("b", whole, other), ("c", parted, content)):
        assert contents.enter("m", name, of) is Turn.FIRST
        contents.note_verified("m", name, receipt)
        contents.leave("m", name)
    assert contents.enter("m", "d", content) == MovedObject("c", parted)
    contents.leave("m", "d")
    # One ETag that is not the MD5 of its bytes ends the trust in all.
    third = content_of(b"x" * 7)
    contents.enter("m", "e", third)
    contents.note_verified("m", "e", whole)
    contents.leave("m", "e")
    for name in ("f", "g"):
        assert contents.enter("m", name, content) is Turn.FIRST
        assert contents.enter("m", name, third) is Turn.FIRST
    contents.note_verified("m", "f", replace(parted, digests={"md5": content.digest}))
    assert contents.enter("m", "h", content) is Turn.FIRST
