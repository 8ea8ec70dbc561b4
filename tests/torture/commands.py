"""Commands of relay, each a process of its own, forked by a zygote (`zygote.py`).

Decided here: how a command is started and awaited. Never here: its purpose."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
HUNG = "hung"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code, minus a signal's number, or None if it had to be killed;
    and its output."""

    words: tuple[str, ...]
    code: int | None
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Streams:
    """The standard streams of a command."""

    stdin: Path = Path(os.devnull)
    stdout: str | None = "its own"
    """The path of a file or a device; None for a pipe without a reader."""
    terminal: str | None = None
    """The path of a terminal, which all three are then, its stderr too."""


OWN = Streams()
"""An empty stdin, and a stdout of its own."""


@dataclass(eq=False)
class Child:
    """A command that runs."""

    words: tuple[str, ...]
    out: Path
    err: Path
    began: float = field(default_factory=time.monotonic)
    pid: int | None = None
    status: int | None = None
    over: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> str:
        """Its stdout so far."""
        return _text(self.out)

    def wait(self, seconds: float) -> Ended:
        """Wait for its end; kill it after `seconds`."""
        code = None
        if self.over.wait(seconds):
            code = os.waitstatus_to_exitcode(self.status or 0)
        else:
            self.kill()
            self.over.wait(10)
        return Ended(
            words=self.words,
            code=code,
            out=_text(self.out),
            err=_text(self.err),
            seconds=time.monotonic() - self.began,
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all processes that it started."""
        self.begun.wait(10)
        if self.pid is not None and not self.over.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def _start(checkout: Path, environment: Mapping[str, str], stdout: int) -> subprocess.Popen[bytes]:
    """Start a zygote with the relay of a folder."""
    own = {"PYTHONPATH": f"{checkout}:{ROOT}", "RELAY_CONFIG": os.devnull}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.torture.zygote"],
        stdin=subprocess.PIPE,
        stdout=stdout,
        cwd=checkout,
        env={**environment, **own},
    )


class FirstZygote:
    """A zygote that only forks others, for this process and those that are forked from it."""

    def __init__(self) -> None:
        """Start it; it takes some time until it is ready."""
        self._process = _start(ROOT, os.environ, subprocess.DEVNULL)

    def fork(self) -> Zygote:
        """Return another zygote."""
        assert self._process.stdin is not None
        with tempfile.TemporaryDirectory(prefix="relay-zygote-") as folder:
            ends = [f"{folder}/orders", f"{folder}/reports"]
            for end in ends:
                os.mkfifo(end)
            # One short write, since several processes write to this pipe (pipe(7), PIPE_BUF).
            order = {"id": 0, "program": "zygote", "words": ends}
            os.write(self._process.stdin.fileno(), json.dumps(order).encode() + b"\n")
            # It opens its ends in the same order; each `open` waits for the other's.
            return Zygote(running=(open(ends[0], "wb"), open(ends[1], "rb")))  # noqa: SIM115

    def end(self) -> None:
        """Let it end. Its forks end when their users do."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class Zygote:
    """The process that forks commands; `checkout` is the folder whose relay it imports, and
    `environment` that of its start, by default ours. `running` are the pipes of the orders and the
    reports of one that runs already. Use as a context."""

    def __init__(
        self,
        checkout: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        running: tuple[IO[bytes], IO[bytes]] | None = None,
    ) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if running is None:
            ours = os.environ if environment is None else environment
            self._process = _start(checkout, ours, subprocess.PIPE)
            assert self._process.stdin is not None and self._process.stdout is not None
            running = self._process.stdin, self._process.stdout
        self._orders, self._reports = running
        self._ids = itertools.count(1)
        self._children: dict[int, Child] = {}
        self.seconds = 0.0
        """The CPU time of all children that have ended."""
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_child(self) -> bool:
        """Whether it is a child of the process that started it here."""
        return self._process is not None

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        if self._process is not None:
            self._process.wait(10)
        self._reader.join(10)
        self._reports.close()

    def begin(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        also: Sequence[Sequence[str]] = (),
        cwd: Path | None = None,
        pipes: bool = False,
        streams: Streams = OWN,
        program: str = "relay",
    ) -> Child:
        """Start a command that writes its output into a folder, and runs there or in `cwd`; `also`
        are further commands that its process runs afterwards, one by one. With `pipes` its stdout
        and then its stderr have to be opened at once, and are not kept. `streams` may replace its
        stdin and stdout. `program` is relay, gunicorn, or `-c`: then the first word is the text of
        a program, whose `relay` is the imported one."""
        number = next(self._ids)
        child = Child(tuple(words), folder / f"{number}.out", folder / f"{number}.err")
        if pipes:
            os.mkfifo(child.out)
            os.mkfifo(child.err)
        order = {
            "id": number,
            "program": program,
            "words": list(words),
            "also": [list(more) for more in also],
            "folder": str(cwd or folder),
            "environment": dict(environment),
            "terminal": streams.terminal,
            "in": str(streams.stdin),
            "out": str(child.out) if streams.stdout == OWN.stdout else streams.stdout,
            "err": str(child.err),
        }
        with self._lock:
            self._children[number] = child
            self._orders.write(json.dumps(order).encode() + b"\n")
            self._orders.flush()
        return child

    def _read(self) -> None:
        for line in self._reports:
            report = json.loads(line)
            child = self._children.get(report.get("id", 0))
            if child is None:
                continue
            if "pid" in report:
                child.pid = report["pid"]
                child.begun.set()
            else:
                child.status = report["status"]
                self.seconds += report.get("seconds", 0.0)  # none from an earlier relay's zygote
                child.over.set()
                del self._children[report["id"]]


def _text(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
