"""Where settings are read from: a flag overrides a `RELAY_*` variable, which overrides
`relay.toml`, which overrides the default.

Decided here: that order, which file is trusted, and how a mistake is described. Never here: the
settings (`config.py`)."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from relay.config import SETTINGS, Settings
from relay.errors import ConfigError
from relay.process.failpoints import check
from relay.process.small_files import read_small
from relay.setting_values import InvalidSettings, Mistake


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `flags` that are not None override all others. Raises a ConfigError that
    names each invalid setting."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    variables = _variables(os.environ)
    unknown = sorted(name for name in variables if name not in {*SETTINGS, *_NOT_SETTINGS})
    if unknown:
        hint = "Is it a typo? `relay serve --help` lists them."
        raise ConfigError(f"RELAY_{unknown[0].upper()} is not a setting", hint=hint)
    check(os.environ)
    named = os.environ.get("RELAY_CONFIG")
    try:
        # RELAY_CONFIG=/dev/null means no file.
        if named and named != os.devnull and not Path(named).is_file():
            raise ConfigError(f"RELAY_CONFIG: {named} is not an existing file")
        # An empty variable is not set.
        in_variables = {
            name: value for name, value in variables.items() if value and name not in _NOT_SETTINGS
        }
        settings = Settings.from_values({**_in_file(), **in_variables, **given})
    except InvalidSettings as error:
        text = "; ".join(_describe_mistake(mistake, given) for mistake in error.mistakes)
        raise ConfigError(text) from None
    except OSError as error:  # the check whether the file exists failed
        raise ConfigError(f"{_file()} can't be read ({error.strerror})") from None
    except ValueError as error:  # tomllib names the line and the column
        raise ConfigError(f"{_file()}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{_file()}: it is nested too deeply") from None
    settings.egress()  # a mistake in it shows now, not in the first transfer
    return settings


def _describe_mistake(mistake: Mistake, given: Mapping[str, Any]) -> str:
    """Return the mistake in a setting, and the setting's source; `given` are those from flags."""
    first = mistake.place[0]
    source = f"--{first}".replace("_", "-") if first in given else _place(first)
    return f"{'.'.join(mistake.place)} ({source}): {mistake.said}"


_NOT_SETTINGS = frozenset({"config", "failpoint"})
"""RELAY_* variables that are not settings."""
_SERVICE = re.compile(
    r"RELAY_(?:\w+_)?(?:SERVICE_HOST=.*|SERVICE_PORT(?:_\w+)?=[0-9]+|PORT=[a-z]+://.*"
    r"|PORT_[0-9]+_[A-Z]+(?:=[a-z]+://.*|_(?:PROTO|PORT|ADDR)=.*)|NAME=/.*|ENV_\w+=.*)",
    re.S,
)
"""Variables that Kubernetes gives every container of a namespace that has a Service `relay` or
`relay-…`, and Docker one with a link to such a container (kubernetes.io, "Service", "Environment
variables")."""


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the RELAY_* variables by their names without that prefix, in lower case."""
    return {
        name[6:].lower(): text
        for name, text in environment.items()
        if name.startswith("RELAY_") and not _SERVICE.fullmatch(f"{name}={text}")
    }


def _in_file() -> dict[str, Any]:
    """Return the settings of the file; {} without a file. Raises ConfigError, and ValueError if it
    is not TOML."""
    path = _file()
    if not path.is_file():
        return {}
    if not os.environ.get("RELAY_CONFIG") and _is_planted(path):
        raise ConfigError(
            f"{path} of the current folder may be another user's",
            hint=(
                "Set RELAY_CONFIG to this file to use it, or work in a folder that other users"
                " can't write to."
            ),
        )
    return tomllib.loads(read_small(path))


def is_given(name: str, flags: Mapping[str, Any]) -> bool:
    """Return whether one of `flags`, a variable or the file has a setting: otherwise its default
    holds. Raises as `load_settings`."""
    in_variables = os.environ.get(f"RELAY_{name.upper()}")
    return flags.get(name) is not None or bool(in_variables) or name in _in_file()


def sources_of(names: Iterable[str]) -> dict[str, str]:
    """Return where each setting is set: its variable, the file's name, or `default`. Says `default`
    too if the file can't be read now. Reads the file once, since it may be long."""
    try:
        in_file, file = frozenset(_in_file()), str(_file())
    except (ConfigError, OSError, ValueError):
        in_file, file = frozenset(), ""
    sources = {name: file if name in in_file else "default" for name in names}
    set_here = {name: f"RELAY_{name.upper()}" for name in sources}
    return sources | {name: text for name, text in set_here.items() if os.environ.get(text)}


def is_found(name: str) -> bool:
    """Return whether only the relay.toml of the current folder has a setting: the file may be part
    of a cloned repository, without the user's knowledge. Raises as `load_settings`."""
    return (
        not (os.environ.get("RELAY_CONFIG") or os.environ.get(f"RELAY_{name.upper()}"))
        and name in _in_file()
    )


def trusted_ledger_url(settings: Settings) -> str:
    """Return the ledger's URL for a command. The ledger gets the credentials of every migration, so
    its server must not be named by a relay.toml alone that only lies in the current folder. Raises
    ConfigError, and as `Settings.ledger_url`."""
    if settings.ledger and not settings.ledger.startswith("sqlite") and is_found("ledger"):
        raise ConfigError(
            "no credentials are stored in a database that only the relay.toml of the current folder"
            " names",
            hint=(
                "If you trust that database, name it in RELAY_LEDGER, or name this file in"
                " RELAY_CONFIG."
            ),
        )
    return settings.ledger_url()


def _is_planted(path: Path) -> bool:
    """Return whether another user may have created a file, as in /tmp, or may write to it. The file
    chooses the stores of remotes, and the server that gets a token."""
    found = path.stat()
    if found.st_mode & stat.S_IWOTH:
        return True
    if found.st_uid in (0, os.geteuid()):
        return False
    return bool(path.absolute().parent.stat().st_mode & stat.S_IWOTH)


def _file() -> Path:
    return Path(os.environ.get("RELAY_CONFIG") or "relay.toml")


def settings_file() -> Path | None:
    """Return the file that settings are read from, or None if it does not exist."""
    return _file() if _file().is_file() else None


def _place(name: str) -> str:
    """Return where a setting is set: its variable, or the file and the line."""
    variable = f"RELAY_{name.upper()}"
    if os.environ.get(variable) or not _file().is_file():
        return variable
    stands = re.compile(rf"\s*(?:\[+\s*)?['\"]?{re.escape(name)}['\"]?\s*[=.\]]")
    lines = read_small(_file()).splitlines()
    return next(
        (f"{_file()}:{number}" for number, line in enumerate(lines, start=1) if stands.match(line)),
        variable,
    )
