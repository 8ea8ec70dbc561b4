"""Answers of the API: JSON that no cache keeps, and lines that each reach the client at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flask import Response, g

JSON, NDJSON, CSV, SSE = "application/json", "application/x-ndjson", "text/csv", "text/event-stream"
UNCACHED = {"Cache-Control": "no-store"}


def json_answer(members: Mapping[str, Any], status: int = 200) -> Response:
    """Return members as JSON that no cache keeps."""
    return Response(json.dumps(members) + "\n", status=status, headers=UNCACHED, mimetype=JSON)


def stream_answer(lines: Iterator[str], kind: str) -> Response:
    """Return lines of a media type, each of which reaches the client at once: proxies pass them on
    without buffering or compressing them, and no cache keeps them."""
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    return Response(lines, headers=headers, mimetype=kind)


def while_admitted(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines until the token or the session of this request ends. Call it in the request."""
    still_admitted: Callable[[], bool] = g.still_admitted

    def yield_lines() -> Iterator[str]:
        for line in lines:
            if not still_admitted():
                return
            yield line

    return yield_lines()
