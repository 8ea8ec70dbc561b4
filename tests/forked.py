"""Commands and servers of relay, forked from one process that has imported relay.

A start of relay costs half a second of CPU, that of a server one and a half, nearly all of it
imports, and the tests run some thousand commands. A forked command is a process of its own like any
other. Settings that Python reads at its start (the encoding of names, its own switches) are the
forking process's, so a command whose environment differs in such a variable is started instead.

Decided here: whether a command is forked or started. Never here: its purpose."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from tests.torture.commands import ROOT, Child, Zygote

HARMLESS = ("RELAY_", "AWS_", "RCLONE_CONFIG", "XDG_", "HOME", "PYTEST_", "COLUMNS")
"""Variables that are read while a command runs, by the beginnings of their names."""
_zygotes: dict[int, tuple[Zygote, frozenset[tuple[str, str]]]] = {}
"""The forking process of each process, by its id, and the environment in which it was started."""


def run(
    words: Sequence[str], environment: Mapping[str, str], seconds: float, cwd: Path = ROOT
) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and its output. Raises TimeoutExpired."""
    with start(words, environment, cwd) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def start(
    words: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT
) -> Forked | subprocess.Popen[str]:
    """Start a command, whose output is read from its `stdout` and `stderr`."""
    zygote, began = _zygotes.get(os.getpid()) or _begin()
    if _lasting(environment) != began:
        return subprocess.Popen(
            [sys.executable, "-m", "relay", *words],
            cwd=cwd,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    return Forked(zygote, words, environment, cwd)


class Forked:
    """A forked command that runs: the members of `subprocess.Popen` that tests use."""

    def __init__(
        self, zygote: Zygote, words: Sequence[str], environment: Mapping[str, str], cwd: Path
    ) -> None:
        self.args, self.returncode = list(words), None
        folder = Path(tempfile.mkdtemp(prefix="relay-forked-"))
        self._child = zygote.begin(words, folder, environment, cwd=cwd, pipes=True)
        # The child opens its ends in the same order; each `open` waits for the other's.
        self.stdout, self.stderr = (_open_pipe(self._child.out), _open_pipe(self._child.err))
        shutil.rmtree(folder)
        self._child.begun.wait()
        assert self._child.pid is not None
        self.pid: int = self._child.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self._child.over.is_set():
            self.returncode = _exit_code(self._child)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code. Raises TimeoutExpired."""
        if not self._child.over.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.returncode = _exit_code(self._child)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both outputs to their ends, wait, and return them. Raises TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        pieces: dict[int, list[bytes]] = {}
        waiting, poll = [self.stdout, self.stderr], select.poll()
        for stream in waiting:
            pieces[stream.fileno()] = []
            poll.register(stream, select.POLLIN)
        left = set(pieces)
        while left:
            seconds = None if until is None else max(until - time.monotonic(), 0)
            ready = poll.poll(None if seconds is None else seconds * 1000)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            for number, _ in ready:
                if piece := os.read(number, 1 << 16):
                    pieces[number].append(piece)
                else:
                    poll.unregister(number)
                    left.discard(number)
        out, err = (b"".join(pieces[stream.fileno()]).decode() for stream in waiting)
        for stream in waiting:
            stream.close()
        self.wait(None if until is None else max(until - time.monotonic(), 0))
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal to it, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()


def _open_pipe(path: Path) -> TextIO:
    """Return the end of a pipe from which a child's output is read."""
    return path.open(encoding="utf-8", errors="strict", newline=None)


def _exit_code(child: Child) -> int:
    """Return the exit code of an ended child, or minus the number of its signal."""
    return os.waitstatus_to_exitcode(child.status or 0)


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
