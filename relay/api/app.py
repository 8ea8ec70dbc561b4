"""The WSGI application: its routes, and what stands in front of all of them.

Decided here: which path is answered by what. Never here: gunicorn, the environment, start-up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Flask, Response, request

from relay import __version__
from relay.api import openapi, render
from relay.api.auth import guard
from relay.api.migrations import migrate_view
from relay.api.parting import parting
from relay.engine.runner import Runner

RUNNER = "relay.runner"
"""Where an application keeps its runner, among its extensions."""


def create_app(runner: Runner, tokens: Iterable[str] = ()) -> Flask:
    """Return the application over a runner. Without tokens it answers only this machine (`relay.api.auth`)."""
    app = Flask("relay", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.extensions[RUNNER] = runner
    check = guard(tokens)
    app.before_request(lambda: check(request.environ))
    render.register(app)
    for path, method, view in _routes(runner):
        app.add_url_rule(path, endpoint=path, view_func=view, methods=[method])
    app.wsgi_app = parting(app.wsgi_app)  # type: ignore[assignment, method-assign]
    return app


def _routes(runner: Runner) -> tuple[tuple[str, str, Callable[[], Response]], ...]:
    document = json.dumps(openapi.document()) + "\n"
    return (
        ("/", "GET", lambda: _json({"name": "relay", "version": __version__, "openapi": "/openapi.json"})),
        ("/migrate", "POST", migrate_view(runner)),
        ("/healthz", "GET", lambda: _json({"status": "ok"})),
        ("/readyz", "GET", lambda: _ready(runner)),
        ("/openapi.json", "GET", lambda: Response(document, mimetype="application/json")),
    )


def _ready(runner: Runner) -> Response:
    slots = runner.slots
    members = {
        "ready": not runner.draining,
        "running": len(runner.running),
        "slots": {"held": slots.held, "free": runner.settings.slots - slots.held, "waiting": slots.waiting},
    }
    response = _json(members, 503 if runner.draining else 200)
    if runner.draining:
        response.headers["Connection"] = "close"
    return response


def _json(members: Mapping[str, Any], status: int = 200) -> Response:
    response = Response(json.dumps(members) + "\n", status=status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
