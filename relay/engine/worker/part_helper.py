"""Move parts of an object that another worker has claimed.

Theory of operation. The other has begun the upload, and completes it or throws it away; all that
happens here is that parts are taken from the ledger one after the other, as the other takes them,
and moved. Whatever fails here is given back, and is no failure of the object: the other meets it by
itself, or does not.

Decided here: nothing but that. Which part is whose the ledger says; how one moves, the window.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from relay.engine.multipart.lifecycle import location_of_upload
from relay.engine.multipart.part_workers import PartContext, PartWorkers, ranges_of
from relay.engine.retries import PendingRetry
from relay.engine.transfer.transfer import Transfer
from relay.errors import RelayError, StoreError, UploadGone
from relay.ledger.ledger import Ledger
from relay.ledger.rows import PartLease, StoredPart
from relay.stores.interfaces import ObjectInfo, PartsDestination, Upload
from relay.wire.watchdog import Watchdog


@dataclass(eq=False)
class PartHelper:
    """What is moved here of one shared object. Run it once; others may read `bytes` and `total`,
    and `cancel` it."""

    share: PartLease
    ledger: Ledger
    way: PartContext

    def __post_init__(self) -> None:
        """Nothing has moved yet."""
        begun = self.share.upload
        self._window = PartWorkers(self.way, ranges_of(begun.size, begun.part_bytes))
        self._upload = Upload(self.way.place, begun.upload_id, begun.checked)
        self._first: int | None = self.share.first

    @classmethod
    def for_lease(cls, share: PartLease, transfer: Transfer, ledger: Ledger) -> PartHelper | None:
        """Return it as the parts of a transfer that is not to be run; None where its plan leads
        elsewhere by now."""
        place, pinned = location_of_upload(transfer.plan, share.upload), share.upload.pinned
        if place is None or pinned is None:
            return None
        found = ObjectInfo(pinned, transfer.plan.source, ranges=True)
        return cls(
            share, ledger, transfer.part_context(place, found, digested=share.upload.digested)
        )

    @property
    def meter(self) -> Watchdog:
        """What measures it."""
        return self.way.meter

    @property
    def phase(self) -> str:
        """What it is at, as a transfer's."""
        return "piping"

    @property
    def bytes(self) -> int:
        """The bytes that were moved here."""
        return self._window.bytes

    @property
    def moved(self) -> int:
        """The same: what others move of it is not known here."""
        return self._window.moved

    @property
    def under_way(self) -> int:
        """Those of them that the ledger does not know of yet."""
        return self._window.under_way

    @property
    def total(self) -> int | None:
        """The bytes of the whole object, of which some are moved here."""
        return self.share.upload.size

    @property
    def trouble(self) -> PendingRetry | None:
        """As a transfer's."""
        return self.way.troubles.worst

    def cancel(self, why: RelayError | None = None) -> None:
        """Let it end within about a second."""
        self.meter.cancel(why)

    def run(self) -> None:
        """Move parts until none is left to take. Raises a RelayError; what was not done is
        anybody's again then."""
        try:
            self._window.run(self._upload, self._take)
        except UploadGone:
            self._abort()
            raise
        finally:
            self.ledger.release_parts(self.share.claim, resent=self._window.resent)

    def _take(self, done: StoredPart | None) -> int | None:
        if done is None and self._first is not None:
            first, self._first = self._first, None
            return first
        return self.ledger.take_part(self.share.claim, self._upload.id, done)

    def _abort(self) -> None:
        """Throw it away once more: a part that was under way when its upload was may be kept, at a
        cost, until then (S3's AbortMultipartUpload says so)."""
        destination = self.way.stores.destination(self.way.place, Watchdog(self.way.limits))
        with suppress(StoreError):
            cast(PartsDestination, destination).abort(self._upload)
