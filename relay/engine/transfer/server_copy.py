"""Server-side copy: the store copies the object, and no byte passes through relay.

Decided here: which objects are copied so, and how a copy is verified. Never here: which stores can
copy (`stores/`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from relay.engine.cleanup import NOT_ASKED, may_be_done
from relay.engine.comparison import has_same_tag
from relay.engine.multipart.part_sizes import COPY_BYTES
from relay.engine.multipart.upload import MultipartUpload
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.donor import Donor
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.source_reader import SourceReader
from relay.engine.transfer.target import Target
from relay.engine.transfer.verify import Sent
from relay.errors import (
    MetadataUnkept,
    PreconditionFailed,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
)
from relay.location import Location
from relay.stores.interfaces import (
    CopyDestination,
    DescribedCopyDestination,
    ObjectInfo,
    PutResult,
)
from relay.stores.metadata import CARRIED, USER

DESCRIBING: Final = frozenset({"s3"})
"""The stores that can give a copy other metadata than the copied object has. Each is a
DescribedCopyDestination."""
_COPIED = "server-side copy: no byte passed through relay"
_UNDONE = (*NOT_ASKED, MetadataUnkept, PreconditionFailed, Rejected, SourceChanged)
"""Failures after which the destination certainly has no copy."""


def has_foreign_fields(described: ObjectInfo, donor: ObjectInfo, place: Location) -> bool:
    """Return whether an object has fields that its copy with other metadata, at `place`, may not
    have. Some servers keep them (rclone serve s3 ignores `x-amz-metadata-directive`)."""
    own = {name.lower() for name, _ in (*described.metadata, *place.headers)}
    names = {name.lower() for name, _ in donor.metadata} - own - {"content-type"}
    return any(name in CARRIED or name.startswith(USER) for name in names)


class ServerCopier:
    """One attempt to let the store copy an object."""

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

    def copy(self, found: ObjectInfo) -> Outcome | None:
        """Let the store copy the object. Return None where the store refuses, or does not describe
        the source: relay then moves the bytes itself.

        If the source has no digest of the whole object, the source is read once, so that the copy
        can be verified. Raises PreconditionFailed, LeaseLost, LedgerFailed, retryable StoreErrors,
        as Source.get, Watchdog.commit and Finalizer.verify_and_publish."""
        described, progress = self._source_reader.require_description(found), self._progress
        if described is None or described.version.size is None:
            return None
        progress.phase, progress.total = "copying", described.version.size
        is_parted = self._is_parted(described)
        if not is_parted:  # a copy in parts checks that itself, before its completion
            self._check_before_copy()
        stored = self._unless_refused(lambda: self._copy(described, is_parted))
        if stored is None:
            return None
        progress.phase = "verifying"
        sent = Sent(described.version.size, {}, described.version.digests)
        if not sent.declared and self._context.needs_digest:
            try:
                sent = (
                    self._source_reader.read_again(described.version, described.version)[0] or sent
                )
            except RelayError as error:
                raise self._finalizer.discard_stored(error, stored) from error.__cause__
        notes = (_COPIED, *progress.discarded)
        return self._finalizer.verify_and_publish(stored, described, sent, notes, moved=0)

    def copy_donor(self, found: ObjectInfo | None, donor: Donor) -> Outcome | None:
        """Let the destination copy an object that has the content of the source's, with the
        source's own metadata. Return None if it refuses, if either object is another one by now, or
        if the donor has fields that might stay: relay then moves the bytes itself.

        The donor's digests are those of the source's bytes, so the copy is verified by them. Raises
        as `copy`."""
        described, target = self._source_reader.require_description(found), self._target
        if described is None or not donor.content.is_of(described.version):
            return None
        if (described.version.size or 0) > COPY_BYTES:
            return None
        there = self._donor_there(donor)
        if there is None or has_foreign_fields(described, there, target.place):
            return None
        self._progress.phase, self._progress.total = "copying", described.version.size
        self._check_before_copy()
        absent = target.if_absent and not self._progress.replaces
        copier = cast(DescribedCopyDestination, target.destination)
        metadata = described.metadata
        try:
            stored = self._unless_refused(
                lambda: copier.copy_described(
                    donor.place, there, target.place, metadata, if_absent=absent
                )
            )
        except SourceChanged:  # not the source has changed, but the donor
            self._context.meter.committed = False
            return None
        if stored is None:
            return None
        self._progress.copied = donor.content.size
        self._progress.phase = "verifying"
        sent = Sent(donor.content.size, donor.digests, described.version.digests)
        notes = (
            f"copied from {donor.name!a}: the source tells one {donor.content.algorithm} of both",
            _COPIED,
        )
        return self._finalizer.verify_and_publish(
            stored, described, sent, (*notes, *self._progress.discarded), moved=0
        )

    def _donor_there(self, donor: Donor) -> ObjectInfo | None:
        """Return the donor as it is at the destination, or None if it is not certainly the version
        that was verified. Raises retryable StoreErrors."""
        try:
            there = self._target.destination.head(donor.place)
        except StoreError as error:
            if error.retryable:
                raise
            return None
        if not isinstance(there, ObjectInfo) or there.version.size != donor.content.size:
            return None
        is_same = has_same_tag(donor.version, there.version)
        return there if is_same and there.version.strong_etag is not None else None

    def _unless_refused(self, request: Callable[[], PutResult]) -> PutResult | None:
        """Return the copy that a request makes, or None where the store refuses: relay then moves
        the bytes, and keeps the copy's leftovers. Raises what leaves open if there is a copy, and
        retryable StoreErrors."""
        progress = self._progress
        try:
            return request()
        except RelayError as error:
            if self._may_be_copied(error) and self._target.shows_unproved:
                progress.unproved = self._target.place
            if (
                not isinstance(error, StoreError)
                or error.retryable
                or isinstance(error, PreconditionFailed)
            ):
                raise
            self._context.meter.committed = False
            progress.parts = None
            progress.remains |= error.remains
            return None

    def _may_be_copied(self, error: RelayError) -> bool:
        """Return whether the destination may have the copy in spite of `error`."""
        if self._progress.parts is not None:
            return self._progress.parts.may_be_whole(error)
        return may_be_done(error) and not isinstance(error, _UNDONE)

    def _is_parted(self, found: ObjectInfo) -> bool:
        """Return whether the object is too large for a copy in one request."""
        return self._target.part_limits is not None and (found.version.size or 0) > COPY_BYTES

    def _check_before_copy(self) -> None:
        """Check the lease before the one request of a copy. If that makes the object visible, it is
        the commit point. Raises LeaseLost, LedgerFailed, and as `Watchdog.commit`."""
        if self._context.journal is not None:
            self._context.journal.check_lease()
        if self._target.shows_unproved:
            self._context.meter.commit()

    def _copy(self, found: ObjectInfo, is_parted: bool) -> PutResult:
        """Request the copy, with `is_parted` in parts. Raises as CopyDestination.copy and
        MultipartUpload.run."""
        context = self._context
        destination = self._target.destination
        place = self._target.place
        progress = self._progress
        absent = self._target.if_absent and not progress.replaces
        if is_parted:
            part_context = context.part_context(place, found, digested=False, copying=True)
            parts = MultipartUpload(
                part_context,
                if_absent=absent,
                journal=context.journal,
                fruitless=progress.fruitless,
            )
            progress.parts = parts
            try:
                return parts.run().stored
            except RelayError:
                progress.note_failed_parts(parts)
                raise
        copier, token = cast(CopyDestination, destination), context.known.token
        stored = copier.copy(context.plan.source, found, place, if_absent=absent, token=token)
        progress.copied = found.version.size or 0
        return stored
