"""The folders in which a login's secrets lie."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_the_end_of_the_program_removes_a_key(tmp_path: Path) -> None:
    program = (
        "import gevent, sys; from relay.stores.sftp import ssh_secrets as s;"
        "from relay.stores.sftp.account import SshOptions;"
        f"s._SHARED_MEMORY = {str(tmp_path)!r}\n"
        "def login():\n"
        "    with s.LoginSecrets(SshOptions(key_pem='a key')) as made:\n"
        "        print(made.key_path)\n"
        "        gevent.sleep(60)\n"
        "gevent.spawn(login); gevent.sleep(0)"
    )
    out = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert out.startswith(str(tmp_path))
    assert os.listdir(tmp_path) == []
