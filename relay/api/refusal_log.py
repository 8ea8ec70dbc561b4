"""Write the requests that were refused into the log: without their paths, fields and bodies.

Decided here: which answers are refusals, and whose fault each is. Never here: the counts
(`request_tally.py`)."""

from __future__ import annotations

from typing import Final

from flask import Flask, Response, g, request

from relay.api.caller import Caller, request_id
from relay.api.proxies import CLIENT, ClientView
from relay.errors import Forbidden, RelayError, TooManyRequests, Unauthorized
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

OF_SENDER: Final = (Unauthorized, Forbidden, TooManyRequests)
"""Refusals because of the sender, and not of what it asked for."""
STATUSES_OF_SENDER: Final = frozenset(kind.status for kind in OF_SENDER)
REFUSALS: Final = {
    event: event
    for event in (LogEvent.REQUEST_REFUSED, LogEvent.AUTH_FAILED, LogEvent.CSRF_REFUSED)
}
"""The events of refusals, which have the same members."""


def register(app: Flask) -> None:
    """Log every refused request of an application."""
    app.after_request(_log)


def refusal_event(status: int, side: str, error: RelayError | None) -> LogEvent | None:
    """Return the event of an answer 4xx; None if a store or relay is at fault, and not the request.
    Without an error a page has answered, or the path or its method does not exist."""
    if isinstance(error, Forbidden) and error.is_cross_site:
        return LogEvent.CSRF_REFUSED
    if isinstance(error, OF_SENDER) or (error is None and status in STATUSES_OF_SENDER):
        return LogEvent.AUTH_FAILED
    return LogEvent.REQUEST_REFUSED if side == "request" else None


def log_refusal(
    status: int,
    error: RelayError | None,
    *,
    side: str,
    route: str | None,
    client: ClientView | None,
    caller: Caller | None,
    request: str,
) -> None:
    """Log a request that was answered 4xx, if that is its sender's fault. `request` is its id."""
    event = refusal_event(status, side, error)
    if event is None:
        return
    emit(
        REFUSALS[event],
        tenant=None if caller is None else caller.tenant or None,
        token=None if caller is None else caller.token_id,
        request=request,
        status=status,
        code=None if error is None else error.code,
        route=route,
        address=None if client is None else client.address,
    )


def _log(response: Response) -> Response:
    if 400 <= response.status_code < 500:
        log_refusal(
            response.status_code,
            g.get("refused") or g.get("problem"),
            side=g.get("side", "request"),
            route=None if request.url_rule is None else request.url_rule.rule,
            client=request.environ.get(CLIENT),
            caller=g.get("caller"),
            request=request_id(),
        )
    return response
