"""Answer requests that need no Flask: those that are refused, and /healthz.

Flask costs three times as much as the check of a request. A flood of wrong requests would take that
from the transfers of the process.

The page's refusals are pages, which Flask makes. Every other answer is that which Flask would give:
the same functions make it, count it and log it, and a test compares both over the whole URL map.

Decided here: which requests Flask does not see. Never here: whether a request is refused
(`request_check.py`), and the content of the answer (`render.py`)."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Final

from flask import Flask, Response, g, request

from relay.api.access import HEALTH_PATH
from relay.api.plain_answers import PlainAnswer
from relay.api.proxies import CLIENT, ClientView, Wsgi
from relay.api.refusal_limit import RefusalLimit
from relay.api.refusal_log import OF_SENDER, STATUSES_OF_SENDER, log_refusal
from relay.api.render import answer_to, answer_to_http, side_of
from relay.api.request_check import DECISION, Decision, RequestCheck, has_form
from relay.api.request_tally import count_request
from relay.errors import RelayError
from relay.tallies import Tallies

HEALTHY: Final = PlainAnswer(
    status=200,
    kind="application/json",
    body=b'{"status": "ok"}\n',
    headers=(("Cache-Control", "no-store"),),
)
"""The answer to `GET /healthz`: this process serves."""


def note_refusals(app: Flask, limit: RefusalLimit) -> None:
    """Count the refusals that Flask answers."""
    app.after_request(partial(_note, limit))


def with_early_answers(
    app: Wsgi, check: RequestCheck, tallies: Tallies, *, limit: RefusalLimit, pages: str
) -> Wsgi:
    """Return an application that passes to `app` only what needs it, with its Decision. The rules
    of the page begin with `pages`. A sender that is over the `limit` gets no page of an error, and
    no try to sign in."""

    def checked_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        began = monotonic()
        decision = environ[DECISION] = check.decide(environ)
        client: ClientView = environ[CLIENT]
        is_over = _is_of_stranger(environ, decision) and limit.is_over(client.address)
        if is_over:
            decision = replace(decision, refusal=limit.error())
        elif not _is_early(decision, pages):
            return app(environ, start_response)
        id = str(uuid.uuid4())
        answer = _answer_of(decision, id, closes=is_over)
        _count(decision, answer.status, tallies, monotonic() - began)
        if 400 <= answer.status < 500:
            _log(decision, answer.status, client, id)
        if answer.status in STATUSES_OF_SENDER and not (is_over or decision.is_known):
            limit.note(client.address)
        return answer.send(environ, start_response)

    return checked_app


def _is_early(decision: Decision, pages: str) -> bool:
    """Return whether the answer is made without Flask."""
    template = decision.route.template
    if decision.refusal is not None:
        # A bug is none, and Flask has a page of each error for a person.
        is_page = template is not None and template.startswith(pages)
        return isinstance(decision.refusal, RelayError) and not is_page
    return decision.route.error is not None or template == HEALTH_PATH


def _is_of_stranger(environ: dict[str, Any], decision: Decision) -> bool:
    """Return whether a request without a valid token or session is refused for that, or signs
    in."""
    if decision.is_known:
        return False
    if decision.admission is None:
        return isinstance(decision.refusal, OF_SENDER)
    return has_form(environ, decision.access)


def _answer_of(decision: Decision, id: str, *, closes: bool) -> PlainAnswer:
    if isinstance(decision.refusal, RelayError):
        return answer_to(decision.refusal, id, closes=closes)
    if decision.route.error is not None:
        return answer_to_http(decision.route.error, id)
    return HEALTHY


def _count(decision: Decision, status: int, tallies: Tallies, seconds: float) -> None:
    refusal = decision.refusal
    code = refusal.code if isinstance(refusal, OF_SENDER) else None
    count_request(tallies, decision.route.template, status, seconds=seconds, refusal=code)


def _log(decision: Decision, status: int, client: ClientView, id: str) -> None:
    error, missing = decision.refusal, decision.route.error
    side = "request"
    if isinstance(error, RelayError):
        side = error.side
    elif missing is not None:
        side = side_of(missing)
    log_refusal(
        status,
        error if isinstance(error, RelayError) else None,
        side=side,
        route=decision.route.template,
        client=client,
        caller=None if decision.admission is None else decision.admission.caller,
        request=id,
    )


def _note(limit: RefusalLimit, response: Response) -> Response:
    decision: Decision = request.environ[DECISION]
    # A person without a session is led to the form, by a 303.
    is_refused = "refused" in g or response.status_code in STATUSES_OF_SENDER
    if is_refused and not decision.is_known:
        limit.note(request.environ[CLIENT].address)
    return response
