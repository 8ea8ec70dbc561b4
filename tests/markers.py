"""Secrets that tests plant, and how they are found again: as they are, and in base64, hexadecimal
and percent-encoding.

A marker is letters and digits, so that every place takes it: a header, a URL, a password. It is
found also inside a longer text that was encoded as a whole."""

from __future__ import annotations

import base64
import re
import secrets
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

LENGTH = 20
"""Characters of a marker: 119 random bits."""
_CHARACTERS = string.ascii_letters + string.digits


@dataclass
class Markers:
    """Markers by the kind of secret that each stands for."""

    values: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> str:
        """Return the marker of a kind, which the first call makes."""
        return self.values.setdefault(
            kind, "".join(secrets.choice(_CHARACTERS) for _ in range(LENGTH))
        )

    def learn(self, kind: str, value: str) -> str:
        """Take a secret that relay has made as the marker of a kind, and return it."""
        assert len(value) >= LENGTH
        self.values[kind] = value
        return value

    def find(self, text: str | bytes, kinds: Iterable[str] = ()) -> list[str]:
        """Return the kinds (of `kinds`, or of all) whose marker a text has in any form, with the
        form."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        chosen = {kind: self.values[kind] for kind in kinds} or self.values
        return [
            f"{kind} ({form})"
            for kind, value in chosen.items()
            for form, pattern in _forms(value).items()
            if pattern.search(data)
        ]


def _forms(value: str) -> Mapping[str, re.Pattern[bytes]]:
    raw = value.encode()
    escaped = "".join(f"%{byte:02x}" for byte in raw).encode()
    spaced = b"[ :-]?".join(f"{byte:02x}".encode() for byte in raw)
    return {
        "plain": re.compile(re.escape(raw)),
        "hex": re.compile(spaced, re.I),
        "percent": re.compile(re.escape(escaped), re.I),
        "base64": re.compile(b"|".join(map(re.escape, _in_base64(raw)))),
    }


def _in_base64(raw: bytes) -> Iterator[bytes]:
    """Yield what base64 of any text with these bytes has: one form for each of the three places at
    which a group of three bytes can begin, in both alphabets."""
    for before in range(3):
        made = base64.b64encode(b"\0" * before + raw)
        # A group that has a byte of what stands before or behind is another one there.
        first = 4 if before else 0
        last = (before + len(raw)) // 3 * 4
        yield made[first:last]
        yield made[first:last].replace(b"+", b"-").replace(b"/", b"_")
