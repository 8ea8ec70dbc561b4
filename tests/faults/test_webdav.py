"""WebDAV: only a whole object is ever visible at the final name, in every course of a transfer.

A well-behaved server is tested in tests/contract/test_stores.py, on nginx and WsgiDAV."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import gevent
import pytest

from relay.engine.doctor import Answer, probe_if_none_match
from relay.engine.outcome import Outcome
from relay.engine.scratch import ScratchFolder
from relay.engine.transfer.context import ObjectHints
from relay.engine.transfer.server_copy import _COPIED
from relay.errors import (
    AlreadyExists,
    Cancelled,
    ConnectionLost,
    DestinationLost,
    DestinationMutates,
    IntegrityMismatch,
    InvalidType,
    InvalidURL,
    KeyCollision,
    Locked,
    NotFound,
    PermissionDenied,
    Rejected,
    RelayError,
    SourceTruncated,
    StoreFull,
    Unavailable,
    UnsafeKey,
)
from relay.location import Location
from relay.receipt import Level, State
from relay.stores.http_client import HttpClient
from relay.stores.http_reads import shows_no_digest
from relay.stores.interfaces import is_temporary_name, temporary_names
from relay.stores.local_locations import local_location
from relay.stores.remotes import Remotes
from relay.stores.webdav.account import webdav_location
from relay.stores.webdav.folders import DavFolders
from relay.stores.webdav.properties import Properties
from relay.stores.webdav.trials import TRIAL
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Certificates, Engine
from tests.end_to_end.terminal import Terminal, eventually
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    fixed_answer,
    receive_upload,
    source_script,
)
from tests.faults.test_ours import plant
from tests.scripted import Peer, Talk

FINAL = b"/new/folder/object.bin"
NO = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"
KIND = b"<d:propstat><d:prop><d:resourcetype/></d:prop></d:propstat>"
MULTISTATUS = (
    b'<d:multistatus xmlns:d="DAV:"><d:response><d:href>/x</d:href>'
    + KIND
    + b"</d:response></d:multistatus>"
)
EMPTY = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Dav:
    """A WebDAV server. `answers` are the first answers to a method, which is then not executed; an
    empty one closes the connection; the next answer to a method in `hanging` is lost. The requests
    of a trial (`trials.py`) are executed, and not among the `asked` ones."""

    answers: dict[bytes, list[bytes]] = field(default_factory=dict)
    folders: set[bytes] = field(default_factory=lambda: {b"/"})
    objects: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    tried: list[bytes] = field(default_factory=list)
    damage: bool = False
    hanging: set[bytes] = field(default_factory=set)
    late: threading.Event | None = None
    """Notified when an upload broke off."""

    def __call__(self, talk: Talk) -> None:
        while request := talk.head():
            method, path = request.split(b" ", 2)[:2]
            if b"100-continue" in request:
                talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = receive_upload(talk, request)
            if TRIAL in (body, self.objects.get(path)):
                self.tried.append(method)
                talk.send(self._done(method, path, request, body or b""))
                continue
            self.asked.append(method)
            if body is None:
                if self.late is not None:
                    assert self.late.wait(10)
                self.objects[path] = b"a piece"  # like some servers
                return
            scripted = self.answers.get(method, [])
            answer = scripted.pop(0) if scripted else self._done(method, path, request, body)
            if method in self.hanging or not answer:
                self.hanging.discard(method)
                return
            talk.send(answer)
            if method == b"DELETE" and self.late is not None:
                self.late.set()

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"PROPFIND" and path in self.objects:
            return b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (
                len(MULTISTATUS),
                MULTISTATUS,
            )
        if method == b"PROPFIND":
            return EMPTY % 207 if path in self.folders else NO
        if method == b"MKCOL":
            self.folders.add(path)
            return EMPTY % 201
        if method == b"PUT":
            self.objects[path] = body[:-1] + b"?" if self.damage else body
            return EMPTY % 201
        if method in (b"MOVE", b"COPY"):
            there = request.partition(b"Destination: ")[2].partition(b"\r\n")[0]
            to = there if there.startswith(b"/") else b"/" + there.split(b"/", 3)[3]
            if b"Overwrite: F" in request and to in self.objects:
                return EMPTY % 412
            self.objects[to] = self.objects[path]
            if method == b"MOVE":
                del self.objects[path]
            return EMPTY % 201
        if method == b"DELETE":
            return self._delete(path)
        if path not in self.objects:
            return NO
        data = self.objects[path]
        return b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(data) + (
            data if method == b"GET" else b""
        )

    def _delete(self, path: bytes) -> bytes:
        """Delete an object, or a folder with its content."""
        inside = path if path.endswith(b"/") else path + b"/"
        found = {name for name in self.objects if name == path or name.startswith(inside)}
        for name in found:
            del self.objects[name]
        if path in self.folders:
            self.folders.discard(path)
            return EMPTY % 204
        return EMPTY % 204 if found else NO


@pytest.fixture
def engine_limits() -> Limits:
    """Return limits with inspections for a late write of a server: its threads may outlive the
    connection."""
    return replace(QUICK, sweep_waits=(0.0, 0.05, 0.2, 0.5))


def place(peer: Peer) -> Location:
    return webdav_location(peer.url(FINAL.decode()), destination=True)


def migrate(
    engine: Engine, dav: Dav, get: Callable[[Talk, bytes], None] | None = None, **options: object
) -> State:
    script = source_script(Cloud(), get or fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        return engine.migrate(source.url(), place(destination), **options).state


def test_an_object_is_proved_before_it_is_moved_to_its_name(engine: Engine) -> None:
    dav = Dav()
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.folders == {b"/", b"/new/", b"/new/folder/"}
    assert dav.asked.index(b"GET") < dav.asked.index(b"MOVE")


def test_a_piece_is_never_visible_at_the_final_name(engine: Engine) -> None:
    seen: list[bool] = []
    dav = Dav(objects={FINAL: b"old"})

    def half(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[: len(DATA) // 2])
        seen.append(dav.objects[FINAL] == b"old")
        talk.send(DATA[len(DATA) // 2 :])

    assert migrate(engine, dav, half) is State.VERIFIED
    assert seen == [True]
    assert dav.objects == {FINAL: DATA}


@pytest.mark.parametrize("cut", [0, 1, len(DATA) // 2, len(DATA) - 1])
def test_f50_a_source_that_ends_early_leaves_nothing(engine: Engine, cut: int) -> None:
    dav = Dav(objects={FINAL: b"old"})
    with pytest.raises(SourceTruncated) as caught:
        migrate(engine, dav, fixed_answer(GET_HEAD, DATA[:cut]))
    assert dav.objects == {FINAL: b"old"}
    assert "may remain" not in caught.value.hint


def test_f50_a_piece_written_after_its_deletion_is_deleted(
    engine: Engine,
) -> None:
    dav = Dav(late=threading.Event())
    with pytest.raises(SourceTruncated):
        migrate(engine, dav, fixed_answer(GET_HEAD, DATA[:-1]))
    assert dav.late is not None
    assert dav.late.is_set()
    assert dav.objects == {}


def test_f36_a_damaged_upload_is_never_published(engine: Engine) -> None:
    dav = Dav(damage=True)
    with pytest.raises(IntegrityMismatch):
        migrate(engine, dav)
    assert dav.objects == {}
    assert b"MOVE" not in dav.asked


# -- a server whose HEAD shows no digest: its objects are read back at once


def outcome_of(engine: Engine, dav: Dav, **options: object) -> Outcome:
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        # The facts about a server are those of its address.
        engine.runner.wire.memory.learn(
            place(destination).origin, shows_no_digest(place(destination))
        )
        return engine.migrate(source.url(), place(destination), **options)


def test_an_object_is_read_back_without_a_head(engine: Engine) -> None:
    dav = Dav(folders={b"/", b"/new/", b"/new/folder/"})
    done = outcome_of(engine, dav)
    assert done.receipt is not None
    assert done.receipt.level is Level.READ_BACK
    assert dav.objects == {FINAL: DATA}
    assert dav.asked[dav.asked.index(b"PUT") :][:3] == [b"PUT", b"GET", b"MOVE"]


def test_a_head_without_a_digest_is_remembered(engine: Engine) -> None:
    dav, script = Dav(), source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 60) as peer:
        for name in ("a", "b"):
            dav.asked.clear()
            engine.migrate(source.url("/a"), webdav_location(peer.url(f"/to/{name}")))
    assert dav.asked[dav.asked.index(b"PUT") :][:3] == [b"PUT", b"GET", b"MOVE"]


def test_a_damaged_upload_that_is_read_at_once_is_not_published(engine: Engine) -> None:
    dav = Dav(damage=True)
    with pytest.raises(IntegrityMismatch):
        outcome_of(engine, dav)
    assert dav.objects == {}
    assert b"MOVE" not in dav.asked


@pytest.mark.parametrize("status", [401, 403, 405])
def test_an_upload_that_denies_reading_has_its_size_compared(engine: Engine, status: int) -> None:
    done = outcome_of(engine, Dav(answers={b"GET": [EMPTY % status] * 9}))
    assert done.receipt is not None
    assert done.receipt.level is Level.SIZE
    assert any("could not be read back" in note for note in done.receipt.notes)
    assert not any("does not report" in note for note in done.receipt.notes)


def test_an_upload_that_is_read_back_late_is_waited_for(engine: Engine) -> None:
    engine.runner.limits = replace(engine.runner.limits, settle_seconds=10)
    dav = Dav(answers={b"GET": [NO], b"HEAD": [NO]})
    assert outcome_of(engine, dav).state is State.VERIFIED
    assert dav.asked.count(b"PUT") == 1
    assert dav.objects == {FINAL: DATA}


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_without_move_is_refused_with_the_way_out(engine: Engine, status: int) -> None:
    dav = Dav(answers={b"MOVE": [EMPTY % status]})
    with pytest.raises(RelayError) as caught:
        migrate(engine, dav)
    assert "http://" in caught.value.hint
    assert dav.objects == {}


def test_f38_the_outcome_of_a_lost_move_is_determined(engine: Engine) -> None:
    dav = Dav(hanging={b"MOVE"})
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"MOVE") == 1


def test_an_upload_that_vanishes_during_the_move_fails(engine: Engine) -> None:
    dav = Dav(answers={b"MOVE": [EMPTY % 201]})
    with pytest.raises(DestinationLost):
        migrate(engine, dav)


def test_an_existing_object_is_left_alone_on_request(engine: Engine) -> None:
    dav = Dav(objects={FINAL: b"old"})
    with pytest.raises(AlreadyExists):
        migrate(engine, dav, if_exists="fail")
    assert migrate(engine, dav, if_exists="skip") is State.SKIPPED
    assert dav.objects == {FINAL: b"old"}


class Between(Dav):
    """Another writer stores an object there right before the MOVE."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"MOVE":
            self.objects[FINAL] = b"theirs"
        return super()._done(method, path, request, body)


class Negotiates(Dav):
    """Serves `object.bin.txt` for `object.bin` if that does not exist: Apache with MultiViews."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"PROPFIND" and path == FINAL:
            row = MULTISTATUS.replace(b"/x", FINAL + b".txt")
            return b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(row), row)
        if method == b"MOVE":
            return EMPTY % 412
        return super()._done(method, path, request, body)


def test_another_object_served_for_a_name_is_kept(engine: Engine) -> None:
    dav = Negotiates(objects={FINAL + b".txt": b"other"})
    with pytest.raises(KeyCollision):
        migrate(engine, dav)
    assert dav.objects == {FINAL + b".txt": b"other"}
    assert dav.asked.count(b"MOVE") == 1


def test_a_concurrent_writer_is_not_overwritten(engine: Engine) -> None:
    """The object appears after the inspection: MOVE answers 412."""
    dav = Between()
    assert migrate(engine, dav, if_exists="skip") is State.SKIPPED
    assert dav.objects == {FINAL: b"theirs"}


def test_a_412_to_a_move_to_an_absent_name_skips_nothing(engine: Engine) -> None:
    dav = Dav(answers={b"MOVE": [EMPTY % 412]})
    with pytest.raises(Unavailable):
        migrate(engine, dav, if_exists="skip")
    assert dav.objects == {}


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_copy_does_not_overwrite_a_concurrent_writer(engine: Engine, if_exists: str) -> None:
    dav = Between(objects={b"/old": DATA})
    with Peer([dav] * 30) as peer:
        old = webdav_location(peer.url("/old"))
        if if_exists == "skip":
            assert engine.migrate(old, place(peer), if_exists=if_exists).state is State.SKIPPED
        else:
            with pytest.raises(AlreadyExists):
                engine.migrate(old, place(peer), if_exists=if_exists)
    assert b"COPY" in dav.asked
    assert b"PUT" not in dav.asked
    assert dav.objects == {b"/old": DATA, FINAL: b"theirs"}


@pytest.mark.parametrize(("status", "error"), [(500, None), (403, PermissionDenied)])
def test_a_copy_of_an_unreadable_source_leaves_nothing(
    patient_engine: Engine, status: int, error: type[RelayError] | None
) -> None:
    """The next attempt copies to the same name."""
    dav = Dav(objects={b"/old": DATA}, answers={b"GET": [EMPTY % status]})
    with Peer([dav] * 40) as peer:
        transfer = patient_engine.runner.transfer(
            patient_engine.plan(webdav_location(peer.url("/old")), place(peer))
        )
        transfer.known = ObjectHints(token="0123456789abcdef")
        with pytest.raises(error) if error else nullcontext():
            assert patient_engine.runner.run(transfer).state is State.VERIFIED
    assert dav.objects == {b"/old": DATA} | ({} if error else {FINAL: DATA})


def test_a_part_that_cannot_be_removed_is_named(engine: Engine) -> None:
    dav = Dav(answers={b"DELETE": [EMPTY % 403]})
    with pytest.raises(SourceTruncated) as caught:
        migrate(engine, dav, fixed_answer(GET_HEAD, DATA[:1000]))
    assert "may remain" in caught.value.hint


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_damaged_object_is_removed_after_a_passing_refusal(engine: Engine, refused: int) -> None:
    dav = Dav(answers={b"DELETE": [EMPTY % 503] * refused}, damage=True)
    with pytest.raises(IntegrityMismatch) as caught:
        migrate(engine, dav)
    assert ("may remain" in caught.value.hint, bool(dav.objects)) == (refused == 3,) * 2


class Misreading(Dav):
    """Splits a Destination after it has decoded it, and replaces a folder, as WsgiDAV does."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method in (b"MOVE", b"COPY"):
            request = re.sub(
                rb"(\r\nDestination: [^\r]*?)(%3[Ff]|%3[Bb][^\r/]*\r)[^\r]*", rb"\1\r", request
            )
            request = request.replace(b"\r\r", b"\r")
            to = b"/" + request.partition(b"\r\nDestination: ")[2].split(b"\r")[0].split(b"/", 3)[3]
            if to == path:
                return EMPTY % 403
            below = [name for name in self.objects if name.startswith(to + b"/")]
            if below and b"Overwrite: F" in request:
                return EMPTY % 412
            for name in below:
                del self.objects[name]
        return super()._done(method, path, request, body)


def migrate_misread(engine: Engine, dav: Dav, name: str, **options: object) -> State:
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 60) as peer:
        there = webdav_location(peer.url(name))
        return engine.migrate(source.url("/a"), there, **options).state


CUT_NAMES = [
    "/to/q%3Fx",
    "/to/q%3Bx",
    "/to/q.a%3Fb",
    "/to/q%3F/x.y",
    "/%3Fx",
    "/q%3f%3Bx",
    "/q%3F/a%3Fb",
]


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
@pytest.mark.parametrize("others", [[], ["/to/q", "/q"], ["/to/q/in", "/q/in"]])
@pytest.mark.parametrize("name", CUT_NAMES)
def test_a_name_that_the_server_cuts_changes_no_other(
    engine: Engine, name: str, others: list[str], if_exists: str
) -> None:
    """Neither is an object left under the cut name: there it would count as another object."""
    old = {other.encode(): b"another" for other in others}
    if if_exists != "skip":
        old[name.encode()] = b"x" * len(DATA)
    dav = Misreading(objects=dict(old))
    with pytest.raises(Rejected, match="may cut the name") as caught:
        migrate_misread(engine, dav, name, if_exists=if_exists)
    assert dav.objects == old
    assert "Rename" in caught.value.hint
    assert "may remain" not in caught.value.hint
    assert dav.asked.count(b"PUT") == 1


class Proxied(Dav):
    """Behind a proxy that cuts the names of requests, and leaves a Destination as it is."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        return super()._done(method, re.sub(rb"%3[Ff].*", b"", path), request, body)


def test_a_proxy_that_cuts_names_leaves_no_temporary_object(engine: Engine) -> None:
    """No request could delete one whose own name is cut."""
    dav = Proxied()
    with pytest.raises(Rejected, match="may cut the name") as caught:
        migrate_misread(engine, dav, "/to/q%3Fx")
    assert dav.objects == {}
    assert "may remain" not in caught.value.hint


@pytest.mark.parametrize("name", CUT_NAMES)
def test_a_name_that_no_server_cuts_is_replaced(engine: Engine, name: str) -> None:
    old = {b"/to/q": b"another", b"/q/in": b"another", name.encode(): b"old"}
    dav = Dav(objects=dict(old))
    for _ in range(2):
        dav.asked.clear()
        assert migrate_misread(engine, dav, name) is State.VERIFIED
        assert dav.objects == {**old, name.encode(): DATA}


def test_a_server_is_tested_once_for_whole_names(engine: Engine) -> None:
    dav, script = Dav(), source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 60) as peer:
        for name in ("a", "b"):
            engine.migrate(source.url("/a"), webdav_location(peer.url(f"/to/q%3F/{name}")))
    assert dav.asked.count(b"MOVE") == 3 + 1 + 1
    assert dav.objects == {b"/to/q%3F/a": DATA, b"/to/q%3F/b": DATA}


@pytest.mark.parametrize("name", CUT_NAMES)
@pytest.mark.parametrize("answer", [b"", *(EMPTY % status for status in (405, 401, 507, 500))])
def test_a_failed_move_between_temporary_names_leaves_nothing(
    engine: Engine, name: str, answer: bytes
) -> None:
    for number in range(4):

        class Failing(Dav):
            """Fails at one MOVE, which may be done."""

            left = number

            def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
                if method != b"MOVE":
                    return super()._done(method, path, request, body)
                self.left -= 1
                if self.left == -1 and answer:
                    return answer
                done = super()._done(method, path, request, body)
                return answer if self.left == -1 else done

        dav = Failing()
        with suppress(RelayError):
            migrate_misread(engine, dav, name)
        assert set(dav.objects) <= {name.encode()}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("webdav://dav.example/a/b", "http://dav.example/a/b"),
        ("WebDAV+HTTPS://dav.example:8443/a", "https://dav.example:8443/a"),
    ],
)
def test_the_schemes(text: str, url: str) -> None:
    location = Remotes().locate(text)
    assert (location.store, location.url) == ("webdav", url)
    assert str(location) == f"webdav+{url}"


def test_a_destination_with_a_query_is_refused() -> None:
    """Its folders and temporary names would lack it."""
    text = "webdav://dav.example/a/b?pw=secret"
    assert Remotes().locate(text).query == "pw=secret"
    with pytest.raises(InvalidURL) as caught:
        Remotes().locate(text, destination=True)
    assert "secret" not in str(caught.value)


def test_names_of_unfinished_uploads_are_reserved() -> None:
    with pytest.raises(UnsafeKey) as caught:
        Remotes().locate(
            "webdav://dav.example/a/.relay-0.part", destination=True, pointer="/destination"
        )
    assert caught.value.pointer == "/destination"
    with pytest.raises(InvalidType):
        Remotes().locate("webdav://dav.example/a", destination=True, method="POST")


def test_the_scripted_server_is_a_server() -> None:
    """The script itself answers like HTTP, or the tests above would prove nothing."""
    with Peer([Dav(objects={FINAL: b"x"})] * 2) as peer:
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(peer.url().split(":")[2].split("/")[0]), timeout=5
        )
        connection.request("GET", FINAL.decode())
        assert connection.getresponse().read() == b"x"
        connection.close()


# -- space, locks, folders


@pytest.mark.parametrize("method", [b"PUT", b"MKCOL", b"MOVE"])
def test_f48_a_full_server_fails_at_once_and_leaves_nothing(
    patient_engine: Engine, method: bytes
) -> None:
    dav = Dav(answers={method: [EMPTY % 507] * 9})
    with pytest.raises(StoreFull) as caught:
        migrate(patient_engine, dav)
    assert caught.value.side == "destination"
    assert dav.asked.count(method) == 1
    assert dav.objects == {}


@pytest.mark.parametrize("method", [b"PUT", b"MOVE"])
def test_f49_a_lock_is_waited_for_and_reported_if_it_stays(
    engine: Engine, patient_engine: Engine, method: bytes
) -> None:
    assert migrate(patient_engine, Dav(answers={method: [EMPTY % 423]})) is State.VERIFIED
    dav = Dav(answers={method: [EMPTY % 423] * 9}, objects={FINAL: b"old"})
    with pytest.raises(Locked):
        migrate(engine, dav)
    assert dav.objects == {FINAL: b"old"}


def test_f49_a_folder_that_never_appears_is_an_error(engine: Engine) -> None:
    """Every MKCOL is refused because the folder above is missing, even after it was created."""
    dav = Dav(answers={b"MKCOL": [EMPTY % 409] * 500})
    with pytest.raises(Rejected):
        migrate(engine, dav)
    assert dav.asked.count(b"MKCOL") == 1


def test_a_name_that_is_refused_late_is_changed(
    patient_engine: Engine,
) -> None:
    """Both are under way with the first name; one is refused after the other was moved under the
    second."""
    over = threading.Event()

    class Late(Dav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method == b"PUT" and path.endswith(b".part"):
                assert not path.startswith(b"/late/") or over.wait(20)
                return EMPTY % 403
            return super()._done(method, path, request, body)

    dav = Late(folders={b"/", b"/late/", b"/new/", b"/new/folder/"})
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        there = webdav_location(destination.url("/late/object.bin"), destination=True)
        late = gevent.spawn(patient_engine.migrate, source.url(), there)
        while b"PUT" not in dav.asked:
            gevent.sleep(0.01)
        assert patient_engine.migrate(source.url(), place(destination)).state is State.VERIFIED
        over.set()
        assert late.get(timeout=60).state is State.VERIFIED
    assert dav.objects == {FINAL: DATA, b"/late/object.bin": DATA}


class Nested(Dav):
    """Makes an object or a folder only in an existing folder."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        above = path.rstrip(b"/").rpartition(b"/")[0] + b"/"
        made = method in (b"PUT", b"MKCOL")
        return (
            EMPTY % 409
            if made and above not in self.folders
            else super()._done(method, path, request, body)
        )


@pytest.mark.parametrize("propfind", [True, False])
def test_f49_removed_folders_are_made_again(patient_engine: Engine, propfind: bool) -> None:
    """The process remembers that all of them existed: a server may live for months."""
    dav = Nested(answers={} if propfind else {b"PROPFIND": [EMPTY % 405] * 99})
    made = {b"/", b"/new/", b"/new/folder/"}
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 60) as destination:
        for _ in range(2):
            assert patient_engine.migrate(source.url(), place(destination)).state is State.VERIFIED
            assert (dav.folders, dav.objects) == (made, {FINAL: DATA})
            dav.folders, dav.objects = {b"/"}, {}


@pytest.mark.parametrize("fails", [0, 1])
def test_a_new_folder_is_made_once_for_concurrent_objects(
    patient_engine: Engine, fails: int
) -> None:
    """If the first one fails, the others make it."""

    class Slow(Dav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method == b"PROPFIND":
                time.sleep(0.3)  # all objects are under way by then
            return super()._done(method, path, request, body)

    dav = Slow(answers={b"MKCOL": [EMPTY % 403] * fails})
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 16) as source, Peer([dav] * 90) as peer:

        def move(name: str) -> bool:
            there = webdav_location(peer.url(f"/new/folder/{name}"), destination=True)
            with suppress(PermissionDenied):
                return patient_engine.migrate(source.url(f"/{name}"), there).state is State.VERIFIED
            return False

        moves = [gevent.spawn(move, name) for name in "abcdefgh"]
        gevent.joinall(moves, timeout=60)
    assert sum(one.value for one in moves) == 8 - fails
    assert dav.folders == {b"/", b"/new/", b"/new/folder/"}
    if not fails:
        assert dav.asked.count(b"MKCOL") == 2
        before = dav.asked[: dav.asked.index(b"PUT")]
        assert before.count(b"PROPFIND") == 2


@pytest.mark.parametrize("status", [403, 409, 500])
def test_a_folder_created_concurrently_is_accepted(patient_engine: Engine, status: int) -> None:
    """Two objects of one new folder: Apache answers 403 to the second MKCOL while the first one
    runs."""

    class Slower(Dav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method != b"MKCOL":
                shown = MULTISTATUS.replace(
                    b"<d:resourcetype/>", b"<d:resourcetype><d:collection/></d:resourcetype>"
                )
                folder = method == b"PROPFIND" and path in self.folders
                head = b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(shown), shown)
                return head if folder else super()._done(method, path, request, body)
            self.folders.add(path)
            return EMPTY % status

    dav = Slower()
    assert migrate(patient_engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1


def test_f52_a_server_that_changes_bytes_is_reported_once(
    patient_engine: Engine,
) -> None:
    """Like a server that writes its own properties into documents, which it recognises by their
    final name."""
    dav = Dav()

    class Objects(dict[bytes, bytes]):
        def __setitem__(self, path: bytes, data: bytes) -> None:
            super().__setitem__(path, data + b"!" if path == FINAL else data)

    dav.objects = Objects()
    with pytest.raises(DestinationMutates) as caught:
        migrate(patient_engine, dav)
    assert not caught.value.retryable
    assert dav.objects == {FINAL: DATA + b"!"}
    assert dav.asked.count(b"MOVE") == 1


def test_b60_an_overwriting_move_needs_an_object_there(engine: Engine) -> None:
    """And the entry is an object, as far as the server reports."""
    new, old = Dav(), Dav(objects={FINAL: b"old"})
    for dav, moves in ((new, 1), (old, 2)):
        assert migrate(engine, dav) is State.VERIFIED
        assert dav.asked.count(b"MOVE") == moves
        assert dav.objects == {FINAL: DATA}


HEADLESS = {
    **{str(status): EMPTY % status for status in (400, 403, 404, 405, 410, 501)},
    "closed": b"",
}
"""Answers to HEAD of a server that supports only GET and PROPFIND."""


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
@pytest.mark.parametrize("answer", HEADLESS.values(), ids=HEADLESS)
def test_propfind_finds_an_object_where_head_is_useless(
    engine: Engine, answer: bytes, if_exists: str
) -> None:
    dav = Dav(
        answers={b"HEAD": [answer] * 30},
        folders={b"/", b"/new/", b"/new/folder/"},
        objects={FINAL: b"old"},
    )
    if if_exists == "skip":
        assert migrate(engine, dav, if_exists=if_exists) is State.SKIPPED
    else:
        with pytest.raises(AlreadyExists):
            migrate(engine, dav, if_exists=if_exists)
    assert dav.objects == {FINAL: b"old"}
    assert b"PUT" not in dav.asked


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
@pytest.mark.parametrize("answer", HEADLESS.values(), ids=HEADLESS)
def test_an_object_arrives_where_head_is_useless(
    engine: Engine, answer: bytes, if_exists: str
) -> None:
    dav = Dav(answers={b"HEAD": [answer] * 30})
    assert migrate(engine, dav, if_exists=if_exists) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1


@pytest.mark.parametrize("answer", HEADLESS.values(), ids=HEADLESS)
def test_a_source_without_a_useful_head_is_inspected_by_get(
    engine: Engine, tmp_path: Path, answer: bytes
) -> None:
    dav = Dav(answers={b"HEAD": [answer] * 30}, objects={FINAL: DATA})
    there = local_location(tmp_path / "a", destination=True)
    with Peer([dav] * 20) as peer:
        assert (
            engine.migrate(webdav_location(peer.url(FINAL.decode())), there).state is State.VERIFIED
        )
        dav.objects.clear()
        with pytest.raises(NotFound):
            engine.migrate(webdav_location(peer.url(FINAL.decode())), there)
    assert (tmp_path / "a").read_bytes() == DATA


def test_propfind_finds_the_outcome_of_a_lost_move(
    engine: Engine,
) -> None:
    dav = Dav(answers={b"HEAD": [EMPTY % 405] * 20}, hanging={b"MOVE"})
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1


def refusing_server(status: int, *patterns: str) -> type[Dav]:
    """Return a server that refuses to create a name that matches one of the patterns."""

    class Refusing(Dav):
        names: list[str]

        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            to = request.partition(b"\r\nDestination: ")[2].partition(b"\r\n")[0]
            made = (
                to if method in (b"MOVE", b"COPY") else path if method == b"PUT" else b""
            ).decode()
            name = made.rpartition("/")[2]
            if name:
                self.names.append(name)
            if any(re.fullmatch(pattern, name) for pattern in patterns):
                return EMPTY % status
            return super()._done(method, path, request, body)

    return Refusing


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 415, 422])
@pytest.mark.parametrize(
    "patterns",
    [
        (r".*\.part", r".*\.filepart"),
        (r"\..*",),
        (r"\..*", r"~\$.*", r".*\.part"),
        (r".*\.part", r".*\.upload"),
    ],
    ids=["part", "dot", "dot and part", "all but the object's own ending"],
)
def test_b_reserved_names_are_not_used(
    patient_engine: Engine, status: int, patterns: tuple[str, ...]
) -> None:
    """The first upload determines which name is accepted; later ones use that one."""
    dav = refusing_server(status, *patterns)()
    dav.names = []
    assert migrate(patient_engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    dav.objects.clear()
    dav.names.clear()
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        for _ in range(2):
            patient_engine.migrate(source.url(), place(destination))
        assert (
            len([name for name in dav.names if "relay-" in name]) <= 4
        )  # three for the first, one for the second
    assert dav.objects == {FINAL: DATA}


@pytest.mark.parametrize("busy", [423, 429, 500, 503])
@pytest.mark.parametrize("patterns", [(r".*\.part",), (r".*\.part", r".*\.upload")])
def test_a_passing_failure_does_not_reject_a_name(
    patient_engine: Engine, busy: int, patterns: tuple[str, ...]
) -> None:
    """A name that was refused is not tried again after it."""
    dav = refusing_server(400, *patterns)()
    dav.names, done, busy_ones = [], dav._done, [EMPTY % busy]

    def busy_once(method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        answer = done(method, path, request, body)
        return (
            busy_ones.pop() if method == b"PUT" and answer == EMPTY % 201 and busy_ones else answer
        )

    dav._done = busy_once  # type: ignore[method-assign]
    assert migrate(patient_engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert len([name for name in dav.names if "relay-" in name]) == len(patterns) + 2


@pytest.mark.parametrize("answer", [200, 201, 204])
@pytest.mark.parametrize("patterns", [(r".*\.part",), (r"\..*",), (r".*\.part", r".*\.upload")])
def test_an_acknowledged_upload_that_vanished_took_no_name(
    patient_engine: Engine, answer: int, patterns: tuple[str, ...]
) -> None:
    dav = refusing_server(400, *patterns)(answers={b"PUT": [EMPTY % answer]})
    dav.names = []
    assert migrate(patient_engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}


@pytest.mark.parametrize("status", [400, 403, 409, 415, 422])
@pytest.mark.parametrize("patterns", [(r".*\.part",), (r"\..*",), (r".*\.part", r".*\.upload")])
def test_a_copy_uses_a_name_the_server_accepts(
    patient_engine: Engine, status: int, patterns: tuple[str, ...]
) -> None:
    """Like an upload: relay moves no byte to find a name; and the next copy begins with that
    one."""
    dav = refusing_server(status, *patterns)(objects={b"/from.bin": DATA})
    dav.names = []
    with Peer([dav] * 30) as peer:
        for name in ("/new/a.bin", "/new/b.bin"):
            tried = len(dav.names)
            there = webdav_location(peer.url(name), destination=True)
            outcome = patient_engine.migrate(webdav_location(peer.url("/from.bin")), there)
            assert (outcome.state, outcome.receipt and outcome.receipt.notes) == (
                State.VERIFIED,
                (_COPIED,),
            )
    assert len(dav.names) - tried == 2  # COPY, MOVE
    assert dav.objects == dict.fromkeys((b"/from.bin", b"/new/a.bin", b"/new/b.bin"), DATA)
    assert b"PUT" not in dav.asked


@pytest.mark.parametrize("status", [400, 403, 405, 409, 501])
def test_a_copy_refused_under_every_name_becomes_an_upload(
    patient_engine: Engine, status: int
) -> None:
    class Copyless(Dav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            return (
                EMPTY % status if method == b"COPY" else super()._done(method, path, request, body)
            )

    dav = Copyless(objects={b"/from.bin": DATA})
    with Peer([dav] * 30) as peer:
        there = webdav_location(peer.url("/new/a.bin"), destination=True)
        assert (
            patient_engine.migrate(webdav_location(peer.url("/from.bin")), there).state
            is State.VERIFIED
        )
    assert dav.objects == dict.fromkeys((b"/from.bin", b"/new/a.bin"), DATA)
    copies = {405: 1, 501: 1, 400: 6}.get(
        status, 3
    )  # a 400 may be about the Destination, which becomes a path then
    assert dav.tried.count(b"COPY") == copies
    assert b"COPY" not in dav.asked


class SlowCopies(Dav):
    """Finishes a copy long after relay, or a proxy (`gateway`), has stopped to wait for it."""

    gateway = False
    uploaded = b""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"PUT":
            self.uploaded = path
        if method != b"COPY" or path != b"/old":
            return super()._done(method, path, request, body)
        if self.gateway:
            threading.Timer(1.5, super()._done, (method, path, request, body)).start()
            return EMPTY % 504
        time.sleep(1.5)
        return super()._done(method, path, request, body)


@pytest.mark.parametrize("gateway", [False, True])
def test_a_copy_that_takes_too_long_becomes_an_upload(
    certificates: Certificates, gateway: bool
) -> None:
    engine = Engine(certificates.ca_file, replace(QUICK, head_seconds=0.4))
    dav = SlowCopies(objects={b"/old": DATA})
    dav.gateway = gateway
    with Peer([dav] * 30) as peer:
        done = engine.migrate(webdav_location(peer.url("/old")), place(peer))
        time.sleep(2)
    assert done.state is State.VERIFIED
    assert [dav.asked.count(method) for method in (b"COPY", b"PUT")] == [1, 1]
    [left] = dav.objects.keys() - {b"/old", FINAL}
    assert left != dav.uploaded  # the server may write there until the upload is published
    assert any(left.decode() in name for name in done.remains)


class SlowMoves(Dav):
    """Copies the object of a MOVE, which breaks if it is deleted meanwhile. It finishes long after
    relay, or a proxy (`gateway`), has stopped to wait for it."""

    gateway = False
    seconds = 1.5
    over = threading.Event()
    """Set to finish at once."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method != b"MOVE" or (b"Overwrite: F" in request and FINAL in self.objects):
            return super()._done(method, path, request, body)
        self.objects.pop(FINAL, None)
        if self.gateway:
            threading.Thread(target=self._end, args=(path,), daemon=True).start()
            return EMPTY % 504
        return self._end(path)

    def _end(self, path: bytes) -> bytes:
        self.over.wait(self.seconds)
        if path not in self.objects:
            return EMPTY % 500
        self.objects[FINAL] = self.objects.pop(path)
        return EMPTY % 201


@pytest.mark.parametrize("old", [{}, {FINAL: b"old"}], ids=["new", "replaced"])
@pytest.mark.parametrize("gateway", [False, True])
def test_a_move_that_takes_too_long_is_waited_for(
    certificates: Certificates, gateway: bool, old: dict[bytes, bytes]
) -> None:
    engine = Engine(certificates.ca_file, replace(QUICK, head_seconds=1))
    dav = SlowMoves(objects=dict(old))
    dav.gateway = gateway
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1
    assert dav.asked.count(b"MOVE") == 1 + bool(old)


@pytest.mark.parametrize("old", [{}, {FINAL: b"old"}], ids=["new", "replaced"])
def test_the_upload_of_a_move_without_an_answer_is_named(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, old: dict[bytes, bytes]
) -> None:
    monkeypatch.setattr("relay.stores.webdav.moves.LATE", 1)
    engine = Engine(certificates.ca_file, replace(QUICK, head_seconds=1))
    dav = SlowMoves(objects=dict(old))
    dav.gateway, dav.seconds, dav.over = True, 60, threading.Event()
    with pytest.raises(Unavailable) as caught:
        migrate(engine, dav)
    [left] = dav.objects
    assert left.decode() in caught.value.hint
    assert b"DELETE" not in dav.asked
    dav.over.set()
    eventually(lambda: dav.objects == {FINAL: DATA})


def test_a_denial_under_every_name_is_a_denial(patient_engine: Engine) -> None:
    dav = refusing_server(403, ".*")()
    dav.names = []
    with pytest.raises(PermissionDenied) as caught:
        migrate(patient_engine, dav)
    assert not caught.value.retryable
    assert len(dav.names) == 3
    assert dav.objects == {}


@pytest.mark.parametrize("name", ["a.bin", "a", ".hidden", "a.b c", "a." + "x" * 40])
def test_an_upload_is_recognised_under_every_possible_name(name: str) -> None:
    token = "019abc12-3456-12-3"
    found = temporary_names(token, name)
    assert len(set(found)) == 3
    assert all(is_temporary_name(one) for one in found)
    assert not any(one.startswith(".") or one.endswith((".part", ".filepart")) for one in found[1:])
    assert not is_temporary_name(name)


@pytest.mark.parametrize(
    "name", ["relay-notes.upload", "relay-1.upload", "relay-race.part", "relay-0123456789abcdef"]
)
def test_a_user_name_is_not_an_upload(name: str) -> None:
    assert not is_temporary_name(name)


class Behind(Dav):
    """A server that treats a Destination that is a URL as one of another server."""

    refuses_paths = False

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        to = request.partition(b"\r\nDestination: ")[2].partition(b"\r\n")[0]
        if method in (b"MOVE", b"COPY") and (b"://" in to or self.refuses_paths):
            return EMPTY % self.status
        return super()._done(
            method, path, request.replace(b"Destination: /", b"Destination: http://h/"), body
        )

    status = 502


@pytest.mark.parametrize("status", [400, 502])
@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_behind_a_proxy_that_ends_tls_a_destination_is_a_path(
    engine: Engine, status: int, copied: bool
) -> None:
    dav = Behind()
    dav.status = status
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 8) as source,
        Peer([dav] * 40) as destination,
    ):
        engine.migrate(source.url(), place(destination))
        if copied:
            other = webdav_location(destination.url("/new/folder/other"), destination=True)
            engine.migrate(place(destination), other)
        dav.asked.clear()
        engine.migrate(source.url(), place(destination))
    assert dav.objects[FINAL] == DATA
    assert (
        dav.asked.count(b"MOVE") == 2
    )  # 412 to the first, since an object is there; no URL was tried


def test_a_server_that_accepts_neither_is_named_with_the_cause(engine: Engine) -> None:
    dav = Behind()
    dav.refuses_paths = True
    with pytest.raises(RelayError) as caught:
        migrate(engine, dav)
    assert "proxy" in caught.value.hint
    assert dav.asked.count(b"MOVE") == 2
    assert dav.objects == {}


# -- a folder with the object's name


def multistatus(*hrefs: bytes) -> bytes:
    rows = b"".join(b"<d:response><d:href>%s</d:href></d:response>" % href for href in hrefs)
    text = b'<d:multistatus xmlns:d="DAV:">%s</d:multistatus>' % rows
    return b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


@dataclass
class Taken(Dav):
    """A server with a folder of the object's name, for which HEAD and PROPFIND give the answers of
    a test. A MOVE that may overwrite removes it with all its content (RFC 4918 section 9.9.3)."""

    headed: bytes = EMPTY % 405
    propfind: bytes = multistatus(FINAL + b"/")
    folders: set[bytes] = field(
        default_factory=lambda: {b"/", b"/new/", b"/new/folder/", FINAL + b"/"}
    )

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if path.rstrip(b"/") == FINAL and method in (b"PROPFIND", b"HEAD", b"GET"):
            return self.propfind if method == b"PROPFIND" else self.headed
        if method == b"MOVE" and b"Overwrite: F" in request:
            return EMPTY % 412
        if method == b"MOVE":
            self.folders.discard(FINAL + b"/")
        return super()._done(method, path, request, body)


@pytest.mark.parametrize(
    "answer", [*(EMPTY % status for status in (302, 400, 401, 403, 429, 500, 503)), multistatus()]
)
def test_a_possible_folder_is_not_overwritten(engine: Engine, answer: bytes) -> None:
    dav = Taken(propfind=answer)
    with pytest.raises(RelayError):
        migrate(engine, dav)
    assert FINAL + b"/" in dav.folders
    assert not dav.objects


@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed", "overwrite"])
@pytest.mark.parametrize(
    "headed",
    [
        *(EMPTY % status for status in (200, 403, 405, 501)),
        b'HTTP/1.1 200 X\r\nContent-Length: 0\r\nETag: "x"\r\n\r\n',
    ],
)
def test_a_folder_with_an_objects_name_is_not_that_object(
    engine: Engine, headed: bytes, if_exists: str
) -> None:
    dav = Taken(headed=headed)
    with pytest.raises(Rejected, match="is a folder there"):
        migrate(engine, dav, if_exists=if_exists)
    assert FINAL + b"/" in dav.folders
    assert not dav.objects


@pytest.mark.parametrize("status", [500, 503])
def test_nothing_is_skipped_where_a_folder_may_stand(engine: Engine, status: int) -> None:
    with pytest.raises(RelayError):
        migrate(engine, Taken(headed=EMPTY % 200, propfind=EMPTY % status), if_exists="skip")


@pytest.mark.parametrize("status", [201, 204])
def test_a_move_that_replaced_nothing_fails(engine: Engine, status: int) -> None:
    """The object there has the right length, and is the old one: the server reports a move that it
    did not make."""
    old = b"x" * len(DATA)
    dav = Dav(objects={FINAL: old}, answers={b"MOVE": [EMPTY % 412, EMPTY % status]})
    with pytest.raises(DestinationLost):
        migrate(engine, dav)
    assert dav.objects == {FINAL: old}
    again = Dav(objects={FINAL: old}, answers={b"MOVE": [EMPTY % 412, EMPTY % status]})
    engine.runner.settings = replace(engine.runner.settings, retry_budget=10)
    assert migrate(engine, again) is State.VERIFIED
    assert again.objects == {FINAL: DATA}


@pytest.mark.parametrize("status", [201, 204])
def test_an_acknowledged_move_that_did_not_happen_fails(engine: Engine, status: int) -> None:
    """As above, at a server that ignores `Overwrite: F`, or supports no MOVE at all."""
    old = b"x" * len(DATA)
    dav = Dav(objects={FINAL: old}, answers={b"MOVE": [EMPTY % status]})
    with pytest.raises(DestinationLost):
        migrate(engine, dav)
    assert dav.objects == {FINAL: old}


@pytest.mark.parametrize("moves", [True, False])
def test_get_alone_finds_the_outcome_of_a_move(engine: Engine, moves: bool) -> None:
    class Blind(Dav):
        """It supports neither HEAD nor PROPFIND."""

        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method in (b"HEAD", b"PROPFIND", b"MKCOL"):
                return EMPTY % 405
            return (
                EMPTY % 201
                if method == b"MOVE" and not moves
                else super()._done(method, path, request, body)
            )

    dav = Blind()
    if moves:
        assert migrate(engine, dav) is State.VERIFIED
        assert dav.objects == {FINAL: DATA}
    else:
        with pytest.raises(DestinationLost):
            migrate(engine, dav)


@pytest.mark.parametrize("if_exists", ["overwrite", "changed"])
def test_a_possible_folder_is_not_moved_over(engine: Engine, if_exists: str) -> None:
    """PROPFIND reports an entry without its type: a MOVE that may overwrite replaces a folder with
    all its content."""
    href = b"<d:response><d:href>%s</d:href>%%s</d:response>" % FINAL
    denied = b"<d:propstat><d:prop><d:resourcetype/></d:prop><d:status>HTTP/1.1 403 X</d:status></d:propstat>"
    tag = b"<d:propstat><d:prop><d:getetag>x</d:getetag></d:prop><d:status>HTTP/1.1 200 X</d:status></d:propstat>"
    for row in (b"", tag, tag + denied):
        text = b'<d:multistatus xmlns:d="DAV:">%s</d:multistatus>' % (href % row)
        dav = Taken(propfind=b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        dav.objects[FINAL + b"/in"] = b"theirs"
        with pytest.raises(RelayError, match="folder"):
            migrate(engine, dav, if_exists=if_exists)
        assert dav.objects == {FINAL + b"/in": b"theirs"}


def test_a_cached_head_undoes_no_move(engine: Engine) -> None:
    """The name that was moved away is shown for a while, as by nginx's `open_file_cache`; to DELETE
    it is absent."""

    class Cached(Dav):
        """HEAD shows the temporary name forever."""

        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method == b"HEAD" and is_temporary_name(path.decode().rpartition("/")[2]):
                return GET_HEAD
            return super()._done(method, path, request, body)

    dav = Cached(objects={FINAL: b"old"})
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}


class Stale(Dav):
    """HEAD shows the prior object at the final name, a number of times after the MOVE."""

    shown = 2

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"HEAD" and path == FINAL and self.objects.get(FINAL) == DATA and self.shown:
            self.shown -= 1
            return b'HTTP/1.1 200 X\r\nContent-Length: 3\r\nETag: "old"\r\n\r\n'
        answer = super()._done(method, path, request, body)
        tag = b"old" if self.objects.get(path) == b"old" else b"new"
        return answer.replace(b"200 X\r\n", b'200 X\r\nETag: "%s"\r\n' % tag)


@pytest.mark.parametrize("if_exists", ["changed", "overwrite"])
def test_a_destination_that_shows_the_old_object_is_polled(engine: Engine, if_exists: str) -> None:
    """Like nginx with `open_file_cache`, which has cached the old one in the earlier inspection."""
    dav = Stale(objects={FINAL: b"old"})
    engine.runner.limits = replace(engine.runner.limits, settle_seconds=10)
    assert migrate(engine, dav, if_exists=if_exists) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.shown == 0
    assert dav.asked.count(b"PUT") == 1


def test_a_destination_that_keeps_the_old_object_fails(engine: Engine) -> None:
    dav = Stale(objects={FINAL: b"old"})
    dav.shown = 1000
    with pytest.raises(DestinationLost, match="still shows the old object"):
        migrate(engine, dav, if_exists="changed")
    assert dav.objects == {FINAL: DATA}


class Losing(Dav):
    """Loses an object that it acknowledges to have moved, and shows an entity tag of each name's
    bytes."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"MOVE":
            del self.objects[path]
            return EMPTY % 201
        answer = super()._done(method, path, request, body)
        tag = hashlib.sha256(self.objects.get(path, b"") + path).hexdigest().encode()
        return answer.replace(b"200 X\r\n", b'200 X\r\nETag: "%s"\r\n' % tag)


def test_the_old_object_of_the_same_length_is_not_the_new_one(engine: Engine) -> None:
    old = b"x" * len(DATA)
    dav = Losing(objects={FINAL: old})
    with pytest.raises(DestinationLost, match="still shows the old object"):
        migrate(engine, dav, if_exists="changed")
    assert dav.objects == {FINAL: old}


def test_an_object_that_has_the_tag_of_its_upload_is_the_new_one(engine: Engine) -> None:
    """A tag of size and time may be that of the old object too (Go's package)."""

    class Sized(Dav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            answer = super()._done(method, path, request, body)
            tag = b'200 X\r\nETag: "%d"\r\n' % len(self.objects.get(path, b""))
            return answer.replace(b"200 X\r\n", tag)

    dav = Sized(objects={FINAL: b"x" * len(DATA)})
    assert migrate(engine, dav, if_exists="changed") is State.VERIFIED
    assert dav.objects == {FINAL: DATA}


class Negative(Dav):
    """A cache answers each HEAD of the final name as it did before the upload: absent."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        cached = path == b"/to/a" and method == b"HEAD"
        return NO if cached else super()._done(method, path, request, body)


@pytest.mark.parametrize("if_exists", ["changed", "skip", "fail"])
def test_an_unproved_unseen_object_does_not_count_as_existing(
    tmp_path: Path, if_exists: str
) -> None:
    """Its publication failed, as its name showed nothing; then the object is there."""
    words = "--verify", "size", "--if-exists", if_exists
    dav, here = Negative(), str(plant(tmp_path))
    terminal = Terminal(tmp_path, RELAY_SETTLE_SECONDS="0.1", RELAY_RETRY_BUDGET="0")
    with Peer([dav] * 90) as there:
        to = f"webdav+{there.url('/to/')}"
        assert terminal.tree(here, to, *words)[0] == 1
        dav.__class__ = Dav
        code, report = terminal.tree(here, to, *words)
    assert dav.objects == {b"/to/a": DATA}
    assert (code, report["objects"]) == (3, {"unverified": 1})


class Headless(Dav):
    """It has no HEAD, and PROPFIND gives the object another version than GET does."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"HEAD":
            return EMPTY % 405
        if method == b"PROPFIND" and path in self.objects:
            properties = (
                b"<d:getcontentlength>%d</d:getcontentlength><d:getetag>one</d:getetag>"
                % len(self.objects[path])
            )
            status = b"<d:status>HTTP/1.1 200 OK</d:status>"
            row = b"<d:href>%s</d:href><d:propstat><d:prop>%s</d:prop>%s</d:propstat>" % (
                path,
                properties,
                status,
            )
            text = (
                b'<d:multistatus xmlns:d="DAV:"><d:response>%s</d:response></d:multistatus>' % row
            )
            return b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        if method == b"GET" and path in self.objects and b"If-Match" in request:
            return EMPTY % 412
        return (
            super()
            ._done(method, path, request, body)
            .replace(b"200 X\r\n", b'200 X\r\nETag: "one"\r\n')
        )


@pytest.mark.parametrize("if_exists", ["changed", "overwrite", "fail"])
def test_a_version_from_propfind_pins_no_get(engine: Engine, if_exists: str) -> None:
    dav = Headless(objects={FINAL: b"old"} if if_exists != "fail" else {})
    assert migrate(engine, dav, if_exists=if_exists) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}


def test_a_lost_answer_about_a_folder_makes_no_folder(wire: Wire) -> None:
    """Only an unreadable answer means that the server has no PROPFIND."""
    dav = Dav(answers={b"PROPFIND": [b"", b""]}, folders={b"/", b"/to/"})
    with Peer([dav] * 9) as peer:
        where = webdav_location(peer.url("/to/a"), destination=True)
        client = HttpClient(wire, "destination", Watchdog(wire.limits))
        with pytest.raises(ConnectionLost):
            DavFolders(client, Properties(client)).exists(where.with_target("/to/"))
    assert b"MKCOL" not in dav.asked


@pytest.mark.parametrize("busy", [429, 503])
def test_a_busy_answer_about_a_folder_makes_the_folder(wire: Wire, busy: int) -> None:
    """It reports nothing about the folder, which counted as existing: the next MKCOL failed for
    good."""
    dav = Dav(answers={b"PROPFIND": [NO, EMPTY % busy]})
    with Peer([dav] * 9) as peer:
        where = webdav_location(peer.url("/to/deep/a"), destination=True)
        client = HttpClient(wire, "destination", Watchdog(wire.limits))
        DavFolders(client, Properties(client)).make_above(where)
    assert {path.rstrip(b"/") for path in dav.folders} >= {b"/to", b"/to/deep"}


# -- servers that describe a folder as an object, process an upload later, or delete before a MOVE


@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed"])
def test_a_folder_with_a_tag_and_a_length_is_not_an_object(engine: Engine, if_exists: str) -> None:
    """As ownCloud Infinite Scale and OpenCloud answer HEAD of a folder."""

    class Tagged(Dav):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method == b"HEAD" and path == FINAL:
                return (
                    b'HTTP/1.1 200 X\r\nETag: "f"\r\nContent-Type: httpd/unix-directory\r\n'
                    b"Content-Length: %d\r\n\r\n" % len(DATA)
                )
            return super()._done(method, path, request, body)

    dav = Tagged()
    with pytest.raises(Rejected, match="is a folder there"):
        migrate(engine, dav, if_exists=if_exists)
    assert b"PUT" not in dav.asked


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
def test_an_upload_that_the_server_still_processes_is_waited_for(
    engine: Engine, method: bytes
) -> None:
    """As ownCloud Infinite Scale and OpenCloud, which answer 425 until an upload was processed."""
    dav = Dav(answers={method: [EMPTY % 425, EMPTY % 425]})
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1


def test_an_upload_that_is_processed_forever_is_reported(engine: Engine) -> None:
    dav = Dav(answers={b"GET": [EMPTY % 425] * 99})
    with pytest.raises(Unavailable, match="425") as caught:
        migrate(engine, dav)
    assert "RELAY_SETTLE_SECONDS" in caught.value.hint
    assert dav.objects == {}


class Deleting(Dav):
    """Deletes what a MOVE replaces, as section 9.9.3 demands, and then fails `fails` times."""

    fails = 1
    final = FINAL

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method != b"MOVE" or not self.fails:
            return super()._done(method, path, request, body)
        if self.final in self.objects and b"Overwrite: F" in request:
            return EMPTY % 412
        self.fails -= 1
        self.objects.pop(self.final, None)
        return EMPTY % 500


def test_a_move_that_deleted_the_old_object_is_sent_again(engine: Engine) -> None:
    dav = Deleting(objects={FINAL: b"old"})
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1


def assert_the_upload_stays(engine: Engine, dav: Deleting, error: type[RelayError]) -> None:
    """Migrate while every MOVE fails. Without the upload the destination would have neither the old
    object nor the new one."""
    dav.fails = 99
    with pytest.raises(error) as caught:
        migrate(engine, dav)
    [(left, data)] = dav.objects.items()
    assert data == DATA
    assert left.decode() in caught.value.hint


def test_an_upload_stays_where_the_old_object_is_deleted(engine: Engine) -> None:
    assert_the_upload_stays(engine, Deleting(objects={FINAL: b"old"}), Unavailable)


class Dying(Deleting):
    """Deletes what a MOVE replaces, and dies before it answers."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        answer = super()._done(method, path, request, body)
        return b"" if answer == EMPTY % 500 else answer


def test_a_move_answered_by_silence_after_deletion_is_resent(engine: Engine) -> None:
    dav = Dying(objects={FINAL: b"old"})
    assert migrate(engine, dav) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.asked.count(b"PUT") == 1


def test_an_upload_stays_if_the_server_died_after_the_deletion(engine: Engine) -> None:
    assert_the_upload_stays(engine, Dying(objects={FINAL: b"old"}), RelayError)


def test_an_upload_stays_where_the_old_object_may_be_deleted(engine: Engine) -> None:
    """The server dies, and does not answer for the object then."""

    class Gone(Dying):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            answer = super()._done(method, path, request, body)
            replaced = FINAL not in self.objects and b"MOVE" in self.asked
            unknown = replaced and method in (b"HEAD", b"PROPFIND") and path == FINAL
            return EMPTY % 503 if unknown else answer

    assert_the_upload_stays(engine, Gone(objects={FINAL: b"old"}), RelayError)


@pytest.mark.parametrize("moves", [False, True])
def test_an_upload_stays_where_a_move_that_replaces_is_cancelled(
    engine: Engine, moves: bool
) -> None:
    """The server has deleted the old object, and moves the new one once relay is over."""
    arrived, over = threading.Event(), threading.Event()

    class Slow(Deleting):
        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method == b"MOVE" and b"Overwrite: T" in request:
                self.objects.pop(FINAL)
                arrived.set()
                assert over.wait(20)
                if not moves:
                    return b""
                self.fails = 0
            return super()._done(method, path, request, body)

    dav, script = (
        Slow(objects={FINAL: b"old"}),
        source_script(Cloud(), fixed_answer(GET_HEAD, DATA)),
    )
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        transfer = engine.runner.transfer(engine.plan(source.url(), place(destination)))

        def cancel() -> None:
            while not arrived.is_set():
                gevent.sleep(0.01)
            transfer.cancel()

        cancelling = gevent.spawn(cancel)
        with pytest.raises(Cancelled) as caught:
            engine.runner.run(transfer)
        cancelling.join()
        over.set()
        while moves and FINAL not in dav.objects:
            gevent.sleep(0.01)
    assert list(dav.objects.values()) == [DATA]
    assert "The whole object may remain" in caught.value.hint


@pytest.mark.parametrize("lost", [False, True])
def test_a_retry_does_not_replace_the_upload_that_stays(patient_engine: Engine, lost: bool) -> None:
    """It is the only whole object until the next one has arrived."""

    class Failing(Dying if lost else Deleting):  # type: ignore[misc]
        alone = 0

        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            if method == b"PUT" and self.fails < 99:
                self.alone += DATA in self.objects.values()
            return super()._done(method, path, request, body)

    dav = Failing(objects={FINAL: b"old"})
    dav.fails = 2
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        transfer = patient_engine.runner.transfer(
            patient_engine.plan(source.url(), place(destination))
        )
        transfer.known = ObjectHints(token="0123456789abcdef")
        outcome = patient_engine.runner.run(transfer)
    assert outcome.state is State.VERIFIED
    assert dav.asked.count(b"PUT") == 2
    assert dav.alone == 1
    assert dav.objects[FINAL] == DATA


def test_uploads_that_stay_take_no_name_from_later_objects(patient_engine: Engine) -> None:
    """Each object has a name for its retries, which is not that of the upload that stays."""

    class Keeping(Deleting):
        is_replaced = False

        def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
            self.is_replaced |= method == b"PUT" and path in self.objects
            return super()._done(method, path, request, body)

    dav, script = Keeping(), source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 40) as source, Peer([dav] * 200) as destination:
        for number in range(4):
            there = webdav_location(destination.url(f"/{number}"), destination=True)
            dav.final, dav.fails = there.path.encode(), 3
            dav.objects[dav.final] = b"old"
            transfer = patient_engine.runner.transfer(patient_engine.plan(source.url(), there))
            transfer.known = ObjectHints(token=f"{number}123456789abcdef")
            assert patient_engine.runner.run(transfer).state is State.VERIFIED
    assert dav.objects == {b"/%d" % number: DATA for number in range(4)}
    assert not dav.is_replaced


@dataclass
class Copying(Dav):
    """Copies the bytes in place of a rename, as Tomcat does, and is stopped `stops` times in the
    middle: the final name has the first half."""

    stops: int = 1
    status: int = 0
    """The status of the answer to such a MOVE; 0 for none."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        done = super()._done(method, path, request, body)
        published = [name for name, data in self.objects.items() if data == DATA]
        if method == b"MOVE" and self.stops and published and not is_temporary(published[0]):
            self.stops -= 1
            self.objects[path] = DATA
            self.objects[published[0]] = DATA[: len(DATA) // 2]
            return EMPTY % self.status if self.status else b""
        return done


def is_temporary(name: bytes) -> bool:
    return is_temporary_name(name.decode().rpartition("/")[2])


@pytest.mark.parametrize("status", [0, 500])
@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed", "overwrite"])
def test_a_piece_of_a_broken_move_is_replaced(
    patient_engine: Engine, if_exists: str, status: int
) -> None:
    dav = Copying(status=status)
    assert migrate(patient_engine, dav, if_exists=if_exists) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}


@pytest.mark.parametrize("words", [[], ["--verify", "size"]])
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed"])
def test_a_piece_of_a_broken_move_is_named_and_replaced(
    tmp_path: Path, if_exists: str, tree: bool, words: list[str]
) -> None:
    """The disk stays full until the second command."""
    dav, here = Copying(stops=99, status=500), plant(tmp_path)
    (here / "a").write_bytes(DATA)
    terminal = Terminal(tmp_path, RELAY_RETRY_BUDGET="0")
    with Peer([dav] * 90) as there:
        to, name = f"webdav+{there.url('/to/')}", "" if tree else "a"
        call = ["migrate", *["-r"] * tree, f"{here}/{name}", to + name, *words]
        code, out, err = terminal.run(*call, "--if-exists", if_exists)
        assert (code, "/to/a (nothing has proved it)" in out + err) == (1, True)
        assert dav.objects == {b"/to/a": DATA[: len(DATA) // 2]}
        dav.stops = 0
        code, out, err = terminal.run(*call, "--if-exists", if_exists)
    assert dav.objects == {b"/to/a": DATA}
    assert code == (3 if words else 0), out + err


def test_a_removed_piece_is_named_no_longer(tmp_path: Path) -> None:
    """Nor does its row stay for ever, once the source has no such object."""
    dav, here = Copying(stops=99, status=500), plant(tmp_path)
    terminal = Terminal(tmp_path, RELAY_RETRY_BUDGET="0")
    with Peer([dav] * 90) as there:
        call = ("migrate", "-r", str(here), f"webdav+{there.url('/to/')}")
        code, out, err = terminal.run(*call)
        assert (code, "/to/a (nothing has proved it)" in out + err) == (1, True)
        dav.stops = 0
        del dav.objects[b"/to/a"]
        (here / "a").rename(here / "b")
        assert terminal.run(*call)[0] == terminal.run("retry", "1")[0] + 1
        ends = [terminal.run(*call) for _ in range(2)]
    assert ends[-1][0] == 0, ends
    assert "/to/a (" not in "".join(ends[-1][1:])


@dataclass
class Bouncing(Dav):
    """Answers a MOVE to a final name by 502; then it may be `away`, until it is `back`."""

    away: bool = False
    back: bool = False
    has_failed: bool = False

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        to = request.partition(b"Destination: ")[2].partition(b"\r\n")[0]
        if method == b"MOVE" and not is_temporary(to) and not self.back:
            self.has_failed = True
            return EMPTY % 502
        if self.has_failed and self.away and not self.back:
            return b""
        answer = super()._done(method, path, request, body)
        dated = b"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length:"
        return answer.replace(b"\r\nContent-Length:", dated, 1) if b" 200 " in answer else answer


@pytest.mark.parametrize("more", [[], ["--verify", "read_back"]], ids=["same", "other"])
@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("if_exists", ["skip", "changed"])
def test_an_object_stored_after_a_failed_move_is_kept(
    tmp_path: Path, if_exists: str, away: bool, more: list[str]
) -> None:
    """Another writer stored it: it has the source's length, is newer, and has other bytes."""
    dav, here = Bouncing(away=away), plant(tmp_path)
    (here / "a").write_bytes(DATA)
    os.utime(here / "a", (1e9, 1e9))
    terminal = Terminal(tmp_path, RELAY_RETRY_BUDGET="0")
    with Peer([dav] * 90) as there:
        call = ["migrate", f"{here}/a", f"webdav+{there.url('/to/')}a", "--if-exists", if_exists]
        assert terminal.run(*call)[0] == 1
        dav.back, theirs = True, DATA[:-1] + b"?"
        dav.objects = {b"/to/a": theirs}
        code, out, err = terminal.run(*call, *more)
    assert (code, dav.objects) == (0, {b"/to/a": theirs}), out + err
    assert "skipped" in out


@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed"])
def test_a_piece_of_a_late_move_is_replaced(
    patient_engine: Engine, if_exists: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server still copies when relay has stopped to wait: the piece appears, and grows."""
    monkeypatch.setattr("relay.stores.webdav.moves.LATE", 0)

    dav = Dav(answers={b"MOVE": [EMPTY % 504]})

    def get(talk: Talk, _: bytes) -> None:
        if b"MOVE" in dav.asked:  # the next attempt
            dav.objects.setdefault(FINAL, DATA[: len(DATA) // 2])
        talk.send(GET_HEAD, DATA)

    assert migrate(patient_engine, dav, get, if_exists=if_exists) is State.VERIFIED
    assert dav.objects[FINAL] == DATA


@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed"])
def test_a_piece_that_a_crash_left_is_not_skipped(engine: Engine, if_exists: str) -> None:
    """The process died in the MOVE, and has recorded nothing."""
    dav = Copying(objects={FINAL: DATA[:9]}, stops=0)
    script = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer([script] * 8) as source, Peer([dav] * 30) as destination:
        plan = engine.plan(source.url(), place(destination), if_exists=if_exists)
        transfer = engine.runner.transfer(plan)
        transfer.known = ObjectHints(begun=True, after_crash=True)
        if if_exists == "changed":
            assert engine.runner.run(transfer).state is State.VERIFIED
            return
        with pytest.raises(IntegrityMismatch, match="first 9 bytes") as caught:
            engine.runner.run(transfer)
    assert f"A partial object may remain at {place(destination)}" in caught.value.hint
    assert dav.objects == {FINAL: DATA[:9]}


@dataclass
class Elsewhere(Dav):
    """Redirects what it lacks: Apache with `ErrorDocument 404 http://…`, nginx with `error_page`."""

    target: bytes = b"/home.html"

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        above = path.rstrip(b"/").rpartition(b"/")[0] + b"/"
        if method in (b"MKCOL", b"PUT") and above not in self.folders:
            return EMPTY % 409
        answer = super()._done(method, path, request, body)
        if answer != NO or path.startswith(self.target.rstrip(b"*")):
            return answer
        to = self.target.replace(b"*", path.strip(b"/"))
        return b"HTTP/1.1 302 X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % to


@pytest.mark.parametrize("if_exists", ["changed", "overwrite"])
@pytest.mark.parametrize("target", [b"/home.html", b"/old/*"])
def test_folders_that_a_server_redirects_are_made(
    engine: Engine, target: bytes, if_exists: str
) -> None:
    dav = Elsewhere(target=target)
    assert migrate(engine, dav, if_exists=if_exists) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}
    assert dav.folders == {b"/", b"/new/", b"/new/folder/"}


class Misnames(Dav):
    """Copies to the folder of the Destination under the name of the source, and overwrites, as
    AList does; or does nothing (`idle`). Ignores `Overwrite`, as dufs does too."""

    idle = False

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        request = request.replace(b"Overwrite: F", b"Overwrite: T")
        if method == b"COPY":
            to = request.partition(b"\r\nDestination: ")[2].partition(b"\r\n")[0]
            there = b"/" + b"/".join(to.split(b"/")[3:-1] + [path.rpartition(b"/")[2]])
            if not self.idle:
                self.objects[there] = self.objects[path]
            return EMPTY % 201
        return super()._done(method, path, request, body)


@pytest.mark.parametrize("idle", [False, True])
def test_a_copy_to_another_name_replaces_nothing(engine: Engine, idle: bool) -> None:
    dav = Misnames(objects={b"/a/x": DATA, b"/a/y": DATA, b"/b/x": b"precious"})
    dav.idle = idle
    with Peer([dav] * 40) as peer:
        for name in ("x", "y"):
            there = webdav_location(peer.url(f"/b/new-{name}"), destination=True)
            outcome = engine.migrate(webdav_location(peer.url(f"/a/{name}")), there)
            assert outcome.state is State.VERIFIED
            assert not outcome.remains
    kept = {b"/a/x": DATA, b"/a/y": DATA, b"/b/x": b"precious"}
    assert dav.objects == {**kept, b"/b/new-x": DATA, b"/b/new-y": DATA}
    assert dav.tried.count(b"COPY") == 1
    assert b"COPY" not in dav.asked


class Later(Dav):
    """Acknowledges a COPY of `/old`, and does not do it."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"COPY" and path == b"/old":
            return EMPTY % 201
        return super()._done(method, path, request, body)


def test_a_copy_that_was_not_done_becomes_an_upload(engine: Engine) -> None:
    dav = Later(objects={b"/old": DATA})
    with Peer([dav] * 40) as peer:
        for name in ("/a", "/b"):
            there = webdav_location(peer.url(name), destination=True)
            assert engine.migrate(webdav_location(peer.url("/old")), there).state is State.VERIFIED
    assert dav.objects == {b"/old": DATA, b"/a": DATA, b"/b": DATA}
    assert dav.asked.count(b"COPY") == 1


class Overwrites(Dav):
    """Ignores `Overwrite`. Another writer stores an object right after relay has uploaded its own
    one (`written`)."""

    written = True

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        answer = super()._done(
            method, path, request.replace(b"Overwrite: F", b"Overwrite: T"), body
        )
        if method == b"PUT" and body == DATA and self.written:
            self.objects[FINAL] = b"theirs"
        return answer


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_server_that_always_overwrites_is_asked_first(engine: Engine, if_exists: str) -> None:
    dav = Overwrites()
    with pytest.raises(AlreadyExists) if if_exists == "fail" else nullcontext():
        assert migrate(engine, dav, if_exists=if_exists) is State.SKIPPED
    assert dav.objects == {FINAL: b"theirs"}
    assert b"MOVE" not in dav.asked


@dataclass
class Refusing(Dav):
    """Refuses a MOVE onto an object with another status than 412 (copyparty: 400). With `meanwhile`
    another writer's object appears at that moment."""

    status: int = 400
    meanwhile: bool = False

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"MOVE" and self.meanwhile and self.objects[path] == DATA:
            self.objects[FINAL] = b"theirs"
        answer = super()._done(method, path, request, body)
        return EMPTY % self.status if answer == EMPTY % 412 else answer


@pytest.mark.parametrize("status", [207, 400, 403, 405, 409])
@pytest.mark.parametrize("if_exists", ["overwrite", "changed"])
def test_a_refusal_by_another_status_replaces_an_object(
    engine: Engine, status: int, if_exists: str
) -> None:
    dav = Refusing(objects={FINAL: b"theirs"}, status=status)
    assert migrate(engine, dav, if_exists=if_exists) is State.VERIFIED
    assert dav.objects == {FINAL: DATA}


@pytest.mark.parametrize("status", [207, 400])
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_refusal_by_another_status_is_no_error(
    engine: Engine, if_exists: str, status: int
) -> None:
    dav = Refusing(meanwhile=True, status=status)
    with pytest.raises(AlreadyExists) if if_exists == "fail" else nullcontext():
        assert migrate(engine, dav, if_exists=if_exists) is State.SKIPPED
    assert dav.objects == {FINAL: b"theirs"}


@pytest.mark.parametrize("kind", [Dav, Overwrites])
def test_a_server_is_tested_once_for_overwriting(engine: Engine, kind: type[Dav]) -> None:
    dav = kind()
    dav.written = False  # type: ignore[attr-defined]
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 8) as source,
        Peer([dav] * 40) as peer,
    ):
        for name in ("/a", "/b"):
            engine.migrate(source.url(), webdav_location(peer.url(name)), if_exists="fail")
    assert dav.objects == {b"/a": DATA, b"/b": DATA}
    assert dav.tried.count(b"MOVE") == (2 if kind is Dav else 1)


@pytest.mark.parametrize(
    ("kind", "answer"), [(Dav, Answer.YES), (Overwrites, Answer.NO)], ids=["honours", "ignores"]
)
def test_the_doctor_tests_the_server_not_relay(
    patient_engine: Engine, kind: type[Dav], answer: Answer
) -> None:
    dav = kind()
    dav.written = False  # type: ignore[attr-defined]
    with Peer([dav] * 40) as peer:
        folder = webdav_location(peer.url("/"))
        scratch = ScratchFolder(patient_engine.runner.stores, folder, lambda: Watchdog(QUICK))
        scratch.put("object")
        assert probe_if_none_match(scratch).answer is answer
        assert scratch.remove() == ()
    assert dav.objects == {}


class Undeletable(Dav):
    """Refuses to delete anything."""

    def _delete(self, path: bytes) -> bytes:
        return EMPTY % 403


def test_a_trial_that_cannot_be_removed_leaves_nothing(engine: Engine) -> None:
    """nginx deletes nothing unless its `dav_methods` have DELETE."""
    dav = Undeletable()
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 8) as source,
        Peer([dav] * 40) as peer,
    ):
        outcomes = [
            engine.migrate(source.url(), webdav_location(peer.url(name)), if_exists="fail")
            for name in ("/a", "/b")
        ]
    notes = [outcome.receipt.notes for outcome in outcomes if outcome.receipt is not None]
    assert dav.objects == {b"/a": DATA, b"/b": DATA}
    assert notes == [(), ()]


class Immovable(Undeletable):
    """Refuses to replace one of relay's temporary objects."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"MOVE" and self.objects.get(path) == TRIAL:
            return EMPTY % (412 if b"Overwrite: F" in request else 403)
        return super()._done(method, path, request, body)


def test_a_trial_that_remains_is_named(engine: Engine) -> None:
    dav = Immovable()
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 8) as source,
        Peer([dav] * 40) as peer,
    ):
        outcomes = [
            engine.migrate(source.url(), webdav_location(peer.url(name)), if_exists="fail")
            for name in ("/a", "/b")
        ]
    notes = [outcome.receipt.notes for outcome in outcomes if outcome.receipt is not None]
    [left] = dav.objects.keys() - {b"/a", b"/b"}
    assert [left.decode() in note for note in notes[0]] == [True]
    assert notes[1] == ()


def test_a_failed_transfer_names_what_a_trial_left(engine: Engine) -> None:
    """The receipt, which would name it, is missing."""
    dav = Immovable()
    with pytest.raises(SourceTruncated) as caught:
        migrate(engine, dav, fixed_answer(GET_HEAD, DATA[:-1]), if_exists="fail")
    [left] = [name for name in dav.objects if dav.objects[name] == TRIAL and b".upload" in name]
    assert left.decode() in caught.value.hint
