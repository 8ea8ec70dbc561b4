"""Moves and mirrors between two names of one place: a server that keeps its list, a link to a
folder, a place in another one, by URLs that show nothing of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.bench.ports import free_port
from tests.contract.conftest import run_server
from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_move import plant, read

PROGRAM = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="rclone is not installed")


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1", RELAY_RETRY_BUDGET="3")


@contextmanager
def serve(folder: Path, *words: str) -> Iterator[str]:
    """Serve a folder by WebDAV; yield its URL."""
    assert PROGRAM is not None
    port = free_port()
    address = ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    with run_server([PROGRAM, "serve", "webdav", str(folder), *address, *words], port) as url:
        yield f"webdav+{url.rstrip('/')}/"


def test_a_server_that_keeps_its_list(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "d")
    with serve(tmp_path / "d") as url:
        code, out, err = terminal.run("move", f"{url}one", f"{tmp_path}/d/one")
        assert (code != 0, "one place" in err) == (True, True), out + err
        words = ("move", "-r", "--if-exists", "overwrite")
        code, out, err = terminal.run(*words, url, f"{tmp_path}/d")
        assert (code != 0, "one place" in err) == (True, True), out + err
        code, out, err = terminal.run(*words, f"{tmp_path}/d", url)
        assert code != 0, out + err
    assert read(tmp_path / "d") == objects
    assert not list(tmp_path.glob("d/**/*relay-probe*"))


@pytest.mark.parametrize("flags", [(), ("--read-only",)])
def test_a_mirror_of_a_server_that_keeps_its_list(
    terminal: Terminal, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    objects = plant(tmp_path / "d")
    with serve(tmp_path / "d", *flags) as url:
        terminal.run("ls", url)
        (tmp_path / "d" / "new").write_bytes(b"the only copy")
        words = ("--mirror", "--max-delete", "100%", "--empty-folders")
        code, out, err = terminal.run("migrate", "-r", url, f"{tmp_path}/d", *words)
        assert code != 0, out + err
    assert read(tmp_path / "d") == objects | {"new": b"the only copy"}


def test_a_linked_folder_is_one_with_its_target(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "new")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sub").symlink_to(tmp_path / "new" / "sub")
    (tmp_path / "data" / "alone").write_bytes(b"alone")
    os.utime(tmp_path / "data" / "alone", (1_700_000_000, 1_700_000_000))
    words = ("move", "-r", "--if-exists", "overwrite")
    for flags in (("-L", "--dir-cache-time", "0s"), ("-L",)):
        with serve(tmp_path / "data", *flags) as url:
            for _ in range(2):
                code, out, err = terminal.run(*words, url, f"{tmp_path}/new")
                assert code == 3, out + err
    assert read(tmp_path / "new") == objects | {"alone": b"alone"}
    assert not (tmp_path / "data" / "alone").exists()


@pytest.mark.parametrize("flags", [(), ("--read-only",), ("--dir-cache-time", "0s")])
def test_a_source_that_is_a_folder_of_its_mirror(
    terminal: Terminal, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    objects = plant(tmp_path / "d" / "in")
    words = ("--mirror", "--max-delete", "100%", "--empty-folders")
    with serve(tmp_path / "d" / "in", *flags) as url:
        terminal.run("migrate", "-r", url, f"{tmp_path}/d", *words)
    assert read(tmp_path / "d" / "in") == objects


def test_a_folder_that_a_server_does_not_show(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    shutil.copytree(tmp_path / "from", tmp_path / "to")
    shutil.rmtree(tmp_path / "from" / "sub")  # as an unreadable one looks like
    (tmp_path / "from" / "sub").mkdir()
    (tmp_path / "from" / "one").unlink()
    (tmp_path / "from" / "é" / "f").unlink()
    words = ("migrate", "-r", f"{tmp_path}/from", f"{tmp_path}/to", "--mirror", "--max-delete", "9")
    code, out, err = terminal.run(*words)
    assert (code, "3 source-empty" in out) == (3, True), out + err
    assert set(objects) - set(read(tmp_path / "to")) == {"one"}
    code, out, err = terminal.run(*words, "--empty-folders")
    assert code == 0, out + err
    assert read(tmp_path / "to") == read(tmp_path / "from")


def test_two_servers_that_keep_their_lists(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "d")
    with serve(tmp_path / "d") as one, serve(tmp_path / "d") as other:
        terminal.run("ls", other)
        words = ("move", "-r", "--if-exists", "overwrite", one, other)
        for _ in range(2):
            code, out, err = terminal.run(*words)
            assert code != 0, out + err
    assert read(tmp_path / "d") == objects
