"""The log of a process: lines on stderr, by the table of events.

Decided here: where lines go, and which loggers are heard. Never here: what a line has
(`relay/logs/`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection
from typing import Any, Final

import gevent

from relay.errors.bugs import bug
from relay.logs.event_table import LOGGER, LogEvent, LogFormat, LogLevel
from relay.logs.line_bounds import LineBounds
from relay.logs.line_formats import LineFormatter, event_of

SILENCED: Final = ("urllib3", "requests")
"""Libraries that log whole URLs."""
COUNT_SECONDS: Final = 5.0
"""How often the counts of lines that were left out are written, if no other line is."""


class StderrHandler(logging.StreamHandler[Any]):
    """Writes to the current `sys.stderr`, which a terminal's display may have replaced."""

    def __init__(self) -> None:
        # StreamHandler's own __init__ would set `stream`, which is a property here.
        logging.Handler.__init__(self)
        self.lines, self.bounds = LineFormatter(), LineBounds(self.handle)
        self.events: Collection[LogEvent] = frozenset(LogEvent)
        self.setFormatter(self.lines)
        self.addFilter(self._is_wanted)
        self.addFilter(self.bounds)

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        return event_of(record)[0] in self.events

    @property
    def stream(self) -> Any:
        """Return the current stderr."""
        return sys.stderr


def start_logging(
    level: LogLevel = LogLevel.INFO,
    form: LogFormat = LogFormat.JSON,
    workers: int = 1,
    events: Collection[LogEvent] = frozenset(LogEvent),
) -> StderrHandler:
    """Log `events` from `level` on to stderr, also that libraries have warned; return the handler.
    `workers` is the number of processes that log alike. May be called again.

    The exception that ends a greenlet is logged too; gevent would print its text.
    """
    # Where a line can't be written, `logging` would print the record with its arguments.
    logging.raiseExceptions = False
    # No line has the name of a thread, for which gevent would make an object for each greenlet.
    logging.logThreads = False
    for name in SILENCED:
        logging.getLogger(name).disabled = True
    handler = current_handler()
    handler.lines.form, handler.bounds.workers, handler.events = form, workers, events
    logging.getLogger(LOGGER).setLevel(level.number)
    setattr(gevent.get_hub(), "print_exception", _print_exception)  # noqa: B010 - a method, which gevent lets be set
    return handler


def current_handler() -> StderrHandler:
    """Return the handler of this process, which the first call adds. It hears every library, so
    that `logging` prints no message on its own."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, StderrHandler):
            return handler
    made = StderrHandler()
    root.addHandler(made)
    return made


def write_counts(sleep: Callable[[float], None] = gevent.sleep) -> None:
    """Write the counts of lines that were left out, until this greenlet is killed."""
    while True:
        sleep(COUNT_SECONDS)
        current_handler().bounds.write_counts()


def _print_exception(context: Any, kind: Any, error: Any, trace: Any) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit):  # the process ends; not a bug
        return
    if isinstance(error, BaseException):
        bug(error)
