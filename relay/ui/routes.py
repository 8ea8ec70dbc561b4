"""The page's paths: one table.

Decided here: which view answers which path, the scope that it needs, and that every error is a
page. Never here: the content of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound

from relay.api.access import Access
from relay.api.ledger_context import LedgerContext
from relay.api.render import render
from relay.api.sessions import Sessions
from relay.engine.transfer_engine import TransferEngine
from relay.errors import MigrationUnknown, RelayError, TooManyStreams, Unauthorized
from relay.ledger.states import MigrationVerb, PlanVerb
from relay.ledger.token_values import Scope
from relay.ui import words
from relay.ui.assets import served_assets
from relay.ui.credentials_form import credentials_page, renew_credentials
from relay.ui.frame import PageFrame
from relay.ui.live_values import SharedValues, stream, values
from relay.ui.migration_list import list_page
from relay.ui.migration_screen import (
    REPORTS,
    acknowledge,
    act,
    cancel_page,
    migration_page,
    object_page,
    objects_page,
    report,
)
from relay.ui.new_migration import new_page, post_form
from relay.ui.plan_screen import (
    act_on_plan,
    delete_plan,
    plan_page,
    plans_page,
    start_plan,
)
from relay.ui.plan_stream import plan_stream, plan_values
from relay.ui.queries import check_query
from relay.ui.remote_pages import remotes_page, test_remote
from relay.ui.rendering import HEADERS, UNCACHED, redirect
from relay.ui.server_pages import health_page, settings_page
from relay.ui.sign_in import lead_to_sign_in, sign_in, sign_in_page, sign_out
from relay.ui.token_pages import (
    create_token,
    revoke_page,
    revoke_token,
    rotate_token,
    tokens_page,
)
from relay.views.problems import bug

View = Callable[..., Response]
ROOT: Final = "/ui"
ASSETS: Final = "/assets/<name>"
FOREVER: Final = "public, max-age=31536000, immutable"
VERBS: Final = tuple(verb.value for verb in words.VERBS if isinstance(verb, MigrationVerb))


@dataclass(frozen=True, kw_only=True)
class PageRoute:
    """One path below `/ui`: its method and view, the query parameters that it takes, and the scope
    that a caller needs."""

    path: str
    view: View
    method: str = "GET"
    query: frozenset[str] = frozenset()
    scope: Scope | None = Scope.READ
    is_data: bool = False
    """Whether the answer is for a script, or a file: no other site's link leads there."""


def add_pages(
    app: Flask,
    engine: TransferEngine,
    works: Callable[[], LedgerContext],
    *,
    has_works: bool,
    sessions: Sessions | None,
) -> Mapping[tuple[str, str], Access]:
    """Add the page to an application, below `/ui`; return who may use each of its operations."""
    frame = PageFrame(engine, works, has_works, sessions=sessions)
    pages = Blueprint("ui", __name__, url_prefix=ROOT)
    routes = tuple(page_routes(frame))
    for number, route in enumerate(routes):
        pages.add_url_rule(
            route.path,
            endpoint=f"{route.method.lower()}-{number}",
            view_func=partial(_answer, route),
            methods=[route.method],
        )
    data = frozenset(f"{ROOT}{route.path}" for route in routes if route.is_data)
    pages.register_error_handler(RelayError, frame.error)
    pages.register_error_handler(Unauthorized, partial(_answer_unauthorized, frame, data))
    # A script asks for streams, and comes back: a page of the error would be made for nothing.
    pages.register_error_handler(TooManyStreams, render)
    pages.register_error_handler(HTTPException, partial(_http_error, frame))
    pages.register_error_handler(Exception, lambda error: frame.error(bug(error)))
    pages.after_request(_with_headers)
    app.register_blueprint(pages)
    return {
        (route.method, f"{ROOT}{route.path}"): Access(
            scope=route.scope, is_page=not route.is_data, refusal=words.ONLY_LOOK
        )
        for route in routes
    }


def page_routes(frame: PageFrame) -> Iterable[PageRoute]:
    """Return every route of the page."""
    return (
        *_list_routes(frame),
        *_plan_routes(frame),
        *_migration_routes(frame),
        *_server_routes(frame),
        *_live_routes(frame),
        *_sign_in_routes(frame),
        PageRoute(path=ASSETS, view=_asset, scope=None, is_data=True),
        PageRoute(path="/<path:rest>", view=_no_page),
    )


def _list_routes(frame: PageFrame) -> Iterable[PageRoute]:
    searched, prefilled = frozenset({"group", "q", "before"}), frozenset({"plan"})
    new = partial(new_page, frame)
    yield PageRoute(path="", view=lambda: redirect(""))
    yield PageRoute(path="/", view=partial(list_page, frame), query=searched)
    yield PageRoute(path="/new", view=new, query=prefilled, scope=Scope.SUBMIT)
    yield _post("/new", partial(post_form, frame), Scope.SUBMIT)


def _plan_routes(frame: PageFrame) -> Iterable[PageRoute]:
    plan = "/plans/<plan>"
    changes: dict[str, View] = {
        "cancel": partial(act_on_plan, frame, verb=PlanVerb.CANCEL),
        "again": partial(act_on_plan, frame, verb=PlanVerb.AGAIN),
        "start": partial(start_plan, frame),
        "delete": partial(delete_plan, frame),
    }
    yield PageRoute(path="/plans", view=partial(plans_page, frame), query=frozenset({"before"}))
    yield PageRoute(path=plan, view=partial(plan_page, frame))
    yield PageRoute(path=f"/stream{plan}", view=partial(plan_stream, frame), is_data=True)
    yield PageRoute(path=f"/values{plan}", view=partial(plan_values, frame), is_data=True)
    for name, view in changes.items():
        yield _post(f"{plan}/{name}", view, Scope.SUBMIT)


def _migration_routes(frame: PageFrame) -> Iterable[PageRoute]:
    one = "/migrations/<id>"
    filtered = frozenset({"state", "reason", "level", "prefix", "after"})
    yield PageRoute(path=one, view=partial(migration_page, frame))
    yield PageRoute(path=f"{one}/cancel", view=partial(cancel_page, frame), scope=Scope.SUBMIT)
    for verb in VERBS:
        yield _post(f"{one}/{verb}", partial(act, frame, verb=verb), Scope.SUBMIT)
    yield _post(f"{one}/acknowledge", partial(acknowledge, frame), Scope.SUBMIT)
    yield from _form(
        f"{one}/credentials",
        partial(credentials_page, frame),
        partial(renew_credentials, frame),
        Scope.SUBMIT,
    )
    yield PageRoute(path=f"{one}/objects", view=partial(objects_page, frame), query=filtered)
    yield PageRoute(path=f"{one}/objects/<transfer>", view=partial(object_page, frame))
    for kind in REPORTS:
        yield PageRoute(
            path=f"{one}/report.{kind}",
            view=partial(report, frame, kind=kind),
            query=frozenset({"state", "reason"}),
            is_data=True,
        )


def _server_routes(frame: PageFrame) -> Iterable[PageRoute]:
    yield PageRoute(path="/remotes", view=partial(remotes_page, frame))
    yield _post("/remotes/test", partial(test_remote, frame), Scope.SUBMIT)
    yield from _form(
        "/tokens", partial(tokens_page, frame), partial(create_token, frame), Scope.ADMIN
    )
    yield _post("/tokens/<token>/rotate", partial(rotate_token, frame), Scope.ADMIN)
    yield from _form(
        "/tokens/<token>/revoke",
        partial(revoke_page, frame),
        partial(revoke_token, frame),
        Scope.ADMIN,
    )
    yield PageRoute(path="/settings", view=partial(settings_page, frame), scope=Scope.ADMIN)
    yield PageRoute(path="/health", view=partial(health_page, frame))


def _live_routes(frame: PageFrame) -> Iterable[PageRoute]:
    shared, shown = SharedValues(), frozenset({"m", "list"})
    yield PageRoute(path="/stream", view=lambda: stream(frame, shared), query=shown, is_data=True)
    yield PageRoute(path="/values", view=partial(values, frame), query=shown, is_data=True)


def _sign_in_routes(frame: PageFrame) -> Iterable[PageRoute]:
    back, page = frozenset({"next"}), partial(sign_in_page, frame)
    yield PageRoute(path="/sign-in", view=page, query=back, scope=None)
    yield _post("/sign-in", partial(sign_in, frame), None)
    yield _post("/sign-out", partial(sign_out, frame), None)


def _form(path: str, show: View, send: View, scope: Scope) -> tuple[PageRoute, PageRoute]:
    """Return the routes of a form: the page with it, and its POST to the same path."""
    return PageRoute(path=path, view=show, scope=scope), _post(path, send, scope)


def _post(path: str, view: View, scope: Scope | None) -> PageRoute:
    return PageRoute(path=path, view=view, method="POST", scope=scope)


def _answer(route: PageRoute, **names: str) -> Response:
    """Check the query of a request, and return the view's answer."""
    check_query(route.query)
    return route.view(**names)


def _asset(name: str) -> Response:
    """Return a file under its name with a hash."""
    found = served_assets().get(name)
    if found is None:
        raise NotFound
    return Response(found.content, content_type=found.kind, headers={"Cache-Control": FOREVER})


def _no_page(rest: str) -> Response:
    raise NotFound


def _answer_unauthorized(frame: PageFrame, data: frozenset[str], error: Unauthorized) -> Response:
    """Lead a person to the sign-in; a script, or a server without sessions, gets the error."""
    rule = request.url_rule.rule if request.url_rule is not None else ""
    if frame.sessions is None or rule in data:
        return frame.error(error)
    return lead_to_sign_in(frame)


def _http_error(frame: PageFrame, error: HTTPException) -> Response:
    if error.code == 404:
        nothing = MigrationUnknown("no page has this address", hint=words.LOOK_IN_LIST)
        return frame.error(nothing, words.NO_PAGE)
    raise error


def _with_headers(response: Response) -> Response:
    """Give an answer of the page its headers. What has no rule of its own is kept by no cache."""
    response.headers.update(HEADERS)
    for name, value in UNCACHED.items():
        response.headers.setdefault(name, value)
    return response
