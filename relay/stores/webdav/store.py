"""WebDAV (RFC 4918) as a store: the methods of the contract, in the contract's order.

Theory of operation. Each group of requests has a module of its own, and all of them send by one
`HttpClient`. An object is uploaded under a temporary name and published by MOVE
(`staged_uploads.py`).

Decided here: which module does what the contract asks for, and what a WebDAV server is trusted
with. Never here: any request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from relay.errors import Side
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_client import HttpClient
from relay.stores.http_uploads import delete_object, unkept_metadata
from relay.stores.interfaces import (
    ByteRange,
    Deletion,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    PartLimits,
    PutResult,
    UnknownObject,
)
from relay.stores.webdav.checked_deletes import DavVersionDeletes
from relay.stores.webdav.folders import DavFolders
from relay.stores.webdav.listing import DavListing
from relay.stores.webdav.moves import Moves, ignores
from relay.stores.webdav.objects import DavObjects
from relay.stores.webdav.properties import Properties
from relay.stores.webdav.staged_names import StagedNames, staged_locations
from relay.stores.webdav.staged_uploads import StagedUploads
from relay.stores.webdav.whole_names import require_deletable
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog


class WebDavStore:
    """One WebDAV server, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog, first_name: int = 0) -> None:
        """`first_name`: index of the temporary name that is tried first."""
        self._client = client = HttpClient(wire, side, meter)
        self._properties = Properties(client)
        self._objects = DavObjects(client, self._properties)
        self._names = StagedNames(wire.memory, first_name)

    # The rest is made when it is used: most objects are small, and each has two stores of its own.

    @cached_property
    def _listing(self) -> DavListing:
        return DavListing(self._client, self._properties)

    @cached_property
    def _folders(self) -> DavFolders:
        return DavFolders(self._client, self._properties)

    @cached_property
    def _moves(self) -> Moves:
        return Moves(self._client, self._properties, self._objects)

    @cached_property
    def _uploads(self) -> StagedUploads:
        return StagedUploads(
            self._client,
            self._objects,
            self._folders,
            self._names,
            self._moves,
            properties=self._properties,
        )

    # -- both roles

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head, by PROPFIND where HEAD does not say enough. Raises Rejected for a
        folder."""
        return self._objects.head(location)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get."""
        return self._objects.get(location, pinned, span)

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source.list, by PROPFIND of depth 1, folder by folder."""
        return self._listing.entries(location, recursive, enters)

    # -- destination

    def lists_all(self, location: Location) -> bool:
        """As Destination.lists_all (section 9.1: all internal members). Some servers leave names
        out, so `publish` replaces nothing that was not seen."""
        return True

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: by a HEAD before, and by `Overwrite: F` (section
        9.9.3), unless a trial showed that the server ignores it."""
        return not self._client.wire.memory.has(location.origin, ignores(location))

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: a broken upload has a temporary name."""
        return True

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits: WebDAV has no multipart uploads."""
        return None

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: standard HTTP fields are sent with the upload."""
        return unkept_metadata(location, metadata)

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: on one server, with the same credentials, unless a copy was
        refused before."""
        return self._uploads.can_copy(source, location)

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As Destination.put. The object has a temporary name until `publish`. Makes missing
        folders."""
        return self._uploads.put(location, body, metadata, if_absent, token)

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations: the temporary names in the order in which they are
        tried."""
        return staged_locations(location, token)

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish, by MOVE."""
        return self._uploads.publish(stored, if_absent, fresh)

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete. With a strong entity tag the request carries If-Match. An object
        without a version is a temporary one, or a folder of them."""
        if version == Version():
            require_deletable(self._client, location)
        delete_object(self._client, location, version)

    # -- as a source that is moved

    def deletes_conditionally(self, location: Location) -> bool:
        """As DeletingSource.deletes_conditionally: few servers compare If-Match of a DELETE."""
        return False

    def require_deletes(self, folder: Location) -> None:
        """As DeletingSource.require_deletes."""
        DavVersionDeletes(self._client, self._properties).require(folder)

    def delete_version(
        self, location: Location, version: Version, *, purge: bool = False
    ) -> Deletion:
        """As DeletingSource.delete_version; WebDAV has no versions to purge."""
        return DavVersionDeletes(self._client, self._properties).delete(location, version)

    # -- copies within the store

    def copy(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As CopyDestination.copy, by COPY (section 9.8) to a temporary name, which `publish`
        moves."""
        return self._uploads.copy(source, location, if_absent, token)
