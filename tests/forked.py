"""Commands and servers of relay, forked from one process that has imported relay.

A start of relay costs half a second of CPU, that of a server one and a half, nearly all of it
imports, and the tests run some thousand commands. A forked command is a process of its own like any
other. Settings that Python reads at its start (the encoding of names, its own switches) are the
forking process's, so a command whose environment differs in such a variable is started instead, or
forked from another process if there are several of that environment.

Decided here: whether a command is forked or started. Never here: its purpose."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TextIO

from tests.torture.commands import ROOT, Child, FirstZygote, Streams, Zygote

HARMLESS = (
    *("RELAY_", "AWS_", "RCLONE_CONFIG", "XDG_", "HOME", "PYTEST_"),
    *("COLUMNS", "TERM", "NO_COLOR"),
)
"""Variables that are read while a command runs, by the beginnings of their names."""
STARTS = 4
"""Number of commands of another environment that are started before a process forks the next."""

Lasting = frozenset[tuple[str, str]]
"""The variables that Python reads at its start."""
_zygotes: dict[int, dict[Lasting, Zygote]] = {}
"""The forking processes of each process, by its id and their environments."""
_past: defaultdict[int, float] = defaultdict(float)
"""The CPU time of commands that others than this process's own children forked, by its id."""
_firsts: dict[Lasting, FirstZygote] = {}
"""What forks the forking processes of all workers of a run, by its environment."""
_started: Counter[Lasting] = Counter()
"""The number of commands that were started, by environment."""


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    cwd: Path = ROOT,
    program: str = "relay",
) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and its output. Raises TimeoutExpired."""
    with start(words, environment, cwd, program) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def start(
    words: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT, program: str = "relay"
) -> Forked | subprocess.Popen[str]:
    """Start a command of relay, or of gunicorn, whose output is read from its `stdout` and
    `stderr`. `-c` as `program` runs the text that is the first word; relay is imported by then."""
    zygote = _find(environment)
    if zygote is None:
        return subprocess.Popen(
            [sys.executable, *(("-m", program) if program != "-c" else ("-c",)), *words],
            cwd=cwd,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    folder = Path(tempfile.mkdtemp(prefix="relay-forked-"))
    child = zygote.begin(words, folder, environment, cwd=cwd, pipes=True, program=program)
    return Forked(child, folder)


def run_with(
    streams: Streams, words: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT
) -> tuple[int, str]:
    """Run a forked command with some streams; return its exit code and its stderr."""
    zygote = _find(environment)
    assert zygote is not None, "it would have to be started"
    with tempfile.TemporaryDirectory(prefix="relay-forked-") as folder:
        begun = zygote.begin(words, Path(folder), environment, cwd=cwd, streams=streams)
        ended = begun.wait(60)
    assert ended.code is not None, f"{words} did not end"
    return ended.code, ended.err


@contextmanager
def run_on_terminal(
    path: str, words: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Callable[[], int | None]]:
    """Run a command on a terminal, which controls it; yield a function that returns its exit code,
    or None while it runs."""
    zygote = _find(environment)
    if zygote is not None:
        with tempfile.TemporaryDirectory(prefix="relay-forked-") as folder:
            streams = Streams(terminal=path)
            child = zygote.begin(words, Path(folder), environment, cwd=ROOT, streams=streams)
            yield lambda: _exit_code(child) if child.over.is_set() else None
        return
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", *words],
        cwd=ROOT,
        env=dict(environment),
        stdin=fd,
        stdout=fd,
        stderr=fd,
        start_new_session=True,
        preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),
    )
    os.close(fd)
    with process:
        yield process.poll


class Forked:
    """A forked command that runs: the members of `subprocess.Popen` that tests use."""

    def __init__(self, child: Child, folder: Path) -> None:
        """Open the ends of its pipes, which are in `folder`; it is removed."""
        self.args, self.returncode = list(child.words), None
        self._child = child
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


def cpu_seconds() -> float:
    """Return the CPU time of the forked commands that have ended."""
    here = os.getpid()
    return _past[here] + sum(zygote.seconds for zygote in _zygotes.get(here, {}).values())


@contextmanager
def first_zygote() -> Iterator[None]:
    """Start the process that forks the forking processes of this process and of those that are
    forked from it during the block."""
    lasting = _lasting(os.environ)
    _firsts[lasting] = first = FirstZygote()
    try:
        yield
    finally:
        del _firsts[lasting]
        first.end()


def end() -> None:
    """End this process's forking processes."""
    here = os.getpid()
    for zygote in _zygotes.pop(here, {}).values():
        zygote.__exit__()
        if not zygote.is_child:  # the system counts the time of our own children
            _past[here] += zygote.seconds


def _find(environment: Mapping[str, str]) -> Zygote | None:
    """Return the process that forks commands of an environment; None if one is to be started."""
    ours = _zygotes.setdefault(os.getpid(), {})
    if not ours:
        here = _lasting(os.environ)
        ours[here] = _firsts[here].fork() if here in _firsts else Zygote()
    lasting = _lasting(environment)
    if lasting not in ours:
        _started[lasting] += 1
        if _started[lasting] <= STARTS:
            return None
        others = {name: os.environ[name] for name in os.environ if name.startswith(HARMLESS)}
        ours[lasting] = Zygote(environment=others | dict(lasting))
    return ours[lasting]


def _lasting(environment: Mapping[str, str]) -> Lasting:
    """Return the variables that Python reads at its start."""
    return frozenset(pair for pair in environment.items() if not pair[0].startswith(HARMLESS))
