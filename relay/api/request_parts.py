"""The parts of an API request that several operations have: numbers in its query, its
Idempotency-Key, its JSON members.

Decided here: which form of each is valid. Never here: what a member means (`request_bodies.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import request

from relay.api.strict_json import check_media_type, read_object
from relay.engine.transfer_engine import TransferEngine
from relay.errors import InvalidHeader, InvalidType
from relay.headers import is_idempotency_key

ROWS, MOST_ROWS = 100, 1000
"""Default and maximum number of rows on a page."""
MOST_WAIT = 30
"""Longest time in seconds for which a request waits."""
MOST_PLACE = 2**53
"""Greatest place of a row in a list: greater numbers are not exact in JSON (RFC 8259 section 6)."""


def rows_of_page() -> int:
    """Return the maximum number of rows on the page that a request asks for. Raises InvalidType."""
    return _number("limit", ROWS, MOST_ROWS)


def place_in_list(name: str) -> int:
    """Return the place in a list that a request names, 0 without one. Raises InvalidType."""
    return _number(name, 0, MOST_PLACE)


def wait_in_query() -> int:
    """Return the seconds for which a request waits for an answer, 0 without any. Raises
    InvalidType."""
    return _number("wait", 0, MOST_WAIT)


def idempotency_key() -> str | None:
    """Return the Idempotency-Key, or None without one. Raises InvalidHeader."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not is_idempotency_key(key):
        raise InvalidHeader("Idempotency-Key is not 1 to 255 visible ASCII characters")
    return key


def members_of_body(engine: TransferEngine) -> Mapping[str, Any]:
    """Return the members of the JSON object in the body. Raises a RequestError."""
    settings = engine.settings
    return read_object(request.environ, settings.request_bytes, settings.request_seconds)


def optional_members(engine: TransferEngine) -> Mapping[str, Any]:
    """Return the members of a request that needs no body; without one there are none. Raises a
    RequestError."""
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        check_media_type(request.environ)
        return {}
    return members_of_body(engine)


def _number(name: str, default: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 17 and 1 <= int(text) <= most):
        raise InvalidType(f"{name} is not a number from 1 to {most}", hint="Correct the query.")
    return int(text)
