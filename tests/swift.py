"""OpenStack Swift with its s3api: a real server that speaks S3, from PyPI's `swift`, with all its
files in one folder.

One proxy, and one server each of accounts, containers and objects, with a ring of one device. It
has only the middleware that s3api needs. The device must be on a file system with user attributes
(xattr), as most are."""

from __future__ import annotations

import getpass
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from loadtests.bench.ports import free_ports
from relay.stores.s3.aws_settings import S3Config
from relay.stores.s3.sigv4 import AwsCredentials, Signer

KEY, SECRET, REGION = "test:tester", "testing", "us-east-1"
SERVERS = ("account", "container", "object")
PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats bulk"
    " s3api tempauth copy slo dlo versioned_writes symlink"
)

COMMON = """[swift-hash]
swift_hash_path_prefix = a
swift_hash_path_suffix = b
[storage-policy:0]
name = one
default = yes
"""
SERVER = """[DEFAULT]
devices = {home}/devices
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {home}
workers = 0
fallocate_reserve = 0
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {home}
workers = 0
[pipeline:main]
pipeline = {pipeline} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
"""
RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in (word.split(":") for word in sys.argv[2:]):
    builder = RingBuilder(2, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1.0})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""
"""Makes the rings in one process; `swift-ring-builder` needs a process for each step."""
OPTIONS = {
    "cache": "use = egg:swift#memcache",
    "tempauth": "use = egg:swift#tempauth\nuser_test_tester = testing .admin",
    "s3api": "use = egg:swift#s3api\ns3_acl = no\nmin_segment_size = 5242880",
    "versioned_writes": "use = egg:swift#versioned_writes\nallow_object_versioning = true",
}
"""Settings of a middleware besides its own name."""


@dataclass(frozen=True)
class Swift:
    """A running server with one bucket."""

    endpoint: str
    bucket: str

    @property
    def config(self) -> S3Config:
        """relay's settings to reach it."""
        return S3Config(Signer(lambda: AwsCredentials(KEY, SECRET), REGION), self.endpoint)

    def client(self) -> Any:
        """Return AWS's own client: an independent view of the bucket."""
        return Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(
                s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5
            ),
        )


def program(name: str) -> str | None:
    """Return the path of one of Swift's programs, beside this Python, or None."""
    path = Path(sys.executable).with_name(name)
    return str(path) if path.exists() else None


def is_installed() -> bool:
    """Return whether its programs exist."""
    return program("swift-proxy-server") is not None


@contextmanager
def swift(home: Path, bucket: str = "relay-tests") -> Iterator[Swift]:
    """Run the servers for the time of the block. Raises TimeoutError if they do not come up."""
    ports = dict(zip((*SERVERS, "proxy"), free_ports(4), strict=True))
    _configure(home, ports)
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for name in ports:
            command = [str(program(f"swift-{name}-server")), str(home / f"{name}-server.conf")]
            log = stack.enter_context((home / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                command, cwd=home, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            stack.callback(_stop, process)
            processes.append(process)
        server = Swift(f"http://127.0.0.1:{ports['proxy']}", bucket)
        _await(server, home, processes)
        yield server


def _configure(home: Path, ports: dict[str, int]) -> None:
    """Write the configuration of all servers, and the rings that assign the devices."""
    (home / "devices" / "d1").mkdir(parents=True)
    (home / "swift.conf").write_text(COMMON)
    rings = [f"{name}:{ports[name]}" for name in SERVERS]
    subprocess.run(
        [sys.executable, "-c", RINGS, str(home), *rings], cwd=home, check=True, capture_output=True
    )
    for name in SERVERS:
        text = SERVER.format(home=home, port=ports[name], user=getpass.getuser(), name=name)
        (home / f"{name}-server.conf").write_text(text)
    text = PROXY.format(home=home, port=ports["proxy"], user=getpass.getuser(), pipeline=PIPELINE)
    filters = (
        f"[filter:{name}]\n{OPTIONS.get(name, f'use = egg:swift#{name}')}\n"
        for name in PIPELINE.split()
    )
    (home / "proxy-server.conf").write_text(text + "".join(filters))


def _await(server: Swift, home: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    client, pause = server.client(), threading.Event()
    for _ in range(300):
        try:
            client.create_bucket(Bucket=server.bucket)
        except (BotoCoreError, ClientError):
            if any(process.poll() is not None for process in processes):
                break
            pause.wait(0.2)
        else:
            return
    logs = "".join(path.read_text(errors="replace")[-1000:] for path in home.glob("*.log"))
    raise TimeoutError(f"Swift did not come up: {logs}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(15)
