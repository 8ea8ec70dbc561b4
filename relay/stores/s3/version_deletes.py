"""Delete S3 objects, but only the version that the caller names.

Theory of operation. AWS compares the ETag in `If-Match` of a DELETE with the current version
(docs.aws.amazon.com, "Conditional deletes"); other endpoints may ignore the field, so a HEAD
compares the version just before. In a bucket that keeps versions the DELETE makes a marker, whose
id undoes it. By its id a version is deleted for good, and no other one with it.

Decided here: which version is deleted, and which answers mean that it was. Never here: the deletion
of relay's own leftovers (`objects.py`)."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from relay.errors import PreconditionFailed, Rejected, RelayError
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_fields import strong_tag
from relay.stores.http_objects import FRESH
from relay.stores.interfaces import Deletion, temporary_name
from relay.stores.s3.account import at_version, aws_host, key_of
from relay.stores.s3.client import S3Client
from relay.stores.s3.objects import version_of
from relay.stores.version_checks import require_pinnable, require_version
from relay.wire.exchange import Response
from relay.wire.http1 import Fields

DONE: Final = frozenset({200, 204})
"""Statuses of a DELETE that was done. S3 answers 204 for a missing object too."""
UNUSED: Final = '"0123456789abcdef0123456789abcdef"'
"""The ETag of no object: with it no endpoint that compares ETags deletes anything."""
NO_ID: Final = "null"
"""The id of objects that were stored while the bucket kept no versions."""
_UNSAFE_SEGMENTS: Final = frozenset({"", ".", ".."})
"""Segments of a key that an endpoint over a file system may leave out (`exact_keys.py`)."""


class VersionDeletes:
    """Deletions of known versions in one bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def is_conditional(self, location: Location) -> bool:
        """As DeletingSource.deletes_conditionally: known of AWS only."""
        return aws_host(location.host) is not None

    def require(self, folder: Location) -> None:
        """As DeletingSource.require_deletes: deletes a name that never existed. A bucket that keeps
        versions may make a marker of it, which is removed."""
        unused = folder.below(temporary_name(None))
        response = self._client.send("DELETE", unused, (("If-Match", UNUSED),))
        if response.head.status == 501:  # R2 and others lack the precondition
            response.body.close()
            response = self._client.send("DELETE", unused, ())
        if response.head.status not in DONE | {404, 412}:
            raise self._client.refusal(response, "DELETE", unused)
        response.body.close()
        marker = _marker(response)
        if marker is not None:
            with suppress(RelayError):  # it hides nothing
                self._client.send("DELETE", at_version(unused, marker), ()).body.close()

    def delete(self, location: Location, version: Version, purge: bool) -> Deletion:
        """As DeletingSource.delete_version."""
        side = self._client.side
        tag = require_pinnable(location, version, side)
        current, conditional = location.with_target(location.path), self.is_conditional(location)
        if not conditional and not _UNSAFE_SEGMENTS.isdisjoint(key_of(current).split("/")):
            raise Rejected(
                f"{location} has an empty segment, '.' or '..', for which the store may delete"
                " another object",
                side=side,
            )
        self._require_current(current, version)
        if purge and version.id is not None:
            self._send(at_version(current, version.id), ())
            return Deletion()
        marker = _marker(self._send_conditionally(current, tag, conditional))
        if purge and marker not in (None, NO_ID):
            # The object is older than the bucket's versions: it has this id, and no later one has.
            with suppress(RelayError):  # the marker hides it
                self._send(at_version(current, NO_ID), ())
        return Deletion(marker=marker, window=not conditional)

    def remove_marker(self, location: Location, marker: str) -> Version:
        """As VersionedStore.remove_marker. AWS names the marker in its answer to HEAD
        (docs.aws.amazon.com, "HeadObject")."""
        current = location.with_target(location.path)
        response = self._client.send("HEAD", current, FRESH)
        response.body.close()
        if response.head.status != 404 or _marker(response) != marker:
            raise PreconditionFailed(
                f"the newest version of {location} is not the marker that relay made",
                side=self._client.side,
            )
        self._send(at_version(current, marker), ())
        response = self._client.send("HEAD", current, FRESH)
        response.body.close()
        if response.head.status != 200:
            raise self._client.refusal(response, "HEAD", location)
        return version_of(response.head)

    def _require_current(self, location: Location, version: Version) -> None:
        """Raise NotFound or PreconditionFailed unless the current version is this one, past all
        caches."""
        response = self._client.send("HEAD", location, FRESH)
        response.body.close()
        if response.head.status != 200:
            raise self._client.refusal(response, "HEAD", location)
        require_version(location, version, version_of(response.head), self._client.side)

    def _send_conditionally(self, location: Location, tag: str, conditional: bool) -> Response:
        try:
            return self._send(location, (("If-Match", tag),))
        except Rejected as error:
            # R2 and others answer 501 for a field that they lack. HEAD has just compared it.
            if conditional or error.store_status != 501:
                raise
        return self._send(location, ())

    def _send(self, location: Location, fields: Fields) -> Response:
        """Send a DELETE. Raises NotFound, PreconditionFailed and StoreError."""
        response = self._client.send("DELETE", location, fields)
        if response.head.status not in DONE:
            raise self._client.refusal(response, "DELETE", location)
        response.body.close()
        return response


def _marker(response: Response) -> str | None:
    """Return the id of the delete marker that an answer to DELETE names, or None. A bucket whose
    versions are suspended has markers with the id `null`."""
    if (response.head.by_name.get("x-amz-delete-marker") or "").lower() != "true":
        return None
    return strong_tag(response.head.by_name.get("x-amz-version-id"))
