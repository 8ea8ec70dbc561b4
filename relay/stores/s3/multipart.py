"""Create, fill and abort multipart uploads.

Decided here: which checksum an upload and a part have, and how many parts there may be. Never here:
how the parts become an object (`upload_completion.py`), which parts the bucket lists
(`upload_listing.py`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from relay.errors import IntegrityMismatch, ProtocolViolation, StoreError, Unavailable
from relay.location import Location
from relay.stores.http_fields import upload_fields
from relay.stores.interfaces import Part, PartLimits, Upload
from relay.stores.s3.account import at_query
from relay.stores.s3.checksums import coding_fields, digest_of, sent_md5
from relay.stores.s3.client import S3Client
from relay.stores.s3.exact_keys import ExactKeys
from relay.stores.s3.objects import DELETED
from relay.stores.s3.quirks import FEW, KNOWN, NO_PART_TRAILERS, NO_WHOLE, PART_TRAILERS
from relay.stores.s3.responses import TRAILER
from relay.stores.s3.upload_answers import read_upload, upload_refusal
from relay.stores.s3.upload_fields import UploadFields
from relay.stores.s3.upload_limits import FEW_PARTS, limits_of
from relay.stores.s3.upload_listing import UploadListing, at_upload
from relay.wire.body import Body
from relay.wire.exchange import Wrapping
from relay.wire.http1 import Fields

WHOLE: Final[Fields] = (
    ("x-amz-checksum-algorithm", "CRC64NVME"),
    ("x-amz-checksum-type", "FULL_OBJECT"),
)
"""Ask the server to keep a CRC64NVME of the whole object instead of one of the parts' checksums."""


class MultipartUploads:
    """The multipart uploads of a bucket, until their completion."""

    def __init__(
        self, client: S3Client, fields: UploadFields, keys: ExactKeys, listing: UploadListing
    ) -> None:
        self._client = client
        self._fields = fields
        self._keys = keys
        self._listing = listing

    def begin(self, location: Location, metadata: Fields) -> Upload:
        """As PartsDestination.begin. If the server does not know a checksum of the whole object,
        the request is sent again without one. A 403 may mean that too, as long as no checksum was
        ever accepted."""
        self._keys.check(location)
        client, quirks = self._client, self._client.quirks(location)
        place, checked = at_query(location, "uploads="), not quirks.has(NO_WHOLE)
        described = self._fields.metadata(location, metadata)
        fields = upload_fields(location, described, if_absent=False)
        response = client.send("POST", place, fields + WHOLE if checked else fields, b"")
        doubtful = (400, 501) if quirks.has(KNOWN) else (400, 403, 501)
        if checked and response.head.status in doubtful:
            response.body.close()
            response, checked = client.send("POST", place, fields, b""), False
            if response.head.status == 200:
                quirks.learn(NO_WHOLE)
        if response.head.status != 200:
            raise upload_refusal(client, response, "POST", location, fields, metadata=metadata)
        quirks.note_begun()
        id = client.document(response, "POST", location).findtext("{*}UploadId")
        if not id:
            raise ProtocolViolation(
                f"{location}: the multipart upload that was created has no id", side=client.side
            )
        return Upload(location, id, checked, described=metadata)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part."""
        assert body.length is not None, "a part has a length"
        wrapping = self._fields.wrapping(upload.location, body, part=True)
        fields = coding_fields(upload.location, (), body.length) if wrapping else ()
        part = self._send_part(upload, number, body, fields, wrapping)
        if wrapping and part.checked:
            self._client.quirks(upload.location).learn(PART_TRAILERS)
        elif wrapping:
            self._check_part_coding(upload, part)
        return part

    def put_bytes(self, upload: Upload, number: int, data: memoryview) -> Part:
        """Store bytes that are in memory as a part. Raises as `put_part`."""
        checksum = self._fields.checksum(upload.location, data)
        return self._send_part(upload, number, data, checksum, None)

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort."""
        abort_upload(self._client, upload)

    def _send_part(
        self,
        upload: Upload,
        number: int,
        body: Body | memoryview,
        fields: Fields,
        wrapping: Wrapping | None,
    ) -> Part:
        client, location = self._client, upload.location
        expects = False
        if isinstance(body, Body) and not upload.welcome:
            expects = client.http.expects_continue(body)
        place = at_upload(upload, f"partNumber={number}&")
        response = client.send("PUT", place, fields, body, expect=expects, wrapping=wrapping)
        if response.head.status != 200:
            raise upload_refusal(client, response, "PUT", location, fields, wrapping=wrapping)
        etag = response.head.get("etag")
        theirs = read_upload(client, response, location, sent_md5(fields, body)).digests
        if not etag:
            raise ProtocolViolation(
                f"{location}: the stored part {number} has no ETag", side=client.side
            )
        # A stream without a trailer is not compared: if it was spliced, it has no digest of ours.
        ours = None if isinstance(body, Body) and wrapping is None else digest_of(body)
        compared = ours is not None and TRAILER in theirs
        if compared and theirs[TRAILER] != ours:
            raise IntegrityMismatch(
                f"part {number} arrived damaged", side=client.side, retryable=True
            )
        size = body.count if isinstance(body, Body) else len(body)
        return Part(number, size, etag, checked=compared or "md5" in theirs)

    def _check_part_coding(self, upload: Upload, part: Part) -> None:
        """Check, once for each endpoint, that the coding of a part was not stored with its bytes:
        some servers decode it for whole objects only. Raises Unavailable if it was stored: the part
        is sent again without the coding and replaces the first. If the parts can't be listed, the
        proof of the whole object decides."""
        quirks = self._client.quirks(upload.location)
        if quirks.has(PART_TRAILERS):
            return
        try:
            listed = self._listing.stored_part(upload, part.number)
        except StoreError:
            listed = None
        if listed is not None and listed.size != part.size:
            quirks.learn(NO_PART_TRAILERS)
            message = (
                f"part {part.number} of {upload.location} is stored with {listed.size} bytes"
                f" instead of {part.size}"
            )
            raise Unavailable(
                f"{message}; it is sent again without {TRAILER}", side=self._client.side
            )
        quirks.learn(PART_TRAILERS)


def part_limits(client: S3Client, location: Location) -> PartLimits:
    """Return the limits of multipart uploads to an endpoint, by its host, or by its refusal of a
    part's number."""
    limits = limits_of(location.host)
    few = limits.most > FEW_PARTS and client.quirks(location).has(FEW)
    return replace(limits, most=FEW_PARTS) if few else limits


def abort_upload(client: S3Client, upload: Upload) -> None:
    """As PartsDestination.abort."""
    response = client.send("DELETE", at_upload(upload), ())
    if response.head.status not in DELETED:
        raise client.refusal(response, "DELETE", upload.location)
    response.body.close()
