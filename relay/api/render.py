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
from relay.errors import Overloaded, RelayError, RequestTimeout, Unauthorized
from relay.views.problems import MEDIA_TYPE, bug, problem, retry_after

HTTP_HINTS: Mapping[int, str] = {
    404: "/openapi.json lists the paths.",
    405: "The Allow header lists the methods.",
}


def render(error: RelayError) -> Response:
    """Return the answer to a request that ended with `error`."""
    g.problem = error
    response = problem_answer(problem(error, g.get("transfer_id") or request_id()))
    seconds = retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    # A 408 closes the connection, whose request was not read (RFC 9110 section 15.5.9), and so does
    # the refusal of a server that stops.
    if isinstance(error, RequestTimeout) or (isinstance(error, Overloaded) and g.get("draining")):
        response.headers["Connection"] = "close"
    return response


def register(app: Flask) -> None:
    """Render every error of an application."""
    app.register_error_handler(RelayError, render)
    app.register_error_handler(HTTPException, _render_http)
    app.register_error_handler(Exception, _render_bug)


def _render_http(error: HTTPException) -> Response:
    status = error.code or 500
    response = problem_answer(
        {
            "type": "about:blank",
            "title": error.name,
            "status": status,
            "detail": f"{error.name}.",
            "side": "request" if status < 500 else "relay",
            "retryable": False,
            "hint": HTTP_HINTS.get(
                status, "Correct the request; /openapi.json describes its members."
            ),
            "instance": f"urn:uuid:{request_id()}",
        }
    )
    # The other headers describe werkzeug's page in HTML, which is not sent.
    for name, value in error.get_headers():
        if name.lower() in ("allow", "retry-after"):
            response.headers[name] = value
    return response


def _render_bug(error: Exception) -> Response:
    instance = g.get("transfer_id") or request_id()
    return problem_answer(problem(bug(error, request_id()), instance))


def problem_answer(members: Mapping[str, Any]) -> Response:
    """Return the answer with the members of a problem, and note whose fault it is, for the log."""
    g.side = members["side"]
    return Response(json.dumps(members) + "\n", status=members["status"], mimetype=MEDIA_TYPE)
