"""Write S3 objects: fields that go along, features that the endpoint lacks, the final name.

Theory of operation. What an endpoint does not take shows when it refuses it; the object is sent
again without, and that is remembered (`stores/s3_endpoint.py`). A name with an empty segment is
stored only where it is seen to stay what it is.

Decided here: the fields of an upload, and what a refusal of one means. Never here: what carries the
bytes."""

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
"""Fields that S3 keeps besides the user's own."""


class S3Uploads(S3Objects):
    """One bucket that objects go to."""

    def _put_result(
        self, response: Response, method: str, location: Location, md5: bytes | None = None
    ) -> PutResult:
        """Return what was stored, at its own version where the bucket keeps several.

        An ETag that is the `md5` of what went there is the server's word for it; one that is not
        means nothing. That a Content-MD5 was sent means nothing either: who does not know the field
        passes over it."""
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
        """As Destination.delete: by the version's own name where it has one, which leaves all
        others.

        Else looks first, since a server may not know conditional deletes.
        """
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
                raise PreconditionFailed(f"{location} is another version now", side=self._side)
        super().delete(location, Version())

    # -- names with empty segments

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Raises Rejected at a destination that has what is there under another
        name."""
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
        """Say if a destination's name has an empty segment, and this endpoint is not known to keep
        such."""
        if (
            self._side != "destination"
            or "//" not in location.path
            or "//" not in f"/{key_of(location)}"
        ):
            return False
        return not (aws_host(location.host) or self._endpoint(location).has(KEEPS))

    def _lists(self, location: Location) -> bool:
        """Say if what is there is listed by this very name. Raises Rejected where that can't be
        seen.

        Not asked by the name itself: SeaweedFS repeats the prefix that it is asked for. What lies
        behind the last name before the empty segment is where it must be."""
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
            raise _untold(location, "too many names come before it")
        return False

    def _check_name(self, location: Location) -> None:
        """Look before an upload if it would go to another object's name; where nothing is there, it
        harms none.

        Raises Rejected, also where we may not look: another's object may be lost then.
        """
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
        """Store an object, and see that it is there under its own name; while that is not known,
        only where nothing is.

        Raises as `_check_name`, and removes it, where it is not; Unavailable where somebody was
        faster."""
        if not self._odd(location):
            return store(if_absent)
        self._check_name(location)
        try:
            stored = store(True)
        except PreconditionFailed as error:
            if if_absent:
                raise
            raise Unavailable(
                error.message, side=self._side, hint="Somebody else writes the same key."
            ) from None
        try:
            self._is_there(location)
        except StoreError as error:
            self._take_back(location, stored.version, error)
            raise
        return stored

    def _take_back(self, location: Location, version: Version, error: RelayError) -> None:
        """Remove what was stored otherwise than it was sent; where that can't be done, `error` says
        what remains."""
        try:
            self.delete(location, version)
        except RelayError as failure:
            error.leave("A damaged object", location, failure.message)

    # -- what an endpoint was found not to take

    def _conditional(self, location: Location, if_absent: bool) -> bool:
        """Say if an upload is to carry the precondition that nothing is there."""
        return if_absent and not self._endpoint(location).unconditional

    def _wrapped(self, location: Location, body: Body, part: bool = False) -> Wrapping | None:
        """Return the checksum behind the bytes of an object, or of a `part`; where the endpoint
        takes none their MD5 is computed instead."""
        if body.digester is None or TRAILER not in body.digester.names:
            return None
        endpoint = self._endpoint(location)
        if endpoint.unchecked or (part and endpoint.has(NO_PART_TRAILERS)):
            body.add_digest("md5")
            return None
        return trailer(body)

    def _checksum(self, location: Location, data: bytes | memoryview) -> Fields:
        """Return the field that lets S3 compare bytes that are all at hand: a CRC64NVME, or
        Content-MD5."""
        if self._endpoint(location).unchecked:
            return ((CONTENT_MD5, base64.b64encode(digest_of(data, "md5")).decode()),)
        return ((CHECKSUM + TRAILER, base64.b64encode(digest_of(data)).decode()),)

    def _described(self, location: Location, metadata: Fields) -> Fields:
        """Return the object's metadata as S3's fields; without what this bucket, or its endpoint,
        does not take.

        Raises MetadataUnkept where all of it is wanted.
        """
        if STRICT in dict(metadata):
            require(metadata, location, self.unkept_metadata(location, metadata))
        return (*self._held(location, metadata)[0], *self._uploaded(location))

    def _uploaded(self, location: Location) -> Fields:
        """Return what the remote's options want to go along with each object; what the caller says
        himself wins."""
        uploaded = cast(S3Account, location.account).uploaded
        if not (uploaded and location.headers):
            return uploaded
        own = {name.lower() for name, _ in location.headers}
        return tuple(pair for pair in uploaded if pair[0] not in own)

    def _held(self, location: Location, metadata: Fields) -> tuple[Fields, list[str]]:
        """Return the fields that a bucket takes, and the names of those that it does not for their
        length.

        When it was changed is the user's own field, unless there is one of that name, or no room
        for it."""
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
            if small and (size := metadata_bytes((pair,))):
                if size > room:
                    large.append(name)
                    continue
                room -= size
            held.append(pair)
        return tuple(held), large

    def _is_small(self, location: Location) -> bool:
        """Say if no more metadata is taken there than AWS takes."""
        return self._endpoint(location).has(SMALL) or aws_host(location.host) is not None

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: tags where they were refused, and what is more than AWS
        takes."""
        endpoint = self._endpoint(location)
        untagged = (UNTAGGED,) if TAGGING in dict(metadata) and endpoint.tagless else ()
        large: tuple[str, ...] = ()
        if self._is_small(location):
            names = self._held(location, metadata)[1]
            large = note(names, f"the destination, which takes {METADATA_BYTES} bytes of it,")
        return (*untagged, *large, *unkept_notes(metadata, _is_held, location, "the destination"))

    def _left_out(self, location: Location, metadata: Fields, if_absent: bool) -> tuple[str, ...]:
        """Return what of an upload that was taken this endpoint does not take, in words."""
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
        """Return the error, or one to try again after where what was refused may be something that
        can be left out."""
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
        if (
            not refusal.unknown
        ):  # most likely it is what it says, so that this is told where nothing is tried again
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
        """See, once for each endpoint, that the coding around the bytes was not stored with them:
        `coded` bytes then. A digest of the bytes in the answer says so too.

        Raises Unavailable where it was: the object is removed, and is sent again without it. Where
        nobody may look a note says that it may be so."""
        assert stored.readable is not None, "S3 says where it is"
        place = stored.readable
        endpoint = self._endpoint(place)
        if endpoint.has(TRAILERS):
            return stored
        if not stored.digests.keys() & {TRAILER, "md5"}:
            try:
                found = self.head(place)
            except NotFound:
                return stored  # it shows later, and verification waits for that
            except PermissionDenied:
                endpoint.learn(endpoint.unseen)
                return replace(stored, notes=(UNSEEN,))
            except RelayError as error:
                error.leave("What was sent", place, "it was taken, and could not be looked at")
                raise
            if isinstance(found, ObjectInfo) and found.version.size == coded:
                endpoint.learn(NO_TRAILERS)
                if found.version.etag != stored.version.etag:
                    return stored  # it need not be ours; the proof tells
                try:
                    self.delete(place, found.version)
                except RelayError:
                    return stored  # its proof fails, and what is there is known as ours by then
                raise Unavailable(
                    f"{place} does not understand a checksum behind the bytes", side=self._side
                )
        endpoint.learn(TRAILERS)
        return stored


def _is_held(name: str) -> bool:
    """Say if S3 has a field of this name, in lower case, for what describes an object."""
    return name in _HELD or name.startswith(USER)


def _folded(location: Location) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and this store takes '//' for '/'",
        side="destination",
        hint="Two objects would become one there: rename the object, or choose another store.",
    )


def _untold(location: Location, why: str) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and whether this store keeps such a name can't be seen:"
        f" {why}",
        side="destination",
        hint="Permit to list the bucket and to read the object, once; or rename the object.",
    )


def digest_of(body: Body | bytes | memoryview, name: str = TRAILER) -> bytes:
    """Return a digest of what was sent."""
    if isinstance(body, Body):
        return body.digests[name]
    digester = Digester((name,))
    digester.update(body)
    return digester.digests()[name]


def sent_md5(fields: Fields, body: Body | bytes | memoryview = b"") -> bytes | None:
    """Return the MD5 of what was sent, where it was computed on the way or is among the fields."""
    reported = dict(fields).get(CONTENT_MD5)
    if reported is not None:
        return base64.b64decode(reported)
    return body.digests.get("md5") if isinstance(body, Body) else None


_CODED_BYTES: Final = len(base64.b64encode(bytes(ALGORITHMS[TRAILER].width)))


def trailer(body: Body) -> Wrapping:
    """Put a body into one chunk, and its CRC64NVME behind it (the `aws-chunked` coding with a
    trailer)."""
    assert body.length is not None, "only a body of known length is wrapped"
    end = f"{CHECKSUM}{TRAILER}:".encode()
    between = b"\r\n0\r\n" if body.length else b""

    def after() -> bytes:
        return between + end + base64.b64encode(body.digests[TRAILER]) + b"\r\n\r\n"

    return Wrapping(b"%x\r\n" % body.length, after, len(between) + len(end) + _CODED_BYTES + 4)


def coded(location: Location, metadata: Fields, length: int) -> Fields:
    """Add what announces the coding; the payload's own field names it, as MinIO's client does.

    At AWS Content-Encoding does too, as is said there (docs.aws.amazon.com, "Signature
    calculations: transferring a payload in multiple chunks"): AWS takes `aws-chunked` out of it
    again. Others may not: SeaweedFS keeps it."""
    announced: Fields = (
        ("x-amz-decoded-content-length", str(length)),
        ("x-amz-trailer", CHECKSUM + TRAILER),
    )
    if aws_host(location.host) is None:
        return (*metadata, *announced)
    own = [value for name, value in metadata if name.lower() == "content-encoding"]
    others = tuple(pair for pair in metadata if pair[0].lower() != "content-encoding")
    return (*others, ("Content-Encoding", ",".join([FRAMED, *own])), *announced)
