"""Every call that writes into the log, as the source has it: its event and its members are in the
table, and no value is one that may hold a secret.

The rules are functions of source text, and are shown to fail on a text that breaks them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import relay.api.refusal_log
import relay.ledger.ledger_log
from relay.logs.event_table import ALWAYS, COMMON, EVENTS, MEMBERS, LogEvent

ROOT = Path(__file__).resolve().parents[2] / "relay"

TABLES: Mapping[str, tuple[LogEvent, ...]] = {
    "VERB_EVENTS": tuple(relay.ledger.ledger_log.VERB_EVENTS.values()),
    "TOKEN_EVENTS": tuple(relay.ledger.ledger_log.TOKEN_EVENTS.values()),
    "SESSION_EVENTS": tuple(relay.ledger.ledger_log.SESSION_EVENTS.values()),
    "REFUSALS": tuple(relay.api.refusal_log.REFUSALS),
    "WAITS": (LogEvent.SETTINGS_UNAVAILABLE, LogEvent.LEDGER_UNAVAILABLE),
}
"""Tables from which a call may take its event: all events of one have the same members."""
WRITERS = {"relay/logs/emitter.py", "relay/logs/line_bounds.py", "relay/logs/line_formats.py"}
"""The modules that speak to `logging` for all others; `emit` is the interface."""
HANDLERS = {"relay/views/log.py", "relay/logs/event_table.py", "relay/api/gunicorn_worker.py"}
"""Modules that choose handlers and levels, and write no line."""
UNSAFE = frozenset(
    [
        "url",
        "query",
        "headers",
        "header",
        "cookie",
        "csrf",
        "value",
        "password",
        "secret",
        "secrets",
        "body",
        "text",
        "args",
        "environ",
        "raw_uri",
        "authorization",
        "token_file",
        "ledger_url",
        "options",
        "given",
    ]
)
"""Names whose value may be a secret, or text of a stranger."""
TEXTS = frozenset({"repr", "format", "format_exc", "ascii", "vars"})
"""Functions that turn anything into text. `str` is for a Location (`LOCATIONS`)."""
LOCATIONS = frozenset({"source", "destination"})
PAST = re.compile(
    r"getLogger|\blog\.(?:debug|info|warning|error|exception|critical|log)$"
    r"|traceback\.(?:format|print)"
)
"""Calls that write a line, or an exception's text, past the table."""


def sources() -> Iterator[tuple[str, str]]:
    """Yield each module of relay, with its text."""
    for path in sorted(ROOT.rglob("*.py")):
        yield str(path.relative_to(ROOT.parent)), path.read_text(encoding="utf-8")


@cache
def calls(text: str) -> list[ast.Call]:
    """Return the calls of `emit` in a text."""
    return [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "emit"
    ]


def events_of(call: ast.Call) -> tuple[LogEvent, ...]:
    """Return the events that a call may write; none if the source does not say."""
    if len(call.args) != 1:
        return ()
    first = call.args[0]
    if isinstance(first, ast.Attribute) and ast.unparse(first.value) == "LogEvent":
        return (LogEvent[first.attr],)
    if isinstance(first, ast.Subscript) and isinstance(first.value, ast.Name):
        return TABLES.get(first.value.id, ())
    return ()


def mistakes(text: str) -> list[str]:
    """Return what is wrong with the calls of a text."""
    return [
        f"{fault}: {ast.unparse(call)[:200]}" for call in calls(text) for fault in _faults(call)
    ]


def _faults(call: ast.Call) -> Iterator[str]:
    events = events_of(call)
    if not events:
        yield "its event is not in place"
        return
    for one in call.keywords:
        if one.arg is None:
            yield "its members are not in place"
        elif any(one.arg not in EVENTS[event].members | COMMON.keys() for event in events):
            yield f"{one.arg} is not in the table"
        else:
            yield from _unsafe(one.arg, one.value)


def _unsafe(member: str, value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        if name in UNSAFE or name in TEXTS or isinstance(node, ast.JoinedStr):
            yield f"{member} may hold a secret ({name or 'a formatted text'})"
        if name == "str" and member not in LOCATIONS:
            yield f"{member} is any object's text"


def writes_otherwise(path: str, text: str) -> list[str]:
    """Return the places at which a module writes into the log past `emit`."""
    if path in WRITERS | HANDLERS:
        return []
    nodes = ast.walk(ast.parse(text))
    named = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    return [name for name in named if PAST.search(name)]


def test_every_call_keeps_to_the_table() -> None:
    found = {path: bad for path, text in sources() if (bad := mistakes(text))}
    assert not found


def test_nothing_is_logged_past_the_table() -> None:
    found = {path: bad for path, text in sources() if (bad := writes_otherwise(path, text))}
    assert not found


def test_every_event_is_written_somewhere() -> None:
    """But those that the log itself makes from others' records."""
    made = {
        LogEvent.WORKER_ENDED,
        LogEvent.WORKER_TIMEOUT,
        LogEvent.LIBRARY_LOGGED,
        LogEvent.LINES_LEFT_OUT,
    }
    written = {event for _, text in sources() for call in calls(text) for event in events_of(call)}
    assert written == set(LogEvent) - made


def test_the_table_is_complete() -> None:
    """Every event has a row and every member a meaning; a table of events has rows alike."""
    assert set(EVENTS) == set(LogEvent)
    used = {name for row in EVENTS.values() for name in row.members}
    assert used == set(MEMBERS)
    assert not used & {*COMMON, *ALWAYS}
    for events in TABLES.values():
        assert len({EVENTS[event].members - {"error"} for event in events}) == 1
    for row in EVENTS.values():
        bound = row.bound
        assert {*bound.each, *filter(None, [bound.carried])} <= row.members | COMMON.keys()
        assert bound.by is None or bound.by in EVENTS[LogEvent.LINES_LEFT_OUT].members


def test_each_mistake_is_found() -> None:
    assert mistakes("emit(LogEvent.LEDGER_FAILED, code=error.code, detail=error.message)") == []
    for wrong in (
        "emit(LogEvent.LEDGER_FAILED, secret=1)",
        "emit(LogEvent.LEDGER_FAILED, **members)",
        "emit(event, code=1)",
        "emit(LogEvent.LEDGER_FAILED, detail=str(error))",
        "emit(LogEvent.LEDGER_FAILED, detail=repr(error))",
        "emit(LogEvent.LEDGER_FAILED, detail=f'{error}')",
        "emit(LogEvent.LEDGER_FAILED, detail=request.headers['X'])",
        "emit(LogEvent.MIGRATION_ENDED, source=spec.url)",
        "emit(VERB_EVENTS[verb], state=1)",
    ):
        assert mistakes(wrong), wrong
    assert writes_otherwise("relay/x.py", "logging.getLogger('x').info('a')")
    assert writes_otherwise("relay/x.py", "server.log.warning('a')")
