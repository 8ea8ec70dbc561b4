"""Upload an object in one request.

Theory of operation. The request carries a trailing checksum (`checksums.py`) where the endpoint
accepts one. A spliced upload (`verify: size`) is sent without the coding. Some endpoints accept the
coding and store it with the bytes; the first upload shows that.

Decided here: the one PUT of an object. Never here: which fields it has (`upload_fields.py`), when
an object is sent in parts (`store.py`)."""

from __future__ import annotations

from dataclasses import replace

from relay.errors import Leftover, NotFound, PermissionDenied, RelayError, Unavailable
from relay.location import Location
from relay.stores.http_fields import upload_fields
from relay.stores.interfaces import PutResult
from relay.stores.s3.checksums import coding_fields, sent_md5
from relay.stores.s3.client import S3Client
from relay.stores.s3.exact_keys import ExactKeys
from relay.stores.s3.objects import S3Objects
from relay.stores.s3.quirks import NO_TRAILERS, TRAILERS, UNSEEN
from relay.stores.s3.responses import TRAILER
from relay.stores.s3.upload_answers import read_upload, upload_refusal
from relay.stores.s3.upload_fields import UploadFields
from relay.wire.body import Body
from relay.wire.http1 import Fields


class SingleUploads:
    """Uploads of whole objects, each in one request."""

    def __init__(
        self, client: S3Client, fields: UploadFields, objects: S3Objects, keys: ExactKeys
    ) -> None:
        self._client = client
        self._fields = fields
        self._objects = objects
        self._keys = keys

    def put(self, location: Location, body: Body, metadata: Fields, if_absent: bool) -> PutResult:
        """Store the whole of a body of known length. Raises as Destination.put."""
        assert body.length is not None, "a body of unknown length is sent in parts"
        client, wrapping = self._client, self._fields.wrapping(location, body)
        if wrapping and client.quirks(location).needs_md5:
            body.add_digest("md5")
        described = self._fields.metadata(location, metadata)
        announced = coding_fields(location, described, body.length) if wrapping else described
        fields = upload_fields(location, announced, self._fields.conditional(location, if_absent))
        expects = client.http.expects_continue(body)
        response = client.send("PUT", location, fields, body, expect=expects, wrapping=wrapping)
        if response.head.status != 200:
            raise upload_refusal(
                client, response, "PUT", location, fields, wrapping=wrapping, metadata=metadata
            )
        digests = body.digests
        stored = read_upload(client, response, location, digests.get("md5"))
        client.http.trust_proved(response, location, digests, stored.digests)
        if wrapping:
            coded_bytes = body.count + len(wrapping.before) + wrapping.after_bytes
            stored = self._check_coding(location, stored, coded_bytes)
        notes = self._fields.notes(location, metadata, if_absent)
        return replace(stored, notes=(*stored.notes, *notes)) if notes else stored

    def put_bytes(
        self, location: Location, data: memoryview, metadata: Fields, if_absent: bool
    ) -> PutResult:
        """Store an object whose bytes are in memory. Raises as Destination.put."""
        described = self._fields.metadata(location, metadata)
        described += self._fields.checksum(location, data)
        conditional = self._fields.conditional(location, if_absent)
        fields = upload_fields(location, described, conditional)
        response = self._client.send("PUT", location, fields, data)
        if response.head.status != 200:
            raise upload_refusal(self._client, response, "PUT", location, fields, metadata=metadata)
        stored = read_upload(self._client, response, location, sent_md5(described))
        return replace(stored, notes=self._fields.notes(location, metadata, if_absent))

    def _check_coding(self, location: Location, stored: PutResult, coded_bytes: int) -> PutResult:
        """Check, once for each endpoint, that the `aws-chunked` coding was not stored with the
        bytes (the object would have `coded_bytes`). A digest of the bytes in the answer proves that
        too.

        Raises Unavailable if it was stored: the object is deleted, and sent again without the
        coding. If HEAD is denied, a note says that it may have been stored."""
        quirks = self._client.quirks(location)
        if quirks.has(TRAILERS):
            return stored
        if stored.digests.keys() & {TRAILER, "md5"}:
            quirks.learn(TRAILERS)
            return stored
        place = stored.readable
        assert place is not None, "an S3 upload has a location"
        try:
            found = self._keys.head(place)
        except NotFound:
            return stored  # not visible yet; verification waits for it
        except PermissionDenied:
            quirks.learn(quirks.unseen)
            return replace(stored, notes=(UNSEEN,))
        except RelayError as error:
            error.leave(Leftover.SENT, place, "it was stored, but could not be inspected")
            raise
        if found.version.size is None:
            return stored  # it proves neither; the next upload is checked
        if found.version.size != coded_bytes:
            quirks.learn(TRAILERS)
            return stored
        quirks.learn(NO_TRAILERS)
        if found.version.etag != stored.version.etag:
            return stored  # it may be another client's object; verification decides
        try:
            self._objects.delete(place, found.version)
        except RelayError:
            return stored  # verification fails, and cleanup knows the object as ours
        raise Unavailable(
            f"the endpoint of {place} does not support trailing checksums", side=self._client.side
        )
