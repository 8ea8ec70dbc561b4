"""S3 and its dialects: one request for each object, proved by CRC64NVME where the server has it.

Theory of operation. An upload whose bytes pass through the process has the `aws-chunked` coding:
one chunk, then a trailer with the CRC64NVME that was computed on the way. The server compares it
before it stores anything, so a body that was damaged on the way never becomes an object, and
reports it in answers to HEAD. A spliced upload (`verify: size`) is sent without the coding.

An ETag is not a digest: for encrypted objects and for multipart uploads it is a digest of nothing.
Only an ETag that equals the MD5 of the sent bytes proves something; it is used if a server reports
no other checksum.

Decided here: uploads in one request and in parts, and copies. Never here: the metadata and fields
of an upload (`uploads.py`), how objects and listings are read (`objects.py`, `listing.py`), how a
request is signed and its refusal classified (`client.py`), what answers say (`responses.py`), where
credentials come from (`aws_settings.py`)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import md5
from time import time
from typing import cast
from urllib.parse import quote
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from relay.digest import Digests
from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
    StoreTimeout,
    Unavailable,
    UploadGone,
)
from relay.location import Location
from relay.parsing import count, http_date
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.http_fields import strong_tag, upload_fields
from relay.stores.interfaces import (
    Begins,
    ByteRange,
    ObjectInfo,
    Part,
    PartLimits,
    PutResult,
    UnknownObject,
    Upload,
)
from relay.stores.metadata import CARRIED, TAGGING, USER, require
from relay.stores.s3.client import S3Account, at_query, aws_host, key_of
from relay.stores.s3.objects import SYSTEM, pinned_to_version
from relay.stores.s3.quirks import (
    CONDITION,
    KNOWN,
    NO_PART_TRAILERS,
    NO_WHOLE,
    PART_TRAILERS,
    UNTRUE_WHOLE,
    WRONG_WHOLE,
)
from relay.stores.s3.responses import (
    CHECKSUM,
    TRAILER,
    is_truncated,
    told_checksums,
    unfinished_upload,
    version_id,
)
from relay.stores.s3.sigv4 import canonical_path
from relay.stores.s3.uploads import S3Uploads, coded, digest_of, sent_md5
from relay.stores.xml_documents import plain_name
from relay.wire.body import Body
from relay.wire.exchange import Response, Wrapping
from relay.wire.http1 import Fields
from relay.wire.pump import fill
from relay.wire.watchdog import Watchdog

SINGLE_BYTES = 5 << 30
"""Maximum size of one PUT, in bytes (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MIB = 1 << 20
PARTS = PartLimits(
    smallest=5 * MIB, largest=SINGLE_BYTES, most=10_000, object_bytes=10_000 * SINGLE_BYTES
)
WHOLE: Fields = (("x-amz-checksum-algorithm", "CRC64NVME"), ("x-amz-checksum-type", "FULL_OBJECT"))
"""Ask the server to keep a CRC64NVME of the whole object instead of one of the parts' checksums."""


class S3Store(S3Uploads):
    """One bucket, for one transfer."""

    @property
    def lists_all(self) -> bool:
        """As Destination.lists_all (docs.aws.amazon.com, "Amazon S3 data consistency model")."""
        return True

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: known of AWS only. Other servers may ignore a field
        that they don't know."""
        return aws_host(location.host) is not None and not self._endpoint(location).unconditional

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: only with a trailing checksum. SeaweedFS makes an
        empty object of an upload without one that breaks before its first byte."""
        return digested

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
        """As PartsDestination.put. A body of unknown length, or of more than 5 GiB, becomes a
        multipart upload. Each part is held in memory: S3 requires its length, and it may have to
        be sent again. Raises Rejected for more parts than S3 allows."""

        def store(absent: bool) -> PutResult:
            if body.length is None or body.length > SINGLE_BYTES:
                return self._put_growing(
                    location, body, metadata, absent, begins or self._begin_unrecorded
                )
            return self._put(location, body, metadata, absent)

        return self._named(location, if_absent, store)

    def _put(self, location: Location, body: Body, metadata: Fields, if_absent: bool) -> PutResult:
        assert body.length is not None, "_put_growing stores a body of unknown length"
        wrapping = self._wrapped(location, body)
        if wrapping and self._endpoint(location).summed:
            body.add_digest("md5")
        described = self._described(location, metadata)
        announced = coded(location, described, body.length) if wrapping else described
        fields = upload_fields(location, announced, self._conditional(location, if_absent))
        response = self._send("PUT", location, fields, body, self._expects(body), wrapping)
        if response.head.status not in self.believed["PUT"]:
            raise self._upload_refusal(response, "PUT", location, fields, wrapping, metadata)
        stored = self._put_result(response, "PUT", location, body.digests.get("md5"))
        if wrapping:
            stored = self._understood(
                stored, body.count + len(wrapping.before) + wrapping.after_bytes
            )
        notes = self._left_out(location, metadata, if_absent)
        return replace(stored, notes=(*stored.notes, *notes)) if notes else stored

    def _put_growing(
        self, location: Location, body: Body, metadata: Fields, if_absent: bool, begins: Begins
    ) -> PutResult:
        """Store a body of unknown length in parts as it arrives; the object is not visible before
        the body's end was proved. A body smaller than one part becomes a single PUT."""
        step = self._wire.limits.part_bytes
        if body.length is not None and body.length > step * PARTS.most:
            raise _too_many(f"{body.length} bytes", step)
        piece = memoryview(bytearray(step))
        count = fill(body, piece)
        if count < len(piece):
            data = piece[:count]
            described = (*self._described(location, metadata), *self._checksum(location, data))
            fields = upload_fields(location, described, self._conditional(location, if_absent))
            response = self._send("PUT", location, fields, data)
            if response.head.status not in self.believed["PUT"]:
                raise self._upload_refusal(response, "PUT", location, fields, metadata=metadata)
            stored = self._put_result(response, "PUT", location, sent_md5(described))
            return replace(stored, notes=self._left_out(location, metadata, if_absent))
        with begins(location, metadata) as upload:
            parts: list[Part] = []
            while count:
                parts.append(self._put_bytes(upload, len(parts) + 1, piece[:count]))
                reach("after-part")
                count = fill(body, piece)
            reach("before-complete")
            stored = self.complete(upload, tuple(parts), body.digests, if_absent=if_absent)
        reach("after-complete")
        return stored

    @contextmanager
    def _begin_unrecorded(self, location: Location, metadata: Fields) -> Iterator[Upload]:
        """Create a multipart upload that is not recorded in the ledger; abort it on failure."""
        upload = self.begin(location, metadata)
        try:
            yield upload
        except BaseException as error:
            self._abort_after_failure(upload, error)
            raise

    def _put_bytes(self, upload: Upload, number: int, data: memoryview) -> Part:
        if number > PARTS.most:
            raise _too_many("an object of unknown length", len(data))
        return self._part(
            upload, number, data, self._checksum(upload.location, data), None, checked=True
        )

    def _abort_after_failure(self, upload: Upload, error: BaseException) -> None:
        """Abort after a failure; if the abort fails too, `error` names what remains."""
        try:
            type(self)(self._wire, self._side, Watchdog(self._wire.limits)).abort(upload)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.leave("An unfinished upload", upload.location, failure.message)

    # -- parts

    @property
    def part_limits(self) -> PartLimits | None:
        """As Destination.part_limits (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""
        return PARTS

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """As PartsDestination.begin. If the server does not know a checksum of the whole object,
        the request is sent again without one. A 403 may mean that too, as long as no checksum was
        ever accepted."""
        self._check_name(location)
        place, endpoint = at_query(location, "uploads="), self._endpoint(location)
        fields = upload_fields(location, self._described(location, metadata), if_absent=False)
        checked = not endpoint.has(NO_WHOLE)
        response = self._send("POST", place, fields + WHOLE * checked, b"")
        statuses = (400, 501) if endpoint.has(KNOWN) else (400, 403, 501)
        if checked and response.head.status in statuses:
            response.body.close()
            response, checked = self._send("POST", place, fields, b""), False
            if response.head.status == 200:
                endpoint.learn(NO_WHOLE)
        if response.head.status != 200:
            raise self._upload_refusal(response, "POST", location, fields, metadata=metadata)
        endpoint.note_begun()
        root = self._document(response, "POST", location)
        upload = root.findtext("{*}UploadId")
        if not upload:
            raise ProtocolViolation(
                f"{location}: the multipart upload that was created has no id", side=self._side
            )
        return Upload(location, upload, checked, described=metadata)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part."""
        assert body.length is not None, "a part has a length"
        wrapping = self._wrapped(upload.location, body, part=True)
        fields = coded(upload.location, (), body.length) if wrapping else ()
        part = self._part(upload, number, body, fields, wrapping, checked=wrapping is not None)
        if wrapping and part.checked:
            self._endpoint(upload.location).learn(PART_TRAILERS)
        elif wrapping:
            self._check_part_coding(upload, part)
        return part

    def _check_part_coding(self, upload: Upload, part: Part) -> None:
        """Check, once for each endpoint, that the coding of a part was not stored with its bytes:
        some servers decode it for whole objects only. Raises Unavailable if it was stored: the part
        is sent again without the coding and replaces the first. If the parts can't be listed, the
        proof of the whole object decides."""
        endpoint = self._endpoint(upload.location)
        if endpoint.has(PART_TRAILERS):
            return
        which = f"max-parts=1&part-number-marker={part.number - 1}&"
        try:
            page, _ = self._parts_page(upload, which)
        except StoreError:
            page = []
        listed = next((one for one in page if one.number == part.number), None)
        if listed is not None and listed.size != part.size:
            endpoint.learn(NO_PART_TRAILERS)
            message = (
                f"part {part.number} of {upload.location} is stored with {listed.size} bytes"
                f" instead of {part.size}"
            )
            raise Unavailable(f"{message}; it is sent again without {TRAILER}", side=self._side)
        endpoint.learn(PART_TRAILERS)

    def _part(
        self,
        upload: Upload,
        number: int,
        body: Body | memoryview,
        fields: Fields,
        wrapping: Wrapping | None,
        checked: bool,
    ) -> Part:
        place = _at(upload, f"partNumber={number}&")
        expects = isinstance(body, Body) and not upload.welcome and self._expects(body)
        response = self._send("PUT", place, fields, body, expects, wrapping)
        if response.head.status not in self.believed["PUT"]:
            raise self._upload_refusal(response, "PUT", upload.location, fields, wrapping)
        etag = response.head.get("etag")
        theirs = self._put_result(response, "PUT", upload.location, sent_md5(fields, body)).digests
        reported = theirs.get(TRAILER)
        if not etag:
            raise ProtocolViolation(
                f"{upload.location}: the stored part {number} has no ETag", side=self._side
            )
        ours = digest_of(body) if checked else None
        if ours is not None and reported is not None and reported != ours:
            raise IntegrityMismatch(
                f"part {number} arrived damaged", side=self._side, retryable=True
            )
        size = body.count if isinstance(body, Body) else len(body)
        return Part(
            number,
            size,
            etag,
            checked="md5" in theirs or (ours is not None and reported is not None),
        )

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts, by ListParts, with a thousand parts on a page."""
        found: list[Part] = []
        marker: int | None = 0
        while marker is not None:
            page, following = self._parts_page(upload, f"part-number-marker={marker}&")
            found += page
            if following is not None and not marker < following <= PARTS.most:
                message = f"{upload.location}: the list of its parts has no marker of the next page"
                raise ProtocolViolation(message, side=self._side)
            marker = following
        return tuple(found)

    def _parts_page(self, upload: Upload, which: str) -> tuple[list[Part], int | None]:
        """Return one page of the stored parts, and the part number after which the next page
        begins, or None after the last page."""
        response = self._send("GET", _at(upload, which), ())
        found, reported = [], {}
        with closing(
            self._document_rows(response, "GET", upload.location, "ListPartsResult")
        ) as rows:
            for row in rows:
                number, size = count(row.findtext("{*}PartNumber")), count(row.findtext("{*}Size"))
                if plain_name(row.tag) == "Part" and number is not None and size is not None:
                    found.append(
                        Part(number, size, strong_tag(row.findtext("{*}ETag")) or "", checked=False)
                    )
                reported[plain_name(row.tag)] = (row.text or "").strip()
        # Without IsTruncated the page counts as the last one: parts that it lacks are sent again.
        if not is_truncated(reported.get("IsTruncated", "")):
            return found, None
        return found, count(reported.get("NextPartNumberMarker")) or 0

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False
    ) -> PutResult:
        """As PartsDestination.complete. An answer of 200 may be an error: its text decides."""
        return self._named(
            upload.location,
            if_absent,
            lambda absent: self._complete(upload, parts, digests, absent),
        )

    def _complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> PutResult:
        endpoint, agreed = self._endpoint(upload.location), all(part.checked for part in parts)
        try:
            response, root = self._complete_verified(upload, parts, digests, if_absent)
        except (ConnectionLost, StoreTimeout, NotFound) as error:
            return self._find_completed(upload, parts, error)
        except Unavailable as error:
            if error.store_status == 409:  # "re-initiate the upload and re-upload each part"
                raise UploadGone(error.message, side=self._side, hint=error.hint) from None
            raise
        notes, reported = (
            self._left_out(upload.location, upload.described, if_absent),
            told_checksums(root),
        )
        if endpoint.has(UNTRUE_WHOLE):
            notes, agreed, reported = (*notes, WRONG_WHOLE), False, {}
        version = Version(
            etag=strong_tag(root.findtext("{*}ETag")),
            digests=reported,
            id=version_id(response.head),
        )
        return replace(
            pinned_to_version(upload.location, version), parts_checked=agreed, notes=notes
        )

    def _complete_verified(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> tuple[Response, Element]:
        """Complete the upload. If each part's digest matched and that of the whole mismatches
        twice, the store computes it in another way: the upload is completed without it, and the
        object has to be read back. Raises as `complete`."""
        endpoint = self._endpoint(upload.location)
        summed = {} if endpoint.has(UNTRUE_WHOLE) else digests
        for _ in range(2):
            try:
                return self._send_complete(upload, parts, summed, if_absent)
            except IntegrityMismatch:
                if not (summed and upload.checked and all(part.checked for part in parts)):
                    raise
        found = self._send_complete(upload, parts, {}, if_absent)
        endpoint.learn(UNTRUE_WHOLE)
        return found

    def _send_complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> tuple[Response, Element]:
        rows = "".join(
            f"<Part><ETag>{escape(part.etag)}</ETag><PartNumber>{part.number}</PartNumber></Part>"
            for part in parts
        )
        text = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{rows}</CompleteMultipartUpload>'
        fields: Fields = (("Content-Type", "application/xml"),)
        if upload.checked and TRAILER in digests:
            value = base64.b64encode(digests[TRAILER]).decode()
            fields += ((CHECKSUM + TRAILER, value), ("x-amz-checksum-type", "FULL_OBJECT"))
        if self._conditional(upload.location, if_absent):
            fields += ((CONDITION, "*"),)
        response = self._send("POST", _at(upload), fields, text.encode())
        if response.head.status in (400, 501):
            condition = tuple(pair for pair in fields if pair[0] == CONDITION)
            raise self._upload_refusal(response, "POST", upload.location, condition)
        return response, self._document(response, "POST", upload.location)

    def _find_completed(
        self, upload: Upload, parts: tuple[Part, ...], error: RelayError
    ) -> PutResult:
        """Find out whether an upload was completed whose answer was lost.

        An upload that no longer exists was completed, or aborted by somebody. The object is ours if
        its digest matches; the same length proves nothing, so `parts_checked` stays False. Raises
        `error` if the upload still exists, or if there is no object; UploadGone if the object there
        is another one."""
        try:
            self.stored_parts(upload)
        except NotFound:
            pass
        else:
            raise error
        try:
            found = self.head(upload.location)
        except NotFound:
            raise error from None
        if isinstance(found, UnknownObject) or found.version.size != sum(
            part.size for part in parts
        ):
            raise UploadGone(error.message, side=self._side) from None
        return replace(
            pinned_to_version(upload.location, found.version),
            found=found.version.etag != joined_tag(parts),
        )

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """As PartsDestination.lost_uploads, by ListMultipartUploads. The server's clock is compared
        with ours.

        The request has no `encoding-type`: SeaweedFS declares the keys as encoded, and they are
        not. No key of ours needs it."""
        account = cast(S3Account, location.account)
        key = key_of(location)
        query = f"prefix={quote(key, safe='-_.~')}&uploads="
        response = self._send("GET", replace(location, target=f"{account.prefix}/?{query}"), ())
        reported = http_date(response.head.get("date"))
        ahead = reported.timestamp() - time() if reported else 0.0
        with closing(
            self._document_rows(response, "GET", location, "ListMultipartUploadsResult")
        ) as rows:
            begun = [
                one
                for row in rows
                if plain_name(row.tag) == "Upload" and (one := unfinished_upload(row)) is not None
            ]
        return tuple(
            Upload(location, upload, checked=False)
            for upload, name, at in begun
            if name == key
            and since <= at - ahead <= until
            and self._is_bare(Upload(location, upload, checked=False))
        )

    def _is_bare(self, upload: Upload) -> bool:
        """Say if the upload has no parts. An upload whose id was lost never gets one; any other
        upload soon does."""
        try:
            return not self.stored_parts(upload)
        except NotFound:
            return False

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort."""
        place = _at(upload)
        response = self._send("DELETE", place, ())
        if response.head.status not in self.believed["DELETE"]:
            raise self._refusal(response, "DELETE", upload.location)
        response.body.close()

    # -- copies within the store

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: within one endpoint, with the same access key, unless a copy was
        refused before."""
        there, here = source.account, location.account
        if not isinstance(there, S3Account) or not isinstance(here, S3Account) or not here.endpoint:
            return False
        same = there.endpoint == here.endpoint and there.signer.same_key(here.signer)
        return same and not self._wire.memory.has(location.origin, _copying(there, here))

    def copy(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As CopyDestination.copy, by CopyObject. An answer of 200 may still be an error."""
        return self._named(
            location, if_absent, lambda absent: self._copy(source, found, location, absent)
        )

    def _copy(
        self, source: Location, found: ObjectInfo, location: Location, if_absent: bool
    ) -> PutResult:
        own = {name.lower() for name, _ in location.headers}
        fields = _copy_source(source, found) + ((CONDITION, "*"),) * self._conditional(
            location, if_absent
        )
        if not found.version.digests:
            fields += (WHOLE[0],)
        if own & {*CARRIED, *SYSTEM} or any(name.startswith(USER) for name in own):
            require(found.metadata, location, self.unkept_metadata(location, found.metadata))
            kept = upload_fields(location, self._held(location, found.metadata)[0], if_absent=False)
            fields += (
                ("x-amz-metadata-directive", "REPLACE"),
                *(pair for pair in kept if pair[0] != TAGGING),
            )
        response = self._send("PUT", location, fields + self._uploaded(location), b"")
        root = self._read_copy_answer(response, source, location, if_absent)
        etag = strong_tag(root.findtext("{*}ETag"))
        version = Version(etag=etag, digests=told_checksums(root), id=version_id(response.head))
        return pinned_to_version(location, version)

    def copy_part(
        self, upload: Upload, number: int, source: Location, found: ObjectInfo, span: ByteRange
    ) -> Part:
        """As CopyPartsDestination.copy_part, by UploadPartCopy."""
        fields = (
            *_copy_source(source, found),
            ("x-amz-copy-source-range", f"bytes={span.first}-{span.last}"),
        )
        place = _at(upload, f"partNumber={number}&")
        root = self._read_copy_answer(
            self._send("PUT", place, fields, b""), source, upload.location, if_absent=False
        )
        etag = strong_tag(root.findtext("{*}ETag"))
        if not etag:
            raise ProtocolViolation(
                f"{upload.location}: the copied part {number} has no ETag", side=self._side
            )
        return Part(number, span.length, etag, checked=False)

    def _read_copy_answer(
        self, response: Response, source: Location, location: Location, if_absent: bool
    ) -> Element:
        """Return the answer to a copy. A permanent refusal is remembered for these two buckets,
        unless a copy between them succeeded before: then only this object can't be copied, such as
        one in an archive."""
        memory, copying = (
            self._wire.memory,
            _copying(*(cast(S3Account, one.account) for one in (source, location))),
        )
        try:
            root = self._document(response, "PUT", location)
            memory.learn(location.origin, f"{copying} done")
            return root
        except PreconditionFailed as error:
            if if_absent and self._is_there(location):
                raise
            raise SourceChanged(
                f"{source} is another version now: {error.message}", side="source"
            ) from None
        except (Rejected, PermissionDenied):
            if not memory.has(location.origin, f"{copying} done"):
                memory.learn(location.origin, copying)
            raise


def _too_many(what: str, step: int) -> Rejected:
    return Rejected(
        f"{what} that can't be read in ranges: more than {PARTS.most} parts of {step} bytes",
        side="destination",
        hint="Set a larger RELAY_PART_BYTES; each transfer then holds one part in memory.",
    )


def _at(upload: Upload, which: str = "") -> Location:
    """Return the location of requests about an upload; `which` is a query that selects parts."""
    return at_query(upload.location, f"{which}uploadId={quote(upload.id, safe='-_.~')}")


def _copy_source(source: Location, found: ObjectInfo) -> Fields:
    """Return the fields that name the object to copy, and its pinned version."""
    account = cast(S3Account, source.account)
    key = source.path.removeprefix(account.prefix)
    which = f"?versionId={quote(found.version.id, safe='-_.~')}" if found.version.id else ""
    named: Fields = (("x-amz-copy-source", f"/{canonical_path(account.bucket)}{key}{which}"),)
    etag = found.version.strong_etag
    return (*named, ("x-amz-copy-source-if-match", etag)) if etag else named


def _copying(source: S3Account, destination: S3Account) -> str:
    """Return the fact that copies from one bucket to another are refused."""
    return f"copy {source.bucket} {destination.bucket}"


def joined_tag(parts: tuple[Part, ...]) -> str | None:
    """Return the ETag of the object that these parts make, if their ETags are MD5 (an object
    without encryption of its own: docs.aws.amazon.com, "Checking object integrity"); otherwise
    None."""
    try:
        every = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{md5(every, usedforsecurity=False).hexdigest()}-{len(parts)}"'
