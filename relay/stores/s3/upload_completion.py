"""Complete a multipart upload: make one object of its parts.

Decided here: which checksum of the whole is sent, and whether an upload whose answer was lost was
completed. Never here: how the parts were stored (`multipart.py`)."""

from __future__ import annotations

import base64
from dataclasses import replace
from hashlib import md5
from typing import Final
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from relay.digest import Digests
from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    RelayError,
    StoreTimeout,
    Unavailable,
    UploadGone,
)
from relay.receipt import Version
from relay.stores.http_fields import strong_tag
from relay.stores.interfaces import Part, PutResult, Upload
from relay.stores.s3.client import S3Client
from relay.stores.s3.exact_keys import ExactKeys
from relay.stores.s3.quirks import UNTRUE_WHOLE, WRONG_WHOLE
from relay.stores.s3.responses import CHECKSUM, TRAILER, document_checksums, version_id
from relay.stores.s3.upload_answers import pinned_to_version, upload_refusal
from relay.stores.s3.upload_fields import UploadFields
from relay.stores.s3.upload_listing import UploadListing, at_upload
from relay.stores.s3.upload_refusals import CONDITION
from relay.wire.exchange import Response
from relay.wire.http1 import Fields

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


class Completion:
    """The completion of multipart uploads to a bucket."""

    def __init__(
        self, client: S3Client, fields: UploadFields, keys: ExactKeys, listing: UploadListing
    ) -> None:
        self._client = client
        self._fields = fields
        self._keys = keys
        self._listing = listing

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> PutResult:
        """As PartsDestination.complete. An answer of 200 may be an error: its text decides."""
        return self._keys.store(
            upload.location,
            if_absent,
            lambda absent: self._complete(upload, parts, digests, absent),
        )

    def _complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> PutResult:
        location = upload.location
        try:
            response, root = self._complete_verified(upload, parts, digests, if_absent)
        except (ConnectionLost, StoreTimeout, NotFound) as error:
            # 404 too: an earlier request, whose answer was lost, may have completed the upload.
            return self._find_completed(upload, parts, error)
        except Unavailable as error:
            if error.store_status == 409:  # "re-initiate the upload and re-upload each part"
                raise UploadGone(error.message, side=self._client.side, hint=error.hint) from None
            raise
        notes = self._fields.notes(location, upload.described, if_absent)
        agreed, reported = all(part.checked for part in parts), document_checksums(root)
        if self._client.quirks(location).has(UNTRUE_WHOLE):
            notes, agreed, reported = (*notes, WRONG_WHOLE), False, {}
        etag, id = strong_tag(root.findtext("{*}ETag")), version_id(response.head)
        stored = pinned_to_version(location, Version(etag=etag, digests=reported, id=id))
        return replace(stored, parts_checked=agreed, notes=notes)

    def _complete_verified(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> tuple[Response, Element]:
        """Complete the upload. If each part's digest matched and that of the whole mismatches
        twice, the store computes it in another way: the upload is completed without it, and the
        object has to be read back. Raises as `complete`."""
        quirks = self._client.quirks(upload.location)
        compared = {} if quirks.has(UNTRUE_WHOLE) else digests
        for _ in range(2):
            try:
                return self._send(upload, parts, compared, if_absent)
            except IntegrityMismatch:
                if not (compared and upload.checked and all(part.checked for part in parts)):
                    raise
        found = self._send(upload, parts, {}, if_absent)
        quirks.learn(UNTRUE_WHOLE)
        return found

    def _send(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool
    ) -> tuple[Response, Element]:
        """Send one CompleteMultipartUpload; return its answer, with its document."""
        client, location = self._client, upload.location
        rows = "".join(
            f"<Part><ETag>{escape(part.etag)}</ETag><PartNumber>{part.number}</PartNumber></Part>"
            for part in parts
        )
        text = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{rows}</CompleteMultipartUpload>'
        fields: Fields = (("Content-Type", "application/xml"),)
        if upload.checked and TRAILER in digests:
            value = base64.b64encode(digests[TRAILER]).decode()
            fields += ((CHECKSUM + TRAILER, value), ("x-amz-checksum-type", "FULL_OBJECT"))
        condition: Fields = ()
        if self._fields.conditional(location, if_absent):
            condition = ((CONDITION, "*"),)
        response = client.send("POST", at_upload(upload), fields + condition, text.encode())
        if response.head.status in (400, 501):
            # Only the precondition may be left out here: the parts have their fields already.
            raise upload_refusal(client, response, "POST", location, condition)
        return response, client.document(response, "POST", location)

    def _find_completed(
        self, upload: Upload, parts: tuple[Part, ...], error: RelayError
    ) -> PutResult:
        """Find out whether an upload was completed whose answer was lost.

        An upload that no longer exists was completed, or aborted by another program. The object is
        ours if its digest matches; the same length proves nothing, so `parts_checked` stays False.
        Raises `error` if the upload still exists, if nothing is there or if neither is shown;
        UploadGone if the object there is another one."""
        try:
            self._listing.stored_parts(upload)
        except NotFound:
            pass
        except PermissionDenied:  # AWS answers a repeated completion as the first one
            raise error from None
        else:
            raise error
        try:
            version = self._keys.head(upload.location).version
        except (NotFound, PermissionDenied):
            raise error from None
        if version.size != sum(part.size for part in parts):
            raise UploadGone(error.message, side=self._client.side) from None
        stored = pinned_to_version(upload.location, version)
        notes = self._fields.unkept_metadata(upload.location, upload.described)
        return replace(stored, found=version.etag != joined_tag(parts), notes=notes)


def joined_tag(parts: tuple[Part, ...]) -> str | None:
    """Return the ETag of the object that these parts make, if their ETags are MD5 (an object
    without encryption of its own: docs.aws.amazon.com, "Checking object integrity"); otherwise
    None."""
    try:
        every = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{md5(every, usedforsecurity=False).hexdigest()}-{len(parts)}"'
