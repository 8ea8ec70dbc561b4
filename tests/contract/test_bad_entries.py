"""An entry, or a folder below, that cannot be listed fails alone: all others are listed and
moved."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from relay.errors import NotFound, PermissionDenied, Rejected, RelayError
from relay.stores import local, local_files
from relay.stores.local import LocalStore
from relay.stores.local_locations import local_location
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.end_to_end.terminal import Terminal


def kinds_of_errors(entries: Any) -> dict[str, type[RelayError] | None]:
    """Return the entries' names with the kinds of their errors."""
    return {entry.name: entry.error and type(entry.error) for entry in entries}


def test_an_unreadable_local_entry_fails_alone(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "denied/x", "gone/x", "z/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "through").symlink_to("a/x")
    scanned = local.scan_folder

    def scan(folders: Any, folder: Path, *rest: Any, **options: Any) -> Any:
        if folder.name == "denied":
            raise PermissionError(13, "Permission denied")
        if folder.name == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return scanned(folders, folder, *rest, **options)

    monkeypatch.setattr(local, "scan_folder", scan)
    place = local_location(tmp_path, destination=False)
    found = kinds_of_errors(
        LocalStore(wire, "source", Watchdog(Limits())).list(place.folder(), True)
    )
    assert found == {
        "a": None,
        "denied/": PermissionDenied,
        "gone/": NotFound,
        "loop": Rejected,
        "through": Rejected,
        "z/y": None,
    }
    monkeypatch.setattr(local, "scan_folder", lambda *_, **__: scan(None, Path("denied")))
    with pytest.raises(PermissionDenied):
        list(LocalStore(wire, "source", Watchdog(Limits())).list(place.folder(), True))


def test_a_large_local_folder_becomes_entries_in_pieces(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the names, and without entries that vanish meanwhile."""
    monkeypatch.setattr(local, "SCANNED", 10)
    monkeypatch.setattr(local_files, "SORTED", 7)
    names = [f"{number * 37 % 100:02}" for number in range(100)]
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    store, place = (
        LocalStore(wire, "source", Watchdog(Limits())),
        local_location(tmp_path, destination=False).folder(),
    )
    gc.collect()  # descriptors of other tests' objects close now, and not in the middle
    looked, scanned, opened = [0], local.scan_folder, len(os.listdir("/proc/self/fd"))

    def scan(*args: Any, **options: Any) -> Any:
        found = scanned(*args, **options)
        looked[0] += len(found)
        return found

    monkeypatch.setattr(local, "scan_folder", scan)
    entries = store.list(place)
    assert (next(entries).name, looked[0]) == ("00", 10)
    (tmp_path / "42").unlink()
    assert [entry.name for entry in entries] == [
        *(f"{n:02}" for n in range(1, 100) if n != 42),
        "folder/",
    ]
    entries = store.list(place, True)
    assert next(entries).name == "00"
    del entries
    assert len(os.listdir("/proc/self/fd")) == opened


def test_a_listed_name_that_cannot_be_found_is_reported(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount of SMB lists names that Linux cannot open; others are removed meanwhile."""
    folder = tmp_path / "from"
    folder.mkdir()
    for name in ("a", "dot.", "gone", "late"):
        (folder / name).write_bytes(b"1")
    stat, late = os.stat, {"late"}  # it is written again meanwhile

    def look(path: Any, *args: Any, **more: Any) -> os.stat_result:
        if path == "gone":
            (folder / "gone").unlink(missing_ok=True)
        if path == "dot." or path in late:
            late.discard(path)
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return stat(path, *args, **more)

    monkeypatch.setattr(local_files.os, "stat", look)
    store = LocalStore(wire, "source", Watchdog(Limits()))
    place = local_location(folder, destination=False).folder()
    found = {entry.name: entry.error for entry in store.list(place)}
    assert isinstance(found.pop("dot."), NotFound)
    assert found == {"a": None, "late": None}
    monkeypatch.setattr(local, "SCANNED", 1)
    entries = store.list(place)
    assert next(entries).name == "a"
    shutil.rmtree(folder)
    assert not list(entries)


def test_a_retry_lists_unlisted_folders_again(tmp_path: Path) -> None:
    terminal, source = Terminal(tmp_path), tmp_path / "from"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    (source / "loop").symlink_to("loop")
    code, report = terminal.tree(source, tmp_path / "to")
    assert (code, report["objects"]) == (1, {"verified": 1, "failed": 1})
    (source / "loop").unlink()
    (source / "loop").write_bytes(b"mended")
    os.utime(source / "loop", (1e12, 1e12))  # far beyond the year 9999
    code, report = terminal.tree(source, tmp_path / "to")
    assert (code, report["objects"]) == (0, {"verified": 2})
    assert (tmp_path / "to" / "loop").read_bytes() == b"mended"


def test_an_empty_tree_fails_with_fail_on_empty(
    tmp_path: Path,
) -> None:
    terminal, source = Terminal(tmp_path), tmp_path / "from"
    (source / "in" / "deep").mkdir(parents=True)
    words = ("migrate", "-r", str(source), str(tmp_path / "to"))
    code, out, _ = terminal.run(*words)
    assert code == 0
    assert "nothing was found in the source" in out
    code, out, _ = terminal.run(*words, "--fail-on-empty")
    assert code == 1
    assert "nothing was found in the source" in out
    (source / "in" / "a").write_bytes(b"1")
    code, report = terminal.tree(source, tmp_path / "to", "--fail-on-empty")
    assert (code, report["objects"]) == (0, {"verified": 1})


def test_a_tree_that_is_empty_the_second_time_fails_too(tmp_path: Path) -> None:
    """A failed object that is gone from the source is forgotten; a volume that is no longer mounted
    looks the same."""
    terminal, source, there = Terminal(tmp_path), tmp_path / "from", tmp_path / "to"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    (there / "a").mkdir(parents=True)
    words = (source, there, "--fail-on-empty")
    assert terminal.tree(*words)[0] == 1
    (source / "a").unlink()
    for _ in range(2):
        code, report = terminal.tree(*words)
        assert (code, report["error"]["detail"]) == (1, "nothing was found in the source")
    (there / "a").rmdir()
    (source / "a").write_bytes(b"1")
    code, report = terminal.tree(*words)
    assert (code, report["objects"]) == (0, {"verified": 1})
