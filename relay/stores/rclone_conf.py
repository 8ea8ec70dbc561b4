"""Read the remotes of an existing rclone.conf.

Decided here: where that file is, how it is parsed, and how its passwords are obscured and revealed
(rclone's fs/config/obscure: AES-CTR with a key that is published in its source, so it only keeps
passwords from being read over a shoulder). Never here: what a remote's options mean."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from os.path import isfile
from pathlib import Path
from typing import Final

from relay.errors import ConfigError
from relay.process.small_files import read_small

_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
_ENCRYPTED = "RCLONE_ENCRYPT_V"
AES_BLOCK_BYTES: Final = 16
_OPTION: Final = re.compile(
    r"""(?:(?P<quote>["`])(?P<quoted>[^"`]+)(?P=quote)\s*|(?P<plain>[^"`=:][^=:]*))[=:](?P<value>.*)"""
)
"""One option, as in rclone's parser (github.com/unknwon/goconfig, `read.go`): the first '=' or ':'
ends the name."""
_FORM = "A remote is a line `[name]`, and below it lines of `option = value`."


def find_config(environment: Mapping[str, str], home: Path) -> Path | None:
    """Return the file that rclone itself would read, or None. Raises ConfigError if the file in
    RCLONE_CONFIG does not exist."""
    named = environment.get("RCLONE_CONFIG")
    if named:
        if not isfile(named):
            raise ConfigError(f"the file in RCLONE_CONFIG, {named}, does not exist")
        return Path(named)
    base = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    found = (base / "rclone" / "rclone.conf", home / ".rclone.conf")
    # A service may have no home folder, or may not enter it. A relative path would then mean the
    # current folder, whose files may be another user's.
    return next((path for path in found if path.is_absolute() and isfile(path)), None)


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return the options of every remote by its name. Raises ConfigError for a file that can't be
    read, or is encrypted."""
    text = read_small(path)
    if any(line.startswith(_ENCRYPTED) for line in text.splitlines()[:10]):
        raise ConfigError(
            f"{path} is encrypted",
            hint=(
                "Run `rclone config encryption remove`, or write the remotes that you need into"
                " relay.toml."
            ),
        )
    found: dict[str, dict[str, str]] = {}
    # Not `splitlines`: that also splits at U+2028 and others, which a value may have.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            options = found.setdefault(line[1:-1].strip(), {})
        elif line and line[0] not in "#;":
            if not found:
                raise ConfigError(f"{path}: line {number} is not in a section", hint=_FORM)
            option = _option(line)
            if option is None:  # the message does not quote the line, which may be a secret
                raise ConfigError(f"{path} can't be parsed: see line {number}", hint=_FORM)
            options[option[0]] = option[1]
    return found


def _option(line: str) -> tuple[str, str] | None:
    """Return the name and the value of a line as rclone parses it: without blanks at both ends, so
    that there are no continuation lines; both may be quoted. None for a line that is not an
    option."""
    found = _OPTION.fullmatch(line)
    if found is None:
        return None
    value = found["value"].strip()
    for quote in ('"""', "`"):
        if value.startswith(quote):
            if len(value) < 2 * len(quote) or not value.endswith(quote):
                return None
            value = value[len(quote) : -len(quote)]
    return found["quoted"] or found["plain"].strip(), value


def obscure(password: str) -> str:
    """Return a password as `rclone obscure` writes it. This hides it from a glance only: rclone's
    key is public."""
    iv = secrets.token_bytes(AES_BLOCK_BYTES)
    data = iv + _apply_cipher(iv, password.encode())
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def reveal(obscured: str) -> str:
    """Return the password in an output of `rclone obscure`. Raises ValueError for anything else."""
    try:
        data = base64.urlsafe_b64decode(obscured + "=" * (-len(obscured) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("it is not obscured by rclone") from None
    if len(data) < AES_BLOCK_BYTES:
        raise ValueError("it is too short to be obscured by rclone")
    return _apply_cipher(data[:AES_BLOCK_BYTES], data[AES_BLOCK_BYTES:]).decode()


def _apply_cipher(iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt with AES-CTR and rclone's key: both are the same operation."""
    # Imported here since it takes a hundredth of a second, and only obscured passwords need it.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    encryptor = Cipher(AES(_KEY), CTR(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()
