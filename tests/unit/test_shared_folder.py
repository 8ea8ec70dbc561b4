"""The folder of the metrics: private, gone at the end, and none is left by a killed server."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from relay.metrics import shared_folder
from relay.metrics.shared_folder import YOUNG_SECONDS, SharedFolder


def make(parent: Path) -> SharedFolder:
    """Make a folder."""
    found = SharedFolder.make((parent,))
    assert found is not None
    return found


def test_a_folder_is_private_and_removed(tmp_path: Path) -> None:
    """No other user may read the numbers, or plant some."""
    folder = make(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_server_is_removed(tmp_path: Path) -> None:
    """It has no lock; that of a running server stays, and so does a young one."""
    alive, killed, young = make(tmp_path), make(tmp_path), make(tmp_path)
    for folder in (killed, young):
        os.close(folder._lock)
    for folder in (alive, killed):
        then = folder.path.stat().st_mtime - YOUNG_SECONDS - 1
        os.utime(folder.path, (then, then))
    made = make(tmp_path)
    assert set(tmp_path.iterdir()) == {alive.path, young.path, made.path}


def test_an_ended_worker_keeps_its_counters_only(tmp_path: Path) -> None:
    """What it held is nothing now; what it counted has happened."""
    folder = make(tmp_path)
    for name in ("gauge_livesum_7.db", "gauge_livesum_77.db", "counter_7.db", "histogram_7.db"):
        (folder.path / name).touch()
    assert folder.forget_worker(7) == 3
    assert not (folder.path / "gauge_livesum_7.db").exists()


def test_no_folder_is_no_failure(tmp_path: Path) -> None:
    """A server runs without metrics then."""
    assert SharedFolder.make((tmp_path / "absent",)) is None


def test_a_read_only_container_has_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server starts without metrics, or with those in memory."""

    def gettempdir() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    monkeypatch.setattr(shared_folder, "MEMORY", tmp_path / "nowhere")
    assert SharedFolder.make() is None
    monkeypatch.setattr(shared_folder, "MEMORY", tmp_path)
    found = SharedFolder.make()
    assert found is not None
    found.remove()
