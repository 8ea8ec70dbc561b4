"""The units people write on a command line: sizes, durations, rates. Decided here: what `64K` and
`10MB` mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SIZE: Final = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([KMGT]?)(i?B?)", re.I)
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|)")
_POWERS: Final[Mapping[str, int]] = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS: Final[Mapping[str, float]] = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


def parse_bytes(text: str) -> int:
    """Bytes of `1000`, `64K` (1024), `10MB` (1000s), `2GiB` (1024s); a sign is kept. Raises
    ValueError."""
    return int(_quantity(text))


def parse_seconds(text: str) -> float:
    """Seconds of `5`, `40ms`, `1.5s`, `2m`. Raises ValueError."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a duration: {text!r} (write 40ms, 5s or 2m)")
    return float(match[1]) * _SECONDS[match[2]]


def parse_rate(text: str) -> float:
    """Bytes a second of `50MB/s`, `64K`, `0.05`. Raises ValueError unless it is above zero."""
    rate = _quantity(text.strip().removesuffix("/s"))
    if rate <= 0:
        raise ValueError(f"not a rate: {text!r} (write 50MB/s)")
    return rate


def _quantity(text: str) -> float:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r} (write 64K, 10MB or 2GiB)")
    number, prefix, unit = match.groups()
    # `10MB` is decimal, `10MiB` and a bare `10M` are binary, as dd and rclone read them.
    step = 1000 if unit.upper() == "B" else 1024
    return float(number) * float(step ** _POWERS[prefix.upper()])
