"""A plugin for pytest: the files of a run are shared among processes. `python -m tests` uses it.

Theory of operation. pytest collects all tests once, in one process. That process forks workers,
each of which takes the number of the next file from a pipe as soon as it has run its last one, so
the workers end together. Files that use one costly thing have one number (`TOGETHER`). A worker sends its reports for pytest's terminal through a pipe of its
own, and the first process replays them file by file: output, summary, exit code and cache are
pytest's own.

pytest-xdist does the same with more processes and one more dependency, but its workers wait in ways
that gevent, which many tests patch in, turns into waits on a loop that nothing runs.

Decided here: which process runs which file, and in which order. Never here: the tests
themselves."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NoReturn

import pytest

from tests import forked, shared_servers
from tests.torture.commands import ROOT

LAST = "unit"
"""The folder whose files are taken last: they are small, so all workers end together."""
LONG = (
    *("test_faults.py", "test_page.py", "test_crash.py", "test_tree.py", "test_cuts.py"),
    *("test_other_options.py", "test_migrations.py", "test_seeds.py", "test_ledger_away.py"),
    *("test_serve.py", "test_limits.py", "test_terminals.py", "test_reload.py", "test_remains.py"),
    *("test_waiting.py", "test_single.py", "test_tokens.py", "test_growing.py", "test_deploy.py"),
)
"""Files that take longest, in the order in which they are taken, before all others: at the end one
of them would run alone. Those that wait for clocks alternate with those that keep a core busy."""
TOGETHER = ("end_to_end/test_page.py", "end_to_end/test_page_*.py")
"""Patterns of the files that one worker runs, one after the other, in one browser."""
MOST_CPU = 40
"""Number of files in the table of CPU time."""
NUMBER_BYTES = 4
File = tuple[Path, list[pytest.Item]]
"""A file with its tests."""
CRASHED = 70
"""The exit code of a worker that could not continue; it has printed the reason. (EX_SOFTWARE of
sysexits.h)"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with the number of workers."""
    parser.addoption(
        "--share",
        type=int,
        default=0,
        metavar="N",
        help="share the files of the run among N processes",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect the tests without collections of the garbage collector: all of it stays until the
    end, and each scan of ten thousand tests takes a third of the time of their collection.
    Meanwhile another core starts the process from which the commands of all workers are forked."""
    config = session.config
    if config.getoption("share") and config.rootpath == ROOT and not config.option.collectonly:
        zygote = ExitStack()
        zygote.enter_context(forked.first_zygote())
        config.add_cleanup(zygote.close)
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests in workers, if there are to be some."""
    count = session.config.getoption("share")
    if not count or session.config.option.collectonly or session.testsfailed:
        return None  # pytest's own loop, which also handles files that could not be collected
    Sharing(session, count).run()
    return True


@dataclass(eq=False)
class Worker:
    """One worker, as the first process sees it."""

    pid: int
    pipe: int
    under_way: str = ""
    """The test that it runs, or ran last."""
    reports: list[Any] = field(default_factory=list)
    """The reports of the file that it runs."""
    unread: bytes = b""

    def messages(self) -> Iterator[dict[str, Any]] | None:
        """Return its reports since the last call, or None at its end."""
        if not (piece := os.read(self.pipe, 1 << 20)):
            return None
        *lines, self.unread = (self.unread + piece).split(b"\n")
        return map(json.loads, lines)


class Sharing:
    """A run whose files are shared among workers."""

    def __init__(self, session: pytest.Session, count: int) -> None:
        self._session, self._count = session, count
        self._shares = shares_of(files_of(session.items))
        self._seconds: dict[str, tuple[float, float]] = {}
        """The CPU time of each file, and how long it took."""

    def run(self) -> None:
        """Run all files, print the result of each as it ends, and fail the run if a worker did not
        end well."""
        queue, numbers = os.pipe()
        for number in range(len(self._shares)):
            os.write(numbers, number.to_bytes(NUMBER_BYTES, "big"))
        os.close(numbers)
        self._session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one, in which each has its own
        sys.stdout.flush()
        gc.collect()
        gc.freeze()  # the workers' collectors neither scan nor copy the objects that all tests import
        workers = [self._fork(number, queue) for number in range(self._count)]
        os.close(queue)
        self._session.config.pluginmanager.register(CpuTable(self._seconds))
        try:
            self._follow(workers)
        except BaseException:
            for worker in workers:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGINT)
            raise
        finally:
            ends = [os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1]) for worker in workers]
        if bad := [(end, worker) for end, worker in zip(ends, workers, strict=True) if end]:
            names = ", ".join(f"{worker.under_way} ({end})" for end, worker in bad)
            pytest.exit(
                f"a process ended in the middle of {names}",
                returncode=max((end for end, _ in bad), key=abs),
            )

    def _fork(self, number: int, queue: int) -> Worker:
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reads)
            Inside(self._session, self._shares, number, queue, writes).be()
        os.close(writes)
        return Worker(pid, reads)

    def _follow(self, workers: list[Worker]) -> None:
        with DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.pipe, EVENT_READ, worker)
            while selector.get_map():
                for key, _ in selector.select():
                    if (messages := key.data.messages()) is None:
                        selector.unregister(key.fileobj)
                        os.close(key.data.pipe)
                        self._replay(key.data)  # of a file that did not end
                        continue
                    for message in messages:
                        self._take(key.data, message)

    def _take(self, worker: Worker, message: dict[str, Any]) -> None:
        """Keep a report until its file has ended; then pass all of them to pytest."""
        worker.under_way = message.get("begun", worker.under_way)
        if "report" in message:
            worker.reports.append(message["report"])
        if "ended" in message:
            self._seconds[message["ended"]] = (message["cpu"], message["wall"])
            self._replay(worker)

    def _replay(self, worker: Worker) -> None:
        hook, config = self._session.config.hook, self._session.config
        for data in worker.reports:
            report = hook.pytest_report_from_serializable(config=config, data=data)
            if isinstance(
                report.longrepr, list
            ):  # the place and the reason of a skip: JSON has no tuples
                report.longrepr = tuple(report.longrepr)
            if report.when == "setup":
                hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
            hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
        worker.reports.clear()
        if stop := self._session.shouldfail or self._session.shouldstop:
            raise self._session.Failed(stop)


@dataclass(frozen=True)
class CpuTable:
    """A plugin of pytest that prints the files with the most CPU time at the end of a run, and how
    long each took."""

    seconds: dict[str, tuple[float, float]]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table."""
        terminalreporter.section(f"CPU: {sum(cpu for cpu, _ in self.seconds.values()):.0f} s")
        rows = sorted(self.seconds.items(), key=lambda row: -row[1][0])
        for path, (cpu, wall) in rows[:MOST_CPU]:
            terminalreporter.write_line(f"{cpu:7.1f}s in {wall:5.0f}s {os.path.relpath(path)}")


class Inside:
    """A run as one of its workers sees it. It is also a plugin of pytest, which forwards each
    report."""

    def __init__(
        self,
        session: pytest.Session,
        shares: list[list[File]],
        number: int,
        queue: int,
        pipe: int,
    ) -> None:
        self._session, self._number, self._queue, self._pipe = session, number, queue, pipe
        self._shares = shares
        self._files: list[File] = []
        """The files of its share that it has not begun."""
        self._ends = ExitStack()

    def be(self) -> NoReturn:
        """Run files until the queue is empty, and end this process."""
        code = CRASHED
        try:
            self._settle_in()
            self._run()
            code = 0
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not return into pytest
            traceback.print_exc(file=sys.__stderr__)
        finally:
            with suppress(BaseException):
                self._session._setupstate.teardown_exact(None)
            with suppress(BaseException):
                self._ends.close()
            os._exit(code)

    def _settle_in(self) -> None:
        """Replace everything that must not be shared with the other processes: folders, captured
        output, the terminal."""
        config: Any = self._session.config
        factory = config._tmp_path_factory
        config.stash[shared_servers.FOLDER] = factory.getbasetemp()
        config.stash[shared_servers.ENDS] = self._ends
        factory._basetemp = factory.getbasetemp() / f"worker-{self._number}"
        factory._basetemp.mkdir(mode=0o700)
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
        config.pluginmanager.getplugin("terminalreporter")._tw._file = open(os.devnull, "w")  # noqa: SIM115
        config.pluginmanager.register(self)

    def _run(self) -> None:
        """Run file after file. The next one is taken before the last test of one ends, since
        fixtures that both use stay."""
        items = self._next()
        while items:
            here, number, before, began = items, 0, cpu_seconds(), time.monotonic()
            for number, item in enumerate(here):
                last = number == len(here) - 1
                items = self._next() if last else items
                following = (items[0] if items else None) if last else here[number + 1]
                self._tell({"begun": item.nodeid})
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            cpu, wall = cpu_seconds() - before, time.monotonic() - began
            self._tell({"ended": str(here[0].path), "cpu": cpu, "wall": wall})

    def _next(self) -> list[pytest.Item]:
        if not self._files:
            # At once, or at the end of the pipe: it holds all numbers.
            number = os.read(self._queue, NUMBER_BYTES)
            self._files = list(self._shares[int.from_bytes(number, "big")]) if number else []
        return self._files.pop(0)[1] if self._files else []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Forward a report."""
        config = self._session.config
        self._tell(
            {"report": config.hook.pytest_report_to_serializable(config=config, report=report)}
        )

    def _tell(self, message: dict[str, Any]) -> None:
        piece = json.dumps(message).encode() + b"\n"
        while piece:
            piece = piece[os.write(self._pipe, piece) :]


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its ended children, and of its forked commands.
    Servers that put themselves into the background, as PostgreSQL does, are not in it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) + forked.cpu_seconds()


def shares_of(files: list[File]) -> list[list[File]]:
    """Return what a worker takes at once: a file, or all those that stay together in place of the
    first of them."""
    together = [file for file in files if any(map(file[0].match, TOGETHER))]
    shares = [[file] for file in files if file not in together[1:]]
    return [together if share[0] in together else share for share in shares]


def files_of(items: list[pytest.Item]) -> list[File]:
    """Return the files of some tests with their tests, in the order in which they are to run.

    After the long files, those of all folders alternate: tests of commands keep the cores busy,
    those of faults wait for clocks."""
    first = {name: number for number, name in enumerate(LONG)}
    files = [(path, list(tests)) for path, tests in groupby(items, key=lambda item: item.path)]
    folders: dict[str, list[Path]] = {}
    for path, _ in files:
        folders.setdefault(path.parent.name, []).append(path)

    def order(pair: tuple[Path, list[pytest.Item]]) -> tuple[int, bool, float]:
        path, folder = pair[0], folders[pair[0].parent.name]
        place = (folder.index(path) + 0.5) / len(folder)
        return first.get(path.name, len(LONG)), path.parent.name == LAST, place

    return sorted(files, key=order)
