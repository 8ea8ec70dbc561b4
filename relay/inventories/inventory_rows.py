"""Turn the rows of an inventory into rows of a listing.

Decided here: which column means what, which rows are current objects, and which values are digests
of an object's bytes. Never here: files (`inventory_files.py`), and what two rows prove."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote_plus

from relay.digest import ALGORITHMS, Digests
from relay.sorting.rows import TreeRow

RowMaker = Callable[[Sequence[str]], TreeRow | None]
"""Returns the row of a line's cells, or None for one that is not a current object. Raises
ValueError for a value that can't be one of its column."""

_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_PLAIN_MD5: Final = frozenset({"SSE-S3", "NOT-SSE"})
"""The states of encryption with which S3 makes the ETag of an object in one part of its MD5
(docs.aws.amazon.com, "Object", ETag). With keys of KMS or of the customer it is another value."""
_TRUE: Final = frozenset({"true", "1"})


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One kind of inventory."""

    name: str
    makes: Callable[[Mapping[str, int]], RowMaker]
    """Returns the maker of rows for the places of the columns, whose names are in lower case.
    Raises KeyError for a column that is necessary."""
    store: str
    """The store whose ETags these are."""
    in_shards: bool = True
    """Whether one file may be a part only: then its manifest is needed."""


def places_of(columns: Sequence[str]) -> dict[str, int]:
    """Return the places of columns by their names in lower case."""
    return {name.strip().lower(): place for place, name in enumerate(columns)}


def seconds_of(text: str) -> float | None:
    """Return a time in the form of ISO 8601 in seconds since 1970; UTC where it names no zone. None
    for another text."""
    try:
        moment = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _cell(places: Mapping[str, int], *names: str) -> Callable[[Sequence[str]], str]:
    """Return a reader of the first of these columns that is there; it returns '' without one."""
    place = next((places[name] for name in names if name in places), None)
    return (lambda cells: "") if place is None else (lambda cells: cells[place])


def _size(text: str) -> int | None:
    if not text:
        return None
    size = int(text)
    if size < 0:
        raise ValueError(text)
    return size


def _in_base64(name: str, text: str) -> bytes:
    value = base64.b64decode(text, validate=True)
    if len(value) != ALGORITHMS[name].width:
        raise ValueError(text)
    return value


def _in_hex(name: str, text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != ALGORITHMS[name].width:
        raise ValueError(text)
    return value


def _s3_rows(places: Mapping[str, int]) -> RowMaker:
    """Rows of S3 Inventory (docs.aws.amazon.com, "Amazon S3 Inventory list"). The name of a
    checksum algorithm is in it, and not the checksum."""
    key_place = places["key"]
    is_latest, is_marker = _cell(places, "islatest"), _cell(places, "isdeletemarker")
    size_of, etag_of = _cell(places, "size"), _cell(places, "etag")
    modified_of = _cell(places, "lastmodifieddate")
    encryption_of = _cell(places, "encryptionstatus")

    def make(cells: Sequence[str]) -> TreeRow | None:
        if is_latest(cells).lower() == "false" or is_marker(cells).lower() == "true":
            return None
        name, etag = cells[key_place], etag_of(cells)
        if "%" in name or "+" in name:
            name = unquote_plus(name, errors="surrogateescape")
        size = _size(size_of(cells))
        digests: Digests = {}
        if encryption_of(cells).upper() in _PLAIN_MD5 and etag:
            found = _MD5.fullmatch(etag)
            digests = {"md5": bytes.fromhex(found[1])} if found is not None else {}
        modified = seconds_of(modified_of(cells))
        return TreeRow(name, size=size, etag=etag or None, digests=digests, modified=modified)

    return make


def _gcs_rows(places: Mapping[str, int]) -> RowMaker:
    """Rows of an inventory report of Cloud Storage (cloud.google.com, "Inventory report metadata
    fields"). A version that is not live has the time when it was deleted."""
    name_place = places["name"]
    size_of, deleted_of = _cell(places, "size"), _cell(places, "timedeleted")
    md5_of, crc32c_of = _cell(places, "md5hash"), _cell(places, "crc32c")
    modified_of = _cell(places, "updated", "timecreated")

    def make(cells: Sequence[str]) -> TreeRow | None:
        if deleted_of(cells):
            return None
        digests = {}
        md5, crc32c = md5_of(cells), crc32c_of(cells)
        if md5:
            digests["md5"] = _in_base64("md5", md5)
        if crc32c:
            digests["crc32c"] = _in_base64("crc32c", crc32c)
        size, modified = _size(size_of(cells)), seconds_of(modified_of(cells))
        return TreeRow(cells[name_place], size=size, digests=digests, modified=modified)

    return make


def _azure_rows(places: Mapping[str, int]) -> RowMaker:
    """Rows of an Azure blob inventory (learn.microsoft.com, "Azure Storage blob inventory"). A name
    begins with the container's."""
    name_place = places["name"]
    size_of, md5_of = _cell(places, "content-length"), _cell(places, "content-md5")
    modified_of = _cell(places, "last-modified")
    snapshot_of, is_current = _cell(places, "snapshot"), _cell(places, "iscurrentversion")
    is_deleted, is_folder = _cell(places, "deleted"), _cell(places, "hdi_isfolder")

    def make(cells: Sequence[str]) -> TreeRow | None:
        if snapshot_of(cells) or is_current(cells).lower() == "false":
            return None
        if is_deleted(cells).lower() in _TRUE or is_folder(cells).lower() in _TRUE:
            return None
        md5 = md5_of(cells)
        digests = {"md5": _in_base64("md5", md5)} if md5 else {}
        size, modified = _size(size_of(cells)), seconds_of(modified_of(cells))
        return TreeRow(cells[name_place], size=size, digests=digests, modified=modified)

    return make


_HEX_COLUMNS: Final[Mapping[str, str]] = {
    "md5": "md5",
    "sha1": "sha",
    "sha256": "sha-256",
    "sha512": "sha-512",
    "crc32c": "crc32c",
    "crc64nvme": "crc64nvme",
}
"""The columns of a plain list with digests in hex, and their algorithms."""


def _plain_rows(places: Mapping[str, int]) -> RowMaker:
    name_place = places["name"]
    size_of, modified_of = _cell(places, "size"), _cell(places, "modified")
    columns = [(_HEX_COLUMNS[name], places[name]) for name in _HEX_COLUMNS if name in places]

    def make(cells: Sequence[str]) -> TreeRow | None:
        digests = {name: _in_hex(name, cells[place]) for name, place in columns if cells[place]}
        size, modified = _size(size_of(cells)), seconds_of(modified_of(cells))
        return TreeRow(cells[name_place], size=size, digests=digests, modified=modified)

    return make


S3: Final = Dialect(name="S3 Inventory", makes=_s3_rows, store="s3")
GCS: Final = Dialect(name="an inventory report of Cloud Storage", makes=_gcs_rows, store="gcs")
AZURE: Final = Dialect(name="an Azure blob inventory", makes=_azure_rows, store="azure")
PLAIN: Final = Dialect(name="a CSV file", makes=_plain_rows, store="", in_shards=False)


def dialect_of_header(places: Mapping[str, int]) -> Dialect | None:
    """Return the dialect of a file by its first line, or None if that is not a header."""
    if "name" not in places:
        return None
    if "content-length" in places or "blobtype" in places:
        return AZURE
    return GCS if "bucket" in places else PLAIN
