"""One row of a listing, as it is sorted, spilled and merged.

Decided here: the order of names, and the form of a row on a disk. Never here: where rows come from,
and what two of them prove."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from relay.digest import Digests


@dataclass(slots=True)
class TreeRow:
    """One object of a listing, or a folder that could not be listed (its name ends in '/').

    Nothing changes a row. It is not frozen, since a frozen one takes twice the time to make, and a
    comparison of two trees makes two for each name."""

    name: str
    _: KW_ONLY
    size: int | None = None
    etag: str | None = None
    digests: Digests = field(default_factory=dict)
    url: str | None = None
    """As Entry.url. It may contain secrets."""
    error: str | None = None
    """Why it can't be read or listed."""
    code: str | None = None
    """The code of that error."""
    is_chosen: bool = True
    """Whether the filters choose it."""
    modified: float | None = None
    """When it was modified, in seconds since 1970, where the caller needs that."""
    key: bytes = field(init=False, repr=False, compare=False)
    """The name's bytes, by which rows are ordered."""

    def __post_init__(self) -> None:
        """Make the key once: each comparison of two rows needs it."""
        self.key = bytes_of_row(self.name)

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


RowValues = tuple[Any, ...]


def values_of_row(row: TreeRow) -> RowValues:
    """Return a row as values that `marshal` can write."""
    return (
        *(row.name, row.size, row.etag, dict(row.digests) if row.digests else None),
        *(row.url, row.error, row.code, row.is_chosen, row.modified),
    )


def row_of_values(values: RowValues) -> TreeRow:
    """Return the row whose `values_of_row` these are."""
    name, size, etag, digests, url, error, code, is_chosen, modified = values
    return TreeRow(
        name,
        size=size,
        etag=etag,
        digests=digests or {},
        url=url,
        error=error,
        code=code,
        is_chosen=is_chosen,
        modified=modified,
    )
