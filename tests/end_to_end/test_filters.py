"""Filters in the commands: what `relay ls -r` shows is what `relay migrate -r` moves."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal

TREE = ("x.jpg", "y.txt", "a/1.jpg", "a/b/2.jpg", "a/b/3.txt", "skip/.nobackup", "skip/4.jpg")


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal with a ledger of its own, and a tree in `from`."""
    for name in TREE:
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return Terminal(tmp_path)


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_listing_shows_what_is_moved(terminal: Terminal) -> None:
    source, destination = terminal.home / "from", terminal.home / "to"
    rules = ("--include", "*.jpg", "--exclude-if-present", ".nobackup", "--max-age", "1d")
    code, out, err = terminal.run("ls", "-r", str(source), *rules)
    chosen = {"x.jpg", "a/1.jpg", "a/b/2.jpg"}
    assert (code, set(out.split())) == (0, chosen)
    assert "3 excluded" in err  # two objects, and a folder that is not listed
    code, out, _ = terminal.run("plan", "-r", str(source), str(destination), *rules, "--json")
    plan = json.loads(out)
    assert (code, plan["objects"], plan["excluded"]) == (0, 3, 3)
    code, report = terminal.tree(source, destination, *rules)
    assert (code, report["objects"], report["excluded"]) == (0, {"verified": 3}, 3)
    assert names_in(destination) == chosen
    code, out, _ = terminal.run("status", "1")
    assert "3 by the filters" in out and "include *.jpg" in out


def test_what_is_excluded_does_not_fail(terminal: Terminal) -> None:
    os.mkfifo(terminal.home / "from" / "pipe")
    code, report = terminal.tree(
        terminal.home / "from", terminal.home / "to", "--filter", "- pipe", "--filter", "- *.jpg"
    )
    assert (code, report["objects"], report["excluded"]) == (0, {"verified": 3}, 5)


def test_the_same_command_chooses_the_same(terminal: Terminal) -> None:
    """Other filters are another migration. An object that has arrived, and is excluded since it has
    grown, stays as it is: it is neither missing nor failed."""
    source, destination = terminal.home / "from", terminal.home / "to"
    os.mkfifo(source / "pipe")
    words = (source, destination, "--exclude", "*.txt", "--max-size", "100b")
    code, first = terminal.tree(*words)
    assert (code, first["objects"], first["excluded"]) == (1, {"failed": 1, "verified": 5}, 2)
    (source / "x.jpg").write_bytes(bytes(101))
    (source / "pipe").unlink()
    code, out, err = terminal.run("migrate", "-r", *map(str, words), "--json")
    again = json.loads(out)
    assert (code, again["number"], again["objects"], again["excluded"]) == (
        *(0, 1, {"verified": 5}, 3),
    )
    assert "missing" not in err
    assert (destination / "x.jpg").read_text() == "x.jpg"
    code, other = terminal.tree(source, destination, "--exclude", "*.txt")
    assert (code, other["number"], other["excluded"]) == (0, 2, 2)
    assert (destination / "x.jpg").read_bytes() == bytes(101)


def test_names_of_a_file_and_of_stdin(terminal: Terminal) -> None:
    listed = terminal.home / "names"
    listed.write_text("# names\n/a/1.jpg\nmissing\n y.txt \n")
    code, report = terminal.tree(
        terminal.home / "from", terminal.home / "to", "--files-from", str(listed)
    )
    assert (code, report["objects"], report["excluded"]) == (0, {"verified": 2}, 3)
    assert names_in(terminal.home / "to") == {"a/1.jpg", "y.txt"}
    to = str(terminal.home / "to")
    for command in (("ls",), ("migrate", to), ("plan", to)):
        words = (command[0], "-r", str(terminal.home / "from"), *command[1:])
        code, _, err = terminal.run(*words, "--files-from", str(listed))
        assert code == 0
        assert "1 of 3 names of the list are not in the source: missing" in err
    listed.write_text("y.txt\n")
    _, _, err = terminal.run("ls", "-r", str(terminal.home / "from"), "--files-from", str(listed))
    assert "names of the list" not in err


def test_names_below_a_folder_that_fails_are_not_missing(terminal: Terminal) -> None:
    """A link to a folder is a failure: the names below it are not known to be gone."""
    source, destination = terminal.home / "from", terminal.home / "to"
    (source / "link").symlink_to("a")
    listed = terminal.home / "listed"
    listed.write_text("y.txt\nlink/b/2.jpg\nlinks/2.jpg\n")
    for command, *more in (("ls",), ("migrate", destination), ("migrate", destination)):
        words = (command, "-r", source, *more, "--files-from", listed)
        code, _, err = terminal.run(*map(str, words))
        assert code == (command == "migrate")
        assert "1 of 3 names of the list are not in the source: links/2.jpg" in err


def test_a_list_from_a_pipe_without_a_writer_yet(terminal: Terminal) -> None:
    """`mkfifo list; make-list > list &`: the command waits for it."""
    pipe = terminal.home / "list"
    os.mkfifo(pipe)
    listing = terminal.start("ls", "-r", str(terminal.home / "from"), "--files-from", str(pipe))
    with open(pipe, "w") as file:  # waits for the reader
        file.write("y.txt\n")
    assert listing.communicate(timeout=60)[0].split() == ["y.txt"]


@pytest.mark.parametrize("names", [("-", "-"), ("-", "/dev/stdin")])
def test_stdin_in_two_flags_is_refused(terminal: Terminal, names: tuple[str, str]) -> None:
    """The second one would have no rules, so that everything is chosen."""
    words = ("--exclude-from", names[0], "--filter-from", names[1])
    code, out, err = terminal.run("ls", "-r", str(terminal.home / "from"), *words)
    assert (code, out) == (2, "")
    assert "stdin can be read once, and is named by --exclude-from and --filter-from" in err


def test_a_list_from_a_socket(terminal: Terminal) -> None:
    """Node's child_process, systemd and inetd give a socket as stdin."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"y.txt\n")
        ours.shutdown(socket.SHUT_WR)
        words = ("ls", "-r", str(terminal.home / "from"), "--files-from", "-")
        command = [sys.executable, "-m", "relay", *words]
        out = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=60)
    assert out.stdout.split() == ["y.txt"]


def test_everything_is_excluded(terminal: Terminal) -> None:
    words = (terminal.home / "from", terminal.home / "to", "--include", "nothing")
    code, out, _ = terminal.run("migrate", "-r", *map(str, words))
    assert code == 0 and "the filters exclude everything" in out
    code, report = terminal.tree(*words, "--fail-on-empty")
    assert (code, report["state"]) == (1, "failed")
    assert "the filters exclude everything" in report["error"]["detail"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--min-size", "1Q"), "min-size '1Q' has an unknown unit"),
        (("--include", ""), "a pattern is empty"),
        (("--include", "a[b"), "mismatched '[' and ']'"),
        (("--exclude", "{{(}}"), "RE2 refuses the expression"),
        (("--min-age", "2d", "--max-age", "1d"), "min-age is larger than max-age"),
        (("--include", "a", "--exclude", "a"), "'a' is both included and excluded"),
        (("--files-from", "names", "--include", "a"), "no other filter"),
        (("--include-from", "/missing/file"), "--include-from /missing/file can't be read"),
    ],
)
def test_a_mistake_moves_nothing(terminal: Terminal, words: tuple[str, ...], said: str) -> None:
    (terminal.home / "names").write_text("a\n")
    words = tuple(str(terminal.home / one) if one == "names" else one for one in words)
    source, destination = str(terminal.home / "from"), str(terminal.home / "to")
    for command in (("ls", "-r", source), ("migrate", "-r", source, destination)):
        code, out, err = terminal.run(*command, *words)
        assert (code, out, len(err.splitlines())) == (2, "", 2)
        assert said in err.splitlines()[0]
    assert not terminal.ledger.exists()


def test_filters_are_for_a_tree(terminal: Terminal) -> None:
    place = str(terminal.home / "from" / "x.jpg")
    code, _, err = terminal.run("migrate", place, f"{place}.2", "--include", "x.jpg")
    assert code == 2 and "filters choose among the objects of a tree" in err


def test_rules_are_printed_without_a_listing(terminal: Terminal) -> None:
    code, out, err = terminal.run(
        "ls", "-r", "/missing/", "--filter", "- [!3].txt", "--dump-filters"
    )
    assert (code, out.splitlines()[1:3]) == (0, ["--- File filter rules ---", r"- (^|/)[!3]\.txt$"])
    assert "write [^...]" in err


def test_a_later_command_moves_what_has_come_of_age(terminal: Terminal) -> None:
    """The first one failed, a day ago. What came since is old enough by now."""
    source, destination = terminal.home / "from", terminal.home / "to"
    long_ago, since = time.time() - 2 * 86400, time.time() - 43200
    for path in source.rglob("*.*"):
        os.utime(path, (long_ago, long_ago))
    os.mkfifo(source / "pipe")
    words = (source, destination, "--min-age", "1h")
    code, first = terminal.tree(*words)
    assert (code, first["objects"]) == (1, {"failed": 1, "verified": len(TREE)})
    with sqlite3.connect(terminal.ledger) as ledger:
        ledger.execute("UPDATE events SET at = at - 86400")
        ledger.execute("UPDATE migrations SET created = created - 86400")
    (source / "pipe").unlink()
    (source / "later").write_text("later")
    (source / "new").write_text("new")
    os.utime(source / "later", (since, since))
    code, out, _ = terminal.run("migrate", "-r", *map(str, words), "--json")
    again = json.loads(out)
    assert (code, again["number"], again["excluded"]) == (0, 1, 1)
    assert names_in(destination) == {*TREE, "later"}
