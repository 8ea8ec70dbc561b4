"""Exceptions that are not relay's own: bugs.

Decided here: what may be said of one. Never here: who meets it.
"""

from __future__ import annotations

import logging
import traceback

from relay.errors.root import RelayError

log = logging.getLogger("relay.bugs")


def bug(error: BaseException) -> RelayError:
    """Log an error that nobody foresaw, and return what may be said about it.

    Both have its type, the log also where it was raised. Not its text: that may hold a URL, which
    may be a password, or what a helper program printed."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, frames)
    return RelayError(f"an unexpected {type(error).__name__}; the log has where it was raised")
