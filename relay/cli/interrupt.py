"""Ctrl-C in the terminal: the first lets running work stop cleanly, the second exits at once.

Decided here: Ctrl-C in commands that have work to stop. Never here: Ctrl-C in all other code
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

STOPPING = "relay: stopping; press Ctrl-C again to stop at once"
LOOK_SECONDS = 0.25
"""Seconds between two checks of a waiting process for a signal that its wait missed."""


def look_for_signals() -> None:
    """Let a signal take effect within LOOK_SECONDS, even while this process waits for an event that
    never comes.

    gevent checks for signals before each wait, and a signal ends a wait. A signal that arrives
    between the two would take effect only at the next event. (gevent's own timer, every 0.3 s,
    exists only on Windows.)"""
    # ref=False: the timer alone does not keep the event loop running.
    gevent.get_hub().loop.timer(LOOK_SECONDS, LOOK_SECONDS, ref=False).start(lambda: None)


class Interrupted(Exception):
    """A signal came; `code` is the command's exit code."""

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


class Interrupt:
    """Handler of SIGINT and SIGTERM. gevent runs it in a greenlet, so it may call any function.

    `code` is the command's exit code, or None until a signal has come.
    """

    codes: Mapping[int, Exit] = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}

    def __init__(self, stop: Callable[[], object], seconds: float, says: str = STOPPING) -> None:
        """At the first signal print `says` to stderr and call `stop`; the running work then has
        `seconds` to stop."""
        self._stop = stop
        self._seconds = seconds
        self._says = says
        self._since = 0.0
        self.code: Exit | None = None

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle the signals for the time of a `with` block."""
        watchers = [
            gevent.signal_handler(number, self._handle, code)
            for number, code in self.codes.items()
            if signal.getsignal(number) is not signal.SIG_IGN  # as in the background of a shell
        ]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            # libev has restored the system's default action, which would not set the exit code.
            end_on_interrupt()

    def is_late(self) -> bool:
        """Return whether a signal came more than `seconds` ago."""
        return self.code is not None and monotonic() - self._since > self._seconds

    def _handle(self, code: Exit) -> None:
        if self.code is not None:
            show_cursor()
            os._exit(code)
        self.code, self._since = code, monotonic()
        if self._says:
            say(self._says, sys.stderr)
        self._stop()


@contextmanager
def interrupt_as_exception(says: str = "") -> Iterator[None]:
    """At the first signal in a `with` block print `says` to stderr and raise Interrupted where this
    greenlet waits. A second signal ends the process at once."""
    here: Any = gevent.getcurrent()
    came = Interrupt(
        lambda: gevent.kill(here, Interrupted(came.code or Exit.INTERRUPTED)), 0.0, says
    )
    with came.handle_signals():
        yield
