"""Numbers as a person reads them: sizes in SI units with three digits, rates, shares, durations.

Never here: sentences (`words.py`), and times of day, which the browser shows in its own zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

SPACE: Final = "\u00a0"
"""Between a number and its unit: a line never breaks there."""
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(number: int) -> str:
    """Return a number with a comma between thousands: 293,161."""
    return f"{number:,}"


def about(number: int, *, exact: bool = False) -> str:
    """Return a number that is only about right, with three digits: 826,000. An `exact` one has
    all."""
    digits = 0 if exact else max(0, len(str(number)) - 3)
    return count(round(number, -digits))


def size(number: float) -> str:
    """Return a number of bytes with three digits: 999 B, 1.00 kB, 184 MB."""
    value, unit = _scale(number)
    return f"{value}{SPACE}{_UNITS[unit]}"


def sizes(done: float, total: float) -> str:
    """Return two numbers of bytes in the unit of the second: 2.91 of 4.10 TB."""
    value, unit = _scale(total)
    part = f"{done:.0f}" if unit == 0 else _digits(done / 1000**unit)
    return f"{part} of {value}{SPACE}{_UNITS[unit]}"


def rate(bytes_per_second: float) -> str:
    """Return a rate: 184 MB/s."""
    return f"{size(bytes_per_second)}/s"


def per_second(number: float, noun: str) -> str:
    """Return a rate of countable things: 210 objects/s, 0.40 objects/s."""
    text = count(round(number)) if number >= 9.95 else f"{number:.1f}"
    return f"{text}{SPACE}{noun}/s"


def share(done: float, total: float) -> int:
    """Return a share in whole per cent, rounded down: 100 means that all is done."""
    if total <= 0:
        return 100 if done >= total else 0
    return max(0, min(100, int(100 * done // total)))


def percent(done: float, total: float) -> str:
    """Return a share: 71 %."""
    return f"{share(done, total)}{SPACE}%"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: 40 s, 3 min 20 s, 3 h 10 min, 2 d 4 h."""
    left = max(0, round(seconds))
    if left < _MINUTE:
        return f"{left}{SPACE}s"
    if left < _HOUR:
        return _two(left, (_MINUTE, "min"), (1, "s"), is_short=left >= 10 * _MINUTE)
    if left < _DAY:
        return _two(left, (_HOUR, "h"), (_MINUTE, "min"))
    return _two(left, (_DAY, "d"), (_HOUR, "h"))


def short_duration(seconds: float) -> str:
    """Return a duration without the name of its second unit: 40 s, 3 min 20, 3 h 10."""
    first, *second = duration(seconds).split(" ")
    return f"{first} {second[0].partition(SPACE)[0]}" if second else first


def stamp(seconds: float) -> str:
    """Return a time in UTC, for people without a script: 2026-11-29 14:02:31 UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_stamp(seconds: float) -> str:
    """Return a time for the `datetime` of an HTML `time`: the script shows it in the viewer's
    zone."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: 1 object, 2 objects."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def _two(
    left: int, large: tuple[int, str], small: tuple[int, str], *, is_short: bool = False
) -> str:
    first, rest = divmod(left, large[0])
    second = rest // small[0]
    text = f"{first}{SPACE}{large[1]}"
    return text if is_short or not second else f"{text} {second}{SPACE}{small[1]}"


def _scale(number: float) -> tuple[str, int]:
    """Return a number of bytes in its unit, and the unit's place."""
    value, unit = float(number), 0
    # 999.5 would be printed with four digits.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return (f"{value:.0f}" if unit == 0 else _digits(value)), unit


def _digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
