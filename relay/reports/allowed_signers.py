"""Files of allowed signers (ssh-keygen(1), "ALLOWED SIGNERS"): whose signatures a person accepts.

Decided here: which lines allow a key. A line with an option that relay does not check is an error,
never taken for one without it. Never here: the signatures (`ssh_signatures.py`)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.errors import ConfigError
from relay.process.small_files import read_small
from relay.reports.ssh_signatures import KEY_TYPE

_FIELD: Final = re.compile(r'(?:[^\s"]|"[^"]*")+')
_OPTION: Final = re.compile(r'([A-Za-z-]+)(?:="([^"]*)")?(?:,|$)')
_TYPE: Final = re.compile(r"(?:ssh|sk-ssh|ecdsa|sk-ecdsa|rsa)-[\w@.-]+")
_CERTIFICATES: Final = "cert-authority"


@dataclass(frozen=True, kw_only=True)
class _Line:
    principals: str
    options: dict[str, str]
    key: bytes


def principals_of(path: Path, key: bytes, namespace: str) -> str | None:
    """Return the names of the first line that allows a public key in a namespace; None if no line
    does. Raises ConfigError for a file that can't be read, for a line of the key that can't be
    parsed, and for one with an option that relay does not check."""
    flag = "--allowed-signers"
    for number, text in enumerate(read_small(path, flag).splitlines(), 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        place = f"{flag} {path}:{number}"
        line = _parse(text, place)
        if line is None or line.key != key or _CERTIFICATES in line.options:
            continue
        unknown = sorted(line.options.keys() - {"namespaces"})
        if unknown:
            raise ConfigError(
                f"{place} has the option {unknown[0]}, which relay does not check",
                hint="Check the report by `ssh-keygen -Y verify`, which does.",
            )
        if "namespaces" not in line.options or _matches(line.options["namespaces"], namespace):
            return line.principals
    return None


def _parse(text: str, place: str) -> _Line | None:
    """Return a line, or None for a key of another type. Raises ConfigError."""
    fields = _FIELD.findall(text)
    has_options = len(fields) > 1 and _TYPE.fullmatch(fields[1]) is None
    kind, encoded = [*fields[2 if has_options else 1 :], "", ""][:2]
    if kind != KEY_TYPE and _TYPE.fullmatch(kind) is not None:
        return None
    named = list(_options(fields[1], place)) if has_options else []
    options = dict(named)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    # ssh-keygen refuses a repeated option as well: which of them holds is not known.
    if not key or kind != KEY_TYPE or len(options) != len(named):
        raise _refusal(place)
    return _Line(principals=fields[0].strip('"'), options=options, key=key)


def _options(text: str, place: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _OPTION.match(text, at)
        if found is None:
            raise _refusal(place)
        yield found[1].lower(), found[2] or ""
        at = found.end()


def _refusal(place: str) -> ConfigError:
    return ConfigError(
        f"{place} is not a line of allowed signers",
        hint="`relay keys show` prints such a line: NAME [OPTIONS] ssh-ed25519 KEY.",
    )


def _matches(patterns: str, text: str) -> bool:
    """Return whether a list of patterns matches a text (ssh_config(5), "PATTERNS"): one of them
    does, and none that begins with `!`."""
    matched = False
    for pattern in patterns.split(","):
        letters = {"*": ".*", "?": "."}
        expression = "".join(letters.get(char, re.escape(char)) for char in pattern.lstrip("!"))
        if re.fullmatch(expression, text, re.S):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched
