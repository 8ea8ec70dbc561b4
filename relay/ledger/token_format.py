"""The text of a token: `relay_`, its id, its secret, and a checksum.

    relay_k3v9q0xm_u2Yw…(43 characters)…_3fRk2Q

The fixed beginning and the checksum let scanners of repositories find a token that was published,
and let relay refuse a mistyped one without a look into the ledger. The secret has 256 random bits,
so a plain SHA-256 suffices to store it (OWASP ASVS 5.0, 6.5.2: 112 bits)."""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from typing import Final
from zlib import crc32

_IDS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM: Final = re.compile(r"(relay_([0-9a-z]{8})_[A-Za-z0-9_-]{43})_([0-9A-Za-z]{6})")


def new_id() -> str:
    """Return a random id of a token."""
    return "".join(secrets.choice(_IDS) for _ in range(8))


def new_value(id: str) -> str:
    """Return a new token with this id."""
    start = f"relay_{id}_{secrets.token_urlsafe(32)}"
    return f"{start}_{_checksum(start)}"


def id_in(value: str) -> str | None:
    """Return the id in a token, or None for any other text."""
    found = _FORM.fullmatch(value)
    if found is None or found[3] != _checksum(found[1]):
        return None
    return found[2]


def hash_of(value: str) -> str:
    """Return the hash by which a token is stored and compared, of any text."""
    return sha256(value.encode("utf-8", "surrogateescape")).hexdigest()


def _checksum(text: str) -> str:
    number, digits = crc32(text.encode()), ""
    for _ in range(6):  # 62 ** 6 is more than 2 ** 32
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
