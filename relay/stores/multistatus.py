"""Parse the rows of a WebDAV multistatus (RFC 4918 sections 9.1, 13 and 14): path, status and
properties.

Decided here: what one row means. Never here: which requests are sent, and which document is
believed (`webdav/properties.py`)."""

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
"""The body of a PROPFIND."""


def path_of(row: Element) -> str:
    """Return the path of a row's href, which may be a whole URL (RFC 4918 section 8.3)."""
    href = (row.findtext(HREF) or "").strip()
    _, scheme, rest = href.partition("://")
    return "/" + rest.partition("/")[2] if scheme else href


def status_of(row: Element) -> int:
    """Return the status of a row's resource: the row's own, or that of the properties if none of
    them could be read.

    Missing properties (404) don't mean that the resource is missing; only a row's own 404 does."""
    own = _status(row, 200)
    if own != 200:
        return own
    statuses = [_status(group, 200) for group in row.iterfind("{DAV:}propstat")]
    return statuses[0] if statuses and 200 not in statuses and statuses[0] != 404 else 200


def _status(element: Element, default: int) -> int:
    words = (element.findtext("{DAV:}status") or "").split()
    return count(words[1]) or default if len(words) > 1 else default


def properties_of(row: Element) -> Mapping[str, Element]:
    """Return a row's properties by their names. Missing properties have another status, and are
    left out."""
    good = (group for group in row.iterfind("{DAV:}propstat") if _status(group, 200) == 200)
    return {prop.tag: prop for group in good for prop in group.iterfind("{DAV:}prop/*")}


def rows_of(row: Element) -> Iterator[Element]:
    """Yield one row for each href of a row: a row with a status may have several (RFC 4918 section
    14.24)."""
    places = row.findall(HREF)
    if len(places) < 2:
        yield row
        return
    for place in places:
        one = Element(row.tag)
        one.extend([place, *(child for child in row if child.tag != HREF)])
        yield one


def own_row(rows: Iterable[Element], path: str) -> Element | None:
    """Return the row of the resource at a path, in any Unicode normal form. Otherwise return the
    only row, unless it is that of a folder above: behind a proxy that rewrites paths, the server
    has another path for the resource."""
    asked, only, count = segments_of(path), None, 0
    for row in rows:
        there = segments_of(path_of(row))
        starts = all(map(same_text, there, asked))
        if starts and len(there) == len(asked):
            return row
        is_above = starts and len(there) < len(asked) and (bool(there) or not path.endswith("/"))
        only, count = None if is_above else row, count + 1
    return only if count == 1 else None


def shows_type(row: Element) -> bool:
    """Return whether a row shows whether its resource is a folder: by its type, which every
    resource has (RFC 4918 section 15.9), by its path, or by a length, which a folder seldom has."""
    properties = properties_of(row)
    return (
        "{DAV:}resourcetype" in properties
        or "{DAV:}getcontentlength" in properties
        or path_of(row).endswith("/")
    )


def is_folder(row: Element) -> bool:
    """Return whether a row is that of a folder."""
    return _is_folder(path_of(row), properties_of(row))


def is_object(row: Element) -> bool:
    """Return whether a row is certainly that of an object: its type is not that of a folder, and it
    has a length. Its path may still end in '/', since many servers repeat that of the request."""
    properties = properties_of(row)
    kind = properties.get("{DAV:}resourcetype")
    return (
        kind is not None
        and kind.find("{DAV:}collection") is None
        and "{DAV:}getcontentlength" in properties
    )


def _is_folder(path: str, properties: Mapping[str, Element]) -> bool:
    kind = properties.get("{DAV:}resourcetype")
    return (kind is not None and kind.find("{DAV:}collection") is not None) or path.endswith("/")


def read_row(row: Element, folder: list[str], side: Side) -> Entry | None:
    """Return the entry of a row in the listing of the folder with these segments, with an error for
    an unsafe name; None for the folder itself, in any Unicode normal form. Raises ProtocolViolation
    for a resource that is not directly in the folder."""
    path = path_of(row)
    there = segments_of(path)
    within = len(there) >= len(folder) and all(map(same_text, folder, there))
    if path and within and len(there) == len(folder):
        return None
    if within and len(there) == len(folder) + 1 and (there[-1] in (".", "..") or "/" in there[-1]):
        name = path.rstrip("/").rpartition("/")[2]
        return Entry(
            name,
            error=UnsafeKey(f"the listing has the name {name[:200]!a}, which relay can't request"),
            judged_as=("",),
        )
    if not within or len(there) != len(folder) + 1:
        raise ProtocolViolation(
            f"the listing of /{'/'.join(folder)} has entries of other folders", side=side
        )
    properties = properties_of(row)
    if _is_folder(path, properties):
        return Entry(f"{there[-1]}/")
    version = version_of(row)
    if status_of(row) == 200 and not shows_type(row):
        error = ProtocolViolation(
            f"the listing does not show whether {path[:200]!a} is a folder", side=side
        )
        name = there[-1]
        return Entry(name, version.size, error=error, judged_as=(f"{name}/", name))
    return Entry(there[-1], version.size, version.etag, http_date(version.last_modified))


def version_of(row: Element) -> Version:
    """Return the version of a row's object."""
    texts = {tag: (prop.text or "").strip() for tag, prop in properties_of(row).items()}
    return Version(
        size=count(texts.get("{DAV:}getcontentlength")),
        etag=strong_tag(texts.get("{DAV:}getetag")),
        last_modified=printable(texts.get("{DAV:}getlastmodified") or "") or None,
    )
