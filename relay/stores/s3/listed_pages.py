"""Parse one page of a bucket's listing.

Decided here: which entries a page has, and which page is recognizable as one. Never here: how pages
follow each other (`listing.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import lt
from typing import Final, NamedTuple
from urllib.parse import unquote_plus, unquote_to_bytes
from xml.etree.ElementTree import Element

from relay.errors import ProtocolViolation, Side, UnsafeKey
from relay.location import Location
from relay.parsing import UNSAFE_CHARACTERS, count, iso_date
from relay.stores.http_fields import strong_tag
from relay.stores.interfaces import Entry
from relay.stores.s3.responses import is_truncated
from relay.stores.xml_documents import plain_name

_UNENCODED: Final = re.compile(
    r"[ \xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]|%(?![0-9A-Fa-f]{2})"
)
"""Characters that a percent-encoded key can't contain."""
PAGE_ROWS: Final = 10_000
"""Maximum number of rows of one page of a listing. No number is requested; a thousand is usual."""
SHOWN: Final = frozenset(
    {"Name", "Prefix", "IsTruncated", "KeyCount", "MaxKeys"}
    | {"Marker", "StartAfter", "ContinuationToken"}
)
"""Elements of which an empty page has at least one (ListObjects and ListObjectsV2, "Response
Elements"). Most servers send `Name` and `IsTruncated`; a server of the first form may send only the
`Marker` of the request."""


class ListedRow(NamedTuple):
    """The texts of an object, as a page has them."""

    key: str
    size: str
    etag: str
    modified: str


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """One page of a bucket's listing. `folders` are the names of its folders, `keys` and `rows` its
    objects; `prefix_length` is the number of characters of each key that belong to the listed
    folder. `after` is the marker for a listing without tokens. `truncated` is None if the page does
    not say whether there are more."""

    folders: tuple[str, ...] = ()
    keys: tuple[str, ...]
    rows: tuple[ListedRow, ...]
    prefix_length: int = 0
    truncated: bool | None
    token: str | None
    after: str | None
    plain: bool = False
    """Its keys are not percent-encoded, whatever the page says."""

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Its folders and objects, except for the marker of the listed folder."""
        names = [key[self.prefix_length :] for key in self.keys]
        return (*map(Entry, self.folders), *filter(None, map(_entry, names, self.rows)))

    @property
    def first(self) -> bytes | None:
        """The bytes of its first key."""
        return bytes_of(self.keys[0]) if self.keys else None

    @property
    def last(self) -> bytes | None:
        """The bytes of its last key."""
        return bytes_of(self.keys[-1]) if self.keys else None

    @cached_property
    def ascending(self) -> bool:
        """Whether the keys come in the order of their bytes."""
        order = [bytes_of(key) for key in self.keys]
        return all(map(lt, order, order[1:]))

    @property
    def is_undecided(self) -> bool:
        """Say if the page does not say whether there are more."""
        return self.truncated is None and not self.token

    @property
    def is_last(self) -> bool:
        """Say if the page is the last one; an undecided one is if it is empty."""
        if self.is_undecided:
            return not self.entries
        return self.truncated is False and not self.token


def bytes_of(key: str) -> bytes:
    """Return a key's bytes, by which S3 sorts. (Bytes that are not UTF-8 are surrogates in it.)"""
    try:
        return key.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return key.encode(errors="surrogatepass")


def text_of(key: bytes) -> str:
    """Return the text of a key, as a page has it."""
    return key.decode(errors="surrogateescape")


@dataclass(frozen=True, kw_only=True)
class PageDocument:
    """The texts of a page, with its keys not decoded. `reported` has the text of each other element
    of the root, by name.

    The token of the next page is known before any key is decoded, which takes as long as the
    reading: so the server can already work on that page."""

    folders: tuple[str, ...]
    rows: tuple[ListedRow, ...]
    reported: Mapping[str, str]

    @property
    def token(self) -> str | None:
        """The token of the next page."""
        return self.reported.get("NextContinuationToken") or None

    def decode(self, prefix: str, location: Location, side: Side, *, plain: bool) -> ListedPage:
        """Return the page. If the server is known to send `plain` keys, or a key shows it here, no
        key is decoded, whatever the page says: `a+b` would become another key.

        Raises ProtocolViolation for a key that is not in the requested folder."""
        raw = [*self.folders, *(row.key for row in self.rows)]
        plain = plain or _has_unencoded(raw)
        encoded = self.reported.get("EncodingType") == "url" and not plain
        names = [_unquote(text) for text in raw] if encoded else raw
        if not all(name.startswith(prefix) for name in names):
            message = f"the listing of {location} has keys of other folders"
            raise ProtocolViolation(message, side=side)
        count = len(self.folders)
        marker = self.reported.get("NextMarker")
        # Folders and objects are two lists here: the page ends with the greatest of both.
        after = None if self.token else max(names, key=bytes_of, default=None)
        return ListedPage(
            folders=tuple(name[len(prefix) :] for name in names[:count]),
            keys=tuple(names[count:]),
            rows=self.rows,
            prefix_length=len(prefix),
            # A NextMarker alone also says that there are more.
            truncated=is_truncated(self.reported.get("IsTruncated", "true" if marker else "")),
            token=self.token,
            after=(_unquote(marker) if encoded else marker) if marker else after,
            plain=plain,
        )


def read_document(rows: Iterable[Element], location: Location, side: Side) -> PageDocument:
    """Read the document of a page.

    Raises ProtocolViolation for too many rows, and for an empty document that is not recognizable
    as a page (law 13)."""
    reported: dict[str, str] = {}
    folders: list[str] = []
    objects: list[ListedRow] = []
    for row in rows:
        name = plain_name(row.tag)
        if name == "Contents":
            objects.append(_listed_row(row))
        elif name == "CommonPrefixes":
            folders += [cell.text or "" for cell in row if plain_name(cell.tag) == "Prefix"]
        elif name not in reported:
            reported[name] = row.text or ""
        if len(objects) + len(folders) + len(reported) > PAGE_ROWS:
            message = f"one page of {location} has more than {PAGE_ROWS} objects"
            raise ProtocolViolation(message, side=side)
    if not (objects or folders or SHOWN.intersection(reported)):
        message = f"{location} answered with an empty document instead of a listing"
        raise ProtocolViolation(message, side=side)
    return PageDocument(folders=tuple(folders), rows=tuple(objects), reported=reported)


def _listed_row(row: Element) -> ListedRow:
    get = {plain_name(cell.tag): cell.text or "" for cell in row}.get
    return ListedRow(get("Key", ""), get("Size", ""), get("ETag", ""), get("LastModified", ""))


def _has_unencoded(keys: Sequence[str]) -> bool:
    """Return whether any key has a character that a percent-encoded key can't contain."""
    text = "\n".join(keys)
    if text.isascii() and " " not in text and "%" not in text:
        return False  # in a tenth of the time of the expression
    return _UNENCODED.search(text) is not None


def _entry(name: str, row: ListedRow) -> Entry | None:
    """Return the entry of one object; None for the marker of the listed folder."""
    size = count(row.size.strip())
    after = None if UNSAFE_CHARACTERS.search(name) else name or None
    if (not name or name.endswith("/")) and size != 0:
        return Entry(f"{name}(an object)", size, error=_ends_in_slash(), after=after)
    if not name:
        return None
    etag = strong_tag(row.etag)
    modified = iso_date(row.modified.strip())
    return Entry(name, size, etag, modified, after=after)


def _ends_in_slash() -> UnsafeKey:
    return UnsafeKey(
        "the key ends in '/', but the object is not empty",
        hint=(
            "Only an empty object with such a key is a folder's marker; copy this one to another"
            " key."
        ),
    )


def _unquote(text: str) -> str:
    """Return a percent-decoded key; bytes that are not UTF-8 become surrogates, which later checks
    report."""
    if not text.isascii():
        return unquote_plus(text, errors="surrogateescape")
    if "%" not in text and "+" not in text:
        return text
    # Half of the time of unquote_plus, which looks for characters that are not ASCII.
    return unquote_to_bytes(text.replace("+", " ")).decode(errors="surrogateescape")
