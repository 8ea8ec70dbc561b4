"""Names on real servers: an odd name arrives unchanged; a name that would clash or is too long is
refused alone."""

from __future__ import annotations

import http.client
import unicodedata
from pathlib import Path

import pytest

from relay.errors import KeyTooLong, Rejected, ReservedKey, UnsafeKey
from relay.location import Location
from relay.receipt import State
from relay.stores.interfaces import Store
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import s3_location
from relay.stores.webdav.account import webdav_location
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.contract.moves import content, put
from tests.seaweed import Seaweed

ODD = [
    "soap",
    "CON",
    "dot.",
    " space ",
    "~$office.docx",
    "100%",
    "a+b&c=d;e",
    "q?u#e'r\"y",
    "<tag>",
    "*|:",
    "-rf",
]
SCRIPTS = ["ü", "日本語", "🦜", ".hidden", "%41", "x" * 200]
"""Names that some system somewhere refuses, and these servers accept."""
TWINS = [
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "Case",
    "case",
    "CASE",
]


@pytest.fixture
def folder(kind: str, place: Place) -> Location:
    found = place("folder").folder()
    if kind == "wsgidav":  # which creates no folder by itself
        connection = http.client.HTTPConnection(found.host, found.port, timeout=10)
        connection.request("MKCOL", found.path)
        assert connection.getresponse().status == 201
        connection.close()
    return found


MISREAD = dict.fromkeys(("webdav+wsgidav", "nextcloud"), ("a+b&c=d;e", "q?u#e'r\"y"))
"""Names that a server truncates at ';' or '?' in the destination of a MOVE."""


@pytest.mark.parametrize("names", [ODD + SCRIPTS, TWINS], ids=["odd", "twins"])
def test_b60_b63_names_a_server_distinguishes_both_arrive(
    kind: str, engine: Engine, store: Store, folder: Location, names: list[str]
) -> None:
    names = [name for name in names if name not in MISREAD.get(kind, ())]
    for number, name in enumerate(names):
        assert (
            put(engine, folder.below(name, destination=True), f"{number} {name}".encode())
            is State.VERIFIED
        )
    for number, name in enumerate(names):
        assert content(store, folder.below(name)) == f"{number} {name}".encode()


def test_b60_a_name_read_as_another_fails_without_harm(engine: Engine, wsgidav: str) -> None:
    folder = webdav_location(f"{wsgidav}/misread/", destination=True)
    for name, read in zip(MISREAD["webdav+wsgidav"], ("a+b&c=d", "q"), strict=True):
        put(engine, folder.below(read, destination=True), b"precious")
        with pytest.raises(Rejected):
            put(engine, folder.below(name, destination=True), b"other")
        assert (
            content(
                engine.runner.stores.destination(folder, Watchdog(Limits())), folder.below(read)
            )
            == b"precious"
        )


@pytest.mark.parametrize("name", ["../up", "a/../b", "./a", "a\\b", "..\\up", "", "..", "a/.."])
def test_b57_b58_a_name_that_servers_fold_is_refused(folder: Location, name: str) -> None:
    with pytest.raises(UnsafeKey):
        folder.below(name, destination=True)


@pytest.mark.parametrize("name", ["a//b", "/a", "a///b"])
def test_b58_an_empty_segment_is_refused_where_slashes_nest(
    kind: str, engine: Engine, store: Store, folder: Location, name: str
) -> None:
    """S3 and Swift treat it as a name like any other; SeaweedFS stores it on a file system, which
    shows."""
    if kind == "swift":
        twin, other = (
            folder.below("/".join(filter(None, name.split("/")))),
            folder.below(name, destination=True),
        )
        put(engine, twin, b"precious")
        put(engine, other, b"other")
        assert (content(store, twin), content(store, other)) == (b"precious", b"other")
        return
    if kind != "seaweed":
        with pytest.raises(UnsafeKey):
            folder.below(name, destination=True)
        return
    twin = folder.below("/".join(filter(None, name.split("/"))))
    put(engine, twin, b"precious")
    with pytest.raises(Rejected, match="treats '//' as '/'"):
        put(engine, folder.below(name, destination=True), b"other")
    assert content(store, twin) == b"precious"


@pytest.mark.parametrize(
    "name", ["a\0b", "a\nb", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "a\udcffb"]
)
def test_b59_b61_a_name_with_invisible_characters_is_refused(folder: Location, name: str) -> None:
    with pytest.raises(UnsafeKey):
        folder.below(name, destination=True)


@pytest.mark.parametrize(
    "text",
    ["a%00b", "a%0ab", "a%e2%80%aeb", "%2e%2e/b", "..%2fb", "a%5cb", "a/./b", "a//b", "a/%2E%2e/b"],
)
@pytest.mark.parametrize("scheme", ["http", "webdav"])
def test_b57_b59_invalid_last_segments_of_a_url_are_refused(scheme: str, text: str) -> None:
    with pytest.raises(UnsafeKey):
        Remotes().locate(f"{scheme}://store.example/folder/{text}", destination=True)


LONG = "ä" * 512 + "b"
"""1,025 bytes."""


def test_b62_a_key_too_long_for_s3_is_refused_at_once(
    seaweed: Seaweed,
) -> None:
    folder = s3_location(seaweed.config, seaweed.bucket, "folder/")
    assert len(LONG.encode()) == 1025
    for name in ("ä" * 508 + "b", "k" * 1017):
        assert folder.below(name, destination=True)
    for name in (LONG, "ä" * 509, "k" * 1018):
        with pytest.raises(KeyTooLong):
            folder.below(name, destination=True)
    for text in (f"s3://bucket/{LONG}", f"s3://bucket/{'k' * 1025}"):
        with pytest.raises(KeyTooLong):
            Remotes(aws=lambda profile: seaweed.config).locate(text, destination=True)


def test_b62_a_name_too_long_for_the_disk_is_refused_at_once(wsgidav: str, local: Path) -> None:
    dav = webdav_location(f"{wsgidav}/folder/", destination=True)
    for folder in (dav, Remotes(folders=None).locate(f"{local}/folder/", destination=True)):
        assert folder.below("a" * 255, destination=True)
        for name in ("a" * 256, "a" * 256 + "/b", "ü" * 128):
            with pytest.raises(KeyTooLong):
                folder.below(name, destination=True)
    assert dav.below("d/" * 98 + "a", destination=True)
    with pytest.raises(KeyTooLong, match="folders"):
        dav.below("d/" * 1000 + "a", destination=True)


def test_b62_the_longest_names_arrive(engine: Engine, store: Store, folder: Location) -> None:
    place = folder.below("n" * 255, destination=True)
    assert put(engine, place, b"bytes") is State.VERIFIED
    assert content(store, place) == b"bytes"


def test_b67_names_of_unfinished_uploads_are_reserved(wsgidav: str, local: Path) -> None:
    """Also for names from a listing, or in the source's own header."""
    for folder in (
        webdav_location(f"{wsgidav}/folder/", destination=True),
        Remotes(folders=None).locate(f"{local}/folder/", destination=True),
    ):
        for give in (
            folder.object_named,
            lambda name, at=folder: at.below(f"deep/{name}", destination=True),
        ):
            with pytest.raises(ReservedKey):
                give(".relay-1.part")  # type: ignore[operator]
        assert folder.below(".relay-1.parts", destination=True)
