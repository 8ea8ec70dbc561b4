"""Let a store copy an object by itself: no byte passes through relay.

Decided here: what is copied that way, and what it is proved by. Never here: which stores can
(`stores/`)."""

from __future__ import annotations

from typing import cast

from relay.engine.cleanup import NOT_ASKED, may_be_done
from relay.engine.multipart.upload import COPY_BYTES, MultipartUpload
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer.progress import Progress
from relay.engine.transfer.source_reader import SourceReader
from relay.engine.transfer.verify import Sent
from relay.errors import (
    MetadataUnkept,
    PreconditionFailed,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
)
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.stores.interfaces import CopyDestination, Destination, ObjectInfo, PutResult

_COPIED = "the store copied it by itself: no byte passed through relay"
_UNDONE = (*NOT_ASKED, MetadataUnkept, PreconditionFailed, Rejected, SourceChanged)
"""Failures of a copy after which there is none."""


class ServerCopier:
    """One attempt to have an object copied."""

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

    def copy(
        self, destination: Destination, place: Location, before: PriorState, found: ObjectInfo
    ) -> Outcome | None:
        """Let the store copy it by itself, over what was there `before`. None where it would not,
        or could not say of what: it is piped then.

        Where the source has no digest of the whole object it is read, once, so that the copy can be
        proved. Raises PreconditionFailed, what may pass, as Source.get, and as
        Finalizer.verify_and_publish."""
        reported, progress = self._source_reader.require_description(found), self._progress
        if reported is None or reported.version.size is None:
            return None
        progress.phase, progress.total = "copying", reported.version.size
        try:
            stored = self._copy(destination, place, reported)
        except RelayError as error:
            if self._may_be_copied(error) and not destination.staged_locations(place, ""):
                progress.unproved = place
            if (
                not isinstance(error, StoreError)
                or error.retryable
                or isinstance(error, PreconditionFailed)
            ):
                raise
            progress.parts = None
            return None
        progress.phase = "verifying"
        sent = Sent(reported.version.size, {}, reported.version.digests)
        if not sent.declared and self._context.needs_digest:
            try:
                sent = self._source_reader.read_again(reported.version, reported.version)[0] or sent
            except RelayError as error:
                raise self._finalizer.discard_stored(
                    error, destination, place, stored
                ) from error.__cause__
        return self._finalizer.verify_and_publish(
            destination, place, stored, reported, sent, (_COPIED,), moved=0, before=before
        )

    def _may_be_copied(self, error: RelayError) -> bool:
        """Say if the copy may be there after it failed so."""
        if self._progress.parts is not None:
            return self._progress.parts.may_be_whole(error)
        return may_be_done(error) and not isinstance(error, _UNDONE)

    def _copy(self, destination: Destination, place: Location, found: ObjectInfo) -> PutResult:
        """Have it copied; in parts, if it is too large for one request. Raises as
        CopyDestination.copy."""
        context = self._context
        absent = context.if_absent and not self._progress.replaces
        if destination.part_limits is not None and (found.version.size or 0) > COPY_BYTES:
            way = context.part_context(place, found, digested=False, copying=True)
            self._progress.parts = parts = MultipartUpload(way, absent, context.journal)
            return parts.run().stored
        copier, token = cast(CopyDestination, destination), context.known.token
        stored = copier.copy(context.plan.source, found, place, if_absent=absent, token=token)
        self._progress.copied = found.version.size or 0
        return stored
