"""Count the requests to relay, by the template of their route.

Decided here: the route and the status of a request. Never here: the use of the numbers
(`relay/metrics/`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from flask import Flask, Response, g, request

from relay.errors import Forbidden, TooManyRequests, Unauthorized
from relay.tallies import OTHER, Tallies


def register(app: Flask, tallies: Tallies) -> None:
    """Count every request of an application. Call it before anything else that looks at
    requests."""
    app.before_request(_begin)
    app.after_request(partial(_end, tallies))


def with_noted_refusals(admit: Callable[[], None]) -> Callable[[], None]:
    """Return a check of a request's sender that notes its refusal, for the count."""

    def check() -> None:
        try:
            admit()
        except (Unauthorized, Forbidden, TooManyRequests) as error:
            g.refusal, g.refused = error.code, error
            raise

    return check


def _begin() -> None:
    g.began = monotonic()


def count_request(
    tallies: Tallies,
    route: str | None,
    status: int,
    *,
    seconds: float,
    refusal: str | None,
) -> None:
    """Count one request. `refusal` is the code of its error if its sender was refused; without a
    `route` no path fits it."""
    name = OTHER if route is None else route
    tallies.http_requests[name, f"{status // 100}xx"] += 1
    tallies.http_request_seconds[name,].add(seconds)
    # Also a sign-in with a wrong token, which a view refuses.
    if refusal is not None or status == Unauthorized.status:
        tallies.auth_failures[refusal or Unauthorized.code,] += 1


def _end(tallies: Tallies, response: Response) -> Response:
    count_request(
        tallies,
        None if request.url_rule is None else request.url_rule.rule,
        response.status_code,
        seconds=monotonic() - g.began,
        refusal=g.get("refusal"),
    )
    if response.is_streamed:
        tallies.open_streams += 1
        response.call_on_close(partial(_end_stream, tallies))
    return response


def _end_stream(tallies: Tallies) -> None:
    tallies.open_streams -= 1
