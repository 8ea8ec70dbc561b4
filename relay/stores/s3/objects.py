"""Read S3 objects with their metadata, versions and tags.

Decided here: which fields of an answer become the object's version and metadata. Never here:
listings (`listing.py`), how an answer's text is parsed (`responses.py`)."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Final
from urllib.parse import quote

from relay.errors import NotFound, PermissionDenied, Rejected
from relay.location import Location
from relay.parsing import count
from relay.receipt import Version
from relay.stores.http_fields import printable, strong_tag
from relay.stores.interfaces import ByteRange, OpenedObject, PutResult
from relay.stores.metadata import MTIME, TAGGING, UNTOLD, USER
from relay.stores.s3.client import at_query
from relay.stores.s3.listing import S3Listing
from relay.stores.s3.responses import checksums, in_query, version_id
from relay.wire.http1 import Fields, Head

MTIME_FIELD: Final = f"{USER}mtime"
"""User metadata in which rclone and others keep the original time of modification."""
SYSTEM: Final = ("expires", "x-amz-website-redirect-location")
"""System metadata that only S3 keeps (docs.aws.amazon.com, "Working with object metadata")."""
_EPOCH = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?\Z")


class S3Objects(S3Listing):
    """One bucket as a source."""

    _tagged: Fields | None = None

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. A pinned version with an id is read by that id, even if a newer one was
        written meanwhile."""
        named = pinned.id if pinned is not None else None
        return super().get(version_at(location, named) if named else location, pinned, span)

    def _version(self, head: Head) -> Version:
        return Version(
            size=head.length,
            etag=strong_tag(head.by_name.get("etag")),
            last_modified=printable(head.by_name.get("last-modified") or "") or None,
            digests=checksums(head),
            id=version_id(head),
        )

    def _metadata(self, head: Head, location: Location) -> tuple[tuple[str, str], ...]:
        """As HttpStore's. A `x-amz-meta-mtime` that is not in rclone's format stays ordinary user
        metadata."""
        fields, reported = super()._metadata(head, location), head.by_name.get
        changed = reported(MTIME_FIELD)
        if changed and _EPOCH.match(changed):
            kept = [pair for pair in fields if pair[0].lower() not in (MTIME, MTIME_FIELD)]
            fields = (*kept, (MTIME, changed))
        for name in SYSTEM:
            value = reported(name)
            if value:
                fields += ((name, value),)
        if self._side == "source" and (reported("x-amz-tagging-count") or "0") != "0":
            fields += self._tags(location)
        missing = count(reported("x-amz-missing-meta"))  # docs.aws.amazon.com, "GetObject"
        if missing:
            fields += (
                (UNTOLD, f"the source does not return {missing} fields of the object's metadata"),
            )
        return fields

    def _tags(self, location: Location) -> Fields:
        """Return an object's tags, which are not part of GET and HEAD, or a note if they can't be
        read. Cached."""
        if self._tagged is None:
            self._tagged = self._fetch_tags(location)
        return self._tagged

    def _fetch_tags(self, location: Location) -> Fields:
        try:
            response = self._send("GET", at_query(location, "tagging="), ())
            with closing(self._document_rows(response, "GET", location, "Tagging")) as sets:
                rows = [row for tags in sets for row in tags.iterfind("{*}Tag")]
        except (Rejected, PermissionDenied, NotFound) as error:
            return ((UNTOLD, f"the object's tags can't be read at the source: {error.message}"),)
        tags = ((row.findtext("{*}Key") or "", row.findtext("{*}Value") or "") for row in rows)
        return ((TAGGING, "&".join(f"{in_query(key)}={in_query(value)}" for key, value in tags)),)


def version_at(location: Location, id: str) -> Location:
    """Return the location of one version of an object."""
    return at_query(location, f"versionId={quote(id, safe='-_.~')}")


def pinned_to_version(location: Location, version: Version) -> PutResult:
    """Return a result whose object is read by its version id, if it has one."""
    return PutResult(
        version, version_at(location, version.id) if version.id else location, version.digests
    )
