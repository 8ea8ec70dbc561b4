"""Leftovers of a killed or failed command are never believed by the same command with other
options; and lost commits of a ledger never permit an overwrite."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path

import gevent
import pytest

from relay.errors import Cancelled
from tests.conftest import Engine
from tests.end_to_end.terminal import Terminal, eventually
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import DATA as CLOUD_DATA
from tests.faults.scripted_peers import GET_HEAD, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import PART, SIZE, Bucket, repeat_script
from tests.faults.test_explosions import failure
from tests.faults.test_ours import flip_byte, hurried_terminal, plant
from tests.pairs import in_pairs
from tests.scripted import Peer, Talk, length_of

DATA = bytes(range(256)) * 8000
OLD = b"Last-Modified: Sat, 07 Nov 2020 10:00:00 GMT\r\n"
NEW = b"Last-Modified: Thu, 07 Nov 2199 10:00:00 GMT\r\n"


@dataclass
class Straight(Shelf):
    """A server that writes directly to the final name of an object, and reports the object's age.
    While it is `held` it keeps the first `piece` bytes of the first upload, signals that, and
    waits."""

    piece: int = 1_000_000
    held: bool = True
    has_piece: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)
    theirs: dict[bytes, bytes] = field(default_factory=dict)
    age: bytes = NEW

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        if not self.held:
            return super()._put(talk, path, request)
        self.held = False
        if b"100-continue" in request:
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.objects[path] = talk.body(self.piece)
        self.has_piece.set()
        self.goes_on.wait(60)
        return False

    def _tag(self, data: bytes) -> bytes:  # type: ignore[override]
        return Shelf._tag(data) + (self.age if data in self.theirs.values() else NEW)


def kill_at_upload(terminal: Terminal, shelf: Straight, *words: str) -> None:
    """Run a command, and kill its process in the middle of its first upload."""
    process = terminal.start(*words)
    assert shelf.has_piece.wait(60), process.communicate()
    process.kill()
    process.communicate()
    shelf.goes_on.set()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("--if-exists", "skip"), ("--if-exists", "skip", "--verify", "read_back")),
        (("--if-exists", "fail"), ("--if-exists", "skip")),
        (("--if-exists", "skip"), ("--if-exists", "fail", "--metadata", "strict")),
    ],
)
@pytest.mark.parametrize("tree", [True, False])
def test_a_piece_is_resumed_by_a_command_of_other_options(
    tmp_path: Path, tree: bool, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Straight()
    with Peer(shelf) as there:
        source, place = (
            (str(folder), there.url("/to/")) if tree else (f"{folder}/a", there.url("/to/a"))
        )
        words = ("migrate", *(["-r"] if tree else []), source, place)
        kill_at_upload(terminal, shelf, *words, *first)
        assert terminal.run(*words, *then)[0] == 0
    assert shelf.objects == {b"/to/a": DATA}


@pytest.mark.parametrize(
    ("if_exists", "end"), [("overwrite", (1, {"failed": 1})), ("changed", (0, {"verified": 1}))]
)
def test_a_piece_of_an_overwrite_is_not_skipped(
    tmp_path: Path, if_exists: str, end: tuple[int, dict[str, int]]
) -> None:
    """An overwriting command records no prior state: then an object is neither believed nor
    replaced."""
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Straight()
    with Peer(shelf) as there:
        kill_at_upload(
            terminal,
            shelf,
            "migrate",
            "-r",
            str(folder),
            there.url("/to/"),
            "--if-exists",
            if_exists,
        )
        code, printed = terminal.tree(folder, there.url("/to/"), "--if-exists", "skip")
        assert (code, printed["objects"]) == end
        code, printed = terminal.tree(folder, there.url("/to/"), "--if-exists", if_exists)
        assert (code, printed["objects"]) == (0, {"verified": 1})
    assert shelf.objects == {b"/to/a": DATA}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("/a", "/to/"), ("-r", "", "/to/")),
        (("/a", "/to/"), ("/a", "/to/a")),
        (("-r", "", "/to/"), ("/a", "/to/")),
        (("/a", "/to/a"), ("/a", "/to/")),
    ],
)
def test_a_piece_is_known_if_the_source_named_the_object(
    tmp_path: Path, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Straight()
    with Peer(shelf) as there:
        one, other = (
            (*words[:-2], f"{folder}{words[-2]}", there.url(words[-1])) for words in (first, then)
        )
        kill_at_upload(terminal, shelf, "migrate", *one)
        for _ in range(2):
            assert terminal.run("migrate", *other, "--if-exists", "skip")[0] == 1
    assert len(shelf.objects[b"/to/a"]) == shelf.piece


@pytest.mark.parametrize("remote_first", [True, False])
def test_a_piece_is_recognised_by_another_name_of_its_place(
    tmp_path: Path, remote_first: bool
) -> None:
    """By the name of a remote, or by its URL."""
    folder, shelf = plant(tmp_path, DATA), Straight()
    with Peer(shelf) as there:
        config = tmp_path / "relay.toml"
        config.write_text(f'[remotes.far]\ntype = "http"\nurl = "{there.url("/")}"\n')
        terminal = Terminal(
            tmp_path, RELAY_SETTLE_SECONDS="0.2", RELAY_RETRY_BUDGET="3", RELAY_CONFIG=str(config)
        )
        one, other = ("far:to/", there.url("/to/"))[:: 1 if remote_first else -1]
        kill_at_upload(terminal, shelf, "migrate", "-r", str(folder), one, "--if-exists", "changed")
        code, printed = terminal.tree(folder, other, "--if-exists", "skip")
    assert (code, printed["objects"]) == (0, {"verified": 1})
    assert shelf.objects == {b"/to/a": DATA}


@in_pairs(between=["overwrite", "fail"], tree=[True, False], again=["command", "retry"])
def test_two_commands_may_take_turns(tmp_path: Path, between: str, tree: bool, again: str) -> None:
    """The first command has listed its object before the second, which is killed, sends a piece of
    it."""
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Straight()
    with Peer(shelf) as there:
        source, place = (
            (str(folder), there.url("/to/")) if tree else (f"{folder}/a", there.url("/to/a"))
        )
        words = ("migrate", *(["-r"] if tree else []), source, place, "--if-exists")
        assert terminal.run(*words, "skip", RELAY_FAILPOINT="after-claim:1:kill9")[0] == -9
        if again == "retry":
            terminal.run("cancel", "1")
        kill_at_upload(terminal, shelf, *words, between)
        if again == "retry":
            terminal.run("retry", "1")
        terminal.run(*words, "skip")
    assert terminal.query(FIRST) == ("verified" if between == "fail" else "failed")
    assert len(shelf.objects[b"/to/a"]) == (len(DATA) if between == "fail" else shelf.piece)


FIRST = "SELECT transfers.state FROM transfers JOIN migrations ON migrations.id = migration_id WHERE number = 1"


def test_an_arrived_object_written_over_is_not_skipped(tmp_path: Path) -> None:
    folder, terminal, shelf = (
        plant(tmp_path, DATA),
        hurried_terminal(tmp_path),
        Straight(held=False),
    )
    (folder / "b").symlink_to(folder / "b")
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists")
        assert terminal.tree(*words, "skip")[1]["objects"] == {"verified": 1, "failed": 1}
        shelf.held = True
        kill_at_upload(terminal, shelf, "migrate", "-r", *words, "overwrite")
        code, printed = terminal.tree(*words, "skip")
    assert (code, printed["objects"]) == (1, {"failed": 2})


@pytest.mark.parametrize(
    ("wish", "end"),
    [
        ("skip", (1, {"failed": 1})),
        ("changed", (0, {"verified": 1})),
        ("overwrite", (0, {"verified": 1})),
    ],
)
def test_an_arrival_damaged_by_another_command_moves_again(
    tmp_path: Path, wish: str, end: tuple[int, dict[str, int]]
) -> None:
    """It has the object's length, so that its destination does not show the damage."""
    shelf = Straight(refused={b"DELETE": empty_answer(405)}, held=False)
    folder, terminal = plant(tmp_path, DATA), hurried_terminal(tmp_path)
    (folder / "b").symlink_to(folder / "b")
    with Peer(shelf) as there:
        words = (folder, there.url("/to/"), "--if-exists")
        assert terminal.tree(*words, wish)[1]["objects"] == {"verified": 1, "failed": 1}
        shelf.damages = flip_byte
        other = (*words, "overwrite", "--metadata", "strict")
        assert terminal.tree(*other)[1]["objects"] == {"failed": 2}
        shelf.damages = lambda data: data
        (folder / "b").unlink()
        code, printed = terminal.tree(*words, wish)
    assert (code, printed["objects"]) == end
    assert code or shelf.objects == {b"/to/a": DATA}


def test_a_piece_of_an_older_command_stays_known(
    tmp_path: Path,
) -> None:
    folder, terminal, shelf = (
        plant(tmp_path, DATA),
        hurried_terminal(tmp_path),
        Straight(held=False),
    )
    (folder / "b").symlink_to(folder / "b")
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists")
        assert terminal.tree(*words, "overwrite")[0] == 1
        (folder / "b").unlink()
        (folder / "b").write_bytes(b"small")
        assert terminal.tree(*words, "changed")[0] == 0
        (folder / "b").write_bytes(DATA)
        shelf.held = True
        kill_at_upload(terminal, shelf, "migrate", "-r", *words, "overwrite")
        code, printed = terminal.tree(*words, "skip")
    assert (code, printed["objects"]) == (1, {"failed": 1, "skipped": 1})


def test_a_resumed_piece_is_newer_than_an_arrived_object(
    tmp_path: Path,
) -> None:
    """By a migration that was accepted later and did not succeed."""
    folder, terminal, shelf = (
        plant(tmp_path, DATA),
        hurried_terminal(tmp_path),
        Straight(held=False),
    )
    for name in "bc":
        (folder / name).symlink_to(folder / name)
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists")
        assert terminal.tree(*words, "overwrite")[1]["objects"] == {"verified": 1, "failed": 2}
        (folder / "b").unlink()
        (folder / "b").write_bytes(b"small")
        assert terminal.tree(*words, "changed")[1]["objects"] == {
            "skipped": 1,
            "verified": 1,
            "failed": 1,
        }
        (folder / "b").write_bytes(DATA)
        shelf.held = True
        kill_at_upload(terminal, shelf, "migrate", "-r", *words, "overwrite")
        assert terminal.tree(*words, "skip")[1]["objects"] == {"skipped": 1, "failed": 2}


def test_an_unlisted_object_of_a_success_has_not_arrived(tmp_path: Path) -> None:
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Straight()
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists")
        kill_at_upload(terminal, shelf, "migrate", "-r", *words, "overwrite")
        (folder / "a").rename(tmp_path / "aside")
        (folder / "b").write_bytes(b"another")
        assert terminal.tree(*words, "changed")[1]["objects"] == {"verified": 1}
        (tmp_path / "aside").rename(folder / "a")
        assert terminal.tree(*words, "skip")[1]["objects"] == {"failed": 1, "skipped": 1}


@dataclass
class Silent(Straight):
    """Damages uploads, and never answers the first one."""

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        self.piece = length_of(request)
        going_on = super()._put(talk, path, request)
        self.objects[path] = flip_byte(self.objects[path])
        return going_on


@pytest.mark.parametrize("tree", [True, False])
def test_an_object_sent_during_ctrl_c_is_not_skipped(tmp_path: Path, tree: bool) -> None:
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Silent()
    with Peer(shelf) as there:
        source, place = (
            (str(folder), there.url("/to/")) if tree else (f"{folder}/a", there.url("/to/a"))
        )
        words = ("migrate", *(["-r"] if tree else []), source, place, "--if-exists")
        process = terminal.start(*words, "overwrite")
        assert shelf.has_piece.wait(60), process.communicate()
        process.send_signal(signal.SIGINT)
        assert "stopped" in process.communicate()[1]
        assert process.returncode == 130
        shelf.goes_on.set()
        eventually(lambda: shelf.objects[b"/to/a"] == flip_byte(DATA))
        assert terminal.run(*words, "skip")[0] == 1


@pytest.mark.parametrize("first", ["overwrite", "changed"])
@pytest.mark.parametrize("then", ["changed", "skip"])
def test_a_damaged_object_is_not_unchanged_to_other_options(
    tmp_path: Path, first: str, then: str
) -> None:
    """It has the object's length, and is newer."""
    shelf = Straight(refused={b"DELETE": empty_answer(405)}, held=False, damages=flip_byte)
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        assert terminal.tree(folder, there.url("/to/"), "--if-exists", first)[0] == 1
        again = ("--if-exists", then, "--verify", "read_back")
        assert terminal.tree(folder, there.url("/to/"), *again)[0] == 1
        shelf.damages = lambda data: data
        code, printed = terminal.tree(
            folder, there.url("/to/"), "--if-exists", "changed", "--metadata", "strict"
        )
        assert (code, printed["objects"]) == (0, {"verified": 1})


def test_an_object_of_another_writer_is_skipped_after_a_failure(
    tmp_path: Path,
) -> None:
    """A migration inherits state only of an object of which bytes may have been sent."""
    shelf = Straight({b"/to/a": b"theirs"}, held=False)
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        assert terminal.tree(folder, there.url("/to/"), "--if-exists", "fail")[0] == 1
        code, printed = terminal.tree(folder, there.url("/to/"), "--if-exists", "skip")
        assert (code, printed["objects"]) == (0, {"skipped": 1})
    assert shelf.objects == {b"/to/a": b"theirs"}


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
@pytest.mark.parametrize("older", [True, False])
def test_a_ledger_with_lost_commits_permits_no_overwrite(
    tmp_path: Path, older: bool, if_exists: str
) -> None:
    """The machine was restarted. The object there is another writer's: empty, an older version, or
    equally long."""
    sources = {"a": DATA, "b": b"something", "c": b"one\ntwo\n", "d": b"same length"}
    theirs = {b"/to/b": b"", b"/to/c": b"one\n", b"/to/d": b"SAME LENGTH"}
    folder, terminal = tmp_path / "from", hurried_terminal(tmp_path)
    folder.mkdir()
    for name, data in sources.items():
        (folder / name).write_bytes(data)
    shelf = Straight(dict(theirs), theirs=theirs, age=OLD if older else NEW)
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--slots", "1", "--if-exists", if_exists)
        kill_at_upload(terminal, shelf, "migrate", "-r", *words)
        with sqlite3.connect(terminal.ledger) as connection:
            connection.execute("UPDATE runners SET boot = 'earlier'")
        code, printed = terminal.tree(*words)
    assert shelf.objects == {**theirs, b"/to/a": DATA}
    skipped = older and if_exists == "skip"
    assert (code, printed["objects"]) == (
        (0, {"verified": 1, "skipped": 3}) if skipped else (1, {"verified": 1, "failed": 3})
    )


def test_a_piece_is_not_skipped_with_a_restored_ledger(tmp_path: Path) -> None:
    """The backup was made before the first object was listed; an upload was killed since, on a
    machine that was not restarted."""
    folder, terminal, shelf = plant(tmp_path, DATA), hurried_terminal(tmp_path), Straight()
    backup = tmp_path / "backup.db"
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists", "skip")
        accepted = terminal.run("migrate", "-r", *words, RELAY_FAILPOINT="before-page:1:kill9")
        assert accepted[0] == -9
        with sqlite3.connect(terminal.ledger) as now, sqlite3.connect(backup) as then:
            now.backup(then)
        kill_at_upload(terminal, shelf, "migrate", "-r", *words)
        for name in ("-wal", "-shm"):
            terminal.ledger.with_name(terminal.ledger.name + name).unlink(missing_ok=True)
        backup.rename(terminal.ledger)
        code, printed = terminal.tree(*words)
    assert (code, printed["objects"]) in ((0, {"verified": 1}), (1, {"failed": 1}))
    assert code == 1 or shelf.objects == {b"/to/a": DATA}


@pytest.mark.parametrize("whole", [False, True])
def test_a_relisted_object_is_not_skipped_with_a_restored_ledger(
    tmp_path: Path, whole: bool
) -> None:
    """Its row had failed when the backup was made; it was half sent, or damaged, since."""
    folder, terminal, shelf = (
        plant(tmp_path, DATA),
        hurried_terminal(tmp_path),
        Straight(held=False),
    )
    (folder / "b").write_bytes(b"b")
    (folder / "a").unlink()
    (folder / "a").symlink_to(folder / "a")
    backup = tmp_path / "backup.db"
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists", "changed" if whole else "skip")
        assert terminal.tree(*words)[1]["objects"] == {"verified": 1, "failed": 1}
        with sqlite3.connect(terminal.ledger) as now, sqlite3.connect(backup) as then:
            now.backup(then)
        (folder / "a").unlink()
        (folder / "a").write_bytes(DATA)
        os.utime(folder / "a", (1e9, 1e9))
        if whole:
            shelf.damages = flip_byte
            crash = {"RELAY_FAILPOINT": "before-verify:1:kill9"}
            assert terminal.run("migrate", "-r", *words, **crash)[0] == -9
            shelf.damages = lambda data: data
        else:
            shelf.held = True
            kill_at_upload(terminal, shelf, "migrate", "-r", *words)
        for name in ("-wal", "-shm"):
            terminal.ledger.with_name(terminal.ledger.name + name).unlink(missing_ok=True)
        backup.rename(terminal.ledger)
        code, _ = terminal.tree(*words)
    assert code == 1 or shelf.objects[b"/to/a"] == DATA


def test_an_unchanged_object_that_was_cut_since_moves_again(tmp_path: Path) -> None:
    folder, terminal, shelf = (
        plant(tmp_path, DATA),
        hurried_terminal(tmp_path),
        Straight(held=False),
    )
    (folder / "b").symlink_to(folder / "b")
    with Peer(shelf) as there:
        shelf.objects[b"/to/a"] = DATA
        words = (str(folder), there.url("/to/"))
        assert terminal.tree(*words)[1]["objects"] == {"skipped": 1, "failed": 1}
        shelf.objects[b"/to/a"] = DATA[:1000]
        (folder / "b").unlink()
        code, _ = terminal.tree(*words)
    assert (code, shelf.objects) == (0, {b"/to/a": DATA})


@pytest.mark.parametrize("end", ["killed", "cancelled", "cancelled before a retry"])
def test_a_leftover_stays_known_while_its_object_is_away(tmp_path: Path, end: str) -> None:
    folder, terminal = plant(tmp_path, DATA), hurried_terminal(tmp_path)
    shelf = Straight(refused={b"DELETE": empty_answer(405)})
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists", "skip")
        if end == "killed":
            kill_at_upload(terminal, shelf, "migrate", "-r", *words)
            assert terminal.run("cancel", "1")[0] == 1
        else:
            process = terminal.start("migrate", "-r", *words, RELAY_RETRY_BUDGET="60")
            assert shelf.has_piece.wait(60), process.communicate()
            if end == "cancelled before a retry":
                shelf.refused |= {method: empty_answer(503) for method in (b"HEAD", b"GET", b"PUT")}
                asked = len(shelf.methods)
                shelf.goes_on.set()
                eventually(lambda: len(shelf.methods) > asked)
            terminal.run("cancel", "1")
            shelf.goes_on.set()
            process.communicate()
            shelf.refused = {b"DELETE": empty_answer(405)}
        away = (folder / "a").rename(tmp_path / "a")
        (folder / "b").write_bytes(b"b")
        terminal.tree(*words)
        away.rename(folder / "a")
        code, _ = terminal.tree(*words)
    assert code == 1 or shelf.objects[b"/to/a"] == DATA


@pytest.mark.parametrize("theirs", [DATA[:1000], b""])
def test_a_replaced_arrival_is_not_overwritten(tmp_path: Path, theirs: bytes) -> None:
    """An older version, which begins like the object, or an empty object: the arrived one was
    proved."""
    folder, terminal, shelf = (
        plant(tmp_path, DATA),
        hurried_terminal(tmp_path),
        Straight(held=False),
    )
    (folder / "b").symlink_to(folder / "b")
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists", "fail")
        assert terminal.tree(*words)[1]["objects"] == {"verified": 1, "failed": 1}
        shelf.objects[b"/to/a"] = theirs
        assert terminal.tree(*words)[1]["objects"] == {"failed": 2}
    assert shelf.objects == {b"/to/a": theirs}


def test_bytes_sent_before_a_client_left_are_reported(engine: Engine) -> None:
    """Without a ledger no run resumes it."""
    shelf = Straight(piece=len(CLOUD_DATA))
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, CLOUD_DATA))) as source,
        Peer(shelf) as there,
    ):
        job = gevent.spawn(failure, engine, source.url(), there.url("/a"))
        with gevent.Timeout(20):
            while not shelf.has_piece.is_set():
                gevent.sleep(0.01)
        assert engine.last is not None
        engine.last.cancel()
        error = job.get(timeout=20)
        shelf.goes_on.set()
    assert isinstance(error, Cancelled)
    assert "may remain at" in error.hint


@pytest.mark.parametrize(("damaged", "ends"), [(True, {"failed": 1}), (False, {"verified": 1})])
def test_an_upload_completed_during_ctrl_c_is_not_skipped(
    tmp_path: Path, damaged: bool, ends: dict[str, int]
) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def hold(talk: Talk) -> None:
        asked.set()
        goes_on.wait(60)
        talk.reset()

    bucket = Bucket({"complete": [hold]}, mangle=flip_byte if damaged else bytes)
    folder = plant(tmp_path, b"a" * SIZE)
    with Peer(repeat_script(bucket)) as server:
        config = tmp_path / "relay.toml"
        config.write_text(
            f'[remotes.far]\ntype = "s3"\nendpoint = "{server.url("")}"\nregion = "eu-1"\n'
            'access_key_id = "key"\nsecret_access_key = "secret"\n'
        )
        limits = {
            "RELAY_PART_BYTES": str(PART),
            "RELAY_PARTED_BYTES": str(PART),
            "RELAY_SETTLE_SECONDS": "0.2",
        }
        terminal = Terminal(tmp_path, RELAY_CONFIG=str(config), RELAY_RETRY_BUDGET="3", **limits)
        words = (str(folder), "far:bucket/to", "--if-exists")
        process = terminal.start("migrate", "-r", *words, "changed")
        assert asked.wait(60), process.communicate()
        process.send_signal(signal.SIGINT)
        assert "stopped" in process.communicate()[1]
        goes_on.set()
        assert bucket.whole is not None
        assert terminal.tree(*words, "skip")[1]["objects"] == ends
