"""Every end of an object, in every command, names our possible leftovers until they are gone or
proved."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path

import pytest

from relay.engine.cleanup import remove_lost_uploads
from relay.engine.transfer.context import ObjectHints
from relay.errors import (
    Cancelled,
    Leftover,
    NotFound,
    RelayError,
    SourceChanged,
    StoreError,
    remaining,
)
from relay.ledger.prior_state_values import PriorState
from relay.receipt import State
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.stores.webdav.account import webdav_location
from relay.stores.webdav.store import WebDavStore
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Engine
from tests.end_to_end.terminal import Terminal, eventually
from tests.faults.scripted_http import Meanwhile, Shelf, empty_answer
from tests.faults.scripted_peers import DATA, GET_HEAD, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import GONE, refusal
from tests.faults.scripted_s3_objects import Shelf as Bucket
from tests.faults.test_ours import THEIRS, flip_byte, hurried_terminal, plant
from tests.faults.test_webdav import Dav, Deleting
from tests.pairs import in_pairs
from tests.scripted import Peer, Talk

REMAINS = "may remain"


def errors(terminal: Terminal) -> str:
    return terminal.query("SELECT error FROM transfers")


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
def test_a_leftover_is_named_by_the_next_early_failure(tmp_path: Path, if_exists: str) -> None:
    shelf = Shelf(refused={b"DELETE": empty_answer(405)}, damages=flip_byte)
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        for round in ("sent", "not read"):
            code, report = terminal.tree(folder, there.url("/to/"), "--if-exists", if_exists)
            assert (code, report["objects"]) == (1, {"failed": 1}), round
            assert REMAINS in errors(terminal), round
            (folder / "a").chmod(0)
            shelf.refused[b"HEAD"] = empty_answer(503)
        assert shelf.objects == {b"/to/a": flip_byte(DATA)}
        (folder / "a").chmod(0o600)
        shelf.refused.clear()
        shelf.objects.clear()
        shelf.damages = bytes
        code, report = terminal.tree(folder, there.url("/to/"), "--if-exists", if_exists)
    assert (code, report["objects"]) == (0, {"verified": 1})
    assert REMAINS not in terminal.query("SELECT receipt FROM receipts")


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
@pytest.mark.parametrize("fails", ["upload", "source"])
def test_a_piece_of_a_killed_process_is_named_on_failure(
    tmp_path: Path, if_exists: str, fails: str
) -> None:
    shelf, data = Shelf(), bytes(300_000)
    folder, terminal = plant(tmp_path, data), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        words = "migrate", "-r", str(folder), there.url("/to/"), "--if-exists", if_exists
        code, *_ = terminal.run(*words, RELAY_FAILPOINT="mid-part:1:kill9")
        assert code == -9
        eventually(lambda: b"/to/a" in shelf.objects)
        assert 0 < len(shelf.objects[b"/to/a"]) < len(data)
        if fails == "upload":
            shelf.refused[b"PUT"] = empty_answer(400)
        else:
            (folder / "a").unlink()
            (folder / "a").symlink_to(folder / "a")
        code, *_ = terminal.run(*words)
        assert code == 1
        assert b"/to/a" in shelf.objects
        assert REMAINS in errors(terminal)


def test_a_leftover_of_an_upload_ended_by_ctrl_c_is_recorded(tmp_path: Path) -> None:
    shelf, begun, gate = (
        Shelf(refused={b"DELETE": empty_answer(405)}),
        threading.Event(),
        threading.Event(),
    )

    def half(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[: len(DATA) // 2])
        begun.set()
        gate.wait(60)

    terminal = hurried_terminal(tmp_path)
    with Peer(source_script(Cloud(), half)) as source, Peer(shelf) as there:
        moving = terminal.start("migrate", source.url("/a"), there.url("/to/a"))
        assert begun.wait(30)
        eventually(lambda: b"PUT" in shelf.methods)
        moving.send_signal(signal.SIGINT)
        output = moving.communicate(timeout=60)
        assert moving.returncode == 130, output
        gate.set()
        eventually(lambda: b"/to/a" in shelf.objects)
    assert len(shelf.objects[b"/to/a"]) < len(DATA)
    assert REMAINS in terminal.query("SELECT before FROM transfers")


def test_an_object_of_the_right_length_is_named_on_failure(
    tmp_path: Path,
) -> None:
    shelf = Shelf()
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        code, _ = terminal.tree(
            folder, there.url("/to/"), "--verify", "size", "--if-exists", "overwrite"
        )
        assert code == 3
        shelf.refused = {b"PUT": empty_answer(403), b"HEAD": empty_answer(503)}
        code, report = terminal.tree(
            folder, there.url("/to/"), "--verify", "size", "--if-exists", "overwrite"
        )
    assert (code, report["objects"]) == (1, {"failed": 1})
    assert REMAINS in errors(terminal)


def test_an_object_that_became_another_version_is_reported(engine: Engine) -> None:
    """Another writer may have written it, or the destination: no evidence decides."""
    shelf = Shelf(tags_uploads=True)

    def before(one: Shelf, method: bytes, path: bytes) -> None:
        if method in (b"HEAD", b"GET") and path in one.objects:
            one.objects[path] = THEIRS.ljust(len(DATA), b" ")

    shelf.before = before
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(shelf) as there,
        pytest.raises(RelayError) as caught,
    ):
        engine.migrate(source.url("/a"), there.url("/a"))
    assert REMAINS in caught.value.hint
    assert b"DELETE" not in shelf.methods


def test_a_failure_before_the_first_byte_names_nothing(engine: Engine) -> None:
    gone = Peer(
        source_script(Cloud(), fixed_answer(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", b""))
    )
    with gone as source, Peer(Shelf()) as there, pytest.raises((NotFound, SourceChanged)) as caught:
        engine.migrate(source.url("/a"), there.url("/a"))
    assert REMAINS not in caught.value.hint


@pytest.mark.parametrize(
    ("answer", "there", "is_named"),
    [
        (405, True, True),
        (403, True, True),
        (405, False, False),
        (503, True, True),
        (503, False, False),
    ],
)
def test_only_a_remaining_name_of_a_lost_attempt_is_named(
    engine: Engine, answer: int, there: bool, is_named: bool
) -> None:
    dav = Dav(answers={b"DELETE": [empty_answer(answer)] * 20})
    with Peer([dav] * 20) as peer:
        place = webdav_location(peer.url("/folder/a"), destination=True)
        store = WebDavStore(engine.runner.wire, "destination", Watchdog(QUICK))
        names = store.staged_locations(place, "token")
        if there:
            dav.objects[names[1].path.encode()] = DATA
        remains = dict.fromkeys(map(str, names), "")
        kept = remove_lost_uploads(store, place, ["token"], remains)
    assert list(kept.remains if kept is not None else {}) == ([str(names[1])] if is_named else [])
    assert list(remains) == ([str(names[1])] if is_named else [])


@pytest.mark.parametrize("size", [0, 1])
def test_an_empty_object_of_another_writer_is_not_deleted(engine: Engine, size: int) -> None:
    """It begins like each object."""
    theirs, shelf = THEIRS[:size], Shelf(cut=len(DATA) // 2)

    def before(one: Shelf, method: bytes, path: bytes) -> None:
        if method == b"HEAD" and one.cut is None:
            one.objects[path] = theirs

    shelf.before = before
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(shelf) as there,
        pytest.raises(RelayError),
    ):
        engine.migrate(source.url("/a"), there.url("/a"))
    assert shelf.objects == {b"/a": theirs}
    assert b"DELETE" not in shelf.methods


# -- objects that no later command writes again


def now(later: float = 0.0) -> bytes:
    """Return a date of HTTP."""
    return formatdate(time.time() + later, usegmt=True).encode()


def forsake_piece(
    tmp_path: Path, shelf: Shelf, there: Peer, if_exists: str = "overwrite"
) -> tuple[Terminal, tuple[str, ...]]:
    """Kill a migration in the middle of its object, a minute after its acceptance, and let the
    server keep the piece, with the present date."""
    data = bytes(range(256)) * 2000
    folder, terminal = plant(tmp_path, data), hurried_terminal(tmp_path)
    words = "migrate", "-r", str(folder), there.url("/to/"), "--if-exists", if_exists
    assert terminal.run(*words, RELAY_FAILPOINT="mid-part:1:kill9")[0] == -9
    eventually(lambda: b"/to/a" in shelf.objects)
    assert 0 < len(shelf.objects[b"/to/a"]) < len(data)
    with sqlite3.connect(terminal.ledger) as connection:
        connection.execute("UPDATE migrations SET created = created - 60")
    shelf.dated = now()
    return terminal, words


LATER, EARLIER = b"Thu, 07 Nov 2199 10:00:00 GMT", b"Sat, 07 Nov 2020 10:00:00 GMT"
PIECES = [
    "a piece",
    "a later object",
    "another's",
    "a piece without a tag",
    "a piece without a date",
    "whole",
    "nothing",
    "no source",
]


@pytest.mark.parametrize("what", PIECES)
def test_a_cancel_removes_a_piece_at_its_own_place_alone(tmp_path: Path, what: str) -> None:
    shelf = Shelf(dated=LATER)
    with Peer(shelf) as there:
        terminal, _ = forsake_piece(tmp_path, shelf, there)
        source = tmp_path / "from" / "a"
        if what == "another's":
            shelf.objects[b"/to/a"] = THEIRS
        elif what == "a piece without a tag":
            shelf.tagged = False
        elif what == "a piece without a date":
            shelf.dated = b""
        elif what == "a later object":
            shelf.dated = now(60)
        elif what == "whole":
            shelf.objects[b"/to/a"] = source.read_bytes()
        elif what == "nothing":
            shelf.objects.clear()
        elif what == "no source":
            source.unlink()
        before = dict(shelf.objects)
        code, out, err = terminal.run("cancel", "1")
        again = terminal.run("cancel", "1")[1:]
    assert shelf.objects == ({} if what == "a piece" else before)
    remains = what not in ("a piece", "nothing")
    assert code == remains
    assert ("may remain" in out + err) == remains
    assert "may remain" not in "".join(again), "it is said once"
    assert (
        terminal.query("SELECT count(*) FROM transfers WHERE before LIKE '%may remain%'") == remains
    )


@in_pairs(
    if_exists=["overwrite", "skip"],
    later={"piece": 0, "another's": 60},
    skew={"-600 s": -600, "+7200 s": 7200},
)
def test_a_server_clock_decides_the_age_of_a_piece(
    tmp_path: Path, skew: float, later: float, if_exists: str
) -> None:
    """An object from after the kill is another writer's, though the source has outgrown it."""
    shelf = Shelf(skew=skew)
    with Peer(shelf) as there:
        terminal, _ = forsake_piece(tmp_path, shelf, there, if_exists)
        shelf.dated = now(later + skew)
        code, out, err = terminal.run("cancel", "1")
    is_left = later == 60
    assert (code, REMAINS in out + err, len(shelf.objects)) == (is_left, is_left, is_left)


@pytest.mark.parametrize("if_exists", ["overwrite", "skip"])
@pytest.mark.parametrize("later", [-600, 60])
def test_dates_of_another_clock_prove_no_piece(
    tmp_path: Path, later: float, if_exists: str
) -> None:
    """A proxy answers with its own Date, and shows the dates of a file system elsewhere."""
    shelf = Shelf()
    with Peer(shelf) as there:
        terminal, _ = forsake_piece(tmp_path, shelf, there, if_exists)
        shelf.dated = now(later)
        code, out, err = terminal.run("cancel", "1")
    assert (code, REMAINS in out + err, len(shelf.objects)) == (1, True, 1)


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
@pytest.mark.parametrize("dated", [EARLIER, LATER, b""])
def test_a_cancel_leaves_an_untouched_older_version(
    tmp_path: Path, if_exists: str, dated: bytes
) -> None:
    """A log that has grown since: it begins like the object. Its process was killed before it sent
    anything."""
    log = b"one line\n" * 1000
    folder, terminal, shelf = (
        plant(tmp_path, log),
        hurried_terminal(tmp_path),
        Shelf({b"/to/a": log[:4500]}, dated=dated),
    )
    with Peer(shelf) as there:
        words = "migrate", "-r", str(folder), there.url("/to/"), "--if-exists", if_exists
        assert terminal.run(*words, RELAY_FAILPOINT="after-claim:1:kill9")[0] == -9
        code, out, err = terminal.run("cancel", "1")
    assert shelf.objects == {b"/to/a": log[:4500]}
    remains = if_exists == "overwrite" and dated != EARLIER
    assert (code, REMAINS in out + err) == (remains, remains)


@pytest.mark.parametrize("options", [("--if-exists", "overwrite"), ("--verify", "size")])
def test_a_cancel_leaves_an_arrived_object_that_has_grown(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    """It begins like the source's new version, and the process was killed before it sent that."""
    folder, terminal, shelf = plant(tmp_path), hurried_terminal(tmp_path), Shelf(dated=LATER)
    (folder / "bad").symlink_to("bad")  # fails, so that the migration does not succeed
    with Peer(shelf) as there:
        words = "migrate", "-r", str(folder), there.url("/to/"), *options
        terminal.run(*words)
        assert shelf.objects == {b"/to/a": DATA}
        (folder / "a").write_bytes(DATA * 2)
        for _ in range(2):
            assert terminal.run(*words, RELAY_FAILPOINT="after-claim:1:kill9")[0] == -9
            code, out, err = terminal.run("cancel", "1")
            assert (code, REMAINS in out + err) == (1, True)
            terminal.run("retry", "1")
    assert shelf.objects == {b"/to/a": DATA}


def test_a_cancel_names_a_piece_of_an_earlier_version(tmp_path: Path) -> None:
    """A listing has named another version since."""
    shelf = Shelf(dated=LATER)
    with Peer(shelf) as there:
        terminal, words = forsake_piece(tmp_path, shelf, there)
        (tmp_path / "from" / "a").write_bytes(bytes(400_000))
        shelf.refused[b"HEAD"] = empty_answer(503)  # so that no upload begins before the kill
        assert terminal.run(*words, RELAY_FAILPOINT="after-page:1:kill9")[0] == -9
        shelf.refused.clear()
        code, out, err = terminal.run("cancel", "1")
        assert (code, REMAINS in out + err) == (1, True)
        assert terminal.run(*words[:-1], "skip")[0] == 1


@pytest.mark.parametrize("tagged", [True, False])
def test_a_cancel_names_a_piece_of_a_source_that_changed(tmp_path: Path, tagged: bool) -> None:
    """Only a source's entity tag shows that it changed."""
    data = bytes(range(256)) * 2000
    terminal, shelf = hurried_terminal(tmp_path), Shelf(dated=LATER)
    source = Shelf({b"/a": data}, tagged=tagged)
    with Peer(source) as here, Peer(shelf) as there:
        words = "migrate", here.url("/a"), there.url("/a")
        assert terminal.run(*words, RELAY_FAILPOINT="mid-part:1:kill9")[0] == -9
        eventually(lambda: b"/a" in shelf.objects)
        source.objects[b"/a"] = data[::-1]
        code, out, err = terminal.run("cancel", "1")
        assert (code, REMAINS in out + err) == (1, True)
        assert terminal.run(*words, "--if-exists", "skip")[0] == 1
    assert 0 < len(shelf.objects[b"/a"]) < len(data)


def test_a_cancel_leaves_an_object_that_replaced_an_older(tmp_path: Path) -> None:
    """It begins like the object, and may be a version that another writer wrote since."""
    log = b"one line\n" * 50_000
    folder, terminal, shelf = (
        plant(tmp_path, log),
        hurried_terminal(tmp_path),
        Shelf({b"/to/a": log[:4500]}, dated=LATER),
    )
    with Peer(shelf) as there:
        words = "migrate", "-r", str(folder), there.url("/to/")
        assert terminal.run(*words, RELAY_FAILPOINT="mid-part:1:kill9")[0] == -9
        eventually(lambda: len(shelf.objects[b"/to/a"]) > 4500)
        shelf.objects[b"/to/a"] = log[:9000]
        code, out, err = terminal.run("cancel", "1")
    assert code == 1
    assert shelf.objects == {b"/to/a": log[:9000]}
    assert REMAINS in out + err


def test_a_cancel_leaves_an_object_recreated_during_its_check(tmp_path: Path) -> None:
    """The server ignores the precondition under which only the piece is to be deleted."""
    shelf, ends = Meanwhile(dated=LATER), []
    with Peer(shelf) as there:
        terminal, words = forsake_piece(tmp_path, shelf, there)
        shelf.again = lambda: ends.append(terminal.run(*words)[0])
        assert terminal.run("cancel", "1")[0] == 0
    assert ends == [0]
    assert shelf.objects == {b"/to/a": (tmp_path / "from" / "a").read_bytes()}


@pytest.mark.parametrize("shown", [False, True])
def test_a_cancel_that_sees_no_object_keeps_a_note(tmp_path: Path, shown: bool) -> None:
    """A cache hides the whole object that was not proved, or the store dates it as its source."""
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    shelf = Shelf(damages=flip_byte, dated=formatdate(1e9, usegmt=True).encode())
    with Peer(shelf) as there:
        words = "migrate", "-r", str(folder), there.url("/to/"), "--if-exists"
        assert terminal.run(*words, "overwrite", RELAY_FAILPOINT="before-verify:1:kill9")[0] == -9
        if not shown:
            shelf.shown = lambda *_: None
        assert terminal.run("cancel", "1")[0] == 0
        shelf.shown = lambda one, path: one.objects.get(path)
        assert terminal.run(*words, "skip")[0] == 1
    assert shelf.objects == {b"/to/a": flip_byte(DATA)}


def test_a_later_cancel_repeats_a_failed_inspection(tmp_path: Path) -> None:
    shelf = Shelf(dated=LATER)
    with Peer(shelf) as there:
        terminal, _ = forsake_piece(tmp_path, shelf, there)
        shelf.refused[b"HEAD"] = shelf.refused[b"GET"] = empty_answer(503)
        assert "may remain" in "".join(terminal.run("cancel", "1")[1:])
        shelf.refused.clear()
        terminal.run("cancel", "1")
    assert shelf.objects == {}


def test_a_cancel_between_two_attempts_reports_a_piece(patient_engine: Engine) -> None:
    shelf = Shelf(cut=1000, tagged=False)
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source, Peer(shelf) as there:
        transfer = patient_engine.runner.transfer(
            patient_engine.plan(source.url("/a"), there.url("/a"))
        )
        transfer.sleep = lambda _: transfer.cancel()
        with pytest.raises(Cancelled) as caught:
            patient_engine.runner.run(transfer)
    assert shelf.methods.count(b"PUT") == 1
    assert list(caught.value.remains) == [there.url("/a")]


@dataclass
class Copying(Bucket):
    """It reports no digests. Its source is unreadable, or the answer to a copy is a gateway's."""

    fails: str = ""

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        answer = super()._done(method, key, request, body)
        if (method, key, self.fails) == ("GET", "old", "source"):
            return refusal(403, "AccessDenied")
        if (method, key, self.fails) == ("PUT", "new", "answer"):
            return refusal(504, "Timeout")
        return b"\r\n".join(
            line for line in answer.split(b"\r\n") if not line.startswith(b"x-amz-checksum")
        )


@pytest.mark.parametrize("fails", ["source", "answer"])
def test_an_error_names_a_copy_that_nothing_has_proved(engine: Engine, fails: str) -> None:
    bucket = Copying({"old": DATA}, fails=fails)
    with Peer([bucket] * 10) as peer:
        config = S3Config(
            Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"), peer.url("")
        )
        old, new = (s3_location(config, "bucket", key) for key in ("old", "new"))
        with pytest.raises(StoreError) as caught:
            engine.migrate(old, new)
    assert bucket.objects == dict.fromkeys(("old", "new"), DATA)
    assert list(caught.value.remains) == [str(new)]


# -- a damaged object of an earlier command, and a later failure of another kind


class CuttingMove(Dav):
    """It cuts an object that is moved over another one."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        before = dict(self.objects)
        answer = super()._done(method, path, request, body)
        if method == b"MOVE":
            for name in self.objects.keys() & before.keys():
                if self.objects[name] != before[name]:
                    self.objects[name] = self.objects[name][:-1]
        return answer


def test_a_deleted_temporary_upload_does_not_clear_the_place(tmp_path: Path) -> None:
    dav = CuttingMove(objects={b"/to/a": THEIRS.ljust(len(DATA), b" ")}, folders={b"/", b"/to/"})
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(dav) as there:
        words = there.url("/to/").replace("http:", "webdav+http:"), "--if-exists", "overwrite"
        for _ in range(2):
            code, _ = terminal.tree(folder, *words, "--verify", "read_back")
            assert code == 1
            assert dav.objects == {b"/to/a": DATA[:-1]}
            assert "A damaged object may remain" in errors(terminal)
            dav.damage = True  # each later upload is damaged under its temporary name


@dataclass
class Versioned(Bucket):
    """A bucket that keeps versions. It damages each upload."""

    kept: list[bytes] = field(default_factory=list)

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        if method == "PUT":
            super()._done(method, key, request, body)
            self.kept.append(flip_byte(self.objects[key]))
        if method == "DELETE":
            self.kept.pop()
        self.objects.clear()
        if not self.kept:
            return GONE
        self.objects[key] = self.kept[-1]
        if method == "DELETE":
            return b"HTTP/1.1 204 X\r\n\r\n"
        answer = super()._done("HEAD" if method == "PUT" else method, key, request, b"")
        head, _, rest = answer.partition(b"\r\n")
        version = b"\r\nx-amz-version-id: v%d\r\n" % len(self.kept)
        if method == "PUT":
            rest = rest.replace(b"Content-Length: %d" % len(DATA), b"Content-Length: 0")
        return head + version + rest


def test_a_deleted_version_does_not_clear_the_version_before_it(engine: Engine) -> None:
    """A killed attempt has left a damaged version; the next ones delete their own."""
    bucket = Versioned()
    bucket.kept.append(flip_byte(DATA))
    with (
        Peer([bucket] * 20) as peer,
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
    ):
        config = S3Config(
            Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"), peer.url("")
        )
        new = s3_location(config, "bucket", "new")
        known = ObjectHints(begun=True, after_crash=True, before=PriorState(known=True))
        transfer = replace(engine.runner.transfer(engine.plan(source.url("/a"), new)), known=known)
        with pytest.raises(RelayError) as caught:
            engine.runner.run(transfer)
    assert bucket.kept == [flip_byte(DATA)]
    assert list(caught.value.remains) == [str(new)]


class Dying(Deleting):
    """Deletes what each MOVE replaces, and fails each time."""

    final, fails = b"/to/a", 99


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_only_whole_object_stays_until_another_has_arrived(
    tmp_path: Path, is_cancelled: bool
) -> None:
    """The server has deleted the old object: nothing else is left at the destination."""
    dav, folder = Dying(objects={b"/to/a": b"old"}), plant(tmp_path)
    terminal = Terminal(tmp_path, RELAY_SETTLE_SECONDS="0.1", RELAY_RETRY_BUDGET="0")
    with Peer([dav] * 90) as there:
        words = str(folder), f"webdav+{there.url('/to/')}", "--if-exists", "overwrite"
        assert terminal.tree(*words)[0] == 1
        [kept] = dav.objects
        assert "The whole object may remain" in errors(terminal)
        if is_cancelled:
            code, *output = terminal.run("cancel", "1")
            assert (code, list(dav.objects)) == (1, [kept])
            assert kept.decode() in "".join(output)
            terminal.run("sweep")
            assert list(dav.objects) == [kept]
            away, other = (folder / "a").rename(tmp_path / "a"), folder / "b"
            other.write_bytes(b"b")
            terminal.tree(*words)  # the source no longer lists the object
            other.unlink()
            away.rename(folder / "a")
        dav.fails = 0
        dav.asked.clear()
        code, report = terminal.tree(*words)
    assert (code, report["objects"]) == (0, {"verified": 1})
    assert dav.objects == {b"/to/a": DATA}
    assert REMAINS not in (terminal.query("SELECT receipt FROM receipts") or "")


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("there", [{}, {b"/to/a": b"theirs"}], ids=["alone", "another"])
def test_a_whole_object_is_deleted_where_the_place_has_another(
    engine: Engine, there: dict[bytes, bytes], moves: bool
) -> None:
    answer = (GET_HEAD, DATA) if moves else (empty_answer(403), b"")
    dav, script = (
        Dav(),
        source_script(Cloud(), fixed_answer(*answer), None if moves else empty_answer(403)),
    )
    with Peer([script] * 8) as source, Peer([dav] * 60) as peer:
        place = webdav_location(peer.url("/to/a"), destination=True)
        store = WebDavStore(engine.runner.wire, "destination", Watchdog(QUICK))
        left = store.staged_locations(place, "0123456789abcdef-1-1")[0]
        dav.objects = {**there, left.path.encode(): DATA}
        transfer = engine.runner.transfer(engine.plan(source.url("/a"), place))
        transfer.known = ObjectHints(
            token="0123456789abcdef-1-2",
            lost=("0123456789abcdef-1-1",),
            remains={str(left): remaining(Leftover.WHOLE, left, "deleted")},
        )
        if moves:
            outcome = engine.runner.run(transfer)
            assert (outcome.state, outcome.remains) == (State.VERIFIED, {})
            assert dav.objects == {b"/to/a": DATA}
            return
        with pytest.raises(RelayError) as caught:
            engine.runner.run(transfer)
    assert dav.objects == (there or {left.path.encode(): DATA})
    assert (str(left) in caught.value.remains) == (not there)
    assert transfer.frees_slot == bool(there)


@dataclass
class Assembling(Dying):
    """Nextcloud, which assembles the chunks of an upload by a MOVE."""

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if not path.endswith(b"/.file"):
            return super()._done(method, path, request, body)
        chunks = sorted(name for name in self.objects if name.startswith(path[: -len(b".file")]))
        self.objects[path] = b"".join(map(self.objects.pop, chunks))
        return Dav._done(self, method, path, request, body)


def test_the_only_whole_object_of_assembled_chunks_stays(tmp_path: Path) -> None:
    files, size = "/remote.php/dav/files/ann/", 5 << 20
    final, folder = f"{files}a".encode(), plant(tmp_path, DATA * (-(-size // len(DATA))))
    dav = Assembling(objects={final: b"old"})
    dav.final = final
    terminal = Terminal(
        tmp_path,
        RELAY_SETTLE_SECONDS="0.1",
        RELAY_RETRY_BUDGET="0",
        RELAY_PARTED_BYTES=str(size),
        RELAY_PART_BYTES=str(size),
    )
    with Peer([dav] * 90) as there:
        words = str(folder), f"webdav+{there.url(files)}", "--if-exists", "overwrite"
        assert terminal.tree(*words)[0] == 1
        [kept] = dav.objects
        assert "The whole object may remain" in errors(terminal)
        code, *output = terminal.run("cancel", "1")
        assert (code, list(dav.objects)) == (1, [kept])
        assert kept.decode() in "".join(output)
        dav.fails = 0
        assert terminal.tree(*words)[0] == 0
    assert dav.objects[final] == (folder / "a").read_bytes()
