"""The server's log: each line is JSON, names the place of a bug, and repeats no foreign text."""

from __future__ import annotations

import json
import logging
from typing import Any

import gevent
import pytest

from relay.views.log import JsonLines, start_logging
from relay.views.problems import bug

SECRET = "planted-secret-0123456789"


def secret_error() -> Exception:
    """Return an exception with a cause, both of which hold a secret."""
    try:
        try:
            raise KeyError(f"https://store/?sig={SECRET}")
        except KeyError as error:
            raise OSError(SECRET) from error
    except OSError as error:
        return error


def line_of(**more: Any) -> str:
    """Return the line of a record."""
    record = logging.LogRecord(
        "relay.x", logging.ERROR, __file__, 1, "error.unexpected", (), **more
    )
    return JsonLines().format(record)


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


@pytest.mark.parametrize("where", ["log.exception", "bug", "greenlet"])
def test_every_failure_is_logged_like_this(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that is caught, one that the API answers with 500, and one that ends a greenlet."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", None)  # restored afterwards
    start_logging()
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
