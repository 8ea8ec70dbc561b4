"""`make demo`: the main job for real. Two simulated clouds, the relay under gunicorn, two dozen
objects.

Everything is a process of its own on loopback, and is stopped at the end. Exit code 0 means that
every object arrived and was verified; the demo asks the destination itself, and does not only trust
the receipts. With --page the objects are one migration of a list, and at the end its page stays until
Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from loadtests.bench.ports import free_port
from simulators.quantities import parse_bytes
from simulators.spawn import Spawned, spawn

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
WAIT_SECONDS = 600.0
SESSION = requests.Session()
SESSION.trust_env = False  # no proxy stands between the processes of one machine


@dataclass(frozen=True)
class Job:
    """One object to move."""

    name: str
    size: int


@dataclass(frozen=True)
class Result:
    """The outcome of one object: the migration, or the problem."""

    job: Job
    answer: dict[str, Any]

    @property
    def is_verified(self) -> bool:
        """Return whether relay reports it as verified."""
        return self.answer.get("state") == "verified"


def main() -> int:
    """Run the demo; return the exit code."""
    options = _options()
    console = Console(stderr=False)
    jobs = list(_jobs(options.objects, options.min, options.max, options.seed))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with ExitStack() as stack:
            source = stack.enter_context(spawn("src", "--seed", str(options.seed)))
            destination = stack.enter_context(spawn("dst"))
            relay = stack.enter_context(_relay(options.workers))
            _introduce(console, source, destination, relay, jobs, options)
            started = time.monotonic()
            if options.page:
                shelf = stack.enter_context(_list_of(jobs, source))
                results = _migrate_list(console, jobs, shelf, destination, relay)
            else:
                results = _migrate_all(console, jobs, source, destination, relay, options)
            seconds = time.monotonic() - started
            received = {entry["path"]: entry for entry in destination.get_json("/_received")}
            code = conclude(console, results, received, seconds)
            if options.page:
                _stay(console, relay)
    except KeyboardInterrupt:
        console.print("interrupted; everything that the demo started is stopped")
        return 130
    except (OSError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.demo", description=__doc__)
    parser.add_argument("--objects", type=int, default=24, help="how many (default 24)")
    parser.add_argument("--min", type=parse_bytes, default=parse_bytes("1MB"), metavar="SIZE")
    parser.add_argument("--max", type=parse_bytes, default=parse_bytes("200MB"), metavar="SIZE")
    parser.add_argument("--at-a-time", type=int, default=10, help="requests at a time (default 10)")
    parser.add_argument("--workers", type=int, default=2, help="gunicorn workers (default 2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="no live bars")
    parser.add_argument("--page", action="store_true", help="show the migration in a browser")
    return parser.parse_args()


def _jobs(count: int, least: int, most: int, seed: int) -> Iterator[Job]:
    chance = random.Random(seed)
    for number in range(1, count + 1):
        yield Job(f"photo-{number:03}.raw", chance.randint(least, max(least, most)))


# -- the processes


@contextmanager
def _relay(workers: int) -> Iterator[str]:
    """Run relay as in a deployment, and stop it at the end. Raises RuntimeError if it does not
    start."""
    base = f"http://127.0.0.1:{free_port()}"
    home = tempfile.TemporaryDirectory(prefix="relay-demo-")  # the user's own ledger stays unused
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
    }
    environment |= {
        "RELAY_LEDGER": f"sqlite:///{home.name}/ledger.db",
        "RELAY_CONFIG": os.devnull,
        "RELAY_BIND": base.removeprefix("http://"),
        "RELAY_WORKERS": str(workers),
        "RELAY_EGRESS_ALLOW": "127.0.0.1",  # closed by default: these clouds are on this machine
    }
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        str(ROOT / "deploy/gunicorn.conf.py"),
        "relay.wsgi:app",
    ]
    with home, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            _await_ready(base, process, log)
            yield base
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ready(base: str, process: subprocess.Popen[bytes], log: Any) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if SESSION.get(f"{base}/readyz", timeout=2).status_code == 200:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.05)
    log.seek(0)
    raise RuntimeError(f"the relay did not start:\n{log.read().decode(errors='replace')}")


# -- the migrations


def _introduce(
    console: Console,
    source: Spawned,
    destination: Spawned,
    relay: str,
    jobs: list[Job],
    options: argparse.Namespace,
) -> None:
    total = sum(job.size for job in jobs)
    console.print(f"[bold]source[/]       {source.base}   a cloud that makes its objects up")
    console.print(
        f"[bold]destination[/]  {destination.base}   a cloud that computes digests of uploads"
    )
    console.print(f"[bold]relay[/]        {relay}   gunicorn, {options.workers} gevent workers")
    how = "as one migration" if options.page else f"{options.at_a_time} at a time"
    console.print(
        f"\nmoving {len(jobs)} objects, {total / 1e6:,.0f} MB, {how}, by POST /migrate\n",
        soft_wrap=True,
    )


def _migrate_all(
    console: Console,
    jobs: list[Job],
    source: Spawned,
    destination: Spawned,
    relay: str,
    options: argparse.Namespace,
) -> list[Result]:
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=36),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[phase]}"),
    )
    quiet = options.plain or not console.is_terminal
    with (
        Progress(*columns, console=console, disable=quiet) as bars,
        ThreadPoolExecutor(options.at_a_time) as pool,
    ):
        overall = bars.add_task("all", total=sum(job.size for job in jobs), phase="")
        lock = threading.Lock()

        def run(job: Job) -> Result:
            bar = bars.add_task(job.name, total=job.size, phase="waiting")
            answer = _migrate(job, source, destination, relay, bars, bar)
            with lock:
                bars.remove_task(bar)
                bars.advance(overall, job.size)
                if quiet:
                    console.print(
                        f"{job.name}  {job.size / 1e6:7.1f} MB "
                        f" {answer.get('state', answer.get('title'))}"
                    )
            return Result(job, answer)

        return list(pool.map(run, jobs))


def _migrate(
    job: Job, source: Spawned, destination: Spawned, relay: str, bars: Progress, bar: Any
) -> dict[str, Any]:
    """Send one request, follow its progress, and return its last line."""
    body = {
        "source": source.url(f"/objects/{job.name}?size={job.size}"),
        "destination": destination.url(f"/bucket/{job.name}"),
    }
    headers = {"Accept": "application/x-ndjson"}
    line: dict[str, Any] = {}
    try:
        with SESSION.post(
            f"{relay}/migrate", json=body, headers=headers, stream=True, timeout=120
        ) as response:
            for text in response.iter_lines():
                line = json.loads(text)
                if line.get("event") == "progress":
                    bars.update(bar, completed=line["bytes"], phase=line["phase"])
    except (requests.RequestException, json.JSONDecodeError) as error:
        return {"title": f"no answer from the relay: {type(error).__name__}"}
    return line


# -- the same objects as one migration, for the page


@contextmanager
def _list_of(jobs: list[Job], source: Spawned) -> Iterator[str]:
    """Serve a list of the source's objects; yield its URL."""
    rows = (
        f"{source.url(f'/objects/{job.name}?size={job.size}')},{job.name},{job.size}\n"
        for job in jobs
    )
    text = f"url,name,size\n{''.join(rows)}".encode()

    class Shelf(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/csv")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/photos.csv"
        finally:
            server.shutdown()
            serving.join()


def _migrate_list(
    console: Console, jobs: list[Job], shelf: str, destination: Spawned, relay: str
) -> list[Result]:
    """Move a list of objects by one migration, and return the outcome of each."""
    body = {
        "source": f"list+{shelf}",
        "destination": destination.url("/bucket/"),
        "recursive": True,
    }
    answer = SESSION.post(
        f"{relay}/migrate", json=body, headers={"Prefer": "respond-async"}, timeout=30
    ).json()
    if "id" not in answer:
        return [Result(job, answer) for job in jobs]
    page = f"{relay}/ui/migrations/{answer['number']}"
    console.print(f"watch it: [bold]{page}[/]\n", soft_wrap=True)
    one = f"{relay}/migrations/{answer['id']}"
    until = time.monotonic() + WAIT_SECONDS
    while answer["ended"] is None and time.monotonic() < until:
        time.sleep(0.2)
        answer = SESSION.get(one, timeout=30).json()
    found = SESSION.get(f"{one}/transfers?limit=1000", timeout=30).json()["transfers"]
    by_name = {row["name"]: {**row, **(row.get("error") or {})} for row in found}
    missing = {"title": "relay's report does not name it"}
    return [Result(job, by_name.get(job.name, missing)) for job in jobs]


def _stay(console: Console, relay: str) -> None:
    """Name the page's address, and keep the server until Ctrl-C."""
    console.print(
        f"\nThe page of this migration: [bold]{relay}/ui/migrations/1[/]\n"
        "It stays until you press Ctrl-C.",
        highlight=False,
        soft_wrap=True,
    )
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


# -- the end


def conclude(
    console: Console, results: list[Result], received: dict[str, Any], seconds: float
) -> int:
    """Print the receipts beside the destination's own record, and return the exit code: 0 if all
    agree."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("object", "MB", "MB/s", "state", "level", "crc64nvme", "destination"):
        table.add_column(
            heading, justify="right" if heading.startswith("MB") else "left", overflow="fold"
        )
    good = 0
    for result in results:
        receipt = result.answer.get("receipt") or {}
        ours = receipt.get("digests", {}).get("crc64nvme", "")
        entry = received.get(f"/bucket/{result.job.name}", {})
        same = (
            bool(ours)
            and entry.get("digests", {}).get("crc64nvme") == ours
            and entry.get("size") == result.job.size
        )
        good += result.is_verified and same
        moved, took = result.answer.get("bytes", 0), result.answer.get("seconds") or 1
        table.add_row(
            result.job.name,
            f"{moved / 1e6:.1f}",
            f"{moved / 1e6 / took:.0f}",
            result.answer.get("state")
            or f"failed: {result.answer.get('detail', result.answer.get('title'))}",
            receipt.get("level", ""),
            ours,
            "the same" if same else "differs",
        )
    console.print(table)
    total = sum(result.answer.get("bytes", 0) for result in results)
    console.print(
        f"\n{good} of {len(results)} objects verified, and the same by the destination's own"
        f" account: {total / 1e6:,.0f} MB in {seconds:.1f} s, [bold]{total / 1e6 / seconds:,.0f}"
        " MB/s[/], nothing on disk.",
        soft_wrap=True,
    )
    if good < len(results):
        console.print("[red]some objects were not verified[/]")
        return 1
    console.print(_NEXT, highlight=False, soft_wrap=True)
    return 0


_NEXT = """
Try next:
  .venv/bin/relay migrate https://…/file https://…/file    one object, here in the terminal
  .venv/bin/relay serve                                    the server; then POST /migrate (see README.md)
  make bench                                               relay beside rclone and curl on this machine"""


if __name__ == "__main__":
    sys.exit(main())
