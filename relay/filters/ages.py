"""Ages as rclone writes them: `2d`, `1h30m`, `90` (seconds), or a date.

An age is a length of time before "now", or one moment. "Now" belongs to the caller, since a
migration that is resumed must choose the same objects.

Source of the rules: rclone 1.75, `fs/parseduration.go`; lengths of time with several units are
those of Go's `time.ParseDuration`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from relay.errors import InvalidFilter

_SECOND: Final = 1_000_000
"""In microseconds, the finest time that a listing has here."""
_DAY: Final = 86_400 * _SECOND
_UNITS: Final[Mapping[str, float]] = {
    "ns": 1e-3,
    "us": 1,
    "µs": 1,
    "μs": 1,
    "ms": 1e3,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3600 * _SECOND,
}
"""Units that may stand one after the other, as in `1h30m`."""
_LONG_UNITS: Final[Mapping[str, int]] = {
    "d": _DAY,
    "w": 7 * _DAY,
    "M": 30 * _DAY,
    "y": 365 * _DAY,
    "": _SECOND,
}
"""Units that stand alone."""
_MOST: Final = 2**63 / 1000
"""Go counts nanoseconds in 63 bits: some 292 years."""
_NUMBER: Final = r"(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})"
_STEP: Final = re.compile(rf"({_NUMBER})([a-zµμ]+)")
_LONG: Final = re.compile(rf"([+-]?{_NUMBER}(?:[eE][+-]?[0-9]{{1,3}})?)([A-Za-zµμ]*)")
_DATE: Final = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?P<part>[.,][0-9]{1,9})?(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


def canonical_age(text: str, name: str) -> str | None:
    """Return an age as it is stored, or None for `off`: a date gets the zone of this process, so
    that another process reads the same moment. `name` is that of the filter.

    Raises InvalidFilter."""
    if text == "off":
        return None
    if _microseconds(text) is not None:
        return text
    number = _LONG.fullmatch(text)
    if number is not None:
        is_known = number[2] in _UNITS or number[2] in _LONG_UNITS
        why = "is longer than 292 years" if is_known else "has an unknown unit"
        raise InvalidFilter(f"{name} {text[:40]!a} {why}", hint=_UNITS_HINT)
    moment = _moment(text)
    if moment is None:
        raise InvalidFilter(f"{name} {text[:40]!a} is not an age", hint=_UNITS_HINT)
    return moment.isoformat()


_UNITS_HINT: Final = (
    "Write an age such as 30m (minutes), 12h, 2d, 1w, 6M (months) or 1y, or a date such as"
    " 2026-01-31 or 2026-01-31T12:00:00Z."
)


def moment_before(age: str, now: datetime) -> datetime:
    """Return the moment that lies a stored age before `now`, or the stored moment. `now` has a
    zone. A moment beyond the years 1 to 9999 becomes the first or the last one."""
    length = _microseconds(age)
    if length is None:
        return datetime.fromisoformat(age)
    try:
        return now - timedelta(microseconds=round(length))
    except OverflowError:
        return (datetime.min if length > 0 else datetime.max).replace(tzinfo=now.tzinfo)


def _microseconds(text: str) -> float | None:
    """Return a length of time; None for a text that is another thing, or is too long."""
    length = _sum_of_steps(text)
    if length is None:
        found = _LONG.fullmatch(text)
        if found is None or found[2] not in _LONG_UNITS:
            return None
        length = float(found[1]) * _LONG_UNITS[found[2]]
    return length if abs(length) < _MOST else None


def _sum_of_steps(text: str) -> float | None:
    sign = -1 if text[:1] == "-" else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    steps = list(_STEP.finditer(rest))
    if not steps or "".join(step[0] for step in steps) != rest:
        return None
    if any(step[2] not in _UNITS for step in steps):
        return None
    return sign * sum(float(step[1]) * _UNITS[step[2]] for step in steps)


def _moment(text: str) -> datetime | None:
    """Return the moment of a date, or None. A date without a zone is in that of this process."""
    found = _DATE.fullmatch(text)
    if found is None or (found["zone"] and text[10] != "T"):
        return None
    part = f".{found['part'][1:7]:0<6}" if found["part"] else ""
    zone = (found["zone"] or "").replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{found['day']}T{found['time'] or '00:00:00'}{part}{zone}")
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError):
        return None
