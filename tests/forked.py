"""Commands of relay that a test waits for, forked from one process that has imported relay.

A start of relay costs half a second of CPU, nearly all of it imports, and the tests run some
thousand commands. A forked command is a process of its own like any other. Settings that Python
reads at its start (the encoding of names, its own switches) are the forking process's, so a command
whose environment differs in such a variable is started instead.

Decided here: whether a command is forked or started. Never here: its purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.torture.commands import ROOT, Zygote

HARMLESS = ("RELAY_", "AWS_", "XDG_", "HOME", "PYTEST_", "COLUMNS")
"""Variables that are read while a command runs, by the beginnings of their names."""
_zygotes: dict[int, tuple[Zygote, frozenset[tuple[str, str]]]] = {}
"""The forking process of each process, by its id, and the environment in which it was started."""


def run(
    words: Sequence[str], environment: Mapping[str, str], seconds: float, cwd: Path = ROOT
) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and its output. Raises TimeoutExpired."""
    zygote, began = _zygotes.get(os.getpid()) or _begin()
    if _lasting(environment) != began:
        command = [sys.executable, "-m", "relay", *words]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds
        )
        return done.returncode, done.stdout, done.stderr
    with tempfile.TemporaryDirectory(prefix="relay-forked-") as folder:
        ended = zygote.begin(words, Path(folder), environment, cwd=cwd).wait(seconds)
    if ended.code is None:
        raise subprocess.TimeoutExpired(list(words), seconds, ended.out, ended.err)
    return ended.code, ended.out, ended.err


def end() -> None:
    """End this process's forking process, if there is one."""
    if found := _zygotes.pop(os.getpid(), None):
        found[0].__exit__()


def _begin() -> tuple[Zygote, frozenset[tuple[str, str]]]:
    made = _zygotes[os.getpid()] = Zygote(), _lasting(os.environ)
    return made


def _lasting(environment: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return the variables that Python reads at its start."""
    return frozenset(pair for pair in environment.items() if not pair[0].startswith(HARMLESS))
