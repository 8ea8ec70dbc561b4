"""The limits of a request's head, which gunicorn's parser keeps.

Decided here: the numbers. Never here: the answer to a longer head (`gunicorn_worker.py`)."""

from __future__ import annotations

from typing import Final

LINE_BYTES: Final = 4094
"""Maximum length of the request line."""
FIELDS: Final = 100
"""Maximum number of fields."""
FIELD_BYTES: Final = 8190
"""Maximum length of one field, with its name."""


def is_too_large(head: bytes) -> bool:
    """Return whether the parser refuses a whole head because of its size. An empty line may stand
    before it (RFC 9112 section 2.2)."""
    lines = head.removeprefix(b"\r\n").split(b"\r\n")
    return (
        len(lines) > 1 + FIELDS
        or len(lines[0]) > LINE_BYTES
        or any(len(line) > FIELD_BYTES for line in lines)
    )
