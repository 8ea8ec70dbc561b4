"""Places in the space of keys where a listing may be divided.

Theory of operation. A key is read as a number, whose digits are the characters that keys of this
bucket have. The distance between the first and the last key of a page tells how much of the space a
page covers; so the key that is some pages ahead can be estimated. A wrong estimate costs requests,
never a key: a listing may start after any text.

Decided here: the estimate. Never here: how ranges are listed (`parallel_listing.py`)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

DIGITS: Final = 64
"""Maximum number of characters of a key that count."""
PRECISION: Final = 8
"""Number of characters that count after the first one in which two keys of a page differ."""


class KeySpace:
    """The characters that keys have, and the estimates that follow from them."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._characters: list[str] = []

    def learn(self, keys: Iterable[str]) -> None:
        """Learn the characters of some keys."""
        fresh = set().union(*keys) - self._known
        if fresh:
            self._known |= fresh
            self._characters = sorted(self._known)

    def pages_between(self, first: str, last: str, end: str | None) -> float:
        """Return how many pages are between `last` and `end`, by a page from `first` to `last`;
        infinity without an end."""
        if end is None:
            return float("inf")
        length = _length(first, last)
        page = self._value(last, length) - self._value(first, length)
        if page <= 0:
            return 0.0
        return max(0, self._value(end, length) - self._value(last, length)) / page

    def ahead(self, first: str, last: str, pages: int, count: int) -> list[str]:
        """Return at most `count` texts, in ascending order: the first is about `pages` pages after
        `last`, by a page from `first` to `last`, the second as many after the first, and so on."""
        length = _length(first, last)
        base = len(self._characters) + 1
        begin = self._value(last, length)
        page = begin - self._value(first, length)
        found: list[str] = []
        for number in range(1, count + 1):
            value = begin + number * pages * page
            if page <= 0 or value >= base**length:
                break
            text = self._text(value, length)
            if text > (found[-1] if found else last):
                found.append(text)
        return found

    def _value(self, key: str, length: int) -> int:
        """Return a key as a number: its first `length` characters, a missing one as 0."""
        base, value = len(self._characters) + 1, 0
        for index in range(length):
            value *= base
            if index < len(key):
                value += min(bisect_left(self._characters, key[index]) + 1, base - 1)
        return value

    def _text(self, value: int, length: int) -> str:
        """Return the key of a number, up to its first missing character."""
        base, digits = len(self._characters) + 1, []
        for _ in range(length):
            value, digit = divmod(value, base)
            digits.append(digit)
        text = ""
        for digit in reversed(digits):
            if not digit:
                break
            text += self._characters[digit - 1]
        return text


def _length(first: str, last: str) -> int:
    """Return the number of characters that count for a page from `first` to `last`."""
    pairs = enumerate(zip(first, last, strict=False))
    shorter = min(len(first), len(last))
    same = next((index for index, (one, other) in pairs if one != other), shorter)
    return min(same + PRECISION, DIGITS)
