"""Errors as problems (RFC 9457): the same members over HTTP, in the last line of a stream and in
`relay migrate --json`.

Decided here: the members of a problem. Never here: the errors (`relay/errors/`), the response
(`relay/api/render.py`)."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

from relay.errors import RelayError
from relay.errors.bugs import bug as bug  # other modules import it from here

PROBLEMS_URI = "https://relay.invalid/problems/"
"""Prefix of a problem's `type`, which is an identifier, not an address (RFC 9457 section 3.1.1)."""
MEDIA_TYPE = "application/problem+json"


def problem(error: RelayError, instance: str | None = None) -> dict[str, Any]:
    """Return an error as a problem, in plain values. `instance` is the id of its transfer, or
    None."""
    members: dict[str, Any] = {
        "type": PROBLEMS_URI + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "side": error.side,
        "retryable": error.retryable,
        "hint": error.hint,
        "instance": f"urn:uuid:{instance or uuid.uuid4()}",
    }
    if error.pointer is not None:
        members["errors"] = [{"pointer": error.pointer, "detail": error.message}]
    return members


def stored_problem(members: Mapping[str, Any], instance: str) -> dict[str, Any]:
    """Return an error that the ledger keeps as a problem. `instance` is the id of its migration."""
    # A newer relay may have stored a code that this one does not know.
    kind = RelayError.class_of(members["code"]) or RelayError
    return {
        "type": PROBLEMS_URI + members["code"],
        "title": kind.title,
        "status": kind.status,
        "detail": members["detail"],
        "side": members.get("side") or kind.default_side,
        "retryable": kind.default_retryable,
        "hint": " ".join([members.get("hint") or kind.default_hint, *_unsaid(members)]),
        "instance": f"urn:uuid:{instance}",
    }


def _unsaid(members: Mapping[str, Any]) -> list[str]:
    """Return the leftovers that the hint does not name."""
    return [text for text in members.get("remains", ()) if text not in members.get("hint", "")]


def retry_after(error: RelayError) -> int | None:
    """Return the seconds of a Retry-After header, rounded up to at least 1; None without one."""
    return None if error.retry_after is None else max(1, math.ceil(error.retry_after))
