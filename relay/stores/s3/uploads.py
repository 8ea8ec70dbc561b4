"""Write S3 objects: fields that go along, features that the endpoint lacks, the final name.

Theory of operation. If an endpoint refuses an optional field, the object is sent again without it,
and that is remembered (`quirks.py`). A key with an empty segment is stored only if the endpoint
keeps it as a key of its own.

Decided here: the fields of an upload, and what a refusal of one means. Never here: which request
carries the bytes (`store.py`)."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from relay.digest import ALGORITHMS, Digester
from relay.errors import (
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
from relay.stores.http import drain_answer
from relay.stores.interfaces import ObjectInfo, PutResult, UnknownObject
from relay.stores.metadata import (
    CARRIED,
    FRAMED,
    MTIME,
    STRICT,
    TAGGING,
    USER,
    encode_value,
    note,
    require,
    unkept_notes,
)
from relay.stores.s3.client import S3Account, aws_host, key_of
from relay.stores.s3.objects import MTIME_FIELD, SYSTEM, S3Objects, pinned_to_version, version_at
from relay.stores.s3.quirks import (
    ENCODES,
    FOLDS,
    KEEPS,
    MD5_TAGS,
    METADATA_BYTES,
    NO_PART_TRAILERS,
    NO_TRAILERS,
    SMALL,
    TRAILERS,
    UNCONDITIONAL,
    UNSEEN,
    UNTAGGED,
    UNTRUE_WHOLE,
    Refusal,
    metadata_bytes,
)
from relay.stores.s3.responses import CHECKSUM, TRAILER, error_field, error_region, error_told
from relay.wire.body import Body
from relay.wire.exchange import Response, Wrapping
from relay.wire.http1 import Fields

log = logging.getLogger("relay.stores")
CONTENT_MD5: Final = "Content-MD5"
_HELD: Final = frozenset({*CARRIED, *SYSTEM, TAGGING})
"""Fields that S3 keeps besides user metadata."""


class S3Uploads(S3Objects):
    """One bucket as a destination."""

    def _put_result(
        self, response: Response, method: str, location: Location, md5: bytes | None = None
    ) -> PutResult:
        """Return the result of an upload, pinned to its version in a versioned bucket.

        An ETag that equals the `md5` of the sent bytes counts as the server's digest; another ETag
        proves nothing. A Content-MD5 that was sent proves nothing either: a server may ignore the
        field."""
        drain_answer(response, self._wire)
        version = self._version(response.head)
        self._endpoint(location).note_accepted(reported=TRAILER in version.digests)
        digests = version.digests
        if not digests and md5 is not None and (version.etag or "").strip('"').lower() == md5.hex():
            digests = {"md5": md5}
            self._endpoint(location).learn(MD5_TAGS)
        return pinned_to_version(
            location, Version(etag=version.etag, digests=digests, id=version.id)
        )

    def _is_there(self, location: Location) -> bool:
        try:
            found = self.head(location)
        except NotFound:
            return False
        if isinstance(found, UnknownObject):
            raise found.why
        return True

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete: by version id if there is one, which leaves all other versions.

        Otherwise a HEAD compares the ETag before, since a server may not support conditional
        deletes."""
        if version.id is not None:
            return super().delete(version_at(location, version.id), Version())
        if version.etag is not None:
            try:
                found = super().head(location)
            except NotFound:
                return
            if isinstance(found, UnknownObject):
                raise found.why
            if found.version.etag != version.etag:
                raise PreconditionFailed(f"{location} is a different version now", side=self._side)
        super().delete(location, Version())

    # -- names with empty segments

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Raises Rejected at a destination that stores the object under a different
        key."""
        found = super().head(location)
        if isinstance(found, ObjectInfo) and self._odd(location):
            endpoint = self._endpoint(location)
            if not endpoint.has(FOLDS):
                endpoint.learn(KEEPS if self._lists(location) else FOLDS)
            if endpoint.has(FOLDS):
                raise _folded(location)
        if (
            isinstance(found, ObjectInfo)
            and self._side == "destination"
            and self._endpoint(location).has(UNTRUE_WHOLE)
        ):
            return replace(found, version=replace(found.version, digests={}))
        return found

    def _odd(self, location: Location) -> bool:
        """Say if a destination's key has an empty segment, and the endpoint is not known to keep
        such keys."""
        if (
            self._side != "destination"
            or "//" not in location.path
            or "//" not in f"/{key_of(location)}"
        ):
            return False
        return not (aws_host(location.host) or self._endpoint(location).has(KEEPS))

    def _lists(self, location: Location) -> bool:
        """Say if a listing has the object under its exact key. Raises Rejected if that is unknown.

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
            page = self._page_of(location, asked, "")
        except PermissionDenied as error:
            raise _untold(location, error.message) from None
        names = [entry.name for entry in page.entries]
        if any(name.startswith(f"{before}/") for name in names):
            return True
        if page.truncated and names[-1:] < [f"{before}/"]:
            raise _untold(location, "its place is beyond the first page of the listing")
        return False

    def _check_name(self, location: Location) -> None:
        """Check before an upload that it would not overwrite the object of a different key.

        Raises Rejected, also if the check is denied: an object could be lost then."""
        if not self._odd(location):
            return
        if self._endpoint(location).has(FOLDS):
            raise _folded(location)
        try:
            self._is_there(location)
        except PermissionDenied as error:
            raise _untold(location, error.message) from None

    def _named(
        self, location: Location, if_absent: bool, store: Callable[[bool], PutResult]
    ) -> PutResult:
        """Store an object, and check that it has its exact key. As long as the endpoint is not
        known to keep such keys, the upload is conditional (`if_absent`).

        If the key was changed, deletes the object and raises as `_check_name`. Raises Unavailable
        if another client created the object meanwhile."""
        if not self._odd(location):
            return store(if_absent)
        self._check_name(location)
        try:
            stored = store(True)
        except PreconditionFailed as error:
            if if_absent:
                raise
            raise Unavailable(
                error.message, side=self._side, hint="Another client writes the same key."
            ) from None
        try:
            self._is_there(location)
        except StoreError as error:
            self._take_back(location, stored.version, error)
            raise
        return stored

    def _take_back(self, location: Location, version: Version, error: RelayError) -> None:
        """Delete an object that was stored incorrectly; if that fails, `error` names it."""
        try:
            self.delete(location, version)
        except RelayError as failure:
            error.leave("A damaged object", location, failure.message)

    # -- fields that an endpoint does not support

    def _conditional(self, location: Location, if_absent: bool) -> bool:
        """Say if an upload carries `If-None-Match: *`."""
        return if_absent and not self._endpoint(location).unconditional

    def _wrapped(self, location: Location, body: Body, part: bool = False) -> Wrapping | None:
        """Return the trailing checksum of an object, or of a `part`. If the endpoint does not
        accept one, the MD5 is computed instead, and None returned."""
        if body.digester is None or TRAILER not in body.digester.names:
            return None
        endpoint = self._endpoint(location)
        if endpoint.unchecked or (part and endpoint.has(NO_PART_TRAILERS)):
            body.add_digest("md5")
            return None
        return trailer(body)

    def _checksum(self, location: Location, data: bytes | memoryview) -> Fields:
        """Return the checksum field of bytes that are in memory: a CRC64NVME, or Content-MD5 if the
        endpoint does not accept that."""
        if self._endpoint(location).unchecked:
            return ((CONTENT_MD5, base64.b64encode(digest_of(data, "md5")).decode()),)
        return ((CHECKSUM + TRAILER, base64.b64encode(digest_of(data)).decode()),)

    def _described(self, location: Location, metadata: Fields) -> Fields:
        """Return the fields of the object's metadata, without those that the bucket or endpoint
        does not accept.

        Raises MetadataUnkept if all metadata is required and some is not accepted."""
        if STRICT in dict(metadata):
            require(metadata, location, self.unkept_metadata(location, metadata))
        return (*self._held(location, metadata)[0], *self._uploaded(location))

    def _uploaded(self, location: Location) -> Fields:
        """Return the fields of the remote's options for every upload; headers of the caller take
        precedence."""
        uploaded = cast(S3Account, location.account).uploaded
        if not (uploaded and location.headers):
            return uploaded
        own = {name.lower() for name, _ in location.headers}
        return tuple(pair for pair in uploaded if pair[0] not in own)

    def _held(self, location: Location, metadata: Fields) -> tuple[Fields, list[str]]:
        """Return the fields that the bucket accepts, and the names of those that are too large.

        The time of modification becomes user metadata, unless a field of that name exists, or
        there is no room for it."""
        endpoint, own = self._endpoint(location), {name.lower() for name, _ in location.headers}
        encodes, small = endpoint.has(ENCODES), self._is_small(location)
        room = METADATA_BYTES - metadata_bytes(location.headers) if small else 1 << 62
        held: list[tuple[str, str]] = []
        large: list[str] = []
        named = {name.lower(): (name, value) for name, value in metadata}
        if MTIME in named and MTIME_FIELD not in named:
            named[MTIME_FIELD] = (MTIME_FIELD, named[MTIME][1])
        if TAGGING in named and endpoint.tagless:
            del named[TAGGING]
        for key, (name, value) in named.items():
            if key in own or not _is_held(key):
                continue
            pair = (name, encode_value(value) if encodes else value)
            size = metadata_bytes((pair,))
            if small and size > room and size:
                large.append(name)
                continue
            room -= size
            held.append(pair)
        return tuple(held), large

    def _is_small(self, location: Location) -> bool:
        """Say if AWS's limit of the metadata's size holds there."""
        return self._endpoint(location).has(SMALL) or aws_host(location.host) is not None

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: tags after a refusal, and metadata beyond AWS's limit."""
        endpoint = self._endpoint(location)
        untagged = (UNTAGGED,) if TAGGING in dict(metadata) and endpoint.tagless else ()
        large: tuple[str, ...] = ()
        if self._is_small(location):
            names = self._held(location, metadata)[1]
            large = note(names, f"the destination, which allows {METADATA_BYTES} bytes of it,")
        return (*untagged, *large, *unkept_notes(metadata, _is_held, location, "the destination"))

    def _left_out(self, location: Location, metadata: Fields, if_absent: bool) -> tuple[str, ...]:
        """Return notes on what was left out of an accepted upload."""
        notes, endpoint = self.unkept_metadata(location, metadata), self._endpoint(location)
        if not (if_absent and endpoint.unconditional):
            return notes
        endpoint.note_precondition_ignored()
        return (*notes, UNCONDITIONAL)

    def _upload_refusal(
        self,
        response: Response,
        method: str,
        location: Location,
        fields: Fields,
        wrapping: Wrapping | None = None,
        metadata: Fields = (),
    ) -> RelayError:
        """Return the error of a refused upload; it is retryable if an optional field may be the
        cause, which is then left out."""
        text, status = self._text(response, method), response.head.status
        code = error_told(text)[0]
        if self._is_elsewhere(location, code, error_region(response.head, text)):
            return self._error_of_code(response, method, location, text)
        refusal = Refusal(
            status, code, error_field(text), fields, wrapping is not None, STRICT in dict(metadata)
        )
        what = self._endpoint(location).leave_out(refusal)
        if what is None:
            return self._error_of_code(response, method, location, text)
        if not refusal.unknown:
            # Most likely the refusal means what it says, so the user sees it if the retries end.
            denial = self._error_of_code(response, method, location, text)
            denial.retryable, denial.message = True, f"{denial.message}, with {what}"
            return denial
        response.body.close()
        return Unavailable(
            f"{method} {location} was answered {status} {code}; it is sent again without {what}",
            side=self._side,
            store_status=status,
        )

    def _understood(self, stored: PutResult, coded: int) -> PutResult:
        """Check, once for each endpoint, that the `aws-chunked` coding was not stored with the
        bytes (the object would have `coded` bytes). A digest of the bytes in the answer proves that
        too.

        Raises Unavailable if it was stored: the object is deleted, and sent again without the
        coding. If HEAD is denied, a note says that it may have been stored."""
        assert stored.readable is not None, "an S3 upload has a location"
        place = stored.readable
        endpoint = self._endpoint(place)
        if endpoint.has(TRAILERS):
            return stored
        if not stored.digests.keys() & {TRAILER, "md5"}:
            try:
                found = self.head(place)
            except NotFound:
                return stored  # not visible yet; verification waits for it
            except PermissionDenied:
                endpoint.learn(endpoint.unseen)
                return replace(stored, notes=(UNSEEN,))
            except RelayError as error:
                error.leave("What was sent", place, "it was stored, but could not be inspected")
                raise
            if isinstance(found, ObjectInfo) and found.version.size == coded:
                endpoint.learn(NO_TRAILERS)
                if found.version.etag != stored.version.etag:
                    return stored  # it may be another client's object; verification decides
                try:
                    self.delete(place, found.version)
                except RelayError:
                    return stored  # verification fails, and cleanup knows the object as ours
                raise Unavailable(
                    f"the endpoint of {place} does not support trailing checksums", side=self._side
                )
        endpoint.learn(TRAILERS)
        return stored


def _is_held(name: str) -> bool:
    """Say if S3 keeps the field of this lower-case name with an object."""
    return name in _HELD or name.startswith(USER)


def _folded(location: Location) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and this store treats '//' as '/'",
        side="destination",
        hint="Two objects would have the same name: rename the object, or choose another store.",
    )


def _untold(location: Location, why: str) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and it is unknown if this store keeps such names: {why}",
        side="destination",
        hint="Permit listing the bucket and reading the object, once; or rename the object.",
    )


def digest_of(body: Body | bytes | memoryview, name: str = TRAILER) -> bytes:
    """Return a digest of the sent bytes."""
    if isinstance(body, Body):
        return body.digests[name]
    digester = Digester((name,))
    digester.update(body)
    return digester.digests()[name]


def sent_md5(fields: Fields, body: Body | bytes | memoryview = b"") -> bytes | None:
    """Return the MD5 of the sent bytes, if it was computed on the way or is among the fields."""
    reported = dict(fields).get(CONTENT_MD5)
    if reported is not None:
        return base64.b64decode(reported)
    return body.digests.get("md5") if isinstance(body, Body) else None


_CODED_BYTES: Final = len(base64.b64encode(bytes(ALGORITHMS[TRAILER].width)))


def trailer(body: Body) -> Wrapping:
    """Return the `aws-chunked` coding of a body: one chunk, and a trailer with its CRC64NVME."""
    assert body.length is not None, "only a body of known length is wrapped"
    end = f"{CHECKSUM}{TRAILER}:".encode()
    between = b"\r\n0\r\n" if body.length else b""

    def after() -> bytes:
        return between + end + base64.b64encode(body.digests[TRAILER]) + b"\r\n\r\n"

    return Wrapping(b"%x\r\n" % body.length, after, len(between) + len(end) + _CODED_BYTES + 4)


def coded(location: Location, metadata: Fields, length: int) -> Fields:
    """Add the fields that announce the coding. As in MinIO's client, `x-amz-content-sha256` names
    it.

    At AWS Content-Encoding names it too, as AWS documents (docs.aws.amazon.com, "Signature
    calculations: transferring a payload in multiple chunks"), and removes `aws-chunked` when it
    stores the object. Other servers may not: SeaweedFS keeps it."""
    announced: Fields = (
        ("x-amz-decoded-content-length", str(length)),
        ("x-amz-trailer", CHECKSUM + TRAILER),
    )
    if aws_host(location.host) is None:
        return (*metadata, *announced)
    own = [value for name, value in metadata if name.lower() == "content-encoding"]
    others = tuple(pair for pair in metadata if pair[0].lower() != "content-encoding")
    return (*others, ("Content-Encoding", ",".join([FRAMED, *own])), *announced)
