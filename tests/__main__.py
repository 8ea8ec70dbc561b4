"""`make test`: all tests, in two processes at a time, since there are two cores and most tests wait for something.

(Not by pytest's own plugin for that: its workers wait in ways that gevent, which most tests patch in, turns into waits
on a loop that nothing runs.) Words on the command line are for pytest, in one process.
"""

from __future__ import annotations

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

    share: tuple[str, ...]
    process: subprocess.Popen[bytes]
    said: IO[bytes]


def files_of(share: Sequence[str]) -> list[str]:
    """Return the test files of a share, relative to the repository, in the order of their names."""
    return [f"tests/{path.relative_to(TESTS)}" for pattern in share for path in sorted(TESTS.glob(pattern))]


def start(number: int) -> Running:
    """Start pytest on one share, with a cache of its own."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 - `report` closes it
    cache = ["-o", f"cache_dir=.pytest_cache/{number}"]
    words = [sys.executable, "-m", "pytest", *cache, *files_of(SHARES[number])]
    return Running(share=SHARES[number], process=subprocess.Popen(words, stdout=said, stderr=said), said=said)


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


def main(words: Sequence[str]) -> int:
    """Return 0 when every test passed, else pytest's own code; what a share said comes when it has ended."""
    if words:
        return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode
    worst, began = 0, time.monotonic()
    sys.stdout.write("running the tests, in two processes; what they say comes when they have ended …\n")
    sys.stdout.flush()
    for ended in ends(list(range(len(SHARES)))):
        report(ended, time.monotonic() - began)
        worst = worst or ended.process.returncode
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
