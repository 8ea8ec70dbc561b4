"""The remotes of an rclone.conf that somebody already has.

Decided here: where that file is, how it is read, how its obscured passwords are revealed (rclone's
fs/config/obscure: AES-CTR under a key that is published in its source, so it hides nothing from anybody; it only keeps
passwords from being read over a shoulder). Never here: what a remote's options mean.
"""

from __future__ import annotations

import base64
import binascii
import configparser
from collections.abc import Mapping
from os.path import isfile
from pathlib import Path

from relay.errors import ConfigError
from relay.files import read_small

_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
_ENCRYPTED = "RCLONE_ENCRYPT_V"
_FORM = "A remote is a line `[name]`, and below it lines of `option = value`."


def where(environment: Mapping[str, str], home: Path) -> Path | None:
    """Return the file that rclone itself would read, or None. Raises ConfigError if RCLONE_CONFIG names none."""
    named = environment.get("RCLONE_CONFIG")
    if named:
        if not isfile(named):
            raise ConfigError(f"RCLONE_CONFIG {named} is not there")
        return Path(named)
    base = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    found = (base / "rclone" / "rclone.conf", home / ".rclone.conf")
    return next((path for path in found if isfile(path)), None)  # also where the home may not be entered: a service


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return every remote's options by its name. Raises ConfigError for a file that can't be read, or is encrypted."""
    text = read_small(path)
    if any(line.startswith(_ENCRYPTED) for line in text.splitlines()[:10]):
        raise ConfigError(
            f"{path} is encrypted",
            hint="Run `rclone config encryption remove`, or write the remotes that you need into relay.toml.",
        )
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#", ";"), default_section="\0"
    )
    try:
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        raise ConfigError(_unread(path, error), hint=_FORM) from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _unread(path: Path, error: configparser.Error) -> str:
    """Return where a file is wrong. Not what stands there, as the parser's own words do: it may be a secret."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"{path}: line {error.lineno} is in no section"
    if isinstance(error, configparser.ParsingError):
        lines = ", ".join(str(line) for line, _ in error.errors[:10])
        return f"{path} can't be read: look at line {lines}"
    return f"{path} can't be read"


def reveal(obscured: str) -> str:
    """Return the password behind what `rclone obscure` wrote. Raises ValueError for what it never wrote."""
    # Here and not above: they take a hundredth of a second that only an obscured password need wait.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    try:
        data = base64.urlsafe_b64decode(obscured + "=" * (-len(obscured) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("it is not obscured by rclone") from None
    if len(data) < AES.block_size // 8:
        raise ValueError("it is too short to be obscured by rclone")
    iv, hidden = data[:16], data[16:]
    decryptor = Cipher(AES(_KEY), CTR(iv)).decryptor()
    return (decryptor.update(hidden) + decryptor.finalize()).decode()
