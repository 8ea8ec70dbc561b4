"""Upload an object of unknown length, or one that is too large for a request and has no ranges.

Decided here: how a stream becomes parts. Never here: how a part is sent (`multipart.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relay.errors import Leftover, Rejected, RelayError
from relay.location import Location
from relay.process.failpoints import reach
from relay.stores.interfaces import Begins, Part, PutResult, Upload
from relay.stores.s3.client import S3Client
from relay.stores.s3.multipart import MultipartUploads, abort_upload, part_limits
from relay.stores.s3.single_uploads import SingleUploads
from relay.stores.s3.upload_completion import Completion
from relay.wire.body import Body
from relay.wire.http1 import Fields
from relay.wire.pump import fill
from relay.wire.watchdog import Watchdog


class GrowingUploads:
    """Uploads in parts as a body arrives; one part at a time is held in memory, since S3 requires
    its length."""

    def __init__(
        self,
        client: S3Client,
        single: SingleUploads,
        multipart: MultipartUploads,
        completion: Completion,
    ) -> None:
        self._client, self._single = client, single
        self._multipart, self._completion = multipart, completion

    def put(
        self,
        location: Location,
        body: Body,
        metadata: Fields,
        if_absent: bool,
        begins: Begins | None,
    ) -> PutResult:
        """As PartsDestination.put: the object is not visible before the body's end was proved. A
        body smaller than one part becomes a single PUT. Raises Rejected for more parts than the
        endpoint allows."""
        step = self._client.wire.limits.part_bytes
        most = part_limits(self._client, location).most
        if body.length is not None and body.length > step * most:
            raise _too_many(f"{body.length} bytes", most, step)
        # Step 1: one part's bytes. Fewer are the whole object, which takes one request.
        piece = memoryview(bytearray(step))
        count = fill(body, piece)
        if count < step:
            return self._single.put_bytes(location, piece[:count], metadata, if_absent)
        # Step 2: a multipart upload, whose parts are sent as the same buffer fills again.
        with (begins or self._begin_unrecorded)(location, metadata) as upload:
            parts: list[Part] = []
            while count:
                if len(parts) == most:
                    raise _too_many("an object of unknown length", most, step)
                parts.append(self._multipart.put_bytes(upload, len(parts) + 1, piece[:count]))
                reach("after-part")
                count = fill(body, piece)
            reach("before-complete")
            stored = self._completion.complete(upload, tuple(parts), body.digests, if_absent)
        reach("after-complete")
        return stored

    @contextmanager
    def _begin_unrecorded(self, location: Location, metadata: Fields) -> Iterator[Upload]:
        """Create a multipart upload that is not recorded in the ledger; abort it on failure."""
        upload = self._multipart.begin(location, metadata)
        try:
            yield upload
        except BaseException as error:
            self._abort_after_failure(upload, error)
            raise

    def _abort_after_failure(self, upload: Upload, error: BaseException) -> None:
        """Abort with a deadline of its own, since the transfer's may be over; if the abort fails
        too, `error` names what remains."""
        wire = self._client.wire
        try:
            abort_upload(S3Client(wire, self._client.side, Watchdog(wire.limits)), upload)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.leave(Leftover.UPLOAD, upload.location, failure.message)


def _too_many(what: str, most: int, step: int) -> Rejected:
    return Rejected(
        f"{what} that can't be read in ranges: more than {most} parts of {step} bytes",
        side="destination",
        hint="Set a larger RELAY_PART_BYTES; each transfer then holds one part in memory.",
    )
