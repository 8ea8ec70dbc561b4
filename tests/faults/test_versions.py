"""A source that changes during a transfer: never two versions in one object, never bytes that are
unproved.

Over a scripted source and a scripted bucket, which accepts multipart uploads; over plain HTTP where
parts do not matter."""

from __future__ import annotations

import base64
import os
import re
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path

import pytest

from relay.digest import Digester
from relay.engine.transfer import uploader
from relay.engine.transfer.context import ObjectHints
from relay.engine.transfer.expectations import check_against_listing
from relay.engine.transfer.transfer import Transfer
from relay.errors import (
    IntegrityMismatch,
    NotFound,
    Rejected,
    SameObject,
    SourceChanged,
    SourceTruncated,
    SourceUnstable,
    Unauthenticated,
)
from relay.location import Location
from relay.receipt import Level, State, Version
from relay.stores.local_locations import local_location
from relay.stores.s3.quirks import UNSEEN
from relay.transfer_limits import Limits
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    TAGGED,
    Cloud,
    Versions,
    destination_script,
    fixed_answer,
    inspected_script,
    receive_upload,
    source_script,
)
from tests.faults.scripted_s3 import (
    IN_PARTS,
    PART,
    SIZE,
    Bucket,
    place,
    refusal,
    repeat_script,
    reply,
    with_retries,
)
from tests.scripted import Peer, Script, Talk, answer, length_of

OLD, NEW = b"o" * SIZE, b"n" * SIZE
SMALLER, LARGER = NEW[:-1], NEW + b"!"


@pytest.fixture
def engine_limits() -> Limits:
    return IN_PARTS


@pytest.mark.parametrize("heeds", [True, False], ids=["412", "another tag"])
@pytest.mark.parametrize("new", [NEW, SMALLER, LARGER], ids=["same size", "smaller", "larger"])
def test_f13_a_source_that_changes_between_parts_restarts(
    engine: Engine, new: bytes, heeds: bool
) -> None:
    """After one part of the old version; none of its bytes are in the new object."""
    source, bucket = Versions([("v1", OLD), ("v2", new)], heeds=heeds), Bucket()
    with Peer([source] * 40) as there, Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(there.url(), place(peer))
    assert bucket.whole == new
    assert outcome.receipt is not None
    assert (outcome.receipt.source.etag, outcome.receipt.attempts) == ('"v2"', 2)
    assert outcome.receipt.bytes_resent == PART
    assert bucket.asked.count("abort") == 1


def test_f13_a_source_that_always_changes_fails(
    engine: Engine,
) -> None:
    versions = [(f"v{number}", bytes([number]) * SIZE) for number in range(20)]
    source, bucket = Versions(versions), Bucket()
    with (
        Peer([source] * 40) as there,
        Peer(repeat_script(bucket)) as peer,
        pytest.raises(SourceChanged) as caught,
    ):
        with_retries(engine).migrate(there.url(), place(peer))
    assert caught.value.side == "source"
    assert bucket.whole is None
    assert bucket.asked.count("begin whole") == bucket.asked.count("abort") == 3


def test_f13_a_restart_is_allowed_past_the_retry_budget(engine: Engine) -> None:
    bucket = Bucket()
    with (
        Peer([Versions([("v1", OLD), ("v2", NEW)])] * 40) as there,
        Peer(repeat_script(bucket)) as peer,
    ):
        transfer = with_retries(engine).runner.transfer(engine.plan(there.url(), place(peer)))
        transfer = replace(transfer, random=lambda: 0.05)
        transfer.meter._started -= 3600
        assert engine.runner.run(transfer).state is State.VERIFIED
    assert bucket.whole == NEW


def test_f11_a_range_without_a_version_is_not_used(engine: Engine) -> None:
    """It may be another version; a single request cannot be a mixture."""
    bucket = Bucket()
    source = Versions([("v1", OLD)], tagged=False)
    with Peer([source] * 40) as there, Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(there.url(), place(peer))
    assert outcome.state is State.VERIFIED
    assert bucket.whole == OLD
    assert "put" in bucket.asked and "complete" not in bucket.asked


@pytest.mark.parametrize("tag", ['W/"v1"', None])
def test_f14_a_weak_etag_permits_no_parts_and_no_resume(engine: Engine, tag: str | None) -> None:
    """A large object is sent in one request, and after a cut again from its beginning."""
    etag = f"ETag: {tag}\r\n" if tag else ""
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nAccept-Ranges: bytes\r\n{etag}\r\n".encode()
    )
    cloud, bucket = Cloud(), Bucket()
    cut, whole = (source_script(cloud, fixed_answer(head, OLD[:end]), head) for end in (PART, SIZE))
    with Peer([cut, whole]) as there, Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(there.url(), place(peer))
    assert bucket.whole == OLD
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    asked = b"".join(cloud.heads)
    assert not any(word in asked for word in (b"\r\nRange:", b"\r\nIf-Range:", b"\r\nIf-Match:"))


def test_f15_a_part_that_is_read_twice_must_have_the_same_bytes(engine: Engine) -> None:
    """The store accepted none of it the first time; nothing shows which bytes are right."""
    flipped = bytes([OLD[0] ^ 1]) + OLD[1:]
    source, bucket = (
        Versions([("v1", OLD), ("v1", flipped)]),
        Bucket({"part": [refusal(503, "SlowDown")]}),
    )
    with (
        Peer([source] * 40) as there,
        Peer(repeat_script(bucket)) as peer,
        pytest.raises(SourceUnstable) as caught,
    ):
        with_retries(engine).migrate(there.url(), place(peer))
    assert (caught.value.side, caught.value.retryable) == ("source", False)
    assert bucket.whole is None
    assert bucket.asked[-1] == "abort"


def test_f15_an_object_read_twice_must_have_equal_bytes(engine: Engine) -> None:
    """A small object in one request: a refusal after it was read, and other bytes under the same
    tag."""
    source, cloud = Versions([("v1", DATA), ("v1", DATA[::-1])]), Cloud()
    busy = inspected_script(_full_script())
    with (
        Peer([source] * 4) as there,
        Peer([busy, destination_script(cloud, TAGGED)]) as peer,
        pytest.raises(SourceUnstable),
    ):
        with_retries(engine).migrate(there.url(), peer.url("/b"))
    assert cloud.objects == {}


def _full_script() -> Script:
    """Read an upload, and answer that the store is full now."""

    def script(talk: Talk) -> None:
        kept = Cloud()
        destination_script(
            kept, b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )(_close_after_one(talk))

    return script


def _close_after_one(talk: Talk) -> Talk:
    """Let the connection end after one request."""
    read, left = talk.head, iter([1])
    talk.head = lambda: read() if next(left, None) else b""  # type: ignore[method-assign]
    return talk


def test_f15_equal_bytes_in_two_readings_pass(engine: Engine) -> None:
    source, bucket = Versions([("v1", OLD)]), Bucket({"part": [refusal(503, "SlowDown")]})
    with Peer([source] * 40) as there, Peer(repeat_script(bucket)) as peer:
        assert with_retries(engine).migrate(there.url(), place(peer)).state is State.VERIFIED
    assert bucket.whole == OLD


# -- F10, F27, F28: sizes and versions of a listing

LISTED = Version(len(DATA), None, "Wed, 21 Oct 2015 07:28:00 GMT")
EARLIER, LATER = "Tue, 20 Oct 2015 07:28:00 GMT", "Thu, 22 Oct 2015 07:28:00 GMT"


def listed_transfer(engine: Engine, source: str, destination: str, version: Version) -> Transfer:
    """Return the transfer of a listed object."""
    transfer = engine.runner.transfer(engine.plan(source, destination))
    return replace(transfer, known=ObjectHints(listed=version))


@pytest.mark.parametrize("head", [True, False], ids=["HEAD", "no HEAD"])
@pytest.mark.parametrize("body", [b"", b"<html>Please log in.</html>"], ids=["nothing", "a page"])
def test_f27_f28_an_object_that_differs_from_its_listing_fails(
    engine: Engine, body: bytes, head: bool
) -> None:
    answer_head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    script, cloud = (
        source_script(Cloud(), fixed_answer(answer_head, body), answer_head if head else None),
        Cloud(),
    )
    with (
        Peer([script] * 4) as there,
        Peer(destination_script(cloud)) as peer,
        pytest.raises(SourceChanged) as caught,
    ):
        engine.runner.run(listed_transfer(engine, there.url(), peer.url("/b"), LISTED))
    assert str(len(DATA)) in caught.value.message
    assert cloud.objects == {}


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_f27_f28_an_answer_without_a_length_has_the_listed_one(
    engine: Engine, tmp_path: Path, chunked: bool, dated: bool
) -> None:
    """Unless its date is another one. Errors and login pages come in chunks, and with a 200."""
    fields = b"Transfer-Encoding: chunked\r\n" if chunked else b"Connection: close\r\n"
    for moment, error in ((b"Wed, 21 Oct 2015", SourceTruncated), (b"Thu, 22 Oct 2015", None)):
        date = b"Last-Modified: %s 07:28:00 GMT\r\n" % moment if dated or error is None else b""
        head = b"HTTP/1.1 200 OK\r\n" + date + fields + b"\r\n"
        script = source_script(
            Cloud(), fixed_answer(head, b"3\r\nnew\r\n0\r\n\r\n" if chunked else b"new"), head
        )
        with Peer([script] * 4) as there, pytest.raises(error) if error else nullcontext():
            transfer = engine.runner.transfer(
                engine.plan(there.url(), local_location(tmp_path / "b", destination=True))
            )
            engine.runner.run(replace(transfer, known=ObjectHints(listed=LISTED)))
        assert (tmp_path / "b").exists() is (error is None)


@pytest.mark.parametrize("length", ["Content-Length: 0\r\n", ""], ids=["length of 0", "no length"])
@pytest.mark.parametrize("tag", ["", 'ETag: "one"\r\n'], ids=["no tag", "a tag"])
def test_an_untagged_answer_after_a_tagged_head_is_a_change(
    engine: Engine, tag: str, length: str
) -> None:
    """Some servers report a length of 0 for pages that they generate, or none. But a GET of a
    tagged object shows its tag: an answer without it is a login page."""
    head = f'HTTP/1.1 200 OK\r\n{length}ETag: "one"\r\n\r\n'.encode()
    get = f"HTTP/1.1 200 OK\r\n{tag}Connection: close\r\n\r\n".encode()
    script, cloud = source_script(Cloud(), fixed_answer(get, b"some text"), head), Cloud()
    with Peer([script] * 4) as there, Peer(destination_script(cloud)) as peer:
        with nullcontext() if tag else pytest.raises(SourceChanged):
            engine.migrate(there.url(), peer.url("/b"))
    assert cloud.objects == ({b"/b": b"some text"} if tag else {})


@pytest.mark.parametrize(
    ("other", "is_gone"), [("a.md", True), ("/there/a.html", True), ("a", False), ("b.md", False)]
)
def test_an_object_served_for_a_listed_one_is_not_moved(
    engine: Engine, other: str, is_gone: bool
) -> None:
    """Apache (MultiViews) answers with `a.md` if `a` has been removed since it was listed."""
    head = (
        f'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "new"\r\nContent-Location: {other}\r\n\r\n'
    ).encode()
    script, cloud = source_script(Cloud(), fixed_answer(head, b"new"), head), Cloud()
    with Peer([script] * 4) as there, Peer(destination_script(cloud)) as peer:
        transfer = listed_transfer(engine, there.url("/a"), peer.url("/b"), Version())
        with pytest.raises(NotFound) if is_gone else nullcontext():
            engine.runner.run(transfer)
    assert cloud.objects == ({} if is_gone else {b"/b": b"new"})


def test_f10_an_object_changed_since_its_listing_is_moved(engine: Engine) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nLast-Modified: Thu, 22 Oct 2015 07:28:00 GMT\r\n\r\n"
    script, cloud = source_script(Cloud(), fixed_answer(head, b"new"), head), Cloud()
    with Peer([script] * 4) as there, Peer(destination_script(cloud)) as peer:
        engine.runner.run(listed_transfer(engine, there.url(), peer.url("/b"), LISTED))
    assert cloud.objects == {b"/b": b"new"}


def test_a_small_object_that_was_listed_is_read_at_once(engine: Engine) -> None:
    source, cloud = Cloud(), Cloud()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nLast-Modified: %s\r\n\r\n"
    head %= (len(DATA), (LISTED.last_modified or "").encode())
    with (
        Peer([source_script(source, fixed_answer(head, DATA), head)] * 4) as there,
        Peer(destination_script(cloud)) as peer,
    ):
        engine.runner.run(listed_transfer(engine, there.url(), peer.url("/b"), LISTED))
    assert cloud.objects == {b"/b": DATA}
    assert source.methods == [b"GET"]


@dataclass
class Replaced(Shelf):
    """Replaces an object, with its date, as soon as it was read."""

    changes: list[tuple[bytes, bytes]] = field(default_factory=list)

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        is_kept = super()._other(talk, method, path, request)
        if method == b"GET" and self.changes:
            self.objects[path], self.dated = self.changes.pop(0)
        return is_kept


@pytest.mark.parametrize("changes", [1, 9], ids=["once", "always"])
def test_a_source_modified_during_a_single_upload_restarts(
    engine: Engine, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise `changed` would skip the object for ever: the destination is newer than the
    change."""
    monkeypatch.setattr(uploader, "LONG_SECONDS", -1.0)
    dates = [formatdate(1e9 + 60 * number, usegmt=True).encode() for number in range(1 + changes)]
    later = [(b"n" * len(DATA), date) for date in dates[1:]]
    source = Replaced({b"/a": DATA}, dated=dates[0], changes=later)
    cloud = Shelf(tags_uploads=True)
    with Peer([source] * 40) as there, Peer(cloud) as peer:
        if changes == 1:
            outcome = with_retries(engine).migrate(there.url("/a"), peer.url("/b"))
            assert (outcome.state, outcome.receipt.attempts) == (State.VERIFIED, 2)
            assert cloud.objects == {b"/b": b"n" * len(DATA)}
        else:
            with pytest.raises(SourceChanged) as caught:
                with_retries(engine).migrate(there.url("/a"), peer.url("/b"))
            assert list(caught.value.remains) == [peer.url("/b")]


@pytest.mark.parametrize("tags", [b"aa", b"ab"], ids=["same tag", "other tag"])
def test_a_source_that_dates_each_answer_now_is_read(
    engine: Engine, tags: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "LONG_SECONDS", -1.0)
    answers = []
    for number, tag in enumerate(tags):
        now = formatdate(1e9 + 60 * number, usegmt=True).encode()
        fields = b'Content-Length: %d\r\nETag: "%c"\r\nDate: %s\r\nLast-Modified: %s\r\n\r\n'
        answers.append(b"HTTP/1.1 200 OK\r\n" + fields % (len(DATA), tag, now, now))
    first, later = answers
    methods: list[bytes] = []

    def answer(talk: Talk) -> None:
        while request := talk.head():
            methods.append(request.split(b" ")[0])
            head = later if methods.count(b"GET") and request.startswith(b"HEAD") else first
            talk.send(head, DATA if request.startswith(b"GET") else b"")

    with Peer([answer] * 4) as there, Peer(Shelf(tags_uploads=True)) as peer:
        if tags == b"aa":
            assert engine.migrate(there.url("/a"), peer.url("/b")).state is State.VERIFIED
        else:
            with pytest.raises(SourceChanged):
                engine.migrate(there.url("/a"), peer.url("/b"))


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "is_gone"),
    [("/photos/a2.jpg", True), ("/photos/A1.jpg", True), ("/cdn/a2.jpg", False)],
)
def test_the_neighbour_of_a_listed_object_is_not_moved(
    engine: Engine, target: str, is_gone: bool
) -> None:
    """Apache (mod_speling) redirects to a similar name once the object is gone."""
    moved = f"HTTP/1.1 301 X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()

    def get(talk: Talk, request: bytes) -> None:
        talk.send(GET_HEAD, DATA) if target.encode() in request else talk.send(moved)

    cloud = Cloud()
    with Peer([source_script(Cloud(), get)] * 9) as there, Peer(destination_script(cloud)) as peer:
        transfer = listed_transfer(engine, there.url("/photos/a1.jpg"), peer.url("/b"), Version())
        with pytest.raises(NotFound) if is_gone else nullcontext():
            engine.runner.run(transfer)
    assert cloud.objects == ({} if is_gone else {b"/b": DATA})


def test_a_page_for_any_name_with_a_token_is_no_object(engine: Engine) -> None:
    """An application answers 200 and a page for an expired link; without its token it refuses."""

    def get(talk: Talk, request: bytes) -> None:
        talk.send(HTML, b"<html>") if b"token=" in request else talk.send(empty_answer(403))

    cloud = Cloud()
    with (
        Peer([source_script(Cloud(), get)] * 9) as there,
        Peer(destination_script(cloud)) as peer,
        pytest.raises(Rejected, match="any name"),
    ):
        engine.migrate(there.url("/film.gguf?token=old"), peer.url("/b"))
    assert cloud.objects == {}


@pytest.mark.parametrize("listed", [None, Version(), Version(6)])
@pytest.mark.parametrize("name", ["model.gguf", "dump.xyz1", "v1.2/disk.raw9", "v1.2/about"])
def test_a_page_for_any_name_of_an_ending_is_no_object(
    engine: Engine, name: str, listed: Version | None
) -> None:
    """As of a firewall that blocks a type of files. Python knows none of the types."""

    def get(talk: Talk, request: bytes) -> None:
        is_there = request.split(b" ")[1].endswith(name.rpartition(".")[2].encode())
        talk.send(HTML, b"<html>") if is_there else talk.send(empty_answer(404))

    cloud, is_refused = Cloud(), listed != Version(6) and "about" not in name
    with Peer([source_script(Cloud(), get)] * 9) as there, Peer(destination_script(cloud)) as peer:
        source, destination = there.url(f"/{name}"), peer.url("/b")
        with pytest.raises(Rejected, match="any name") if is_refused else nullcontext():
            if listed is None:
                engine.migrate(source, destination)
            else:
                engine.runner.run(listed_transfer(engine, source, destination, listed))
    assert cloud.objects == ({} if is_refused else {b"/b": b"<html>"})


@pytest.mark.parametrize("answers_any", [True, False], ids=["any name", "this name"])
def test_a_page_that_a_server_answers_for_any_name_is_no_object(
    engine: Engine, answers_any: bool
) -> None:
    def get(talk: Talk, request: bytes) -> None:
        is_there = answers_any or request.startswith(b"GET /9.gguf ")
        talk.send(HTML, b"<html>") if is_there else talk.send(empty_answer(404))

    cloud = Cloud()
    with Peer([source_script(Cloud(), get)] * 9) as there, Peer(destination_script(cloud)) as peer:
        if answers_any:
            with pytest.raises(Rejected, match="any name"):
                engine.migrate(there.url("/9.gguf"), peer.url("/b"))
            assert cloud.objects == {}
        else:
            engine.migrate(there.url("/9.gguf"), peer.url("/b"))
            assert cloud.objects == {b"/b": b"<html>"}


@pytest.mark.parametrize(
    ("found", "listed", "fits"),
    [
        (Version(5), Version(5), True),
        (Version(None), Version(5), True),
        (Version(5), Version(None), True),
        (Version(6, '"b"'), Version(5, '"a"'), True),
        (Version(6, '"a"'), Version(5, '"a"'), False),
        (Version(6, '"a"'), Version(5), True),
        (Version(6), Version(5), False),
        (Version(6, None, LATER), LISTED, True),
        (Version(6, None, EARLIER), LISTED, False),
        (Version(0, '"a"'), Version(5), False),
        (Version(6, None, LISTED.last_modified), Version(5, None, LISTED.last_modified), False),
    ],
)
def test_f10_when_a_size_that_differs_is_another_version(
    found: Version, listed: Version, fits: bool
) -> None:
    if fits:
        return check_against_listing(found, listed)
    with pytest.raises(SourceChanged):
        check_against_listing(found, listed)


# -- F58, B66: the same object by another name


def _assert_refused(engine: Engine, source: str | Location, destination: str) -> None:
    with pytest.raises(SameObject):
        engine.migrate(source, destination)


def test_b66_a_redirect_that_leads_to_the_destination_is_refused(engine: Engine) -> None:
    cloud = Cloud()
    cloud.objects[b"/b"] = DATA
    with Peer(destination_script(cloud)) as peer:
        moved = (
            b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
            % peer.url("/b").encode()
        )
        with Peer(answer(moved, keep=True)) as there:
            _assert_refused(engine, there.url("/a"), peer.url("/b"))
    assert cloud.objects == {b"/b": DATA}
    assert b"PUT" not in cloud.methods


@pytest.mark.parametrize("disposition", [True, False])
def test_b66_a_folder_that_the_source_lies_in_is_refused(engine: Engine, disposition: bool) -> None:
    """By the name in its URL, and by the one that the source itself reports."""
    name = b'Content-Disposition: attachment; filename="other"\r\n' if disposition else b""
    cloud = Cloud()
    head = GET_HEAD[:-2] + name + b"\r\n"
    with Peer(source_script(cloud, fixed_answer(head, DATA), head)) as peer:
        _assert_refused(
            engine, peer.url("/folder/other" if disposition else "/folder/a"), peer.url("/folder/")
        )
    assert b"PUT" not in cloud.methods


def test_f58_one_object_by_two_host_names_is_refused(
    engine: Engine,
) -> None:
    """The server reports the same tag, size and time under both names; an upload would empty the
    file before it is read."""
    version = b'ETag: "v1"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
    head = GET_HEAD.replace(b'ETag: "v1"\r\n', version)
    cloud = Cloud()
    with Peer(source_script(cloud, fixed_answer(head, DATA), head)) as peer:
        _assert_refused(engine, peer.url("/a"), f"http://localhost:{peer.port}/a")
    assert b"PUT" not in cloud.methods


def test_f58_an_object_onto_itself_is_refused_without_tags_too(engine: Engine) -> None:
    head = GET_HEAD.replace(b'ETag: "v1"\r\n', b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n")
    cloud = Cloud()
    with Peer(source_script(cloud, fixed_answer(head, DATA), head)) as peer:
        _assert_refused(engine, peer.url("/a"), f"http://localhost:{peer.port}/a")
    assert b"PUT" not in cloud.methods


def test_f58_a_mirror_with_other_tags_is_another_object(engine: Engine) -> None:
    """Like Apache, which may compute tags from the inode: size and time are the same."""
    version = b'ETag: "%s"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
    head, other_head = (
        GET_HEAD.replace(b'ETag: "v1"\r\n', version % tag) for tag in (b"one", b"other")
    )
    cloud = Cloud()

    def there(talk: Talk) -> None:
        while request := talk.head():
            if request.startswith(b"PUT"):
                cloud.objects[b"/a"] = receive_upload(talk, request) or b""
                talk.send(b"HTTP/1.1 201 X\r\nContent-Length: 0\r\n\r\n")
            else:
                talk.send(other_head, DATA if request.startswith(b"GET") else b"")

    with (
        Peer(source_script(Cloud(), fixed_answer(head, DATA), head)) as peer,
        Peer([there] * 9) as other,
    ):
        assert engine.migrate(peer.url("/a"), other.url("/a")).state is State.VERIFIED
    assert cloud.objects == {b"/a": DATA}


def test_f58_another_object_of_equal_time_and_size_differs(engine: Engine) -> None:
    """Like nginx, which computes tags from these two."""
    version = b'ETag: "v1"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
    head = GET_HEAD.replace(b'ETag: "v1"\r\n', version)
    cloud = Cloud()

    def there(talk: Talk) -> None:
        request = talk.head()
        if request.startswith(b"HEAD"):
            talk.send(head)
        destination_script(cloud)(talk)

    with (
        Peer(source_script(Cloud(), fixed_answer(head, DATA), head)) as peer,
        Peer([there, destination_script(cloud)]) as other,
    ):
        assert engine.migrate(peer.url("/a"), other.url("/b")).state is State.VERIFIED
    assert cloud.objects == {b"/b": DATA}


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_f58_a_local_file_served_by_the_destination_is_kept(
    engine: Engine, tmp_path: Path, tagged: bool, same: bool
) -> None:
    """By a server of that folder, which has a path and a tag of its own for the file."""
    file, name = tmp_path / "a", b"/files/b"
    file.write_bytes(DATA)
    os.utime(file, (1e9, 1e9))
    shelf = Shelf(
        {name: DATA if same else DATA[::-1]}, tagged=tagged, dated=b"Sun, 09 Sep 2001 01:46:40 GMT"
    )
    with Peer([shelf] * 4) as peer:
        place = local_location(file, destination=False)
        if same:
            _assert_refused(engine, place, peer.url("/files/b"))
        else:
            assert engine.migrate(place, peer.url("/files/b")).state is State.VERIFIED
    assert shelf.objects == {name: DATA}
    assert (b"PUT" in shelf.methods) is not same


# -- F17: objects that Google's storage decompresses

STORED = b"as it is stored, packed"


def _google(cloud: Cloud, always: bool = False) -> Script:
    """Decompress an object for a client that does not accept its coding; the hash is that of the
    stored bytes."""
    digester = Digester(("crc32c",))
    digester.update(STORED)
    crc = base64.b64encode(digester.digests()["crc32c"])
    fields = b"x-goog-stored-content-encoding: gzip\r\nx-goog-hash: crc32c=%s\r\n" % crc

    def script(talk: Talk) -> None:
        while request := talk.head():
            cloud.heads.append(request)
            packed = b"\r\nAccept-Encoding: gzip\r\n" in request and not always
            coding = b"Content-Encoding: gzip\r\n" if packed else b""
            body = STORED if packed else DATA
            framing = (
                b"Content-Length: %d\r\n" % len(body)
                if packed
                else b"Transfer-Encoding: chunked\r\n"
            )
            coded = body if packed else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            head = b"HTTP/1.1 200 OK\r\n" + framing + fields + coding + b"\r\n"
            talk.send(head, b"" if request.startswith(b"HEAD") else coded)

    return script


@pytest.mark.parametrize("is_s3", [False, True], ids=["http", "s3"])
def test_f17_an_object_with_a_coding_is_read_as_stored(engine: Engine, is_s3: bool) -> None:
    cloud, kept = Cloud(), Cloud()
    with Peer([_google(cloud)] * 8) as there, Peer(destination_script(kept)) as peer:
        outcome = engine.migrate(place(there) if is_s3 else there.url(), peer.url("/b"))
    assert kept.objects == {b"/b": STORED}
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.READ_BACK
    assert is_s3 or "crc32c" in outcome.receipt.source.digests
    put = next(head for head in kept.heads if head.startswith(b"PUT"))
    assert b"\r\nContent-Encoding: gzip\r\n" in put


def _edge(coding: bytes) -> Script:
    """Decode an object for a client that does not accept its coding, as Cloudflare does: its answer
    has no length, and a weak tag."""

    def script(talk: Talk) -> None:
        while request := talk.head():
            accepted = re.search(rb"\r\nAccept-Encoding: ([^\r]*)", request)
            if accepted and coding in accepted[1]:
                body = STORED
                fields = b'ETag: "v1"\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n'
                head = fields % (coding, len(STORED))
            else:
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(DATA), DATA)
                head = b'ETag: W/"v1"\r\nTransfer-Encoding: chunked\r\n\r\n'
            talk.send(b"HTTP/1.1 200 OK\r\n", head, b"" if request.startswith(b"HEAD") else body)

    return script


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("coding", [b"gzip", b"br"])
def test_f17_a_bucket_behind_a_decoding_proxy_is_read_as_stored(
    engine: Engine, coding: bytes, is_listed: bool
) -> None:
    """The decoded object took the place of the stored one, and counted as verified."""
    kept, version = Cloud(), Version(len(STORED), '"v1"')
    with Peer([_edge(coding)] * 8) as there, Peer(destination_script(kept)) as peer:
        transfer = engine.runner.transfer(engine.plan(place(there), peer.url("/b")))
        hints = ObjectHints(listed=version if is_listed else None)
        outcome = engine.runner.run(replace(transfer, known=hints))
    assert kept.objects == {b"/b": STORED}
    assert outcome.receipt is not None
    assert outcome.receipt.source.etag == '"v1"'
    put = next(head for head in kept.heads if head.startswith(b"PUT"))
    assert b"\r\nContent-Encoding: %s\r\n" % coding in put


def test_f17_bytes_that_a_proxy_compresses_are_not_the_stored_ones(engine: Engine) -> None:
    def script(talk: Talk) -> None:
        while request := talk.head():
            packs = b"\r\nAccept-Encoding: identity\r\n" not in request
            body, coding = (STORED, b"Content-Encoding: br\r\n") if packs else (DATA, b"")
            talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", coding, b"\r\n")
            if not request.startswith(b"HEAD"):
                talk.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    kept = Cloud()
    with Peer([script] * 8) as there, Peer(destination_script(kept)) as peer:
        engine.migrate(place(there), peer.url("/b"))
    assert kept.objects == {b"/b": DATA}


def test_f17_a_stored_digest_is_not_compared_with_decoded_bytes(
    engine: Engine,
) -> None:
    cloud, kept = Cloud(), Cloud()
    with Peer([_google(cloud, always=True)] * 8) as there, Peer(destination_script(kept)) as peer:
        outcome = engine.migrate(there.url(), peer.url("/b"))
    assert kept.objects == {b"/b": DATA}
    assert outcome.receipt is not None
    assert "crc32c" not in outcome.receipt.source.digests


# -- F26


def test_f26_a_401_is_final_without_refreshable_credentials(engine: Engine) -> None:
    cloud = Cloud()
    refuse = fixed_answer(b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n")
    with (
        Peer([source_script(cloud, refuse)] * 8) as there,
        Peer(destination_script(Cloud())) as peer,
    ):
        with pytest.raises(Unauthenticated):
            with_retries(engine).migrate(there.url(), peer.url("/b"))
    assert cloud.methods.count(b"GET") == 1


# -- a bucket that keeps versions


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "denied"])
@pytest.mark.parametrize("is_replaced", [False, True], ids=["same", "replaced"])
def test_a_version_with_a_denied_id_is_pinned_by_its_tag(
    engine: Engine, allowed: bool, is_replaced: bool
) -> None:
    """A policy may allow GetObject, and not GetObjectVersion. Each version is one object."""
    versions, asked = {b"v1": OLD, b"v2": NEW}, []

    def script(talk: Talk) -> None:
        while request := talk.head():
            now = b"v2" if is_replaced and any(b"GET" in one for one in asked) else b"v1"
            asked.append(request.partition(b"\r\n")[0])
            named = b"versionId=" in asked[-1]
            if named and not allowed:
                talk.send(refusal(403, "AccessDenied"))
                continue
            now = b"v1" if named else now
            tag = b'"%s"' % now
            if b"\r\nIf-Match: " in request and b"\r\nIf-Match: " + tag not in request:
                talk.send(refusal(412, "PreconditionFailed"))
                continue
            data = versions[now]
            span = re.search(rb"\r\nRange: bytes=([0-9]+)-([0-9]+)", request)
            first, last = map(int, span.groups()) if span else (0, SIZE - 1)
            lines = [
                b"HTTP/1.1 206 X\r\nContent-Range: bytes %d-%d/%d" % (first, last, SIZE)
                if span
                else b"HTTP/1.1 200 X",
                b"Content-Length: %d" % (last - first + 1),
                b"ETag: " + tag,
                b"x-amz-version-id: " + now,
                b"Accept-Ranges: bytes\r\n\r\n",
            ]
            talk.send(
                b"\r\n".join(lines), b"" if request[:4] == b"HEAD" else data[first : last + 1]
            )

    bucket = Bucket()
    with Peer([script] * 40) as there, Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(place(there), place(peer))
    assert outcome.state is State.VERIFIED
    assert bucket.whole == (NEW if is_replaced and not allowed else OLD)


# -- tags that a server sends and does not understand


@dataclass
class Pedant:
    """A server whose tags have no quotes, as SeaweedFS's WebDAV gives them: If-Match of any of them
    is a 412, which shows the current one."""

    data: bytes
    newer: bytes | None = None
    """The object after HEAD."""
    lines: list[bytes] = field(default_factory=list)

    def __call__(self, talk: Talk) -> None:
        while request := talk.head():
            method = request.split(b" ", 1)[0]
            self.lines.append(method)
            self.data += talk.body(length_of(request)) if method == b"PUT" else b""
            refused = b"\r\nIf-Match: " in request
            head = b"HTTP/1.1 %s\r\nETag: len-%d\r\nAccept-Ranges: bytes\r\n" % (
                b"412 P" if refused else b"201 C" if method == b"PUT" else b"200 OK",
                len(self.data),
            )
            body = b"" if refused or method == b"PUT" else self.data
            talk.send(head + b"Content-Length: %d\r\n\r\n" % len(body))
            talk.send(body if method == b"GET" else b"")
            self.data = self.newer or self.data


def test_a_source_that_refuses_its_own_tag_is_read_whole(engine: Engine) -> None:
    bucket, source = Bucket(), Pedant(OLD)
    with Peer([source] * 40) as there, Peer(repeat_script(bucket)) as peer:
        outcome = with_retries(engine).migrate(there.url(), place(peer))
    assert (outcome.state, bucket.whole) == (State.VERIFIED, OLD)
    assert "complete" not in bucket.asked


def test_a_change_is_seen_where_the_source_refuses_its_own_tag(engine: Engine) -> None:
    bucket, source = Bucket(), Pedant(OLD, newer=SMALLER)
    with Peer([source] * 40) as there, Peer(repeat_script(bucket)) as peer:
        with_retries(engine).migrate(there.url(), place(peer))
    assert bucket.whole == SMALLER


def test_a_destination_that_refuses_its_own_tag_is_read_back(engine: Engine) -> None:
    kept = Pedant(b"")
    with Peer([Versions([("v1", DATA)])] * 9) as there, Peer([kept] * 9) as peer:
        outcome = engine.migrate(there.url(), peer.url())
    assert outcome.receipt is not None
    assert (outcome.receipt.level, kept.data) == (Level.READ_BACK, DATA)


def test_a_tag_absent_from_reads_pins_no_read(engine: Engine) -> None:
    """JuiceFS sends a tag in its answer to an upload, and none with HEAD and GET."""

    class Untagged(Bucket):
        def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
            if operation in ("head", "get") and b"\r\nIf-Match: " in request:
                return refusal(412, "PreconditionFailed")
            done = super()._answer(operation, request, body)
            return done.replace(b'ETag: "whole-2"\r\n', b"")

    bucket = Untagged({"begin whole": [refusal(400, "InvalidArgument")]})
    with Peer([Versions([("v1", OLD)])] * 40) as there, Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(there.url(), place(peer))
    assert outcome.receipt is not None
    assert (outcome.receipt.level, bucket.whole) == (Level.READ_BACK, OLD)
    assert bucket.asked.count("complete") == 1


class Denying(Bucket):
    """A bucket that keeps versions, and allows GetObject, but not GetObjectVersion."""

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        if b"versionId=" in request.partition(b"\r\n")[0]:
            return refusal(403, "AccessDenied")
        return super()._answer(operation, request, body)

    def _upload_reply(self, data: bytes, tag: str) -> bytes:
        return reply(200, b"", f'ETag: "{tag}"', "x-amz-version-id: v1")


@pytest.mark.parametrize("current", ["v1", "v2"])
def test_a_version_with_a_denied_id_is_inspected_as_current(engine: Engine, current: str) -> None:
    """It was noted as unreadable, and later uploads had no checksum. The current version may be
    another writer's."""
    bucket = Denying(fields=(f"x-amz-version-id: {current}",))
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(repeat_script(bucket)) as peer,
    ):
        for name in ("/a", "/b"):
            outcome = engine.migrate(source.url(name), place(peer))
            assert outcome.state is State.VERIFIED
            assert outcome.receipt is not None
            assert (UNSEEN in outcome.receipt.notes) is (current == "v2" and name == "/a")
    sent = [b"x-amz-trailer" in one for one in bucket.requests if one.startswith(b"PUT ")]
    assert sent == [True, current == "v1"]


class Unversioned(Bucket):
    """A bucket without versions whose answers to uploads name one, as Cloudflare R2's do."""

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        if b"versionId=" in request.partition(b"\r\n")[0]:
            return reply(501) if operation == "head" else refusal(501, "NotImplemented")
        done = super()._answer(operation, request, body)
        if operation not in ("put", "complete"):
            return done
        return done.replace(b"\r\n", b"\r\nx-amz-version-id: 7e5f\r\n", 1)


@pytest.mark.parametrize("verify", ["auto", "read_back"])
@pytest.mark.parametrize("data", [DATA, OLD])
def test_a_version_that_a_bucket_names_and_lacks_is_proved(
    engine: Engine, verify: str, data: bytes
) -> None:
    """Every object that was read back was unverified."""
    bucket = Unversioned()
    with Peer([Versions([("v1", data)])] * 40) as there, Peer(repeat_script(bucket)) as peer:
        outcome = engine.migrate(there.url(), place(peer), verify=verify)
    assert (outcome.state, bucket.whole) == (State.VERIFIED, data)


def test_a_damaged_version_that_a_bucket_lacks_is_deleted(engine: Engine) -> None:
    bucket = Unversioned(mangle=lambda data: data[::-1])
    with Peer([Versions([("v1", DATA)])] * 40) as there, Peer(repeat_script(bucket)) as peer:
        with pytest.raises(IntegrityMismatch):
            engine.migrate(there.url(), place(peer))
    assert bucket.whole is None
