"""A process that has imported relay and forks one child for each command: `python -m
tests.torture.zygote`.

Theory of operation. A start of `relay` costs 0.4 s of CPU, nearly all of it imports. This process
imports everything, compiles a ledger's statements, starts no hub and no thread, and waits for lines
of JSON on its stdin; each is a command of relay, gunicorn, or the text of a program (`-c`), run by a
child that is a process of its own in all other respects: its environment, its folder, its stdout and stderr, its failpoint,
and its end by `kill -9`. One line on stdout tells
that a child has begun (`{"id", "pid"}`), and one how it ended (`{"id", "status", "seconds"}`, the
status as waitpid gives it, and the CPU time of the child and of its ended children).

The program `zygote` is such a process again, whose orders and reports pass through two named pipes:
a fork of this one, which costs a fiftieth of another start.

Decided here: how a command begins and ends. Never here: which command.
"""

# ruff: noqa: E402 - sockets are patched before anything can import them

from relay.process.cooperative import patch; patch()  # fmt: skip  # noqa: E702, I001

import gc
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from gevent import monkey
from gunicorn.app.wsgiapp import run as gunicorn

from relay.api.openapi import document_text
from relay.cli.__main__ import main as relay
from relay.cli.__main__ import run
from relay.cli.commands import COMMANDS
from relay.cli.terminal import leave
from relay.process import failpoints
from relay.stores.table import load_all
from tests.torture.rehearsal import rehearse

MODULES = (
    "relay.cli.single",
    "relay.cli.tree",
    "relay.ledger.ledger",
    "relay.api.serving",
    "relay.api.gunicorn_worker",
    "gunicorn.arbiter",
    "gunicorn.workers.ggevent",
    "botocore.session",
)
"""Modules that commands import at their start, besides those that `COMMANDS` names."""

_fork = monkey.get_original("os", "fork")
_signal = monkey.get_original("signal", "signal")
_poll = monkey.get_original("select", "poll")


def main() -> None:
    """Import everything, and fork a child for each line of stdin, until its end."""
    for name in {
        f"relay.cli.{entry.function.partition(':')[0]}" for entry in COMMANDS.values()
    } | set(MODULES):
        import_module(name)
    load_all()
    document_text()  # each server would make it
    rehearse()
    gc.collect()
    gc.freeze()
    serve()


def serve() -> None:
    """Fork a child for each line of stdin, until its end."""
    _signal(signal.SIGCHLD, lambda *_: None)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    poll = _poll()
    poll.register(0, select.POLLIN)
    poll.register(woken, select.POLLIN)
    children: dict[int, int] = {}
    waiting = b""
    tell({"ready": os.getpid()})
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if woken in ready:
            os.read(woken, 4096)
            reap(children)
        if 0 in ready:
            piece = os.read(0, 1 << 16)
            if not piece:
                return
            *lines, waiting = (waiting + piece).split(b"\n")
            for line in lines:
                begin(json.loads(line), children, (woken, wake))


def begin(order: dict[str, Any], children: dict[int, int], own: tuple[int, int]) -> None:
    """Fork the child of one command."""
    pid = _fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        _signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in own:
            os.close(fd)
        if order["program"] == "zygote":
            be_zygote(*order["words"])
        be(order)
    children[pid] = order["id"]
    tell({"id": order["id"], "pid": pid})


def reap(children: dict[int, int]) -> None:
    """Report how the ended children ended."""
    while children:
        pid, status, used = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        if pid in children:
            seconds = used.ru_utime + used.ru_stime
            tell({"id": children.pop(pid), "status": status, "seconds": seconds})


def tell(members: dict[str, Any]) -> None:
    """Write one line."""
    os.write(1, json.dumps(members).encode() + b"\n")


def be_zygote(orders: str, reports: str) -> NoReturn:
    """Become a process as this one, with its environment, for the process at the other ends of two
    named pipes."""
    for number, (path, flag) in enumerate(((orders, os.O_RDONLY), (reports, os.O_WRONLY))):
        fd = os.open(path, flag)
        os.dup2(fd, number)
        os.close(fd)
    run_to_end(serve)


def be(order: dict[str, Any]) -> None:
    """Become the command. Never returns."""
    if order["terminal"] is not None:
        take_terminal(order["terminal"])
    else:
        os.setpgid(0, 0)
        take_files(order)
    # As at Python's start: the streams of this process know whether it could seek in its own files.
    sys.stdout = sys.__stdout__ = open(  # noqa: SIM115 - open until the end  # type: ignore[misc]
        1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False
    )
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115  # type: ignore[misc]
        2, "w", 1, encoding=sys.stderr.encoding, errors="backslashreplace", closefd=False
    )
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["program"], *order["words"]]
    arm(os.environ.get(failpoints.VARIABLE))
    for words in order["also"]:
        relay(sys.argv[1:])
        sys.argv[1:] = words
    if order["program"] == "gunicorn":
        run_to_end(gunicorn)
    if order["program"] == "-c":
        text = sys.argv.pop(1)
        run_to_end(partial(exec, compile(text, "<string>", "exec"), {"__name__": "__main__"}))
    run()


def run_to_end(program: Callable[[], object]) -> NoReturn:
    """Run a program, and end as it does (gunicorn: as its master or as one of its workers), without
    the work of Python's end, which would copy the memory of this process."""
    code: Any = 0
    try:
        program()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as at Python's end
        traceback.print_exc()
        code = 1
    leave(code or 0)


def take_files(order: dict[str, Any]) -> None:
    """Take the stdin, stdout and stderr of an order."""
    outputs = _open_output(order["out"]), _open_output(order["err"])
    for number, fd in enumerate((os.open(order["in"], os.O_RDONLY), *outputs)):
        os.dup2(fd, number)
        os.close(fd)


def take_terminal(path: str) -> None:
    """Take a terminal for all three, and let its keys, such as Ctrl-C, be signals to this
    process."""
    os.setsid()
    fd = os.open(path, os.O_RDWR)  # the first terminal that a session opens controls it (tty(4))
    for number in range(3):
        os.dup2(fd, number)
    os.close(fd)


def _open_output(path: str | None) -> int:
    """Return a descriptor of a file or a named pipe; without a path, of a pipe without a reader."""
    if path is not None:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    reads, writes = os.pipe()
    os.close(reads)
    return writes


def arm(text: str | None) -> None:
    """Bind `reach` in every module that has imported it, as the import of a fresh process would."""
    if not text:
        return
    bound = failpoints.failpoint_of(text).reach
    for name, module in list(sys.modules.items()):
        if name.startswith("relay.") and getattr(module, "reach", None) is not None:
            module.reach = bound  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
