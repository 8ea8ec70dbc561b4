"""A server that cuts the name of a folder at a delimiter of URLs: no other folder is deleted."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

import pytest

from relay.engine.cleanup import remove_lost_uploads
from relay.engine.scratch import ScratchFolder
from relay.errors import KeyCollision, ProtocolViolation, Rejected, RelayError
from relay.location import Location, parse_location
from relay.receipt import State, Version
from relay.stores.http_client import HttpClient
from relay.stores.http_reads import is_folder_of
from relay.stores.webdav.account import NextcloudAccount, is_nextcloud, webdav_location
from relay.stores.webdav.whole_names import require_deletable, require_whole_folder
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Engine
from tests.faults.scripted_http import Shelf
from tests.faults.test_webdav import EMPTY, MULTISTATUS, Dav, Proxied
from tests.scripted import Peer

DATA = b"the bytes of the object"
FILES = "/remote.php/dav/files/u"
"""The path by which relay recognizes Nextcloud."""
_FOLDER = (
    b'<d:multistatus xmlns:d="DAV:"><d:response><d:href>%s</d:href><d:propstat><d:prop>'
    b"<d:resourcetype><d:collection/></d:resourcetype></d:prop>"
    b"</d:propstat></d:response></d:multistatus>"
)


@dataclass
class FolderDav(Dav):
    """A WebDAV server that shows its folders, without a final '/' too. `cuts` says whether the
    proxy in front of it decodes paths."""

    cuts: bool = True

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if self.cuts:
            path = re.split(rb"[?#]", unquote_to_bytes(path))[0]
        folder = path.rstrip(b"/") + b"/"
        if folder not in self.folders:
            return super()._done(method, folder if method == b"MKCOL" else path, request, body)
        if method == b"PROPFIND":
            row = _FOLDER % folder
            return b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(row), row)
        if method in (b"HEAD", b"GET", b"PUT", b"MKCOL"):
            return EMPTY % 405
        return super()._done(method, folder, request, body)


def _precious(root: str) -> FolderDav:
    """Return a server with the folder of another writer."""
    there = f"{root}/What/".encode()
    return FolderDav(folders={f"{root}/".encode(), there}, objects={there + b"one": b"precious"})


def _place(peer: Peer, name: str) -> Location:
    place = webdav_location(peer.url(name), destination=True)
    if not is_nextcloud(place.path):
        return place
    return replace(place, account=NextcloudAccount(f"webdav+{place.origin}"))


def _migrate(engine: Engine, dav: Dav, name: str, **options: object) -> State:
    with Peer([Shelf({b"/f.txt": DATA})] * 10) as source, Peer([dav] * 60) as peer:
        place = _place(peer, name)
        return engine.migrate(source.url("/f.txt"), place, **options).state


@pytest.mark.parametrize("root", ["/to", FILES], ids=["webdav", "nextcloud"])
@pytest.mark.parametrize("delimiter", ["%3F", "%23"])
@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
def test_a_folder_of_the_cut_name_stays(
    engine: Engine, root: str, delimiter: str, if_exists: str
) -> None:
    dav = _precious(root)
    before = dict(dav.objects)
    for name in (f"What{delimiter}/f.txt", f"What{delimiter}", f"What{delimiter}/in/f.txt"):
        with pytest.raises(RelayError, match="cuts the name|is a folder there"):
            _migrate(engine, dav, f"{root}/{name}", if_exists=if_exists)
    assert dav.objects == before
    assert not {b"PUT", b"DELETE", b"MOVE"} & {*dav.asked, *dav.tried}


def test_a_folder_that_relay_made_under_a_cut_name_is_not_deleted(engine: Engine) -> None:
    @dataclass
    class Crowded(FolderDav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            answer = super()._done(method, path, request, body)
            if method == b"MKCOL":
                self.objects[b"/to/What/b.txt"] = b"of another transfer"
            return answer

    dav = Crowded(folders={b"/", b"/to/"})
    for _ in range(2):
        with pytest.raises(KeyCollision, match="cuts the name"):
            _migrate(engine, dav, "/to/What%3F/a.txt")
    assert dav.objects == {b"/to/What/b.txt": b"of another transfer"}
    assert not {b"PUT", b"DELETE"} & {*dav.asked, *dav.tried}


def test_a_temporary_name_in_a_cut_folder_is_not_deleted(engine: Engine) -> None:
    dav = _precious("/to")
    with Peer([dav] * 10) as peer:
        place = webdav_location(peer.url("/to/What%3F/f.txt"), destination=True)
        store = engine.runner.stores.destination(place, Watchdog(QUICK))
        (part, *_) = store.staged_locations(place, "token")
        with pytest.raises(KeyCollision, match="cuts the name"):
            store.delete(part, Version())
        remains: dict[str, str] = {}
        assert remove_lost_uploads(store, place, ["token"], remains) is None
    assert dav.objects == {b"/to/What/one": b"precious"}
    assert remains == {}


def _examine(engine: Engine, folder: Location) -> tuple[str, ...]:
    scratch = ScratchFolder(engine.runner.stores, folder, lambda: Watchdog(QUICK))
    with pytest.raises(KeyCollision, match="cuts the name"):
        scratch.put("object")
    return scratch.remove()


def test_a_store_under_test_keeps_a_folder_of_the_cut_name(engine: Engine) -> None:
    dav = _precious("/to")
    with Peer([dav] * 10) as peer:
        assert _examine(engine, webdav_location(peer.url("/to/What%3F/"))) == ()
    assert dav.objects == {b"/to/What/one": b"precious"}
    shelf = Shelf(
        {b"/to/What": b"precious"}, folds=lambda path: unquote_to_bytes(path).partition(b"?")[0]
    )
    with Peer([shelf] * 10) as peer:
        assert _examine(engine, parse_location(peer.url("/to/What%3F/"))) == ()
    assert shelf.objects == {b"/to/What": b"precious"}


def test_a_folder_with_a_delimiter_is_checked_once(engine: Engine) -> None:
    dav = _precious("/to")
    dav.cuts = False
    counts = []
    with Peer([Shelf({b"/f.txt": DATA})] * 10) as source, Peer([dav] * 60) as peer:
        for name in ("a", "b", "c"):
            dav.asked.clear()
            place = webdav_location(peer.url(f"/to/What%3F/{name}"), destination=True)
            assert engine.migrate(source.url("/f.txt"), place).state is State.VERIFIED
            counts.append(dav.asked.count(b"PROPFIND"))
    assert counts[0] > counts[1] == counts[2]
    assert dav.objects[b"/to/What%3F/c"] == DATA


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
@pytest.mark.parametrize("root", ["/to", FILES], ids=["webdav", "nextcloud"])
def test_an_object_of_the_cut_name_is_not_taken_for_another(
    engine: Engine, root: str, if_exists: str
) -> None:
    there = f"{root}/view.php".encode()
    dav = FolderDav(folders={f"{root}/".encode()}, objects={there: DATA[::-1]})
    with pytest.raises(KeyCollision, match="cuts the name"):
        _migrate(engine, dav, f"{root}/view.php%3Fid=1", if_exists=if_exists)
    assert dav.objects == {there: DATA[::-1]}


@pytest.mark.parametrize(
    ("propfind", "head", "deleted"),
    [(403, 404, False), (403, 200, False), (405, 404, True), (405, 405, False), (404, 404, True)],
)
def test_a_temporary_name_is_deleted_where_the_folder_is_whole(
    engine: Engine, propfind: int, head: int, deleted: bool
) -> None:
    part = b"/to/What%3F/.relay-token.part"
    dav = Dav(
        answers={b"PROPFIND": [EMPTY % propfind] * 9, b"HEAD": [EMPTY % head] * 9},
        objects={part: DATA},
    )
    with Peer([dav] * 10) as peer:
        place = webdav_location(peer.url(part.decode()))
        store = engine.runner.stores.destination(place, Watchdog(QUICK))
        with nullcontext() if deleted else pytest.raises(RelayError):
            store.delete(place, Version())
    assert (part not in dav.objects) is deleted


ANY = {
    "a row": (
        b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(MULTISTATUS), MULTISTATUS),
        4,
    ),
    "a sign-on": (b"HTTP/1.1 302 X\r\nLocation: /login/\r\nContent-Length: 0\r\n\r\n", 2),
}
"""Answers to any name, and how many names are asked for: a sign-on shows nothing of them."""


@pytest.mark.parametrize(("answer", "names"), ANY.values(), ids=ANY)
def test_a_server_that_shows_any_name_cuts_no_folder(wire: Wire, answer: bytes, names: int) -> None:
    dav = Dav(answers={b"PROPFIND": [answer] * 4})
    with Peer([dav] * 9) as peer:
        folder = webdav_location(peer.url("/to/a%3Fb%26c/"), destination=True)
        client = HttpClient(wire, "destination", Watchdog(wire.limits))
        require_whole_folder(client, folder)
        with pytest.raises(Rejected, match="nothing shows"):
            require_deletable(client, folder.with_target(f"{folder.path}x"))
    assert dav.asked == [b"PROPFIND"] * names


@pytest.mark.parametrize(
    ("path", "there", "is_it"),
    [
        ("/dav/a/", "/dav/a/", True),
        ("/dav/a%3Fb", "/dav/a/", True),
        ("/dav/a%26b", "/dav/a/", True),
        ("/dav/authors.txt", "/dav/auth/", False),
        ("/dav/a/b", "/dav/a/", False),
        ("/dav/a%2Fb", "/dav/a/b/", False),
    ],
)
def test_a_redirect_to_a_folder_is_of_the_name_or_a_cut_one(
    path: str, there: str, is_it: bool
) -> None:
    assert is_folder_of(webdav_location(f"http://h{path}"), there) is is_it


def test_a_second_delimiter_hides_no_cut_of_a_folder(wire: Wire) -> None:
    with Peer([Proxied(objects={b"/to/a": DATA})] * 9) as peer:
        folder = webdav_location(peer.url("/to/a%3Fb%26c/"), destination=True)
        client = HttpClient(wire, "destination", Watchdog(wire.limits))
        with pytest.raises(KeyCollision, match="cuts the name"):
            require_whole_folder(client, folder)


def test_another_document_shows_no_cut_of_a_folder(wire: Wire) -> None:
    page = b"HTTP/1.1 207 X\r\nContent-Length: 7\r\n\r\n<html/>"
    with Peer([Dav(answers={b"PROPFIND": [page]})] * 9) as peer:
        folder = webdav_location(peer.url("/to/q%3F/"), destination=True)
        client = HttpClient(wire, "destination", Watchdog(wire.limits))
        with pytest.raises(ProtocolViolation) as caught:
            require_whole_folder(client, folder)
    assert caught.value.retryable
