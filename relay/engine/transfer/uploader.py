"""Upload one object, in one request or in parts.

Theory of operation. Whatever ends an upload, its body is closed, which breaks one that is not
whole. What a broken one may have left is looked for and deleted; what arrived is proved.

Decided here: what comes before the first byte, before the last one, and after an upload that broke.
Never here: which of the two ways an object goes, and how bytes move."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from relay.engine.cleanup import (
    NOT_ASKED,
    FailedUpload,
    may_be_done,
    remove_failed_upload,
    remove_object,
)
from relay.engine.inspection import is_piece
from relay.engine.multipart.upload import MultipartUpload
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.expectations import uncompared_digest_notes
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.source_reader import SourceReader, proof_of_end
from relay.engine.transfer.verify import Sent
from relay.errors import (
    LeaseLost,
    LengthRequired,
    PreconditionFailed,
    RangeIgnored,
    RelayError,
    SameObject,
    SourceUnstable,
    StoreError,
)
from relay.identity import same_path
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import Begins, Destination, ObjectInfo, OpenedObject
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

SWEEP_SECONDS = 5.0
"""How long looking for what a broken upload left may take."""


class Uploader:
    """The uploads of one transfer, in all its attempts."""

    def __init__(
        self,
        context: TransferContext,
        progress: Progress,
        source_reader: SourceReader,
        finalizer: Finalizer,
    ) -> None:
        self._context, self._progress, self._source_reader, self._finalizer = (
            context,
            progress,
            source_reader,
            finalizer,
        )

    def upload_multipart(
        self, destination: Destination, place: Location, before: PriorState, found: ObjectInfo
    ) -> Outcome | None:
        """Move it in parts, over what was there `before`. None where the source gives no ranges
        after all; nothing has happened then.

        Raises as MultipartUpload.run and Finalizer.verify_and_publish.
        """
        context, progress = self._context, self._progress
        way = context.part_context(place, found, context.needs_digest)
        absent = context.if_absent and not progress.replaces
        progress.parts = parts = MultipartUpload(way, absent, context.journal, vain=progress.vain)
        progress.total, progress.phase = found.version.size, "piping"
        try:
            moved = parts.run()
        except RelayError as error:
            progress.resent += parts.sent
            progress.vain, discarded = parts.vain, parts.discarded
            progress.discarded += (discarded,) if discarded else ()
            if isinstance(error, RangeIgnored):
                progress.parts = None
                return None
            if parts.may_be_whole(error) and not destination.staged_locations(place, ""):
                progress.unproved = place
            raise
        progress.resent += moved.resent
        sent = Sent(parts.bytes, moved.digests, found.version.digests)
        declared = found.version.digests if context.needs_digest else {}
        notes = uncompared_digest_notes(context.known.promised, declared) + progress.discarded
        return self._finalizer.verify_and_publish(
            destination, place, moved.stored, found, sent, notes, before=before
        )

    def upload_single(
        self,
        destination: Destination,
        place: Location,
        before: PriorState,
        opened: OpenedObject,
        body: Body,
    ) -> Outcome:
        """Move the `body` of what was `opened` in one request, over what was there `before`.

        Raises SameObject for what may be the source by another name, as Destination.put,
        SourceUnstable, and as Finalizer.verify_and_publish. Nothing of a broken upload remains, or
        the error says that it may."""
        context = self._context
        atomic = context.publishes_atomically(destination)
        if (
            not atomic
            and same_path(opened.location, place)
            and _is_same_version(opened.version, before.version)
        ):
            raise _same_object_error(place)
        body.guard = partial(
            self._check_before_last_bytes, not destination.staged_locations(place, "")
        )
        if body.complete:
            body.check_guard()  # an empty one has no bytes that could wait for it
        self._progress.phase = "piping"
        try:
            begins = self._multipart_factory(destination, opened, body)
            absent = context.if_absent and not self._progress.replaces
            stored = destination.put(
                place, body, opened.metadata, if_absent=absent, token=context.known.token, **begins
            )
        except RelayError as error:
            if _is_never_received(body, error):
                self._progress.note_unsent()
            shows = (
                _may_be_whole(body, error)
                and not destination.staged_locations(place, "")
                and place.method != "POST"
            )
            seen = self._break_upload(
                FailedUpload(place, before, body.count, body.length), opened, body, atomic, error
            )
            if shows and seen:
                self._progress.unproved = place
            if isinstance(error, LengthRequired) and body.length is not None:
                raise _length_required_error(error) from None
            raise
        notes, ended = proof_of_end(opened)
        sent = Sent(body.count, body.digests, opened.version.digests)
        try:
            self._source_reader.note_digests(opened, body)
        except SourceUnstable as error:
            gone = remove_object(destination, stored, error, self._progress.before, context.began)
            if not gone and stored.place is None:
                self._progress.unproved = place
            raise
        return self._finalizer.verify_and_publish(
            destination, place, stored, opened, sent, notes, whole=ended, before=before
        )

    def _multipart_factory(
        self, destination: Destination, opened: OpenedObject, body: Body
    ) -> dict[str, Begins]:
        """Return what begins the parts of an object that can't be read in ranges, where a
        destination takes it so: one of unknown length, or too large for one request."""
        limits = destination.part_limits
        if limits is None or (body.length is not None and body.length <= limits.largest):
            return {}
        return {
            "begins": self._context.upload_lifecycle.begin_unknown_length(
                opened.version, self._context.needs_digest
            )
        }

    def _check_before_last_bytes(self, shown: bool) -> None:
        """Look before the last bytes go out whether the object is still ours; `shown` says that
        they make it one that everybody sees. Raises LeaseLost, LedgerFailed, and what the meter
        raises."""
        if self._context.journal is not None:
            self._context.journal.check_lease()
        if shown:
            self._context.meter.commit()

    def _break_upload(
        self,
        broken: FailedUpload,
        opened: OpenedObject,
        body: Body,
        atomic: bool,
        error: RelayError,
    ) -> bool:
        """Break an upload that failed for good, and look for what it left. Returns whether the
        whole of it may be there, as far as anybody looked. Raises SourceUnstable."""
        self._progress.close()
        self._source_reader.note_digests(opened, body)
        self._progress.resent += body.count
        if broken.place.method == "POST" or atomic or _is_unsent(body, error):
            return True
        return self._remove_broken_upload(broken, opened.version, error)

    def _remove_broken_upload(
        self, broken: FailedUpload, version: Version, error: RelayError
    ) -> bool:
        """Look for what the broken upload left, on a short clock of its own: ours may be what ran
        out."""
        context = self._context
        seconds = min(context.limits.head_seconds, SWEEP_SECONDS)
        meter = Watchdog(replace(context.limits, head_seconds=seconds, total_seconds=2 * seconds))
        waits = [partial(context.sleep, wait) for wait in context.limits.sweep_waits]
        destination = context.stores.destination(broken.place, meter)
        source = context.stores.source(context.plan.source, meter)
        begins = partial(is_piece, destination, broken.place, source, context.plan.source, version)
        return remove_failed_upload(
            destination, broken, error, waits, lambda there: begins(there) and self._is_held()
        )

    def _is_held(self) -> bool:
        """Say if the object is still ours: what another makes of it by now looks as a piece of ours
        does. Raises LedgerFailed."""
        try:
            if self._context.journal is not None:
                self._context.journal.check_lease()
        except LeaseLost:
            return False
        return True


def _is_same_version(source: Version, there: Version | None) -> bool:
    """Say if two versions are the same in all that tells versions apart, as those of one object by
    two names are: also without entity tags, which some servers have none of.

    For two objects of one server that says little: nginx makes its tags of the second and the size.
    """
    ours, theirs = ((one.etag, one.size, one.last_modified) for one in (source, there or Version()))
    return ours == theirs and None not in ours[1:]


def _is_never_received(body: Body, error: RelayError) -> bool:
    """Say if the destination knows nothing of an upload that failed so: it was not reached with the
    first byte. (It may be lost later, as when the server restarts while it puts the parts of an
    object together.)"""
    return isinstance(error, NOT_ASKED) and not body.count


def _is_unsent(body: Body, error: RelayError) -> bool:
    """Say if nothing can be there of an upload that failed so."""
    return isinstance(error, PreconditionFailed) or _is_never_received(body, error)


def _may_be_whole(body: Body, error: RelayError) -> bool:
    """Say if an upload that failed so may have been taken whole."""
    return body.complete and not _is_unsent(body, error) and may_be_done(error)


def _same_object_error(place: Location) -> SameObject:
    return SameObject(
        f"{place} has the source's path, entity tag, size and time: it may be the same object by"
        " another name",
        hint=(
            "An upload would empty it before it is read. Two exact twins need no move: 'if_exists':"
            " 'changed' skips."
        ),
    )


def _length_required_error(error: LengthRequired) -> RelayError:
    return StoreError(
        f"{error.message}, although a Content-Length was sent",
        side="destination",
        store_status=error.store_status,
    )
