"""Parse the value of one setting, from a flag, a variable or `relay.toml`.

Decided here: which values a setting takes, and how a wrong one is described. Never here: where the
values come from (`settings_sources.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from relay.config import SETTINGS, TlsLibrary


class SettingMistake(ValueError):
    """A value that a setting does not take. `name` is that of the setting, with the option of a
    remote if the mistake is there."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(said)
        self.name = name


def parse_setting(name: str, value: Any) -> Any:
    """Return a setting's value in its own type. Raises SettingMistake."""
    found = SETTINGS.get(name)
    if found is None:
        raise SettingMistake(name, "there is no such setting")
    if isinstance(value, str) and "\0" in value:  # no system call accepts one
        raise SettingMistake(name, "it has a NUL")
    if name == "remotes":
        return _parse_remotes(value)
    try:
        parsed = _PARSERS[type(found.default)](value)
        check = _CHECKS.get(name)
        if check is not None:
            check(parsed)
        _check_bounds(parsed, found.metadata["bounds"])
    except ValueError as error:
        raise SettingMistake(name, str(error)) from None
    return parsed


# -- types


def _parse_whole(value: Any) -> int:
    try:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise ValueError("it is not a whole number")


def _parse_number(value: Any) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError("it is not a number")


def _parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it is not a text")
    return value


def _parse_path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_parse_text(value))


def _parse_library(value: Any) -> TlsLibrary:
    if value not in list(TlsLibrary):
        raise ValueError(f"it must be one of {', '.join(TlsLibrary)}")
    return TlsLibrary(value)


_PARSERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    int: _parse_whole,
    float: _parse_number,
    str: _parse_text,
    type(None): _parse_path,
    TlsLibrary: _parse_library,
}
"""The parser of each type of default."""


def _parse_remotes(value: Any) -> dict[str, dict[str, str]]:
    """Return the tables of the remotes. Booleans and whole numbers, which TOML has for what
    rclone.conf writes as text, become texts; the type of a remote must be one already."""
    if not isinstance(value, dict):
        raise SettingMistake("remotes", "it is not a table")
    remotes: dict[str, dict[str, str]] = {}
    for remote, options in value.items():
        if not isinstance(options, dict):
            raise SettingMistake(f"remotes.{remote}", "it is not a table")
        remotes[remote] = texts = {}
        for option, text in options.items():
            if option != "type" and isinstance(text, bool | int):
                text = json.dumps(text)
            if not isinstance(text, str):
                raise SettingMistake(f"remotes.{remote}.{option}", "it is not a text")
            texts[option] = text
    return remotes


# -- values


def _check_bounds(value: Any, bounds: Mapping[str, float]) -> None:
    """Raise ValueError for a number out of its bounds. A NaN is within none."""
    if "ge" in bounds and not value >= bounds["ge"]:
        raise ValueError(f"it must be at least {bounds['ge']:g}")
    if "gt" in bounds and not value > bounds["gt"]:
        raise ValueError(f"it must be greater than {bounds['gt']:g}")
    if "le" in bounds and not value <= bounds["le"]:
        raise ValueError(f"it must be at most {bounds['le']:g}")


def _check_address(text: str) -> None:
    _, colon, port = text.rpartition(":")
    number = port.isascii() and port.isdigit() and int(port) <= 65535
    if not text.startswith(("unix:", "fd://")) and not (colon and number):
        raise ValueError(f"{text!r} is not host:port, unix:/path or fd://number")


def _check_ports(text: str) -> None:
    for port in filter(None, (p.strip() for p in text.split(","))):
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ValueError(f"{port!r} is not a port")


_CHECKS: Final[Mapping[str, Callable[[str], None]]] = {
    "bind": _check_address,
    "egress_ports": _check_ports,
}
"""What a text must be, besides a text."""
