"""Ctrl-C in the terminal: the first lets what runs come to a clean end, the second ends at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import gevent

from relay.cli.exits import Exit
from relay.cli.terminal import say, show_cursor


class Interrupt:
    """What SIGINT and SIGTERM do. gevent's handlers run in a greenlet, so they may do anything.

    `code` is what the command ends with, once one has come.
    """

    codes: Mapping[int, Exit] = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}

    def __init__(self, stop: Callable[[], object], seconds: float) -> None:
        """`stop` asks what runs to end, for which it then has `seconds`."""
        self._stop, self._seconds, self._since = stop, seconds, 0.0
        self.code: Exit | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch them for the time of a `with` block."""
        watchers = [gevent.signal_handler(number, self._came, code) for number, code in self.codes.items()]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()

    def late(self) -> bool:
        """Say if what runs had its time to end."""
        return self.code is not None and monotonic() - self._since > self._seconds

    def _came(self, code: Exit) -> None:
        if self.code is not None:
            show_cursor()
            os._exit(code)
        self.code, self._since = code, monotonic()
        say("relay: stopping; once more to stop at once", sys.stderr)
        self._stop()
