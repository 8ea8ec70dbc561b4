"""Render every error as application/problem+json.

Decided here: headers and statuses around a problem. Never here: its members
(`relay/views/problems.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException

from relay.api.caller import request_id
from relay.api.plain_answers import PlainAnswer
from relay.errors import Overloaded, RelayError, RequestTimeout, Unauthorized
from relay.views.problems import MEDIA_TYPE, bug, problem, retry_after

HTTP_HINTS: Mapping[int, str] = {
    404: "/openapi.json lists the paths.",
    405: "The Allow header lists the methods.",
}
HTTP_HEADERS = frozenset({"allow", "retry-after"})
"""The headers of an error of HTTP that are kept."""


def render(error: RelayError) -> Response:
    """Return the answer to a request that ended with `error`."""
    g.problem, g.side = error, error.side
    # A 408 closes the connection, whose request was not read (RFC 9110 section 15.5.9), and so does
    # the refusal of a server that stops.
    closes = isinstance(error, RequestTimeout) or (
        isinstance(error, Overloaded) and g.get("draining", False)
    )
    return answer_to(error, g.get("transfer_id") or request_id(), closes=closes).as_response()


def answer_to(error: RelayError, instance: str, *, closes: bool = False) -> PlainAnswer:
    """Return the answer to a request that ended with `error`. `instance` is the id of its request,
    or of its transfer; `closes` closes the connection."""
    seconds = retry_after(error)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    if closes:
        headers["Connection"] = "close"
    return _answer_with(problem(error, instance), headers)


def register(app: Flask) -> None:
    """Render every error of an application."""
    app.register_error_handler(RelayError, render)
    app.register_error_handler(HTTPException, _render_http)
    app.register_error_handler(Exception, _render_bug)


def _render_http(error: HTTPException) -> Response:
    g.side = side_of(error)
    return answer_to_http(error, request_id()).as_response()


def side_of(error: HTTPException) -> str:
    """Return whose fault an error of HTTP is."""
    return "request" if (error.code or 500) < 500 else "relay"


def answer_to_http(error: HTTPException, request_id: str) -> PlainAnswer:
    """Return the answer to a request for a path, or a method of it, that does not exist."""
    status = error.code or 500
    members = {
        "type": "about:blank",
        "title": error.name,
        "status": status,
        "detail": f"{error.name}.",
        "side": side_of(error),
        "retryable": False,
        "hint": HTTP_HINTS.get(status, "Correct the request; /openapi.json describes its members."),
        "instance": f"urn:uuid:{request_id}",
    }
    # The other headers describe werkzeug's page in HTML, which is not sent.
    kept = ((name, value) for name, value in error.get_headers() if name.lower() in HTTP_HEADERS)
    return _answer_with(members, dict(kept))


def _render_bug(error: Exception) -> Response:
    instance = g.get("transfer_id") or request_id()
    return problem_answer(problem(bug(error, request_id()), instance))


def problem_answer(members: Mapping[str, Any]) -> Response:
    """Return the answer with the members of a problem, and note whose fault it is, for the log."""
    g.side = members["side"]
    return _answer_with(members, {}).as_response()


def _answer_with(members: Mapping[str, Any], headers: Mapping[str, str]) -> PlainAnswer:
    return PlainAnswer(
        status=members["status"],
        kind=MEDIA_TYPE,
        body=json.dumps(members).encode() + b"\n",
        headers=tuple(headers.items()),
    )
