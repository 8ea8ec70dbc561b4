"""The contract of a Store (relay/stores/interfaces.py), one suite over every store and real
servers.

Each store is a way to make a Location for a name. A limit of a server's protocol is in its row of
`CAN`, so that a promise that is not kept is written down, not skipped silently."""

from __future__ import annotations

import pytest

from relay.engine.inspection import inspect_object
from relay.errors import AlreadyExists, NotFound, RelayError, SourceChanged
from relay.receipt import Level, State, Version
from relay.stores.interfaces import ObjectInfo, Store
from tests.conftest import Engine
from tests.contract.conftest import CAN, Place
from tests.contract.moves import DATA, content, put
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer, Talk


@pytest.mark.parametrize("data", [DATA, b"", b"x"], ids=["200 kB", "empty", "one byte"])
def test_an_uploaded_object_exists(engine: Engine, store: Store, place: Place, data: bytes) -> None:
    assert put(engine, place("a"), data) is State.VERIFIED
    found = store.head(place("a"))
    assert isinstance(found, ObjectInfo)
    assert found.version.size == len(data)
    assert content(store, place("a")) == data


def test_an_absent_object_is_not_found(store: Store, place: Place) -> None:
    with pytest.raises(NotFound) as caught:
        inspect_object(
            store, place("none")
        )  # a HEAD alone proves nothing, until a server has answered one with 200
    assert caught.value.side == "destination"
    with pytest.raises(NotFound):
        store.get(place("none"))


def test_put_replaces(engine: Engine, store: Store, place: Place) -> None:
    put(engine, place("a"), b"old")
    put(engine, place("a"))
    assert content(store, place("a")) == DATA


def test_delete_deletes_and_may_be_repeated(engine: Engine, store: Store, place: Place) -> None:
    put(engine, place("a"))
    store.delete(place("a"), Version())
    assert content(store, place("a")) is None
    store.delete(place("a"), Version())


def test_a_pinned_version_is_read_or_refused(
    kind: str, engine: Engine, store: Store, place: Place
) -> None:
    put(engine, place("a"))
    found = store.head(place("a"))
    assert isinstance(found, ObjectInfo)
    opened = store.get(place("a"), found.version)
    assert opened.body is not None
    assert opened.body.read() == DATA
    with pytest.raises(SourceChanged):
        store.get(place("a"), Version(etag='"another"'))


def test_if_absent_writes_only_an_absent_object(engine: Engine, store: Store, place: Place) -> None:
    assert put(engine, place("a"), b"old", if_exists="fail") is State.VERIFIED
    with pytest.raises(AlreadyExists):
        put(engine, place("a"), if_exists="fail")
    assert put(engine, place("a"), if_exists="skip") is State.SKIPPED
    assert content(store, place("a")) == b"old"


def test_the_level_is_the_strongest_of_the_store(kind: str, engine: Engine, place: Place) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA)
    with Peer(source_script(Cloud(), fixed_answer(head, DATA))) as source:
        receipt = engine.migrate(source.url(), place("a")).receipt
    assert receipt is not None
    assert receipt.level is (Level.WHOLE_DIGEST if "digest" in CAN[kind] else Level.READ_BACK)


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("cut", [0, 1, 100_000, len(DATA) - 1])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_source_that_ends_early_leaves_no_object(
    kind: str, engine: Engine, store: Store, place: Place, framing: str, cut: int, verify: str
) -> None:
    """WsgiDAV creates an empty file of the name, and writes the bytes a moment later. An empty file
    may be anyone's, so it is not deleted, but reported."""

    def get(talk: Talk, _: bytes) -> None:
        if framing == "length":
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA), DATA[:cut])
        else:
            talk.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(DATA),
                DATA[:cut],
            )

    with Peer(source_script(Cloud(), get)) as source, pytest.raises(RelayError) as caught:
        engine.migrate(source.url(), place("cut"), verify=verify)
    assert caught.value.side == "source"
    left = content(store, place("cut"))
    assert left is None or (
        kind == "wsgidav" and left != DATA and "may remain" in caught.value.hint
    )


def test_a_broken_upload_leaves_an_older_object_alone(
    kind: str, engine: Engine, store: Store, place: Place
) -> None:
    put(engine, place("a"), b"old")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA)
    with (
        Peer(source_script(Cloud(), fixed_answer(head, DATA[:-1]))) as source,
        pytest.raises(RelayError) as caught,
    ):
        engine.migrate(source.url(), place("a"))
    assert "may remain" not in caught.value.hint
    # WsgiDAV writes directly into the old file: it leaves nothing then, never a piece that looks
    # whole.
    assert content(store, place("a")) == (None if kind == "wsgidav" else b"old")
