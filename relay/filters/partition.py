"""A part of all names, by the hash of each: `--hash-filter 2/5` chooses about a fifth of them.

Source of the rules: rclone 1.75, `parseHashFilter` and `IncludeRemote` in `fs/filter/filter.go`."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from relay.errors import InvalidFilter
from relay.filters.expressions import bytes_of_name

_FORM: Final = re.compile(r"(?P<part>@|[0-9]{1,20})/(?P<parts>[0-9]{1,20})")
_LIMIT: Final = 2**64


@dataclass(frozen=True)
class Partition:
    """The names whose hash leaves the remainder `part` when divided by `parts`."""

    part: int
    parts: int

    def has(self, name: str) -> bool:
        """Return whether a name belongs to it. Names that differ only in their case, or in the form
        of their accents, belong together."""
        # Go's lower case is that of each character; Python's of a whole text may be longer, or
        # depend on the next character.
        folded = "".join(
            "i" if char == "\u0130" else char.lower() for char in unicodedata.normalize("NFC", name)
        )
        found = hashlib.md5(bytes_of_name(folded), usedforsecurity=False)
        return int.from_bytes(found.digest()[:8], "little") % self.parts == self.part


def partition_of(text: str, seed: str) -> Partition:
    """Return the partition of a text such as `2/5`. `@/5` is one of five, chosen by `seed`.

    Raises InvalidFilter."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidFilter(
            f"hash-filter {text[:60]!a} is not of the form K/N",
            hint="Write two numbers, such as 2/5, or @/5 for one of five parts at random.",
        )
    parts = int(found["parts"])
    if not 0 < parts < _LIMIT:
        raise InvalidFilter(f"hash-filter {text!a}: N must be from 1 to {_LIMIT - 1}")
    if found["part"] == "@":
        return Partition(
            int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big") % parts, parts
        )
    part = int(found["part"])
    if part >= _LIMIT:
        raise InvalidFilter(f"hash-filter {text!a}: K must be below {_LIMIT}")
    return Partition(part % parts, parts)
