"""The log: one JSON object a line on stderr.

Decided here: what a line holds. Secrets never get here: a Location prints itself without them, the
libraries that would log whole URLs are silenced, and of an exception a line has the type and the
places, not the text, which may hold a URL."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import gevent

log = logging.getLogger("relay")

SILENCED = ("urllib3", "requests")
CHAIN_LIMIT, FRAMES_LIMIT = 5, 30
"""Exceptions of one chain, and the last frames of each, in one line."""


class JsonLines(logging.Formatter):
    """One line a record: time, level, event, and what was given as `extra={"members": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            members |= traced(record.exc_info[1])
        return json.dumps(members | getattr(record, "members", {}))


def traced(error: BaseException) -> dict[str, Any]:
    """Return the type of an exception, and where it and those that led to it were raised: the cause
    last."""
    places: list[dict[str, Any]] = []
    cause: BaseException | None = error
    while cause is not None and len(places) < CHAIN_LIMIT:
        frames = traceback.extract_tb(cause.__traceback__, limit=-FRAMES_LIMIT)
        places.append(
            {"type": _type(cause), "at": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]}
        )
        cause = cause.__cause__ or cause.__context__
    return {"error": _type(error), "traceback": places}


def _type(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at the moment: a terminal's display may stand in for it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(JsonLines())

    @property
    def stream(self) -> Any:
        """Return where the next line goes."""
        return sys.stderr


def start_logging(level: int = logging.INFO) -> None:
    """Let relay's own log go to stderr from `level` on, and nothing of the libraries'. May be
    called twice.

    What ends a greenlet goes there too; gevent would print its text.
    """
    for name in SILENCED:
        logging.getLogger(name).disabled = True
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr())
    log.setLevel(level)
    setattr(gevent.get_hub(), "print_exception", _print_exception)  # noqa: B010 - a method, which gevent lets be set


def _print_exception(context: Any, kind: Any, error: Any, trace: Any) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit):  # how a process ends, and no bug
        return
    log.error("bug", exc_info=error if isinstance(error, BaseException) else None)
