"""Read headers from the command line, and from files that keep them out of the process list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from relay.errors import InvalidHeader
from relay.headers import Headers
from relay.process.small_files import read_secret

SECRET = re.compile(r"authorization|token|secret|password|api-?key|signature|credential", re.I)
"""Names of headers whose values are usually secrets."""


def read_headers(lines: Iterable[str], file: Path | None, side: str = "source") -> Headers:
    """Return the headers of one side, from `--…-header 'Name: value'` (or 'Name: @file') and from a
    file with such lines.

    Raises InvalidHeader for a line without a name, and ConfigError as `read_secret` for a file.
    """
    flag = f"--{side}-header"
    headers = [_value_of(*_split(line, flag), flag) for line in lines]
    if file is not None:
        text = read_secret(file, f"--{side}-headers-file", waits=True)
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.startswith("#"):
                headers.append(_split(line, f"{file}:{number}"))
    return tuple(headers)


def exposed_secrets(lines: Iterable[str]) -> list[str]:
    """Return the names of headers whose secret values every user can read in the process list."""
    pairs = (line.partition(":") for line in lines)
    return [
        name.strip()
        for name, _, value in pairs
        if SECRET.search(name) and not value.strip().startswith("@")
    ]


def _split(line: str, where: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        # The line is not repeated: it may be the secret without its name.
        raise InvalidHeader(
            f"{where}: a header is written 'Name: value'",
            hint="Write 'Name: value' or 'Name: @file'.",
        )
    return name.strip(), value.strip()


def _value_of(name: str, value: str, flag: str) -> tuple[str, str]:
    if not value.startswith("@"):
        return name, value
    return name, read_secret(Path(value[1:]), flag, waits=True).strip()
