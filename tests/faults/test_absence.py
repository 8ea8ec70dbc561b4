"""An unclear answer of a store never counts as "absent": HEAD is a hint, a listing is a snapshot,
GET decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from relay.engine.inspection import is_empty_folder
from relay.engine.transfer.context import ObjectHints
from relay.errors import (
    AlreadyExists,
    KeyCollision,
    NotFound,
    RedirectRefused,
    Rejected,
    RelayError,
    StoreError,
    Unavailable,
)
from relay.location import Location, parse_location
from relay.receipt import State
from relay.stores.http_reads import IsFolder, _is_same_server
from relay.stores.interfaces import UnknownObject
from relay.stores.local_locations import local_location
from relay.stores.webdav.account import webdav_location
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Engine
from tests.end_to_end.terminal import Terminal
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import DATA, GET_HEAD, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import EMPTY_PAGE, Bucket, place, reply
from tests.faults.test_unchanged import NEW, OLD, Dated
from tests.faults.test_webdav import FINAL, Dav
from tests.scripted import Peer, Talk, length_of

NO_HEAD = {
    str(status): empty_answer(status) for status in (400, 401, 403, 404, 405, 406, 410, 500, 501)
} | {"hangs up": b""}


def migrate(engine: Engine, shelf: Shelf, **options: object) -> State:
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source, Peer(shelf) as there:
        return engine.migrate(source.url("/a"), there.url("/a"), **options).state


@pytest.mark.parametrize("answer", NO_HEAD.values(), ids=NO_HEAD)
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_every_answer_to_head_keeps_an_existing_object(
    engine: Engine, answer: bytes, if_exists: str
) -> None:
    shelf = Shelf({b"/a": b"of somebody else"}, {b"HEAD": answer})
    if if_exists == "skip":
        assert migrate(engine, shelf, if_exists=if_exists) is State.SKIPPED
    else:
        with pytest.raises(AlreadyExists):
            migrate(engine, shelf, if_exists=if_exists)
    assert shelf.objects == {b"/a": b"of somebody else"}
    assert b"PUT" not in shelf.methods


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_another_server_of_the_host_may_lack_head(engine: Engine, if_exists: str) -> None:
    """Behind one name a proxy has a server for each folder: the source's answers HEAD, the other
    does not."""

    def refuse_by_path(shelf: Shelf, method: bytes, path: bytes) -> None:
        shelf.refused = {b"HEAD": empty_answer(404)} if path.startswith(b"/api/") else {}

    shelf = Shelf({b"/static/a": DATA, b"/api/a": b"of somebody else"}, before=refuse_by_path)
    with Peer(shelf) as peer:
        places = peer.url("/static/a"), peer.url("/api/a")
        if if_exists == "skip":
            assert engine.migrate(*places, if_exists=if_exists).state is State.SKIPPED
        else:
            with pytest.raises(AlreadyExists):
                engine.migrate(*places, if_exists=if_exists)
    assert shelf.objects[b"/api/a"] == b"of somebody else"


@pytest.mark.parametrize("answer", NO_HEAD.values(), ids=NO_HEAD)
@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed", "overwrite"])
def test_every_answer_to_head_lets_an_absent_object_arrive(
    engine: Engine, answer: bytes, if_exists: str
) -> None:
    shelf = Shelf({}, {b"HEAD": answer})
    assert migrate(engine, shelf, if_exists=if_exists) is State.VERIFIED
    assert shelf.objects == {b"/a": DATA}


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
@pytest.mark.parametrize("status", [400, 401, 403, 405, 500, 503])
def test_an_unknown_destination_is_not_sent_to_with_fail(
    engine: Engine, status: int, if_exists: str
) -> None:
    shelf = Shelf(
        {b"/a": b"of somebody else"}, {b"HEAD": empty_answer(405), b"GET": empty_answer(status)}
    )
    with pytest.raises(RelayError) as caught:
        migrate(engine, shelf, if_exists=if_exists)
    assert isinstance(caught.value, Unavailable if status >= 500 else Rejected)
    assert caught.value.side == "destination"
    assert b"PUT" not in shelf.methods


PAGE = b"<html><title>Log in</title></html>"


def gate(talk: Talk) -> None:
    """Redirect every request to a login page, as a proxy before a store does when credentials have
    expired."""
    while head := talk.head():
        method, path = head.split(b" ", 2)[:2]
        talk.body(length_of(head))
        if path == b"/login":
            talk.send(
                b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(PAGE),
                PAGE if method != b"HEAD" else b"",
            )
        else:
            talk.send(b"HTTP/1.1 302 X\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed", "overwrite"])
@pytest.mark.parametrize("locate", [parse_location, webdav_location])
def test_a_login_page_is_not_a_prior_object(
    engine: Engine, locate: Callable[..., Location], if_exists: str
) -> None:
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer([gate] * 20) as there,
    ):
        with pytest.raises(StoreError) as caught:
            engine.migrate(
                source.url("/a"), locate(there.url("/a"), destination=True), if_exists=if_exists
            )
    assert (caught.value.side, isinstance(caught.value, AlreadyExists)) == ("destination", False)


def test_a_login_page_is_not_a_stored_object(engine: Engine) -> None:
    """The writer has credentials, and a reader would need others: the object is not damaged, and
    stays."""
    methods: list[bytes] = []

    def there(talk: Talk) -> None:
        while head := talk.head():
            method, path = head.split(b" ", 2)[:2]
            talk.body(length_of(head))
            methods.append(method)
            page = b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(
                PAGE
            )
            if method == b"PUT":
                talk.send(b'HTTP/1.1 201 X\r\nETag: "v1"\r\nContent-Length: 0\r\n\r\n')
            elif path == b"/login":
                talk.send(page, PAGE if method != b"HEAD" else b"")
            else:
                talk.send(b"HTTP/1.1 302 X\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")

    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer([there] * 20) as peer,
    ):
        outcome = engine.migrate(source.url("/a"), peer.url("/a"))
    assert outcome.state is State.UNVERIFIED
    assert outcome.receipt is not None and "could not be read back" in outcome.receipt.notes[0]
    assert (methods.count(b"PUT"), b"DELETE" in methods) == (1, False)


def test_an_object_redirected_to_another_folder_exists(engine: Engine) -> None:
    moved = b"HTTP/1.1 307 X\r\nLocation: /kept/a?sig=x\r\nContent-Length: 0\r\n\r\n"
    found = b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n"

    def there(talk: Talk) -> None:
        while head := talk.head():
            path = head.split(b" ")[1]
            if path == b"/a":
                talk.send(moved)
            else:
                talk.send(found if path.startswith(b"/kept/a?") else empty_answer(404))

    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer([there] * 4) as peer,
    ):
        assert (
            engine.migrate(source.url("/a"), peer.url("/a"), if_exists="skip").state
            is State.SKIPPED
        )


class OldBeside(Shelf):
    """A site whose tree is being moved from one folder to another: it redirects to the old folder
    what the new one lacks."""

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if method not in (b"HEAD", b"GET") or path in self.objects:
            return super()._other(talk, method, path, request)
        there = path.replace(b"/new/", b"/old/")
        talk.send(b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % there)
        return True


@pytest.mark.parametrize("if_exists", ["skip", "changed"])
def test_what_another_folder_has_is_not_here(engine: Engine, if_exists: str) -> None:
    shelf = OldBeside({b"/old/a.bin": DATA})
    with Peer(Dated({b"/a.bin": DATA}, modified=OLD)) as here, Peer(shelf) as there:
        places = here.url("/a.bin"), there.url("/new/a.bin")
        if if_exists == "skip":
            with pytest.raises(Rejected, match="does not show whether"):
                engine.migrate(*places, if_exists=if_exists)
        else:
            assert engine.migrate(*places, if_exists=if_exists).state is State.VERIFIED
            assert shelf.objects[b"/new/a.bin"] == DATA


SIGN_ONS = {"another host": ("", False), "itself": ("/a.bin/", True)} | {
    path: (path, False) for path in ("/sso/?r=a.bin", "/login/", "/")
}


@pytest.mark.parametrize("located", [parse_location, webdav_location])
@pytest.mark.parametrize(("target", "folder"), SIGN_ONS.values(), ids=SIGN_ONS)
def test_the_place_of_a_sign_on_is_no_folder(
    engine: Engine, located: Callable[[str], Location], target: str, folder: bool
) -> None:
    """It redirects there, also a PROPFIND."""
    page, shelf = Shelf({b"/": b"<html>"}), Shelf(shown=lambda shelf, path: b"<html>")
    with Peer(page) as other, Peer(shelf) as there:

        def redirect(shelf: Shelf, method: bytes, path: bytes) -> None:
            to = (target or other.url("/")).encode()
            moved = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % to
            names = (b"HEAD", b"GET", b"PROPFIND") if path == b"/a.bin" else ()
            shelf.refused = dict.fromkeys(names, moved)

        shelf.before = redirect
        store = engine.runner.stores.destination(located(there.url("/a.bin")), Watchdog(QUICK))
        with pytest.raises(IsFolder) if folder else nullcontext():
            found = store.head(located(there.url("/a.bin")))
            assert isinstance(found, UnknownObject)
            assert isinstance(found.why, RedirectRefused)
    assert (b"PROPFIND" in shelf.methods) is (not folder and located is webdav_location)


class Redirecting(Shelf):
    """A server that redirects reads of some paths to `other`."""

    other = ""

    def redirects(self, path: bytes) -> bool:
        return True

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if method not in (b"HEAD", b"GET") or not self.redirects(path):
            return super()._other(talk, method, path, request)
        there = self.other.encode() + path
        talk.send(b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % there)
        return True


class Fallback(Redirecting):
    """Redirects what it lacks: a site that is being moved."""

    def redirects(self, path: bytes) -> bool:
        return path not in self.objects


class Delivery(Redirecting):
    """Redirects what it has."""

    def redirects(self, path: bytes) -> bool:
        return path in self.objects


@pytest.mark.parametrize("kept", [DATA, b""])
@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed"])
@pytest.mark.parametrize("head", [None, empty_answer(405)])
def test_what_another_server_has_is_not_here(
    engine: Engine, if_exists: str, kept: bytes, head: bytes | None
) -> None:
    old, new = Shelf({b"/a.bin": kept}), Fallback()
    old.refused = {} if head is None else {b"HEAD": head}
    source = Shelf({b"/a.bin": kept})
    with Peer(source) as here, Peer(old) as other, Peer(new) as there:
        new.other = other.url("")
        if if_exists != "changed":  # which moves what may be there
            with pytest.raises(Rejected, match="does not show whether"):
                engine.migrate(here.url("/a.bin"), there.url("/a.bin"), if_exists=if_exists)
            new.other = other.url("/nothing")
        outcome = engine.migrate(here.url("/a.bin"), there.url("/a.bin"), if_exists=if_exists)
    assert outcome.state is State.VERIFIED
    assert new.objects == {b"/a.bin": kept}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a/x", "http://a/y", True),
        ("http://a/x", "https://a/x", True),
        ("http://a/x", "https://b/x", False),
        ("http://a/x", "https://a:444/x", False),
        ("http://a:81/x", "https://a/x", False),
        ("https://a/x", "https://a:444/x", False),
    ],
)
def test_a_redirect_to_https_stays_at_its_server(one: str, other: str, same: bool) -> None:
    assert _is_same_server(parse_location(one), parse_location(other)) is same


def test_bytes_of_another_server_prove_no_upload(engine: Engine) -> None:
    source, new = Shelf({b"/a.bin": DATA}), Redirecting()
    with Peer(source) as here, Peer(Shelf({b"/a.bin": DATA})) as other, Peer(new) as there:
        new.other = other.url("")
        outcome = engine.migrate(here.url("/a.bin"), there.url("/a.bin"))
    assert outcome.state is State.UNVERIFIED


def test_objects_that_are_delivered_elsewhere_are_here(engine: Engine) -> None:
    """One name that never existed is asked for, for each folder, method and ending."""
    objects = {b"/%d.bin" % number: DATA for number in range(4)}
    new = Delivery(dict(objects))
    with Peer(Shelf(objects)) as here, Peer(Shelf(objects)) as other, Peer(new) as there:
        new.other = other.url("")
        for path in map(bytes.decode, objects):
            outcome = engine.migrate(here.url(path), there.url(path), if_exists="skip")
            assert outcome.state is State.SKIPPED
    assert new.methods.count(b"HEAD") == len(objects) + 1


def test_one_answer_to_head_is_believed_from_then_on(engine: Engine) -> None:
    """Relay requests no byte of an absent object from an honest server, except before its first
    answer."""
    shelf = Shelf()
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as source,
        Peer(shelf) as there,
    ):
        for name in "abc":
            assert engine.migrate(
                source.url("/" + name), there.url("/" + name), if_exists="skip"
            ).state.value
    assert [m for m, _, r in shelf.asked if b"Range: bytes=0-0" in r] == [b"GET"]


@pytest.mark.parametrize("answer", NO_HEAD.values(), ids=NO_HEAD)
def test_a_source_without_head_is_read(engine: Engine, answer: bytes) -> None:
    source, shelf = Shelf({b"/a": DATA}, {b"HEAD": answer}), Shelf()
    with Peer(source) as here, Peer(shelf) as there:
        assert engine.migrate(here.url("/a"), there.url("/a")).state is State.VERIFIED
        with pytest.raises(NotFound) as caught:
            engine.migrate(here.url("/none"), there.url("/b"))
    assert caught.value.side == "source"
    assert shelf.objects == {b"/a": DATA}


LISTS_NOTHING = {
    "no folder": b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",
    "an empty page": b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 48\r\n\r\n"
    b"<title>Index of /to/</title><h1>Index of /to/</h1",
}


@pytest.mark.parametrize("page", LISTS_NOTHING.values(), ids=LISTS_NOTHING)
@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed"])
def test_a_web_server_that_lists_nothing_is_not_an_empty_one(
    tmp_path: Path, page: bytes, if_exists: str
) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / ".htpasswd").write_bytes(b"new")
    data = b"new" if if_exists == "changed" else b"of somebody else"
    shelf = Shelf({b"/to/.htpasswd": data})
    refused = shelf.refused

    def before(_: Shelf, method: bytes, path: bytes) -> None:
        refused.pop(b"GET", None)
        if method == b"GET" and path == b"/to/":
            refused[b"GET"] = page

    shelf.before = before
    with Peer(shelf) as there:
        code, summary = Terminal(tmp_path).tree(
            tmp_path / "from", there.url("/to/"), "--if-exists", if_exists
        )
    assert shelf.objects == {b"/to/.htpasswd": data}
    if if_exists == "fail":
        assert (code, summary["objects"]) == (1, {"failed": 1})
    elif if_exists == "skip":
        assert (code, summary["objects"]) == (0, {"skipped": 1})
    assert if_exists == "changed" or b"PUT" not in shelf.methods


class Negotiates(Shelf):
    """Serves `/a.txt` for `/a` if `/a` does not exist: Apache with MultiViews."""

    def _variant(self, path: bytes) -> bytes:
        starts = (one for one in self.objects if one.startswith(path + b"."))
        return path if path in self.objects else next(starts, path)

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        return super()._put(talk, self._variant(path), request)

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        there = self._variant(path)
        if there != path and method not in self.refused:
            self.refused[method] = b"HTTP/1.1 200 X\r\nContent-Location: %s\r\n" % there[1:]
            self.refused[method] += b"Content-Length: 5\r\n\r\n"
            self.refused[method] += b"other" if method == b"GET" else b""
        return super()._other(talk, method, there, request)


@pytest.mark.parametrize(
    ("if_exists", "refused"),
    [
        *((one, {}) for one in ("overwrite", "changed", "skip", "fail")),
        *((one, {b"HEAD": empty_answer(405)}) for one in ("changed", "skip", "fail")),
    ],
)
def test_another_object_served_for_a_name_is_kept(
    engine: Engine, if_exists: str, refused: dict[bytes, bytes]
) -> None:
    shelf = Negotiates({b"/a.txt": b"other"}, dict(refused))
    with pytest.raises(KeyCollision):
        migrate(engine, shelf, if_exists=if_exists)
    assert shelf.objects == {b"/a.txt": b"other"}
    assert b"PUT" not in shelf.methods


def test_another_object_appearing_during_the_upload_is_named(engine: Engine) -> None:
    shelf = Negotiates()

    def before(_: Shelf, method: bytes, path: bytes) -> None:
        if method == b"PUT":
            shelf.objects[b"/a.txt"] = b"other"

    shelf.before = before
    with pytest.raises(KeyCollision, match="a.txt") as raised:
        migrate(engine, shelf)
    assert "has probably overwritten that object" in (raised.value.hint or "")
    assert b"DELETE" not in shelf.methods


class Cache(Shelf):
    """A shelf behind a cache that ignores `no-cache`, and has `kept` answers from an hour ago."""

    kept: bytes | None = None
    age: int = 3600

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if method == b"DELETE":
            return super()._other(talk, method, path, request)
        status = b"404 No" if self.kept is None else b"200 OK"
        text = self.kept or b""
        talk.send(
            b'HTTP/1.1 %s\r\nAge: %d\r\nETag: "old"\r\nContent-Length: %d\r\n\r\n'
            % (status, self.age, len(text)),
            text if method == b"GET" else b"",
        )
        return True


@pytest.mark.parametrize("kept", [DATA, None])
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_stale_cached_answer_does_not_prove_existence(
    engine: Engine, kept: bytes | None, if_exists: str
) -> None:
    shelf = Cache({} if kept else {b"/a": b"of somebody else"})
    shelf.kept = kept
    before = dict(shelf.objects)
    with pytest.raises(Rejected, match="does not show whether"):
        migrate(engine, shelf, if_exists=if_exists)
    assert shelf.objects == before


@pytest.mark.parametrize(("age", "state"), [(3600, State.UNVERIFIED), (1, State.VERIFIED)])
def test_a_stale_cached_answer_proves_no_upload(engine: Engine, age: int, state: State) -> None:
    shelf = Cache()
    shelf.kept, shelf.age = DATA, age
    assert migrate(engine, shelf, if_exists="overwrite") is state
    assert shelf.objects == {b"/a": DATA}


class DatedDav(Dav):
    """A WebDAV server whose objects have the date NEW."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        answer = super()._done(method, path, request, body)
        if method not in (b"HEAD", b"GET") or answer.startswith(b"HTTP/1.1 404"):
            return answer
        dated = f"\r\nLast-Modified: {formatdate(NEW, usegmt=True)}\r\n\r\n".encode()
        return answer.replace(b"\r\n\r\n", dated, 1)


def migrate_unlisted(engine: Engine, there: Location, modified: float, if_exists: str) -> State:
    """Move an object of a tree whose destination was empty, as its listing said."""
    with Peer(Dated({b"/a": DATA}, modified=modified)) as source:
        transfer = engine.runner.transfer(engine.plan(source.url("/a"), there, if_exists=if_exists))
        known = ObjectHints(absent=True)
        return engine.runner.run(replace(transfer, known=known, random=lambda: 0.05)).state


UNLISTED = {
    "newer there": (OLD, "changed", State.SKIPPED),
    "older there": (2 * NEW, "changed", State.VERIFIED),
    "overwritten": (OLD, "overwrite", State.VERIFIED),
}


@pytest.mark.parametrize(("modified", "if_exists", "state"), UNLISTED.values(), ids=UNLISTED)
def test_an_object_that_webdav_does_not_list_is_compared(
    patient_engine: Engine, modified: float, if_exists: str, state: State
) -> None:
    """nginx lists no name that begins with a dot, Apache no link; and another command may store the
    object after the listing."""
    theirs = DATA[::-1]
    dav = DatedDav(objects={FINAL: theirs})
    with Peer([dav] * 30) as peer:
        there = webdav_location(peer.url(FINAL.decode()), destination=True)
        assert migrate_unlisted(patient_engine, there, modified, if_exists) is state
    assert dav.objects == {FINAL: theirs if state is State.SKIPPED else DATA}
    assert dav.asked.count(b"PUT") == (2 if modified > NEW else 1)


@pytest.mark.parametrize(("modified", "if_exists", "state"), UNLISTED.values(), ids=UNLISTED)
def test_a_file_that_came_after_the_listing_is_compared(
    patient_engine: Engine, tmp_path: Path, modified: float, if_exists: str, state: State
) -> None:
    path, theirs = tmp_path / "a", DATA[::-1]
    path.write_bytes(theirs)
    os.utime(path, (NEW, NEW))
    there = local_location(path, destination=True)
    assert migrate_unlisted(patient_engine, there, modified, if_exists) is state
    assert path.read_bytes() == (theirs if state is State.SKIPPED else DATA)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("swift", [True, False])
def test_a_bucket_that_lists_objects_later_is_not_empty(engine: Engine, swift: bool) -> None:
    fields = ("X-Openstack-Request-Id: tx1",) if swift else ()
    bucket = Bucket(answers={"list": [reply(200, EMPTY_PAGE, *fields)]})
    with Peer([bucket] * 4) as peer:
        folder = place(peer).folder()
        store = engine.runner.stores.destination(folder, Watchdog(QUICK))
        assert is_empty_folder(store, folder) is not swift
        assert store.lists_all(folder) is not swift
