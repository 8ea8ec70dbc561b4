"""Store objects under their exact keys, also where an endpoint changes keys.

Theory of operation. Some endpoints keep objects in a file system, where `a//b` is `a/b`: an upload
could overwrite the object of a different key. So a key with an empty segment is stored only if the
endpoint keeps it as a key of its own, which the listing shows.

Decided here: which keys are doubtful, and what shows that an endpoint keeps them. Never here: how
an object is uploaded (`single_uploads.py`, `upload_completion.py`, `copies.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from relay.errors import (
    Leftover,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    RelayError,
    StoreError,
    Unavailable,
)
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, PutResult
from relay.stores.s3.account import account_of, aws_host, key_of
from relay.stores.s3.client import S3Client
from relay.stores.s3.listing import S3Listing
from relay.stores.s3.objects import S3Objects
from relay.stores.s3.quirks import FOLDS, KEEPS, EndpointQuirks

_EMPTY_SEGMENTS: Final = re.compile("//+")


class ExactKeys:
    """HEAD and uploads of a bucket, checked for keys that the endpoint changes."""

    def __init__(self, client: S3Client, objects: S3Objects, listing: S3Listing) -> None:
        self._client, self._objects, self._listing = client, objects, listing

    def head(self, location: Location) -> ObjectInfo:
        """As Source.head. Raises Rejected at a destination that stores the object under a different
        key."""
        found = self._objects.head(location)
        if self._is_doubtful(location):
            quirks = self._client.quirks(location)
            folds = _fact(FOLDS, quirks)
            if not quirks.has(folds):
                # HEAD finds the object of the folded key as well; the listing tells the two apart.
                if self._is_listed(location):
                    quirks.learn(_fact(KEEPS, quirks))
                elif self._is_folded(location, found):
                    quirks.learn(folds)
            if quirks.has(folds):
                raise _folded_error(location)
        return found

    def exists(self, location: Location) -> bool:
        """Return whether the object exists. Raises as `head`."""
        try:
            self.head(location)
        except NotFound:
            return False
        return True

    def check(self, location: Location) -> None:
        """Check before an upload that it would not overwrite the object of a different key.

        Raises Rejected, also if the check is denied: an object could be lost then."""
        if not self._is_doubtful(location):
            return
        quirks = self._client.quirks(location)
        if quirks.has(_fact(FOLDS, quirks)):
            raise _folded_error(location)
        try:
            self.exists(location)
        except PermissionDenied as error:
            raise _unknown(location, error.message) from None

    def store(
        self, location: Location, if_absent: bool, upload: Callable[[bool], PutResult]
    ) -> PutResult:
        """Store an object by `upload`, and check that it has its exact key. As long as the endpoint
        is not known to keep such keys, the upload is conditional: `upload` gets True.

        If the key was changed, deletes the object and raises as `check`. Raises Unavailable if
        another client created the object meanwhile."""
        if not self._is_doubtful(location):
            return upload(if_absent)
        self.check(location)
        try:
            stored = upload(True)
        except PreconditionFailed as error:
            if if_absent:
                raise
            raise Unavailable(
                error.message,
                side=self._client.side,
                hint="Another client writes the same key.",
            ) from None
        try:
            self.exists(location)
        except StoreError as error:
            self._delete_damaged(location, stored.version, error)
            raise
        return stored

    def _delete_damaged(self, location: Location, version: Version, error: RelayError) -> None:
        """Delete an object that was stored incorrectly, so that the upload is `undone`; if that
        fails, `error` names it."""
        try:
            self._objects.delete(location, version)
            error.undone = True
        except RelayError as failure:
            error.leave(Leftover.DAMAGED, location, failure.message)

    def _is_doubtful(self, location: Location) -> bool:
        """Return whether a destination's key has an empty segment, and the endpoint is not known to
        keep such keys."""
        if self._client.side != "destination" or "//" not in location.path:
            return False
        # The path also has the endpoint's own folders; only the key counts.
        if "//" not in f"/{key_of(location)}" or aws_host(location.host) is not None:
            return False
        quirks = self._client.quirks(location)
        return not quirks.has(_fact(KEEPS, quirks))

    def _is_listed(self, location: Location) -> bool:
        """Return whether a listing has the object under its exact key. Raises Rejected if that is
        unknown.

        The key itself can't be the prefix: SeaweedFS repeats the prefix of the request in its
        answer. So the listing starts at the segment before the empty one, where the key must
        appear."""
        key = f"/{key_of(location)}"
        before = key[1 : key.index("//") + 1]
        asked = {
            "encoding-type": "url",
            "list-type": "2",
            "prefix": before,
            "start-after": f"{before}.",
        }
        try:
            # '.' is the character before '/': the page begins close to the key's place.
            page = self._listing.page(location, asked, "")
        except PermissionDenied as error:
            raise _unknown(location, error.message) from None
        names = [entry.name for entry in page.entries]
        if any(name.startswith(f"{before}/") for name in names):
            return True
        # The page ended before the place where the key would be.
        if page.truncated and names[-1:] < [f"{before}/"]:
            raise _unknown(location, "its place is beyond the first page of the listing")
        return False

    def _is_folded(self, location: Location, found: ObjectInfo) -> bool:
        """Return whether an object that no listing shows is that of the folded key. Some endpoints
        list objects later (OpenStack Swift). Raises Rejected if that is unknown."""
        try:
            other = self._objects.head(_without_empty_segments(location))
        except NotFound:
            return False
        there, here = other.version, found.version
        if (there.etag, there.size) == (here.etag, here.size):
            return True
        raise _unknown(location, "no listing shows it, and HEAD shows another object without it")


def _without_empty_segments(location: Location) -> Location:
    """Return the place of the folded key."""
    prefix = account_of(location).prefix
    key = _EMPTY_SEGMENTS.sub("/", location.path.removeprefix(prefix))
    return location.with_target(prefix + key)


def _fact(what: str, quirks: EndpointQuirks) -> str:
    """Return the fact of one bucket: an endpoint may keep each of them elsewhere (`rclone serve s3`
    over several remotes), and a wrong fact does harm."""
    return f"{what} {quirks.bucket}"


def _folded_error(location: Location) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and this store treats '//' as '/'",
        side="destination",
        hint="Two objects would have the same name: rename the object, or choose another store.",
    )


def _unknown(location: Location, why: str) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and it is unknown if this store keeps such names: {why}",
        side="destination",
        hint="Permit listing the bucket and reading the object, once; or rename the object.",
    )
