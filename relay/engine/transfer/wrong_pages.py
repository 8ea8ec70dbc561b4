"""Pages that a server sends in place of an object: a login page, the page of a folder, the page of
any name, the viewer behind a share link.

Theory of operation. A server that has no such object, or refuses it, often answers 200 with an HTML
page. Only an HTML answer without a promised digest is suspected; then its name, its first bytes, or
another request decides.

Decided here: whether an answer is such a page. Never here: which version is read."""

from __future__ import annotations

import codecs
import re
from mimetypes import guess_type
from typing import Final

from relay.digest import Digests
from relay.engine.transfer.context import ObjectHints
from relay.errors import RangeIgnored, Rejected, RelayError, StoreError
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_fields import PAGES, is_page
from relay.stores.index_links import segments_of
from relay.stores.interfaces import (
    ByteRange,
    Destination,
    ObjectInfo,
    OpenedObject,
    Source,
    UnknownObject,
)
from relay.stores.unused_names import unused_name_beside

_PROGRAMS: Final = frozenset(
    {"asp", "aspx", "cgi", "dll", "do", "exe", "jsp", "php", "pl", "py", "sh"}
)
"""Endings of programs that answer a URL with a query."""
_DATA: Final = re.compile(
    r"(image|video|audio|font)/(?!.*\+xml).*"
    r"|application/(pdf|zip|epub\+zip|gzip|java-archive|msword|vnd\..*(?<!\+xml)(?<!\+json)"
    r"|x-(tar|7z-compressed|rar.*|iso9660-image|xz|bzip2?))"
)
"""Types that no page has: pictures, films, sounds, fonts, archives and documents."""
_BLANKS: Final = b"\xef\xbb\xbf \t\r\n"
"""A byte order mark, and spaces, before the first tag of a page."""
_BEGINNING: Final = 512
"""Number of bytes that show whether an answer begins as a page does."""
_ENDING: Final = re.compile(r".*\.([a-z0-9]{1,5})", re.I | re.S)


def refuse_wrong_page(
    opened: OpenedObject,
    place: Location,
    destination: Location,
    known: ObjectHints,
    source: Source | Destination,
) -> None:
    """Raise Rejected if the answer for `place` is another page in place of the object, whose name
    at the `destination` is known. `source` is asked for other names where that decides."""
    pages = _PageChecks(place, known, source)
    pages.refuse_other_page(opened)
    pages.refuse_folder_page(opened)
    pages.refuse_page_of_link(opened, destination)
    pages.refuse_page_of_any_name(opened)


def hints_of_answer(url: str | None, digests: Digests) -> ObjectHints:
    """Return the hints about a listed object whose answer is not compared with the listed size:
    that does not show another page then. `url` and `digests` as those of its entry."""
    promised = None if url is None else Version(digests=digests)
    return ObjectHints(listed=Version(), promised=promised)


def may_be_of_page(found: ObjectInfo, place: Location) -> bool:
    """Return whether an answer without the bytes may be that of another page: it is an HTML page,
    and comes from another name, or the name is not one of a page."""
    if not is_page(found.metadata):
        return False
    is_other = segments_of(found.location.path)[-1:] != segments_of(place.path)[-1:]
    return is_other or (place.store == "http" and guess_type(place.path)[0] not in PAGES)


class _PageChecks:
    """The checks of one answer."""

    def __init__(self, place: Location, known: ObjectHints, source: Source | Destination) -> None:
        self._place, self._known, self._source = place, known, source

    def refuse_other_page(self, opened: OpenedObject) -> None:
        """Raise Rejected if the source redirects to an HTML page of another name: a server, or a
        proxy in front of it, redirects a reader without credentials to a login page. (A redirect
        may drop the extension of a page, or the whole name of a folder's index.)"""
        place = self._place
        if opened.location is place or not self._may_be_wrong_page(opened):
            return
        named = guess_type(place.path)
        page = named[0] in PAGES
        there = last_segment(opened.location)
        here = last_segment(place)
        stem = here.split(".")[0]
        away = there.split(".")[0] not in (stem, "") and stem != "index" if page else there != here
        is_suspect = away and (self._is_listed or (any(named) and not page))
        if is_suspect and self._begins_as_page():
            hint = "Check the credentials: many servers redirect to a login page without them."
            raise Rejected(
                f"{place} redirects to {opened.location}, which is an HTML page",
                side="source",
                hint=hint,
            )

    def refuse_folder_page(self, opened: OpenedObject) -> None:
        """Raise Rejected if the answer is the page of a folder in place of the object:

        - a folder that a listing gave as an object. A server may answer for a folder with or
          without its '/', so the other form is requested.
        - a folder that the caller named as an object, if its page is a listing."""
        known, place = self._known, self._place
        if place.store != "http" or not self._may_be_wrong_page(opened):
            return
        if guess_type(place.path)[0] in PAGES:
            return
        if known.listed is None and known.promised is None and self._is_index(place):
            raise _folder_error(place)
        if not self._is_listed:
            return
        try:
            found = self._source.head(place.folder())
            if isinstance(found, UnknownObject):
                other = self._source.get(place.folder())
                assert other.body is not None  # an Opened has one
                other.body.close()
                found = other
        except StoreError as error:
            if error.retryable:
                raise
            return
        if found.location.path.endswith("/"):
            raise _folder_error(place)

    def refuse_page_of_link(self, opened: OpenedObject, destination: Location) -> None:
        """Raise Rejected if the answer is an HTML page, and the URL's name is that of data, or says
        nothing about the object's type and the name that the caller gave it is not one of a page: a
        share link may lead to a viewer, to a warning, or to a login page."""
        known, place = self._known, self._place
        version = known.promised or known.listed
        if place.store != "http" or (version is not None and version.size is not None):
            return
        if not self._may_be_wrong_page(opened) or guess_type(destination.path)[0] in PAGES:
            return
        own, coding = _type_of(place)
        name, ending = last_segment(place), _ending_of(destination)
        if own is None and coding is None:
            if ending in ("", _ending_of(place)):
                return
            name = last_segment(destination)
        elif coding is None and _DATA.fullmatch(own or "") is None:
            return
        if not self._begins_as_page():
            return
        raise Rejected(
            f"{place} is an HTML page, and {name[:200]!a} is not the name of one",
            side="source",
            hint=(
                "A share link often shows a page: give the direct link. To move the page itself,"
                " let the destination's name end in .html."
            ),
        )

    def refuse_page_of_any_name(self, opened: OpenedObject) -> None:
        """Raise Rejected if the answer is an HTML page, the name is not one of a page, and the
        server answers another, random name so too: an application of one page, a CDN with a page in
        place of its errors, or a firewall that blocks a type of files. The object is probably gone.

        A name without an ending may be one of a page, and a known size decides by itself."""
        known, place = self._known, self._place
        version = known.promised or known.listed
        if place.store != "http" or (version is not None and version.size is not None):
            return
        if "." not in last_segment(place) or not self._may_be_wrong_page(opened):
            return
        if guess_type(place.path)[0] in PAGES:
            return
        other = unused_name_beside(place, keeps_stem=True)
        try:
            found = self._source.get(other)
        except RelayError:
            return
        assert found.body is not None  # an Opened has one
        found.body.close()
        is_any = found.location is other and self._may_be_wrong_page(found)
        if is_any and self._begins_as_page():
            raise Rejected(
                f"{place} is an HTML page, and the server answers any name with one",
                side="source",
                hint="The object is probably gone, or a firewall blocks it. Check its URL.",
            )

    @property
    def _is_listed(self) -> bool:
        """Whether the object comes from the listing of a folder."""
        return self._known.listed is not None and self._known.promised is None

    def _may_be_wrong_page(self, opened: OpenedObject) -> bool:
        """Return whether the answer is an HTML page, and no promised digest will be compared."""
        promised = self._known.promised
        return is_page(opened.metadata) and not (promised is not None and promised.digests)

    def _begins_as_page(self) -> bool:
        """Return whether the object's first bytes are text, or unknown. A script that names no type
        (PHP, Flask, Express) sends its data as HTML, and its messages too, with markup or
        without."""
        try:
            try:
                opened = self._source.get(self._place, None, ByteRange(0, _BEGINNING - 1))
            except RangeIgnored:
                opened = self._source.get(self._place)
            assert opened.body is not None  # an Opened has one
            try:
                data = opened.body.read(_BEGINNING)
            finally:
                opened.body.close()
        except RelayError:
            return True
        return data.lstrip(_BLANKS)[:1] in (b"", b"<") or not _is_binary(data)

    def _is_index(self, place: Location) -> bool:
        """Return whether a place that ends in '/' is a folder: its page lists an entry, or is an
        index that a cache kept."""
        if not place.path.endswith("/"):
            return False
        try:
            return next(self._source.list(place), None) is not None
        except Rejected as error:
            return error.store_status is None
        except RelayError:
            return False


def _is_binary(data: bytes) -> bool:
    """Return whether the first bytes of an object are not text: they have a control character, or
    are not UTF-8. The last character may be cut."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # the mark of UTF-16
        return False
    if any(byte < 0x20 and byte not in b"\t\n\f\r" for byte in data):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return True
    return False


def last_segment(place: Location) -> str:
    """Return the last segment of a path."""
    return next(reversed(segments_of(place.path)), "")


def _type_of(place: Location) -> tuple[str | None, str | None]:
    """Return the type and the coding that a name says, both None for a program with a query."""
    if place.query and _ending_of(place) in _PROGRAMS:
        return None, None
    return guess_type(place.path)


def _ending_of(place: Location) -> str:
    """Return the ending of the last segment of a path, such as `mp4`; '' without one that has a
    letter, and for a folder."""
    if place.path.endswith("/"):
        return ""
    found = _ENDING.fullmatch(last_segment(place))
    return found[1].lower() if found is not None and not found[1].isdecimal() else ""


def _folder_error(place: Location) -> Rejected:
    hint = "Move it as a folder: -r in the terminal, `recursive` in a request."
    return Rejected(f"{place} is a folder, not an object", side="source", hint=hint)
