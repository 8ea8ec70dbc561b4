"""Parse one page of a bucket's listing.

Decided here: which entries a page has, and which page is recognizable as one. Never here: how pages
follow each other (`listing.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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


class ListedKey(NamedTuple):
    """An object as a page has it: its decoded key, and the texts of its other elements."""

    key: str
    size: str
    etag: str
    modified: str


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """One page of a bucket's listing. `folders` are the names of its folders; `prefix_length` is
    the number of characters of each key that belong to the listed folder. `after` is the marker for
    a listing without tokens. `truncated` is None if the page does not say whether there are more.

    Its entries are made when they are first used. So the next page can be requested before."""

    folders: tuple[str, ...] = ()
    objects: tuple[ListedKey, ...]
    prefix_length: int = 0
    truncated: bool | None
    token: str | None
    after: str | None
    plain: bool = False
    """Its keys are not percent-encoded, whatever the page says."""

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Its folders and objects, except for the marker of the listed folder."""
        made = (_entry(row.key[self.prefix_length :], row) for row in self.objects)
        return (*map(Entry, self.folders), *filter(None, made))

    @property
    def first(self) -> bytes | None:
        """The bytes of its first key."""
        return bytes_of(self.objects[0].key) if self.objects else None

    @property
    def last(self) -> bytes | None:
        """The bytes of its last key."""
        return bytes_of(self.objects[-1].key) if self.objects else None

    @cached_property
    def ascending(self) -> bool:
        """Whether the keys come in the order of their bytes."""
        order = [bytes_of(row.key) for row in self.objects]
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


def read_page(
    rows: Iterable[Element], prefix: str, location: Location, side: Side, *, plain: bool = False
) -> ListedPage:
    """Read a page's folders and objects, except for the marker of the folder itself. If the server
    is known to send `plain` keys, or a key shows it here, no key is decoded, whatever the page
    says: `a+b` would become another key.

    Raises ProtocolViolation for a key that is not in the requested folder, for too many rows, and
    for an empty document that is not recognizable as a page (law 13)."""
    reported: dict[str, str] = {}
    folders: list[str] = []
    objects: list[dict[str, str]] = []
    for row in rows:
        name = plain_name(row.tag)
        if name == "Contents":
            objects.append({plain_name(cell.tag): cell.text or "" for cell in row})
        elif name == "CommonPrefixes":
            folders += [cell.text or "" for cell in row if plain_name(cell.tag) == "Prefix"]
        elif name not in reported:
            reported[name] = row.text or ""
        if len(objects) + len(folders) + len(reported) > PAGE_ROWS:
            raise ProtocolViolation(
                f"one page of {location} has more than {PAGE_ROWS} objects", side=side
            )
    if not (objects or folders or SHOWN.intersection(reported)):
        raise ProtocolViolation(
            f"{location} answered with an empty document instead of a listing", side=side
        )
    texts = [*folders, *(row.get("Key", "") for row in objects)]
    plain = plain or any(map(_UNENCODED.search, texts))
    decode = _unquote if reported.get("EncodingType") == "url" and not plain else str
    found = [decode(text) for text in folders]
    keys = [decode(row.get("Key", "")) for row in objects]
    if not all(name.startswith(prefix) for name in (*found, *keys)):
        raise ProtocolViolation(f"the listing of {location} has keys of other folders", side=side)
    marker = reported.get("NextMarker")
    token = reported.get("NextContinuationToken") or None
    after = None if token else max((*found, *keys), key=bytes_of, default=None)
    return ListedPage(
        folders=tuple(name[len(prefix) :] for name in found),
        objects=tuple(map(_listed_key, keys, objects)),
        prefix_length=len(prefix),
        truncated=is_truncated(reported.get("IsTruncated", "true" if marker else "")),
        token=token,
        after=decode(marker) if marker else after,
        plain=plain,
    )


def _listed_key(key: str, row: Mapping[str, str]) -> ListedKey:
    get = row.get
    return ListedKey(key, get("Size", ""), get("ETag", ""), get("LastModified", ""))


def _entry(name: str, row: ListedKey) -> Entry | None:
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
