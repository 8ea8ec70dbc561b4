"""Where an exception was raised: types and places, never its text, which may hold a presigned URL
or the output of a helper program.

Decided here: what of an exception a line has. Never here: the line."""

from __future__ import annotations

import traceback
from typing import Any, Final

CHAIN_LIMIT: Final = 5
"""Maximum number of exceptions of a chain in one line."""
FRAMES_LIMIT: Final = 30
"""Maximum number of each one's last frames."""


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
