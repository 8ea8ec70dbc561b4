"""The tokens of a server: the list, a form for a new one, another value, and the end of one.

A new value is shown in the answer to its form, and in no other: the ledger keeps only its hash.
Limits are changed in a terminal (`relay token limit`).

Decided here: the fields of the form. Never here: which tokens are valid
(`relay/ledger/tokens.py`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flask import Response

from relay.errors import (
    ConfigError,
    IllegalTransition,
    InvalidType,
    RelayError,
    TokenExists,
    TokenUnknown,
)
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.tokens import Token
from relay.ledger.viewer import DEFAULT_TENANT
from relay.ui import words
from relay.ui.form_fields import read_form, require_choice
from relay.ui.frame import PageFrame
from relay.ui.rendering import redirect
from relay.views.problems import problem

DAY_SECONDS: Final = 86400.0
OVERLAP_SECONDS: Final = DAY_SECONDS
"""How long a replaced value stays valid."""
FIELDS: Final = ("name", "tenant", "scope", "days", "local")
SINCE: Final = "since"
"""The field of a form for another value: of which value the form was made."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One token as the page shows it."""

    token: Token
    since: str
    state: str
    limits: str


def tokens_page(frame: PageFrame) -> Response:
    """Return the list of all tokens, and the form for a new one."""
    return _page(frame)


def create_token(frame: PageFrame) -> Response:
    """Create a token, and show its value; an error is shown in the form."""
    fields = read_form(frame.engine.settings, FIELDS)
    try:
        days = _days(fields.get("days", ""))
        made, value = frame.ledger.tokens.create(
            fields.get("name", "").strip(),
            tenant=fields.get("tenant", "").strip() or DEFAULT_TENANT,
            scope=Scope(require_choice(fields, "scope", [scope.value for scope in Scope])),
            limits=TokenLimits(local="local" in fields),
            expires=None if days is None else time.time() + days * DAY_SECONDS,
        )
    except (ConfigError, TokenExists, InvalidType) as error:
        return _page(frame, error=error, values=fields)
    return _page(frame, made=made, value=value)


def rotate_token(frame: PageFrame, token: str) -> Response:
    """Give a token another value, and show it; the present one stays valid for a day. A form that
    is sent twice, as by a reload of the answer, does so once. Raises TokenUnknown."""
    fields = read_form(frame.engine.settings, (SINCE,))
    found = next((one for one in frame.ledger.tokens.every() if one.id == token), None)
    if found is not None and fields.get(SINCE, "") != rotated_at(found):
        return _page(frame, error=IllegalTransition(words.ROTATED_SINCE, hint=words.ROTATE_AGAIN))
    made, value = frame.ledger.tokens.rotate(token, OVERLAP_SECONDS)
    return _page(frame, made=made, value=value)


def rotated_at(token: Token) -> str:
    """Return a text that changes whenever a token gets another value. A page may show it."""
    return "" if token.previous_until is None else repr(token.previous_until)


def revoke_page(frame: PageFrame, token: str) -> Response:
    """Ask whether a token is to be revoked. Raises TokenUnknown."""
    found = next((one for one in frame.ledger.tokens.every() if one.id == token), None)
    if found is None:
        raise TokenUnknown(f"there is no token {token[:80]!a}")
    return frame.page("revoke.html", here="tokens", token=found, question=words.revoke(found.name))


def revoke_token(frame: PageFrame, token: str) -> Response:
    """Revoke a token, and lead to the list. Raises TokenUnknown."""
    read_form(frame.engine.settings, ())
    frame.ledger.tokens.revoke(token)
    return redirect("tokens")


def _days(text: str) -> int | None:
    """Return the days of a form, None for a token without an end. Raises InvalidType."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) >= 1):
        raise InvalidType(
            "the days are not a whole number from 1 on", hint="Leave them empty for no end."
        )
    return int(text)


def _page(
    frame: PageFrame,
    *,
    error: RelayError | None = None,
    made: Token | None = None,
    value: str = "",
    values: Mapping[str, str] | None = None,
) -> Response:
    now = time.time()
    rows = [
        TokenRow(token=one, since=rotated_at(one), state=_state(one, now), limits=_limits(one))
        for one in frame.ledger.tokens.every()
    ]
    return frame.page(
        "tokens.html",
        here="tokens",
        status=200 if error is None else error.status if error.status < 500 else 422,
        rows=rows,
        scopes=[scope.value for scope in Scope],
        made=made,
        value=value,
        values=dict.fromkeys(FIELDS, "") | dict(values or {}),
        problem=None if error is None else problem(error),
    )


def _state(one: Token, now: float) -> str:
    if one.revoked is not None:
        return "revoked"
    return "valid" if one.is_live(now) else "expired"


def _limits(one: Token) -> str:
    return ", ".join(_limit(name, value) for name, value in one.limits.to_json().items())


def _limit(name: str, value: object) -> str:
    if value is True:
        return name
    return f"{name} {' '.join(value) if isinstance(value, list) else value}"
