"""Exceptions that are not relay's own: bugs.

Decided here: what an unexpected exception may disclose. Never here: where it is caught.
"""

from __future__ import annotations

import logging
import traceback

from relay.errors.root import RelayError

log = logging.getLogger("relay.bugs")


def bug(error: BaseException) -> RelayError:
    """Log an unexpected exception, and return the RelayError that reports it.

    Both name its type; the log adds the traceback. Neither has its text, which may hold a presigned
    URL (a password) or the output of a helper program."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, frames)
    return RelayError(f"an unexpected {type(error).__name__}; the traceback is in the log")
