"""Read WebDAV objects: HEAD, with PROPFIND where HEAD does not say enough.

Decided here: when an answer to HEAD may be about a folder, and whether a name exists. Never here:
how PROPFIND is read (`properties.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from string import hexdigits

from relay.digest import ALGORITHMS, Digests
from relay.errors import ConnectionLost, NotFound, Side, StoreTimeout
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_client import HttpClient
from relay.stores.http_objects import HttpHeads
from relay.stores.http_reads import GONE, HttpReads
from relay.stores.interfaces import ByteRange, ObjectInfo, OpenedObject, UnknownObject
from relay.stores.multistatus import version_of
from relay.stores.webdav.properties import Properties
from relay.wire.http1 import Fields, Head

_OF_ANSWERS = frozenset({"cache-control", "content-disposition"})
"""Fields that a server makes for each answer: WebDAV has no properties of them (RFC 4918 section
15). Nextcloud and ownCloud forbid caches with all objects, and let browsers download them."""
_OC_NAMES: Mapping[str, str] = {"SHA256": "sha-256", "SHA1": "sha", "MD5": "md5"}


def oc_checksum(text: str) -> Digests:
    """Read an OC-Checksum ("SHA1:…", several separated by blanks). The client that uploaded the
    object computed it: it detects a damaged source, but proves nothing about a destination."""
    found = {}
    for one in text.split():
        name, _, value = one.partition(":")
        ours = _OC_NAMES.get(name.upper())
        if ours and len(value) == 2 * ALGORITHMS[ours].width and all(c in hexdigits for c in value):
            found[ours] = bytes.fromhex(value)
    return found


class DavHeads(HttpHeads):
    """A WebDAV server's description of an object."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def version(self, head: Head) -> Version:
        """As ObjectHeads.version. A source's version includes the checksum that the object was
        uploaded with, which ownCloud and Nextcloud keep."""
        version = super().version(head)
        kept = oc_checksum(head.get("oc-checksum") or "")
        if not kept or self._side != "source":
            return version
        return replace(version, digests={**kept, **version.digests})

    def metadata(self, head: Head, location: Location) -> Fields:
        """As ObjectHeads.metadata, without the fields that are the answer's alone."""
        found = super().metadata(head, location)
        return tuple(pair for pair in found if pair[0].lower() not in _OF_ANSWERS)


class DavObjects:
    """The objects of one server."""

    def __init__(self, client: HttpClient, properties: Properties) -> None:
        self._client, self._properties = client, properties
        self._reads = HttpReads(client, DavHeads(client.side))

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Raises Rejected for a folder.

        Many servers answer HEAD of a folder with 200, others refuse it. So an answer that may be
        about a folder is checked by PROPFIND: at a destination one without an ETag or without a
        length, since folders seldom have both; at a source one with neither ETag nor Last-Modified,
        which may be the folder's page. At a destination, PROPFIND also decides if HEAD does not say
        whether the object exists."""
        found = self._reads.head(location)
        if self._client.side == "source":
            if (
                isinstance(found, ObjectInfo)
                and found.version.etag is None
                and found.version.last_modified is None
            ):
                self._properties.refuse_folder(location)
            return found
        if isinstance(found, ObjectInfo) and found.version.etag is not None and found.version.size:
            return found
        status, row = self._properties.refuse_folder(location)
        if isinstance(found, ObjectInfo):
            return found
        if row is not None:
            # The ETag of PROPFIND may differ from that of GET, and would then fail as If-Match.
            return ObjectInfo(
                replace(version_of(row), etag=None), location, ranges=True, described=False
            )
        if status in GONE and isinstance(found.why, NotFound | ConnectionLost | StoreTimeout):
            raise NotFound(
                f"PROPFIND found no object at {location}",
                side=self._client.side,
                store_status=status,
            )
        return found

    def get(
        self, location: Location, pinned: Version | None, span: ByteRange | None
    ) -> OpenedObject:
        """As Source.get."""
        return self._reads.get(location, pinned, span)

    def exists(self, location: Location) -> bool:
        """Return whether an object or folder exists, by PROPFIND if HEAD does not say. Raises
        StoreError if neither does."""
        try:
            found = self.head(location)
        except NotFound:
            return False
        if isinstance(found, UnknownObject):
            status = self._properties.status(location)
            if status in (207, 404):
                return status == 207
            if not isinstance(found.why, NotFound):
                raise found.why
            return False
        return True

    def version(self, place: Location) -> Version:
        """Return the version of an object, as far as HEAD gives it. Raises as `head`."""
        found = self.head(place)
        return found.version if isinstance(found, ObjectInfo) else Version()
