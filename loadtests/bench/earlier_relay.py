"""relay of an earlier commit as a mover beside the current one. Python and the libraries are the
same for both, so only relay's own code is compared.

Decided here: which code a mover runs. Never here: what it moves; its options are those of the
current relay.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loadtests.bench.measures import BenchError
from loadtests.bench.programs import RELAY
from loadtests.bench.runs import Program, Section
from loadtests.bench.tools import ROOT


def extract_code(commit: str, folder: Path) -> Path:
    """Extract relay's code of a commit into a folder, and return it. Raises BenchError for an
    unknown commit, or one without relay."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "relay"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"{commit}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def add_earlier_relay(section: Section, code: Path, commit: str) -> None:
    """Add a mover with the extracted `code` after each relay of the section that is one process."""
    movers = []
    for mover in section.movers:
        movers.append(mover)
        if isinstance(mover, Program) and _is_relay(mover):
            earlier = _program_with(mover, code, commit)
            movers.append(earlier)
            if mover.name in section.lines:
                section.lines = {**section.lines, earlier.name: section.lines[mover.name]}
    section.movers = movers


def _is_relay(mover: Program) -> bool:
    return list(mover.command(""))[: len(RELAY)] == [*RELAY]


def _program_with(relay: Program, code: Path, commit: str) -> Program:
    """Return the program with other code, and a ledger of its own."""

    def command(target: str) -> Sequence[str]:
        # -P: the working folder has the current code, which must not be imported.
        interpreter, *words = relay.command(target)
        return [interpreter, "-P", *words]

    own = {"PYTHONPATH": str(code), "RELAY_LEDGER": f"sqlite:///{code / 'ledger.db'}"}
    name = relay.name.replace("relay", f"relay of {commit}", 1)
    return replace(relay, name=name, command=command, environment=relay.environment | own)
