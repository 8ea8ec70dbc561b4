"""`make bench`: relay beside rclone, curl, the naive loop and the simplest loops in C; prints a
Markdown table."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NoReturn

from loadtests.bench.baseline import build
from loadtests.bench.concurrent import AT_ONCE, run_hub, run_memory
from loadtests.bench.contestants import Programs, baselines, movers, relay_by_ssl
from loadtests.bench.measures import MIB, BenchError, Verdict, compare
from loadtests.bench.nginx import CIPHER, Nginx
from loadtests.bench.processes import raise_open_files
from loadtests.bench.report import CLOSE, OPEN, Report, check_outputs, write_into
from loadtests.bench.sections import LARGE, SMALL, WARM, Section, all_sections
from loadtests.bench.server import Relay
from loadtests.bench.streams import FILES_PER_STREAM, SIZE, run_streams
from loadtests.bench.throughput import run_rounds
from loadtests.bench.tools import ROOT, Tools, find_tools, versions

COMPARED = ("plain", "tls", "eight", "eight-tls", "small", "small-tls")
SECTIONS = (*COMPARED, "memory", "hub", "streams")
SCHEMES = ("http", "https")
MOST_CPU = {"plain": 0.55, "tls": 0.90}
MOST_OF_BASELINE = {"plain": 1.25, "tls": 1.20}
WARM_SIZE = MIB
TICKING = "loadtests/bench/ticking.conf.py"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=__doc__)
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("2GiB"), help="of the object (2GiB)"
    )
    parser.add_argument(
        "--naive-size", type=parse_size, default=parse_size("256MiB"), help="for the naive loop"
    )
    parser.add_argument("--small", type=int, default=2000, help="how many objects of 64 KiB (2000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", type=parse_sections, default=SECTIONS, help=f"of {','.join(SECTIONS)}"
    )
    parser.add_argument("--streams", type=int, default=2000, help="slow streams at once (2000)")
    parser.add_argument(
        "--hub-seconds", type=float, default=10.0, help="seconds of requests to /healthz"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds that one move may take"
    )
    parser.add_argument(
        "--cipher", default=CIPHER, help=f"TLS 1.3 suite for all ({CIPHER}); '' for each one's own"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where files go; should be memory"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE.md", help=f"put the result between {OPEN} and {CLOSE}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample too")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed, too")
    return parser.parse_args(words)


def parse_size(text: str) -> int:
    """Read `64MiB`, `2GiB`, or bytes."""
    found = re.fullmatch(r"(\d+)(?:([KMG])iB)?", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 64MiB or 2GiB")
    return int(found[1]) << {None: 0, "K": 10, "M": 20, "G": 30}[found[2]]


def parse_sections(text: str) -> tuple[str, ...]:
    """Read a list of sections."""
    names = tuple(text.split(","))
    wrong = [name for name in names if name not in SECTIONS]
    if wrong:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(SECTIONS)}")
    return names


def say(text: str) -> None:
    """Print the progress."""
    print(text, file=sys.stderr, flush=True)


def check(args: argparse.Namespace) -> Tools:
    """Return the tools. Raises BenchError for a problem that would only show at the end, or
    never."""
    tools = find_tools()
    check_outputs(args.write, args.json)
    if not (ROOT / "deploy" / "gunicorn.conf.py").is_file():
        raise BenchError("deploy/gunicorn.conf.py is missing: is this a checkout of relay?")
    # Room for the large object and its copies, the object of the naive loop, both sides of the many
    # objects, and the streams.
    large = AT_ONCE if {"memory", "hub"} & set(args.only) else 1
    many = sum(2 * section.bytes for section in _chosen_sections(args) if section.count > 1)
    needed = (large + 1) * args.size + args.naive_size + many + args.streams * SIZE + 64 * MIB
    free = shutil.disk_usage(args.folder).free
    if free < needed:
        raise BenchError(
            f"{args.folder} has {free // MIB} MiB free and {needed // MIB} are needed: give a"
            " smaller --size"
        )
    return tools


def _chosen_sections(args: argparse.Namespace) -> list[Section]:
    return [
        section
        for name, section in all_sections(args.size, args.small).items()
        if name in args.only
    ]


def run(args: argparse.Namespace, tools: Tools, folder: Path) -> Report:
    """Run the sections in a folder that the caller removes."""
    sections = _chosen_sections(args)
    report = Report(tuple(sections), args.rounds, versions(tools), bool(args.cipher))
    if "streams" in args.only:
        raise_open_files(args.streams * FILES_PER_STREAM + 1024)
    with ExitStack() as stack:
        sizes = {
            section.folder: section.size for section in all_sections(args.size, args.small).values()
        }
        clouds = stack.enter_context(closing(Nginx(tools.nginx, folder, sizes, args.cipher)))
        for name, size in _objects(args, sections).items():
            clouds.write_source(name, size)
        if set(args.only) - {"streams"}:
            with closing(Relay(folder, clouds.ca, args.timeout)) as relay:
                _measure_relay(args, tools, clouds, relay, report)
        if "streams" in args.only:
            report.verdicts += _measure_guarded(
                "streams", lambda: run_streams(clouds, args.streams, max(args.timeout, 120.0), say)
            )
    return report


def _objects(args: argparse.Namespace, sections: list[Section]) -> dict[str, int]:
    """Return the source's objects and their sizes."""
    single = {LARGE: args.size, SMALL: _small(args), WARM: WARM_SIZE}
    return single | {f"{s.folder}/{name}": s.size for s in sections for name in s.names}


def _small(args: argparse.Namespace) -> int:
    return int(min(args.naive_size, args.size))


def _measure_relay(
    args: argparse.Namespace, tools: Tools, clouds: Nginx, relay: Relay, report: Report
) -> None:
    for scheme in SCHEMES:
        relay.migrate(
            clouds.source_url(scheme, WARM), clouds.destination_url(scheme, "warm.bin"), "auto"
        )
    if "memory" in args.only:  # first, while the worker is as small as it will ever be
        report.verdicts += _measure_guarded(
            "memory", lambda: run_memory(relay, clouds, SCHEMES, args.size, say)
        )
    if report.sections:
        _compare(args, tools, clouds, relay, report)
    if "hub" in args.only:
        report.verdicts += _measure_guarded("hub", lambda: _hub(args, clouds))


def _compare(
    args: argparse.Namespace, tools: Tools, clouds: Nginx, relay: Relay, report: Report
) -> None:
    """Run every mover of every requested section."""
    programs = Programs(tools, clouds, args.timeout)
    built, missing = build(clouds.folder)
    for line in missing:
        say(line)
    with ExitStack() as stack:
        two = stack.enter_context(
            closing(Relay(clouds.folder, clouds.ca, args.timeout, {"RELAY_WORKERS": "2"}))
        )
        contestants = movers(relay, two, programs) + baselines(programs, built)
        if any(section.scheme == "https" for section in report.sections):
            other = {"RELAY_TLS": "ssl"}
            second = stack.enter_context(
                closing(Relay(clouds.folder, clouds.ca, args.timeout, other))
            )
            contestants.insert(1, relay_by_ssl(second))
        report.rows = run_rounds(
            contestants, clouds, report.sections, args.rounds, _small(args), say
        )
    report.verdicts[:0] = [
        verdict
        for section in MOST_CPU
        for verdict in compare(report.rows, section, MOST_CPU[section], MOST_OF_BASELINE[section])
    ]


def _hub(args: argparse.Namespace, clouds: Nginx) -> list[Verdict]:
    """Start another relay, with the ticker."""
    ticks = clouds.folder / "ticks"
    settings = {"BENCH_TICKS": str(ticks)}
    with closing(Relay(clouds.folder, clouds.ca, args.timeout, settings, TICKING)) as relay:
        return run_hub(relay, ticks, clouds, SCHEMES, args.hub_seconds, say)


def _measure_guarded(section: str, measure: Callable[[], list[Verdict]]) -> list[Verdict]:
    """Let one section fail without losing the others."""
    try:
        return measure()
    except BenchError as error:
        say(f"{section} FAILED: {error}")
        return [
            Verdict(
                section,
                f"failed: {' '.join(str(error).replace('|', '/').split())}",
                "to be measured",
                False,
            )
        ]


def _stop_at_signal(*_: object) -> NoReturn:
    """Unwind, which stops and removes everything; it is not interrupted, and takes a bounded
    time."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Return 0 if all was measured and arrived whole, 1 if not, 2 if it cannot be run, 130 on
    Ctrl-C."""
    args = arguments()
    for number in _SIGNALS:
        signal.signal(number, _stop_at_signal)
    try:
        tools = check(args)
        with tempfile.TemporaryDirectory(
            prefix="relay-bench-", dir=args.folder, ignore_cleanup_errors=True
        ) as folder:
            report = run(args, tools, Path(folder))
        block = report.markdown()
        print(block, end="")
        if args.json:
            args.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
        if args.write:
            write_into(args.write, block)
    except (BenchError, OSError) as error:
        say(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        say("bench: stopped")
        return 130
    missed = [verdict.what for verdict in report.verdicts if not verdict.met]
    for what in missed:
        say(f"missed: {what}")
    return 0 if report.is_sound and not (missed and args.strict) else 1


if __name__ == "__main__":
    sys.exit(main())
