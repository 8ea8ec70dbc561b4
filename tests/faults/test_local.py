"""Folders of this machine: no partial file at a final name, no file other than the named one, no
escape."""

from __future__ import annotations

import errno
import gzip
import json
import mmap
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from relay.config import Settings
from relay.egress import EgressPolicy
from relay.engine.cleanup import remove_lost_uploads
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.errors import (
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    InvalidURL,
    LocalDenied,
    NotFound,
    Rejected,
    RelayError,
    SourceChanged,
    SourceTruncated,
    Unavailable,
    UnsafeKey,
    UnsupportedScheme,
)
from relay.ledger.ledger import Ledger
from relay.location import Location
from relay.receipt import Level, State, Version
from relay.settings_sources import load_settings
from relay.stores import local_files, local_folders, local_upload
from relay.stores.interfaces import ByteRange, ObjectInfo, PutResult
from relay.stores.local import LocalStore
from relay.stores.local_files import FileStream
from relay.stores.local_folders import AllowedFolders
from relay.stores.local_locations import local_location
from relay.stores.remotes import Remotes
from relay.transfer_limits import Limits
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.http1 import Framing, Head
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.faults.test_withdrawn import run_worker, runner_of
from tests.scripted import Peer

MIB = 1 << 20


def place_here(path: Path) -> Location:
    return local_location(path, destination=False)


def place_there(path: Path) -> Location:
    return local_location(path, destination=True)


def test_a_failed_rename_makes_no_object_ours(
    patient_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole or nothing: what another writer stored meanwhile is compared, as ever."""
    ours, there, theirs = tmp_path / "a", tmp_path / "to" / "a", DATA[:-1] + b"?"
    ours.write_bytes(DATA)
    os.utime(ours, (1e9, 1e9))
    there.parent.mkdir()

    def fail(*_: object, **__: object) -> None:
        monkeypatch.undo()
        there.write_bytes(theirs)
        raise OSError(errno.EIO, "an error of the disk")

    monkeypatch.setattr(local_upload, "replace", fail)
    state = patient_engine.migrate(place_here(ours), place_there(there), if_exists="changed").state
    assert (state, there.read_bytes()) == (State.SKIPPED, theirs)


def test_a_file_goes_to_a_server_and_comes_back(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a b ü.raw").write_bytes(DATA)
    cloud = Cloud()
    with Peer([destination_script(cloud)] * 4) as peer:
        outcome = engine.migrate(place_here(tmp_path / "a b ü.raw"), peer.url("/a"))
    assert outcome.state is State.VERIFIED
    assert cloud.objects[b"/a"] == DATA
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as peer:
        back = engine.migrate(
            peer.url("/new%20name.raw"), place_there(tmp_path / "deep" / "er" / "x.raw")
        )
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
    engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "folder"), verify=verify)
    assert (tmp_path / "folder" / "a").read_bytes() == data


def test_f16_a_content_coding_that_a_file_cannot_keep_is_noted(
    engine: Engine, tmp_path: Path
) -> None:
    coded = gzip.compress(bytes(10 * MIB))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded)
    with Peer(source_script(Cloud(), fixed_answer(head, coded))) as peer:
        outcome = engine.migrate(peer.url(), place_there(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == coded
    assert outcome.receipt is not None
    assert any("gzip" in note for note in outcome.receipt.notes)


@pytest.mark.parametrize("cut", [0, 1, len(DATA) - 1])
def test_a_source_that_ends_early_changes_nothing(engine: Engine, tmp_path: Path, cut: int) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA[:cut]))) as peer,
        pytest.raises(SourceTruncated),
    ):
        engine.migrate(peer.url(), place_there(tmp_path / "a"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_file_that_changes_while_it_is_read_fails(engine: Engine, tmp_path: Path) -> None:
    path, cloud = tmp_path / "a", Cloud()
    path.write_bytes(DATA)

    def changing(talk: object) -> None:
        path.write_bytes(DATA[::-1])
        destination_script(cloud)(talk)  # type: ignore[arg-type]

    with Peer([changing] + [destination_script(cloud)] * 3) as peer, pytest.raises(SourceChanged):
        engine.migrate(place_here(path), peer.url("/a"))
    assert cloud.objects == {}


def test_an_existing_file_is_left_alone_on_request(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(AlreadyExists):
        engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"), if_exists="fail")
    outcome = engine.migrate(
        place_here(tmp_path / "a"), place_there(tmp_path / "b"), if_exists="skip"
    )
    assert outcome.state is State.SKIPPED
    assert (tmp_path / "b").read_bytes() == b"old"
    assert (
        engine.migrate(
            place_here(tmp_path / "a"), place_there(tmp_path / "c"), if_exists="fail"
        ).state
        is State.VERIFIED
    )
    assert (tmp_path / "c").read_bytes() == b"new"


@pytest.mark.parametrize("what", ["fifo", "folder", "nothing", "device"])
def test_only_files_are_read(engine: Engine, tmp_path: Path, what: str) -> None:
    path = {"device": Path("/dev/zero")}.get(what, tmp_path / what)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    with pytest.raises((Rejected, NotFound)) as caught:
        engine.migrate(place_here(path), place_there(tmp_path / "b"))
    assert caught.value.side == "source"
    assert not (tmp_path / "b").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("a file system can't be mounted here (wants root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_f48_a_full_disk_is_reported_and_nothing_left(
    engine: Engine, tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "a").write_bytes(bytes(3 * MIB))
    (small_disk / "b").write_bytes(b"old")
    with pytest.raises(Rejected, match="No space") as caught:
        engine.migrate(place_here(tmp_path / "a"), place_there(small_disk / "b"))
    assert caught.value.side == "destination"
    assert [(path.name, path.read_bytes()) for path in small_disk.iterdir()] == [("b", b"old")]


# -- names that are allowed


def test_a_server_has_no_folders_unless_they_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "open" / "way out").symlink_to(tmp_path)
    closed = TransferEngine(Settings(), EgressPolicy()).remotes
    allowed = TransferEngine(Settings(local_folders=str(tmp_path / "open")), EgressPolicy()).remotes
    inside = f"file://{tmp_path}/open/a%20b"
    with pytest.raises(UnsupportedScheme):
        closed.locate(inside)
    assert str(allowed.locate(inside)) == f"{tmp_path}/open/a b"
    for outside in ("secret", "open/../secret", "open/way%20out/secret", "open%2f..%2fsecret"):
        with pytest.raises(LocalDenied) as caught:
            allowed.locate(f"file://{tmp_path}/{outside}", pointer="/source")
        assert (caught.value.status, caught.value.side) == (403, "request")
    with pytest.raises(InvalidURL):
        allowed.locate(str(tmp_path / "open" / "a"))  # a bare path is valid in a terminal only


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("file://host/a", InvalidURL),
        ("file:///a%00b", UnsafeKey),
        ("file:///a/.relay-x.part", UnsafeKey),
        ("file://", InvalidURL),
    ],
)
def test_entries_that_are_not_files(text: str, error: type[RelayError]) -> None:
    with pytest.raises(error) as caught:
        Remotes(folders=None).locate(text, destination=True, pointer="/destination")
    assert caught.value.__dict__["pointer"] == "/destination"


def test_an_absent_folder_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RELAY_LOCAL_FOLDERS"):
        _ = load_settings({"local_folders": f"{tmp_path}/none"}).folders


def test_the_terminal_takes_paths(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(DATA)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
    }

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


# -- entries of a destination, and of a folder


def special(path: Path, what: str) -> None:
    """Make an entry that is not a regular file."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif os.geteuid():
        pytest.skip("a device wants root")
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "fail", "skip"])
@pytest.mark.parametrize("by", ["itself", "a link", "an open file"])
@pytest.mark.parametrize("what", ["fifo", "socket", "device"])
def test_an_entry_that_is_not_a_file_is_never_replaced(
    engine: Engine, tmp_path: Path, what: str, by: str, if_exists: str
) -> None:
    special(tmp_path / what, what)
    before, named = (tmp_path / what).stat(), tmp_path / what
    if by == "a link":
        named = tmp_path / "link"
        named.symlink_to(tmp_path / what)
    elif by == "an open file":  # like /dev/stdout
        if what == "socket":
            return
        named = tmp_path / "link"
        descriptor = os.open(tmp_path / what, os.O_RDWR | os.O_NONBLOCK)
        named.symlink_to(f"/proc/self/fd/{descriptor}")
    cloud = Cloud()
    cloud.objects[b"/a"] = b"new"
    with pytest.raises(InvalidURL, match="pipe"):  # so that no request reaches the source
        place_there(named)
    place = replace(place_there(tmp_path / "b"), target=str(named))  # type: ignore[type-var]
    with (
        Peer([destination_script(cloud)] * 4) as peer,
        pytest.raises(Rejected, match="not a regular file|leads through"),
    ):
        engine.migrate(peer.url("/a"), place, if_exists=if_exists)  # type: ignore[arg-type]
    after = (tmp_path / what).lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert named.lstat().st_mode == (before.st_mode if by == "itself" else named.lstat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755, 0o4755])
@pytest.mark.parametrize("by", ["itself", "a link"])
def test_an_overwritten_file_keeps_its_mode_and_owner(
    engine: Engine, tmp_path: Path, mode: int, by: str
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    if not os.geteuid():
        os.chown(tmp_path / "b", 1234, 2345)
    (tmp_path / "b").chmod(mode)
    (tmp_path / "link").symlink_to("b")
    before = (tmp_path / "b").stat()
    engine.migrate(
        place_here(tmp_path / "a"), place_there(tmp_path / ("b" if by == "itself" else "link"))
    )
    after = (tmp_path / "b").stat()
    assert (tmp_path / "b").read_bytes() == b"new"
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == mode & 0o777  # other bytes must not run as its owner


def test_a_replaced_private_file_is_never_more_visible(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    (tmp_path / "b").chmod(0o600)
    modes, rename = set(), os.rename

    def rename_watched(*names: str, **options: int) -> None:
        modes.update(path.stat().st_mode & 0o077 for path in tmp_path.glob(".relay-*"))
        rename(*names, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", rename_watched)
    engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"))
    assert modes == {0}


def test_an_access_list_is_kept(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    # Version 2; the owner, user 1234 and the group may read, others nothing
    # (linux/posix_acl_xattr.h).
    rows = [(1, 6, -1), (2, 4, 1234), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    try:
        os.setxattr(tmp_path / "b", "system.posix_acl_access", access)
    except OSError:
        pytest.skip("the file system has no access lists")
    engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"))
    assert os.getxattr(tmp_path / "b", "system.posix_acl_access") == access
    # A file without a list gets none from the default one of its folder.
    (tmp_path / "c").write_bytes(b"old")
    (tmp_path / "c").chmod(0o640)
    os.setxattr(tmp_path, "system.posix_acl_default", access)
    engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "c"))
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o640
    assert "system.posix_acl_access" not in os.listxattr(tmp_path / "c")


@pytest.mark.parametrize("how", ["in place", "shorter", "longer", "a rename over it", "by a map"])
def test_a_changed_file_with_its_old_time_is_a_failure(
    engine: Engine, tmp_path: Path, how: str
) -> None:
    path, cloud = tmp_path / "a", Cloud()
    path.write_bytes(DATA)
    was = path.stat()

    def changing(talk: object) -> None:
        data = {"shorter": DATA[:-1], "longer": DATA + b"x"}.get(how, DATA[::-1])
        if how == "a rename over it":
            path.unlink()
        with path.open("r+b" if path.exists() else "wb") as file:
            if how == "by a map":
                with mmap.mmap(file.fileno(), 0) as view:
                    view[:] = data
                    view.flush()
            else:
                file.write(data)
                file.truncate()
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        destination_script(cloud)(talk)  # type: ignore[arg-type]

    with (
        Peer([changing] + [destination_script(cloud)] * 3) as peer,
        pytest.raises((SourceChanged, SourceTruncated)),
    ):
        engine.migrate(place_here(path), peer.url("/a"))
    assert cloud.objects == {}


def test_a_part_of_a_file_is_pinned_by_its_change_time(wire: Wire, tmp_path: Path) -> None:
    store, path = LocalStore(wire, "source", Watchdog(Limits())), tmp_path / "a"
    path.write_bytes(b"old bytes")
    was, found = path.stat(), store.head(place_here(path))
    assert found is not None
    path.write_bytes(b"new bytes")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(SourceChanged):
        store.get(place_here(path), found.version, ByteRange(4, 8))


def test_an_entry_that_cannot_be_moved_is_named(wire: Wire, tmp_path: Path) -> None:
    ours = {".relay-notes.part", ".relay-0.part", ".relay-019abc12-3456-12-3.part"}
    for name in ("fine", *ours):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    for what in ("fifo", "socket", "device"):
        special(tmp_path / what, what)
    links = {
        "folder": "deep",
        "dangling": "none",
        "loop": "loop",
        "through": "fine/x",
        "pipe": "fifo",
        "ok": "fine",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    store = LocalStore(wire, "source", Watchdog(Limits()))
    printed = {
        entry.name: entry.error
        for entry in store.list(place_here(tmp_path).folder(), recursive=True)
    }  # type: ignore[attr-defined]
    assert {name for name, error in printed.items() if error is None} == {"fine", "ok"}
    assert set(printed) == {"fine", *ours, "fifo", "socket", "device", *links}
    assert all(error.side == "source" for error in printed.values() if error)


def test_a_tree_reports_the_entries_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "fine").write_bytes(b"x")
    (tmp_path / "from" / "link").symlink_to("deep")
    os.mkfifo(tmp_path / "from" / "pipe")
    environment = {"RELAY_LEDGER": f"sqlite:///{tmp_path}/ledger.db", "HOME": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "relay", *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    plan = run("plan", "-r", f"{tmp_path}/from", f"{tmp_path}/to")
    assert plan.returncode == 1
    assert "link" in plan.stdout and "a pipe" in plan.stdout
    done = run("migrate", "-r", f"{tmp_path}/from", f"{tmp_path}/to")
    assert done.returncode == 1
    assert "1 verified" in done.stdout and "2 failed" in done.stdout and "a pipe" in done.stdout
    assert "a link to a folder" in run("report", "1").stdout


# -- file systems without some feature


@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EIO]
)
@pytest.mark.parametrize("rename", [True, False])
@pytest.mark.parametrize("there_is", [True, False])
def test_a_folder_without_links(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    rename: bool,
    there_is: bool,
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    refuse(monkeypatch, os, "link", code)
    if not rename:
        refuse(monkeypatch, local_upload, "_renameat2", errno.EINVAL)
    if there_is:  # it changes while the bytes move
        begin = local_upload.finish

        def late(*words: object) -> object:
            (tmp_path / "b").write_bytes(b"theirs")
            return begin(*words)  # type: ignore[arg-type]

        monkeypatch.setattr(local_upload, "finish", late)
        with pytest.raises(AlreadyExists):
            engine.migrate(
                place_here(tmp_path / "a"), place_there(tmp_path / "b"), if_exists="fail"
            )
        assert (tmp_path / "b").read_bytes() == b"theirs"
    else:
        outcome = engine.migrate(
            place_here(tmp_path / "a"), place_there(tmp_path / "b"), if_exists="fail"
        )
        assert outcome.state is State.VERIFIED
        assert (tmp_path / "b").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_mount_may_fail_when_the_file_is_closed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    close, this_thread, threads = os.close, get_original("_thread", "get_ident"), []

    def close_and_count(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        close(descriptor)
        if (
            name.endswith(".part") and not threads
        ):  # like `rclone mount`, which uploads the file only now
            threads.append(this_thread())
            raise OSError(errno.EIO, "it was not uploaded")

    monkeypatch.setattr(local_upload, "close_descriptor", close_and_count)
    engine.runner.settings = replace(engine.runner.settings, retry_budget=60)
    before = len(os.listdir("/proc/self/fd"))
    outcome = engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "to" / "b"))
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None and outcome.receipt.attempts == 2
    assert threads and threads[0] != this_thread(), "nobody waits for it on the hub"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["b"]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("late", [False, True])
def test_a_mount_may_give_a_file_the_time_of_its_upload(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """When it is closed, as `rclone mount` of WebDAV does; an empty file's time may change later
    still."""
    (tmp_path / "a").write_bytes(b"" if late else b"new")
    (tmp_path / "to").mkdir()
    place, finish = tmp_path / "to" / "b", local_upload.finish

    def set_date(part: local_upload.TemporaryFile) -> None:
        os.utime(part.path, (10**9, 10**9))

    def finish_dated(part: local_upload.TemporaryFile, *words: object) -> object:
        if not late:
            shut = part.close_file
            part.close_file = lambda: (shut(), set_date(part))  # type: ignore[assignment, method-assign, func-returns-value]
        found = finish(part, *words)  # type: ignore[arg-type]
        if late:
            set_date(part)
        return found

    monkeypatch.setattr(local_upload, "finish", finish_dated)
    outcome = engine.migrate(place_here(tmp_path / "a"), place_there(place))
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    assert (local_upload.UNDATED in outcome.receipt.notes) == (not late)


def test_a_file_is_inspected_past_the_systems_cache(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("a")
    folder = os.open(tmp_path, os.O_PATH)
    file = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        assert local_files.fresh(file) == local_files.fresh(folder, "a") == (tmp_path / "a").stat()
        assert local_files.fresh(folder, "link") == (tmp_path / "link").lstat()
        with pytest.raises(FileNotFoundError):
            local_files.fresh(folder, "nothing")
    finally:
        os.close(file)
        os.close(folder)


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_can_not_be_closed_was_not_read(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """rclone mount answers EIO to close(2) if the digest of the bytes is wrong."""
    (tmp_path / "a").write_bytes(b"bytes")
    place, close = local_location(tmp_path / "a", destination=False), os.close
    body = LocalStore(wire, "source", Watchdog(Limits())).get(place).body
    assert body is not None
    descriptor = body.connection.fileno()

    def fail_close(file: int) -> None:
        close(file)
        if file == descriptor:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local_files, "close_descriptor", fail_close)
    if not whole:
        return body.close()
    with pytest.raises(ConnectionLost):
        body.read()
    return None


@pytest.mark.parametrize("numbered", [True, False])
def test_a_deleted_file_that_a_mount_still_shows_is_not_there(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbered: bool
) -> None:
    """NFS and sshfs answer stat from a cache for a while; an open is not answered from it."""
    path, store = tmp_path / "a", LocalStore(wire, "destination", Watchdog(Limits()))
    path.write_bytes(b"bytes")
    found, place = path.stat(), local_location(path, destination=True)
    monkeypatch.setattr(local_files, "_is_numbered", lambda device: numbered)
    monkeypatch.setattr(AllowedFolders, "stat", lambda folders, path: found)
    assert isinstance(store.head(place), ObjectInfo)
    if not numbered:
        refuse(monkeypatch, os, "open", errno.EACCES)  # for another user's file
        assert isinstance(store.head(place), ObjectInfo)
        monkeypatch.undo()
        monkeypatch.setattr(AllowedFolders, "stat", lambda folders, path: found)
    path.unlink()
    with pytest.raises(NotFound):
        store.head(place)


def test_a_change_a_mount_hides_until_the_next_open_is_found(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshfs answers with the attributes of the last open for 20 seconds."""
    kept: dict[int, os.stat_result] = {}
    monkeypatch.setattr(
        local_files, "fresh", lambda file, name="": kept.setdefault(file, os.fstat(file))
    )

    def mark_cached(stream: FileStream, view: memoryview) -> None:
        stream._slow = True

    monkeypatch.setattr(FileStream, "_read_cached", mark_cached)
    path, store = tmp_path / "a", LocalStore(wire, "source", Watchdog(Limits()))
    for change in (False, True):
        path.write_bytes(b"first and second")
        kept.clear()
        body = store.get(local_location(path, destination=False)).body
        assert body is not None
        assert body.read(5) == b"first"
        if change:
            path.write_bytes(b"FIRST AND SECOND")
            with pytest.raises(SourceChanged):
                body.read()
        else:
            assert body.read() == b" and second"


def test_a_name_reserved_without_need_is_released(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "to").mkdir()
    refuse(monkeypatch, os, "link", errno.EPERM)
    refuse(monkeypatch, local_upload, "_renameat2", errno.EINVAL)
    refuse(monkeypatch, os, "rename", errno.EIO)
    with pytest.raises(Unavailable):
        engine.migrate(
            place_here(tmp_path / "a"), place_there(tmp_path / "to" / "b"), if_exists="fail"
        )
    assert not list((tmp_path / "to").iterdir())


def test_a_mount_that_renames_nothing_is_no_transient_failure(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS's Mountpoint for S3."""
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "to").mkdir()
    refuse(monkeypatch, os, "rename", errno.ENOSYS)
    with pytest.raises(Rejected, match="not implemented") as caught:
        engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "to" / "b"))
    assert "s3://" in caught.value.hint
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    ("data", "seconds", "left"), [(b"", 0, []), (b"", -10, ["b"]), (b"x", 0, ["b"]), (None, 0, [])]
)
def test_an_empty_placeholder_of_a_killed_process_is_ignored(
    wire: Wire, tmp_path: Path, data: bytes | None, seconds: int, left: list[str]
) -> None:
    """A file system without links: the written file was to replace the placeholder; an older file,
    or one with bytes, is another writer's."""
    store, place = (
        LocalStore(wire, "destination", Watchdog(Limits())),
        local_location(tmp_path / "b", destination=True),
    )
    part, note = (
        tmp_path / one.path.rpartition("/")[2] for one in store.staged_locations(place, "1-2-3")
    )
    part.write_bytes(b"all of it")
    note.write_text("b")
    if data is not None:
        (tmp_path / "b").write_bytes(data)
        when = note.stat().st_mtime + seconds
        os.utime(tmp_path / "b", (when, when)) if seconds else None
    assert remove_lost_uploads(store, place, ["1-2-3"], {}) is None
    assert [path.name for path in tmp_path.iterdir()] == left


@pytest.mark.parametrize(
    ("name", "code", "note"),
    [
        ("utime", errno.EPERM, "time"),
        ("utime", errno.EINVAL, "time"),
        ("fsync", errno.ENOSYS, "fsync"),
        ("fsync", errno.EINVAL, "fsync"),
        ("fsync", errno.EOPNOTSUPP, "fsync"),
        ("fchown", errno.EPERM, "owner"),
        ("fchmod", errno.EPERM, None),
        ("fchmod", errno.EOPNOTSUPP, None),
    ],
)
def test_a_missing_feature_of_a_file_system_is_noted(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    note: str | None,
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    if name == "fchown":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(tmp_path / "b", 1234, 2345)
    refuse(monkeypatch, os, name, code)
    outcome = engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"))
    assert outcome.state is State.VERIFIED and outcome.receipt is not None
    assert (tmp_path / "b").read_bytes() == b"new"
    assert [note for found in outcome.receipt.notes if note and note in found] == (
        [note] if note else []
    )


def test_a_failing_disk_is_not_one_without_fsync(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    refuse(monkeypatch, os, "fsync", errno.EIO)
    with pytest.raises(RelayError, match="Input/output"):
        engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def refuse(monkeypatch: pytest.MonkeyPatch, module: object, name: str, code: int) -> None:
    """Let a function fail as a system call fails."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, name, refuse)


@pytest.mark.parametrize(
    "changed", ["", "x", "nan", "1e400", "-5.5", "1e999999999", "9" * 30, "12.3.4", "٣"]
)
def test_an_invalid_time_of_change_is_noted_or_kept(
    wire: Wire, tmp_path: Path, changed: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    source, store = (
        LocalStore(wire, "source", Watchdog(Limits())),
        LocalStore(wire, "destination", Watchdog(Limits())),
    )
    body = source.get(place_here(path)).body
    assert body is not None
    stored = store.put(place_there(tmp_path / "b"), body, (("mtime", changed),))
    noted = any("time of modification" in note for note in stored.notes)
    part = next(tmp_path.glob(".relay-*"))
    assert noted or part.stat().st_mtime == float(changed)


def test_every_folder_that_is_made_is_on_the_disk(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    synced, fsync = set(), os.fsync

    def note_sync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_sync)
    engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "x" / "y" / "z" / "b"))
    assert {
        str(path) for path in (tmp_path, tmp_path / "x", tmp_path / "x/y", tmp_path / "x/y/z")
    } <= synced


@pytest.mark.parametrize("name", ["/proc/version", "/proc/self/limits", "/proc/cpuinfo"])
def test_a_file_without_a_size_is_read_to_its_end(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    if not Path(name).exists() or Path(name).stat().st_size:
        pytest.skip("it has a size here")
    outcome = engine.migrate(place_here(Path(name)), place_there(tmp_path / "b"))
    assert outcome.state is State.VERIFIED
    assert (tmp_path / "b").read_bytes()[:8] == Path(name).read_bytes()[:8]
    assert (tmp_path / "b").read_bytes().endswith(b"\n")


def test_a_file_outside_the_page_cache_is_read(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(DATA)
    read = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda *words: refuse_now(*words) if len(words) == 4 else read(*words)
    )
    engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == DATA


@pytest.mark.parametrize("seconds", [253402300800, 2**40, -(2**33), 0, -1])
def test_any_year_is_listed_and_moved(engine: Engine, wire: Wire, seconds: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as text:
        folder = Path(text)
        for name in ("a", "b"):
            (folder / name).write_bytes(name.encode())
        os.utime(folder / "b", (seconds, seconds))
        entries = list(
            LocalStore(wire, "source", Watchdog(Limits())).list(place_here(folder).folder())
        )  # type: ignore[attr-defined]
        assert [(entry.name, entry.error) for entry in entries] == [("a", None), ("b", None)]
        engine.migrate(place_here(folder / "b"), place_there(folder / "c"))
        assert (folder / "c").read_bytes() == b"b"


# -- a mount whose server does not answer


@pytest.mark.parametrize(
    ("names", "work"),
    [
        (("open",), lambda store, path: store.head(place_below(path))),
        (("open", "fstat"), lambda store, path: store.get(place_below(path)).body.close()),
        (
            ("open", "scandir"),
            lambda store, path: list(store.list(place_below(path.parent).folder())),
        ),
        (("lstat", "open", "stat"), lambda store, path: put(store, path)),
        (("fsync", "write"), lambda store, path: put(store, path)),
        (("rename", "fsync"), lambda store, path: store.publish(put(store, path))),
        (("link", "unlink"), lambda store, path: store.publish(put(store, path), if_absent=True)),
        (("unlink",), lambda store, path: store.delete(put(store, path).readable, Version())),
        (("preadv",), lambda store, path: store.get(place_below(path)).body.read()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_hanging_mount_delays_no_other(
    wire: Wire,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    work: Callable[..., object],
) -> None:
    """Each system call that may wait for a server takes a fifth of a second; the hub runs other
    greenlets."""
    (tmp_path / "a").write_bytes(DATA)
    (tmp_path / "b").mkdir()
    store, pause, hung = (
        LocalStore(wire, "source", Watchdog(Limits())),
        get_original("time", "sleep"),
        [],
    )

    def slow_down(call: Callable[..., object]) -> Callable[..., object]:
        def slow(*words: object, **more: object) -> object:
            hung.append(call)
            pause(0.2)
            return call(*words, **more)

        return slow

    mounted = SimpleNamespace(**vars(os))
    for name in names:
        setattr(mounted, name, slow_down(getattr(os, name)))
    if "preadv" in names:
        mounted.preadv = lambda *words: (
            refuse_now(*words) if len(words) == 4 else slow_down(os.preadv)(*words)
        )
    for module in (local_files, local_folders, local_upload):
        monkeypatch.setattr(module, "os", mounted)
    longest, last = 0.0, time.perf_counter()

    def tick() -> None:
        nonlocal longest, last
        while True:
            gevent.sleep(0.01)
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()

    ticking = gevent.spawn(tick)
    gevent.sleep(0.02)
    last, longest = time.perf_counter(), 0.0
    try:
        work(store, tmp_path / "a")
        gevent.sleep(0.02)
    finally:
        ticking.kill()
    assert hung
    assert longest < 0.15


def refuse_now(*_: object) -> int:
    """Fail as preadv2 does with RWF_NOWAIT if the bytes are not in memory."""
    raise BlockingIOError(errno.EAGAIN, "not now")


def put(store: LocalStore, path: Path) -> PutResult:
    """Store a body that is in memory already."""
    body = Body(
        Held(b"new"),
        Framing.LENGTH,
        Head(200, "OK", "1.1", (("Content-Length", "3"),)),
        Watchdog(Limits()),
        leave,
    )
    return store.put(place_below(path.parent / "c"), body)


def place_below(path: Path) -> Location:
    """Return a place of a server, which opens it below an allowed folder."""
    return local_location(path, destination=False, folders=AllowedFolders((path.parent, path)))


class Held(FileStream):
    """Bytes without a file."""

    def __init__(self, data: bytes) -> None:
        self.side, self.leftover, self.closed = "source", data, False

    def read_now(self, view: memoryview) -> int | None:
        return self._take_leftover(view)


def leave(stream: object, reusable: bool) -> None:
    """Release nothing."""


def test_a_write_after_its_transfer_reaches_no_other_file(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A greenlet is killed while a native thread writes for it: its descriptor number soon belongs
    to another file."""
    store, write, begun, ended = (
        LocalStore(wire, "destination", Watchdog(Limits())),
        os.write,
        [],
        [],
    )

    def late(descriptor: int, data: memoryview) -> int:
        begun.append(descriptor)
        get_original("time", "sleep")(0.3)
        done = write(descriptor, data)
        ended.append(descriptor)
        return done

    monkeypatch.setattr(os, "write", late)
    job = gevent.spawn(put, store, tmp_path / "a")
    while not begun:
        gevent.sleep(0.01)
    job.kill()
    others = [os.open(tmp_path / f"other{number}", os.O_RDWR | os.O_CREAT) for number in range(20)]
    while not ended:
        gevent.sleep(0.01)
    for other in others:
        assert os.fstat(other).st_size == 0
        os.close(other)
    assert not list(tmp_path.glob(".relay-*"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ, errno.ENOENT])
@pytest.mark.parametrize("if_exists", ["overwrite", "fail"])
def test_a_name_the_file_system_refuses_fails_at_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, if_exists: str
) -> None:
    """exfat-fuse reports such a name as absent."""
    engine.runner.settings = replace(engine.runner.settings, retry_budget=60)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for call in ("rename", "link"):
        monkeypatch.setattr(local_upload.os, call, refuse)
    monkeypatch.setattr(local_upload, "_renameat2", refuse)
    (tmp_path / "to").mkdir()
    (tmp_path / "a").write_bytes(b"bytes")
    places = (
        local_location(tmp_path / "a", destination=False),
        local_location(tmp_path / "to" / "a:b", destination=True),
    )
    with pytest.raises(Rejected) as caught:
        engine.migrate(*places, if_exists=if_exists)
    assert "does not allow this name" in (caught.value.hint or "")
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        ("fuseblk /dev/sdb1 rw", True),
        ("fuse.sshfs host:/folder rw", True),
        ("exfat /dev/sdb1 rw,uid=0,errors=remount-ro", True),
        ("vfat /dev/sdb1 rw,uid=0", True),
        ("vboxsf shared rw,iocharset=utf8", True),
        ("cifs //nas/share rw,vers=3.1.1,noserverino,actimeo=1", True),
        ("cifs //nas/share rw,vers=3.1.1,serverino,actimeo=1", False),
        ("ext4 /dev/vda rw", False),
    ],
)
def test_a_file_is_the_same_under_another_inode_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, same: bool
) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    found = (tmp_path / "a").stat()
    printed = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
    numbers = os.major(found.st_dev), os.minor(found.st_dev)
    mounts = "1 1 0:0 / /proc rw - proc x rw\n2 1 {}:{} / / rw shared:1 - {}\n".format(
        *numbers, kind
    )
    monkeypatch.setattr(local_files.Path, "read_bytes", lambda *_: mounts.encode())
    local_files._is_mount_numbered.cache_clear()
    try:
        tags = {
            local_files.version_of(SimpleNamespace(**printed | {"st_ino": ino})).etag
            for ino in (1, 2)
        }  # type: ignore[arg-type]
    finally:
        local_files._is_mount_numbered.cache_clear()
    assert (len(tags) == 1) == same


def test_another_mount_may_have_the_number_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    line = f"2 1 {os.major(device)}:{os.minor(device)} / / rw - "
    now = 0.0
    monkeypatch.setattr(local_files.time, "monotonic", lambda: now)
    local_files._is_mount_numbered.cache_clear()
    try:
        for kind, numbered in (("nfs4 server:/a rw", True), ("fuse.sshfs host:/a rw", False)):
            text = f"{line}{kind}\n".encode()
            monkeypatch.setattr(local_files.Path, "read_bytes", lambda *_, text=text: text)
            assert local_files._is_numbered(device) is numbered
            now += local_files.MOUNTS_SECONDS
    finally:
        local_files._is_mount_numbered.cache_clear()


def test_a_file_is_the_same_after_another_mount(tmp_path: Path) -> None:
    """NFS, btrfs and ZFS have another device number then, and so has a disk that is plugged in
    again."""
    (tmp_path / "a").write_bytes(b"bytes")
    found = (tmp_path / "a").stat()
    printed = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
    tags = {
        local_files.version_of(SimpleNamespace(**printed | {"st_dev": device})).etag  # type: ignore[arg-type]
        for device in (found.st_dev, found.st_dev + 1)
    }
    assert len(tags) == 1


def test_an_attempt_writes_where_the_last_one_could_not_delete(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mount with `soft` while the server is away (nfs(5))."""
    away, fsync, unlink = ["fsync", "unlink"], os.fsync, os.unlink

    def fail_fsync(descriptor: int) -> None:
        if "fsync" in away and stat.S_ISREG(os.fstat(descriptor).st_mode):
            away.remove("fsync")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    def fail_unlink(name: str, **more: Any) -> None:
        if "unlink" in away and ".relay-" in name:
            away.remove("unlink")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(name, **more)

    monkeypatch.setattr(local_upload.os, "fsync", fail_fsync)
    monkeypatch.setattr(local_upload.os, "unlink", fail_unlink)
    (tmp_path / "a").write_bytes(DATA)
    places = (Endpoint(f"file://{tmp_path}/{name}") for name in ("a", "to/b"))
    runner = runner_of(tmp_path, retry_budget=5)
    id = ledger.create(MigrationRequest(*places).spec(runner.remotes))[0].id
    run_worker(ledger, runner, id)
    assert not away
    assert [(row.state, row.error) for row in ledger.page(id)] == [("verified", None)]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["b"]


@pytest.mark.parametrize("code", [errno.EEXIST, errno.EIO])
@pytest.mark.parametrize("theirs", [True, False])
def test_a_link_with_a_lost_first_answer_is_ours(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bool, code: int
) -> None:
    """As link(2) behaves on NFS: the client asks a second time, and the server answers that the
    name exists. A mount with `soft` may also answer EIO (nfs(5))."""
    real = os.link

    def link(*args: object, **more: object) -> None:
        if theirs:
            (tmp_path / "b").write_bytes(DATA)
        else:
            real(*args, **more)  # type: ignore[arg-type]
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(local_upload.os, "link", link)
    (tmp_path / "a").write_bytes(DATA)
    with pytest.raises(AlreadyExists) if theirs else nullcontext():
        assert (
            engine.migrate(
                place_here(tmp_path / "a"), place_there(tmp_path / "b"), if_exists="fail"
            ).state
            is State.VERIFIED
        )
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("there", [None, b"old"])
@pytest.mark.parametrize("theirs", [True, False])
def test_a_rename_with_a_lost_first_answer_is_ours(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    theirs: bool,
    there: bytes | None,
) -> None:
    """As rename(2) on NFS: the client asks a second time, and the server no longer has the old
    name."""
    real = os.rename

    def rename(old: str, new: str, **more: Any) -> None:
        if theirs:
            os.unlink(old, dir_fd=more["src_dir_fd"])
        else:
            real(old, new, **more)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(local_upload.os, "rename", rename)
    (tmp_path / "a").write_bytes(DATA)
    if there is not None:
        (tmp_path / "b").write_bytes(there)
    with pytest.raises(RelayError) if theirs else nullcontext():
        outcome = engine.migrate(place_here(tmp_path / "a"), place_there(tmp_path / "b"))
        assert outcome.state is State.VERIFIED
    kept = (tmp_path / "b").read_bytes() if (tmp_path / "b").exists() else None
    assert kept == (there if theirs else DATA)
