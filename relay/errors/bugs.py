"""Exceptions that are not relay's own: bugs.

Decided here: what an unexpected exception may disclose. Never here: where it is caught.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from relay.errors.root import RelayError

log = logging.getLogger("relay.bugs")

CHAIN_LIMIT, FRAMES_LIMIT = 5, 30
"""Maximum number of exceptions of a chain, and of each one's last frames, in one line."""


def bug(error: BaseException) -> RelayError:
    """Log an unexpected exception, and return the RelayError that reports it.

    Both name its type; the log adds the traceback. Neither has its text, which may hold a presigned
    URL (a password) or the output of a helper program."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    more = {"event": "error.unexpected", "members": trace_of(error)}
    log.error("unexpected %s\n%s", type(error).__name__, frames, extra=more)
    return RelayError(f"an unexpected {type(error).__name__}; the traceback is in the log")


def trace_of(error: BaseException) -> dict[str, Any]:
    """Return the type of an exception, and where it and its causes were raised; the first cause
    comes last."""
    places: list[dict[str, Any]] = []
    cause: BaseException | None = error
    while cause is not None and len(places) < CHAIN_LIMIT:
        frames = traceback.extract_tb(cause.__traceback__, limit=-FRAMES_LIMIT)
        places.append(
            {"type": _type(cause), "at": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]}
        )
        cause = cause.__cause__ or cause.__context__
    return {"error": _type(error), "traceback": places}


def _type(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
