"""One tree by one worker of relay's server and by two, on SQLite and on PostgreSQL: sections of
`make bench-stores`.

Theory of operation. Each run has a server of its own, and an empty ledger on the disk. The tree is
requested by one `POST /migrate`, and the wall time is that of the migration's own record, from its
acceptance to its end. CPU seconds are those of the workers between the two, and of their threads
one by one: the CPU time of all threads but the main one is the ledger's, since SQLite's calls run
in a native thread, and hardly anything else does. Each worker counts the objects that it has moved
(`bench/counting.conf.py`).

Decided here: the comparison. Never here: relay's code.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.bench.measures import BenchError
from loadtests.bench.postgres import postgresql, programs
from loadtests.bench.processes import memory
from loadtests.bench.runs import MIB, Cost, Section
from loadtests.bench.seaweed_buckets import buckets, fill_bucket, remotes
from loadtests.bench.server import Relay
from simulators.spawn import spawn

CONFIG = "loadtests/bench/counting.conf.py"
SLOTS = 32
SMALL = 64 * 1024
LINE_COUNT, LINE_BYTES, LINE_SLOTS, LINE_RATE = 128, MIB, 8, "1MB/s"
"""The slow network: number of objects, their size, slots of each worker, rate of a connection."""
LOOK_SECONDS = 0.25

Ledgers = Callable[[], str]
"""Makes an empty ledger, and returns its URL."""


@dataclass(frozen=True)
class Workers:
    """relay's server with `count` workers over one ledger."""

    name: str
    count: int
    ledger: Ledgers
    settings: Mapping[str, str]

    def measure_move(self, target: str, seconds: float) -> Cost:
        """As Mover.measure_move; the server's start is not included."""
        with tempfile.TemporaryDirectory() as folder:
            moved = Path(folder, "moved")
            moved.mkdir()
            own = {
                "RELAY_WORKERS": str(self.count),
                "RELAY_LEDGER": self.ledger(),
                "BENCH_MOVED": str(moved),
            }
            relay = Relay(Path(folder), None, seconds, {**self.settings, **own}, CONFIG)
            try:
                return self._move_tree(relay, moved, target, seconds)
            finally:
                relay.close()

    def _move_tree(self, relay: Relay, moved: Path, target: str, seconds: float) -> Cost:
        order = {
            "source": "a:bench-from/small",
            "destination": f"b:bench-to/{target}",
            "recursive": True,
        }
        before = [threads(pid) for pid in relay.workers]
        status, answer = relay.ask("POST", "/migrate", {**order, "server_copy": False})
        if status != 202:
            raise BenchError(
                f"POST /migrate answered {status}: {answer[:300].decode(errors='replace')}"
            )
        found = await_end(relay, json.loads(answer)["id"], seconds)
        after = [threads(pid) for pid in relay.workers]
        spent = [
            {id: late - old.get(id, 0.0) for id, late in new.items()}
            for old, new in zip(before, after, strict=True)
        ]
        cpu = sum(sum(each.values()) for each in spent)
        # The main thread has the id of its process (gettid(2)).
        main = sum(each[pid] for pid, each in zip(relay.workers, spent, strict=True))
        peak = sum(memory(pid, "VmHWM") for pid in relay.workers)
        return Cost(
            found["ended"] - found["created"],
            cpu,
            peak,
            objects_by_worker(moved, relay.workers),
            cpu - main,
        )


def await_end(
    relay: Relay, id: str, seconds: float, look_seconds: float = LOOK_SECONDS
) -> Mapping[str, Any]:
    """Wait until a migration has ended, and return it; look every `look_seconds`. Raises BenchError
    if it fails or takes too long.

    It is read from the list of migrations: the detailed view would count its receipts each
    time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        rows = json.loads(relay.ask("GET", "/migrations?limit=1")[1])["migrations"]
        found: dict[str, Any] = next(row for row in rows if row["id"] == id)
        if found["ended"] is not None:
            if found["state"] != "succeeded":
                raise BenchError(f"the migration ended as {found['state']}")
            return found
        time.sleep(look_seconds)
    raise BenchError("the migration took too long")


def threads(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each thread of a process (proc(5): schedstat, which counts
    nanoseconds)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue  # it ended in between
    return found


def objects_by_worker(folder: Path, workers: Sequence[int]) -> tuple[int, ...]:
    """Return the number of objects that each worker reports as moved, after its last report."""
    time.sleep(2 * LOOK_SECONDS)
    return tuple(
        int(file.read_text()) if (file := folder / str(pid)).exists() else 0 for pid in workers
    )


@contextmanager
def ledgers() -> Iterator[dict[str, Ledgers]]:
    """Yield a maker of empty ledgers of each kind."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = iter(range(1_000_000))
        found: dict[str, Ledgers] = {"SQLite": lambda: f"sqlite:///{home}/{next(files)}.db"}
        if programs() is not None:
            found["PostgreSQL"] = stack.enter_context(postgresql()).database
        yield found


def movers(found: Mapping[str, Ledgers], settings: Mapping[str, str]) -> list[Workers]:
    """Return the servers that are compared."""
    return [
        Workers(f"{said}, {kind}", count, ledger, settings)
        for kind, ledger in found.items()
        for count, said in ((1, "one worker"), (2, "two workers"))
    ]


def small_of_workers(stack: ExitStack, home: Path, count: int) -> Section:
    """Small objects by the thousand, bucket to bucket, where the machine's cores carry the store
    too."""
    server = stack.enter_context(buckets(home))
    environment, _ = remotes(home, {"a": server.endpoint, "b": server.endpoint})
    check = fill_bucket(server, count, SMALL)
    settings = {"RELAY_CONFIG": environment["RELAY_CONFIG"], "RELAY_SLOTS": str(SLOTS)}
    found = stack.enter_context(ledgers())
    title = (
        f"`POST /migrate` of {count:,} objects of 64 KiB, S3 to S3, {SLOTS} at once in each worker"
    )
    return Section("workers", title, count, count * SMALL, movers(found, settings), check, base=0)


def line_of_workers(stack: ExitStack, home: Path) -> Section:
    """Larger objects, each as fast as its connection, so that the number of connections
    matters."""
    server = stack.enter_context(buckets(home))
    target = "127.0.0.1:" + server.endpoint.rpartition(":")[2]
    ends = {
        name: stack.enter_context(spawn("proxy", "0", target, "--rate", LINE_RATE)).url()
        for name in ("a", "b")
    }
    environment, _ = remotes(
        home, {name: url.replace("tcp://", "http://") for name, url in ends.items()}
    )
    check = fill_bucket(server, LINE_COUNT, LINE_BYTES)
    settings = {"RELAY_CONFIG": environment["RELAY_CONFIG"], "RELAY_SLOTS": str(LINE_SLOTS)}
    found = stack.enter_context(ledgers())
    title = (
        f"`POST /migrate` of {LINE_COUNT} objects of {LINE_BYTES // MIB} MiB, S3 to S3, {LINE_RATE}"
        f" a connection, {LINE_SLOTS} at once in each worker"
    )
    return Section(
        "workers-line",
        title,
        LINE_COUNT,
        LINE_COUNT * LINE_BYTES,
        movers(found, settings),
        check,
        base=0,
    )
