"""OpenSSH's server on loopback, with keys, an account and settings of its own, and no others."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from loadtests.bench.ports import free_port
from relay.location import Location
from relay.stores.kinds import LocateOptions, Remote
from relay.stores.sftp.account import sftp_remote


def find_sshd() -> str | None:
    """Return the path of the server; None if it is not installed."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Sshd:
    """A running server. `home` has its keys and known_hosts, `root` is where its objects lie."""

    port: int
    home: Path
    root: Path

    def options(self, **more: str) -> dict[str, str]:
        """Return the options of a remote for it; `more` replaces some."""
        return {
            "type": "sftp",
            "host": "127.0.0.1",
            "port": str(self.port),
            "user": getuser(),
            "key_file": str(self.home / "user_key"),
            "known_hosts_file": str(self.home / "known_hosts"),
            **more,
        }

    def place(self, name: str, **more: str) -> Location:
        """Return the location of a name below the root."""
        remote = Remote("box", "sftp", "test", self.options(**more))
        return sftp_remote(remote, f"{self.root}/{name}", LocateOptions(destination=True))


@contextmanager
def sshd(home: Path, *settings: str) -> Iterator[Sshd]:
    """Run a server for the block, with some more settings."""
    binary = find_sshd()
    assert binary is not None
    (home / "root").mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True
        )
    key = (home / "user_key.pub").read_text()
    (home / "authorized_keys").write_text(key)
    port = free_port()
    host_key = (home / "host_key.pub").read_text()
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (home / "config").write_text(
        "\n".join(
            [
                *settings,
                f"Port {port}",
                "ListenAddress 127.0.0.1",
                f"HostKey {home}/host_key",
                f"AuthorizedKeysFile {home}/authorized_keys",
                f"PidFile {home}/pid",
                "StrictModes no",
                "UsePAM no",
                "PermitRootLogin yes",
                "PubkeyAuthentication yes",
                "MaxStartups 100",
                "Subsystem sftp internal-sftp",
                "",
            ]
        )
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (home / "log").open("wb")
    process = subprocess.Popen([binary, "-D", "-e", "-f", home / "config"], stderr=log)
    try:
        _wait_for(port, process)
        yield Sshd(port, home, home / "root")
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1000):
        with socket.socket() as sock:
            sock.settimeout(0.05)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise RuntimeError("sshd ended")
        threading.Event().wait(0.01)
    raise TimeoutError(port)
