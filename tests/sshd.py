"""SSH servers on loopback, with keys, an account and settings of their own: OpenSSH, ProFTPD."""

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


def find_proftpd() -> str | None:
    """Return the path of ProFTPD, if it is installed with its module for SFTP, and may be run."""
    modules = Path("/usr/lib/proftpd/mod_sftp.so").exists()
    return shutil.which("proftpd", path="/usr/sbin") if modules and os.getuid() == 0 else None


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
    binary, port = find_sshd(), free_port()
    assert binary is not None
    _make_keys(home, port)
    (home / "authorized_keys").write_text((home / "user_key.pub").read_text())
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
    with _running([binary, "-D", "-e", "-f", str(home / "config")], home, port) as server:
        yield server


@contextmanager
def proftpd(home: Path) -> Iterator[Sshd]:
    """Run ProFTPD for the block, as root."""
    binary, port = find_proftpd(), free_port()
    assert binary is not None
    _make_keys(home, port)
    key = subprocess.check_output(["ssh-keygen", "-e", "-f", home / "user_key.pub"], text=True)
    (home / "keys").write_text(key)
    (home / "users").write_text(f"root:*:0:0::{home}/root:/bin/sh\n")
    (home / "users").chmod(0o600)
    (home / "config").write_text(
        "\n".join(
            [
                "LoadModule mod_sftp.c",
                "ServerType standalone",
                f"Port {port}",
                "DefaultAddress 127.0.0.1",
                "UseIPv6 off",
                "User root",
                "Group root",
                "RootLogin on",
                "UseFtpUsers off",
                f"PidFile {home}/pid",
                f"ScoreboardFile {home}/score",
                "DelayTable none",
                "WtmpLog none",
                "TransferLog none",
                f"SystemLog {home}/system.log",
                f"AuthUserFile {home}/users",
                "AuthOrder mod_auth_file.c",
                "SFTPEngine on",
                f"SFTPHostKey {home}/host_key",
                f"SFTPAuthorizedUserKeys file:{home}/keys",
                "SFTPAuthMethods publickey",
                "AllowOverwrite on",
                "<Limit ALL>",
                "AllowAll",
                "</Limit>",
                "",
            ]
        )
    )
    with _running([binary, "-n", "-c", str(home / "config")], home, port) as server:
        yield server


def _make_keys(home: Path, port: int) -> None:
    (home / "root").mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True
        )
    host_key = (home / "host_key.pub").read_text()
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")


@contextmanager
def _running(command: list[str], home: Path, port: int) -> Iterator[Sshd]:
    log = (home / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
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
            raise RuntimeError("the server ended")
        threading.Event().wait(0.01)
    raise TimeoutError(port)
