"""What relay's page, its streams and its metrics cost over one large ledger: the sections of
`make bench-page`.

Theory of operation. Times vary with what else the machine does, CPU seconds less, and the rounds of
one run are alike: so whatever is compared is measured in turn within each round, and a figure is
the median over the rounds. Each section has a server of its own, and can be measured alone.

Decided here: the measures and their budgets. Never here: relay's code, and the table
(`loadtests/page.py`)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
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
from loadtests.bench.processes import exact_cpu_seconds, memory
from loadtests.bench.server import Relay
from loadtests.bench.tabs import measure_tabs
from loadtests.bench.ticks import Ticks, forget_ticks, read_ticks
from loadtests.workers import await_end

STREAMS = 200
ASKED = 20
"""How often each page is asked for in a round."""
SAME_NODES = 200
"""How far a document's number of nodes may be from the one before: a text that appears is a node,
and so is each cell of an object that moves."""
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


@dataclass(frozen=True, kw_only=True)
class PageKind:
    """Pages with one budget: their paths, the most milliseconds of the server and the most
    queries."""

    paths: Sequence[str]
    milliseconds: int
    queries: int


@dataclass(frozen=True, kw_only=True)
class MoveCost:
    """What it cost to move a tree: seconds, and the worker's CPU seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class PageBench:
    """One ledger, and how much is measured of it."""

    size: LedgerSize
    folder: Path
    ledger: str
    _: KW_ONLY
    rounds: int
    seconds: float
    """How long the CPU is measured each time."""
    pairs: int
    """How often a tree is moved with open pages, and without them."""
    objects: int
    """Number of its objects."""
    tab_seconds: float
    """How long tabs are open."""
    say: Say

    def prepare(self) -> None:
        """Let relay make the ledger, and fill it."""
        with page_server(self.folder, self.ledger):
            pass
        began = time.monotonic()
        fill_ledger(self.ledger, self.size)
        self.say(f"filled in {time.monotonic() - began:.0f} s")

    def section(self, name: str) -> Iterator[Measured]:
        """Yield the figures of a section."""
        sections: Mapping[str, Callable[[], Iterator[Measured]]] = {
            "pages": self.pages,
            "paints": self.paints,
            "streams": self.streams,
            "scrapes": self.scrapes,
            "open": self.open,
            "tabs": self.tabs,
        }
        return sections[name]()

    # -- answers

    def pages(self) -> Iterator[Measured]:
        """Ask for every page in turn, over one connection."""
        kinds = page_kinds(self.size)
        with page_server(self.folder, self.ledger) as relay, closing(Client(relay.port)) as client:
            paths = [path for kind in kinds.values() for path in kind.paths]
            for path in paths:
                client.get(path)
            forget_ticks(self._ticks)
            found = {path: list[Answer]() for path in paths}
            for _ in range(ASKED * self.rounds):
                for path in paths:
                    found[path].append(client.get(path))
            time.sleep(0.7)
            late = read_ticks(self._ticks)
        for name, kind in kinds.items():
            yield from _answers(name, kind, {path: found[path] for path in kind.paths})
        yield _lateness("all these pages", late)

    # -- a browser

    def paints(self) -> Iterator[Measured]:
        """Load the pages in Chromium."""
        if not has_chromium():
            self.say("paints: Chromium or playwright is not installed")
            return
        one = f"/ui/migrations/{self.size.large}"
        with page_server(self.folder, self.ledger) as relay:
            base = f"http://127.0.0.1:{relay.port}"
            found = measure_paints(base, ["/ui/", one, f"{one}/objects"], self.rounds)
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

    def tabs(self) -> Iterator[Measured]:
        """Keep tabs of the list and of a migration that moves open."""
        if not has_chromium():
            self.say("tabs: Chromium or playwright is not installed")
            return
        with page_server(self.folder, self.ledger) as relay, self._slow_migration(relay) as name:
            paths = {"the list": "/ui/", "a migration that moves": f"/ui/migrations/{name}"}
            base = f"http://127.0.0.1:{relay.port}"
            found = measure_tabs(base, [*paths.values()], self.tab_seconds, self.say)
        for what, (first, last) in zip(paths, found, strict=True):
            title, grown = f"a tab of {what}, open", last.heap - first.heap
            yield Measured(
                what=f"{title}: heap",
                figure=f"{grown / 1e6:+.1f} MB of {first.heap / 1e6:.1f} MB",
                budget="≤ +5 MB",
                met=grown <= 5e6,
            )
            yield Measured(
                what=f"{title}: nodes",
                figure=f"{last.nodes:,} ({last.nodes - first.nodes:+,})",
                budget=f"± {SAME_NODES}",
                met=abs(last.nodes - first.nodes) <= SAME_NODES,
            )

    # -- streams and scrapes

    def streams(self) -> Iterator[Measured]:
        """Two hundred streams of a page, beside one and beside none, while a migration moves."""
        with page_server(self.folder, self.ledger) as relay, self._slow_migration(relay) as name:
            paths = {"the migration": f"m={name}", "the list": self._list_query(relay)}
            costs = {what: StreamCosts() for what in paths}
            for number in range(self.rounds):
                none = self._cost(relay, nullcontext())[0]
                for what, path in paths.items():
                    costs[what].none.append(none)
                    self._measure_streams(relay, costs[what], f"/ui/stream?{path}")
                self.say(f"streams: round {number + 1} of {self.rounds}")
        for what, cost in costs.items():
            yield from cost.figures(f"{STREAMS} streams of {what}")
        # All streams of a page share its values, and a migration at full speed takes a core: this is
        # the share of it that open pages take. `open` measures that with the noise of such moves.
        share = median(map(sum, zip(*(cost.of_one for cost in costs.values()), strict=True)))
        yield Measured(
            what="one stream of each: CPU",
            figure=f"{share:.1%} of a core",
            budget="< 3 %",
            met=share < 0.03,
        )

    def _measure_streams(self, relay: Relay, costs: StreamCosts, path: str) -> None:
        costs.one.append(self._cost(relay, open_streams(relay.port, [path])))
        self._await_no_stream(relay)
        before = memory(relay.workers[0], "VmRSS")
        with open_streams(relay.port, [path] * STREAMS):
            forget_ticks(self._ticks)  # of their opening
            costs.many.append(self._cost(relay, nullcontext()))
            costs.grown.append(memory(relay.workers[0], "VmRSS") - before)
            costs.late.append(read_ticks(self._ticks))
        self._await_no_stream(relay)

    def _cost(self, relay: Relay, beside: AbstractContextManager[object]) -> tuple[float, float]:
        """Return the CPU of the worker, as a share of a core, and its statements a second."""
        with beside:
            time.sleep(1)
            before = statements(relay.port)
            began, spent = time.monotonic(), exact_cpu_seconds(relay.workers)
            time.sleep(self.seconds)
            wall, after = time.monotonic() - began, statements(relay.port)
            return (exact_cpu_seconds(relay.workers) - spent) / wall, (after - before) / wall

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
            more, size = list[float](), 0
            for _ in range(self.rounds):
                none = self._cost(relay, nullcontext())[0]
                with scrapes(relay.port) as sizes:
                    more.append(self._cost(relay, nullcontext())[0] - none)
                size = max(sizes)
        yield Measured(
            what="a scrape a second: CPU",
            figure=f"{median(more):.2%} of a core, {size / 1000:.0f} KB",
            budget="< 1 %",
            met=median(more) < 0.01,
        )

    # -- open pages

    def open(self) -> Iterator[Measured]:
        """Small objects at full speed, in turn with three open pages and without them."""
        source = self._small_tree("full", self.objects)
        pairs = list[tuple[MoveCost, MoveCost]]()
        with page_server(self.folder, self.ledger) as relay:
            self._move_tree(relay, source, "warm")
            for number in range(self.pairs):
                # Each of both comes first in turn: a machine may get slower, or quicker.
                costs = {
                    has_pages: self._measure_move(relay, source, has_pages=has_pages)
                    for has_pages in ((False, True), (True, False))[number % 2]
                }
                pairs.append((costs[False], costs[True]))
                self.say(_pair_line(number, *pairs[-1]))
        title = f"three open pages beside {self.objects:,} small objects"
        more = [pages.cpu / none.cpu - 1 for none, pages in pairs]
        slower = [none.wall / pages.wall - 1 for none, pages in pairs]
        seconds = median(pages.cpu - none.cpu for none, pages in pairs)
        yield Measured(
            what=f"{title}: CPU of the worker",
            figure=f"{_shares(more)}; {seconds * 1e3:+.0f} ms",
            budget="< 3 %",
            met=median(more) < 0.03,
        )
        yield Measured(
            what=f"{title}: throughput",
            figure=_shares(slower),
            budget="> −3 %",
            met=median(slower) > -0.03,
        )

    def _measure_move(self, relay: Relay, source: Path, *, has_pages: bool) -> MoveCost:
        number = self._next_number(relay)
        # The page of the list is open before the migration begins, and its own two soon after.
        lists = [f"/ui/stream?{self._list_query(relay)}"] if has_pages else []
        with open_streams(relay.port, lists) if lists else nullcontext():
            follow = [f"/ui/stream?m={number}"] * 2 if has_pages else []
            return self._move_tree(relay, source, f"to{number}", follow)

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
    ) -> MoveCost:
        """Move a tree, and return its cost."""
        target = self.folder / "to" / to
        target.mkdir(parents=True)
        spent = exact_cpu_seconds(relay.workers)
        id = self._post(relay, source, target)
        with open_streams(relay.port, follow) if follow else nullcontext():
            found = await_end(relay, id, SECONDS * 5, 1.0)
            cpu = exact_cpu_seconds(relay.workers) - spent
        shutil.rmtree(target)
        return MoveCost(wall=found["ended"] - found["created"], cpu=cpu)

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

    @property
    def _ticks(self) -> Path:
        return self.folder / "ticks"


class StreamCosts:
    """What streams of one page cost, by rounds: the CPU, as a share of a core, and the statements a
    second of no stream, of one and of many; and the memory and the hub of many."""

    def __init__(self) -> None:
        self.none: list[float] = []
        self.one: list[tuple[float, float]] = []
        self.many: list[tuple[float, float]] = []
        self.grown: list[int] = []
        self.late: list[Ticks] = []

    @property
    def of_one(self) -> list[float]:
        """The CPU of one stream in each round."""
        return [one - none for (one, _), none in zip(self.one, self.none, strict=True)]

    def figures(self, title: str) -> Iterator[Measured]:
        """Yield the figures."""
        cpu = median(many - none for (many, _), none in zip(self.many, self.none, strict=True))
        load = median(
            many / max(one, 0.1) for (_, many), (_, one) in zip(self.many, self.one, strict=True)
        )
        grown = max(self.grown)
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
        yield _lateness(title, max(self.late))


def page_kinds(size: LedgerSize) -> Mapping[str, PageKind]:
    """Return the pages that are asked for, by their kind."""
    one = f"/ui/migrations/{size.large}"
    objects = f"{one}/objects"
    groups = ("running", "paused", "needs_you", "ended")
    lists = ["/ui/", f"/ui/?before={size.migrations // 2}", *_query("/ui/", "group", groups)]
    states = _query(objects, "state", ("failed", "queued", "running"))
    reason = f"{objects}?reason=destination:key-too-long"
    middle = f"{objects}?after={size.objects // 2}"
    filtered = [f"{objects}?level=read_back", f"{objects}?prefix=photos/999/"]
    searches = ["/ui/?q=photos/1", "/ui/?q=nothing"]
    return {
        "list": PageKind(paths=lists, milliseconds=80, queries=5),
        "search in the list": PageKind(paths=searches, milliseconds=80, queries=5),
        "migration": PageKind(paths=[one], milliseconds=80, queries=8),
        "objects": PageKind(paths=[objects, middle, *states, reason], milliseconds=120, queries=8),
        "objects by level or name": PageKind(paths=filtered, milliseconds=120, queries=8),
    }


def _query(path: str, name: str, values: Sequence[str]) -> list[str]:
    return [f"{path}?{name}={value}" for value in values]


def _answers(
    name: str, kind: PageKind, found: Mapping[str, Sequence[Answer]]
) -> Iterator[Measured]:
    """Yield the figures of the pages of one kind: those of the slowest page."""
    times = {path: [one.milliseconds for one in some] for path, some in found.items()}
    p95 = {path: percentile(some, 0.95) for path, some in times.items()}
    worst = max(p95, key=lambda path: p95[path])
    where = "" if len(found) == 1 else f" of `{worst.removeprefix('/ui')}`"
    middle, cpu = median(times[worst]), median(one.cpu for one in found[worst])
    yield Measured(
        what=f"{name}: server p95",
        figure=f"{p95[worst]:.0f} ms{where} (median {middle:.0f} ms, CPU {cpu:.0f} ms)",
        budget=f"≤ {kind.milliseconds} ms",
        met=p95[worst] <= kind.milliseconds,
    )
    # A poll of the worker may run meanwhile: the least is the page's own.
    queries = max(min(one.statements for one in some) for some in found.values())
    yield Measured(
        what=f"{name}: queries",
        figure=str(queries),
        budget=f"≤ {kind.queries}",
        met=queries <= kind.queries,
    )


def _lateness(during: str, found: Ticks) -> Measured:
    return Measured(
        what=f"hub at most late, {during}",
        figure=found.figure,
        budget="≤ 20 ms",
        met=found.late <= 0.020,
    )


def _pair_line(number: int, none: MoveCost, pages: MoveCost) -> str:
    return (
        f"open pages, pair {number + 1}: {pages.cpu:.2f} CPU-s and {pages.wall:.2f} s with pages,"
        f" {none.cpu:.2f} and {none.wall:.2f} without"
    )


def _shares(found: Sequence[float]) -> str:
    """Return the median of some shares, and the range of their middle half."""
    low, high = percentile(found, 0.25), percentile(found, 0.75)
    middle = f" (middle half {low:+.1%} to {high:+.1%})" if len(found) > 1 else ""
    return f"{median(found):+.1%}{middle} in {len(found)} pairs"
