"""The WSGI application: its routes, and the checks before all of them.

Decided here: which view answers which path. Never here: gunicorn, the environment, start-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from flask import Flask, Response, g, has_request_context, request

from relay import __version__
from relay.api import openapi, refusal_log, render, request_tally
from relay.api.access import ACCESS, HEALTH_PATH, METRICS_PATH, Access
from relay.api.answers import JSON, json_answer
from relay.api.auth import CSRF_FIELD, Guard, check_csrf
from relay.api.caller import current_actor, current_caller
from relay.api.early_answers import HEALTHY, note_refusals, with_early_answers
from relay.api.first_bytes import FirstBytes
from relay.api.known_tokens import known_tokens
from relay.api.ledger_context import LedgerContext
from relay.api.lingering_close import with_lingering_close
from relay.api.migrate_route import migrate_view
from relay.api.migration_routes import View, ledger_routes
from relay.api.page_forms import OPEN_BYTES, buffer_form, field_of
from relay.api.plan_routes import plan_routes
from relay.api.proxies import CLIENT, proxies_of, with_client
from relay.api.refusal_limit import RefusalLimit
from relay.api.request_check import DECISION, CheckedFlask, Decision, RequestCheck, has_form
from relay.api.scrapers import Scrapers
from relay.api.sessions import Sessions
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.errors import (
    InvalidType,
    LedgerFailed,
    Overloaded,
    RelayError,
    Unauthorized,
    UnknownMember,
)
from relay.ledger.token_values import Scope
from relay.ui.routes import ROOT, add_pages
from relay.wire.tls.choice import library_name

ENGINE = "relay.engine"
"""Name of the application's extension that holds its TransferEngine."""
HTML = "text/html"
LEDGER = "relay.works"
"""Name of the application's extension that holds its LedgerContext, or None."""
SESSIONS = "relay.sessions"
"""Name of the application's extension that holds its Sessions, or None without a ledger."""
CHECK = "relay.check"
"""Name of the application's extension that holds its RequestCheck."""
FIRST_BYTES = "relay.first_bytes"
"""Name of the application's extension that holds its FirstBytes."""
METRICS = "relay.metrics"
"""Name of the application's extension that holds its ServerMetrics, or None."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of Prometheus' text format."""


class ServerMetrics(Protocol):
    """The metrics of a server's worker (`relay/metrics/exposition.py`)."""

    def run(self) -> None:
        """Keep the numbers up to date, until this greenlet is killed."""

    def publish(self) -> None:
        """Write the numbers now."""

    def text(self) -> bytes:
        """Return the numbers of all workers in Prometheus' text format."""


def create_app(
    engine: TransferEngine,
    tokens: Iterable[str] = (),
    works: LedgerContext | None = None,
    *,
    metrics: ServerMetrics | None = None,
    metrics_tokens: Iterable[str] = (),
    limit: RefusalLimit | None = None,
) -> Flask:
    """Return the application. Without tokens it answers only requests from this machine
    (`relay.api.auth`).

    `works` is this process's access to the ledger. Without it, requests that need the ledger are
    answered 503; so is `/metrics` without `metrics`, which `metrics_tokens` may read besides.
    Without a `limit` every refusal is answered in full.
    """
    app = _bare_app(engine)
    ledger = works.ledger if works else None
    proxies = proxies_of(engine.settings.trusted_proxies, engine.settings.public_url)
    known, scrapers = known_tokens(tokens, ledger), Scrapers(metrics_tokens)
    sessions = Sessions(known, ledger, proxies.public) if ledger is not None else None
    app.extensions |= {ENGINE: engine, LEDGER: works, SESSIONS: sessions, METRICS: metrics}
    table = _add_views(app, engine, works, metrics, sessions)
    check = RequestCheck(app.url_map, table, Guard(known, proxies, sessions), scrapers)
    limit = RefusalLimit(0) if limit is None else limit
    app.extensions[CHECK] = check
    app.extensions[FIRST_BYTES] = FirstBytes(
        limit,
        lambda token: known.may_be_valid(token) or scrapers.know(token or ""),
        engine.tallies,
        proxies.public.prefix if proxies.public else "",
    )
    _add_checks(app, engine, check, limit)
    mounted = with_client(app.wsgi_app, proxies)
    app.wsgi_app = with_lingering_close(mounted)  # type: ignore[assignment, method-assign]
    return app


def _bare_app(engine: TransferEngine) -> Flask:
    """Return an application that counts and logs its requests, and answers every error."""
    app = CheckedFlask("relay", static_folder=None, template_folder=None)
    # Flask would add OPTIONS to each path, which the OpenAPI document does not have.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # '//' is a 404: the redirect would be HTML
    request_tally.register(app, engine.tallies)
    refusal_log.register(app)
    render.register(app)
    return app


def _add_views(
    app: Flask,
    engine: TransferEngine,
    works: LedgerContext | None,
    metrics: ServerMetrics | None,
    sessions: Sessions | None,
) -> Mapping[tuple[str, str], Access]:
    """Add the operations and the page; return who may use each of them."""
    has_works, require_works = works is not None, partial(_require_works, works)
    for path, method, view in (
        *_routes(engine, require_works, has_works),
        (METRICS_PATH, "GET", lambda: _metrics(metrics)),
        *ledger_routes(require_works, engine),
        *plan_routes(require_works, engine),
    ):
        app.add_url_rule(path, endpoint=f"{method} {path}", view_func=view, methods=[method])
    pages = add_pages(app, engine, require_works, has_works=has_works, sessions=sessions)
    return {**ACCESS, **pages}


def _add_checks(
    app: Flask, engine: TransferEngine, check: RequestCheck, limit: RefusalLimit
) -> None:
    """Check every request before a view sees it; most of those that are refused never reach
    Flask."""
    note_refusals(app, limit)
    admit = partial(_admit, check, engine.settings)
    app.before_request(request_tally.with_noted_refusals(admit))
    app.before_request(partial(_check_query, openapi.parameters()))
    checked = with_early_answers(app.wsgi_app, check, engine.tallies, limit=limit, pages=ROOT)
    app.wsgi_app = checked  # type: ignore[assignment, method-assign]


def _admit(check: RequestCheck, settings: Settings) -> None:
    """Refuse a request that the check has refused, and check a form before any other code sees it.
    Note the caller in `g.caller`, the session in `g.session`, the client in `g.client`, and in
    `g.still_admitted` a function for streams."""
    environ = request.environ
    decision: Decision = environ[DECISION]
    admission = decision.admission
    if admission is None:
        raise decision.refusal or Unauthorized("the request was not checked")
    g.caller, g.session, g.client = admission.caller, admission.session, environ[CLIENT]
    g.still_admitted = partial(check.still_admits, admission)
    if has_form(environ, decision.access):
        most = settings.request_bytes
        if decision.access.scope is None:
            most = min(OPEN_BYTES, most)
        form = buffer_form(environ, most, settings.request_seconds)
        check_csrf(environ, admission.session, field_of(form, CSRF_FIELD))


def _check_query(known: Mapping[tuple[str, str], frozenset[str]]) -> None:
    """Raise UnknownMember for a query parameter that the operation does not have, and InvalidType
    for one that is repeated. Both would be ignored otherwise: `?stat=failed`, or the second of
    `?state=failed&state=cancelled`. Raise InvalidType for a NUL, which PostgreSQL refuses."""
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
        if "\0" in values[0]:
            raise InvalidType(f"the query parameter {name!a} has a NUL", hint="Leave it out.")


def _require_works(works: LedgerContext | None) -> LedgerContext:
    if works is None:
        raise LedgerFailed(
            "this server has no ledger", hint="Set RELAY_LEDGER, and start it with `relay serve`."
        )
    if not (has_request_context() and "client" in g):
        return works
    # The audit log records what this request changes, with its caller.
    return replace(works, ledger=works.ledger.by(current_actor()))


def _routes(
    engine: TransferEngine, works: Callable[[], LedgerContext], has_works: bool
) -> tuple[tuple[str, str, View], ...]:
    document = openapi.document_text()

    def trouble() -> RelayError | None:
        return works().worker.trouble if has_works else None

    return (
        (
            "/",
            "GET",
            _home,
        ),
        ("/migrate", "POST", migrate_view(engine, works, has_works=has_works)),
        (HEALTH_PATH, "GET", HEALTHY.as_response),
        ("/readyz", "GET", lambda: _ready(engine, trouble)),
        ("/openapi.json", "GET", lambda: Response(document, mimetype="application/json")),
    )


def _home() -> Response:
    """Lead a browser to the page, where it may sign in; answer every other client with the name
    and version of this server. Raises Unauthorized for one that may not read."""
    if request.accept_mimetypes.best_match((JSON, HTML), default=JSON) == HTML:
        target = f"{request.script_root}/ui/"
        headers = {"Location": target, "Vary": "Accept", "Cache-Control": "no-store"}
        return Response(status=302, headers=headers)
    if Scope.READ not in current_caller().scopes:
        raise Unauthorized("no bearer token was sent")
    return json_answer({"name": "relay", "version": __version__, "openapi": "/openapi.json"})


def _metrics(metrics: ServerMetrics | None) -> Response:
    if metrics is None:
        raise Overloaded(
            "this server keeps no metrics",
            hint="Start it with `relay serve`; it needs a folder in memory (/dev/shm, or /tmp).",
        )
    headers = {"Content-Type": METRICS_TYPE, "Cache-Control": "no-store"}
    return Response(metrics.text(), headers=headers)


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
