"""The log: one JSON object a line on stderr.

A message is the name of an event (`migration.ended`); docs/production.md lists them. Decided here:
the members of a line. No line has a secret: a Location prints itself without its query, libraries
that log whole URLs are silenced, and of an exception a line has the type and the places, not the
text, which may hold a URL."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import gevent

from relay.errors.bugs import trace_of

log = logging.getLogger("relay")

SILENCED = ("urllib3", "requests")


class JsonLines(logging.Formatter):
    """Formats a record as one line: time, level, event, and the members of
    `extra={"members": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.getMessage()),
        }
        if record.exc_info and record.exc_info[1] is not None:
            members |= trace_of(record.exc_info[1])
        return json.dumps(members | getattr(record, "members", {}))


class _Stderr(logging.StreamHandler[Any]):
    """Writes to the current `sys.stderr`, which a terminal's display may have replaced."""

    def __init__(self) -> None:
        # StreamHandler's own __init__ would set `stream`, which is a property here.
        logging.Handler.__init__(self)
        self.setFormatter(JsonLines())

    @property
    def stream(self) -> Any:
        """Return the current stderr."""
        return sys.stderr


def start_logging(level: int = logging.INFO) -> None:
    """Log relay's events from `level` on to stderr, and silence the libraries. May be called twice.

    The exception that ends a greenlet is logged too; gevent would print its text.
    """
    for name in SILENCED:
        logging.getLogger(name).disabled = True
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr())
    log.setLevel(level)
    setattr(gevent.get_hub(), "print_exception", _print_exception)  # noqa: B010 - a method, which gevent lets be set


def _print_exception(context: Any, kind: Any, error: Any, trace: Any) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit):  # the process ends; not a bug
        return
    log.error("error.unexpected", exc_info=error if isinstance(error, BaseException) else None)
