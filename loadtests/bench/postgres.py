"""PostgreSQL: a server of our own, in a folder of its own, from Debian's package."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

FIRST_PORT, TRIES = 15000, 100


def programs() -> Path | None:
    """Return the folder of the newest server's programs, or None."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    return found[-1].parent if found else None


def lasting_port() -> int:
    """Return a free port of loopback below those that the kernel gives to connections: one of these
    could take the port of a server while it restarts (ip_local_port_range in the kernel's
    ip-sysctl). Raises OSError without one."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(TRIES):
        port = random.randrange(FIRST_PORT, max(end, FIRST_PORT + 1))
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError(f"no port from {FIRST_PORT} to {end} is free")


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    folder: Path
    bin: Path
    user: tuple[str, ...]
    options: str = ""
    """Options of its start."""

    def database(self, options: str = "") -> str:
        """Make a database with the `options` of CREATE DATABASE, and return its URL as RELAY_LEDGER
        takes it."""
        name = f"relay_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" {options}'.encode())
        return f"postgresql+psycopg://relay@127.0.0.1:{self.port}/{name}"

    def dsn(self, name: str) -> str:
        """Return how psycopg reaches a database."""
        return f"postgresql://relay@127.0.0.1:{self.port}/{name}"

    def control(self, *words: str) -> None:
        """Run pg_ctl on it."""
        # The user `postgres` may not enter our working folder, hence `cwd`.
        subprocess.run(
            [
                *self.user,
                str(self.bin / "pg_ctl"),
                "-D",
                str(self.folder),
                "-w",
                "-t",
                "90",
                *words,
            ],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    def restart(self) -> None:
        """Start it, on the same port."""
        options = f"-p {self.port} -h 127.0.0.1 -k '' -c max_connections=50 {self.options}"
        self.control("start", "-l", str(self.folder / "log"), "-o", options)

    def replace_folder(self, folder: Path) -> None:
        """Replace its folder by another, while it is stopped."""
        shutil.rmtree(self.folder)
        shutil.move(folder, self.folder)
        if self.user:
            for path in (self.folder, *self.folder.rglob("*")):
                shutil.chown(path, "postgres", "postgres")


@contextmanager
def postgresql(options: str = "") -> Iterator[Postgres]:
    """Run a server for the time of the block, with some options of its own; it refuses root, so it
    runs as `postgres` then.

    Its folder is outside of the tests' folders: only their owner may enter those, and each run of
    pytest restores that mode."""
    bin = programs()
    assert bin is not None
    user: tuple[str, ...] = ()
    home = tempfile.TemporaryDirectory(prefix="relay-postgres-")
    folder = Path(home.name)
    if os.geteuid() == 0:
        user = ("runuser", "-u", "postgres", "--")
        shutil.chown(folder, "postgres")
    run = [
        *user,
        str(bin / "initdb"),
        "-D",
        str(folder),
        "-U",
        "relay",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(run, check=True, cwd="/", stdout=subprocess.DEVNULL)
    server = Postgres(lasting_port(), folder, bin, user, options)
    server.restart()
    try:
        yield server
    finally:
        server.control("stop", "-m", "immediate")
        home.cleanup()
