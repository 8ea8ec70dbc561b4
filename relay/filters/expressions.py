"""Match names by RE2, the engine whose syntax and meaning Go's and rclone's expressions have.

Python's own `re` reads some of them differently (`\\d`, `$`, `[[:alpha:]]`), and takes exponential
time for others, which strangers may send. RE2's time is linear in the name.

Decided here: how a name becomes bytes, and how much memory the expressions of one set of filters
may take. Never here: which expressions there are (`rules.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from relay.errors import ConfigError, InvalidFilter

Matches = Callable[[bytes], object]
"""Returns a true value for a name that an expression matches."""

ALL_BYTES: Final = 64 << 20
"""Maximum memory of all expressions of one set of filters, as far as each may have LEAST_BYTES."""
LEAST_BYTES, MOST_BYTES = 64 << 10, 8 << 20
"""Bounds of the memory of one expression; the upper one is RE2's own default."""
JOINED, JOINED_BYTES = 64, 4 << 20
"""Maximum number of expressions that become one, and its memory: nothing interrupts RE2 while it
looks at a name."""
_UNUSUAL: Final = re.compile("[\x00-\x1f\x7f\u201b\u2401-\u241f\u2421]")
_SHOWN: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    0x7F: "\u2421",
    **{code: f"\u201b{chr(code)}" for code in (0x201B, *range(0x2401, 0x2420), 0x2421)},
}
"""Control characters as pictures; a picture in a name gets a mark in front."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_BYTE_ESCAPE: Final = re.compile(r"\\(?:Q.*?(?:\\E|$)|(.))", re.S)
"""An escape of an expression; the text between `\\Q` and `\\E` has none."""


def check_expressions(expressions: Sequence[str], pause: Callable[[], None] = lambda: None) -> None:
    """Raise InvalidFilter for an expression that RE2 refuses, ConfigError without RE2. Calls
    `pause` after each."""
    engine = _Engine(len(expressions))
    for one in expressions:
        engine.compile(one)
        pause()
    engine.forget()


def matchers_of(
    groups: Sequence[Sequence[str]], pause: Callable[[], None] = lambda: None
) -> list[list[Matches]]:
    """Return functions for each group of expressions: a name that one of them matches is matched by
    one of the group. As far as possible a group is one expression, which RE2 tries at once.

    Raises as `check_expressions`."""
    engine = _Engine(sum(map(len, groups)))
    made: list[list[Matches]] = []
    for group in groups:
        made.append([])
        for start in range(0, len(group), JOINED):
            made[-1] += engine.compile_some(group[start : start + JOINED], pause)
            pause()
    engine.forget()
    return made


def _alternation(group: Sequence[str]) -> str | None:
    """Return an expression for all of a group; None for a group of one, or one with `\\Q`, whose
    text may have no end."""
    if len(group) < 2 or any("\\Q" in one for one in group):
        return None
    return "|".join(f"(?:{one})" for one in group)


class _Engine:
    """RE2, with the memory that each of `count` expressions may take."""

    def __init__(self, count: int) -> None:
        """Raises ConfigError without RE2."""
        self._each = max(LEAST_BYTES, min(MOST_BYTES, ALL_BYTES // max(count, 1)))
        self._re2: Any = None
        if not count:
            return
        try:
            # Here and not above: loading it takes time that only commands with filters should need.
            import re2
        except ImportError:
            raise ConfigError(
                "filters need RE2, which is not installed here", hint="Run: pip install google-re2"
            ) from None
        self._re2 = re2

    def compile(self, expression: str) -> Matches:
        """Return the function for an expression. Raises InvalidFilter."""
        shown = f"{expression[:200]!a}"
        # RE2 in C++ matches one byte by \C; Go refuses it.
        if any(escape[1] == "C" for escape in _BYTE_ESCAPE.finditer(expression)):
            raise InvalidFilter(f"RE2 refuses the expression {shown}: invalid escape sequence: \\C")
        try:
            return self._search_of(expression, self._each)
        except self._re2.error as error:
            why = error.args[0] if error.args else "unknown reason"
            why = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
            raise InvalidFilter(f"RE2 refuses the expression {shown}: {why[:200]}") from None

    def compile_some(self, some: Sequence[str], pause: Callable[[], None]) -> list[Matches]:
        """Return one function for all of some expressions, or else one for each: RE2 refuses what
        is too large, or has one name for two groups. Raises InvalidFilter."""
        joined = _alternation(some)
        if joined is not None:
            try:
                return [self._search_of(joined, min(self._each * len(some), JOINED_BYTES))]
            except self._re2.error:
                pass
        made = []
        for one in some:
            made.append(self.compile(one))
            pause()
        return made

    def forget(self) -> None:
        """Empty RE2's cache, which would keep expressions after their filters are gone."""
        if self._re2 is not None:
            self._re2.purge()

    def _search_of(self, expression: str, memory: int) -> Matches:
        options = self._re2.Options()
        options.log_errors, options.never_capture = False, True
        options.max_mem = memory
        search: Matches = self._re2.compile(bytes_of(expression), options).search
        return search


def bytes_of_name(name: str) -> bytes:
    """Return a name as rclone's filters see it, in UTF-8: rclone replaces control characters by
    their pictures, which a '.' of an expression matches even for the end of a line
    (`lib/encoder/standard.go`)."""
    return bytes_of(name.translate(_SHOWN) if _UNUSUAL.search(name) else name)


def bytes_of(text: str) -> bytes:
    """Return a name or an expression as UTF-8. What is not Unicode in it becomes U+FFFD, one for
    each byte, as in Go."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode()
