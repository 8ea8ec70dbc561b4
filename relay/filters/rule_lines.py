"""Read the lines of files with rules or names, as rclone does.

Source of the rules: rclone 1.75, `forEachLine` in `fs/filter/rules.go`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""White space of Unicode; Python's own has four control characters more."""


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, without their ends. A carriage return belongs to the end."""
    lines = text.split("\n")
    if not lines[-1]:  # the text is empty, or its last line has an end
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def names_between_nuls(text: str) -> list[str]:
    """Return the parts of a text that NUL separates or ends."""
    names = text.split("\0")
    return names if names[-1] else names[:-1]


def significant_lines(lines: Iterable[str]) -> list[str]:
    """Return the lines without white space around them, without empty ones, and without those that
    begin with '#' or ';'."""
    stripped = [line.strip(_SPACE) for line in lines]
    return [line for line in stripped if line and line[0] not in "#;"]
