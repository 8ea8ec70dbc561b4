"""What the rows of a multistatus say (RFC 4918 sections 9.1, 13 and 14): of what, with which
status, and which properties it has.

Decided here: what one row means. Never here: what is asked, and which document is believed
(`webdav.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from xml.etree.ElementTree import Element

from relay.errors import ProtocolViolation, Side, UnsafeKey
from relay.parsing import count, http_date
from relay.receipt import Version
from relay.stores.http_fields import printable, strong_tag
from relay.stores.index_links import same_text, segments_of
from relay.stores.interfaces import Entry

MULTISTATUS = "{DAV:}multistatus"
ROW, HREF = "{DAV:}response", "{DAV:}href"
PROPERTIES = (
    b'<?xml version="1.0" encoding="utf-8"?><d:propfind xmlns:d="DAV:"><d:prop>'
    b"<d:resourcetype/><d:getcontentlength/><d:getetag/><d:getlastmodified/></d:prop></d:propfind>"
)
"""What PROPFIND asks for."""


def path_of(row: Element) -> str:
    """Return the path of a row's address, which may be a whole URL (RFC 4918 section 8.3)."""
    href = (row.findtext(HREF) or "").strip()
    _, scheme, rest = href.partition("://")
    return "/" + rest.partition("/")[2] if scheme else href


def status_of(row: Element) -> int:
    """Return the status of what a row is about: its own, or that of its properties where none of
    them could be read.

    That properties are not found (404) says nothing of the thing itself, as a row's own 404 does.
    """
    own = _status(row, 200)
    if own != 200:
        return own
    reported = [_status(group, 200) for group in row.iterfind("{DAV:}propstat")]
    return reported[0] if reported and 200 not in reported and reported[0] != 404 else 200


def _status(element: Element, default: int) -> int:
    words = (element.findtext("{DAV:}status") or "").split()
    return count(words[1]) or default if len(words) > 1 else default


def properties_of(row: Element) -> Mapping[str, Element]:
    """Return the properties that a row tells, by their names; those that are not there come with
    another status."""
    good = (group for group in row.iterfind("{DAV:}propstat") if _status(group, 200) == 200)
    return {prop.tag: prop for group in good for prop in group.iterfind("{DAV:}prop/*")}


def rows_of(row: Element) -> Iterator[Element]:
    """Yield a row for each of the addresses that it has: where its status is that of several things
    it has them all (RFC 4918 section 14.24)."""
    places = row.findall(HREF)
    if len(places) < 2:
        yield row
        return
    for place in places:
        one = Element(row.tag)
        one.extend([place, *(child for child in row if child.tag != HREF)])
        yield one


def own_row(rows: Iterable[Element], path: str) -> Element | None:
    """Return the row that is about what lies at a path, in whatever normal form it spells that; or
    the only one, unless that is about a folder above: behind a proxy that rewrites paths a server
    knows the same thing by another."""
    asked, only, count = segments_of(path), None, 0
    for row in rows:
        there = segments_of(path_of(row))
        starts = all(map(same_text, there, asked))
        if starts and len(there) == len(asked):
            return row
        is_above = starts and len(there) < len(asked) and (bool(there) or not path.endswith("/"))
        only, count = None if is_above else row, count + 1
    return only if count == 1 else None


def tells_kind(row: Element) -> bool:
    """Say if a row of something that is there tells whether it is a folder: by its type, which
    everything has (RFC 4918 section 15.9), by its address, or by a length, which a folder seldom
    has."""
    reported = properties_of(row)
    return (
        "{DAV:}resourcetype" in reported
        or "{DAV:}getcontentlength" in reported
        or path_of(row).endswith("/")
    )


def is_folder(row: Element) -> bool:
    """Say if a row tells of a folder."""
    return _is_folder(path_of(row), properties_of(row))


def is_object(row: Element) -> bool:
    """Say if a row tells of an object for certain: its type is none of a folder, and it has a
    length. Its address may end in '/' all the same, since many a server repeats what it was asked
    for."""
    reported = properties_of(row)
    kind = reported.get("{DAV:}resourcetype")
    return (
        kind is not None
        and kind.find("{DAV:}collection") is None
        and "{DAV:}getcontentlength" in reported
    )


def _is_folder(path: str, reported: Mapping[str, Element]) -> bool:
    kind = reported.get("{DAV:}resourcetype")
    return (kind is not None and kind.find("{DAV:}collection") is not None) or path.endswith("/")


def read_row(row: Element, folder: list[str], side: Side) -> Entry | None:
    """Return what a row tells of something in the folder with these segments, with an error where
    its name leads elsewhere; None of the folder itself, in whatever normal form it spells that.
    Raises ProtocolViolation for something that does not lie in it."""
    path = path_of(row)
    there = segments_of(path)
    within = len(there) >= len(folder) and all(map(same_text, folder, there))
    if path and within and len(there) == len(folder):
        return None
    if within and len(there) == len(folder) + 1 and (there[-1] in (".", "..") or "/" in there[-1]):
        name = path.rstrip("/").rpartition("/")[2]
        return Entry(
            name,
            error=UnsafeKey(
                f"the name {name[:200]!a} in the listing is none that relay can ask for"
            ),
        )
    if not within or len(there) != len(folder) + 1:
        raise ProtocolViolation(
            f"the listing of /{'/'.join(folder)} tells of what does not lie in it", side=side
        )
    reported = properties_of(row)
    if _is_folder(path, reported):
        return Entry(f"{there[-1]}/")
    version = version_of(row)
    if status_of(row) == 200 and not tells_kind(row):
        error = ProtocolViolation(
            f"the listing does not tell if {path[:200]!a} is a folder", side=side
        )
        return Entry(there[-1], version.size, error=error)
    return Entry(there[-1], version.size, version.etag, http_date(version.last_modified))


def version_of(row: Element) -> Version:
    """Return the version that a row tells of an object."""
    texts = {tag: (prop.text or "").strip() for tag, prop in properties_of(row).items()}
    return Version(
        size=count(texts.get("{DAV:}getcontentlength")),
        etag=strong_tag(texts.get("{DAV:}getetag")),
        last_modified=printable(texts.get("{DAV:}getlastmodified") or "") or None,
    )
