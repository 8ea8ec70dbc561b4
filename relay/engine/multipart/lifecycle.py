"""The life of a multipart upload in the journal: from the note before it begins to the note after
it ended.

Theory of operation. A store remembers an upload that was begun until it is completed or thrown
away, and its owner pays for what is in it. So with a journal it is written down that one is about
to begin, and then which one it is; only then are bytes sent. Whoever makes the transfer after a
crash finds the note. One that is of use to nobody any more is thrown away, and forgotten only then.

Decided here: in which order an upload and its note come and go. Never here: what is in it, and who
goes on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, cast
from urllib.parse import unquote

from relay.config import Limits
from relay.engine.cleanup import abort_upload, uploads_of
from relay.engine.multipart.journal import Journal
from relay.engine.plan import Plan
from relay.errors import RelayError, StoreError, remaining
from relay.ledger.rows import UploadRecord
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import Begins, Destination, PartsDestination, StoreProvider, Upload
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

_UPLOAD: Final = "An unfinished upload"


def _describe_upload(upload: Upload) -> str:
    """Return what tells an upload from the object of its name, and from others to it."""
    return f"{upload.location}, upload {upload.id}"


def location_of_upload(plan: Plan, begun: UploadRecord) -> Location | None:
    """Return where an upload that another began goes, with our credentials; None where our plan
    leads elsewhere."""
    place = plan.destination
    if place.path.endswith("/"):
        place = place.named(unquote(begun.place.rpartition("/")[2]))
    return place if str(place) == begun.place else None


@dataclass(frozen=True)
class UploadLifecycle:
    """The uploads in parts of one transfer, and its notes of them; without a journal nobody learns
    of them."""

    stores: StoreProvider
    limits: Limits
    meter: Watchdog
    journal: Journal | None
    remains: dict[str, str] = field(default_factory=dict)
    """As Progress.remains."""

    def begin(self, place: Location, metadata: Fields, about: UploadRecord) -> Upload:
        """Begin an upload, and write that down before anything depends on it: that one is about to
        be begun, and which one it is. Raises StoreError, LeaseLost, LedgerFailed; then there is
        none."""
        if self.journal is not None:
            self.journal.begin(about)
        reach("before-begin")
        self.meter.check()
        upload = cast(PartsDestination, self._without_cancellation(place)).begin(place, metadata)
        reach("after-begin")
        if self.journal is not None:
            try:
                self.journal.begin(replace(about, upload_id=upload.id, checked=upload.checked))
            except BaseException as error:
                self.abort(upload, error, written=False)
                raise
        reach("after-begin-row")
        return upload

    def begin_unknown_length(self, version: Version, digested: bool) -> Begins:
        """Return what begins an upload of an object whose length shows only at its end. Nobody can
        go on with one: its bytes come once, in order."""
        return partial(self._begin_recorded, version, digested)

    @contextmanager
    def _begin_recorded(
        self, version: Version, digested: bool, place: Location, metadata: Fields
    ) -> Iterator[Upload]:
        about = UploadRecord("", False, str(place), version.etag or "", 0, 0, digested=digested)
        upload = self.begin(place, metadata, about)
        try:
            yield upload
        except BaseException as error:
            self.abort(upload, error)
            raise

    def abort_lost_uploads(self, place: Location, written: UploadRecord) -> None:
        """Throw away what an earlier attempt began and nobody goes on with, and forget it. Raises
        what may pass: the ledger knows of one upload only."""
        for upload in uploads_of(
            self.stores.destination(place, self.meter), place, written, self.limits
        ):
            self.replace(upload)

    def replace(self, upload: Upload) -> None:
        """Throw away an upload in whose place another may be begun; one that the store keeps is
        told. Raises as `abort_lost_uploads`."""
        try:
            self._abort_and_forget(upload)
        except StoreError as error:
            if error.retryable:
                raise
            self.remains[_describe_upload(upload)] = remaining(
                _UPLOAD, _describe_upload(upload), error.message
            )
        else:
            self.remains.pop(_describe_upload(upload), None)

    def discard(self, upload: Upload) -> None:
        """Throw an upload away, and forget it. Raises StoreError, LeaseLost, LedgerFailed; then it
        is still there."""
        self._abort_and_forget(upload)

    def abort(self, upload: Upload, error: BaseException, written: bool = True) -> None:
        """Throw the upload away; where that can't be done, `error` says what remains."""
        try:
            self._abort_and_forget(upload, written)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.leave(_UPLOAD, _describe_upload(upload), failure.message)

    def _abort_and_forget(self, upload: Upload, written: bool = True) -> None:
        """Throw the upload away, and then forget it: one that is gone and still written down is
        found to be gone.

        Not where it is another's by now, who may be going on with it. Raises LeaseLost, StoreError,
        LedgerFailed."""
        if self.journal is not None and written:
            self.journal.check_lease()
        reach("before-abort")
        abort_upload(self._without_cancellation(upload.location), upload)
        reach("after-abort")
        if self.journal is not None and written:
            self.journal.forget()

    def _without_cancellation(self, place: Location) -> Destination:
        """Return the destination for what must be heard to its end, even by one who is told to
        stop: an upload that was begun, and nobody was told which it is, stays."""
        meter = Watchdog(self.limits)
        meter.throttle = self.meter.throttle
        return self.stores.destination(place, meter)
