"""Exceptions that are not relay's own: bugs.

Decided here: what an unexpected exception may disclose. Never here: where it is caught.
"""

from __future__ import annotations

from relay.errors.root import RelayError
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.logs.traces import trace_of


def bug(error: BaseException, request: str | None = None) -> RelayError:
    """Log an unexpected exception, and return the RelayError that reports it. `request` is the id
    of the request that it ended.

    Both name its type; the log adds the traceback. Neither has its text, which may hold a presigned
    URL (a password) or the output of a helper program."""
    found = trace_of(error)
    emit(
        LogEvent.ERROR_UNEXPECTED,
        error=found["error"],
        traceback=found["traceback"],
        request=request,
    )
    return RelayError(f"an unexpected {type(error).__name__}; the traceback is in the log")
