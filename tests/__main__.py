"""`make test`: all tests, in two processes at a time, since there are two cores and most tests wait for something.

Tests that failed beside the other share run once more, alone: real servers, kills and clocks share two cores here, and
a test that passes then is printed as shaky, by name. More than `FEW` failures are no matter of load, and stay failures.

(Not by pytest's own plugin for that: its workers wait in ways that gevent, which most tests patch in, turns into waits
on a loop that nothing runs.) Words on the command line are for pytest, in one process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TESTS = Path(__file__).resolve().parent
AT_A_TIME = 2
FEW = 4
"""How many failed tests of one run may prove alone that only the load made them fail."""
SHARES: tuple[tuple[str, ...], ...] = (
    ("faults/test_*.py", "properties/test_*.py"),
    ("end_to_end/test_[m-z]*.py",),
    ("end_to_end/test_[a-l]*.py",),
    ("contract/test_*.py",),
    ("torture/test_*.py",),
    ("unit/test_*.py",),
)
"""The files that one process runs, by patterns; the longest share first, so that both processes end together."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """One share under way, and the file that takes what it says."""

    number: int
    share: tuple[str, ...]
    process: subprocess.Popen[bytes]
    said: IO[bytes]


def files_of(share: Sequence[str]) -> list[str]:
    """Return the test files of a share, relative to the repository, in the order of their names."""
    return [f"tests/{path.relative_to(TESTS)}" for pattern in share for path in sorted(TESTS.glob(pattern))]


def cache_of(number: int) -> Path:
    """Return where pytest keeps which tests of a share failed."""
    return TESTS.parent / ".pytest_cache" / str(number)


def failed_in(number: int) -> list[str]:
    """Return the names of the tests of a share that failed; none where pytest could not say."""
    try:
        return list(json.loads((cache_of(number) / "v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return []


def start(number: int) -> Running:
    """Start pytest on one share, with a fresh cache of its own."""
    shutil.rmtree(cache_of(number), ignore_errors=True)
    said = tempfile.TemporaryFile()  # noqa: SIM115 - `report` closes it
    cache = ["-o", f"cache_dir={cache_of(number)}"]
    words = [sys.executable, "-m", "pytest", *cache, *files_of(SHARES[number])]
    process = subprocess.Popen(words, stdout=said, stderr=said, cwd=TESTS.parent)
    return Running(number=number, share=SHARES[number], process=process, said=said)


def report(ended: Running, seconds: float) -> None:
    """Print what a share said."""
    sys.stdout.write(f"\n== {' '.join(ended.share)}, after {seconds:.0f} s\n")
    sys.stdout.flush()
    with ended.said:
        ended.said.seek(0)
        sys.stdout.buffer.write(ended.said.read())
    sys.stdout.flush()


def ends(waiting: list[int]) -> Iterator[Running]:
    """Run the shares, `AT_A_TIME` at a time, and yield each when it has ended."""
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            running.append(start(waiting.pop(0)))
        ended = [one for one in running if one.process.poll() is not None]
        running = [one for one in running if one not in ended]
        yield from ended
        time.sleep(0 if ended else 0.2)


def pass_alone(failed: Sequence[str]) -> bool:
    """Run failed tests once more, with nothing beside them, and return whether all of them pass."""
    sys.stdout.write(f"\n== once more, alone: {' '.join(failed)}\n")
    sys.stdout.flush()
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *failed]
    return subprocess.run(words, cwd=TESTS.parent, check=False).returncode == 0


def main(words: Sequence[str]) -> int:
    """Return 0 when every test passed, else pytest's own code; the output of a share comes when it has ended."""
    if words:
        return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode
    codes, failed, began = set[int](), list[str](), time.monotonic()
    sys.stdout.write("running the tests, in two processes; their output comes when they have ended …\n")
    sys.stdout.flush()
    for ended in ends(list(range(len(SHARES)))):
        report(ended, time.monotonic() - began)
        codes.add(ended.process.returncode)
        failed += failed_in(ended.number)
    if codes <= {0}:
        return 0
    # Code 1: tests ran to the end and some failed. A crash, a broken import or a signal is no matter of load.
    if codes <= {0, 1} and 0 < len(failed) <= FEW and pass_alone(failed):
        sys.stdout.write(f"\nSHAKY, passed alone the second time: {' '.join(failed)}\n")
        return 0
    return max(codes, key=abs)  # a signal's code is negative


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
