"""Move parts of an object that another worker has claimed.

Theory of operation. The owner of the transfer has created the multipart upload, and completes or
aborts it. The helper takes part numbers from the ledger one by one, as the owner does, and moves
those parts. A part that fails here is released and does not fail the object: the owner retries it.

Never here: which worker moves a part (the ledger), and how it is moved (`PartWorkers`)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.multipart.part_sizes import ranges_of
from relay.engine.multipart.part_workers import PartContext, PartWorkers
from relay.engine.retries import PendingRetry
from relay.engine.transfer.progress import Phase
from relay.engine.transfer.transfer import Transfer
from relay.errors import RelayError, StoreError, UploadGone
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import PartLease, StoredPart
from relay.stores.interfaces import ObjectInfo, PartsDestination, Upload
from relay.tallies import Carried
from relay.wire.watchdog import Watchdog


@dataclass(eq=False)
class PartHelper:
    """This process's help with one object. Call `run` once; other greenlets may read `bytes` and
    `total`, and `cancel` it."""

    share: PartLease
    ledger: Ledger
    context: PartContext

    def __post_init__(self) -> None:
        """Prepare the part workers."""
        begun = self.share.upload
        self._window = PartWorkers(self.context, ranges_of(begun.size, begun.part_bytes))
        self._upload = Upload(self.context.place, begun.upload_id, begun.checked)
        self._first: int | None = self.share.first
        self.counted = Carried()
        """As Transfer.counted."""

    @classmethod
    def for_lease(cls, share: PartLease, transfer: Transfer, ledger: Ledger) -> PartHelper | None:
        """Return the helper for a lease; `transfer` gives its plan and stores and is not run.
        Returns None if the plan now leads to another location."""
        place, pinned = location_of_upload(transfer.plan, share.upload), share.upload.pinned
        if place is None or pinned is None:
            return None
        found = ObjectInfo(pinned, transfer.plan.source, ranges=True)
        return cls(
            share, ledger, transfer.part_context(place, found, digested=share.upload.digested)
        )

    @property
    def meter(self) -> Watchdog:
        """The watchdog of this process's part of the object."""
        return self.context.meter

    @property
    def phase(self) -> Phase:
        """The phase, as of a Transfer."""
        return "piping"

    @property
    def bytes(self) -> int:
        """Bytes that this process moved."""
        return self._window.bytes

    @property
    def moved_bytes(self) -> int:
        """The same as `bytes`: other workers' parts are not known here."""
        return self._window.moved_bytes

    @property
    def carried_bytes(self) -> Carried:
        """The bytes that this process has moved of the object."""
        return Carried(self._window.moved_bytes, 0, self._window.resent)

    @property
    def under_way(self) -> int:
        """The moved bytes that are not recorded in the ledger yet."""
        return self._window.under_way

    @property
    def total(self) -> int | None:
        """The size of the whole object in bytes."""
        return self.share.upload.size

    @property
    def trouble(self) -> PendingRetry | None:
        """The pending retry, as of a Transfer."""
        return self.context.troubles.worst

    def cancel(self, why: RelayError | None = None) -> None:
        """Cancel; `run` ends within about a second."""
        self.meter.cancel(why)

    def run(self) -> None:
        """Move parts until none is left to take. Raises a RelayError; unfinished parts are released
        then. After a LedgerFailed the ledger may still hold some."""
        try:
            self._window.run(self._upload, self._take)
        except UploadGone:
            self._abort()
            raise
        finally:
            self.ledger.uploads.release_parts(self.share.claim, resent=self._window.resent)
            if self._window.unsure is not None:
                raise self._window.unsure

    def _take(self, done: StoredPart | None) -> int | None:
        if done is None and self._first is not None:
            first, self._first = self._first, None
            return first
        return self.ledger.uploads.take_part(self.share.claim, self._upload.id, done)

    def _abort(self) -> None:
        """Abort the upload once more: a part that was being sent when the upload was aborted may
        be stored, and charged, until another abort (S3's AbortMultipartUpload)."""
        destination = self.context.stores.destination(
            self.context.place, Watchdog(self.context.limits)
        )
        with suppress(StoreError):
            cast(PartsDestination, destination).abort(self._upload)
