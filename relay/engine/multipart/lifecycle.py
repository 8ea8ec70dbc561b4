"""Create and abort multipart uploads, with a note in the journal before and after.

Theory of operation. A store keeps an incomplete multipart upload until it is completed or aborted,
and charges for its parts. So the journal notes that an upload is about to be created, and then its
id; only then are bytes sent. After a crash the next worker finds the note. A useless upload is
aborted first, and its note removed afterwards.

Decided here: the order of an upload and its note. Never here: the parts, and who resumes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast
from urllib.parse import unquote

from relay.engine.cleanup import abort_upload, uploads_of
from relay.engine.multipart.journal import Journal
from relay.engine.plan import Plan
from relay.errors import Leftover, RelayError, StoreError, remaining
from relay.ledger.upload_values import UploadRecord
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import Begins, Destination, PartsDestination, StoreProvider, Upload
from relay.transfer_limits import Limits
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog


def _describe_upload(upload: Upload) -> str:
    """Return the name of an upload in messages: its place and its id."""
    return f"{upload.location}, upload {upload.id}"


def location_of_upload(plan: Plan, begun: UploadRecord) -> Location | None:
    """Return the place of a recorded upload, with our credentials; None if our plan has another
    destination."""
    place = plan.destination
    if place.path.endswith("/"):
        place = place.object_named(unquote(begun.place.rpartition("/")[2]))
    return place if str(place) == begun.place else None


@dataclass(frozen=True, kw_only=True)
class UploadLifecycle:
    """Creates and aborts the multipart uploads of one transfer, and notes them in its journal, if
    it has one."""

    stores: StoreProvider
    limits: Limits
    meter: Watchdog
    journal: Journal | None
    remains: dict[str, str] = field(default_factory=dict)
    """As Progress.remains."""

    def begin(self, place: Location, metadata: Fields, about: UploadRecord) -> Upload:
        """Create an upload, with a note before, and one of its id afterwards. Raises StoreError,
        LeaseLost, LedgerFailed; then the upload is aborted, or the error says that it may
        remain."""
        if self.journal is not None:
            self.journal.begin(about)
        reach("before-begin")
        # The last chance to cancel before the upload exists and its id is recorded.
        self.meter.check()
        upload = cast(PartsDestination, self._without_cancellation(place)).begin(place, metadata)
        reach("after-begin")
        if self.journal is not None:
            try:
                self.journal.begin(replace(about, upload_id=upload.id, checked=upload.checked))
            except BaseException as error:
                # The record without an id stays: if the abort fails, it is the only trace.
                self.abort(upload, error, written=False)
                raise
        reach("after-begin-row")
        return upload

    def begin_unknown_length(self, version: Version, digested: bool) -> Begins:
        """Return a factory of uploads for an object of unknown length. Such an upload can't be
        resumed: its bytes come once, in order."""
        return partial(self._begin_recorded, version, digested)

    @contextmanager
    def _begin_recorded(
        self, version: Version, digested: bool, place: Location, metadata: Fields
    ) -> Iterator[Upload]:
        about = UploadRecord(
            upload_id="",
            checked=False,
            place=str(place),
            etag=version.etag or "",
            size=0,
            part_bytes=0,
            digested=digested,
        )
        upload = self.begin(place, metadata, about)
        try:
            yield upload
        except BaseException as error:
            self.abort(upload, error)
            raise

    def abort_lost_uploads(self, place: Location, written: UploadRecord) -> None:
        """Abort the uploads of an earlier attempt that are not resumed, and remove their note.
        Raises retryable StoreErrors, LeaseLost, LedgerFailed: the ledger has room for one upload
        only, so no other may be created before."""
        for upload in uploads_of(
            self.stores.destination(place, self.meter), place, written, self.limits
        ):
            self.replace(upload)

    def replace(self, upload: Upload) -> None:
        """Abort an upload so that another may be created. If the store refuses permanently, it is
        added to `remains`. Raises as `abort_lost_uploads`."""
        try:
            self._abort_and_forget(upload)
        except StoreError as error:
            if error.retryable:
                raise
            self.remains[_describe_upload(upload)] = remaining(
                Leftover.UPLOAD, _describe_upload(upload), error.message
            )
        else:
            self.remains.pop(_describe_upload(upload), None)

    def discard(self, upload: Upload) -> None:
        """Abort an upload, and remove its note. Raises StoreError, LeaseLost, LedgerFailed; then
        the upload still exists."""
        self._abort_and_forget(upload)

    def abort(self, upload: Upload, error: BaseException, written: bool = True) -> bool:
        """Abort the upload after `error`. Return False if that fails; then `error` says that the
        upload remains."""
        try:
            self._abort_and_forget(upload, written)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.leave(Leftover.UPLOAD, _describe_upload(upload), failure.message)
            return False
        return True

    def _abort_and_forget(self, upload: Upload, written: bool = True) -> None:
        """Abort the upload, then remove its note. After a crash in between, the next attempt finds
        that the noted upload is gone.

        Raises LeaseLost if another worker has the transfer, since it may be resuming the upload;
        StoreError, LedgerFailed."""
        if self.journal is not None and written:
            self.journal.check_lease()
        reach("before-abort")
        destination = self._without_cancellation(upload.location)
        abort_upload(destination, upload, self.remains)
        reach("after-abort")
        if self.journal is not None and written:
            self.journal.forget()

    def _without_cancellation(self, place: Location) -> Destination:
        """Return a destination that ignores cancellation: if we stopped before we read the id of a
        new upload, the upload would leak."""
        meter = Watchdog(self.limits)
        meter.throttle = self.meter.throttle
        return self.stores.destination(place, meter)
