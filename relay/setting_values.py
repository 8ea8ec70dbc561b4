"""Declare settings, and read their values: from the texts of variables, from TOML, and from flags.

Every mistake is reported at once, in the words of a person, and numbers are read as generously as
ever (` 7 `, `+7`, `1_000`). No library is used: pydantic takes 60 ms of each start, and msgspec 14,
which reads none of these three, ends at the first mistake, and does not say which key of a table
has it.

Decided here: which values a setting of each type accepts, its bounds, and the words of a mistake.
Never here: which settings there are (`config.py`), and where they are set
(`settings_sources.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import ge, gt, le
from pathlib import Path
from typing import Any, Final

_WHOLE: Final = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*(?:\.0*)?")
_DIGITS: Final = 30
"""Maximum length of a whole number's text; Python takes long to read a much longer one."""
_BOUNDS: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "ge": (ge, "at least"),
    "gt": (gt, "greater than"),
    "le": (le, "at most"),
}
"""The comparison of each kind of bound, and its words."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The declaration of a setting. The type of its values is that of its `default`; None stands
    for a path."""

    default: Any
    description: str
    bounds: Mapping[str, float]
    """By their kind: `ge`, `gt`, `le`."""

    def read(self, value: Any) -> Any:
        """Return a value in the setting's type. Raises ValueError with the mistake in it."""
        # relay.toml can contain a NUL, and no system call accepts one.
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it has a NUL")
        if isinstance(self.default, StrEnum):
            return _member(type(self.default), value)
        read = _READERS[type(self.default)](value)
        for kind, bound in self.bounds.items():
            holds, words = _BOUNDS[kind]
            if not holds(read, bound):  # also for `nan`
                raise ValueError(f"it must be {words} {bound:g}")
        return read


@dataclass(frozen=True)
class Mistake:
    """A mistake in a value. `place` is the setting's name, and in a table the names below it."""

    place: tuple[str, ...]
    said: str


class InvalidSettings(ValueError):
    """Some settings have mistakes."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        """Each of the `mistakes` is reported."""
        super().__init__("; ".join(f"{'.'.join(one.place)}: {one.said}" for one in mistakes))
        self.mistakes = tuple(mistakes)


def setting(
    default: Any,
    *,
    description: str,
    shown: bool = True,
    **bounds: float,
) -> Any:
    """Declare a setting as a field of a dataclass, with bounds by their kind. The value of one that
    is not `shown` is in no `repr`."""
    declared = Setting(default=default, description=description, bounds=bounds)
    metadata = {"setting": declared}
    if isinstance(default, Mapping):  # each instance has one of its own
        return field(default_factory=lambda: dict(default), repr=shown, metadata=metadata)
    return field(default=default, repr=shown, metadata=metadata)


def settings_of(kind: Any) -> dict[str, Setting]:
    """Return the settings that a dataclass declares, by name, in order."""
    return {one.name: one.metadata["setting"] for one in fields(kind)}


# -- the types


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it is not a text")
    return value


def _whole_number(value: Any) -> int:
    if isinstance(value, str) and len(value) <= _DIGITS:
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return int(text.partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        return int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("it is not a whole number")


def _number(value: Any) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise ValueError("it is not a number")


def _path(value: Any) -> Path | None:
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError("it is not a path")
    return Path(value)


def _member(kind: type[StrEnum], value: Any) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"it must be one of {', '.join(kind)}") from None


def _tables(value: Any) -> dict[str, dict[str, str]]:
    """Return tables of texts. Raises InvalidSettings, with places below the setting."""
    if not isinstance(value, Mapping):
        raise ValueError("it is not a table")
    mistakes = []
    for name, table in value.items():
        if not isinstance(table, Mapping):
            mistakes.append(Mistake((str(name),), "it is not a table"))
            continue
        mistakes += [
            Mistake((str(name), str(key)), "it is not a text")
            for key, text in table.items()
            if not isinstance(text, str)
        ]
    if mistakes:
        raise InvalidSettings(mistakes)
    return {name: dict(table) for name, table in value.items()}


_READERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: _text,
    int: _whole_number,
    float: _number,
    type(None): _path,
    dict: _tables,
}
"""The reader of each type, except for choices."""
