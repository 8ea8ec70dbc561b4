"""`make load`: two clouds, two proxies, relay and locust for a bounded time, and a verdict.

Everything is on loopback and is stopped at the end. The exit code is the verdict's: 0 within
thresholds.toml, 1 if not, 2 if it can't be run."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from loadtests.bench.measures import BenchError
from loadtests.bench.processes import raise_open_files, stop
from loadtests.bench.server import Relay
from loadtests.bench.tools import ROOT
from loadtests.shapes import SHAPES
from simulators.spawn import NotStarted, spawn

SCENARIOS = ("SmallFiles", "BigFiles", "Mixed", "SlowClouds", "Saboteur")
MEMORY = Path("/dev/shm")
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", default=list(SCENARIOS), help=f"of {', '.join(SCENARIOS)} (all)"
    )
    parser.add_argument("--users", type=int, default=20, help="at a time (20)")
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), help="how the users come; without it, all at once"
    )
    parser.add_argument("--workers", type=int, default=2, help="of gunicorn (2)")
    parser.add_argument("--processes", type=int, help="of locust")
    parser.add_argument("--latency", default="40ms", help="each way, of SlowClouds' proxies (40ms)")
    parser.add_argument("--rate", default="4MB/s", help="of a connection through them (4MB/s)")
    parser.add_argument(
        "--report", type=Path, default=ROOT / "out" / "load.html", help="where locust's report goes"
    )
    parser.add_argument(
        "--page", action="store_true", help="locust's page instead of a headless run"
    )
    args = parser.parse_args()
    wrong = [name for name in args.scenarios if name not in SCENARIOS]
    if wrong:
        parser.error(f"unknown scenario {wrong[0]}; the scenarios are {', '.join(SCENARIOS)}")
    return args


def run(args: argparse.Namespace, folder: Path) -> int:
    """Start all, let locust run, and return its exit code."""
    with ExitStack() as stack:
        source = stack.enter_context(spawn("src", "--seed", "1"))
        destination = stack.enter_context(spawn("dst"))
        slow = ["--latency", args.latency, "--rate", args.rate]
        slow_source = stack.enter_context(
            spawn("proxy", "0", f"{source.host}:{source.port}", *slow)
        )
        slow_destination = stack.enter_context(
            spawn("proxy", "0", f"{destination.host}:{destination.port}", *slow)
        )
        # Saboteur's transfers can't succeed; by default relay would retry some for a minute each.
        settings = {"RELAY_WORKERS": str(args.workers), "RELAY_RETRY_BUDGET": "2"}
        relay = stack.enter_context(closing(Relay(folder, None, 60.0, settings)))
        environment = os.environ | {
            "LOAD_SOURCE": source.base,
            "LOAD_DESTINATION": destination.base,
            "LOAD_SLOW_SOURCE": slow_source.base.replace("tcp://", "http://"),
            "LOAD_SLOW_DESTINATION": slow_destination.base.replace("tcp://", "http://"),
            "LOAD_RELAY_PIDS": ",".join(map(str, relay.workers)),
            "LOAD_USERS": str(args.users),
            "LOAD_SECONDS": str(args.seconds),
            "LOAD_SHAPE": args.shape or "",
        }
        process = subprocess.Popen(command(args, relay.port), cwd=ROOT, env=environment)
        try:
            return process.wait(None if args.page else args.seconds + 120)
        except subprocess.TimeoutExpired:
            raise BenchError(f"locust is not done {args.seconds + 120} s after it began") from None
        finally:
            stop(process)


def command(args: argparse.Namespace, port: int) -> list[str]:
    """Return locust's command line."""
    words = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(LOCUSTFILE),
        "--host",
        f"http://127.0.0.1:{port}",
    ]
    if args.page:
        return [*words, "--class-picker", "--web-host", "127.0.0.1"]
    words += ["--headless", "--html", str(args.report), "--only-summary", "--stop-timeout", "30"]
    if not args.shape:
        words += [
            "--users",
            str(args.users),
            "--spawn-rate",
            str(args.users),
            "--run-time",
            f"{args.seconds}s",
        ]
    if args.processes:
        words += ["--processes", str(args.processes)]
    return [*words, *args.scenarios, "Watcher"]


def main() -> int:
    """Return the exit code."""
    args = arguments()
    # SIGTERM unwinds as Ctrl-C does, which stops and removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        raise_open_files(8192)
        with tempfile.TemporaryDirectory(
            prefix="relay-load-", dir=MEMORY if MEMORY.is_dir() else None
        ) as folder:
            return run(args, Path(folder))
    except (BenchError, NotStarted, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("load: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
