"""Sign in with a token, and sign out: the browser keeps the cookie of a session.

Decided here: the form, and where it leads. Never here: the checks of a sign-in
(`relay/api/sessions.py`)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from flask import Response, g, request

from relay.api.caller import ANONYMOUS, current_caller
from relay.errors import Forbidden, RelayError, TooManyRequests, Unauthorized
from relay.ui.form_fields import read_form
from relay.ui.frame import PageFrame
from relay.ui.rendering import redirect
from relay.views.problems import retry_after

PATH: Final = "sign-in"
_TARGET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.-]{0,200}(?:\?[A-Za-z0-9=&%_.,+-]{0,400})?|")
"""The address of a page, below the root of the page."""


def sign_in_page(frame: PageFrame) -> Response:
    """Return the form, or redirect a caller with access to the list."""
    if current_caller() is not ANONYMOUS:
        return redirect("")
    return _page(frame, _checked_target(request.args.get("next", "")))


def sign_in(frame: PageFrame) -> Response:
    """Begin a session, and lead to the page that the browser asked for first; an error is shown in
    the form. Raises LedgerFailed."""
    fields = read_form(frame.engine.settings, ("token", "next"))
    target = _checked_target(fields.get("next", ""))
    if frame.sessions is None:
        return redirect(target)
    try:
        session = frame.sessions.start(fields.get("token", ""), g.client)
    except (Unauthorized, TooManyRequests, Forbidden) as error:
        return _page(frame, target, error)
    response = redirect(target)
    frame.sessions.set_cookie(response, session)
    return response


def sign_out(frame: PageFrame) -> Response:
    """End the session of the request, and lead to the form. Raises LedgerFailed."""
    read_form(frame.engine.settings, ())
    response = redirect(PATH)
    if frame.sessions is not None and g.session is not None:
        frame.sessions.end(g.session, g.client)
        frame.sessions.clear_cookie(response)
    return response


def lead_to_sign_in(frame: PageFrame) -> Response:
    """Return the answer to a page's request without a session: the form, which leads back here."""
    asked = request.full_path.removeprefix("/ui/").rstrip("?")
    target = _checked_target(asked) if request.method in ("GET", "HEAD") else ""
    return redirect(f"{PATH}?next={quote(target, safe='')}" if target else PATH)


def _checked_target(text: str) -> str:
    """Return the address of a page below the root, '' for everything else."""
    return text if _TARGET.fullmatch(text) and ".." not in text and "//" not in text else ""


def _page(frame: PageFrame, target: str, error: RelayError | None = None) -> Response:
    response = frame.page(
        "sign_in.html",
        here="sign-in",
        status=200 if error is None else error.status,
        target=target,
        message="" if error is None else error.message,
    )
    seconds = None if error is None else retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    return response
