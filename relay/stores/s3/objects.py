"""Read and delete S3 objects, with their metadata, versions and tags.

Decided here: which fields of an answer become the object's version and metadata, and which version
is read or deleted. Never here: listings (`listing.py`), how an answer's text is parsed
(`responses.py`)."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from typing import Final

from relay.errors import NotFound, PermissionDenied, PreconditionFailed, Rejected
from relay.location import Location
from relay.parsing import count
from relay.receipt import Version
from relay.stores.http_fields import (
    ANY_CODING,
    ENCODED,
    is_coded_by_proxy,
    is_decoded,
    is_transcoded,
    printable,
    strong_tag,
)
from relay.stores.http_objects import FRESH, ReadAnswer, metadata_with_time, read_fields
from relay.stores.interfaces import ByteRange, ObjectInfo, OpenedObject
from relay.stores.metadata import MTIME, REDIRECT, TAGGING, UNREAD, USER
from relay.stores.s3.account import at_query, at_version, in_query
from relay.stores.s3.client import WITH_CHECKSUM, S3Client
from relay.stores.s3.quirks import NO_MODE, UNTRUE_WHOLE
from relay.stores.s3.responses import checksums, version_id
from relay.wire.exchange import Response
from relay.wire.http1 import Fields, Head

MTIME_FIELD: Final = f"{USER}mtime"
"""User metadata in which rclone and others keep the original time of modification."""
SYSTEM: Final = ("expires", REDIRECT)
"""System metadata that only S3 keeps (docs.aws.amazon.com, "Working with object metadata")."""
DELETED: Final = frozenset({200, 204, 404})
"""Statuses of a DELETE after which the object does not exist."""
_EPOCH = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?\Z")


class S3Objects:
    """The objects of a bucket: HEAD, GET and DELETE."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._heads = S3Heads(client)

    def head(self, location: Location) -> ObjectInfo:
        """As Source.head. A version whose id is denied is inspected as the current one, if it is
        that: an id needs a permission of its own (docs.aws.amazon.com, "HeadObject")."""
        if "versionId=" not in location.query:
            return self._head(location)
        quirks = self._client.quirks(location)
        if quirks.has(quirks.unversioned) and (found := self._head_current(location)) is not None:
            return found
        try:
            return self._head(location)
        except (PermissionDenied, Rejected):
            found = self._head_current(location)
            if found is None:
                raise
            quirks.learn(quirks.unversioned)
            return found

    def _head_current(self, location: Location) -> ObjectInfo | None:
        """Return the current version if it is the one at `location`, else None. A destination that
        names no version has none, though R2 answers uploads with an id."""
        found = self._head(location.with_target(location.path))
        if found.version.id is None:
            return found if self._client.side == "destination" else None
        same = at_version(location, found.version.id).target == location.target
        return found if same else None

    def _head(self, location: Location) -> ObjectInfo:
        """Send a HEAD; S3 answers it by the same rules as GET. Remembers that HEAD of a
        destination's bucket gives an answer."""
        client = self._client
        response = self._read("HEAD", location, ())
        response.body.close()
        if response.head.status != 200:
            error = client.refusal(response, "HEAD", location)
            if client.side == "destination" and isinstance(error, NotFound):
                quirks = client.quirks(location)
                quirks.learn(quirks.readable)
            raise error
        found = self._answer(response, location).info()
        if client.side != "destination":
            return found
        quirks = client.quirks(location)
        quirks.learn(quirks.readable)
        quirks.forget(quirks.unreadable)
        if quirks.has(UNTRUE_WHOLE):
            return replace(found, version=replace(found.version, digests={}))
        return found

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. A pinned version with an id is read by that id, even if a newer one was
        written meanwhile. An id needs a permission of its own (docs.aws.amazon.com, "GetObject"),
        and a bucket with versions: without these, the entity tag pins the version."""
        if pinned is not None and pinned.id is not None:
            location = at_version(location, pinned.id)
        if pinned is None or pinned.strong_etag is None or "versionId=" not in location.query:
            return self._get(location, pinned, span)
        quirks, current = self._client.quirks(location), location.with_target(location.path)
        if quirks.has(quirks.unversioned):
            return self._get(current, pinned, span)
        try:
            return self._get(location, pinned, span)
        except (PermissionDenied, Rejected):
            opened = self._get(current, pinned, span)
            quirks.learn(quirks.unversioned)
            return opened

    def _get(
        self, location: Location, pinned: Version | None, span: ByteRange | None
    ) -> OpenedObject:
        response = self._read("GET", location, read_fields(pinned, span))
        status = response.head.status
        if span is not None and status in (200, 206, 416):
            return self._answer(response, location).open_range(pinned, span)
        if status != 200:
            raise self._client.refusal(response, "GET", location)
        return self._answer(response, location).open_whole(pinned)

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete: by version id if there is one, which leaves all other versions.

        Otherwise a HEAD compares the ETag before, since a server may not support conditional
        deletes. R2 names versions, and has none (501)."""
        if version.id is not None:
            try:
                return self._delete(at_version(location, version.id))
            except Rejected as error:
                if error.store_status != 501 or version.etag is None:
                    raise
        current = location.with_target(location.path)
        if version.etag is not None:
            try:
                found = self.head(current)
            except NotFound:
                return None
            if found.version.etag != version.etag:
                raise PreconditionFailed(
                    f"{location} is a different version now", side=self._client.side
                )
        return self._delete(current)

    def _delete(self, location: Location) -> None:
        response = self._client.send("DELETE", location, ())
        if response.head.status not in DELETED:
            raise self._client.refusal(response, "DELETE", location)
        response.body.close()

    def _read(self, method: str, location: Location, fields: Fields) -> Response:
        """Send a HEAD or GET; once more for the stored bytes if the server, or a proxy in front of
        it, decompressed them. At a destination no cache may answer it (RFC 9111 section 5.2)."""
        if self._client.side == "destination":
            fields = FRESH + fields
        response = self._read_once(method, location, fields)
        if is_transcoded(response.head):
            response.body.close()
            return self._read_once(method, location, (*fields, ENCODED))
        if not is_decoded(response.head):
            return response
        response.body.close()
        stored = self._read_once(method, location, (*fields, ANY_CODING))
        if not is_coded_by_proxy(stored.head):
            return stored
        stored.body.close()
        return self._read_once(method, location, fields)

    def _read_once(self, method: str, location: Location, fields: Fields) -> Response:
        """Send a HEAD or GET that asks for the object's checksum; a GET without that if the
        endpoint refuses it. (A refused HEAD has no reason, which `refusal` asks for.)"""
        client, quirks = self._client, self._client.quirks(location)
        if quirks.has(NO_MODE):
            return client.send(method, location, fields)
        response = client.send(method, location, WITH_CHECKSUM + fields)
        if method == "HEAD" or response.head.status != 400:
            return response
        response.body.close()
        response = client.send(method, location, fields)
        if response.head.status != 400:
            quirks.learn(NO_MODE)
        return response

    def _answer(self, response: Response, location: Location) -> ReadAnswer:
        return ReadAnswer(response, location, self._heads, self._client.side)


class S3Heads:
    """S3's description of an object, with its tags, which take a request of their own."""

    reports_empty = True

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._tags: Fields | None = None
        """The tags of the one object that a transfer reads."""

    def version(self, head: Head) -> Version:
        """As ObjectHeads.version."""
        return version_of(head)

    def metadata(self, head: Head, location: Location) -> Fields:
        """As ObjectHeads.metadata. A `x-amz-meta-mtime` that is not in rclone's format stays
        ordinary user metadata."""
        fields, reported = metadata_with_time(head), head.by_name.get
        changed = reported(MTIME_FIELD)
        if changed and _EPOCH.match(changed):
            kept = [pair for pair in fields if pair[0].lower() not in (MTIME, MTIME_FIELD)]
            fields = (*kept, (MTIME, changed))
        for name in SYSTEM:
            if name in head.by_name and head.by_name[name]:
                fields += ((name, head.by_name[name]),)
        # S3 names the number of tags only if there are some, so that other objects cost no request.
        if self._client.side == "source" and (reported("x-amz-tagging-count") or "0") != "0":
            if self._tags is None:
                self._tags = self._fetch_tags(location)
            fields += self._tags
        missing = count(reported("x-amz-missing-meta"))  # docs.aws.amazon.com, "GetObject"
        if missing:
            fields += (
                (UNREAD, f"the source does not return {missing} fields of the object's metadata"),
            )
        return fields

    def _fetch_tags(self, location: Location) -> Fields:
        """Return an object's tags, which are not part of GET and HEAD, or a note if they can't be
        read."""
        client = self._client
        try:
            response = client.send("GET", at_query(location, "tagging="), ())
            with closing(client.document_rows(response, "GET", location, "Tagging")) as sets:
                rows = [row for tags in sets for row in tags.iterfind("{*}Tag")]
        except (Rejected, PermissionDenied, NotFound) as error:
            return ((UNREAD, f"the object's tags can't be read at the source: {error.message}"),)
        tags = ((row.findtext("{*}Key") or "", row.findtext("{*}Value") or "") for row in rows)
        return ((TAGGING, "&".join(f"{in_query(key)}={in_query(value)}" for key, value in tags)),)


def version_of(head: Head) -> Version:
    """Return the version of an object in the head of an answer to HEAD, GET or PUT."""
    return Version(
        size=head.length,
        etag=strong_tag(head.by_name.get("etag")),
        last_modified=printable(head.by_name.get("last-modified") or "") or None,
        digests=checksums(head),
        id=version_id(head),
    )
