"""`make test`: all tests, in two processes at a time, since there are two cores and most tests wait for something.

Tests that failed beside the other share run once more, alone: real servers, kills and clocks share two cores here, and
a test that passes then is printed as shaky, by name. More than `FEW` failures are no matter of load, and stay failures.

(Not by pytest's own plugin for that: its workers wait in ways that gevent, which most tests patch in, turns into waits
on a loop that nothing runs.) Words on the command line are for pytest, in one process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

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


PROGRESS = re.compile(rb"(tests/\S+ )?[.sxXFE]+ +\[ *\d+%\]")
"""A line of dots of pytest, which is printed at once. All other lines of a share stay together, and come at its end."""


class Running:
    """One share under way: its process, and the file that takes its output, which is read while it grows."""

    def __init__(self, number: int) -> None:
        """Start pytest on one share, with a fresh cache of its own."""
        shutil.rmtree(cache_of(number), ignore_errors=True)
        cache = ["-o", f"cache_dir={cache_of(number)}"]
        words = [sys.executable, "-m", "pytest", "--durations=12", *cache, *files_of(SHARES[number])]
        self.number = number
        # A file and no pipe: a server that a killed test leaves behind would hold a pipe open.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._printed = 0
        self._kept: list[bytes] = []
        self.process = subprocess.Popen(words, stdout=self._output, stderr=self._output, cwd=TESTS.parent)

    def progress(self) -> Iterator[bytes]:
        """Yield the lines of dots that came since the last call; keep the others."""
        new = os.pread(self._output.fileno(), 1 << 24, self._printed)
        new = new[: new.rfind(b"\n") + 1]
        self._printed += len(new)
        for line in new.splitlines(keepends=True):
            if PROGRESS.match(line):
                yield line
            else:
                self._kept.append(line)

    def close(self) -> bytes:
        """Return the kept lines, and the last one even where it has no end."""
        with self._output:
            return b"".join(self._kept) + os.pread(self._output.fileno(), 1 << 24, self._printed)


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


def write(text: bytes) -> None:
    """Print bytes at once."""
    sys.stdout.buffer.write(text)
    sys.stdout.flush()


def ends(waiting: list[int]) -> Iterator[Running]:
    """Run the shares, `AT_A_TIME` at a time, print their dots as they come, and yield each when it has ended."""
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            running.append(Running(waiting.pop(0)))
        ended = [one for one in running if one.process.poll() is not None]
        for one in running:
            write(b"".join(one.progress()))
        running = [one for one in running if one not in ended]
        yield from ended
        time.sleep(0 if ended else 0.2)


def pass_alone(failed: Sequence[str]) -> bool:
    """Run failed tests once more, with nothing beside them, and return whether all of them pass."""
    write(f"\n== once more, alone: {' '.join(failed)}\n".encode())
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *failed]
    return subprocess.run(words, cwd=TESTS.parent, check=False).returncode == 0


def main(words: Sequence[str]) -> int:
    """Return 0 when every test passed, else pytest's own code."""
    if words:
        return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode
    codes, failed, began = set[int](), list[str](), time.monotonic()
    write(f"running the tests, {AT_A_TIME} processes at a time …\n".encode())
    for ended in ends(list(range(len(SHARES)))):
        write(
            f"\n== {' '.join(SHARES[ended.number])}, after {time.monotonic() - began:.0f} s\n".encode() + ended.close()
        )
        codes.add(ended.process.returncode)
        failed += failed_in(ended.number)
    if codes <= {0}:
        return 0
    # Code 1: tests ran to the end and some failed. A crash, a broken import or a signal is no matter of load.
    if codes <= {0, 1} and 0 < len(failed) <= FEW and pass_alone(failed):
        write(f"\nSHAKY, passed alone the second time: {' '.join(failed)}\n".encode())
        return 0
    return max(codes, key=abs)  # a signal's code is negative


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
