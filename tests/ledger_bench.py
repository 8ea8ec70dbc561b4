"""`make bench-ledger`: the ledger alone, in SQLite and in PostgreSQL, with a tree of realistic
size.

Theory of operation. A tree is listed into an empty ledger page by page, claimed as workers do,
settled with realistic receipts, polled as by a client that watches, and paged through. Meanwhile a
greenlet that wakes every 10 ms measures its delay: code that blocks the hub delays every transfer.
Wall time and CPU seconds are those of this process; PostgreSQL's own are not included. Decided
here: the measures. Never here: the right results (`tests/contract/test_ledger.py`).
"""

# ruff: noqa: E402, I001 - psycopg checks, when it is imported, whether sockets are patched

from __future__ import annotations

from relay.process.cooperative import patch; patch()  # fmt: skip  # noqa: E702, I001

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gevent
import psycopg

from loadtests.bench.report import write_into
from relay.views.migrations import summary
from relay.ledger.claims import ClaimRequest
from relay.ledger.ledger import Ledger
from relay.ledger.claim_values import Settlement
from relay.ledger.listing_values import ListedObject
from tests.ledgers import TREE
from tests.postgres import Postgres, postgresql, programs

PAGE, CLAIMS, LOOKS, TICK_SECONDS = 1000, 100, 100, 0.01
"""The entries of a listing's page; the small objects of a poll; the interval of status reads; the
interval of the ticker."""
OPEN, CLOSE = "<!-- bench-ledger -->", "<!-- /bench-ledger -->"
RECEIPT = {
    "level": "whole_digest",
    "bytes": 65536,
    "digests": {"crc64nvme": "83db9b3294cefcc3", "crc32c": "3f7770db"},
    "source": {
        "etag": '"9b2cf535f27731c974343645a3985328"',
        "size": 65536,
        "last_modified": None,
        "digests": {},
    },
    "destination": {
        "etag": '"9b2cf535f27731c974343645a3985328"',
        "size": 65536,
        "last_modified": None,
        "digests": {},
    },
    "attempts": 1,
    "bytes_resent": 0,
    "notes": [],
}
"""Like the receipt of an object of 64 KiB from bucket to bucket."""


@dataclass
class Ticker:
    """A greenlet that wakes every 10 ms; `late` is its longest delay, beyond the time for which it
    had no core."""

    late: float = 0.0
    wakes: int = 0
    _over: bool = field(default=False, repr=False)

    def run(self) -> None:
        """Wake until stopped."""
        while not self._over:
            due, waited = time.monotonic() + TICK_SECONDS, starved_seconds()
            gevent.sleep(TICK_SECONDS)
            self.late = max(self.late, time.monotonic() - due - (starved_seconds() - waited))
            self.wakes += 1

    def stop(self) -> None:
        """Stop waking."""
        self._over = True


def starved_seconds() -> float:
    """Return the seconds for which this thread was ready to run and the kernel ran others (proc(5):
    schedstat)."""
    text = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    return int(text.split()[1]) / 1e9


@dataclass(frozen=True)
class Step:
    """A step with `count` operations: wall and CPU seconds, and the ticker's longest delay."""

    name: str
    count: int
    wall: float
    cpu: float
    late: float


def measure_step(name: str, do: Callable[[], int]) -> Step:
    """Run it beside a ticker."""
    ticker = Ticker()
    ticking = gevent.spawn(ticker.run)
    gevent.sleep(2 * TICK_SECONDS)
    wall, cpu = time.monotonic(), time.process_time()
    count = do()
    step = Step(name, count, time.monotonic() - wall, time.process_time() - cpu, ticker.late)
    ticker.stop()
    ticking.join()
    return step


def list_objects(ledger: Ledger, objects: int) -> int:
    """Write a tree's listing."""
    listing = ledger.listings.claim()
    assert listing is not None
    for first in range(0, objects, PAGE):
        page = [
            ListedObject(
                f"photos/2024/{number:09}.jpg",
                size=65536,
                etag=f'"{number:032x}"',
                modified=1.7e9 + number,
            )
            for number in range(first, min(first + PAGE, objects))
        ]
        assert ledger.listings.add_page(listing, page, page[-1].name)
    ledger.listings.end(listing)
    return objects


def work_off(ledger: Ledger) -> int:
    """Claim and settle everything, poll by poll, like a worker with small objects."""
    done, ends = 0, list[Settlement]()
    while True:
        claims = ledger.claims.settle_and_claim(
            ends, ClaimRequest(all=CLAIMS, large=CLAIMS // 3, only_large=CLAIMS // 3)
        ).claims
        if not claims:
            return done
        ends = [
            Settlement(
                claim,
                "verified",
                bytes=65536,
                resent=0,
                seconds=0.01,
                level="whole_digest",
                receipt=RECEIPT,
            )
            for claim in claims
        ]
        done += len(claims)


def look_often(ledger: Ledger, id: str, objects: int) -> int:
    """Read the state, as `GET /migrations/{id}` and each step of `relay watch` do."""
    for _ in range(LOOKS):
        assert summary(ledger.migration(id))["levels"] == {"whole_digest": objects}
    return LOOKS


def read_pages(ledger: Ledger, id: str) -> int:
    """Read every row, page by page."""
    count = after = 0
    while rows := ledger.page(id, after=after):
        count, after = count + len(rows), rows[-1].id
    return count


def run(address: str, objects: int) -> list[Step]:
    """Measure one ledger. Raises AssertionError if not every object was listed, settled and
    read."""
    ledger = Ledger.connect(address)
    try:
        ledger.leases.renew(3600.0)
        migration, _ = ledger.create(TREE)
        steps = [
            measure_step("list", lambda: list_objects(ledger, objects)),
            measure_step("claim and settle", lambda: work_off(ledger)),
            measure_step("look", lambda: look_often(ledger, migration.id, objects)),
            measure_step("page through", lambda: read_pages(ledger, migration.id)),
        ]
        ledger.finish()
        assert [step.count for step in steps] == [objects, objects, LOOKS, objects]
        assert ledger.migration(migration.id).count_in("verified").objects == objects
        return steps
    finally:
        ledger.close()


@contextmanager
def ledgers(home: Path) -> Iterator[dict[str, tuple[str, Callable[[], int]]]]:
    """Yield the address of an empty ledger of each kind, and a function that returns its size in
    bytes."""
    file = home / "ledger.db"
    found: dict[str, tuple[str, Callable[[], int]]] = {
        "SQLite": (
            f"sqlite:///{file}",
            lambda: sum(path.stat().st_size for path in home.glob("ledger.db*")),
        )
    }
    with ExitStack() as stack:
        if programs() is not None:
            server = stack.enter_context(postgresql())
            address = server.database()
            found["PostgreSQL"] = (address, lambda: _size(server, address.rpartition("/")[2]))
        yield found


def _size(server: Postgres, name: str) -> int:
    with psycopg.connect(server.dsn(name)) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def table(kind: str, steps: list[Step], size: int, objects: int) -> Iterator[str]:
    """Yield one ledger's rows in Markdown."""
    for step in steps:
        each = step.cpu / step.count * 1e6
        yield f"| {kind} | {step.name} | {step.count / step.wall:,.0f} | {each:,.0f} µs | {step.late * 1e3:.0f} ms |"
    yield f"| {kind} | size | {size / objects * 1e6 / (1 << 20):,.0f} MiB a million | | |"


def main() -> int:
    """Print the table; 0 if everything was settled."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.ledger_bench", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument(
        "--folder", type=Path, help="where SQLite's file is made (default: the system's)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help=f"put the table between {OPEN} and {CLOSE}"
    )
    args = parser.parse_args()
    rows = ["| ledger | | a second | CPU each | ticker late |", "|---|---|--:|--:|--:|"]
    with tempfile.TemporaryDirectory(dir=args.folder) as home, ledgers(Path(home)) as found:
        for kind, (address, size) in found.items():
            steps = run(address, args.objects)
            rows += table(kind, steps, size(), args.objects)
    head = f"`make bench-ledger` on {time.strftime('%Y-%m-%d')}: {args.objects:,} transfers, {CLAIMS} claimed at a time."
    block = "\n".join([head, "", *rows])
    sys.stdout.write(f"{block}\n")
    if args.write:
        write_into(args.write, f"{block}\n", OPEN, CLOSE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
