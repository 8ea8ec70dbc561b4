"""The WSGI application: its routes, and the checks before all of them.

Decided here: which view answers which path. Never here: gunicorn, the environment, start-up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, g, request

from relay import __version__
from relay.api import openapi, render
from relay.api.auth import guard
from relay.api.caller import Caller
from relay.api.forwarded_prefix import path_prefix
from relay.api.lingering_close import with_lingering_close
from relay.api.migrate_route import migrate_view
from relay.api.migration_routes import JSON, LedgerContext, View, json_answer, ledger_routes
from relay.engine.transfer_engine import TransferEngine
from relay.errors import InvalidType, LedgerFailed, RelayError, UnknownMember
from relay.ui.routes import add_pages
from relay.wire.tls.choice import library_name

ENGINE = "relay.engine"
"""Name of the application's extension that holds its TransferEngine."""
HTML = "text/html"
LEDGER = "relay.works"
"""Name of the application's extension that holds its LedgerContext, or None."""


def create_app(
    engine: TransferEngine, tokens: Iterable[str] = (), works: LedgerContext | None = None
) -> Flask:
    """Return the application. Without tokens it answers only requests from this machine
    (`relay.api.auth`).

    `works` is this process's access to the ledger. Without it, requests that need the ledger are
    answered 503.
    """
    app = Flask("relay", static_folder=None, template_folder=None)
    # Flask would add OPTIONS to each path, which the OpenAPI document does not have.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # '//' is a 404: the redirect would be HTML
    app.extensions[ENGINE] = engine
    app.extensions[LEDGER] = works
    check = guard(tokens)
    app.before_request(partial(_admit, check))
    app.before_request(partial(_check_query, openapi.parameters()))
    render.register(app)
    require_works = partial(_require_works, works)
    for path, method, view in (
        *_routes(engine, require_works, works is not None),
        *ledger_routes(require_works, engine),
    ):
        app.add_url_rule(path, endpoint=f"{method} {path}", view_func=view, methods=[method])
    add_pages(app, engine, require_works, has_works=works is not None)
    app.wsgi_app = with_lingering_close(app.wsgi_app)  # type: ignore[assignment, method-assign]
    return app


def _admit(check: Callable[[Mapping[str, Any]], Caller]) -> None:
    """Check a request before any other code sees it, and note its caller in `g.caller`."""
    g.caller = check(request.environ)


def _check_query(known: Mapping[tuple[str, str], frozenset[str]]) -> None:
    """Raise UnknownMember for a query parameter that the operation does not have, and InvalidType
    for one that is repeated. Both would be ignored otherwise: `?stat=failed`, or the second of
    `?state=failed&state=cancelled`."""
    # Flask writes `<id>` where the OpenAPI document writes `{id}`, and its view of GET answers HEAD
    # too.
    path = (
        re.sub(r"<(\w+)>", r"{\1}", request.url_rule.rule) if request.url_rule is not None else ""
    )
    names = known.get((path, "GET" if request.method == "HEAD" else request.method))
    # The path has no such operation (404 or 405), or the operation never answers 422 (a probe).
    if names is None:
        return
    for name, values in request.args.lists():
        if name not in names:
            hint = "This operation has no query parameters; send members in the body."
            if names:
                hint = f"The query parameters of this operation are {', '.join(sorted(names))}."
            raise UnknownMember(f"{name[:100]!a} is not a query parameter here", hint=hint)
        if len(values) > 1:
            raise InvalidType(
                f"the query parameter {name!a} is repeated",
                hint="Send it once; separate several states by commas.",
            )


def _require_works(works: LedgerContext | None) -> LedgerContext:
    if works is None:
        raise LedgerFailed(
            "this server has no ledger", hint="Set RELAY_LEDGER, and start it with `relay serve`."
        )
    return works


def _routes(
    engine: TransferEngine, works: Callable[[], LedgerContext], has_works: bool
) -> tuple[tuple[str, str, View], ...]:
    document = json.dumps(openapi.document()) + "\n"

    def trouble() -> RelayError | None:
        return works().worker.trouble if has_works else None

    return (
        (
            "/",
            "GET",
            _home,
        ),
        ("/migrate", "POST", migrate_view(engine, works, has_works=has_works)),
        ("/healthz", "GET", lambda: json_answer({"status": "ok"})),
        ("/readyz", "GET", lambda: _ready(engine, trouble)),
        ("/openapi.json", "GET", lambda: Response(document, mimetype="application/json")),
    )


def _home() -> Response:
    """Lead a browser to the page; tell every other client what this server is."""
    if request.accept_mimetypes.best_match((JSON, HTML), default=JSON) == HTML:
        target = f"{path_prefix()}{request.script_root}/ui/"
        headers = {"Location": target, "Vary": "Accept", "Cache-Control": "no-store"}
        return Response(status=302, headers=headers)
    return json_answer({"name": "relay", "version": __version__, "openapi": "/openapi.json"})


def _ready(engine: TransferEngine, trouble: Callable[[], RelayError | None]) -> Response:
    slots, ledger = engine.slots, trouble()
    ready = not engine.draining and ledger is None
    members = {
        "ready": ready,
        "ledger": "ok" if ledger is None else ledger.code,
        "tls": library_name(engine.settings.tls),
        "running": len(engine.running),
        "slots": {
            "held": slots.held,
            "free": engine.settings.slots - slots.held,
            "waiting": slots.waiting,
        },
    }
    response = json_answer(members, 200 if ready else 503)
    if engine.draining:
        response.headers["Connection"] = "close"
    return response
