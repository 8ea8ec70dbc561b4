"""`make test`: all tests but the campaigns, whose files some processes share. `make test-all` has
the campaigns too.

Most tests wait for something, so there are three processes for each core, and one more
(`tests/sharing.py`). Tests that failed run once more, alone: real servers, kills and clocks share
the cores, and a test that passes then is printed as shaky, by name. Load does not explain more than
`FEW` failures, which stay failures.

`--tls` runs the tests of the wire, the faults and the stores with the other TLS library: the one that
RELAY_TLS=auto does not take on this machine.

Words on the command line are for pytest, in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PROCESSES = min(3 * len(os.sched_getaffinity(0)) + 1, 8)
"""Each takes up to a GB of memory."""
FEW = 4
"""Maximum number of failed tests of a run that are run again alone, to prove that only the load
made them fail."""
ALL, TLS = "--all", "--tls"
OVER_TLS = ("unit/test_tls.py", "unit/test_wire_*.py", "unit/test_pump.py", "faults/test_*.py")
"""The tests that `--tls` runs, and those of the stores' contract."""
CAMPAIGNS = ("-m", "not campaign")
"""Options that leave out the campaigns: many seeds, and the tests of the benchmarks."""


def pytest(*words: str) -> int:
    """Run pytest, and return its exit code.

    Tests start hundreds of commands and servers. Each would compile relay again if the user's
    environment forbids Python to keep compiled modules beside the sources; so they are kept with
    pytest's cache."""
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(TESTS.parent / ".pytest_cache/compiled"),
    }
    environment = os.environ | (compiled if "PYTHONDONTWRITEBYTECODE" in os.environ else {})
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, cwd=TESTS.parent, env=environment, check=False).returncode


def last_failures() -> list[str]:
    """Return the names of the tests that failed in the last run; none if pytest recorded none."""
    try:
        return list(json.loads((TESTS.parent / ".pytest_cache/v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return []


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Return 0 when every test passed, else pytest's own code."""
    if list(words) == [TLS]:
        return run_over_other_tls()
    if words and list(words) != [ALL]:
        return pytest(*words)
    say(f"running the tests in {PROCESSES} processes; each file is printed when it has ended …")
    shared = ("-p", "tests.sharing", "--share", str(PROCESSES), "--durations=25", "--cache-clear")
    code = pytest(*shared, *(() if words else CAMPAIGNS))
    # Code 1: tests ran to the end and some failed. Load does not explain a crash, a broken import
    # or a signal.
    failed = last_failures() if code == 1 else []
    if 0 < len(failed) <= FEW:
        say(f"\n== once more, alone: {' '.join(failed)}")
        if not pytest("-p", "no:cacheprovider", *failed):
            say(f"\nSHAKY, passed alone the second time: {' '.join(failed)}")
            return 0
    return code


def run_over_other_tls() -> int:
    """Run the tests that move bytes over TLS with the library that `auto` does not take."""
    from relay.config import TlsLibrary
    from relay.wire.tls.choice import library_name

    other = next(
        one
        for one in (TlsLibrary.SSL, TlsLibrary.PYOPENSSL)
        if library_name(one) != library_name(TlsLibrary.AUTO)
    )
    say(f"running the tests of the wire, the faults and the stores with {library_name(other)} …")
    os.environ["RELAY_TLS"] = other
    files = [str(file) for pattern in OVER_TLS for file in TESTS.glob(pattern)]
    files += [str(file) for file in TESTS.glob("contract/test_*.py") if "ledger" not in file.name]
    return pytest("-p", "tests.sharing", "--share", str(PROCESSES), "--cache-clear", *sorted(files))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
