"""The kernel's figures about processes, and the end of those that we started."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from time import monotonic

from loadtests.bench.measures import BenchError, Cost

_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (the name before may hold anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return user and system seconds that these processes have spent, all their threads
    included."""
    try:
        return sum(int(tick) for pid in pids for tick in _stat(pid)[11:13]) / _TICKS
    except OSError:
        raise BenchError("a process that was measured has ended") from None


def exact_cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU seconds of these processes' living threads, to the nanosecond (proc(5):
    schedstat); `cpu_seconds` counts hundredths."""
    return sum(
        int(file.read_text().split()[0]) / 1e9
        for pid in pids
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def core_wait_seconds(pids: Sequence[int]) -> float:
    """Return the seconds for which these processes' main threads were ready to run and had no core
    (0 if unknown)."""
    try:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in pids) / 1e9
    except OSError:
        return 0.0


def children(pid: int) -> list[int]:
    """Return the living child processes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(_stat(int(entry.name))[1]) == pid:
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue  # it ended in between
    return sorted(found)


def memory(pid: int, name: str) -> int:
    """Return VmRSS or VmHWM in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        raise BenchError("a process that was measured has ended") from None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"/proc/{pid}/status has no {name}")


def written_bytes(pid: int) -> int:
    """Return the number of bytes that a process has caused to be written to disks (proc(5): io)."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        raise BenchError("a process that was measured has ended") from None
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


class Growth:
    """The rise of processes' resident memory: `with Growth(pids) as g: …`, then `g.bytes`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = tuple(pids)
        self.bytes = 0

    def __enter__(self) -> Growth:
        for pid in self._pids:
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts again from here
            except OSError:
                pass  # then the peak is the one since the process began, which is never less
        self._before = sum(memory(pid, "VmRSS") for pid in self._pids)
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = sum(memory(pid, "VmHWM") for pid in self._pids) - self._before


def touch_memory(size: int) -> None:
    """Write once to this amount of memory, in a process that ends then.

    A virtual machine often gives memory that lies idle back to its host, and the first touch of it
    costs more than moving its bytes. The first run after a pause should not pay for that."""
    script = "import sys; b'x' * int(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(size)], check=False, timeout=120)


def raise_open_files(wanted: int) -> None:
    """Let this process and its children open this number of files. Raises BenchError if that is not
    allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            ceiling = hard if hard == resource.RLIM_INFINITY else max(hard, wanted)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, ceiling))
        except (OSError, ValueError):
            raise BenchError(
                f"{wanted} open files are needed and {hard} allowed: raise `ulimit -Hn`, or leave"
                " out streams"
            ) from None


def stop(
    process: subprocess.Popen[bytes], gently: signal.Signals = signal.SIGTERM, seconds: float = 10.0
) -> None:
    """Stop a process and its children, by their ids; by force if SIGTERM does not help."""
    if process.poll() is not None:
        return
    # Before the signal: children of an ended process have another parent.
    brood = children(process.pid)
    process.send_signal(gently)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        for pid in [*brood, process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait(seconds)


class Pipeline:
    """Programs joined by pipes and run to their end, with their total cost."""

    def __init__(
        self, commands: Sequence[Sequence[str]], env: dict[str, str], log: Path, seconds: float
    ) -> None:
        self._commands, self._env, self._log, self._seconds = commands, env, log, seconds

    def run(self) -> Cost:
        """Run them. Raises BenchError with the last line of output if one fails, or is not done in
        time."""
        began = monotonic()
        running: list[subprocess.Popen[bytes]] = []
        try:
            with self._log.open("wb") as log:
                self._start(running, log.fileno())
            timer = Timer(self._seconds, _kill, running)
            timer.start()
            try:
                spent = sum(_await_end(process) for process in running)
            finally:
                timer.cancel()
        finally:
            for process in running:
                stop(process, signal.SIGKILL)
        wall = monotonic() - began
        if wall >= self._seconds:
            raise BenchError(f"not done within {self._seconds:g} s")
        for process in running:
            if process.returncode:
                raise BenchError(f"ended with {process.returncode}: {last_line(self._log)}")
        return Cost(wall, spent)

    def _start(self, running: list[subprocess.Popen[bytes]], log: int) -> None:
        for index, command in enumerate(self._commands):
            last = index == len(self._commands) - 1
            before = running[-1].stdout if running else None
            running.append(
                subprocess.Popen(
                    command,
                    env=self._env,
                    stdin=before or subprocess.DEVNULL,
                    stdout=log if last else subprocess.PIPE,
                    stderr=log,
                )
            )
            # Only the next program may hold the reading end; else the first would get no SIGPIPE.
            if before is not None:
                before.close()


def _kill(*running: subprocess.Popen[bytes]) -> None:
    for process in running:
        process.kill()


def _await_end(process: subprocess.Popen[bytes]) -> float:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment without proxies, and without the settings of the user, of rclone, of
    curl or of relay."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}
