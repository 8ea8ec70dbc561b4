"""One large object from S3 to S3, killed at its half and started again: how many bytes does the
second run send?

Theory of operation. Source and destination are one SeaweedFS. A proxy before the destination counts
the bytes, and limits the rate of each connection. When half of the object has passed, the mover
gets SIGKILL, and the same command runs again. A mover that resumes sends the other half and the
bytes that were in flight. A mover that does not resume restarts, and leaves an unfinished upload
that costs money.

Decided here: the measurement, beside rclone in the same harness. Never here: relay's code.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.bench.measures import BenchError
from loadtests.bench.processes import clean_environment
from loadtests.bench.seaweed import KEY, REGION, SECRET, Seaweed, seaweedfs
from loadtests.bench.tools import find_tools
from loadtests.destinations import MIB
from simulators.proxy import Proxy

FLIGHT = 4
"""The number of parts of one object that move concurrently."""
HEADS = 0.02
"""Tolerance: the share that heads, and a kill that is not exactly at the half, may add."""
SECONDS = 600.0
LOOK_SECONDS = 0.01
QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Mover:
    """A contestant: its command, which runs twice, and its environment."""

    name: str
    target: str
    command: Sequence[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Halved:
    """The result of one mover: bytes that passed before the kill and in the second run, and the
    state of the destination then."""

    name: str
    size: int
    first: int
    second: int
    whole: bool
    left: int

    @property
    def share(self) -> float:
        """The share of the object that the second run sent."""
        return self.second / self.size

    def __str__(self) -> str:
        return (
            f"| {self.name} | {self.first / MIB:,.0f} MiB | {self.second / MIB:,.0f} MiB |"
            f" {self.share:.0%} | {'yes' if self.whole else 'NO'} | {self.left} |"
        )


def most_share(size: int, part: int) -> float:
    """Return the share of the object that relay's second run may send: half, and the parts in
    flight."""
    return 0.5 + FLIGHT * part / size + HEADS


def compare(home: Path, size: int, part: int, rate: float) -> bool:
    """Print the table; return whether relay's object is whole, and cost no more than it may.

    `size` and `part` in bytes, `rate` in bytes a second.

    Raises BenchError for a program that is missing, and for a mover that fails.
    """
    rclone = find_tools().rclone
    with ExitStack() as stack:
        server = stack.enter_context(seaweedfs(home, "half"))
        proxy = stack.enter_context(Proxy(server.endpoint.removeprefix("http://"), rate=rate))
        digest = _plant_object(server, size)
        print(
            f"**One object of {size // MIB:,} MiB, S3 to S3, SIGKILL at its half, the same command"
            " again**\n"
        )
        print(
            "| | sent before the kill | sent by the second run | of the object | whole | unfinished"
            " uploads left |"
        )
        print("|---|---:|---:|---:|---|---:|", flush=True)
        ends = {"near": server.endpoint, "far": proxy.url()}
        movers = (_relay(home, ends, part), _rclone(home, ends, rclone))
        found = []
        for mover in movers:
            found.append(_kill_at_half(mover, server, proxy, size, digest))
            print(found[-1], flush=True)
    relay = found[0]
    return relay.whole and not relay.left and relay.share <= most_share(size, part)


def _plant_object(server: Seaweed, size: int) -> str:
    data = random.Random(4).randbytes(MIB) * (size // MIB)
    server.client().put_object(Bucket=server.bucket, Key="from/object", Body=data)
    return hashlib.sha256(data).hexdigest()


def _relay(home: Path, ends: dict[str, str], part: int) -> Mover:
    (home / "relay.toml").write_text(
        "".join(
            f'[remotes.{name}]\ntype = "s3"\nendpoint = "{url}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
            for name, url in ends.items()
        )
    )
    environment = clean_environment(home) | {
        "RELAY_CONFIG": str(home / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}",
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
        "RELAY_PART_BYTES": str(part),
        "RELAY_PARTS_IN_FLIGHT": str(FLIGHT),
    }
    words = ["migrate", "-r", "-q", "--no-server-copy", "near:half/from", "far:half/relay"]
    return Mover("**relay**", "relay/object", [sys.executable, "-m", "relay", *words], environment)


def _rclone(home: Path, ends: dict[str, str], rclone: str) -> Mover:
    conf = home / "rclone.conf"
    conf.write_text(
        "".join(
            f"[{name}]\ntype = s3\nprovider = Other\nendpoint = {url}\naccess_key_id = {KEY}\n"
            f"secret_access_key = {SECRET}\nregion = {REGION}\nforce_path_style = true\n\n"
            for name, url in ends.items()
        )
    )
    words = ["copy", "near:half/from", "far:half/rclone", "--config", str(conf)]
    return Mover("rclone", "rclone/object", [rclone, *words], clean_environment(home))


def _kill_at_half(mover: Mover, server: Seaweed, proxy: Proxy, size: int, digest: str) -> Halved:
    """Kill a mover at its half, run it again, check the destination, and delete the object."""
    before = proxy.bytes_carried("up")
    process = _start_mover(mover)
    _await_half(mover, process, lambda: proxy.bytes_carried("up") - before, size)
    process.kill()
    process.wait()
    killed = _bytes_when_quiet(proxy)
    process = _start_mover(mover)
    try:
        if process.wait(SECONDS):
            raise BenchError(
                f"{mover.name} ended with {process.returncode} when it was begun again"
            )
    finally:
        process.kill()
        process.wait()
    second = _bytes_when_quiet(proxy) - killed
    client = server.client()
    whole = _digest(client, server.bucket, mover.target) == digest
    left = client.list_multipart_uploads(Bucket=server.bucket, Prefix=mover.target).get(
        "Uploads", ()
    )
    for upload in left:
        client.abort_multipart_upload(
            Bucket=server.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )
    client.delete_object(Bucket=server.bucket, Key=mover.target)
    server.reclaim()
    return Halved(mover.name, size, killed - before, second, whole, len(left))


def _start_mover(mover: Mover) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        mover.command,
        env=mover.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None,
    )


def _await_half(
    mover: Mover, process: subprocess.Popen[bytes], sent: Callable[[], int], size: int
) -> None:
    until = time.monotonic() + SECONDS
    while sent() < size // 2:
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise BenchError(f"{mover.name} did not get to the half of the object")
        time.sleep(LOOK_SECONDS)


def _bytes_when_quiet(proxy: Proxy) -> int:
    """Return the bytes that have passed, once the proxy is quiet: bytes that a dead process sent may
    still be in flight."""
    last, since = proxy.bytes_carried("up"), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(LOOK_SECONDS)
        if (now := proxy.bytes_carried("up")) != last:
            last, since = now, time.monotonic()
    return last


def _digest(client: Any, bucket: str, key: str) -> str:
    digester = hashlib.sha256()
    for piece in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(MIB):
        digester.update(piece)
    return digester.hexdigest()
