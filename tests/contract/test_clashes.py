"""Obstacles at a destination with folders: a folder with the object's name, a file above it, a
lock.

A bucket may hold 'a' and 'a/b'; a file system cannot. One of the two is refused, and the other
stays unharmed."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from relay.engine.inspection import inspect_object
from relay.errors import Locked, NotFound, RelayError, StoreError
from relay.location import Location
from relay.receipt import State
from relay.stores.interfaces import Store
from relay.stores.webdav.account import webdav_location
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.contract.moves import DATA, content, put

POLICIES = ["overwrite", "changed", "skip", "fail"]


@pytest.fixture(params=["webdav+wsgidav", "webdav+nginx", "nextcloud", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(place: Place) -> Location:
    return place("folder").folder()


def names(store: Store, folder: Location) -> set[str]:
    """Return the content of a folder, unfinished uploads too, if the server lists."""
    try:
        return {entry.name for entry in store.list(folder)}
    except StoreError:
        return set()


@pytest.mark.parametrize("policy", POLICIES)
def test_b60_an_object_never_takes_the_place_of_a_folder(
    engine: Engine, store: Store, folder: Location, policy: str
) -> None:
    """A MOVE that may overwrite would remove it with all its content."""
    put(engine, folder.below("a/inner/precious", destination=True))
    with pytest.raises(RelayError) as caught:
        put(engine, folder.below("a", destination=True), b"an object", if_exists=policy)
    assert caught.value.side == "destination"
    assert content(store, folder.below("a/inner/precious")) == DATA
    assert names(store, folder) <= {"a/"}


@pytest.mark.parametrize("policy", POLICIES)
def test_b60_a_folder_never_takes_the_place_of_an_object(
    engine: Engine, store: Store, folder: Location, policy: str
) -> None:
    """And that is a failure, not an existing object that may be skipped."""
    put(engine, folder.below("a", destination=True), b"precious")
    with pytest.raises(RelayError) as caught:
        put(engine, folder.below("a/b/c", destination=True), if_exists=policy)
    assert caught.value.side == "destination"
    assert content(store, folder.below("a")) == b"precious"
    assert names(store, folder) <= {"a"}


def test_b60_an_object_in_place_of_a_folder_is_not_retried(
    engine: Engine, store: Store, folder: Location, kind: str
) -> None:
    """Unless the server has no PROPFIND, which shows the object."""
    put(engine, folder.below("a", destination=True), b"precious")
    with pytest.raises(RelayError) as caught:
        put(engine, folder.below("a/c", destination=True))
    assert caught.value.retryable == (kind == "webdav+nginx")
    assert content(store, folder.below("a")) == b"precious"


def test_f49_missing_folders_are_made_however_many(
    engine: Engine, store: Store, folder: Location
) -> None:
    deep = folder.below("d/" * 40 + "object", destination=True)
    assert put(engine, deep, b"deep") is State.VERIFIED
    assert content(store, deep) == b"deep"


LOCK = b"""<?xml version="1.0"?><d:lockinfo xmlns:d="DAV:"><d:lockscope><d:exclusive/></d:lockscope>
<d:locktype><d:write/></d:locktype><d:owner>somebody else</d:owner></d:lockinfo>"""


def test_f49_a_locked_destination_waits_for_the_unlock(engine: Engine, wsgidav: str) -> None:
    place = webdav_location(f"{wsgidav}/locked/object", destination=True)
    assert put(engine, place, b"old") is State.VERIFIED
    connection = http.client.HTTPConnection(urlsplit(wsgidav).netloc, timeout=10)
    connection.request(
        "LOCK", place.path, LOCK, {"Timeout": "Second-600", "Content-Type": "application/xml"}
    )
    answer = connection.getresponse()
    token = answer.headers["Lock-Token"]
    assert answer.read() and answer.status == 200
    with pytest.raises(Locked) as caught:
        put(engine, place)
    assert (caught.value.side, caught.value.retryable) == ("destination", True)
    assert _files(connection, place) == ["object"]
    connection.request("UNLOCK", place.path, headers={"Lock-Token": token})
    assert connection.getresponse().read() == b""
    connection.close()
    assert put(engine, place) is State.VERIFIED


def _files(connection: http.client.HTTPConnection, place: Location) -> list[str]:
    folder = place.path.rpartition("/")[0] + "/"
    connection.request("PROPFIND", folder, headers={"Depth": "1"})
    text = connection.getresponse().read().decode()
    found = {part.partition("<")[0] for part in text.split("href>")[1::2]}
    return sorted(
        path.removeprefix(folder) for path in found if path.startswith(folder) and path != folder
    )


def test_an_absent_object_would_be_seen_by_these_tests(store: Store, folder: Location) -> None:
    with pytest.raises(NotFound):
        inspect_object(store, folder.below("nothing"))
