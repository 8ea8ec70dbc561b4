"""Places in the space of keys where a listing may be divided.

Theory of operation. A key is read as a number. Its digits at a place are the characters that keys
of this bucket have at that place, so a counter in the names is nearly a counter here. Where a key
has a digit, others may have any digit there, and the letters that digits are mixed with elsewhere.

The distance between the first and the last key of some pages tells how much of the space a page
covers; so the key that is some pages ahead can be estimated. Where folders hold as many keys as a
page, most of that distance is between pages. So the widest of several estimates counts: too wide a
range is divided again, while one without keys costs a request. A wrong estimate costs requests,
never a key: a listing may start after any text.

Decided here: the estimate. Never here: how ranges are listed (`parallel_listing.py`)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, zip_longest
from math import prod
from typing import Final

DIGITS: Final = 64
"""Maximum number of characters of a key that count."""
PRECISION: Final = 8
"""Number of characters that count after the first one in which two keys of a page differ."""
CHARACTERS: Final = 256
"""Maximum number of characters that are known at one place: others count as their neighbours. So a
page of odd keys takes little time."""
_DECIMAL: Final = frozenset("0123456789")
RECENT_PAGES: Final = 16
"""Number of pages in the order of the listing whose mean width is an estimate."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Some pages in a row: their first and last key, and their number."""

    first: str
    last: str
    pages: int = 1


class KeySpace:
    """The characters that keys have, and the estimates that follow from them."""

    def __init__(self) -> None:
        self._known: list[set[str]] = []
        self._characters: list[list[str]] = []
        """The characters at each place of a key, in order. All ten digits, where one was seen."""
        self._recent: deque[tuple[str, str]] = deque(maxlen=RECENT_PAGES)

    def learn(self, keys: Iterable[str]) -> None:
        """Learn the characters of some keys."""
        has_grown = False
        for index, column in enumerate(zip_longest(*(key[:DIGITS] for key in keys), fillvalue="")):
            if index == len(self._known):
                # So the fill value of shorter keys never counts as a new character.
                self._known.append({""})
                self._characters.append([])
            known = self._known[index]
            fresh = [one for one in dict.fromkeys(column) if one not in known]
            known.update(fresh[: max(0, CHARACTERS - len(known))])
            has_grown |= bool(fresh)
        if not has_grown:
            return
        mixed = [known for known in self._known if known & _DECIMAL and known - _DECIMAL - {""}]
        numeric = frozenset(islice(sorted(_DECIMAL.union(*mixed)), CHARACTERS))
        for index, known in enumerate(self._known):
            self._characters[index] = sorted(
                (known | numeric if known & _DECIMAL else known) - {""}
            )

    def note_page(self, first: str, last: str) -> None:
        """Note the first and the last key of the next page in the order of the listing."""
        self._recent.append((first, last))

    def pages_between(self, page: Span, pages: Span, end: str | None) -> float:
        """Return how many pages are between the last key of a `page` and `end`; infinity without an
        end. `pages` are that page and those before it in its range."""
        if end is None:
            return float("inf")
        length = _length(page)
        width = self._width(page, pages, length)
        if width <= 0:
            return 0.0
        return max(0, self._value(end, length) - self._value(page.last, length)) / width

    def ahead(self, page: Span, pages: Span, distance: int, count: int) -> list[str]:
        """Return at most `count` texts, in ascending order: the first is about `distance` pages
        after the last key of a `page`, the second as many after the first, and so on. `pages` are
        that page and those before it in its range."""
        length = _length(page)
        space = prod(self._base(index) for index in range(length))
        begin, width = self._value(page.last, length), self._width(page, pages, length)
        found: list[str] = []
        for number in range(1, count + 1):
            value = begin + number * distance * width
            if width <= 0 or value >= space:
                break
            text = self._text(value, length)
            # A text ends at its first missing character, so it may sort before an earlier one.
            if text > (found[-1] if found else page.last):
                found.append(text)
        return found

    def _width(self, page: Span, pages: Span, length: int) -> int:
        """Return how much of the space a page covers: the widest of the newest page, the mean of
        its range, and the mean of the last pages of the listing."""
        spans = [page, pages]
        if self._recent:
            first, last = self._recent[0][0], self._recent[-1][1]
            spans.append(Span(first=first, last=last, pages=len(self._recent)))
        return max(
            (self._value(span.last, length) - self._value(span.first, length)) // span.pages
            for span in spans
        )

    def _base(self, index: int) -> int:
        """Return the number of digits at a place: its characters, and a missing one."""
        return len(self._characters[index]) + 1 if index < len(self._characters) else 1

    def _value(self, key: str, length: int) -> int:
        """Return a key as a number: its first `length` characters, a missing one as 0."""
        value = 0
        for index in range(length):
            base = self._base(index)
            value *= base
            if index < len(key) and base > 1:
                value += min(bisect_left(self._characters[index], key[index]) + 1, base - 1)
        return value

    def _text(self, value: int, length: int) -> str:
        """Return the key of a number, up to its first missing character."""
        digits = []
        for index in reversed(range(length)):
            value, digit = divmod(value, self._base(index))
            digits.append(digit)
        text = ""
        for index, digit in enumerate(reversed(digits)):
            if not digit:
                break
            text += self._characters[index][digit - 1]
        return text


def _length(page: Span) -> int:
    """Return the number of characters that count for a page."""
    pairs = enumerate(zip(page.first, page.last, strict=False))
    shorter = min(len(page.first), len(page.last))
    same = next((index for index, (one, other) in pairs if one != other), shorter)
    return min(same + PRECISION, DIGITS)
