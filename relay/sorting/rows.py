"""One row of a listing, as it is sorted, spilled and merged.

Decided here: the order of names, and the form of a row on a disk. Never here: where rows come from,
and what two of them prove."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from relay.digest import Digests

# `json.dumps` makes an encoder for each call, and `json.loads` looks for the encoding each time.
_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode
_DECODE: Final = json.JSONDecoder().decode


@dataclass(frozen=True)
class TreeRow:
    """One object of a listing, or a folder that could not be listed (its name ends in '/')."""

    name: str
    _: KW_ONLY
    size: int | None = None
    etag: str | None = None
    digests: Digests = field(default_factory=dict)
    url: str | None = None
    """As Entry.url. It may contain secrets."""
    error: str | None = None
    """Why it can't be read or listed."""
    is_chosen: bool = True
    """Whether the filters choose it."""

    @property
    def key(self) -> bytes:
        """The name's bytes, by which rows are ordered."""
        return bytes_of_row(self.name)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder that could not be listed."""
        return self.name.endswith("/")


def bytes_of_row(name: str) -> bytes:
    """Return a name's bytes. Bytes that are not UTF-8 are surrogates in it (PEP 383)."""
    try:
        return name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return name.encode(errors="surrogatepass")


def line_of(row: TreeRow) -> bytes:
    """Return a row as one line of ASCII."""
    digests = {name: value.hex() for name, value in row.digests.items()}
    members = (row.name, row.size, row.etag, digests, row.url, row.error, row.is_chosen)
    return _ENCODE(members).encode("ascii") + b"\n"


def row_of(line: bytes) -> TreeRow:
    """Return the row whose `line_of` this is."""
    name, size, etag, digests, url, error, is_chosen = _DECODE(line.decode("ascii"))
    return TreeRow(
        name,
        size=size,
        etag=etag,
        digests={algorithm: bytes.fromhex(value) for algorithm, value in digests.items()},
        url=url,
        error=error,
        is_chosen=is_chosen,
    )
