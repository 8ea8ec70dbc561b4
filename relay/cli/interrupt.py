"""Ctrl-C in the terminal: the first lets running work end cleanly, the second ends at once.

Decided here: that, for what has something to end. Never here: what Ctrl-C does to all else
(`relay/process/early_interrupt.py`)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent

from relay.cli.exits import Exit
from relay.cli.terminal import say, show_cursor
from relay.process.early_interrupt import end_on_interrupt

STOPPING = "relay: stopping; once more to stop at once"
LOOK_SECONDS = 0.25
"""How often a waiting process looks whether a signal came that its wait has missed."""


def look_for_signals() -> None:
    """Let a signal take effect within a moment, also where this process waits for an answer that
    never comes.

    gevent looks for signals before each wait, and a signal ends the wait; one that arrives between
    the two would take effect at the next event alone (gevent's own look, each 0.3 s, is for Windows
    only)."""
    gevent.get_hub().loop.timer(LOOK_SECONDS, LOOK_SECONDS, ref=False).start(lambda: None)


class Interrupted(Exception):
    """A signal came; `code` is what the command ends with."""

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


class Interrupt:
    """What SIGINT and SIGTERM do. gevent's handlers run in a greenlet, so they may do anything.

    `code` is what the command ends with, once one has come.
    """

    codes: Mapping[int, Exit] = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}

    def __init__(self, stop: Callable[[], object], seconds: float, says: str = STOPPING) -> None:
        """`stop` asks what runs to end, for which it then has `seconds`; `says` is printed to
        stderr."""
        self._stop, self._seconds, self._says, self._since = stop, seconds, says, 0.0
        self.code: Exit | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch them for the time of a `with` block."""
        watchers = [
            gevent.signal_handler(number, self._came, code) for number, code in self.codes.items()
        ]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            # libev has left the system's own answer to the signal, which is not an exit code.
            end_on_interrupt()

    def late(self) -> bool:
        """Say if what runs had its time to end."""
        return self.code is not None and monotonic() - self._since > self._seconds

    def _came(self, code: Exit) -> None:
        if self.code is not None:
            show_cursor()
            os._exit(code)
        self.code, self._since = code, monotonic()
        if self._says:
            say(self._says, sys.stderr)
        self._stop()


@contextmanager
def interrupt_as_exception(says: str = "") -> Iterator[None]:
    """Raise Interrupted where this greenlet waits, at the first signal that comes in a `with`
    block, and say so on stderr; the second ends at once."""
    here: Any = gevent.getcurrent()
    came = Interrupt(
        lambda: gevent.kill(here, Interrupted(came.code or Exit.INTERRUPTED)), 0.0, says
    )
    with came.caught():
        yield
