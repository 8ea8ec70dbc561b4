"""Upload one object, in one request or in parts.

Theory of operation. However an upload ends, its body is closed, which breaks an incomplete upload.
The leftovers of a broken upload are found and deleted; a complete object is verified.

Decided here: the checks before the first and the last byte, and the cleanup of a broken upload.
Never here: the choice between one request and parts, and how bytes move."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

from relay.engine.cleanup import (
    NOT_ASKED,
    FailedUpload,
    may_be_done,
    remove_failed_upload,
    remove_object,
)
from relay.engine.comparison import looks_same
from relay.engine.inspection import is_piece
from relay.engine.multipart.upload import MultipartUpload
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.expectations import uncompared_digest_notes
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.source_reader import SourceReader, proof_of_end
from relay.engine.transfer.target import Target
from relay.engine.transfer.verify import Sent
from relay.errors import (
    LeaseLost,
    Leftover,
    LengthRequired,
    PreconditionFailed,
    RangeIgnored,
    RedirectRefused,
    RelayError,
    SameObject,
    SourceChanged,
    SourceUnstable,
    StoreError,
)
from relay.identity import same_path
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import Begins, ObjectInfo, OpenedObject, PutResult
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

SWEEP_SECONDS = 5.0
"""Maximum seconds of one request that searches for the leftovers of a broken upload."""
LONG_SECONDS = 1.0
"""Seconds of an upload after which the source is asked whether it was modified meanwhile. A date of
HTTP can't show a change within a shorter time."""


class Uploader:
    """Uploads the object of one transfer, in all its attempts."""

    def __init__(
        self,
        context: TransferContext,
        progress: Progress,
        target: Target,
        source_reader: SourceReader,
        finalizer: Finalizer,
    ) -> None:
        self._context, self._progress, self._target = context, progress, target
        self._source_reader, self._finalizer = source_reader, finalizer

    def upload_multipart(self, found: ObjectInfo) -> Outcome | None:
        """Upload the object in parts. Return None if the source ignores ranges; then nothing is at
        the destination.

        Raises as MultipartUpload.run and Finalizer.verify_and_publish.
        """
        context, progress, target = self._context, self._progress, self._target
        part_context = context.part_context(target.place, found, context.needs_digest)
        absent = target.if_absent and not progress.replaces
        progress.parts = parts = MultipartUpload(
            part_context,
            if_absent=absent,
            journal=context.journal,
            fruitless=progress.fruitless,
            after_crash=context.known.after_crash and progress.attempt == 1,
        )
        progress.total, progress.phase = found.version.size, "piping"
        progress.resent += progress.aborted
        progress.aborted = 0
        try:
            moved = parts.run()
        except RelayError as error:
            progress.resent += parts.bytes_at_risk
            progress.aborted = parts.aborted_bytes
            progress.note_failed_parts(parts)
            if isinstance(error, RangeIgnored):
                progress.parts = None
                progress.remains |= error.remains
                return None
            if parts.may_be_whole(error) and target.shows_unproved:
                progress.unproved = target.place
            raise
        progress.resent += moved.resent
        sent = Sent(parts.bytes, moved.digests, found.version.digests)
        declared = found.version.digests if context.needs_digest else {}
        notes = uncompared_digest_notes(context.known.promised, declared) + progress.discarded
        return self._finalizer.verify_and_publish(moved.stored, found, sent, notes)

    def upload_single(self, opened: OpenedObject, body: Body) -> Outcome:
        """Upload the `body` of the `opened` object in one request.

        Raises SameObject if the destination may be the source by another name, as Destination.put,
        SourceUnstable, and as Finalizer.verify_and_publish. The leftovers of a broken upload are
        deleted, or the error says that they may remain."""
        self._refuse_to_truncate_source(opened)
        self._guard_last_bytes(body)
        self._progress.phase = "piping"
        clock = self._context.meter.clock
        began = clock()
        try:
            stored = self._put(opened, body)
        except RelayError as error:
            self._clean_up_put(opened, body, error)
            if isinstance(error, LengthRequired) and body.length is not None:
                raise _length_required_error(error) from None
            raise
        self._require_stable_source(opened, body, stored)
        if clock() - began > LONG_SECONDS:
            self._require_unmodified_source(opened, stored)
        notes, ended = proof_of_end(opened)
        sent = Sent(body.count, body.digests, opened.version.digests)
        return self._finalizer.verify_and_publish(stored, opened, sent, notes, whole=ended)

    def _refuse_to_truncate_source(self, opened: OpenedObject) -> None:
        """Raise SameObject if the destination may be the source by another name: an upload would
        truncate it before it is read. A server that shows a local folder gives its files other
        paths and ETags, so of a local source the bytes are compared."""
        context, target, ours = self._context, self._target, opened.version
        there = target.before.version if target.before is not None else None
        if target.publishes_atomically or there is None:
            return
        if same_path(opened.location, target.place) and looks_same(ours, there):
            raise _same_object_error(target.place, "path, ETag, size and date")
        origin = context.plan.source
        if origin.store != "local" or not looks_same(replace(ours, etag=there.etag), there):
            return
        source = context.stores.source(origin, context.meter)
        with suppress(StoreError):
            if ours.size and is_piece(
                target.destination, target.place, there, source=source, origin=origin, pinned=ours
            ):
                raise _same_object_error(target.place, "size, date and bytes")

    def _guard_last_bytes(self, body: Body) -> None:
        """Have the lease checked before the last bytes are sent."""
        body.guard = partial(self._check_before_last_bytes, self._target.shows_unproved)
        if body.complete:
            body.check_guard()  # an empty body has no last byte, so check now

    def _put(self, opened: OpenedObject, body: Body) -> PutResult:
        """Send the body in one request, or in parts if one request can't hold it. Raises as
        Destination.put."""
        context, destination = self._context, self._target.destination
        return destination.put(
            self._target.place,
            body,
            opened.metadata,
            if_absent=self._target.if_absent and not self._progress.replaces,
            token=context.known.token,
            **self._multipart_factory(opened, body),
        )

    def _require_stable_source(self, opened: OpenedObject, body: Body, stored: PutResult) -> None:
        """Raise SourceUnstable if an earlier read of this version had other bytes; then the stored
        object is deleted, or reported."""
        try:
            self._source_reader.note_digests(opened, body)
        except SourceUnstable as error:
            destination, was = self._target.destination, self._progress.before
            gone = remove_object(destination, stored, error, was, self._context.began)
            if not gone and stored.place is None:
                self._progress.unproved = self._target.place
            raise

    def _require_unmodified_source(self, opened: OpenedObject, stored: PutResult) -> None:
        """Raise SourceChanged if the source was modified during the upload; then the stored object
        is deleted, or reported."""
        try:
            self._source_reader.refuse_newer(opened)
        except SourceChanged as error:
            raise self._finalizer.discard_stored(error, stored) from None

    def _multipart_factory(self, opened: OpenedObject, body: Body) -> dict[str, Begins]:
        """Return the `begins` argument of Destination.put for an object that is uploaded in parts
        from one body: its length is unknown, or too large for one request. Empty for others."""
        limits = self._target.part_limits
        if limits is None or (body.length is not None and body.length <= limits.largest):
            return {}
        return {
            "begins": self._context.upload_lifecycle.begin_unknown_length(
                opened.version, self._context.needs_digest
            )
        }

    def _check_before_last_bytes(self, shown: bool) -> None:
        """Check the lease before the last bytes are sent. If they make the object visible
        (`shown`), they are the commit point: a later cancel is ignored. Raises LeaseLost,
        LedgerFailed, and as `Watchdog.commit`."""
        if self._context.journal is not None:
            self._context.journal.check_lease()
        if shown:
            self._context.meter.commit()

    def _clean_up_put(self, opened: OpenedObject, body: Body, error: RelayError) -> None:
        """Break an upload that failed with `error`, and delete its leftovers. Record what may be at
        the destination. Raises SourceUnstable."""
        target = self._target
        if _is_never_received(body, error):
            self._progress.note_unsent()
        is_post = target.place.method == "POST"
        self._progress.close()
        self._progress.resent += body.count
        # Whether an object of ours may be there, and whether the place was inspected for one.
        stays, is_checked = True, False
        if not (is_post or target.publishes_atomically or _is_unsent(body, error)):
            assert target.before is not None, "the place is inspected before anything is sent"
            broken = FailedUpload(
                place=target.place, before=target.before, sent=body.count, length=body.length
            )
            is_checked = True
            stays = self._remove_broken_upload(broken, opened.version, error)
        if stays and (_may_be_whole(body, error) or (is_checked and not body.complete)):
            if is_post:  # the next attempt does not replace it
                why = "its answer does not show whether it was stored"
                error.leave(Leftover.SENT, target.place, why)
            elif target.shows_unproved:
                self._progress.unproved = target.place
        # The source may have been read to its end, although the upload failed.
        try:
            self._source_reader.note_digests(opened, body)
        except SourceUnstable as unstable:
            unstable.keep(error.remains)
            raise

    def _remove_broken_upload(
        self, broken: FailedUpload, version: Version, error: RelayError
    ) -> bool:
        """Find and delete the leftovers of a broken upload. Return whether the whole object may be
        there. Has its own short time limit, since the transfer's may have run out."""
        context = self._context
        seconds = min(context.limits.head_seconds, SWEEP_SECONDS)
        meter = Watchdog(replace(context.limits, head_seconds=seconds, total_seconds=2 * seconds))
        waits = [partial(context.sleep, wait) for wait in context.limits.sweep_waits]
        destination = context.stores.destination(broken.place, meter)
        source = context.stores.source(context.plan.source, meter)
        origin = context.plan.source
        begins = partial(
            is_piece, destination, broken.place, source=source, origin=origin, pinned=version
        )
        return remove_failed_upload(
            destination, broken, error, waits, lambda there: begins(there) and self._is_held()
        )

    def _is_held(self) -> bool:
        """Return whether we still hold the lease. If another worker has it, the partial object
        there may be its upload. Raises LedgerFailed."""
        try:
            if self._context.journal is not None:
                self._context.journal.check_lease()
        except LeaseLost:
            return False
        return True


def _is_never_received(body: Body, error: RelayError) -> bool:
    """Return whether the destination has received nothing of the upload: the connection failed
    before the first byte. (A connection may also fail later, as when the server restarts while it
    completes a multipart upload.)"""
    return isinstance(error, NOT_ASKED) and not body.count


def _is_unsent(body: Body, error: RelayError) -> bool:
    """Return whether the destination certainly has nothing of the failed upload."""
    return isinstance(error, PreconditionFailed) or _is_never_received(body, error)


def _may_be_whole(body: Body, error: RelayError) -> bool:
    """Return whether the destination may have stored the whole object in spite of `error`. A
    redirect may lead to the page of the stored object (RFC 9110 section 15.4.4)."""
    answered = may_be_done(error) or isinstance(error, RedirectRefused)
    return body.complete and not _is_unsent(body, error) and answered


def _same_object_error(place: Location, same: str) -> SameObject:
    return SameObject(
        f"{place} has the source's {same}: it may be the same object by another name",
        hint=(
            "An upload would truncate the source before it is read. If these are two identical"
            " objects, use 'if_exists': 'changed' to skip them."
        ),
    )


def _length_required_error(error: LengthRequired) -> RelayError:
    return StoreError(
        f"{error.message}, although a Content-Length was sent",
        side="destination",
        store_status=error.store_status,
    )
