"""Numbers, dates and characters from outside: the only place that parses them.

A peer's number may have any number of digits, or digits of another script; its date may lie in the
year 33658, or be invalid. So nothing here raises, whatever the input: a number or a date that
relay, its ledger or the standard library can't hold is None, and affects only its object.

Decided here: which numbers, dates and characters are accepted. Never here: their meaning.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

MAX_NUMBER: Final = 2**63 - 1
"""The largest number that a database keeps, and the longest file."""
DATE_CHARACTERS: Final = 64
"""Maximum length of a date; the standard library takes long to read a longer text."""
# Characters that no name may have: C0, DEL, C1, line separators, bidi marks and overrides, lone
# surrogates.
UNSAFE_CHARACTERS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_IMF_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)


def count(text: str | None) -> int | None:
    """Return a number of plain ASCII digits, from 0 to `MAX_NUMBER`; None for every other text."""
    if not text or len(text) > 19 or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= MAX_NUMBER else None


def whole_number(value: Any) -> int | None:
    """Return a number of a JSON document if it is an integer from 0 to `MAX_NUMBER`, else None."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_NUMBER else None


def http_date(text: str | None) -> datetime | None:
    """Read an HTTP date (RFC 9110 section 5.6.7), in UTC; None for a missing text, or one that is
    not a date."""
    return None if not text or len(text) > DATE_CHARACTERS else _http_date(text)


@lru_cache(maxsize=256)
def _http_date(text: str) -> datetime | None:
    """As `http_date`; cached, since an object's date comes with each answer about it, and all
    answers of one second have the same date."""
    found = _IMF_DATE.fullmatch(text)
    try:
        if found:  # today's usual form, at half the cost
            day, month, *rest = found.groups()
            year, hour, minute, second = map(int, rest)
            return datetime(
                year, _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC
            )
        return _in_utc(_unusual_date(text))
    except (ValueError, TypeError, IndexError, OverflowError, ArithmeticError):
        return None


def _unusual_date(text: str) -> datetime:
    """Read a date of RFC 5322. Raises as email.utils."""
    # Imported here because it takes a hundredth of a second, and few servers send such a date.
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(text)


def is_before(text: str | None, seconds: float | None, tolerance: float) -> bool:
    """Return whether an HTTP date is before `seconds` (since 1970) by more than `tolerance`
    seconds. False if either is unknown, and if `seconds` is in the future: the clock was set back
    since it was recorded."""
    when = http_date(text)
    if when is None or seconds is None or seconds > time.time():
        return False
    return when.timestamp() < seconds - tolerance


def iso_date(text: str | None) -> datetime | None:
    """Read a date of ISO 8601, in UTC, also if it has no zone; None for a missing text, or one that
    is not a date."""
    if not text or len(text) > DATE_CHARACTERS:
        return None
    try:
        return _in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _in_utc(when: datetime) -> datetime:
    """Return a date in UTC. Raises OverflowError if its year is not in 1 to 9999 there."""
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def moment(seconds: float | None) -> datetime | None:
    """Return the date of a time in seconds since 1970; None if its year is not in 1 to 9999."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def http_text(seconds: float | None) -> str | None:
    """Return a time in seconds since 1970 as an HTTP date; None if it has none."""
    when = moment(seconds)
    if when is None:
        return None
    # As email.utils.format_datetime does, at a third of its cost: each claim of a listed object has
    # such a date.
    day, month = _DAYS[when.weekday()], _MONTHS[when.month - 1]
    return (
        f"{day}, {when.day:02} {month} {when.year:04}"
        f" {when.hour:02}:{when.minute:02}:{when.second:02} GMT"
    )
