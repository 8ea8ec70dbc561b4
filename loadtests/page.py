"""`make bench-page`: what relay's page, its streams and its metrics cost over a large ledger.

Theory of operation. A server with one worker has ten thousand migrations, one of them with a
million objects, in SQLite and in PostgreSQL. Pages are asked for over one connection, and the
server names the time and the statements of each answer; Chromium loads them cold. Streams and
scrapes run while a small migration moves, in turn with times without them, and what they cost is
the difference of the worker's CPU. For the open pages trees of small objects are moved as fast as
relay can, in turn with and without the pages' streams.

Decided here: the measures and their budgets. Never here: relay's code."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

from loadtests.bench.large_ledger import LedgerSize, fill_ledger
from loadtests.bench.measures import MIB, BenchError, percentile
from loadtests.bench.page_server import (
    Answer,
    Client,
    open_streams,
    page_server,
    scrapes,
    statements,
)
from loadtests.bench.paints import has_chromium, measure_paints
from loadtests.bench.postgres import postgresql, programs
from loadtests.bench.processes import cpu_seconds, memory
from loadtests.bench.report import check_outputs, machine, write_into
from loadtests.bench.server import Relay
from loadtests.workers import await_end

OPEN, CLOSE = "<!-- bench-page -->", "<!-- /bench-page -->"
SECTIONS = ("pages", "paints", "streams", "scrapes", "open")
STREAMS = 200
GONE_SECONDS = 30.0
"""How long a server may take to see that the client of a stream is gone."""
SECONDS = 60.0
"""The longest that a server may take to start, or an answer to come."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One figure beside its budget."""

    what: str
    figure: str
    budget: str
    met: bool


@dataclass(frozen=True)
class Bench:
    """One ledger, and how much is measured of it."""

    size: LedgerSize
    folder: Path
    ledger: str
    rounds: int
    seconds: float
    objects: int
    say: Say

    def prepare(self) -> None:
        """Let relay make the ledger, and fill it."""
        with page_server(self.folder, self.ledger):
            pass
        began = time.monotonic()
        fill_ledger(self.ledger, self.size)
        self.say(f"filled in {time.monotonic() - began:.0f} s")

    # -- answers

    def pages(self) -> Iterator[Measured]:
        """Ask for every page in turn, over one connection."""
        one = f"/ui/migrations/{self.size.large}"
        objects = f"{one}/objects"
        groups = ("running", "paused", "needs_you", "ended")
        middle = self.size.migrations // 2
        kinds = {
            "list": (80, 5, ["/ui/", f"/ui/?before={middle}", *_query("/ui/", "group", groups)]),
            "search in the list": (80, 5, ["/ui/?q=photos/1", "/ui/?q=nothing"]),
            "migration": (80, 8, [one]),
            "objects": (
                120,
                8,
                [
                    objects,
                    f"{objects}?after={self.size.objects // 2}",
                    *_query(objects, "state", ("failed", "queued", "running")),
                    f"{objects}?reason=destination:key-too-long",
                ],
            ),
            "objects by level or name": (
                120,
                8,
                [f"{objects}?level=read_back", f"{objects}?prefix=photos/999/"],
            ),
        }
        with page_server(self.folder, self.ledger) as relay, closing(Client(relay.port)) as client:
            paths = [path for _, _, some in kinds.values() for path in some]
            for path in paths:
                client.get(path)
            self._forget_ticks()
            found = {path: list[Answer]() for path in paths}
            for _ in range(20 * self.rounds):
                for path in paths:
                    found[path].append(client.get(path))
            for kind, (most_ms, most_queries, some) in kinds.items():
                p95 = {
                    path: percentile([one.milliseconds for one in found[path]], 0.95)
                    for path in some
                }
                worst = max(some, key=lambda path: p95[path])
                where = "" if len(some) == 1 else f" of `{worst.removeprefix('/ui')}`"
                cpu = median(one.cpu for one in found[worst])
                yield Measured(
                    what=f"{kind}: server p95",
                    figure=f"{p95[worst]:.0f} ms{where} (CPU {cpu:.0f} ms)",
                    budget=f"≤ {most_ms} ms",
                    met=p95[worst] <= most_ms,
                )
                # A poll of the worker may run meanwhile: the least is the page's own.
                queries = max(min(one.statements for one in found[path]) for path in some)
                yield Measured(
                    what=f"{kind}: queries",
                    figure=str(queries),
                    budget=f"≤ {most_queries}",
                    met=queries <= most_queries,
                )
            yield self._hub("all these pages")

    def _forget_ticks(self) -> None:
        (self.folder / "ticks").unlink(missing_ok=True)
        time.sleep(1.1)

    def _hub(self, during: str) -> Measured:
        time.sleep(0.7)
        late, coreless, wakes = map(float, (self.folder / "ticks").read_text().split())
        return Measured(
            what=f"hub at most late, {during}",
            figure=f"{late * 1e3:.0f} ms ({coreless * 1e3:.0f} ms without a core, {wakes:.0f} wakes)",
            budget="≤ 20 ms",
            met=late <= 0.020,
        )

    # -- a browser

    def paints(self) -> Iterator[Measured]:
        """Load the pages in Chromium."""
        if not has_chromium():
            self.say("paints: Chromium or playwright is not installed")
            return
        one = f"/ui/migrations/{self.size.large}"
        with page_server(self.folder, self.ledger) as relay:
            base = f"http://127.0.0.1:{relay.port}"
            paths = ["/ui/", one, f"{one}/objects"]
            found = measure_paints(base, paths, self.rounds)
        paint = max(one.paint_ms for one in found)
        html, assets = max(one.html for one in found), max(one.assets for one in found)
        requests = max(one.requests for one in found)
        for what, figure, budget, met in (
            ("first contentful paint", f"{paint:.0f} ms", "≤ 1,000 ms", paint <= 1000),
            ("HTML", f"{html / 1000:.1f} KB", "≤ 60 KB", html <= 60_000),
            ("assets, gzip", f"{assets / 1000:.1f} KB", "≤ 60 KB", assets <= 60_000),
            ("requests", str(requests), "≤ 6", requests <= 6),
        ):
            yield Measured(
                what=f"a page in Chromium, cold: {what}", figure=figure, budget=budget, met=met
            )

    # -- streams and scrapes

    def streams(self) -> Iterator[Measured]:
        """Two hundred streams of a migration that moves, beside one."""
        with page_server(self.folder, self.ledger) as relay, self._slow_migration(relay) as name:
            for what, path in (
                ("the migration", f"m={name}"),
                ("the list", self._list_query(relay)),
            ):
                yield from self._streams_of(relay, what, f"/ui/stream?{path}")

    def _streams_of(self, relay: Relay, what: str, path: str) -> Iterator[Measured]:
        none, one, many = list[float](), list[tuple[float, float]](), list[tuple[float, float]]()
        grown = 0
        for _ in range(self.rounds):
            none.append(self._cost(relay, nullcontext())[0])
            one.append(self._cost(relay, open_streams(relay.port, [path])))
            self._await_no_stream(relay)
            before = memory(relay.workers[0], "VmRSS")
            with open_streams(relay.port, [path] * STREAMS) as counts:
                self._forget_ticks()  # of their opening
                many.append(self._cost(relay, nullcontext()))
                grown = max(grown, memory(relay.workers[0], "VmRSS") - before)
                events = min(counts)
            self._await_no_stream(relay)
            self.say(f"streams of {what}: at least {events} events each")
        cpu = median(cost for cost, _ in many) - median(none)
        load = median(rate for _, rate in many) / max(median(rate for _, rate in one), 0.1)
        title = f"{STREAMS} streams of {what}"
        yield Measured(
            what=f"{title}: CPU", figure=f"{cpu:.1%} of a core", budget="< 5 %", met=cpu < 0.05
        )
        yield Measured(
            what=f"{title}: memory",
            figure=f"{grown / MIB:.0f} MiB",
            budget="< 20 MiB",
            met=grown < 20 * MIB,
        )
        yield Measured(
            what=f"{title}: statements of the ledger, of one stream's",
            figure=f"{load:.2f}",
            budget="0.8 to 1.2",
            met=0.8 <= load <= 1.2,
        )
        yield self._hub(f"{STREAMS} streams of {what}")

    def _cost(self, relay: Relay, beside: AbstractContextManager[object]) -> tuple[float, float]:
        """Return the CPU of the worker, as a share of a core, and its statements a second."""
        with beside:
            time.sleep(1)
            before = statements(relay.port)
            began, spent = time.monotonic(), cpu_seconds(relay.workers)
            time.sleep(self.seconds)
            wall, after = time.monotonic() - began, statements(relay.port)
            return (cpu_seconds(relay.workers) - spent) / wall, (after - before) / wall

    def _await_no_stream(self, relay: Relay) -> None:
        """Wait until the server has seen that the clients of its streams are gone."""
        until = time.monotonic() + GONE_SECONDS
        with closing(Client(relay.port)) as client:
            while b"\nrelay_streams 0" not in client.get("/metrics").body:
                if time.monotonic() > until:
                    raise BenchError(
                        f"streams are open {GONE_SECONDS:.0f} s after their clients left"
                    )
                time.sleep(0.5)

    def _list_query(self, relay: Relay) -> str:
        rows = json.loads(relay.ask("GET", "/migrations?limit=50")[1])["migrations"]
        return "list=" + ",".join(str(row["number"]) for row in rows)

    def scrapes(self) -> Iterator[Measured]:
        """A scrape a second, beside none, after a migration has filled the series."""
        with page_server(self.folder, self.ledger) as relay:
            self._move_tree(relay, self._small_tree("series", 200), "series")
            none, scraped, size = list[float](), list[float](), 0
            for _ in range(self.rounds):
                none.append(self._cost(relay, nullcontext())[0])
                with scrapes(relay.port) as sizes:
                    scraped.append(self._cost(relay, nullcontext())[0])
                size = max(sizes)
            cpu = median(scraped) - median(none)
            yield Measured(
                what="a scrape a second: CPU",
                figure=f"{cpu:.2%} of a core, {size / 1000:.0f} KB",
                budget="< 1 %",
                met=cpu < 0.01,
            )

    # -- open pages

    def open(self) -> Iterator[Measured]:
        """Small objects at full speed, in turn with three open pages and without them."""
        source = self._small_tree("full", self.objects)
        with page_server(self.folder, self.ledger) as relay:
            self._move_tree(relay, source, "warm")
            costs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for turn in range(2 * self.rounds):
                has_pages = turn % 2 == 1
                number = self._next_number(relay)
                # The page of the migration is open before it begins; it is asked for again then.
                paths = [f"/ui/stream?{self._list_query(relay)}"] if has_pages else []
                with ExitStack() as stack:
                    if paths:
                        stack.enter_context(open_streams(relay.port, paths))
                    follow = [f"/ui/stream?m={number}"] * 2 if has_pages else []
                    costs[has_pages].append(self._move_tree(relay, source, f"to{turn}", follow))
                wall, cpu = costs[has_pages][-1]
                self.say(f"open pages {has_pages}: {wall:.2f} s, {cpu:.2f} CPU-s")
            rate = _ratio([cost[0] for cost in costs[False]], [cost[0] for cost in costs[True]])
            cpu = _ratio([cost[1] for cost in costs[True]], [cost[1] for cost in costs[False]])
            title = f"three open pages beside {self.objects:,} small objects"
            yield Measured(
                what=f"{title}: throughput",
                figure=f"{rate - 1:+.1%}",
                budget="> −3 %",
                met=rate > 0.97,
            )
            yield Measured(
                what=f"{title}: CPU of the worker",
                figure=f"{cpu - 1:+.1%}",
                budget="< 3 %",
                met=cpu < 1.03,
            )

    def _small_tree(self, name: str, count: int) -> Path:
        folder = self.folder / "from" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / f"{number:06}.bin").write_bytes(number.to_bytes(4, "big") * 1024)
        return folder

    def _next_number(self, relay: Relay) -> int:
        rows = json.loads(relay.ask("GET", "/migrations?limit=1")[1])["migrations"]
        return int(rows[0]["number"]) + 1

    def _move_tree(
        self, relay: Relay, source: Path, to: str, follow: Sequence[str] = ()
    ) -> tuple[float, float]:
        """Move a tree, and return the seconds that it took and the worker's CPU seconds."""
        target = self.folder / "to" / to
        target.mkdir(parents=True)
        spent = cpu_seconds(relay.workers)
        id = self._post(relay, source, target)
        with open_streams(relay.port, follow) if follow else nullcontext():
            found = await_end(relay, id, SECONDS * 5)
        return found["ended"] - found["created"], cpu_seconds(relay.workers) - spent

    def _post(self, relay: Relay, source: Path, target: Path, **more: object) -> str:
        order = {
            "source": f"file://{source}/",
            "destination": f"file://{target}/",
            "recursive": True,
        }
        status, answer = relay.ask("POST", "/migrate", {**order, **more})
        if status != 202:
            raise BenchError(f"POST /migrate answered {status}: {answer[:300].decode()}")
        return str(json.loads(answer)["id"])

    @contextmanager
    def _slow_migration(self, relay: Relay) -> Iterator[str]:
        """Run a migration of four large files at a low rate; give its number."""
        folder, target = self.folder / "from" / "slow", self.folder / "to" / "slow"
        folder.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        for number in range(4):
            with (folder / f"{number}.bin").open("wb") as file:
                file.truncate(1 << 30)
        id = self._post(relay, folder, target, limits={"bytes_per_second": 1_000_000})
        try:
            number = json.loads(relay.ask("GET", f"/migrations/{id}")[1])["number"]
            time.sleep(3)
            yield str(number)
        finally:
            relay.ask("POST", f"/migrations/{id}/cancel")


def _query(path: str, name: str, values: Sequence[str]) -> list[str]:
    return [f"{path}?{name}={value}" for value in values]


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return median(over) / median(under)


@contextmanager
def ledgers(home: Path, kinds: Sequence[str]) -> Iterator[dict[str, str]]:
    """Give the address of an empty ledger of each kind that is installed."""
    with ExitStack() as stack:
        found = {}
        if "SQLite" in kinds:
            found["SQLite"] = f"sqlite:///{home}/ledger.db"
        if "PostgreSQL" in kinds and programs() is not None:
            found["PostgreSQL"] = stack.enter_context(postgresql()).database()
        yield found


def table(found: dict[str, list[Measured]]) -> list[str]:
    """Return the rows of Markdown: a line for each figure, a column for each ledger."""
    kinds = list(found)
    head = ["what", *kinds, "budget", "met"]
    rows = [f"| {' | '.join(head)} |", f"|---|{'---|' * len(kinds)}---|:-:|"]
    for whats in dict.fromkeys(one.what for some in found.values() for one in some):
        same = [next((o for o in found[kind] if o.what == whats), None) for kind in kinds]
        figures = ["–" if one is None else one.figure for one in same]
        known = [one for one in same if one is not None]
        met = "yes" if all(one.met for one in known) else "**no**"
        rows.append(f"| {' | '.join([whats, *figures, known[0].budget, met])} |")
    return rows


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.page", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--migrations", type=int, default=10_000)
    parser.add_argument("--transfers", type=int, default=1_000_000, help="of the last migration")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measure of CPU (10)")
    parser.add_argument("--objects", type=int, default=4000, help="of a tree at full speed (4000)")
    parser.add_argument("--ledgers", default="SQLite,PostgreSQL")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all files go")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help=f"put the table between {OPEN} and {CLOSE}"
    )
    args = parser.parse_args()
    wrong = set(args.only.split(",")) - set(SECTIONS)
    if wrong:
        parser.error(f"{min(wrong)!r} is not one of {', '.join(SECTIONS)}")
    return args


def run(args: argparse.Namespace, home: Path) -> dict[str, list[Measured]]:
    """Measure each ledger, and return its figures."""
    size = LedgerSize(migrations=args.migrations, objects=args.transfers)
    found: dict[str, list[Measured]] = {}
    with ledgers(home, args.ledgers.split(",")) as addresses:
        for kind, address in addresses.items():
            folder = home / kind
            folder.mkdir()
            bench = Bench(
                size, folder, address, args.rounds, args.seconds, args.objects, _sayer(kind)
            )
            bench.prepare()
            found[kind] = []
            for section in args.only.split(","):
                for one in getattr(bench, section)():
                    bench.say(f"{one.what}: {one.figure} ({one.budget})")
                    found[kind].append(one)
    return found


def _sayer(kind: str) -> Say:
    def say(text: str) -> None:
        print(f"{kind}: {text}", file=sys.stderr, flush=True)

    return say


def main() -> int:
    """Print the table; 0 if all was measured, 2 if it can't be run, 130 on Ctrl-C."""
    args = arguments()
    # SIGTERM unwinds as Ctrl-C does, which stops and removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_outputs(args.write, opening=OPEN, closing=CLOSE)
        with tempfile.TemporaryDirectory(
            prefix="relay-page-", dir=args.folder, ignore_cleanup_errors=True
        ) as home:
            found = run(args, Path(home))
    except (BenchError, OSError) as error:
        print(f"bench-page: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench-page: stopped", file=sys.stderr)
        return 130
    head = (
        f"`make bench-page` on {date.today().isoformat()}: {args.migrations:,} migrations, one of"
        f" {args.transfers:,} transfers; one worker; medians of {args.rounds} rounds; on"
        f" {machine()}."
    )
    block = "\n".join([head, "", *table(found)]) + "\n"
    sys.stdout.write(block)
    if args.write:
        write_into(args.write, block, OPEN, CLOSE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
