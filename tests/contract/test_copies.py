"""Server-side copies: proved like every transfer, over every store that supports them, on real
servers."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import pytest

from relay.engine.inspection import inspect_object
from relay.engine.multipart import upload
from relay.engine.transfer import server_copy
from relay.errors import AlreadyExists, NotFound, SourceChanged
from relay.location import Location
from relay.receipt import Level, State
from relay.stores.interfaces import CopyDestination, ObjectInfo, Store
from relay.stores.s3.aws_settings import s3_location
from relay.stores.table import STORES
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer
from tests.seaweed import Seaweed

PART = 5 << 20
DATA = os.urandom(100_000)
LARGE = os.urandom(2 * PART + 77)

LEVELS = {
    "seaweed": Level.WHOLE_DIGEST,
    "webdav+nginx": Level.READ_BACK,
    "webdav+wsgidav": Level.READ_BACK,
}
"""Every server that copies, and the level of proof it permits."""


@pytest.fixture(params=LEVELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def put(engine: Engine, place: Location, data: bytes = DATA) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/x-raw\r\nContent-Length: %d\r\n\r\n" % len(data)
    with Peer(source_script(Cloud(), fixed_answer(head, data))) as peer:
        assert engine.migrate(peer.url(), place).state is State.VERIFIED


def read(wire: Wire, place: Location) -> bytes:
    body = STORES[place.store](wire, "source", Watchdog(Limits())).get(place).body
    assert body is not None
    try:
        return body.read()
    finally:
        body.close()


def destination(wire: Wire, place: Location) -> Store:
    return STORES[place.store](wire, "destination", Watchdog(Limits()))


@pytest.mark.parametrize("verify", ["auto", "read_back", "size"])
@pytest.mark.parametrize("data", [b"", DATA], ids=["nothing", "something"])
def test_a_copy_is_proved(
    engine: Engine, wire: Wire, place: Place, kind: str, verify: str, data: bytes
) -> None:
    put(engine, place("old"), data)
    outcome = engine.migrate(place("old"), place("new"), verify=verify)
    assert outcome.receipt is not None
    assert (
        outcome.receipt.level
        is {
            "auto": LEVELS[kind],
            "read_back": Level.READ_BACK,
            "size": Level.SIZE,
        }[verify]
    )
    assert any("server-side copy" in note for note in outcome.receipt.notes)
    assert outcome.receipt.bytes == len(data)
    assert read(wire, place("new")) == data


def test_an_object_is_moved_instead_of_copied_on_request(
    engine: Engine, wire: Wire, place: Place
) -> None:
    put(engine, place("old"))
    outcome = engine.migrate(place("old"), place("new"), server_copy=False)
    assert outcome.receipt is not None
    assert not outcome.receipt.notes
    assert read(wire, place("new")) == DATA


def test_an_existing_object_is_kept_or_overwritten(
    engine: Engine, wire: Wire, place: Place
) -> None:
    put(engine, place("old"))
    put(engine, place("new"), b"older")
    assert engine.migrate(place("old"), place("new"), if_exists="skip").state is State.SKIPPED
    with pytest.raises(AlreadyExists):
        engine.migrate(place("old"), place("new"), if_exists="fail")
    assert read(wire, place("new")) == b"older"
    engine.migrate(place("old"), place("new"))
    assert read(wire, place("new")) == DATA


def test_a_folder_takes_the_sources_name(engine: Engine, wire: Wire, place: Place) -> None:
    put(engine, place("photo.raw"))
    engine.migrate(place("photo.raw"), place("deep/er/"))
    assert read(wire, place("deep/er/photo.raw")) == DATA


def test_an_absent_source_leaves_nothing(engine: Engine, wire: Wire, place: Place) -> None:
    with pytest.raises(NotFound):
        engine.migrate(place("never"), place("new"))
    with pytest.raises(NotFound):  # HEAD may be a mere hint until one was answered with 200
        inspect_object(destination(wire, place("new")), place("new"))


def test_a_copy_is_pinned_to_the_listed_version(
    engine: Engine, wire: Wire, place: Place, kind: str
) -> None:
    """S3 compares the bytes of the copy; elsewhere relay does, before the copy is published."""
    put(engine, place("old"))
    stale = destination(wire, place("old")).head(place("old"))
    assert isinstance(stale, ObjectInfo)
    put(engine, place("old"), DATA[::-1])
    if kind == "seaweed":
        with pytest.raises(SourceChanged):
            cast(CopyDestination, destination(wire, place("new"))).copy(
                place("old"), stale, place("new")
            )
    else:
        engine.migrate(place("old"), place("new"))
        assert read(wire, place("new")) == DATA[::-1]


def test_an_object_too_large_for_one_request_is_copied_in_parts(
    engine: Engine, wire: Wire, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "COPY_BYTES", PART)
    monkeypatch.setattr(server_copy, "COPY_BYTES", PART)
    old, new = (
        s3_location(seaweed.config, seaweed.bucket, f"copies-large/{name}")
        for name in ("old", "new")
    )
    put(engine, old, LARGE)
    outcome = engine.migrate(old, new)
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.WHOLE_DIGEST
    assert any("server-side copy" in note for note in outcome.receipt.notes)
    assert read(wire, new) == LARGE
    client: Any = seaweed.client()
    assert not client.list_multipart_uploads(Bucket=seaweed.bucket, Prefix="copies-large/").get(
        "Uploads"
    )


def test_another_key_or_endpoint_permits_no_copy(seaweed: Seaweed, wire: Wire) -> None:
    here = s3_location(seaweed.config, seaweed.bucket, "a")
    there = s3_location(replace(seaweed.config, endpoint="http://127.0.0.1:1"), seaweed.bucket, "b")
    store = destination(wire, here)
    assert store.can_copy(s3_location(seaweed.config, "other", "b"), here)
    assert not store.can_copy(there, here)
    web = webdav_location("http://127.0.0.1:1/a", {"Authorization": "one"})
    other = webdav_location("http://127.0.0.1:1/b", {"Authorization": "two"}, destination=True)
    assert not destination(wire, other).can_copy(web, other)
