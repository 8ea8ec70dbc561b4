"""The log: a line has the members of its event, repeats no foreign text, and there are few of
them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.logs.emitter import emit, is_written
from relay.logs.event_table import EVENTS, ONCE, LogEvent, LogFormat, LogLevel
from relay.logs.line_bounds import MOST_WINDOWS, LineBounds
from relay.logs.line_formats import MOST_ITEMS, TEXT_BYTES, LineFormatter, cut
from relay.views.log import current_handler, start_logging
from relay.views.problems import bug

SECRET = "planted-secret-0123456789"


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Lines(logging.Handler):
    """A log in memory, with bounds by a clock of its own."""

    def __init__(self, workers: int = 1, form: LogFormat = LogFormat.JSON) -> None:
        super().__init__()
        self.clock = Clock()
        self.bounds = LineBounds(self.handle, workers, self.clock)
        self.addFilter(self.bounds)
        self.setFormatter(LineFormatter(form))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a record."""
        self.texts.append(self.format(record))

    @property
    def members(self) -> list[dict[str, Any]]:
        """The members of the lines so far."""
        return [json.loads(text) for text in self.texts]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Return the log of this test."""
    with listen(Lines()) as made:
        yield made


@contextmanager
def listen(handler: Lines) -> Iterator[Lines]:
    """Let a handler hear relay at every level, for a block."""
    log = logging.getLogger("relay")
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def secret_error() -> Exception:
    """Return an exception with a cause, both of which hold a secret."""
    try:
        try:
            raise KeyError(f"https://store/?sig={SECRET}")
        except KeyError as error:
            raise OSError(SECRET) from error
    except OSError as error:
        return error


def line_of(message: str = "error.unexpected", *args: Any, **more: Any) -> str:
    """Return the line of a record that somebody else has made."""
    record = logging.LogRecord("relay.x", logging.ERROR, __file__, 1, message, args, **more)
    return LineFormatter().format(record)


# -- bugs, and what others log


def test_a_bug_is_logged_by_type_and_place_without_its_text() -> None:
    """The text of its cause too: either may contain a URL, and a URL may contain a password."""
    error = secret_error()
    line = line_of(exc_info=(type(error), error, error.__traceback__))
    members = json.loads(line)
    assert (members["event"], members["error"]) == ("error.unexpected", "OSError")
    assert [cause["type"] for cause in members["traceback"]] == ["OSError", "KeyError"]
    assert all("test_log.py" in cause["at"][-1] for cause in members["traceback"])
    assert SECRET not in line and "\n" not in line


def test_logging_without_an_exception_raises_nothing() -> None:
    """`log.exception` outside of an `except`, or without an exception."""
    assert "error" not in json.loads(line_of(exc_info=None))
    assert "error" not in json.loads(line_of(exc_info=(None, None, None)))


def test_a_circle_of_causes_ends() -> None:
    """Python permits a circle."""
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert len(json.loads(line_of(exc_info=(ValueError, first, None)))["traceback"]) == 5


def test_what_a_library_logs_is_a_place() -> None:
    """Its text may be anything, also before its arguments are put in."""
    line = line_of(f"GET {SECRET} %s", SECRET, exc_info=None)
    members = json.loads(line)
    assert (members["event"], members["at"]) == ("library.logged", "test_log.py:1")
    assert SECRET not in line


def test_gunicorns_messages_about_workers_are_events() -> None:
    line = line_of("Worker (pid:%s) was sent %s!", 7, "SIGSEGV", exc_info=None)
    members = json.loads(line)
    assert (members["event"], members["worker"], members["why"]) == ("worker.ended", 7, "SIGSEGV")


@pytest.mark.parametrize("where", ["log.exception", "bug", "greenlet"])
def test_every_failure_is_logged_like_this(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that is caught, one that the API answers with 500, and one that ends a greenlet."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", None)  # restored afterwards
    start_logging().bounds.write_counts(everything=True)
    capsys.readouterr()
    if where == "log.exception":
        try:
            raise secret_error()
        except OSError:
            logging.getLogger("relay.worker").exception("error.unexpected")
    elif where == "bug":
        assert SECRET not in bug(secret_error()).message
    else:
        error = secret_error()
        gevent.get_hub().print_exception("a greenlet", OSError, error, error.__traceback__)
    (line,) = capsys.readouterr().err.splitlines()
    members = json.loads(line)
    assert (members["event"], members["error"]) == ("error.unexpected", "OSError")
    assert "test_log.py" in members["traceback"][0]["at"][-1]
    assert SECRET not in line


def test_a_second_start_changes_the_form_only() -> None:
    first = start_logging()
    try:
        assert start_logging(LogLevel.ERROR, LogFormat.TEXT, 2) is first is current_handler()
        assert (first.lines.form, first.bounds.workers) == (LogFormat.TEXT, 2)
        assert not is_written(LogEvent.LEDGER_FAILED)
    finally:
        start_logging()


# -- the members of a line


def test_a_line_has_no_member_outside_the_table(lines: Lines) -> None:
    emit(LogEvent.LEDGER_FAILED, code="busy", detail="it is busy", secret=SECRET, level=SECRET)
    (members,) = lines.members
    assert members.keys() == {"time", "level", "event", "pid", "code", "detail"}
    assert (members["level"], members["event"]) == ("warning", "ledger.failed")


def test_only_plain_values_reach_a_line(lines: Lines) -> None:
    value = {"a": ValueError(SECRET), "b": [Path(SECRET), b"x"], "c": 1.5, 7: SECRET}
    emit(LogEvent.MIGRATION_LIMITED, change=value, who=Path(SECRET), migration="m", number=None)
    (members,) = lines.members
    assert members["change"] == {"a": "<ValueError>", "b": ["<PosixPath>", "<bytes>"], "c": 1.5}
    assert members["migration"] == "m" and "number" not in members
    assert SECRET not in lines.texts[0]


def test_a_name_is_cut_and_escaped(lines: Lines) -> None:
    """At 1,024 bytes, and never inside a character."""
    for name in ("\u202egpj.exe\n\x1b[2J", "ä" * 2000, "😀" * 300, "\udcff" * 500, "x" * 1024):
        emit(LogEvent.TRANSFER_FAILED, name=name, code="c", migration=name[:3])
    for text, members in zip(lines.texts, lines.members, strict=True):
        assert text.isascii() and text.isprintable()
        assert len(members["name"].encode("utf-8", "surrogatepass")) <= TEXT_BYTES
    assert lines.members[-1]["name"] == "x" * 1024
    assert cut("x" * 1025) == "x" * 1021 + "…"
    emit(LogEvent.MIGRATION_ENDED, objects={str(n): n for n in range(1000)})
    assert len(lines.members[-1]["objects"]) == MOST_ITEMS


def test_lines_for_people() -> None:
    with listen(Lines(form=LogFormat.TEXT)) as lines:
        emit(LogEvent.TRANSFER_FAILED, name='a "b"\n', code="not-found", migration="m", status=None)
        for _ in range(20):
            emit(LogEvent.TRANSFER_FAILED, name="x", code="not-found", migration="m")
        lines.bounds.write_counts(everything=True)
    assert lines.texts[0].partition(" ")[2].startswith("warning transfer.failed pid=")
    assert lines.texts[0].endswith(' migration=m name="a \\"b\\"\\n" code=not-found')
    assert "warning lines.left_out: 11 more of not-found" in lines.texts[-1]


# -- how many lines there are


def fail(count: int, code: str = "permission-denied", migration: str = "m") -> None:
    """Log failed objects."""
    for number in range(count):
        emit(LogEvent.TRANSFER_FAILED, migration=migration, name=str(number), code=code)


def test_a_migration_has_ten_failures_a_minute(lines: Lines) -> None:
    fail(40)
    fail(11, "not-found")
    fail(2, migration="other")
    assert len(lines.texts) == 12
    lines.clock.now += 60
    fail(1)
    counts = [one for one in lines.members if one["event"] == "lines.left_out"]
    assert [(one["code"], one["count"], one["of"], one["migration"]) for one in counts] == [
        ("permission-denied", 30, "transfer.failed", "m"),
        ("not-found", 11, "transfer.failed", "m"),
    ]
    assert {one["level"] for one in counts} == {"warning"}
    assert len(lines.texts) == 15


def test_many_failures_are_a_few_lines(lines: Lines) -> None:
    fail(20_000)
    emit(LogEvent.MIGRATION_ENDED, migration="m", state="failed")
    assert [one["event"] for one in lines.members[10:]] == ["lines.left_out", "migration.ended"]
    assert lines.members[10]["count"] == 20_000 - 10


def test_refused_requests_share_their_bound(lines: Lines) -> None:
    """Ten lines a second, and one that counts the others."""
    for _ in range(500):
        emit(LogEvent.REQUEST_REFUSED, status=400)
        emit(LogEvent.AUTH_FAILED, status=401)
    assert len(lines.texts) == 10
    lines.clock.now += 1
    lines.bounds.write_counts()
    assert [(one["of"], one["count"]) for one in lines.members[10:]] == [("refused requests", 990)]


def test_a_store_throttles_once_a_minute(lines: Lines) -> None:
    """The next line has the number of complaints since the last one."""
    for _ in range(50):
        emit(LogEvent.STORE_THROTTLED, remote="far", side="source", status=503)
    emit(LogEvent.STORE_THROTTLED, remote="far", side="destination", status=503)
    lines.clock.now += 61
    emit(LogEvent.STORE_THROTTLED, remote="far", side="source", status=503)
    assert [(one["side"], one["answers"]) for one in lines.members] == [
        ("source", 1),
        ("destination", 1),
        ("source", 50),
    ]


def test_workers_share_a_bound() -> None:
    with listen(Lines(workers=4)) as lines:
        fail(100)
        emit(LogEvent.STORE_THROTTLED, remote="far", side="source")
    assert len(lines.texts) == 3  # a quarter of ten, and at least one


def test_an_odd_value_breaks_no_caller(lines: Lines) -> None:
    """Neither a value that can't be compared, nor one that can't be written."""
    for _ in range(20):
        emit(LogEvent.TRANSFER_FAILED, migration=["m"], code={"a": 1}, name=object())
    assert len(lines.texts) == 10 and lines.members[0]["name"] == "<object>"


def test_windows_are_bounded(lines: Lines) -> None:
    for number in range(2 * MOST_WINDOWS):
        fail(1, migration=str(number))
    assert len(lines.bounds._windows) <= MOST_WINDOWS
    assert len(lines.texts) == 2 * MOST_WINDOWS


def test_every_event_has_a_bound_of_few_lines() -> None:
    """At info and above, but for those that a migration has once."""
    for event, row in EVENTS.items():
        few = row.bound.most <= 20 * row.bound.seconds
        assert few or row.bound is ONCE or row.level is LogLevel.DEBUG, event
