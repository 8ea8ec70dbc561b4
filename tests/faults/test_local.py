"""Folders of this machine: nothing half-written at a name, no other file than the one that was meant, no escape."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config import Settings, load_settings
from relay.egress import EgressPolicy
from relay.engine.runner import Runner
from relay.errors import (
    AlreadyExists,
    ConfigError,
    InvalidURL,
    LocalDenied,
    NotFound,
    Rejected,
    RelayError,
    SourceChanged,
    SourceTruncated,
    UnsafeKey,
    UnsupportedScheme,
)
from relay.receipt import Level, State
from relay.stores.local import local_location
from relay.stores.remotes import Remotes
from tests.conftest import Engine
from tests.faults.clouds import DATA, GET_HEAD, Cloud, keeping, sending, serving
from tests.scripted import Peer

MIB = 1 << 20


def here(path: Path) -> object:
    return local_location(path, destination=False)


def there(path: Path) -> object:
    return local_location(path, destination=True)


def test_a_file_goes_to_a_server_and_comes_back(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a b ü.raw").write_bytes(DATA)
    cloud = Cloud()
    with Peer([keeping(cloud)] * 4) as peer:
        outcome = engine.migrate(here(tmp_path / "a b ü.raw"), peer.url("/a"))  # type: ignore[arg-type]
    assert outcome.state is State.VERIFIED
    assert cloud.objects[b"/a"] == DATA
    with Peer(serving(Cloud(), sending(GET_HEAD, DATA))) as peer:
        back = engine.migrate(peer.url("/new%20name.raw"), there(tmp_path / "deep" / "er" / "x.raw"))  # type: ignore[arg-type]
    assert back.receipt is not None
    assert back.receipt.level is Level.READ_BACK
    assert (tmp_path / "deep" / "er" / "x.raw").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["x.raw"]


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
@pytest.mark.parametrize("verify", ["auto", "size"])
def test_a_file_goes_to_a_file(engine: Engine, tmp_path: Path, size: int, verify: str) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "folder").mkdir()
    engine.migrate(here(tmp_path / "a"), there(tmp_path / "folder"), verify=verify)  # type: ignore[arg-type]
    assert (tmp_path / "folder" / "a").read_bytes() == data


def test_f16_a_content_coding_that_a_file_cannot_keep_is_noted(engine: Engine, tmp_path: Path) -> None:
    coded = gzip.compress(bytes(10 * MIB))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded)
    with Peer(serving(Cloud(), sending(head, coded))) as peer:
        outcome = engine.migrate(peer.url(), there(tmp_path / "a"))  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == coded
    assert outcome.receipt is not None
    assert any("gzip" in note for note in outcome.receipt.notes)


@pytest.mark.parametrize("cut", [0, 1, len(DATA) - 1])
def test_a_source_that_ends_early_changes_nothing(engine: Engine, tmp_path: Path, cut: int) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with Peer(serving(Cloud(), sending(GET_HEAD, DATA[:cut]))) as peer, pytest.raises(SourceTruncated):
        engine.migrate(peer.url(), there(tmp_path / "a"))  # type: ignore[arg-type]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_file_that_changes_while_it_is_read_is_no_success(engine: Engine, tmp_path: Path) -> None:
    path, cloud = tmp_path / "a", Cloud()
    path.write_bytes(DATA)

    def changing(talk: object) -> None:
        path.write_bytes(DATA[::-1])
        keeping(cloud)(talk)  # type: ignore[arg-type]

    with Peer([changing] + [keeping(cloud)] * 3) as peer, pytest.raises(SourceChanged):
        engine.migrate(here(path), peer.url("/a"))  # type: ignore[arg-type]
    assert cloud.objects == {}


def test_what_exists_is_left_alone_where_that_is_asked_for(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(AlreadyExists):
        engine.migrate(here(tmp_path / "a"), there(tmp_path / "b"), if_exists="fail")  # type: ignore[arg-type]
    outcome = engine.migrate(here(tmp_path / "a"), there(tmp_path / "b"), if_exists="skip")  # type: ignore[arg-type]
    assert outcome.state is State.SKIPPED
    assert (tmp_path / "b").read_bytes() == b"old"
    assert engine.migrate(here(tmp_path / "a"), there(tmp_path / "c"), if_exists="fail").state is State.VERIFIED  # type: ignore[arg-type]
    assert (tmp_path / "c").read_bytes() == b"new"


def test_a_link_is_replaced_and_not_written_through(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    engine.migrate(here(tmp_path / "a"), there(tmp_path / "link"))  # type: ignore[arg-type]
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize("what", ["fifo", "folder", "nothing", "device"])
def test_only_files_are_read(engine: Engine, tmp_path: Path, what: str) -> None:
    path = {"device": Path("/dev/zero")}.get(what, tmp_path / what)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    with pytest.raises((Rejected, NotFound)) as caught:
        engine.migrate(here(path), there(tmp_path / "b"))  # type: ignore[arg-type]
    assert caught.value.side == "source"
    assert not (tmp_path / "b").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("a file system can't be mounted here (wants root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_f48_a_full_disk_is_told_and_nothing_is_left(engine: Engine, tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3 * MIB))
    (small_disk / "b").write_bytes(b"old")
    with pytest.raises(Rejected, match="No space") as caught:
        engine.migrate(here(tmp_path / "a"), there(small_disk / "b"))  # type: ignore[arg-type]
    assert caught.value.side == "destination"
    assert [(path.name, path.read_bytes()) for path in small_disk.iterdir()] == [("b", b"old")]


# -- what may be named


def test_a_server_has_no_folders_unless_they_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "open" / "way out").symlink_to(tmp_path)
    closed = Runner(Settings(), EgressPolicy()).remotes
    allowed = Runner(Settings(local_folders=str(tmp_path / "open")), EgressPolicy()).remotes
    inside = f"file://{tmp_path}/open/a%20b"
    with pytest.raises(UnsupportedScheme):
        closed.locate(inside)
    assert str(allowed.locate(inside)) == f"{tmp_path}/open/a b"
    for outside in ("secret", "open/../secret", "open/way%20out/secret", "open%2f..%2fsecret"):
        with pytest.raises(LocalDenied) as caught:
            allowed.locate(f"file://{tmp_path}/{outside}", pointer="/source")
        assert (caught.value.status, caught.value.side) == (403, "request")
    with pytest.raises(InvalidURL):
        allowed.locate(str(tmp_path / "open" / "a"))  # a path alone is for the terminal


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("file://host/a", InvalidURL),
        ("file:///a%00b", UnsafeKey),
        ("file:///a/.relay-x.part", UnsafeKey),
        ("file://", InvalidURL),
    ],
)
def test_what_is_no_file(text: str, error: type[RelayError]) -> None:
    with pytest.raises(error) as caught:
        Remotes(folders=None).locate(text, destination=True, pointer="/destination")
    assert caught.value.__dict__["pointer"] == "/destination"


def test_a_folder_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RELAY_LOCAL_FOLDERS"):
        load_settings({"local_folders": f"{tmp_path}/none"})


def test_the_terminal_takes_paths(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(DATA)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "relay", "migrate", "--json", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = run("a.raw", "new/folder/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["destination"] == f"{tmp_path}/new/folder/a.raw"
    assert (tmp_path / "new" / "folder" / "a.raw").read_bytes() == DATA
    assert run("./a.raw", "c.raw").returncode == 0
    assert (tmp_path / "c.raw").read_bytes() == DATA
    missing = run("none.raw", "b.raw")
    assert missing.returncode == 1
    assert "source:" in missing.stderr and "https://" in missing.stderr
    same = run("a.raw", "./a.raw")
    assert same.returncode == 2
    assert (tmp_path / "a.raw").read_bytes() == DATA
