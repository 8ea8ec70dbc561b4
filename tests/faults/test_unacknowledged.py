"""An unproved object of ours is neither an existing object nor forgotten, after any answer to its
upload."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from relay.engine.transfer.context import ObjectHints
from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    PreconditionFailed,
    RedirectRefused,
    SourceUnstable,
    Unavailable,
)
from relay.ledger.prior_state_values import PriorState
from relay.receipt import State
from relay.stores.local_locations import local_location
from relay.stores.webdav.trials import TRIAL
from tests.conftest import Engine
from tests.end_to_end.terminal import Terminal
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    fixed_answer,
    read_requests,
    source_script,
)
from tests.faults.scripted_s3 import Bucket, place, repeat_script
from tests.faults.scripted_s3_objects import Shelf as Keys
from tests.faults.test_ours import THEIRS, hurried_terminal, plant
from tests.faults.test_webdav import Dav
from tests.scripted import Peer, Talk, length_of


class Nodes(Shelf):
    """Each answer comes from another node, whose entity tags have an inode of its own."""

    inodes = count()

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        if b"\r\nIf-Match: " in request:
            talk.send(empty_answer(412))
            return True
        return super()._other(talk, method, path, request)

    @staticmethod
    def _tag(data: bytes) -> bytes:
        return b'ETag: "%d"\r\n' % next(Nodes.inodes)


@pytest.mark.parametrize("tags_uploads", [False, True])
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_an_unreadable_upload_is_not_an_existing_object(
    engine: Engine, if_exists: str, tags_uploads: bool
) -> None:
    """It may be damaged. The 412 came after the upload, and did not refuse it."""
    shelf = Nodes(tags_uploads=tags_uploads, damages=lambda data: data[:-1] + b"!")
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source, Peer(shelf) as there:
        with pytest.raises(PreconditionFailed) as caught:
            engine.migrate(source.url("/a"), there.url("/a"), if_exists=if_exists)
        assert caught.value.remains.keys() == {there.url("/a")}


def test_a_piece_under_changing_tags_is_named_by_a_later_skip(tmp_path: Path) -> None:
    """No read of the piece can be pinned, so nothing proves that it is a piece of ours: the failure
    names its place."""
    folder, terminal, shelf = plant(tmp_path, bytes(300_000)), hurried_terminal(tmp_path), Nodes()
    words = ("migrate", "-r", str(folder))
    with Peer(shelf) as there:
        assert terminal.run(*words, there.url("/to/"), RELAY_FAILPOINT="mid-part:1:kill9")[0] == -9
        (name,) = shelf.objects
        piece = shelf.objects[name]
        options = ("--if-exists", "skip", "--verify", "size")
        code, out, _ = terminal.run(*words, there.url("/to/"), "--json", *options)
        error = terminal.query("SELECT error FROM transfers WHERE state = 'failed'")
    assert (code, json.loads(out)["objects"]) == (1, {"failed": 1})
    assert there.url(name.decode()) in error and '"source-changed"' not in error
    assert shelf.objects == {name: piece} and len(piece) < 300_000


@dataclass
class Failing(Shelf):
    """Stores an upload, with other bytes at its end, and answers it with `status`."""

    status: int = 500

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        self.objects[path] = talk.body(length_of(request))[:-1] + b"!"
        talk.send(empty_answer(self.status))
        return True


class Form:
    """A page that accepts uploads by POST; `answers` are sent to the first ones."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.methods = list(answers), list[bytes]()

    def __call__(self, talk: Talk) -> None:
        for request, _ in read_requests(talk):
            method = request.split()[0]
            self.methods.append(method)
            if method != b"POST":
                talk.send(empty_answer(200))
            elif not self.answers:
                talk.send(empty_answer(201))
            elif answer := self.answers.pop(0):
                talk.send(answer)
            else:
                return talk.reset()


@pytest.mark.parametrize("if_exists", ["skip", "fail", "changed", "overwrite"])
def test_the_page_that_accepts_uploads_is_not_a_prior_object(
    engine: Engine, if_exists: str
) -> None:
    form = Form()
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source, Peer(form) as there:
        outcome = engine.migrate(
            source.url("/a"), there.url("/upload"), method="POST", if_exists=if_exists
        )
    assert (outcome.state, form.methods) == (State.UNVERIFIED, [b"POST"])


@pytest.mark.parametrize("answer", [b"", empty_answer(502)], ids=["lost", "502"])
def test_a_repeated_post_names_the_possible_first_object(
    patient_engine: Engine, answer: bytes
) -> None:
    form = Form(answer)
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source, Peer(form) as there:
        outcome = patient_engine.migrate(source.url("/a"), there.url("/upload"), method="POST")
        assert outcome.remains.keys() == {there.url("/upload")}
    assert form.methods == [b"POST"] * 2
    assert outcome.receipt is not None
    assert any("may remain" in note for note in outcome.receipt.notes)


def test_a_post_after_a_crash_names_the_possible_first_object(engine: Engine) -> None:
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(Form()) as there,
    ):
        plan = engine.plan(source.url("/a"), there.url("/upload"), method="POST")
        hints = ObjectHints(begun=True, after_crash=True)
        outcome = engine.runner.run(replace(engine.runner.transfer(plan), known=hints))
        assert outcome.remains.keys() == {there.url("/upload")}


@pytest.mark.parametrize("status", [302, 303])
def test_a_post_answered_by_a_page_names_its_possible_object(engine: Engine, status: int) -> None:
    seen = b"HTTP/1.1 %d X\r\nLocation: /done\r\nContent-Length: 0\r\n\r\n" % status
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(Form(seen)) as there,
    ):
        with pytest.raises(RedirectRefused) as caught:
            engine.migrate(source.url("/a"), there.url("/upload"), method="POST")
        assert caught.value.remains.keys() == {there.url("/upload")}


class Losing(Shelf):
    """The first upload is refused; the next ones are stored, and their answers lost."""

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        body = talk.body(len(DATA))
        if self.methods.count(b"PUT") == 1:
            talk.send(empty_answer(503))
            return True
        self.objects[path] = body
        talk.reset()
        return False


def test_an_unstable_source_names_the_last_possible_object(patient_engine: Engine) -> None:
    reads = count()

    def changing(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[:-1] + bytes([next(reads)]))

    shelf = Losing()
    with Peer(source_script(Cloud(), changing)) as source, Peer(shelf) as there:
        with pytest.raises(SourceUnstable) as caught:
            patient_engine.migrate(source.url("/a"), there.url("/a"))
        assert caught.value.remains.keys() == {there.url("/a")}
    assert shelf.methods.count(b"PUT") == 2


class Once(Shelf):
    """The first upload is damaged, and its answer lost."""

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        if self.methods.count(b"PUT") > 1:
            return super()._put(talk, path, request)
        self.objects[path] = talk.body(len(DATA))[:-1] + b"!"
        talk.reset()
        return False


def test_a_source_read_twice_is_released_twice(patient_engine: Engine) -> None:
    """A folder uses the name of an open source, which is read again to be compared."""
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(Once()) as there,
    ):
        with pytest.raises(IntegrityMismatch):
            patient_engine.migrate(source.url("/a"), there.url("/"), if_exists="skip")
    patient_engine.assert_nothing_left()


OURS = b"Content-Disposition: attachment\r\nContent-Type: text/x-ours\r\n\r\n"


@pytest.mark.parametrize(
    ("disposition", "kind", "sent"),
    [
        ("attachment", "text/x-ours", False),
        ("inline", "text/x-ours", True),
        ("attachment", "text/x-old", True),
    ],
)
def test_equal_bytes_with_older_metadata_are_a_prior_object(
    engine: Engine, disposition: str, kind: str, sent: bool
) -> None:
    """An attempt that was killed before its upload has not replaced them."""
    fields = (f"Content-Disposition: {disposition}", f"Content-Type: {kind}")
    bucket = Bucket(whole=DATA, sums=True, fields=fields)
    get = fixed_answer(GET_HEAD[:-2] + OURS, DATA)
    with Peer(source_script(Cloud(), get)) as source, Peer(repeat_script(bucket)) as there:
        transfer = engine.runner.transfer(engine.plan(source.url("/a"), place(there)))
        outcome = engine.runner.run(replace(transfer, known=ObjectHints(begun=True)))
    assert (outcome.state, "put" in bucket.asked) == (State.VERIFIED, sent)


@pytest.mark.parametrize(("seconds", "sent"), [(0, False), (3600, True)])
def test_equal_bytes_with_another_date_are_a_prior_object(
    engine: Engine, tmp_path: Path, seconds: int, sent: bool
) -> None:
    here, there = (tmp_path / name for name in ("here", "there"))
    for path, time in ((here, 1e9), (there, 1e9 - seconds)):
        path.write_bytes(DATA)
        os.utime(path, (time, time))
    inode = there.stat().st_ino
    old, new = (local_location(path, destination=path is there) for path in (here, there))
    transfer = replace(engine.runner.transfer(engine.plan(old, new)), known=ObjectHints(begun=True))
    assert engine.runner.run(transfer).state is State.VERIFIED
    assert (there.stat().st_mtime, there.stat().st_ino != inode) == (1e9, sent)


@dataclass
class Altering(Dav):
    """A MOVE leaves `becomes` in place of the object."""

    becomes: bytes | None = None

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        is_trial = self.objects.get(path) == TRIAL
        done = super()._done(method, path, request, body)
        if method == b"MOVE" and self.becomes is not None and not is_trial:
            self.objects[b"/to/a"] = self.becomes
        return done


@pytest.mark.parametrize(
    ("becomes", "kept"),
    [(DATA[:1000], False), (THEIRS, True)],
    ids=["a piece", "of another writer"],
)
def test_an_altered_object_is_not_prior_for_the_next_command(
    tmp_path: Path, becomes: bytes, kept: bool
) -> None:
    """A MOVE that copies cuts an object short on a full disk, or another writer was faster."""
    dav, folder, terminal = Altering(becomes=becomes), plant(tmp_path), hurried_terminal(tmp_path)
    with Peer([dav] * 60) as there:
        words = (folder, f"webdav+{there.url('/to/')}", "--if-exists", "skip")
        assert terminal.tree(*words)[0] == 1
        dav.becomes = None
        code, report = terminal.tree(*words)
    ends = (1, {"failed": 1}) if kept else (0, {"verified": 1})
    assert (code, report["objects"]) == ends
    assert dav.objects[b"/to/a"] == (THEIRS if kept else DATA)


LATER = b"Thu, 07 Nov 2199 10:00:00 GMT"
DATED = GET_HEAD[:-2] + b"Last-Modified: Tue, 10 Nov 2020 10:00:00 GMT\r\n\r\n"


@pytest.mark.parametrize("answered", [True, False])
def test_without_a_ledger_a_damaged_upload_is_not_unchanged(
    patient_engine: Engine, answered: bool
) -> None:
    """It has the size of the source and is newer; only its bytes show the damage."""
    shelf, uploads = Once(tagged=False, dated=LATER), count()
    if answered:
        shelf = Shelf(tagged=False, dated=shelf.dated)
        shelf.damages = lambda data: data if next(uploads) else data[:-1] + b"!"
    source = source_script(Cloud(), fixed_answer(DATED, DATA), head=DATED)
    with Peer([source] * 9) as peer, Peer([shelf] * 9) as there:
        outcome = patient_engine.migrate(peer.url("/a"), there.url("/a"), if_exists="changed")
    assert (outcome.state, shelf.objects) == (State.VERIFIED, {b"/a": DATA})


@pytest.mark.parametrize("then", ["skip", "changed"])
def test_without_head_a_damaged_upload_is_named(tmp_path: Path, then: str) -> None:
    """A 404 to HEAD from a server without HEAD does not mean that nothing was stored."""
    shelf = Once(refused={b"HEAD": empty_answer(404)}, dated=LATER)
    folder, terminal = plant(tmp_path), Terminal(tmp_path, RELAY_RETRY_BUDGET="0")
    with Peer([shelf] * 60) as there:
        words = ("migrate", str(folder / "a"), there.url("/to/a"))
        code, _, err = terminal.run(*words)
        assert (code, "What was sent may remain" in err) == (1, True)
        assert terminal.run(*words, "--if-exists", then)[0] == (1 if then == "skip" else 0)
    assert shelf.objects[b"/to/a"] == (DATA[:-1] + b"!" if then == "skip" else DATA)


def test_without_head_a_prior_object_is_not_a_leftover(engine: Engine) -> None:
    """An older version of a log has the same first bytes. The server keeps it if an upload
    breaks."""

    class Keeping(Shelf):
        def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
            talk.body(len(DATA) - 1000)
            talk.reset()
            return False

    shelf = Keeping({b"/a": DATA[:1000]}, refused={b"HEAD": empty_answer(404)})
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer([shelf] * 9) as there,
    ):
        with pytest.raises(ConnectionLost) as caught:
            engine.migrate(source.url("/a"), there.url("/a"))
    assert caught.value.remains.keys() == {there.url("/a")}
    assert shelf.objects == {b"/a": DATA[:1000]}


class Garbling(Keys):
    """It damages a copy, and its answer to it is not HTTP."""

    def __call__(self, talk: Talk) -> None:
        for request, body in read_requests(talk):
            method, target = request.decode().split(" ", 2)[:2]
            done = self._done(method, target.removeprefix("/bucket/"), request, body)
            if b"x-amz-copy-source:" in request:
                self.objects["b"], done = b"damaged", b"HTTP/1.1 2xx X\r\n\r\n"
            talk.send(done.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            return


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_copy_with_an_unreadable_answer_is_not_prior(engine: Engine, if_exists: str) -> None:
    keys = Garbling({"a": DATA})
    with Peer([keys] * 20) as peer:
        old, new = (replace(place(peer), target=f"/bucket/{key}") for key in "ab")
        with pytest.raises(Unavailable) as caught:
            engine.migrate(old, new, if_exists=if_exists)
    assert caught.value.remains.keys() == {"s3://bucket/b"}


@pytest.mark.parametrize("status", [500, 504, 524])
def test_an_upload_answered_by_an_error_is_not_prior_later(tmp_path: Path, status: int) -> None:
    """The server stored it, damaged, before it failed or its gateway gave up."""
    shelf, terminal = Failing(status=status), Terminal(tmp_path, RELAY_RETRY_BUDGET="0")
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer([shelf] * 60) as there,
    ):
        words = ("migrate", source.url("/a"), there.url("/a"))
        assert terminal.run(*words)[0] == 1
        code, _, err = terminal.run(*words, "--if-exists", "skip")
    assert (code, "may remain" in err) == (1, True)


def head_naming(name: str) -> bytes:
    return GET_HEAD[:-2] + f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'.encode()


@pytest.mark.parametrize("prior", [b"", DATA[:500]], ids=["empty", "older"])
@pytest.mark.parametrize("killed", [True, False])
def test_a_new_name_of_the_source_has_a_prior_object_of_its_own(
    patient_engine: Engine, killed: bool, prior: bytes
) -> None:
    """An export is named after the day. The first upload was to another, unused name; an older
    object under the second name is another writer's."""
    reads = count(int(killed))

    def get(talk: Talk, _: bytes) -> None:
        talk.send(head_naming("two" if next(reads) else "one"), DATA)

    shelf = Once({b"/to/two": prior})
    with Peer([source_script(Cloud(), get)] * 9) as source, Peer([shelf] * 20) as there:
        one = there.url("/to/one")
        noted = PriorState.from_text(PriorState(known=True, place=one).to_text())
        hints = ObjectHints(begun=True, before=noted) if killed else ObjectHints()
        plan = patient_engine.plan(source.url("/latest"), there.url("/to/"), if_exists="skip")
        transfer = replace(patient_engine.runner.transfer(plan), known=hints, random=lambda: 0.05)
        outcome = patient_engine.runner.run(transfer)
    assert (outcome.state, outcome.remains.keys()) == (State.SKIPPED, {one})
    assert shelf.objects[b"/to/two"] == prior
