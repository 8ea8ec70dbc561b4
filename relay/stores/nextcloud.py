"""Nextcloud: WebDAV, and its chunked upload for large objects (docs.nextcloud.com, "Chunked file
upload", version 2).

Theory of operation. The parts of an upload are in a folder of their own below
`/remote.php/dav/uploads/USER/`, which is not visible among the files. A MOVE of the folder's
`.file` assembles them. They are assembled under a temporary name beside the final one, verified
there, and moved, like any other upload over WebDAV.

Decided here: where the parts are, and how they become one file. Never here: the rest of WebDAV
(`webdav/`)."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial

from relay.digest import Digests
from relay.errors import (
    Locked,
    NotFound,
    PreconditionFailed,
    RangeIgnored,
    Side,
    StoreError,
    UploadGone,
)
from relay.location import Location
from relay.parsing import count
from relay.receipt import Version
from relay.stores.http_fields import strong_tag
from relay.stores.http_uploads import DELETED, STORED
from relay.stores.interfaces import Begins, Part, PartLimits, PutResult, Upload
from relay.stores.metadata import require, unkept_notes
from relay.stores.multistatus import version_of
from relay.stores.webdav.account import NEXTCLOUD_FILES
from relay.stores.webdav.folders import MADE
from relay.stores.webdav.moves import DONE
from relay.stores.webdav.staged_uploads import time_fields
from relay.stores.webdav.store import WebDavStore
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

MIB = 1 << 20
PARTS = PartLimits(smallest=5 * MIB, largest=5 << 30, most=10_000, object_bytes=10_000 * (5 << 30))
"""The sizes and the number of chunks that the server allows."""
FOLDER_GONE = frozenset({404, 409, 412})
"""Statuses of an upload into a missing folder: the server deletes an unfinished one after a day. A
server with its files in a bucket answers 412 if its cache has lost the upload
(nextcloud/server, ChunkingV2Plugin.php)."""
NO_UPLOADS = frozenset({404, 405, 409, 501})
"""Statuses of a server without a place for parts: ownCloud Infinite Scale has the same paths of
files, and takes objects of any size in one request."""
HOLDER = "the destination, for an object in parts,"
UNKNOWN_TAG = "unknown"
"""The tag of a part of which the server shows none: a resumed upload sends the part again."""


class NextcloudStore(WebDavStore):
    """One Nextcloud server, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        # It refuses names that end in `.part` (docs.nextcloud.com, "Forbidden file names").
        super().__init__(wire, side, meter, first_name=1)

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits."""
        return PARTS

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
        begins: Begins | None = None,
    ) -> PutResult:
        """As PartsDestination.put. A body of unknown length is sent in one request too."""
        return super().put(location, body, metadata, if_absent=if_absent, token=token)

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """As PartsDestination.begin: makes a folder for the parts, and the missing folders of the
        object.

        Of the metadata only the time of modification is sent, with the MOVE. Raises MetadataUnkept
        if all metadata is required, and RangeIgnored if the server takes no parts."""
        require(metadata, location, unkept_notes(metadata, lambda _: False, location, HOLDER))
        self._folders.make_above(location)
        id = f"relay-{uuid.uuid4().hex}"
        folder = _uploads(location, id)
        response = self._client.send("MKCOL", folder, self._assembly_fields(location, id))
        if response.head.status in NO_UPLOADS:
            response.body.close()
            raise RangeIgnored(
                f"{location.origin} takes no object in parts", side=self._client.side
            )
        if response.head.status not in MADE:
            raise self._client.refusal(response, "MKCOL", folder)
        response.body.close()
        return Upload(location, id, checked=False, described=metadata)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part. The server assembles the parts in the order of their
        names.

        The answer to the upload of a new part has no tag (nextcloud/server, UploadFolder.php), so
        PROPFIND shows it, unless the server keeps the parts in a bucket."""
        place = _uploads(upload.location, upload.id, f"{number:05}")
        expects = not upload.welcome and self._client.expects_continue(body)
        fields = self._assembly_fields(upload.location, upload.id)
        response = self._client.send("PUT", place, fields, body, expect=expects)
        if response.head.status in FOLDER_GONE:
            response.body.close()
            self._folders.forget_above(upload.location)  # or that of the object is gone
            raise UploadGone(
                f"the folder with the parts of {upload.location} no longer exists",
                side=self._client.side,
            )
        if response.head.status not in STORED:
            raise self._client.refusal(response, "PUT", place)
        self._client.drain(response)
        etag = strong_tag(response.head.get("etag")) or self._tag_of(place) or UNKNOWN_TAG
        return Part(number, body.count, etag, checked=False)

    def _tag_of(self, place: Location) -> str | None:
        """Return the tag of a stored part, or None if PROPFIND does not show it."""
        try:
            _, row = self._properties.refuse_folder(place)
        except StoreError:
            return None
        return None if row is None else version_of(row).etag

    def _assembly_fields(self, location: Location, id: str) -> Fields:
        """Return the field that names the place at which the parts are assembled. It is never the
        object's own: a server with its files in a bucket assembles them in the file that has the
        place, and moves that (nextcloud/server, ChunkingV2Plugin.php)."""
        return (("Destination", self._names.choose(location, id).url),)

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts, by listing their folder."""
        found: list[Part] = []
        for entry in self._listing.members(_uploads(upload.location, upload.id)):
            number = count(entry.name)
            # Other names, such as `.file`, do not belong to parts.
            if number is not None and entry.size is not None and len(found) < PARTS.most:
                found.append(Part(number, entry.size, entry.etag or "", checked=False))
        return tuple(sorted(found, key=lambda part: part.number))

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False
    ) -> PutResult:
        """As PartsDestination.complete. The object has a temporary name until `publish`. An
        assembly that takes long is waited for: a second request would assemble the object once
        more at the same time (nextcloud/server#6279)."""
        place = upload.location
        if if_absent and self._objects.exists(place):
            raise PreconditionFailed(f"{place} exists", side=self._client.side)
        part = self._names.choose(place, upload.id)
        size = sum(one.size for one in parts)
        fields: Fields = (
            # An earlier attempt may have left a file under the temporary name.
            ("Overwrite", "T"),
            # The server compares it with the sum of the parts (nextcloud/server,
            # ChunkingPlugin.php).
            ("OC-Total-Length", str(size)),
            *time_fields(upload.described),
        )
        try:
            response = self._moves.send("MOVE", _uploads(place, upload.id, ".file"), part, fields)
            if response.head.status not in DONE:
                raise self._client.refusal(response, "MOVE", place)
            response.body.close()
        except NotFound as error:  # an earlier request may have assembled it
            if not self._objects.exists(part):
                raise UploadGone(error.message, side=self._client.side) from None
        except StoreError as error:
            busy, exists = isinstance(error, Locked), partial(self._objects.exists, part)
            if not self._moves.is_done(error, exists, busy=busy):
                named = self._names.explain_refusal(place, error)
                explained = self._folders.explain_removed(place, named)
                if explained is not named:
                    # A retry of `complete` does not pass `begin`, which makes the object's folders.
                    self._folders.make_above(place)
                raise explained from None
        self._names.accept(place)
        notes = unkept_notes(upload.described, lambda _: False, place, HOLDER)
        return PutResult(Version(), part, {}, place=place, notes=notes)

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """As PartsDestination.lost_uploads: empty, since a folder does not name its object, and the
        server deletes it after a day."""
        return ()

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort: deletes the folder with its parts."""
        response = self._client.send("DELETE", _uploads(upload.location, upload.id), ())
        if response.head.status not in DELETED:
            raise self._client.refusal(response, "DELETE", upload.location)
        response.body.close()


def _uploads(location: Location, id: str, name: str = "") -> Location:
    """Return the location of an upload's folder, or of a file in it."""
    found = NEXTCLOUD_FILES.fullmatch(location.path)
    if found is None:
        raise NotFound(f"{location} is not below the files of a user", side="destination")
    return replace(location, target=f"{found['root']}/uploads/{found['user']}/{id}/{name}")
