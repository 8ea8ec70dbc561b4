"""The folders in which a login's secrets lie."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from relay.stores.sftp import ssh_secrets
from relay.stores.sftp.account import SshOptions
from relay.stores.sftp.ssh_secrets import LoginSecrets


def test_the_key_of_a_killed_process_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_secrets, "_SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, young, other = (tmp_path / f"relay-ssh-{name}" for name in ("left", "young", "other"))
    for folder in (left, young):
        folder.mkdir()
        (folder / "key").write_text("a key")
    other.symlink_to(left)
    running = LoginSecrets(SshOptions(key_pem="a key"))
    with running:
        used = Path(running.key_path).parent
        for folder in (left, used):
            os.utime(folder, (1_600_000_000, 1_600_000_000))
        with LoginSecrets(SshOptions(password="geheim")):
            assert [folder.exists() for folder in (left, used, young)] == [False, True, True]
    assert sorted(os.listdir(tmp_path)) == ["relay-ssh-other", "relay-ssh-young"]
