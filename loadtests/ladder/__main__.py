"""`make ladder`: every rung on the same objects between the same two simulated clouds; a table and
a chart."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path
from typing import Any

from loadtests.bench.measures import MIB, BenchError, figure_text
from loadtests.bench.report import check_outputs, machine, write_into
from loadtests.bench.server import Relay
from loadtests.bench.tools import ROOT, python_versions
from loadtests.ladder.chart import draw
from loadtests.ladder.measure import RUNGS, Objects, Row, run_rung
from simulators.quantities import parse_bytes
from simulators.spawn import NotStarted, spawn

OPEN, CLOSE = "<!-- ladder -->", "<!-- /ladder -->"
NUMBERS = tuple(rung.number for rung in RUNGS)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.ladder", description=__doc__)
    parser.add_argument("--objects", type=int, default=24, help="how many (24)")
    parser.add_argument("--min", type=parse_bytes, default=parse_bytes("1MB"), metavar="SIZE")
    parser.add_argument("--max", type=parse_bytes, default=parse_bytes("200MB"), metavar="SIZE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="interleaved (2)")
    parser.add_argument(
        "--only", type=numbers, default=NUMBERS, metavar="1,7,8b", help="these rungs only"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds that one rung may take (300)"
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "out", help="where the disk is that rungs 1 to 5 use"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE.md", help=f"put the table between {OPEN} and {CLOSE}"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.svg")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def numbers(text: str) -> tuple[str, ...]:
    """Read a list of rungs."""
    wanted = tuple(text.split(","))
    wrong = [number for number in wanted if number not in NUMBERS]
    if wrong:
        raise argparse.ArgumentTypeError(
            f"unknown rung {wrong[0]!r}; the rungs are {', '.join(NUMBERS)}"
        )
    return wanted


def climb(args: argparse.Namespace, objects: Objects, folder: Path) -> list[Row]:
    """Run the rungs, interleaved; one that failed is not tried again."""
    rows = [Row(rung, objects) for rung in RUNGS if rung.number in args.only]
    with ExitStack() as stack:
        logs = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ladder-", dir=memory_folder()))
        )
        clouds = (
            stack.enter_context(spawn("src", "--seed", str(objects.seed))),
            stack.enter_context(spawn("dst", "--digest", "crc32c")),
        )
        relays = {
            count: stack.enter_context(
                closing(Relay(logs, None, args.timeout, {"RELAY_WORKERS": str(count)}))
            )
            for count in {row.rung.workers for row in rows} - {0}
        }
        for number in range(args.rounds):
            turn = number % len(rows)
            for row in rows[turn:] + rows[:turn]:
                if row.failure is None:
                    try:
                        row.samples.append(
                            run_rung(row.rung, objects, clouds, relays, folder, args.timeout)
                        )
                    except BenchError as error:
                        row.failure = str(error)
                    say(
                        f"round {number + 1}/{args.rounds} rung {row.rung.number:2} {latest_line(row)}"
                    )
    return rows


def memory_folder() -> str | None:
    """Return a folder in memory for logs, so that a worker writes only payload to the disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def latest_line(row: Row) -> str:
    """Return the last run in a line."""
    if row.failure:
        return f"FAILED: {row.failure}"
    sample = row.samples[-1]
    return (
        f"{sample.wall:7.2f} s wall {sample.cpu:7.2f} s CPU  {sample.whole} of"
        f" {len(row.objects.sizes)} whole"
    )


def table(rows: list[Row], rounds: int) -> str:
    """Return the Markdown table."""
    objects = rows[0].objects
    used = ", ".join(f"{name} {number}" for name, number in python_versions().items())
    lines = [
        (
            f"`make ladder` on {date.today().isoformat()}: {len(objects.sizes)} objects,"
            f" {objects.bytes / 1e6:,.0f} MB, medians of {rounds} interleaved rounds, on"
            f" {machine()}; {used}."
        ),
        "",
        "| rung | | MB/s | CPU-s/GiB | to the disk | peak RSS | whole |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            row.rung.number,
            row.rung.idea + (f" (failed: {row.failure})" if row.failure else ""),
            figure_text(row.rate),
            figure_text(row.cpu),
            f"{row.disk / 1e6:,.0f} MB",
            f"{row.peak / MIB:.0f} MiB",
            f"{row.whole} of {len(objects.sizes)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdicts(rows: list[Row]) -> list[tuple[str, bool]]:
    """Return the expectations of the ladder, and whether they hold; nothing about rungs that did
    not run."""
    by_number = {row.rung.number: row for row in rows}
    found: list[tuple[str, bool]] = []
    naive, gevent, relay = (by_number.get(number) for number in ("1", "7", "8b"))
    if relay and naive and relay.rate and naive.rate:
        times = relay.rate / naive.rate
        found.append(
            (
                f"relay with two workers is {times:.1f} times as fast as rung 1 (at least 10)",
                times >= 10,
            )
        )
    if relay and gevent and relay.cpu and gevent.cpu:
        share = relay.cpu / gevent.cpu
        found.append((f"relay has {share:.3f} of rung 7's CPU (at most 0.1)", share <= 0.1))
    for row in rows:
        if row.rung.workers:
            found.append(
                (f"rung {row.rung.number} wrote {row.disk} bytes to the disk (0)", row.disk == 0)
            )
        found.append(
            (
                f"rung {row.rung.number}: {row.whole} objects whole",
                row.whole == len(row.objects.sizes),
            )
        )
    return found


def say(text: str) -> None:
    """Print the progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Return 0 when the ladder shows what it must, 1 when not, 2 when it cannot be run, 130 on
    Ctrl-C."""
    args = arguments()
    # SIGTERM unwinds as Ctrl-C does, which stops and removes everything.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    objects = Objects.chosen(args.seed, args.objects, args.min, max(args.min, args.max))
    try:
        check_outputs(args.write, args.chart, args.json, opening=OPEN, closing=CLOSE)
        args.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(args.folder).free
        if free < objects.bytes + 64 * MIB:
            raise BenchError(
                f"{args.folder} has {free // MIB} MiB free and {objects.bytes // MIB + 64} are"
                " needed"
            )
        with tempfile.TemporaryDirectory(
            prefix="ladder-", dir=args.folder, ignore_cleanup_errors=True
        ) as folder:
            rows = climb(args, objects, Path(folder))
        text = table(rows, args.rounds)
        print(text, end="")
        _write(args, rows, text)
    except (BenchError, NotStarted, OSError) as error:
        say(f"ladder: {error}")
        return 2
    except KeyboardInterrupt:
        say("ladder: stopped")
        return 130
    found = verdicts(rows)
    for what, met in found:
        say(f"{'yes' if met else 'NO '} {what}")
    return 0 if all(met for _, met in found) else 1


def _write(args: argparse.Namespace, rows: list[Row], text: str) -> None:
    if args.chart:
        caption = (
            f"{len(rows[0].objects.sizes)} objects, {rows[0].objects.bytes / 1e6:,.0f} MB,"
            f" {machine()}, {date.today()}"
        )
        args.chart.write_text(draw(rows, caption), encoding="utf-8")
    if args.json:
        args.json.write_text(
            json.dumps([_plain_members(row) for row in rows], indent=1) + "\n", encoding="utf-8"
        )
    if args.write:
        write_into(args.write, text, OPEN, CLOSE)


def _plain_members(row: Row) -> dict[str, Any]:
    return {
        "rung": row.rung.number,
        "failure": row.failure,
        "samples": [vars(sample) for sample in row.samples],
    }


if __name__ == "__main__":
    sys.exit(main())
