"""Identities of this machine and of a container's volumes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.process import identities, mounts

MOUNTS = """\
1 0 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u
2 1 8:1 /volumes/m1/_data /models rw,relatime master:1 - ext4 /dev/sda1 rw
3 1 0:60 / /a\\040b rw - tmpfs tmpfs rw
4 1 0:61 /export /nfs rw - nfs4 nas:/export rw
"""


@pytest.fixture(autouse=True)
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Show the mounts of a container; return their file."""
    shown = tmp_path / "mountinfo"
    shown.write_text(MOUNTS)
    monkeypatch.setattr(mounts, "MOUNTINFO", shown)
    monkeypatch.setattr(identities, "pid_namespace", lambda: "pid:[4026532000]")
    return shown


@pytest.mark.parametrize(
    ("path", "volume"),
    [
        ("/models", ["/volumes/m1/_data", "ext4", "/dev/sda1"]),
        ("/models/d/e", ["/volumes/m1/_data", "ext4", "/dev/sda1"]),
        ("/models2", ["/", "overlay", "overlay", "0:50"]),
        ("/a b/c", ["/", "tmpfs", "tmpfs", "0:60"]),
        ("/nfs/c", ["/export", "nfs4", "nas:/export"]),
    ],
)
def test_a_volume_is_what_is_mounted(path: str, volume: list[str]) -> None:
    assert identities.volume_of(Path(path)) == volume


@pytest.mark.parametrize("character", "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_mount_may_have_any_name(container: Path, character: str) -> None:
    """The kernel escapes blanks, tabs, line feeds and backslashes alone (proc(5))."""
    path = f"/a{character}b"
    container.write_bytes(f"{MOUNTS}5 1 0:62 / {path} rw - nfs4 nas:/b rw\n".encode())
    assert identities.volume_of(Path(path)) == ["/", "nfs4", "nas:/b"]
    assert identities.volume_of(Path("/a")) == ["/", "overlay", "overlay", "0:50"]


def test_a_chroot_shows_no_mount(container: Path) -> None:
    container.write_text("")
    assert identities.volume_of(Path("/models")) == []


def test_a_disk_keeps_its_identity_under_another_name(container: Path, tmp_path: Path) -> None:
    volumes = []
    for disk in ("nvme1n1", "nvme2n1"):
        container.write_text(f"{MOUNTS}5 1 8:2 /v {tmp_path} rw - ext4 /dev/{disk} rw\n")
        volumes.append(identities.volume_of(tmp_path / "d"))
    assert volumes[0] == volumes[1]
    assert volumes[0][:2] == ["/v", "ext4"]


def test_the_machine_id_of_an_image_is_that_of_no_machine(
    container: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "machine-id"
    file.write_text("0123\n")
    monkeypatch.setattr(identities, "_MACHINE_ID", str(file))
    assert identities.machine_id() == identities.boot_id()
    container.write_text(f"{MOUNTS}5 1 8:2 /etc/machine-id {file} ro - ext4 /dev/sda2 rw\n")
    assert identities.machine_id() == "0123"
    monkeypatch.setattr(identities, "pid_namespace", lambda: identities.INITIAL_PID_NAMESPACE)
    container.write_text(MOUNTS)
    names = []
    for name in ("one", "other"):  # clones of one image
        named = os.uname_result(("Linux", name, "6", "1", "x86_64"))
        monkeypatch.setattr(os, "uname", lambda named=named: named)
        names.append(identities.machine_id())
    assert names == ["0123 one", "0123 other"]
    for none in ("", "uninitialized\n"):
        file.write_text(none)
        assert identities.machine_id() == identities.boot_id()
