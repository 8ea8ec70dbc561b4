"""Sizes as rclone writes them: `10K` and `10Ki` are 10 KiB, and a number alone is in KiB.

Source of the rules: rclone 1.75, `fs/sizesuffix.go`."""

from __future__ import annotations

import re
from typing import Final

from relay.errors import InvalidFilter
from relay.parsing import MAX_NUMBER

_POWERS: Final = "KMGTPE"
_SIZE: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?)"
    r"(?P<unit>[A-Za-z]{0,8})"
)
_UNIT: Final = re.compile(r"(?P<letter>[KMGTPEkmgtpe])(?:[iI]|i[bB])?")


def parse_size(text: str, name: str) -> int | None:
    """Return a number of bytes, or None for `off`. `name` is that of the filter.

    Raises InvalidFilter."""
    if text.lower() == "off":
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidFilter(
            f"{name} {text[:40]!a} is not a size", hint="Write a size such as 100K, 10M or 1.5G."
        )
    value = float(found["number"]) * _bytes_of_unit(found["unit"], name, text)
    if not 0 <= value <= MAX_NUMBER:
        raise InvalidFilter(f"{name} {text!a} is not between 0 and {MAX_NUMBER:,} bytes")
    return int(value)


def _bytes_of_unit(unit: str, name: str, text: str) -> int:
    if not unit:
        return 1024
    if unit in ("b", "B"):
        return 1
    found = _UNIT.fullmatch(unit)
    if found is None:
        raise InvalidFilter(
            f"{name} {text[:40]!a} has an unknown unit",
            hint="Units are B, K, M, G, T and P, each 1,024 times the one before.",
        )
    return int(1024 ** (_POWERS.index(found["letter"].upper()) + 1))


def shown_size(size: int) -> str:
    """Return a size as rclone prints it: `100 KiB`, `1.500 GiB`."""
    power = 0
    while power < len(_POWERS) and size >= 1024 ** (power + 1):
        power += 1
    unit = f"{_POWERS[power - 1]}iB" if power else "B"
    if size % 1024**power == 0:
        return f"{size // 1024**power} {unit}"
    return f"{size / 1024**power:.3f} {unit}"
