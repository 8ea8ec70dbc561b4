"""The stores of the crash campaigns: real servers, read from outside as any client does. Decided
here: the visible state of each kind of store. Never here: the right state
(`loadtests/checker.py`)."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from botocore.exceptions import BotoCoreError, ClientError

from loadtests.bench.measures import BenchError
from loadtests.bench.nginx import await_port
from loadtests.bench.ports import free_ports
from loadtests.bench.processes import clean_environment, stop
from loadtests.bench.seaweed import KEY, REGION, SECRET, Seaweed, seaweedfs
from simulators.proxy import Proxy

MIB = 1 << 20
STORES = ("local", "webdav", "s3")
PART, FLIGHT = 5 * MIB, 2
"""The length of relay's parts in bytes, and the number of parts of one object that move
concurrently."""
MISSING = (OSError, ClientError, BotoCoreError)
"""The exceptions of a read of an absent object."""


@dataclass(frozen=True)
class Seen:
    """One version of an object, as a reader saw it."""

    size: int
    version: str


class Destination(Protocol):
    """A store from outside: relay's destination, and the view of a reader."""

    def target(self, tree: str) -> str:
        """Return the destination that relay gets as its argument."""

    def look(self, tree: str, name: str) -> Seen | None:
        """Return the visible state of an object."""

    def digest(self, tree: str, name: str) -> str:
        """Return the SHA-256 of an object."""

    def leftovers(self, tree: str) -> int:
        """Return the number of unfinished uploads."""

    def bytes_received(self) -> int | None:
        """Return the number of bytes received so far, or None if it is unknown."""

    def remove(self, tree: str) -> None:
        """Delete all objects."""


@dataclass
class Folder:
    """A folder of this machine. A rename makes another inode, so a second commit can't hide."""

    root: Path

    def target(self, tree: str) -> str:
        return str(self.root / tree)

    def look(self, tree: str, name: str) -> Seen | None:
        try:
            found = (self.root / tree / name).stat()
        except OSError:
            return None
        return Seen(found.st_size, f"{found.st_ino}")

    def digest(self, tree: str, name: str) -> str:
        return sha256((self.root / tree / name).read_bytes())

    def leftovers(self, tree: str) -> int:
        return sum(1 for _ in (self.root / tree).rglob(".relay-*"))

    def bytes_received(self) -> int | None:
        return None

    def remove(self, tree: str) -> None:
        shutil.rmtree(self.root / tree, ignore_errors=True)


@dataclass
class WebDav(Folder):
    """nginx over such a folder, behind a proxy that counts."""

    proxy: Proxy

    def target(self, tree: str) -> str:
        return f"webdav+{self.proxy.url(f'/{tree}/')}"

    def look(self, tree: str, name: str) -> Seen | None:
        path = f"http://127.0.0.1:{self.proxy.port}/{tree}/{quote(name)}"
        try:
            with urlopen(Request(path, method="HEAD"), timeout=5) as answer:
                return Seen(int(answer.headers["Content-Length"]), answer.headers["ETag"])
        except (HTTPError, URLError, OSError):
            return None

    def bytes_received(self) -> int | None:
        return self.proxy.bytes_carried("up")


@dataclass
class Bucket:
    """A bucket of SeaweedFS, behind a proxy that counts."""

    server: Seaweed
    proxy: Proxy

    def target(self, tree: str) -> str:
        return f"far:{self.server.bucket}/{tree}"

    def look(self, tree: str, name: str) -> Seen | None:
        try:
            found = _client(self.server).head_object(
                Bucket=self.server.bucket, Key=f"{tree}/{name}"
            )
        except (ClientError, BotoCoreError):
            return None
        return Seen(found["ContentLength"], f"{found['ETag']} {found['LastModified']}")

    def digest(self, tree: str, name: str) -> str:
        found = _client(self.server).get_object(Bucket=self.server.bucket, Key=f"{tree}/{name}")
        return sha256(found["Body"].read())

    def leftovers(self, tree: str) -> int:
        found = _client(self.server).list_multipart_uploads(
            Bucket=self.server.bucket, Prefix=f"{tree}/"
        )
        return len(found.get("Uploads", ()))

    def bytes_received(self) -> int | None:
        return self.proxy.bytes_carried("up")

    def remove(self, tree: str) -> None:
        client = _client(self.server)
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.server.bucket, Prefix=f"{tree}/"
        )
        for row in (row for page in pages for row in page.get("Contents", ())):
            client.delete_object(Bucket=self.server.bucket, Key=row["Key"])
        self.server.reclaim()


_clients = threading.local()
"""Each thread's own client of each server: botocore takes some tenths of a second to make one."""


def _client(server: Seaweed):  # type: ignore[no-untyped-def]  # botocore has no types
    made: dict[str, object] = _clients.__dict__.setdefault("made", {})
    if server.endpoint not in made:
        made[server.endpoint] = server.client()
    return made[server.endpoint]


def sha256(data: bytes) -> str:
    """Return the digest in hex."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def run_destination(
    name: str, home: Path, rate: float
) -> Iterator[tuple[Destination, dict[str, str]]]:
    """Run a store; yield it and relay's environment."""
    environment = clean_environment(home) | {
        "RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}",
        "RELAY_PART_BYTES": str(PART),
        "RELAY_PARTED_BYTES": str(2 * PART),
        "RELAY_PARTS_IN_FLIGHT": str(FLIGHT),
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
    }
    with ExitStack() as stack:
        if name == "local":
            (home / "to").mkdir()
            yield Folder(home / "to"), environment
            return
        if name == "webdav":
            port = stack.enter_context(_nginx(home))
            proxy = stack.enter_context(Proxy(f"127.0.0.1:{port}", rate=rate))
            yield WebDav(home / "to", proxy), environment
            return
        (home / "weed").mkdir()
        server = stack.enter_context(seaweedfs(home / "weed", "crash"))
        proxy = stack.enter_context(Proxy(server.endpoint.removeprefix("http://"), rate=rate))
        (home / "relay.toml").write_text(
            f'[remotes.far]\ntype = "s3"\nendpoint = "{proxy.url()}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
        )
        yield Bucket(server, proxy), environment | {"RELAY_CONFIG": str(home / "relay.toml")}


@contextmanager
def _nginx(home: Path) -> Iterator[int]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise BenchError("missing: nginx (apt-get install nginx-full)")
    (home / "to").mkdir()
    (port,) = free_ports(1)
    # nginx drops the privileges of root, and its workers could not write to our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"""daemon off; pid {home}/pid; error_log {home}/nginx.log; worker_processes 1; {user}
        events {{}}
        http {{ access_log off; client_max_body_size 0; client_body_temp_path {home}/tmp;
          server {{ listen 127.0.0.1:{port}; root {home}/to;
            location / {{ dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path on; }} }} }}"""
    )
    process = subprocess.Popen(
        [program, "-p", str(home), "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL
    )
    try:
        await_port(port, process, home / "nginx.log", "nginx")
        yield port
    finally:
        stop(process)
