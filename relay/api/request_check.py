"""The check of a request before Flask: its route, and its caller or its refusal.

Flask finds the decision in the environ, and neither looks for the route again nor asks who the
caller is. So a refusal has the same reason wherever its answer is made.

Decided here: the order of the checks that need no body. Never here: the checks (`auth.py`), and the
answers (`early_answers.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from flask import Flask, Request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

from relay.api.access import Access, access_of
from relay.api.auth import Admission, Guard, check_csrf
from relay.api.caller import ANONYMOUS, SCRAPER
from relay.api.origins import SAFE_METHODS
from relay.api.scrapers import Scrapers
from relay.errors import RelayError

E = TypeVar("E", bound=Exception)
DECISION: Final = "relay.decision"
"""Key of the environ at which the Decision about a request is found."""


@dataclass(frozen=True, kw_only=True)
class RouteMatch:
    """What the URL map has for the path and the method of a request."""

    rule: Rule | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    error: HTTPException | None = None
    """The 404 or 405 of a request that no rule matches."""

    @property
    def template(self) -> str | None:
        """The path with the names of its values, as metrics and the log have it."""
        return None if self.rule is None else self.rule.rule


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a request is answered, as far as its head shows."""

    route: RouteMatch
    access: Access
    admission: Admission | None = None
    """None if the request is refused."""
    refusal: Exception | None = None
    is_known: bool = False
    """Whether the request shows a valid token or a session, also if it is refused."""


class RequestCheck:
    """The check of each request of one process."""

    def __init__(
        self,
        url_map: Map,
        table: Mapping[tuple[str, str], Access],
        guard: Guard,
        scrapers: Scrapers,
    ) -> None:
        """`table` has the access of each operation of `url_map`."""
        self._urls, self._table = url_map.bind("relay.invalid"), table
        self._guard, self._scrapers = guard, scrapers

    def decide(self, environ: Mapping[str, Any]) -> Decision:
        """Return the decision about a request. Raises nothing but what ends a greenlet."""
        route = _route_of(self._urls, environ)
        access = access_of(environ["REQUEST_METHOD"], route.template, self._table)
        known = False
        try:
            admission = self._identify(environ, access)
            known = admission.caller is not ANONYMOUS
            self._authorize(environ, access, admission)
        except RelayError as error:
            refusal = _without_frames(error)
            return Decision(route=route, access=access, refusal=refusal, is_known=known)
        except Exception as error:  # noqa: BLE001 - Flask raises it, and answers
            return Decision(route=route, access=access, refusal=error)
        return Decision(route=route, access=access, admission=admission, is_known=known)

    def still_admits(self, admission: Admission) -> bool:
        """As that of Guard."""
        return self._guard.still_admits(admission)

    def _identify(self, environ: Mapping[str, Any], access: Access) -> Admission:
        if self._scrapers.have_sent(environ):
            return Admission(caller=SCRAPER)
        return self._guard.identify(environ, access)

    def _authorize(self, environ: Mapping[str, Any], access: Access, admission: Admission) -> None:
        if admission.caller is SCRAPER:
            return
        self._guard.authorize(environ, access, admission)
        if not has_form(environ, access):
            check_csrf(environ, admission.session, "")


def has_form(environ: Mapping[str, Any], access: Access) -> bool:
    """Return whether a request may have a form in its body."""
    return access.is_page and environ["REQUEST_METHOD"] not in SAFE_METHODS


def _without_frames(error: E) -> E:
    """Return an error without its traceback. Frames there have the environ, and the environ has the
    decision with the error: the garbage collector alone would free that circle, and a flood makes
    thousands of them."""
    error.__traceback__ = error.__context__ = None
    return error


def _route_of(urls: MapAdapter, environ: Mapping[str, Any]) -> RouteMatch:
    # A request for `http://host` has the path `/` (RFC 9110 section 4.2.3). WSGI has the path's
    # bytes as characters of Latin-1 (PEP 3333).
    path = environ.get("PATH_INFO") or "/"
    try:
        rule, values = urls.match(
            path.encode("latin-1").decode("utf-8", "replace"),
            environ["REQUEST_METHOD"],
            return_rule=True,
        )
    except HTTPException as error:
        return RouteMatch(error=_without_frames(error))
    return RouteMatch(rule=rule, values=values)


class CheckedRequest(Request):
    """A request whose route the check has found."""

    def __init__(self, environ: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As Request."""
        super().__init__(environ, *args, **kwargs)
        decision: Decision | None = environ.get(DECISION)
        if decision is not None:
            self.url_rule = decision.route.rule
            self.view_args = dict(decision.route.values)
            self.routing_exception = decision.route.error


class CheckedFlask(Flask):
    """An application that looks for no route which the check has found."""

    request_class = CheckedRequest

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return None for a request that was checked; otherwise as Flask."""
        if request is not None and DECISION in request.environ:
            return None
        return super().create_url_adapter(request)
