"""How fast a plan merges two listings, and in how much memory.

python -m tests.plan_bench [--names 100000 1000000] [--json]

Each case runs in a process of its own, without stores: the entries of both listings are made on
the way, and the time for that alone is measured and subtracted. Half of the objects are the same on
both sides, by their MD5s; a quarter differ in size, and a quarter are new. `buckets` list in order,
so that nothing is sorted; `folders` list in another order, so that both sides are sorted on the
disk, and once more for names that may fold. Seconds are CPU seconds of one core."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final

from relay.engine.comparison import Compare
from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Verify
from relay.location import Location
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import Entry, PartLimits
from relay.stores.local_locations import local_location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.transfer_limits import Limits

KINDS: Final = ("buckets", "folders")
NAMES: Final = (100_000, 1_000_000)
PAIRS_PER_SECOND: Final = 60_000
PEAK_MIB, GROWTH_MIB = 150, 10
"""The budgets: pairs a second on one core, peak memory, and its growth from the smallest to the
largest number of names."""


@dataclass(frozen=True)
class Listed:
    """A store that lists made-up objects, and answers nothing else."""

    count: int
    is_source: bool
    in_order: bool

    def list(self, *_: Any, **__: Any) -> Iterator[Entry]:
        """Yield the entries."""
        step = 1 if self.in_order else 7919  # prime to the numbers of names
        for place in range(self.count):
            number = place * step % self.count
            kind = number % 4
            if kind == 3 and not self.is_source:
                continue
            size = 1000 + (kind == 2 and not self.is_source)
            yield Entry(f"photos/{number // 1000:05}/IMG_{number:08}.jpg", size, f'"{number:032x}"')

    def lists_all(self, _: Location) -> bool:
        """Return True: the listing is complete."""
        return True

    def part_limits(self, _: Location) -> PartLimits | None:
        """Return None: there are no parts."""
        return None


@dataclass(frozen=True)
class Stores:
    """Both stores."""

    ours: Listed
    theirs: Listed

    def source(self, *_: Any) -> Any:
        """Return the source."""
        return self.ours

    def destination(self, *_: Any) -> Any:
        """Return the destination."""
        return self.theirs


def run_case(kind: str, count: int, folder: Path) -> dict[str, Any]:
    """Return the measures of one plan, in this process."""
    in_order = kind == "buckets"
    stores = Stores(Listed(count, True, in_order), Listed(count, False, in_order))
    began = process_time()
    names = sum(1 for store in (stores.ours, stores.theirs) for _ in store.list())
    making = process_time() - began
    space = SpillSpace(folder, 8 << 30)
    dry_run = DryRun(_job_of(kind, folder), stores, limits=Limits(), space=space, sample=0)
    began = process_time()
    report = dry_run.run()
    seconds = process_time() - began - making
    assert report.objects == count and not report.incomplete
    return {
        "kind": kind,
        "names": count,
        "rows": names,
        "seconds": round(seconds, 2),
        "pairs_per_second": round(count / seconds),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _job_of(kind: str, folder: Path) -> MigrationJob:
    if kind == "buckets":
        config = S3Config(Signer(lambda: AwsCredentials("K", "S"), "eu-central-1"))
        places = s3_location(config, "here", "a/"), s3_location(config, "there", "a/")
    else:
        places = (
            local_location(folder / "a", destination=False).folder(),
            local_location(folder / "b", destination=True).folder(),
        )
    return MigrationJob(
        id="bench",
        source=places[0],
        destination=places[1],
        recursive=True,
        verify=Verify.AUTO,
        if_exists=IfExists.CHANGED,
        compare=Compare.AUTO if kind == "buckets" else Compare.SIZE,
    )


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Measure all cases, and print them beside the budgets; return 0."""
    parser = argparse.ArgumentParser(description="Measure the merge of a plan.")
    parser.add_argument("--names", type=int, nargs="+", default=list(NAMES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", choices=KINDS)
    asked = parser.parse_args(words)
    if asked.case is not None:
        with TemporaryDirectory() as folder:
            _tell(json.dumps(run_case(asked.case, asked.names[0], Path(folder))))
        return 0
    for kind in KINDS:
        first: float | None = None
        for count in asked.names:
            words = ["-m", "tests.plan_bench", "--case", kind, "--names", str(count)]
            done = subprocess.run([sys.executable, *words], check=True, capture_output=True)
            found = json.loads(done.stdout)
            growth = None if first is None else round(found["peak_mib"] - first, 1)
            first = found["peak_mib"] if first is None else first
            if asked.json:
                _tell(json.dumps({**found, "growth_mib": growth}))
                continue
            grown = "" if growth is None else f", {growth:+.1f} (budget {GROWTH_MIB:+})"
            _tell(
                f"{kind:<8} {count:>9,} names: {found['pairs_per_second']:>8,} pairs/s"
                f" (budget {PAIRS_PER_SECOND:,}), peak {found['peak_mib']:.1f} MiB"
                f" (budget {PEAK_MIB}){grown}"
            )
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
