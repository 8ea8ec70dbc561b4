"""`make siege`: relay at full speed while slow clients hold connections, and while a flood of bad
requests comes. All of it on loopback, for a bounded time.

Theory of operation. Two trees of objects are moved again and again, at the rate of a line. Their rate
without an attack, before and after it, is compared with that during the attack. Meanwhile /healthz is asked ten times a
second, and the worker's memory, its open files and the lines of its log are counted. Everything
shares the cores of this machine, the attackers too: what they take of them, relay has not.

Decided here: the attacks' size and the limits. Never here: the attacks (`bench/attackers.py`)."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.attackers import VALID
from loadtests.bench.measures import MIB, BenchError, percentile
from loadtests.bench.processes import clean_environment, cpu_seconds, memory, raise_open_files, stop
from loadtests.bench.server import Relay
from loadtests.bench.tools import ROOT

LEAST_RATE = 0.95
MOST_HEALTHZ = 0.1
MOST_GROWTH = 64 * MIB
FILES_BACK, BACK_SECONDS = 10, 60
MOST_LINES = 20
ATTACKS = {"slow": 500, "flood": 2000}
"""The attacks: connections of each kind, and requests a second."""
OBJECT_BYTES = 1 << 20
LINES = 2
"""Number of trees at a time, so that one moves while the other one ends and begins again."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One figure beside its limit."""

    attack: str
    what: str
    figure: str
    limit: str
    met: bool


@dataclass(eq=False)
class Load:
    """Trees that are moved again and again, and how many objects have arrived: LINES at a time, of
    `objects` each, together with `bytes_per_second`."""

    relay: Relay
    folder: Path
    objects: int
    bytes_per_second: int
    arrived: int = 0
    number: str = ""
    """The number of a migration that never ends, for streams."""
    _over: threading.Event = field(default_factory=threading.Event)

    def prepare(self) -> None:
        """Make the tree, and the migration that never ends."""
        source = self.folder / "from"
        source.mkdir()
        block = os.urandom(OBJECT_BYTES)
        for number in range(self.objects):
            (source / f"{number:05}").write_bytes(number.to_bytes(4, "big") + block[4:])
        slow = self.folder / "slow"
        slow.mkdir()
        with (slow / "one").open("wb") as file:
            file.truncate(1 << 30)
        answer = self._post(slow, self.folder / "slowly", limits={"bytes_per_second": 10_000})
        self.number = str(json.loads(ask(self.relay, "GET", f"/migrations/{answer}"))["number"])

    def run(self, line: int) -> None:
        """Move trees until stopped."""
        limits = {"bytes_per_second": self.bytes_per_second // LINES}
        while not self._over.is_set():
            source, target = self.folder / "from", self.folder / f"to{line}"
            id = self._post(source, target, if_exists="overwrite", limits=limits)
            done = 0
            while done < self.objects and not self._over.is_set():
                time.sleep(0.25)
                tally = json.loads(ask(self.relay, "GET", f"/migrations/{id}"))["objects"]
                now = sum(tally.get(state, 0) for state in ("verified", "unverified", "skipped"))
                self.arrived += now - done
                done = now

    def stop(self) -> None:
        """End `run` soon."""
        self._over.set()

    def rate(self, seconds: float) -> float:
        """Return the objects a second of the next `seconds`."""
        began, before = time.monotonic(), self.arrived
        time.sleep(seconds)
        return (self.arrived - before) / (time.monotonic() - began)

    def _post(self, source: Path, target: Path, **more: object) -> str:
        target.mkdir(exist_ok=True)
        order = {"source": f"file://{source}/", "destination": f"file://{target}/", **more}
        return str(
            json.loads(ask(self.relay, "POST", "/migrate", order | {"recursive": True}))["id"]
        )


def ask(relay: Relay, method: str, path: str, body: object = None) -> bytes:
    """Make a request with the token, and return its answer. Raises BenchError for a failure."""
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
    fields = {"Authorization": f"Bearer {VALID}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), fields)
        found = connection.getresponse()
        text = found.read()
        if found.status >= 300:
            raise BenchError(f"{method} {path} answered {found.status}: {text[:200]!r}")
        return text
    finally:
        connection.close()


@contextmanager
def healthz(port: int) -> Iterator[list[float]]:
    """Ask for /healthz ten times a second, each time on a new connection; give the seconds of the
    answers, infinity for none."""
    over, found = threading.Event(), list[float]()

    def run() -> None:
        while not over.wait(0.1):
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                found.append(time.monotonic() - began)
            except (OSError, http.client.HTTPException):
                found.append(float("inf"))
            finally:
                connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join(20)


def open_files(pids: Sequence[int]) -> int:
    """Return the number of open files of some processes."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def besiege(relay: Relay, load: Load, kind: str, seconds: float, quiet: float) -> Iterator[Finding]:
    """Run one attack; yield its findings."""
    load.rate(3)
    before = load.rate(quiet)
    files, resident = open_files(relay.workers), _resident(relay)
    lines, log = _lines(relay), 0
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtests.bench.attackers", kind, str(relay.port)),
            *(str(seconds), str(ATTACKS[kind]), load.number),
        ],
        cwd=ROOT,
        env=clean_environment(load.folder),
        stdout=subprocess.PIPE,
    )
    try:
        with healthz(relay.port) as answers:
            spent, taken = cpu_seconds([process.pid]), cpu_seconds(relay.workers)
            during = load.rate(seconds - 1)
            taken = (cpu_seconds(relay.workers) - taken) / seconds
            spent = (cpu_seconds([process.pid]) - spent) / seconds
            grown, log = _resident(relay) - resident, _lines(relay) - lines
        done = json.loads(process.communicate(timeout=60)[0])
    finally:
        stop(process)
    back = _await_files(relay, files)
    after = load.rate(quiet)
    share = during / ((before + after) / 2)
    p99 = percentile(answers, 0.99)
    print(f"{kind}: {json.dumps(done)}", file=sys.stderr, flush=True)
    rates = f"{before:.0f}, {during:.0f}, {after:.0f} a second"
    cores = f"({rates}; attackers {spent:.2f} and relay {taken:.2f} of a core)"
    yield Finding(
        attack=kind,
        what="objects a second, of those without an attack",
        figure=f"{share:.2f} {cores}",
        limit=f"≥ {LEAST_RATE}",
        met=share >= LEAST_RATE,
    )
    yield Finding(
        attack=kind,
        what="/healthz p99",
        figure=f"{p99 * 1e3:.0f} ms of {len(answers)}",
        limit="< 100 ms",
        met=p99 < MOST_HEALTHZ,
    )
    yield Finding(
        attack=kind,
        what="resident memory grows by",
        figure=f"{grown / MIB:.0f} MiB",
        limit="< 64 MiB",
        met=grown < MOST_GROWTH,
    )
    yield Finding(
        attack=kind,
        what="open files a minute later, beyond those before",
        figure=f"{back:+}",
        limit="± 10",
        met=abs(back) <= FILES_BACK,
    )
    yield Finding(
        attack=kind,
        what="lines of the log a second",
        figure=f"{log / seconds:.1f}",
        limit=f"≤ {MOST_LINES}",
        met=log / seconds <= MOST_LINES,
    )


def _resident(relay: Relay) -> int:
    return sum(memory(pid, "VmRSS") for pid in relay.workers)


def _lines(relay: Relay) -> int:
    return relay.log.read_bytes().count(b"\n")


def _await_files(relay: Relay, before: int) -> int:
    """Return how many more files are open than before, once they are few, or after a minute."""
    until = time.monotonic() + BACK_SECONDS
    while True:
        more = open_files(relay.workers) - before
        if abs(more) <= FILES_BACK or time.monotonic() > until:
            return more
        time.sleep(1)


def table(found: Sequence[Finding]) -> str:
    """Return the findings as a table in Markdown."""
    rows = ["| attack | what | figure | limit | met |", "|---|---|---|---|:-:|"]
    rows += [
        f"| {one.attack} | {one.what} | {one.figure} | {one.limit} |"
        f" {'yes' if one.met else '**no**'} |"
        for one in found
    ]
    return "\n".join(rows) + "\n"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.siege", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", default=",".join(ATTACKS), help=f"of {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each attack (120)")
    parser.add_argument("--quiet", type=float, default=20.0, help="before and after it (20)")
    parser.add_argument("--objects", type=int, default=500, help="of a tree, 1 MiB each (500)")
    parser.add_argument("--line", type=int, default=100_000_000, help="bytes a second (100 MB/s)")
    parser.add_argument("--workers", type=int, default=1, help="of relay (1)")
    return parser.parse_args()


def main() -> int:
    """Return 0 if every limit is kept, 1 if not, 2 if it can't be run, 130 on Ctrl-C."""
    args = arguments()
    # SIGTERM unwinds as Ctrl-C does, which stops and removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: list[Finding] = []
    try:
        raise_open_files(8192)
        with tempfile.TemporaryDirectory(prefix="relay-siege-", dir="/dev/shm") as home:
            tokens = Path(home, "tokens")
            tokens.write_text(f"{VALID}\n")
            tokens.chmod(0o600)
            settings = {
                "RELAY_TOKENS_FILE": str(tokens),
                "RELAY_LOCAL_FOLDERS": home,
                "RELAY_WORKERS": str(args.workers),
                "RELAY_LEDGER": f"sqlite:///{home}/ledger.db",
            }
            with closing(Relay(Path(home), None, 60.0, settings)) as relay:
                load = Load(relay, Path(home), args.objects, args.line)
                load.prepare()
                lines = [
                    threading.Thread(target=load.run, args=(line,), daemon=True)
                    for line in range(LINES)
                ]
                for one in lines:
                    one.start()
                try:
                    for kind in args.only.split(","):
                        found += besiege(relay, load, kind, args.seconds, args.quiet)
                finally:
                    load.stop()
                    for one in lines:
                        one.join(30)
    except (BenchError, OSError) as error:
        print(f"siege: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("siege: stopped", file=sys.stderr)
        return 130
    sys.stdout.write(table(found))
    return 0 if all(one.met for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
