"""Write a record of the module `logging` as one line: the members of its event's row, and nothing
else.

Theory of operation. Only plain values reach a line: of an object of any other type, and of an
exception, a line has the type. So no `repr` and no text of an exception can bring a URL or a
password along. What a library logs is a line with the place of the call.

Decided here: the form of a line. Never here: the events (`event_table.py`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final

from relay.logs.event_table import ALWAYS, COMMON, EVENTS, LogEvent, LogFormat
from relay.logs.traces import trace_of

TEXT_BYTES: Final = 1024
"""A longer text is cut; bytes of UTF-8."""
MOST_ITEMS, MOST_DEPTH = 50, 4
"""Maximum number of members of an object or a list, and of objects in one another."""

_WORKER_MESSAGES: Final[Mapping[str, tuple[LogEvent, tuple[str, ...]]]] = {
    "WORKER TIMEOUT (pid:%s)": (LogEvent.WORKER_TIMEOUT, ("worker",)),
    "Worker (pid:%s) was sent %s!": (LogEvent.WORKER_ENDED, ("worker", "why")),
    "Worker (pid:%s) was sent %s! Perhaps out of memory?": (
        LogEvent.WORKER_ENDED,
        ("worker", "why"),
    ),
    "Worker (pid:%s) exited with code %s.": (LogEvent.WORKER_ENDED, ("worker", "why")),
}
"""gunicorn's messages that are events: their values are a process id, and a signal or a code."""


def event_of(record: logging.LogRecord) -> tuple[LogEvent, dict[str, Any]]:
    """Return the event of a record and its members, as `emit` gave them; of any other record the
    event that it stands for."""
    event = getattr(record, "event", None)
    if isinstance(event, LogEvent):
        return event, dict(getattr(record, "members", {}))
    if record.exc_info and record.exc_info[1] is not None:
        return LogEvent.ERROR_UNEXPECTED, trace_of(record.exc_info[1])
    known = _WORKER_MESSAGES.get(record.msg) if isinstance(record.msg, str) else None
    if known is not None and isinstance(record.args, tuple):
        return known[0], dict(zip(known[1], record.args, strict=False))
    at = f"{PurePath(record.pathname).name}:{record.lineno}"
    return LogEvent.LIBRARY_LOGGED, {"logger": record.name, "at": at}


def members_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the members of a record's line, in order, as plain values."""
    event, given = event_of(record)
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "event": event.value,
        "pid": record.process,
    }
    line |= {name: plain(given[name]) for name in COMMON if given.get(name) is not None}
    row = EVENTS[event].members
    known = (name for name in given if name in row and given[name] is not None)
    return line | {name: plain(given[name]) for name in known}


def plain(value: object, depth: int = 0) -> Any:
    """Return a value as it may stand in a line: texts are cut, and of an object that is not plain
    the type remains."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return cut(str(value))
    if depth < MOST_DEPTH and isinstance(value, Mapping):
        some = list(value.items())[:MOST_ITEMS]
        return {cut(str(key)): plain(one, depth + 1) for key, one in some if isinstance(key, str)}
    if depth < MOST_DEPTH and isinstance(value, list | tuple):
        return [plain(one, depth + 1) for one in value[:MOST_ITEMS]]
    return f"<{type(value).__name__}>"


def cut(text: str) -> str:
    """Return a text of at most TEXT_BYTES bytes; one that is cut ends with `…`."""
    if len(text) <= TEXT_BYTES // 4:  # a character has at most four bytes
        return text
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= TEXT_BYTES:
        return text
    return raw[: TEXT_BYTES - 3].decode("utf-8", "ignore") + "…"


class LineFormatter(logging.Formatter):
    """Formats a record as one line of JSON or of text. Control characters and characters that turn
    the direction of a text are escaped in both."""

    def __init__(self, form: LogFormat = LogFormat.JSON) -> None:
        """`form` may be changed later."""
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        members = members_of(record)
        if self.form is LogFormat.JSON:
            return json.dumps(members)
        return _text_of(members)


def _text_of(members: Mapping[str, Any]) -> str:
    """Return a line for people: `time level event member=value …`, without empty members. A text
    with blanks or quotes stands in quotes, as in JSON."""
    event = members["event"]
    head = f"{members['time']} {members['level']} {event}"
    rest = {k: v for k, v in members.items() if k not in ALWAYS or k == "pid"}
    if event == LogEvent.LINES_LEFT_OUT:
        what = next((rest[k] for k in ("code", "error", "at") if rest.get(k)), rest.get("of"))
        head += f": {rest.get('count')} more of {_word(what)}"
    words = [f"{name}={_word(value)}" for name, value in rest.items() if value not in (None, "")]
    return " ".join([head, *words])


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value or not (value.isascii() and value.isprintable()):
        return json.dumps(value)
    return json.dumps(value) if any(mark in value for mark in ' "=\\') else value
