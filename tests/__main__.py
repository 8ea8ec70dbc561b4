"""`make test`: all tests, in two processes at a time, since there are two cores and most tests wait for something.

(Not by pytest's own plugin for that: its workers wait in ways that gevent, which most tests patch in, turns into waits
on a loop that nobody runs.) Words on the command line are for pytest, in one process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack

SHARES: tuple[tuple[str, ...], ...] = (
    ("tests/end_to_end",),
    ("tests/unit", "tests/contract", "tests/faults", "tests/properties"),
)
"""What each process runs; the two take about as long."""


def main(words: Sequence[str]) -> int:
    """Return 0 when every test passed, else pytest's own code; what a share said comes when it has ended."""
    pytest = [sys.executable, "-m", "pytest"]
    if words:
        return subprocess.run([*pytest, *words], check=False).returncode
    worst, began = 0, time.monotonic()
    sys.stdout.write("running the tests, in two processes; what they say comes when they have ended …\n")
    sys.stdout.flush()
    with ExitStack() as stack:
        running = []
        for number, share in enumerate(SHARES):
            said = stack.enter_context(tempfile.TemporaryFile())
            words = [*pytest, "-o", f"cache_dir=.pytest_cache/{number}", *share]
            running.append((share, subprocess.Popen(words, stdout=said, stderr=said), said))
        for share, process, said in running:
            code = process.wait()
            said.seek(0)
            sys.stdout.write(f"\n== {' '.join(share)}, after {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()
            sys.stdout.buffer.write(said.read())
            sys.stdout.flush()
            worst = worst or code
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
