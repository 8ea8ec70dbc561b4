"""JSON in its canonical form (RFC 8785), for values without fractions.

The rules that remain without fractions are those of Python's own encoder: no white space, members
in order, the shortest escapes, UTF-8. A report has a line for each object, and that encoder takes a
quarter of the time of a package (rfc8785) that also formats fractions.

Decided here: which values have a canonical form. Never here: the members of a report."""

from __future__ import annotations

import json
from typing import Any, Final

MOST: Final = 2**53 - 1
"""Largest integer that every reader of JSON keeps exactly (RFC 7493 section 2.2)."""
_ENCODER: Final = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), check_circular=False
)


def canonical(value: Any) -> bytes:
    """Return the canonical form of plain values. Raises ValueError for a value without one: a
    fraction, an integer above MOST, a text that is not Unicode; and for a member's name that is not
    ASCII, whose order would be another one in UTF-16 (section 3.2.3)."""
    _require_exact(value)
    return _ENCODER.encode(value).encode()


def _require_exact(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not -MOST <= value <= MOST:
            raise ValueError(f"{value} is not exact in every reader of JSON")
    elif isinstance(value, dict):
        for name, member in value.items():
            if not (isinstance(name, str) and name.isascii()):
                raise ValueError(f"{name!a} is not an ASCII name")
            _require_exact(member)
    elif isinstance(value, list):
        for one in value:
            _require_exact(one)
    else:
        raise ValueError(f"a {type(value).__name__} has no canonical form here")
