"""From bucket to bucket over a network with high latency: one large object, or many small ones
over TLS. Two proxies delay the bytes; with the large object they also limit the rate of each
connection.

Decided here: the network, and the programs that are compared. Beside relay and rclone runs curl,
which reads and writes the same number of bytes over the same number of connections, without moving
an object: its rate is the limit of the machine, proxies and SeaweedFS included."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.bench.measures import BenchError
from loadtests.bench.processes import clean_environment
from loadtests.bench.programs import rclone_mover, relay_mover
from loadtests.bench.runs import MIB, Mover, Program, Section
from loadtests.bench.seaweed import Seaweed
from loadtests.bench.seaweed_buckets import buckets, fill_bucket, remotes
from loadtests.bench.tls_front import tls_front
from simulators.spawn import spawn

LATENCY, RATE, STREAMS = "20ms", "50MB/s", 8
"""Latency of each direction, rate of a connection, number of concurrent parts."""
LINE = 50.0
"""The same rate in MB/s."""
PART = 64 * MIB
"""Size of a part in bytes: high latency needs large parts."""
BEST = (
    "--multi-thread-streams",
    "8",
    "--multi-thread-cutoff",
    "10M",
    "--multi-thread-chunk-size",
    "16M",
)
BEST += (
    "--s3-chunk-size",
    "16M",
    "--s3-upload-concurrency",
    "8",
    "--s3-no-head",
    "--s3-no-check-bucket",
)
SOURCE = "a:bench-from/large"
SMALL = 64 * 1024
SLOTS = 64
"""Objects that move at a time in the rows where that number is given."""
BEST_SMALL = (
    "--transfers",
    f"{SLOTS}",
    "--checkers",
    f"{SLOTS}",
    "--no-check-dest",
    "--s3-no-head",
    "--s3-no-check-bucket",
    "--buffer-size",
    "0",
)


@dataclass(frozen=True)
class _Line:
    """The environment of a move: relay's variables, rclone's file, the URLs of both ends, and a
    function that checks the arrived object and removes it."""

    environment: dict[str, str]
    conf: Path
    ends: tuple[str, str]
    check: Callable[[str], None]


def s3_wan(stack: ExitStack, home: Path, rclone: str, size: int) -> Section:
    """One large object with `STREAMS` parts at once, beside rclone."""
    line = _line(stack, home, size)
    reported = {"RELAY_PARTS_IN_FLIGHT": str(STREAMS)}

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda target: ["copyto", SOURCE, f"b:bench-to/{target}", *flags]

    movers: list[Mover] = [
        relay_mover(home, line.environment | reported, _migrate),
        rclone_mover(
            home, rclone, line.conf, "rclone, 8 streams", words(("--multi-thread-streams", "8"))
        ),
        rclone_mover(home, rclone, line.conf, "rclone, best flags", words(BEST)),
    ]
    title = (
        f"One object of {size // MIB} MiB, S3 to S3, {LATENCY} each way, {RATE} a connection,"
        f" {STREAMS} at once"
    )
    return Section("s3-wan", title, 1, size, movers, line.check)


def s3_line(stack: ExitStack, home: Path, curl: str, size: int) -> Section:
    """The same over more and more connections, beside the limits of the lines and of the
    machine."""
    if size % PART:
        raise BenchError(f"the object of s3-line is some parts of {PART // MIB} MiB")
    line = _line(stack, home, size)
    movers: list[Mover] = []
    lines: dict[str, float] = {}
    for count in (1, 2, 4, STREAMS):
        reported = {"RELAY_PARTS_IN_FLIGHT": str(count), "RELAY_PART_BYTES": str(PART)}
        movers.append(
            relay_mover(
                home, line.environment | reported, _migrate, f"relay, {_connections(count)}"
            )
        )
        lines[movers[-1].name] = count * LINE
    for count in (4, STREAMS):
        movers.append(_curl(home, curl, line.ends, size, count))
        lines[movers[-1].name] = count * LINE
    title = (
        f"One object of {size // MIB} MiB in parts of {PART // MIB} MiB, {LATENCY} each way, {RATE}"
        " a connection"
    )
    return Section("s3-line", title, 1, size, movers, line.check, lines=lines)


def s3_small_wan(stack: ExitStack, home: Path, rclone: str, nginx: str, count: int) -> Section:
    """Small objects by the thousand over TLS, where each request waits for the line."""
    server = stack.enter_context(buckets(home))
    front, ca = stack.enter_context(tls_front(nginx, home, server.endpoint.partition("//")[2]))
    target = front.partition("//")[2]
    proxies = {
        name: stack.enter_context(spawn("proxy", "0", target, "--latency", LATENCY))
        for name in ("a", "b")
    }
    urls = {name: proxy.url().replace("tcp://", "https://") for name, proxy in proxies.items()}
    environment, conf = remotes(home, urls)
    environment |= {"RELAY_CA_BUNDLE": str(ca)}
    ends = ("a:bench-from/small", "b:bench-to/{}")

    def relay(*flags: str) -> Callable[[str], Sequence[str]]:
        words = ("migrate", "-r", "-q", "--no-server-copy", *flags, *ends)
        return lambda target: [word.format(target) for word in words]

    def peer(*flags: str) -> Callable[[str], Sequence[str]]:
        words = ("copy", *ends, *flags, "--ca-cert", str(ca))
        return lambda target: [word.format(target) for word in words]

    movers: list[Mover] = [
        relay_mover(home, environment, relay()),
        relay_mover(home, environment, relay("--slots", f"{SLOTS}"), f"relay, `--slots {SLOTS}`"),
        rclone_mover(home, rclone, conf, "rclone", peer()),
        rclone_mover(
            home, rclone, conf, f"rclone, best flags, {SLOTS} transfers", peer(*BEST_SMALL)
        ),
    ]
    title = f"{count:,} objects of 64 KiB, S3 to S3 over TLS, {LATENCY} each way"
    check = fill_bucket(server, count, SMALL)
    return Section("s3-small-wan", title, count, count * SMALL, movers, check)


def _migrate(target: str) -> Sequence[str]:
    return ["migrate", "-q", SOURCE, f"b:bench-to/{target}"]


def _connections(count: int) -> str:
    return f"{count} connection{'s' * (count > 1)}"


def _line(stack: ExitStack, home: Path, size: int) -> _Line:
    """Run the server behind two proxies, with the object."""
    server = stack.enter_context(buckets(home))
    port = server.endpoint.rpartition(":")[2]
    ends = {
        name: (
            stack.enter_context(
                spawn("proxy", "0", f"127.0.0.1:{port}", "--latency", LATENCY, "--rate", RATE)
            ).url()
        )
        for name in ("a", "b")
    }
    urls = {name: url.replace("tcp://", "http://") for name, url in ends.items()}
    environment, conf = remotes(home, urls)
    client = server.client()
    client.put_object(
        Bucket="bench-from", Key="large", Body=random.Random(1).randbytes(MIB) * (size // MIB)
    )

    def check(target: str) -> None:
        rows = client.list_objects_v2(Bucket="bench-to", Prefix=target).get("Contents", ())
        found = sum(row["Size"] for row in rows)
        for row in rows:
            client.delete_object(Bucket="bench-to", Key=row["Key"])
        server.reclaim()
        if found != size:
            raise BenchError(f"{target} has {found} bytes")

    return _Line(environment, conf, (urls["a"], urls["b"]), check)


def _curl(home: Path, program: str, ends: tuple[str, str], size: int, count: int) -> Mover:
    """Return curl, which reads the object over `count` connections, and at the same time writes as
    many bytes over `count` others."""
    clients = [Seaweed(url, "").client() for url in ends]
    (home / "part").write_bytes(bytes(PART))
    read, write = home / "read.curl", home / "write.curl"
    many = f"{program} -q -sS --fail -Z --parallel-immediate --parallel-max {count} -K"

    def command(target: str) -> Sequence[str]:
        firsts = range(0, size, PART)
        read.write_text(
            "next\n".join(
                _read_url(clients[0], first, min(first + PART, size) - 1) for first in firsts
            )
        )
        write.write_text(
            "next\n".join(
                _write_url(clients[1], f"{target}/{first}", home / "part") for first in firsts
            )
        )
        return ["sh", "-c", f"{many} {read} & other=$!; {many} {write} && wait $other"]

    return Program(
        f"curl from and to nowhere, {_connections(count)}", command, clean_environment(home)
    )


def _read_url(client: Any, first: int, last: int) -> str:
    url = client.generate_presigned_url("get_object", {"Bucket": "bench-from", "Key": "large"})
    return f'url = "{url}"\nrange = "{first}-{last}"\noutput = "/dev/null"\n'


def _write_url(client: Any, key: str, part: Path) -> str:
    # An empty `Expect`: curl would wait for 100 Continue, up to a second for each part.
    url = client.generate_presigned_url("put_object", {"Bucket": "bench-to", "Key": key})
    return f'url = "{url}"\nupload-file = "{part}"\nheader = "Expect:"\noutput = "/dev/null"\n'
