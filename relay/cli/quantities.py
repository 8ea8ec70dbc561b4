"""Numbers as people write them on a command line: `10M`, `512Ki`, `90d`, `none`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import click

POWERS: Final = "KMGT"
MAX_QUANTITY: Final = 10**12
UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,6})([smhd])", re.I)
_BYTES = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?(?:([KMGT])(i?))?B?", re.I)


def parse_bytes(text: str) -> int | None:
    """Return a number of bytes: 10M is ten million, 10Mi is ten times 1,048,576. None for any other
    text."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        return None
    whole, part, letter, binary = found.groups()
    unit = 1
    if letter:
        unit = (1024 if binary else 1000) ** (POWERS.index(letter.upper()) + 1)
    number = int(whole) * unit
    if part:
        # In integers: a float would round large sizes.
        number += int(part) * unit // 10 ** len(part)
    return number


class BytesPerSecond(click.ParamType[int, Any]):
    """A number of bytes a second, at least one."""

    name = "bytes"
    most, most_text = MAX_QUANTITY, "1T"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number. Raises click.BadParameter."""
        found = value if isinstance(value, int) else parse_bytes(str(value))
        if found is None or not 1 <= found <= self.most:
            self.fail(
                f"{value!r} is not a number of bytes from 1 to {self.most_text}, such as 500K, 10M"
                " or 64Mi",
                param,
                ctx,
            )
        return found


class BytesPerDay(BytesPerSecond):
    """A number of bytes within 24 hours, at least one."""

    most, most_text = 1000 * MAX_QUANTITY, "1000T"


class Seconds(click.ParamType[float, Any]):
    """A duration, such as `90d`, `24h`, `30m` or `45s`; returned in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds. Raises click.BadParameter."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration, such as 90d, 24h or 30m", param, ctx)
        return float(int(found[1]) * UNITS[found[2].lower()])


class OrNone(click.ParamType[Any, Any]):
    """A value of another type, or the word `none`, which removes a limit."""

    def __init__(self, kind: click.ParamType[Any, Any]) -> None:
        """`kind` converts every other text."""
        self.kind, self.name = kind, f"{kind.name}|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that `kind` converts, or the word itself. Raises click.BadParameter."""
        return NONE if str(value).strip().lower() == NONE else self.kind.convert(value, param, ctx)


NONE: Final = "none"
COUNT = click.IntRange(1, 100_000)
