"""relay and rclone as movers, each started as its users start it. Decided here: their common
options. Never here: which objects are moved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests.bench.processes import clean_environment
from loadtests.bench.runs import Mover, Program

RELAY: Final = (sys.executable, "-m", "relay")
"""How relay is started."""


def relay_mover(
    home: Path,
    environment: dict[str, str],
    words: Callable[[str], Sequence[str]],
    name: str = "relay",
) -> Program:
    """Return relay with its flags `words(target)`, in a ledger of this folder."""

    def command(target: str) -> Sequence[str]:
        return [*RELAY, *words(target)]

    ledger = {"RELAY_LEDGER": f"sqlite:///{home / 'ledger.db'}"}
    return Program(name, command, environment | ledger)


def rclone_mover(
    home: Path, program: str, conf: Path, name: str, words: Callable[[str], Sequence[str]]
) -> Mover:
    """Return rclone with its flags `words(target)`; it copies nothing within a server."""

    def command(target: str) -> Sequence[str]:
        return [program, "--config", str(conf), "--disable", "copy", *words(target)]

    return Program(name, command, clean_environment(home))
