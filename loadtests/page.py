"""`make bench-page`: what relay's page, its streams and its metrics cost over a large ledger.

Theory of operation. A server with one worker has ten thousand migrations, one of them with a
million objects, in SQLite and in PostgreSQL. Pages are asked for over one connection, and the
server names the time and the statements of each answer; Chromium loads them cold. Streams and
scrapes run while a small migration moves, in turn with times without them, and what they cost is
the difference of the worker's CPU. For the open pages trees of small objects are moved as fast as
relay can, in turn with and without the pages' streams. Chromium keeps tabs open, whose heap and
nodes are those at the end beyond those at the beginning.

Each figure is printed once it is measured, and a section that fails, or is interrupted, leaves
those of the others: with `--write` a run replaces only the tables of its own sections.

Decided here: the sections, and their tables. Never here: the measures
(`loadtests/bench/page_costs.py`), and relay's code."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

from loadtests.bench.large_ledger import LedgerSize
from loadtests.bench.measures import BenchError
from loadtests.bench.page_costs import Measured, PageBench, Say
from loadtests.bench.postgres import postgresql, programs
from loadtests.bench.report import check_outputs, machine, write_into

SECTIONS: Final[Mapping[str, str]] = {
    "pages": "Pages",
    "paints": "Pages in a browser",
    "streams": "Two hundred streams",
    "scrapes": "Metrics",
    "open": "Three open pages beside a migration at full speed",
    "tabs": "Open tabs",
}
"""The sections and their titles."""
Tables = dict[str, dict[str, list[Measured]]]
"""What was measured: by section and by ledger."""


def marks(section: str) -> tuple[str, str]:
    """Return the comments around a section's table."""
    return f"<!-- bench-page {section} -->", f"<!-- /bench-page {section} -->"


@dataclass(frozen=True)
class Run:
    """One run: what it measures, and its results so far."""

    args: argparse.Namespace
    tables: Tables = field(default_factory=dict)

    def measure(self, home: Path) -> bool:
        """Measure each ledger; return whether every section ended well."""
        size = LedgerSize(migrations=self.args.migrations, objects=self.args.transfers)
        is_whole = True
        with ledgers(home, self.args.ledgers.split(",")) as addresses:
            for kind, address in addresses.items():
                folder, say = home / kind, _sayer(kind)
                folder.mkdir()
                bench = PageBench(
                    size,
                    folder,
                    address,
                    rounds=self.args.rounds,
                    seconds=self.args.seconds,
                    pairs=self.args.pairs,
                    objects=self.args.objects,
                    tab_seconds=self.args.tab_seconds,
                    say=say,
                )
                bench.prepare()
                for section in self.args.only.split(","):
                    is_whole &= self._measure_section(bench, section, kind)
        return is_whole

    def _measure_section(self, bench: PageBench, section: str, kind: str) -> bool:
        """Measure one section, and write its table; return whether it ended well."""
        began, found = time.monotonic(), list[Measured]()
        try:
            for one in bench.section(section):
                found.append(one)
                bench.say(
                    f"{one.what}: {one.figure} ({one.budget}{'' if one.met else ', NOT MET'})"
                )
        except (BenchError, OSError) as error:
            bench.say(f"{section} FAILED: {error}")
            return False
        bench.say(f"{section} took {time.monotonic() - began:.0f} s")
        if found:
            self.tables.setdefault(section, {})[kind] = found
            if self.args.write:
                write_into(self.args.write, self.block(section), *marks(section))
        return True

    def block(self, section: str) -> str:
        """Return the table of a section as Markdown, below its title."""
        args = self.args
        title = (
            f"**{SECTIONS[section]}**, on {date.today().isoformat()}: {args.migrations:,}"
            f" migrations, one of {args.transfers:,} transfers; one worker; {_count_of_runs(section, args)};"
            f" on {machine()}."
        )
        return "\n".join([title, "", *table(self.tables[section])]) + "\n"


def _count_of_runs(section: str, args: argparse.Namespace) -> str:
    if section == "tabs":
        return f"{args.tab_seconds:.0f} seconds"
    count, noun = (args.pairs, "pair") if section == "open" else (args.rounds, "round")
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table(found: Mapping[str, Sequence[Measured]]) -> list[str]:
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


def _sayer(kind: str) -> Say:
    def say(text: str) -> None:
        print(f"{kind}: {text}", file=sys.stderr, flush=True)

    return say


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.page", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--migrations", type=int, default=10_000)
    parser.add_argument("--transfers", type=int, default=1_000_000, help="of the last migration")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of all sections but open and tabs (3)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measure of CPU (5)")
    parser.add_argument(
        "--pairs", type=int, default=7, help="of moves with open pages and without them (7)"
    )
    parser.add_argument("--objects", type=int, default=4000, help="of a tree at full speed (4000)")
    parser.add_argument("--tab-seconds", type=float, default=120.0, help="of open tabs (120)")
    parser.add_argument("--ledgers", default="SQLite,PostgreSQL")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all files go")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put each table between the marks of its section"
    )
    args = parser.parse_args()
    wrong = set(args.only.split(",")) - set(SECTIONS)
    if wrong:
        parser.error(f"{min(wrong)!r} is not one of {', '.join(SECTIONS)}")
    return args


def main() -> int:
    """Print the tables; 0 if all was measured, 1 if a section failed, 2 if it can't be run, 130 on
    Ctrl-C."""
    run, code = Run(arguments()), 2
    # SIGTERM unwinds as Ctrl-C does, which stops and removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for section in run.args.only.split(","):
            check_outputs(run.args.write, opening=marks(section)[0], closing=marks(section)[1])
        with tempfile.TemporaryDirectory(
            prefix="relay-page-", dir=run.args.folder, ignore_cleanup_errors=True
        ) as home:
            code = 0 if run.measure(Path(home)) else 1
    except (BenchError, OSError) as error:
        print(f"bench-page: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("bench-page: stopped", file=sys.stderr)
        code = 130
    for section in run.tables:
        print(run.block(section))
    return code


if __name__ == "__main__":
    sys.exit(main())
