"""Translate a pattern of rclone into the regular expression that rclone makes of it.

Source of the rules: rclone 1.75, `fs/filter/glob.go`; the tests have its own table. A name is
matched by RE2's syntax, which is Go's. Text in brackets and after a backslash goes through as it
stands, so `[!3]` does not negate, although rclone's manual says that it does.

Decided here: the expression of a pattern, and the patterns of the folders above its objects. Never
here: matching (`expressions.py`), the order of rules (`rules.py`)."""

from __future__ import annotations

import re
from typing import Final

from relay.errors import InvalidFilter

_META: Final = frozenset(".+()|^$")
"""Characters that have a meaning in an expression, and none in a pattern."""
_SLASHES: Final = re.compile("/{2,}")
_STARS: Final = ("", "[^/]*", ".*")
EVERYWHERE: Final = "/**"
"""The pattern that every folder matches."""


def expression_of(pattern: str, ignore_case: bool = False) -> str:
    """Return the expression of a pattern. Raises InvalidFilter for one that rclone refuses; an
    expression in `{{}}` is not checked here."""
    return _translate(pattern, ignore_case).expression


def has_false_negation(pattern: str) -> bool:
    """Return whether a valid pattern has a class that begins with '!', which negates nothing."""
    return _translate(pattern, False).has_false_negation


def _translate(pattern: str, ignore_case: bool) -> _Translation:
    made = _Translation(pattern, ignore_case)
    before = ""
    for char in pattern[pattern.startswith("/") :]:
        made.take(char, before)
        before = char
    made.end()
    return made


class _Translation:
    """A pattern on its way to an expression: the text so far, and the state after it."""

    def __init__(self, pattern: str, ignore_case: bool) -> None:
        self._pattern = pattern
        anchor = "^" if pattern.startswith("/") else "(^|/)"
        self._made = ["(?i)" if ignore_case else "", anchor]
        self._stars, self._braces, self._brackets = 0, 0, 0
        self._is_escaped = self._is_regexp = self._is_regexp_over = False
        self.has_false_negation = False

    @property
    def expression(self) -> str:
        """The expression so far."""
        return "".join(self._made)

    def take(self, char: str, before: str) -> None:
        """Take the next character of the pattern; `before` is the one before it, or ''. Raises
        InvalidFilter."""
        if self._is_escaped:
            self._made.append(char)
            self._is_escaped = False
            return
        if self._is_regexp_over:
            if char == "}":  # of several, the last two end the expression
                self._made[-1:] = ["}", ")"]
                return
            self._is_regexp_over = False
        if self._is_regexp:
            self._take_in_regexp(char, before)
            return
        if char != "*":
            self._end_stars()
        if self._brackets:
            self._take_in_brackets(char, before)
        else:
            self._take_plain(char, before)

    def end(self) -> None:
        """End the pattern. Raises InvalidFilter."""
        self._end_stars()
        if self._brackets:
            raise self._mismatch_error("'[' and ']'")
        if self._braces:
            raise self._mismatch_error("'{' and '}'")
        if self._is_regexp:
            raise self._mismatch_error("'{{' and '}}'")
        self._made.append("$")

    def _take_in_regexp(self, char: str, before: str) -> None:
        if char == "}" and before == "}":
            self._is_regexp, self._is_regexp_over = False, True
            self._made[-1] = ")"
        else:
            self._made.append(char)

    def _take_in_brackets(self, char: str, before: str) -> None:
        self._made.append(char)
        self.has_false_negation |= char == "!" and before == "[" and self._brackets == 1
        self._brackets += (char == "[") - (char == "]")

    def _take_plain(self, char: str, before: str) -> None:
        if char == "*":
            self._stars += 1
        elif char == "{":
            self._open_brace(before)
        elif char == "}":
            if not self._braces:
                raise self._mismatch_error("'{' and '}'")
            self._made.append(")")
            self._braces -= 1
        elif char == "]":
            raise self._mismatch_error("']'")
        else:
            self._is_escaped = char == "\\"
            self._brackets += char == "["
            self._made.append(self._plain(char))

    def _plain(self, char: str) -> str:
        if char == "?":
            return "[^/]"
        if char == "," and self._braces:
            return "|"
        return f"\\{char}" if char in _META else char

    def _open_brace(self, before: str) -> None:
        if self._braces and before == "{":
            # The parenthesis of the first brace encloses the expression.
            self._is_regexp = True
            self._braces -= 1
        else:
            self._braces += 1
            self._made.append("(")

    def _end_stars(self) -> None:
        if self._stars >= len(_STARS):
            raise InvalidFilter(f"too many stars in a row in {self._pattern!a}")
        if self._stars:
            self._made.append(_STARS[self._stars])
        self._stars = 0

    def _mismatch_error(self, marks: str) -> InvalidFilter:
        return InvalidFilter(f"mismatched {marks} in {self._pattern!a}")


def folder_patterns(pattern: str) -> list[str]:
    """Return patterns of the folders in which an object that matches `pattern` may be, from the
    nearest to the root. A folder's name ends in '/'."""
    if _is_too_hard(pattern):
        return [EVERYWHERE]
    found: list[str] = []
    rest = _SLASHES.sub("/", pattern)
    while True:
        slash, stars = rest.rfind("/"), rest.rfind("**")
        cut = max(slash, stars)
        if cut < 0:
            return found or [EVERYWHERE]
        rest = rest[:cut]
        folder = f"{rest}**/" if stars > slash else f"{rest}/"
        if not found or found[-1] != folder:
            found.append(folder)


def _is_too_hard(pattern: str) -> bool:
    """Return whether a pattern has an expression, nested braces, or braces with a '/' or '**' in
    them: its folders may then be anywhere."""
    if "{{" in pattern or "}}" in pattern:
        return True
    for group in pattern.split("{")[1:]:
        inner, end, _ = group.partition("}")
        if end and ("**" in inner or "/" in inner):
            return True
    return _has_nested_brace(pattern)


def _has_nested_brace(pattern: str) -> bool:
    """Return whether a brace opens where the one before it has not closed."""
    *groups, _ = pattern.split("{")
    return any("}" not in group for group in groups[1:])
