"""`make torture`: play seeds, judge them, print the habits that occurred, and shrink those that
fail. Decided here: the number of processes, and the output. Never here: the rules.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulators.liars.habits import HABITS
from tests.torture.cases import Case, draw
from tests.torture.commands import ROOT, Zygote
from tests.torture.judge import EXPECTED, Violation, judge
from tests.torture.planted import prove
from tests.torture.world import Played, empty_ledger, play

TABLE, FULL = 100, 2000
"""The number of seeds from which a table is printed, and the number from which a habit that never
occurred is a failure."""
SHRINKS = 3
"""How often a smaller case is played before it counts as passing: some violations depend on
chance."""


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@dataclass
class SeedReport:
    """A worker's report of one seed."""

    seed: int
    case: Case
    violations: list[Violation]
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    output: str = ""


def tell(case: Case, played: Played, seconds: float) -> SeedReport:
    """Judge a played case."""
    met: Counter[tuple[str, str]] = Counter()
    for role, store in (("source", played.source), ("destination", played.destination)):
        met.update({(role, habit): 1 for habit in store.store_habits.met})
    codes = Counter(row.code for row in played.rows.values() if row.code)
    if played.migration.get("error"):
        codes[json.loads(played.migration["error"])["code"]] += 1
    violations = judge(played)
    return SeedReport(
        case.seed, case, violations, met, codes, seconds, story(played) if violations else ""
    )


def story(played: Played) -> str:
    """Return the history of a case, for a reader."""
    lines = [f"  rows: {row}" for row in played.rows.values()]
    lines += [f"  $ {' '.join(run.words)} -> {run.code} {run.err[-400:]}" for run in played.runs]
    for role, store in (("source", played.source), ("destination", played.destination)):
        asked = " ".join(
            f"{sent.op.kind}({sent.op.name[-20:]}){sent.status or ''}" for sent in store.log[-60:]
        )
        lines.append(f"  {role}: {asked}")
    for event in played.destination.shelf.events:
        there = None if event.held is None else f"{len(event.held.data)} bytes of {event.held.by}'s"
        lines.append(f"  event: {event.name!r} by {event.by} ({event.why}): {there}")
    return "\n".join(lines)


class Worker:
    """Plays seeds, several at a time, with a zygote of its own."""

    def __init__(
        self, seeds: Any, reports: Any, threads: int, checkout: Path, shrinks: bool
    ) -> None:
        self._seeds, self._reports, self._threads, self._shrinks = seeds, reports, threads, shrinks
        self._checkout = checkout

    def run(self) -> None:
        """Play until all seeds are played."""
        with tempfile.TemporaryDirectory() as folder, Zygote(self._checkout) as zygote:
            template = empty_ledger(zygote, Path(folder))
            work = [
                threading.Thread(target=self._work, args=(zygote, template))
                for _ in range(self._threads)
            ]
            for thread in work:
                thread.start()
            for thread in work:
                thread.join()

    def _work(self, zygote: Zygote, template: Path) -> None:
        while (seed := self._seeds.get()) is not None:
            report = play_case(draw(seed), zygote, template)
            if report.violations and self._shrinks:
                report = shrunk(report, zygote, template)
            self._reports.put(report)


def play_case(case: Case, zygote: Zygote, template: Path) -> SeedReport:
    """Play and judge one case; an error of the model itself is a violation too."""
    began = time.monotonic()
    try:
        return tell(case, play(case, zygote, template), time.monotonic() - began)
    except Exception as error:  # noqa: BLE001 - the report names the seed
        return SeedReport(case.seed, case, [Violation("model", f"{type(error).__name__}: {error}")])


def shrunk(report: SeedReport, zygote: Zygote, template: Path) -> SeedReport:
    """Remove habits one by one, as long as one of the broken rules stays broken."""
    rules = {violation.rule for violation in report.violations}
    best, dropped = report, True
    while dropped:
        dropped = False
        for trait in best.case.traits:
            smaller = best.case.only(tuple(other for other in best.case.traits if other != trait))
            for _ in range(SHRINKS):
                again = play_case(smaller, zygote, template)
                if rules & {violation.rule for violation in again.violations}:
                    best, dropped = again, True
                    break
            if dropped:
                break
    return best


def play_all(
    wanted: Sequence[int], jobs: int, threads: int, checkout: Path, shrinks: bool
) -> Iterator[SeedReport]:
    """Yield the report of each seed as it ends."""
    context = multiprocessing.get_context("fork")
    seeds, reports = context.Queue(), context.Queue()
    for seed in wanted:
        seeds.put(seed)
    for _ in range(jobs * threads):
        seeds.put(None)
    workers = [
        context.Process(target=Worker(seeds, reports, threads, checkout, shrinks).run, daemon=False)
        for _ in range(jobs)
    ]
    for worker in workers:
        worker.start()
    for _ in wanted:
        yield reports.get()
    for worker in workers:
        worker.join()


def main() -> int:
    """Return 0 if no rule was broken."""
    parser = argparse.ArgumentParser(prog="make torture")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument(
        "--no-shrink", action="store_true", help="print a failing seed as it was drawn"
    )
    parser.add_argument("--only", help="these seeds, separated by commas")
    parser.add_argument("--table", action="store_true")
    parser.add_argument(
        "--proof", action="store_true", help="plant faults into copies of relay, and find them"
    )
    asked = parser.parse_args()
    if asked.proof:
        return proof()
    seeds = range(asked.seed, asked.seed + asked.seeds)
    if asked.only:
        seeds = [int(text) for text in asked.only.split(",")]
    began, bad = time.monotonic(), []
    met: Counter[tuple[str, str]] = Counter()
    codes: Counter[str] = Counter()
    jobs = min(asked.jobs, len(seeds))
    threads = min(asked.threads, max(1, len(seeds) // jobs))
    for report in play_all(seeds, jobs, threads, asked.checkout, not asked.no_shrink):
        met += report.met
        codes += report.codes
        if report.violations:
            bad.append(report.seed)
            say(f"seed {report.seed}: {report.case.summary()}")
            for violation in report.violations:
                say(f"  {violation.rule}: {violation.text}")
            say(report.output)
    missing = tables(met, codes) if len(seeds) >= TABLE else []
    for line in missing:
        say(f"never met: {line}")
    seconds = time.monotonic() - began
    say(f"{len(seeds)} seeds in {seconds:.1f} s, {len(bad)} with violations: {sorted(bad)}")
    return 1 if bad or (missing and len(seeds) >= FULL) else 0


def proof() -> int:
    """Find every planted fault. Return 0 if all were found."""
    missed = 0
    for fault, seed in prove():
        missed += seed is None
        say(f"{'missed' if seed is None else f'seed {seed:4}'}: {fault.name}")
    return 1 if missed else 0


def tables(met: Counter[tuple[str, str]], codes: Counter[str]) -> list[str]:
    """Print the number of seeds that met each habit, and of objects with each class of error;
    return the habits and classes that never occurred."""
    drawn = [(role, habit.name) for habit in HABITS for role in habit.roles]
    for role, habit in drawn:
        say(f"{met[role, habit]:6} {role} {habit}")
    for code in sorted({*EXPECTED, *codes}):
        say(f"{codes[code]:6} error {code}")
    never = [f"{role} {habit}" for role, habit in drawn if not met[role, habit]]
    return never + [f"error {code}" for code in EXPECTED if not codes[code]]


if __name__ == "__main__":
    sys.exit(main())
