"""The WSGI application: its routes, and the checks before all of them.

Decided here: which path is answered by what. Never here: gunicorn, the environment, start-up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, request

from relay import __version__
from relay.api import openapi, render
from relay.api.auth import guard
from relay.api.lingering_close import parting
from relay.api.migrate_route import migrate_view
from relay.api.migration_routes import LedgerContext, View, ledger_routes
from relay.engine.transfer_engine import TransferEngine
from relay.errors import InvalidType, LedgerFailed, RelayError, UnknownMember

RUNNER = "relay.runner"
"""Where an application keeps its runner, among its extensions."""
WORKS = "relay.works"
"""And its side of the ledger."""


def create_app(
    runner: TransferEngine, tokens: Iterable[str] = (), works: LedgerContext | None = None
) -> Flask:
    """Return the application over a runner. Without tokens it answers only this machine
    (`relay.api.auth`).

    `works` is the ledger's side of this process; without it what needs the ledger is answered 503.
    """
    app = Flask("relay", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # '//' leads nowhere: the redirect would be HTML
    app.extensions[RUNNER] = runner
    app.extensions[WORKS] = works
    check = guard(tokens)
    app.before_request(lambda: check(request.environ))
    app.before_request(partial(_check_query, openapi.parameters()))
    render.register(app)
    have = partial(_had, works)
    for path, method, view in (
        *_routes(runner, have, works is not None),
        *ledger_routes(have, runner),
    ):
        app.add_url_rule(path, endpoint=f"{method} {path}", view_func=view, methods=[method])
    app.wsgi_app = parting(app.wsgi_app)  # type: ignore[assignment, method-assign]
    return app


def _check_query(known: Mapping[tuple[str, str], frozenset[str]]) -> None:
    """Raise UnknownMember for a name in a query that its call does not have, and InvalidType for
    one that stands twice: of `?stat=failed`, and of `?state=failed&state=cancelled`, the answer
    would be another one than was asked for."""
    path = (
        re.sub(r"<(\w+)>", r"{\1}", request.url_rule.rule) if request.url_rule is not None else ""
    )
    names = known.get((path, "GET" if request.method == "HEAD" else request.method))
    if names is None:
        return
    for name, values in request.args.lists():
        if name not in names:
            hint = (
                f"Its query may have {', '.join(sorted(names))}."
                if names
                else "Members stand in the body."
            )
            raise UnknownMember(f"{name[:100]!a} is no parameter of this call", hint=hint)
        if len(values) > 1:
            raise InvalidType(
                f"{name!a} stands twice in the query",
                hint="Write it once; several states with commas.",
            )


def _had(works: LedgerContext | None) -> LedgerContext:
    if works is None:
        raise LedgerFailed(
            "this server has no ledger", hint="Set RELAY_LEDGER, and start it with `relay serve`."
        )
    return works


def _routes(
    runner: TransferEngine, works: Callable[[], LedgerContext], has_works: bool
) -> tuple[tuple[str, str, View], ...]:
    document = json.dumps(openapi.document()) + "\n"

    def trouble() -> RelayError | None:
        return works().claimer.trouble if has_works else None

    return (
        (
            "/",
            "GET",
            lambda: _json({"name": "relay", "version": __version__, "openapi": "/openapi.json"}),
        ),
        ("/migrate", "POST", migrate_view(runner, works)),
        ("/healthz", "GET", lambda: _json({"status": "ok"})),
        ("/readyz", "GET", lambda: _ready(runner, trouble)),
        ("/openapi.json", "GET", lambda: Response(document, mimetype="application/json")),
    )


def _ready(runner: TransferEngine, trouble: Callable[[], RelayError | None]) -> Response:
    slots, ledger = runner.slots, trouble()
    ready = not runner.draining and ledger is None
    members = {
        "ready": ready,
        "ledger": "ok" if ledger is None else ledger.code,
        "running": len(runner.running),
        "slots": {
            "held": slots.held,
            "free": runner.settings.slots - slots.held,
            "waiting": slots.waiting,
        },
    }
    response = _json(members, 200 if ready else 503)
    if runner.draining:
        response.headers["Connection"] = "close"
    return response


def _json(members: Mapping[str, Any], status: int = 200) -> Response:
    response = Response(json.dumps(members) + "\n", status=status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
