"""The migration that a repeated command resumes: the one of exactly the same places; and its effect
if that has ended before."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal, eventually
from tests.end_to_end.test_serve import SERVE, run_server
from tests.faults.scripted_http import Shelf
from tests.scripted import Peer


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal with a ledger of its own."""
    return Terminal(tmp_path)


class Download(BaseHTTPRequestHandler):
    """Serves the object that the query names, slowly, so that several are under way at once."""

    protocol_version = "HTTP/1.1"
    gate = threading.Barrier(3, timeout=60)

    def do_GET(self) -> None:
        id = self.path.partition("id=")[2] or self.headers.get("Download-Arg", "")
        body = f"object {id}".encode()
        if self.command == "GET":
            self.gate.wait()  # all three are under way
        self.send_response(200)
        for name, value in (("Content-Length", str(len(body))), ("ETag", f'"{id}"')):
            self.send_header(name, value)
        self.send_header("Content-Disposition", f'attachment; filename="{id}.bin"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def downloads() -> Iterator[str]:
    """Return the URL whose query names an object."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Download) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/download?id="
        server.shutdown()


def test_urls_of_different_queries_move_concurrently(terminal: Terminal, downloads: str) -> None:
    """As a shell's loop with '&' does: each command waits for its own object."""
    folder = terminal.home / "backup"
    folder.mkdir()
    commands = [
        terminal.start("migrate", f"{downloads}{id}", f"{folder}/")
        for id in ("one", "two", "three")
    ]
    ends = [command.communicate(timeout=100) for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0], ends
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {"one.bin": "object one", "two.bin": "object two", "three.bin": "object three"}


def test_another_selecting_header_is_another_migration(terminal: Terminal, downloads: str) -> None:
    """As with Dropbox, where all objects have one URL, and a header selects one."""
    folder, url = terminal.home / "backup", downloads.partition("?")[0]
    folder.mkdir()
    names = ("one", "two", "three")
    more = [
        ("--source-header", f"Download-Arg: {id}", "--source-header", f"Authorization: Bearer {id}")
        for id in names
    ]
    commands = [terminal.start("migrate", *words, url, f"{folder}/") for words in more]
    ends = [command.communicate(timeout=100) for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0], ends
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        f"{id}.bin": f"object {id}" for id in names
    }


def test_a_partial_tree_is_listed_again(terminal: Terminal) -> None:
    source, destination = terminal.home / "from", terminal.home / "to"
    source.mkdir()
    for number in range(4):
        (source / f"f{number}").write_text(f"file {number}")
    (destination / "f2").mkdir(parents=True)  # a folder is in f2's way
    (destination / "f3").mkdir(parents=True)
    code, report = terminal.tree(source, destination)
    assert (code, report["state"], report["objects"]) == (
        1,
        "partial",
        {"failed": 2, "verified": 2},
    )
    (destination / "f2").rmdir()
    (source / "new").write_text("new since then")
    (source / "f0").write_text("changed since then")
    (source / "f3").unlink()  # it cannot be moved, so its user removed it
    code, report = terminal.tree(source, destination)
    assert (code, report["state"], report["number"]) == (0, "succeeded", 1)
    expected = {path.name: path.read_text() for path in source.iterdir()}
    assert {
        path.name: path.read_text() for path in destination.iterdir() if path.is_file()
    } == expected


@pytest.mark.timeout(120)
def test_a_failed_object_gone_from_the_source_is_named_once(terminal: Terminal) -> None:
    """Perhaps a part of the source is not mounted, so its failures must not vanish silently."""
    folder = terminal.home / "from"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    (folder / "b\x01").write_bytes(b"b")
    words = ("migrate", "-r", str(folder), str(terminal.home / "to"))
    assert terminal.run(*words)[0] == 1
    (folder / "b\x01").unlink()
    (folder / "c\x01").write_bytes(b"c")
    line = (
        "relay: 1 objects that had failed or were cancelled are no longer in the source's listing"
    )
    code, _, err = terminal.run(*words)
    assert (code, line in err) == (1, True), err
    code, _, err = terminal.run(*words)
    assert (code, line in err) == (1, False), err


def test_a_server_leaves_migrations_of_the_terminal_alone(
    terminal: Terminal,
) -> None:
    """A server may not read the terminal's places, nor know its remotes; and its callers neither
    see nor cancel them."""
    source = terminal.home / "from"
    source.mkdir()
    (terminal.home / "to").mkdir()
    for number in range(200):
        (source / f"f{number}").write_bytes(b"x" * 2000)
    ledger = f"sqlite:///{terminal.ledger}"
    with run_server(
        SERVE, RELAY_LEDGER=ledger, RELAY_LOCAL_FOLDERS=str(terminal.home / "to")
    ) as server:
        code, report = terminal.tree(source, terminal.home / "to", "--slots", "2")
        assert (code, report["objects"]) == (0, {"verified": 200})
        assert server.ask("GET", "/migrations")[1]["migrations"] == []
        assert (
            server.ask("GET", "/migrations/1")[0]
            == server.ask("POST", "/migrations/1/cancel", {})[0]
            == 404
        )


def test_an_object_removed_from_the_destination_arrives_again(terminal: Terminal) -> None:
    """One object failed; then the destination was emptied, to start from the beginning."""
    source, there = terminal.home / "from", terminal.home / "to"
    source.mkdir()
    for name in ("a", "b", "bad"):
        (source / name).write_text(name)
    (there / "bad").mkdir(parents=True)  # in the way
    (there / "bad" / "precious").write_text("precious")
    assert terminal.tree(source, there)[1]["objects"] == {"verified": 2, "failed": 1}
    shutil.rmtree(there)
    assert terminal.tree(source, there)[1]["objects"] == {"verified": 3}
    assert sorted(path.name for path in there.iterdir()) == ["a", "b", "bad"]


@pytest.mark.parametrize("verb", [None, "pause"])
def test_an_object_removed_while_nothing_runs_arrives_again(
    terminal: Terminal, verb: str | None
) -> None:
    """It is killed; then the destination is emptied, to start from the beginning."""
    source, there = terminal.home / "from", terminal.home / "to"
    source.mkdir()
    for number in range(6):
        (source / f"{number}").write_bytes(b"%d" % number * 100_000)
    words = ("migrate", "-r", str(source), str(there), "--slots", "1")
    process = terminal.start(*words, "--bytes-per-second", "100K")
    while (terminal.query("SELECT count(*) FROM transfers WHERE state = 'verified'") or 0) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    if verb:
        assert terminal.run(verb, "1")[0] == 0
    shutil.rmtree(there)
    code, report = terminal.tree(source, there, "--bytes-per-second", "10M")
    assert (code, report["objects"]) == (0, {"verified": 6})
    assert sorted(path.name for path in there.iterdir()) == [f"{number}" for number in range(6)]


@pytest.mark.parametrize("how", ["killed", "interrupted", "paused"])
def test_a_stopped_tree_is_listed_again(terminal: Terminal, how: str) -> None:
    """It may have been long ago: new and changed objects of the source are moved too."""
    source, destination = terminal.home / "from", terminal.home / "to"
    source.mkdir()
    for name, data in (("f0", b"zero"), ("f1", b"one"), ("z", b"z" * 3_000_000)):
        (source / name).write_bytes(data)
    words = (str(source), str(destination))
    process = terminal.start("migrate", "-r", *words, "--slots", "1", "--bytes-per-second", "100k")
    sql = "SELECT objects FROM tallies WHERE state = 'verified'"
    terminal.wait_for(process, sql, lambda objects: objects >= 2)
    if how == "paused":
        assert terminal.run("pause", "1")[0] == 0
    elif how == "killed":
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    (source / "f0").write_bytes(b"another zero")
    (source / "new").write_bytes(b"new")
    assert terminal.run("limit", "1", "--bytes-per-second", "none")[0] == 0
    code, report = terminal.tree(*words)
    assert (code, report["number"], report["objects"]) == (0, 1, {"verified": 4})
    assert {path.name: path.read_bytes() for path in destination.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


@pytest.mark.parametrize("stop", [None, "cancel"])
def test_an_arrived_object_that_changed_since_moves_again(
    terminal: Terminal, stop: str | None
) -> None:
    """The process was killed when the object had arrived, and its migration had not ended."""
    source, there = terminal.home / "from", terminal.home / "to"
    source.write_bytes(b"one")
    words = ("migrate", str(source), str(there))
    assert terminal.run(*words, RELAY_FAILPOINT="after-settle:1:kill9")[0] == -9
    assert there.read_bytes() == b"one"
    if stop:
        assert terminal.run(stop, "1")[0] == 0
    source.write_bytes(b"two")
    code, out, err = terminal.run(*words)
    assert (code, there.read_bytes()) == (0, b"two"), out + err
    assert terminal.query("SELECT count(*) FROM transfers") == 1


def test_a_tree_another_process_works_on_is_not_listed_again(terminal: Terminal) -> None:
    source, destination = terminal.home / "from", terminal.home / "to"
    source.mkdir()
    (source / "z").write_bytes(b"z" * 3_000_000)
    words = (str(source), str(destination))
    first = terminal.start("migrate", "-r", *words, "--bytes-per-second", "100k")
    terminal.wait_for(
        first, "SELECT objects FROM tallies WHERE state = 'running'", lambda objects: objects == 1
    )
    second = terminal.start("migrate", "-r", *words)
    terminal.wait_for(second, "SELECT count(*) FROM runners", lambda runners: runners == 2)
    assert terminal.run("limit", "1", "--bytes-per-second", "none")[0] == 0
    ends = [process.communicate(timeout=100) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ends
    assert terminal.query("SELECT listings FROM migrations") == 0


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_later_order_stops_the_command_that_checks(terminal: Terminal, verb: str) -> None:
    """The command asks the destination for the object that had arrived, and the user changes their
    mind."""
    source, shelf = terminal.home / "from", Shelf()
    source.mkdir()
    (source / "a").write_bytes(b"a")
    (source / "b").symlink_to(source / "b")  # it fails, and so the migration ends as `partial`
    checks, goes_on = threading.Event(), threading.Event()

    def wait(_: Shelf, method: bytes, path: bytes) -> None:
        if (method, path) == (b"HEAD", b"/to/a"):
            checks.set()
            assert goes_on.wait(60)

    with Peer([shelf] * 40) as there:
        words = ("migrate", "-r", str(source), there.url("/to/"))
        if verb == "pause":  # killed, it still runs
            failpoint = {"RELAY_FAILPOINT": "after-settle:1:kill9"}
            assert terminal.run(*words, **failpoint)[0] == -9
        else:
            assert terminal.run(*words)[0] == 1
        (source / "new").write_bytes(b"new")
        shelf.before = wait
        process = terminal.start(*words)
        assert checks.wait(60)
        assert terminal.run(verb, "1")[0] == 0
        goes_on.set()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    assert terminal.query("SELECT state FROM migrations") == {"pause": "paused"}.get(
        verb, "cancelled"
    )
    assert "resuming" not in err
    assert list(shelf.objects) == [b"/to/a"]


def test_ctrl_c_while_arrivals_are_checked_prints_json(terminal: Terminal) -> None:
    """A program still gets its one JSON object."""
    source, shelf = terminal.home / "from", Shelf()
    source.mkdir()
    (source / "a").write_bytes(b"a")
    (source / "b").symlink_to(source / "b")
    checks, goes_on = threading.Event(), threading.Event()

    def wait(_: Shelf, method: bytes, path: bytes) -> None:
        checks.set()
        assert goes_on.wait(60)

    with Peer([shelf] * 40) as there:
        words = ("migrate", "-r", str(source), there.url("/to/"), "--json")
        assert terminal.run(*words)[0] == 1
        shelf.before = wait
        process = terminal.start(*words)
        assert checks.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        goes_on.set()
    assert process.returncode == 130, out + err
    assert json.loads(out)["type"].rpartition("/")[2] == "cancelled"


def test_an_end_that_the_ledger_did_not_accept_is_not_printed(terminal: Terminal) -> None:
    """The lease had ended meanwhile, and the same command elsewhere replaced the object and
    failed."""
    source, there = terminal.home / "from", terminal.home / "to"
    source.write_bytes(b"one")
    failpoint = {"RELAY_FAILPOINT": "before-settle:1:sleep:3"}
    first = terminal.start("migrate", str(source), str(there), **failpoint)
    eventually(there.exists)
    error = '{"code": "not-found", "side": "source", "detail": "gone", "hint": ""}'
    with closing(sqlite3.connect(terminal.ledger, timeout=10)) as other, other:
        other.execute(
            "UPDATE transfers SET fence = fence + 1, owner = NULL, state = 'failed', error = ?",
            (error,),
        )
        other.execute("UPDATE tallies SET state = 'failed' WHERE state = 'running'")
        other.execute("UPDATE migrations SET state = 'failed', ended = ?", (time.time(),))
    out, err = first.communicate(timeout=100)
    assert (first.returncode, "verified" in out) == (1, False), out + err


class Named(BaseHTTPRequestHandler):
    """Serves four bytes under the name that the query gives."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        for name, value in (("Content-Length", "4"), ("ETag", '"1"')):
            self.send_header(name, value)
        name = self.path.partition("?")[2]
        self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"evil")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def named_url() -> Iterator[str]:
    """Return the URL of report.pdf, whose query is the name in the answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Named) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/report.pdf?"
        server.shutdown()


def test_a_source_does_not_choose_the_file_to_overwrite(terminal: Terminal, named_url: str) -> None:
    """CVE-2010-2252 of wget: only a name in the user's own URL replaces a file by default."""
    folder = terminal.home / "docs"
    folder.mkdir()
    for name in ("thesis.docx", ".bashrc", "report.pdf"):
        (folder / name).write_text("mine")
    plan = ("plan", f"{named_url}thesis.docx", f"{folder}/")
    assert terminal.run(*plan)[0] == 1
    code, out, err = terminal.run("migrate", f"{named_url}thesis.docx", f"{folder}/")
    assert (folder / "thesis.docx").read_text() == "mine", out + err
    assert code == 1
    assert "--if-exists overwrite" in err
    assert terminal.run(*plan, "--if-exists", "overwrite")[0] == 0
    code, out, err = terminal.run(
        "migrate", f"{named_url}thesis.docx", f"{folder}/", "--if-exists", "overwrite"
    )
    assert (code, (folder / "thesis.docx").read_text()) == (0, "evil"), out + err
    # A name that begins with a dot is not taken from an answer, and the user wrote the URL's name.
    code, out, err = terminal.run("migrate", f"{named_url}.bashrc", f"{folder}/")
    assert (folder / ".bashrc").read_text() == "mine", out + err
    assert (code, (folder / "report.pdf").read_text()) == (0, "evil"), out + err


def test_an_arrived_object_that_its_source_names_moves_again(
    terminal: Terminal, named_url: str
) -> None:
    """The command was killed before it recorded the end of the migration: the file is its own."""
    folder = terminal.home / "docs"
    folder.mkdir()
    command = ("migrate", f"{named_url}export.csv", f"{folder}/")
    for place in ("after-publish", "after-settle"):
        code, out, err = terminal.run(*command, RELAY_FAILPOINT=f"{place}:1:kill9")
        assert code == -signal.SIGKILL, out + err
    code, out, err = terminal.run(*command)
    assert (code, (folder / "export.csv").read_text()) == (0, "evil"), out + err
