"""The same command repeated over a destination from which an object was removed meanwhile: it
arrives again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal
from tests.faults.scripted_http import Shelf, empty_answer
from tests.scripted import Peer

NAMES = [f"{number}" for number in range(6)]


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal with a ledger of its own."""
    return Terminal(tmp_path)


def source_of(terminal: Terminal, kind: str, peer: Peer) -> str:
    """Return a source of NAMES: a folder, or a list of URLs."""
    if kind == "list":
        lines = "".join(f"{peer.url(f'/from/{name}')},{name}\n" for name in NAMES)
        (terminal.home / "urls.csv").write_text("url,name\n" + lines)
        return f"list+{terminal.home}/urls.csv"
    folder = terminal.home / "from"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / name).write_text(f"object {name}")
    return str(folder)


def stocked_shelf() -> Shelf:
    """Return a server that has NAMES below /from/, and nothing below /to/."""
    return Shelf({f"/from/{name}".encode(): f"object {name}".encode() for name in NAMES})


def there(shelf: Shelf) -> dict[str, bytes]:
    """Return the arrived objects."""
    return {
        path.decode()[4:]: data for path, data in shelf.objects.items() if path.startswith(b"/to/")
    }


WHOLE = {name: f"object {name}".encode() for name in NAMES}


def stop(terminal: Terminal, shelf: Shelf, words: tuple[str, ...], how: str) -> None:
    """Run the command, and end it early, when some objects have arrived."""
    if how == "partial":
        shelf.before = refuse_one
        assert terminal.run(*words)[0] == 1
        shelf.before = lambda shelf, method, path: None
    else:
        terminal.run(*words, RELAY_FAILPOINT="after-settle:1:kill9")
        if how == "paused":
            assert terminal.run("pause", "1")[0] == 0
    arrived = terminal.query("SELECT count(*) FROM transfers WHERE state = 'verified'")
    assert arrived > 0


def refuse_one(shelf: Shelf, method: bytes, path: bytes) -> None:
    """Refuse one object for good."""
    shelf.refused = {b"PUT": empty_answer(400)} if path == b"/to/5" else {}


@pytest.mark.parametrize(
    ("kind", "how", "if_exists"),
    [
        ("folder", "killed", "fail"),
        ("folder", "paused", "changed"),
        ("folder", "partial", "overwrite"),
        ("list", "killed", "changed"),
        ("list", "paused", "overwrite"),
        ("list", "partial", "fail"),
    ],
)
def test_a_removed_object_arrives_again(
    terminal: Terminal, kind: str, how: str, if_exists: str
) -> None:
    shelf = stocked_shelf()
    with Peer(shelf) as peer:
        words = (
            "migrate",
            "-r",
            source_of(terminal, kind, peer),
            peer.url("/to/"),
            "--if-exists",
            if_exists,
        )
        stop(terminal, shelf, words, how)
        shelf.refused.clear()
        for path in [path for path in shelf.objects if path.startswith(b"/to/")]:
            del shelf.objects[path]
        code, _, err = terminal.run(*words)
        assert (code, there(shelf)) == (0, WHOLE), err


def test_one_object_that_was_removed_arrives_again(terminal: Terminal) -> None:
    """The process was killed when the object had arrived, and before that was recorded."""
    shelf = stocked_shelf()
    with Peer(shelf) as peer:
        words = ("migrate", peer.url("/from/1"), peer.url("/to/1"))
        stop(terminal, shelf, words, "killed")
        del shelf.objects[b"/to/1"]
        assert terminal.run(*words)[0] == 0
    assert there(shelf) == {"1": WHOLE["1"]}


def test_an_object_still_there_is_inspected_and_not_resent(terminal: Terminal) -> None:
    """Some objects were removed, one was replaced, and one is in an unknown state."""
    shelf = stocked_shelf()
    with Peer(shelf) as peer:
        words = (
            "migrate",
            "-r",
            source_of(terminal, "folder", peer),
            peer.url("/to/"),
            "--if-exists",
            "overwrite",
        )
        stop(terminal, shelf, words, "partial")
        del shelf.objects[b"/to/0"]
        shelf.objects[b"/to/1"] = b""
        shelf.asked.clear()
        shelf.before = tell_nothing_of_two
        code, _, err = terminal.run(*words)
    assert (code, there(shelf)) == (0, WHOLE)
    assert sorted(path for method, path, _ in shelf.asked if method == b"PUT") == [
        b"/to/0",
        b"/to/1",
        b"/to/5",
    ]
    assert "2 objects that had arrived are missing at the destination" in err
    assert "does not say whether 1 objects are still there" in err


def tell_nothing_of_two(shelf: Shelf, method: bytes, path: bytes) -> None:
    """Deny the inspection of one object."""
    shelf.refused = (
        {b"HEAD": empty_answer(405), b"GET": empty_answer(403)} if path == b"/to/2" else {}
    )
