"""One object as a multipart upload: create it, move its parts by ranged reads, complete it.

Theory of operation. The object is split into parts of one size that the destination's limits
permit; `part_workers.py` moves several of them concurrently. The CRC64NVME of each part is computed
in transit, and all are combined into that of the whole object, which is compared with the source's
and the destination's. The object is not visible before the upload is completed; after a permanent
failure the upload is aborted.

With a journal every step is recorded, and the upload of another process is resumed: the destination
lists its parts, and those on which it and the journal agree are not sent again. Other workers may
help with parts meanwhile (`worker/part_helper.py`); the owner of the transfer waits for theirs, and
completes the upload.

Decided here: the part size, which parts are kept, when an upload is completed or aborted. Never
here: how one part moves."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import cast

from relay.digest import Digests, as_hex, combine_crc64nvme
from relay.engine.multipart.journal import Journal, can_resume, confirmed_parts
from relay.engine.multipart.lifecycle import UploadLifecycle
from relay.engine.multipart.part_sizes import COPY_BYTES, split_into_ranges
from relay.engine.multipart.part_workers import (
    COMBINED,
    NextPart,
    PartContext,
    PartWorkers,
    numbered_parts,
    pause,
)
from relay.errors import (
    AlreadyExists,
    Cancelled,
    CertificateRefused,
    ConnectFailed,
    EgressDenied,
    IntegrityMismatch,
    LeaseLost,
    LedgerFailed,
    Locked,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeIgnored,
    Rejected,
    RelayError,
    SourceUnstable,
    StoreFull,
    Throttled,
    Unauthenticated,
    Unavailable,
    UploadGone,
)
from relay.ledger.upload_values import UploadRecord
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import (
    Part,
    PartsDestination,
    PutResult,
    UnknownObject,
    Upload,
)
from relay.wire.watchdog import Watchdog

OTHERS_SECONDS = 0.25
"""How often, in seconds, the owner checks whether its helpers have finished their parts."""


MAX_FRUITLESS_RESUMES = 2
"""Number of consecutive resumes without an accepted part after which the upload is aborted."""
UNREACHABLE_ERRORS = (
    UploadGone,
    ConnectFailed,
    CertificateRefused,
    EgressDenied,
    Throttled,
    Locked,
)
"""Failures that say nothing about the upload: the store is unreachable or busy."""
DISCARD_ERRORS = (UploadGone, RangeIgnored, SourceUnstable)
"""Failures after which the uploaded parts are useless."""

NOT_COMPLETED_ERRORS = (Rejected, PreconditionFailed, AlreadyExists, IntegrityMismatch)
"""Answers to a completion request that are final: they concern the whole upload, not one part."""


@dataclass(frozen=True)
class MovedParts:
    """A completed multipart upload: the destination's answer, the object's digests, and the bytes
    that had to be sent again."""

    stored: PutResult
    digests: Digests
    resent: int


@dataclass(eq=False)
class MultipartUpload:
    """Moves one object as a multipart upload. Call `run` once."""

    context: PartContext
    _: KW_ONLY
    if_absent: bool = False
    journal: Journal | None = None
    fruitless: int = 0
    """Number of consecutive attempts that resumed the upload and had no part accepted."""
    after_crash: bool = False
    """True if the process of the attempt before was lost: nothing has counted what it sent."""

    def __post_init__(self) -> None:
        """Split the object into parts; nothing moves yet. Raises Rejected as `split_into_ranges`,
        LeaseLost, LedgerFailed."""
        size = self.context.found.version.size
        assert size is not None, "only an object of known size is split"
        self._destination = cast(
            PartsDestination,
            self.context.stores.destination(self.context.place, self.context.meter),
        )
        limits = self._destination.part_limits(self.context.place)
        assert limits is not None, "only a store with multipart uploads has limits of parts"
        self._written = self.journal.recorded_upload() if self.journal is not None else None
        self._workers = PartWorkers(
            self.context, split_into_ranges(size, self._wished_part_bytes(), limits)
        )
        self._lifecycle = UploadLifecycle(
            stores=self.context.stores,
            limits=self.context.limits,
            meter=self.context.meter,
            journal=self.journal,
            remains=self.context.remains,
        )
        self._resumed: Upload | None = None
        """The upload that this attempt resumed."""
        self._completing = False
        self._completion_requests = 0
        """Number of completion requests."""
        self._kept = True
        """True if the next attempt can resume the acknowledged parts."""
        self.discarded = ""
        """The note about a resumed upload that this attempt aborted."""

    def _wished_part_bytes(self) -> int:
        """Return the part size of the recorded upload of this version, so that it is resumed also
        under another setting; without one that of the settings."""
        version, written = self.context.found.version, self._written
        if self.context.copying:
            return COPY_BYTES
        # A record without a version is that of a copy, or of an object of unknown length.
        if written is None or written.pinned is None:
            return self.context.limits.part_bytes
        is_same = (written.etag, written.size) == (version.etag, version.size)
        return written.part_bytes if is_same else self.context.limits.part_bytes

    @property
    def bytes(self) -> int:
        """The bytes that have moved, including those of parts in flight."""
        return self._workers.bytes

    @property
    def moved_bytes(self) -> int:
        """As PartWorkers.moved_bytes."""
        return self._workers.moved_bytes

    @property
    def under_way(self) -> int:
        """As PartWorkers.under_way."""
        return self._workers.under_way

    @property
    def part_counts(self) -> tuple[int, int]:
        """How many parts this process knows that the destination has, and how many there are."""
        return len(self._workers.done), len(self._workers.spans)

    @property
    def bytes_at_risk(self) -> int:
        """The bytes of this attempt that must be sent again if it fails, without those of
        acknowledged parts."""
        return self._workers.resent + self._workers.under_way

    @property
    def aborted_bytes(self) -> int:
        """The bytes of acknowledged parts that the next attempt must send again, because the upload
        was aborted."""
        return 0 if self._kept else self._workers.bytes - self._workers.under_way

    def run(self) -> MovedParts:
        """Move the object. Raises a RelayError on a permanent failure; then the upload is aborted,
        unless it can be resumed: there is a journal, and some parts have arrived.

        Raises RangeIgnored if the source ignores ranges; then nothing is at the destination."""
        # Step 1: an earlier attempt may have requested the completion already.
        written = self._written
        if written is not None:
            moved = self._resume_completed(written)
            if moved is not None:
                return moved
        upload: Upload | None = None
        try:
            # Step 2: resume its upload, or create another.
            if written is not None:
                upload = self._resume(written)
            if upload is None:
                upload = self._create()
            # Step 3: move the parts, and complete the upload.
            self._move_all(upload)
            return self._complete(upload)
        except BaseException as error:
            # Step 4: decide if the next attempt can resume this upload.
            gone = self._discard_stuck_upload(error)
            if gone is not None:
                self._kept = False
                raise gone from error
            has_journal = self.journal is not None
            if upload is not None and not (has_journal and self._can_continue(error)):
                is_aborted = self._lifecycle.abort(upload, error)
                self._kept = has_journal and not is_aborted
            raise

    def _discard_stuck_upload(self, error: BaseException) -> UploadGone | None:
        """Abort a resumed upload that makes no progress. Return the error to raise, or None if the
        upload is kept.

        Some stores keep a broken part, and then never accept a part of that upload again. If the
        abort fails as well, the upload is kept: the store itself does not answer. Raises the
        failure of the abort if it is retryable and the completion was refused."""
        upload = self._resumed
        self.fruitless = self.fruitless + 1 if self._is_fruitless(error) else 0
        refused = self._completing and isinstance(error, Rejected)
        # A full store says nothing about the parts.
        refused &= not isinstance(error, StoreFull)
        if (
            upload is None
            or not isinstance(error, RelayError)
            or not (refused or self.fruitless >= MAX_FRUITLESS_RESUMES)
        ):
            return None
        try:
            self._lifecycle.discard(upload)
        except RelayError as failure:
            if refused and failure.retryable:
                raise  # the next attempt is refused again, and aborts the upload
            return None
        self.fruitless = 0
        self.discarded = (
            f"a resumed multipart upload accepted no more parts, and was restarted: {error.message}"
        )
        return UploadGone(f"the resumed multipart upload accepts no parts: {error.message}")

    def _is_fruitless(self, error: BaseException) -> bool:
        """Return whether a resumed upload has accepted no part, although the destination
        answers."""
        if self._resumed is None or self._workers.taken or not isinstance(error, RelayError):
            return False
        status = getattr(error, "store_status", None) or 0
        busy = isinstance(error, UNREACHABLE_ERRORS) or status > 501  # of a gateway
        return error.side == "destination" and error.retryable and not busy

    # -- the upload

    def _resume_completed(self, written: UploadRecord) -> MovedParts | None:
        """Return the object that an earlier attempt completed under a temporary name, and crashed
        before it published it; else None. Nothing is sent.

        It must be verified like any other upload.
        """
        if written.digest is None or not self._is_ours(written):
            return None
        left = self._completed_location(written)
        if left is None:
            return None
        # Nothing is sent, but `bytes` must be the object's length.
        for part in written.parts:
            self._workers.record_part(part)
        digests = {COMBINED: bytes.fromhex(written.digest)} if written.digest else {}
        place = self.context.place
        notes = self._destination.unkept_metadata(place, self.context.found.metadata)
        return MovedParts(PutResult(Version(), left, {}, place=place, notes=notes), digests, 0)

    def _completed_location(self, written: UploadRecord) -> Location | None:
        """Return the temporary place of the completed object, or None. Raises StoreError."""
        for place in self._destination.staged_locations(self.context.place, written.upload_id):
            try:
                found = self._destination.head(place)
            except NotFound:
                continue
            if not isinstance(found, UnknownObject) and found.version.size in (None, written.size):
                return place
        return None

    def _is_ours(self, written: UploadRecord) -> bool:
        """Return whether the recorded upload has this version, this place and this part size."""
        version = self.context.found.version
        step = self._workers.spans[0].length
        return can_resume(written, str(self.context.place), version.etag, version.size, step)

    def _create(self) -> Upload:
        """Create an upload. Its record lets other workers move parts of it, and resume it."""
        version, spans = self.context.found.version, self._workers.spans
        about = UploadRecord(
            upload_id="",
            checked=False,
            place=str(self.context.place),
            etag=version.etag or "",
            size=version.size or 0,
            part_bytes=spans[0].length,
            total=len(spans),
            digested=self.context.digested,
            pinned=None if self.context.copying else version,
        )
        return self._lifecycle.begin(self.context.place, self.context.found.metadata, about)

    def _resume(self, written: UploadRecord) -> Upload | None:
        """Resume the upload of an earlier attempt with its confirmed parts, if it has this version.
        Else abort it and return None.
        """
        assert self.journal is not None, "the record comes from the journal"
        # That attempt crashed between the request and the record of its id.
        if not written.upload_id:
            self._lifecycle.abort_lost_uploads(self.context.place, written)
            return None
        workers = self._workers
        upload = Upload(
            self.context.place,
            written.upload_id,
            written.checked,
            described=self.context.found.metadata,
        )
        if not self._is_ours(written):
            self._lifecycle.replace(upload)
            workers.resent += sum(part.size for part in written.parts)
            return None
        self._resumed, workers.resumed = upload, True
        try:
            listed = self._destination.stored_parts(upload)
        except NotFound:
            self._resumed, workers.resumed = None, False
            workers.lost = self._lost_parts(written, ())
            return None  # the store has expired the upload, so create another
        except PermissionDenied:
            # A list of parts needs a permission of its own. The completion compares them.
            listed = tuple(
                Part(one.number, one.size, one.etag, one.checked) for one in written.parts
            )
        # A part that is read again must have the same bytes, even in another process (fault F15).
        workers.read = {
            part.number: bytes.fromhex(part.digest) for part in written.parts if part.digest
        }
        for part in confirmed_parts(written, listed):
            # A part without a needed digest is sent again.
            if part.digest or not self.context.digested:
                workers.record_part(part)
        workers.lost = self._lost_parts(written, listed)
        gone = frozenset(part.number for part in written.parts) - frozenset(workers.done)
        self.journal.resume(upload.id, gone, len(workers.spans))
        return upload

    def _lost_parts(self, written: UploadRecord, listed: tuple[Part, ...]) -> dict[int, int]:
        """Return the parts that were sent and are not kept, with their sizes. A part without a
        record counts only after a crash: otherwise its attempt has counted it."""
        sent = {part.number: part.size for part in listed} if self.after_crash else {}
        sent |= {part.number: part.size for part in written.parts}
        return {number: size for number, size in sent.items() if number not in self._workers.done}

    # -- the parts

    def _move_all(self, upload: Upload) -> None:
        """Move every part, with the help of other workers. Raises our first failure, after our
        other parts have stopped."""
        take = self._next_part(upload)
        while len(self._workers.done) < len(self._workers.spans):
            self._workers.run(upload, take)
            if self.journal is not None:
                self._adopt_parts_of_others(self.journal)

    def _next_part(self, upload: Upload) -> NextPart:
        """Return the source of part numbers: the journal, or a list without one."""
        if self.journal is not None:
            return partial(self.journal.take, upload.id)
        return numbered_parts(iter(range(1, len(self._workers.spans) + 1)))

    def _adopt_parts_of_others(self, journal: Journal) -> None:
        """Adopt the parts that other workers have moved, and wait a moment for the rest.

        A part that the ledger still assigns to us, although we move none, comes from a lost
        response: release it."""
        workers = self._workers
        if len(workers.done) == len(workers.spans):
            return
        left = journal.outstanding_parts()
        # Every part is acknowledged. Those of other workers are only in the ledger so far.
        if not left:
            written = journal.recorded_upload()
            recorded = () if written is None else written.parts
            for part in recorded:
                if part.number not in workers.done:
                    workers.record_part(part)
            if len(workers.done) < len(workers.spans):
                raise UploadGone(
                    f"the record of the parts of {self.context.place} was removed during the upload"
                )
        elif any(left.values()):
            journal.release_parts()
        else:
            pause(OTHERS_SECONDS, self.context.meter, self.context.sleep)

    # -- the end

    def _complete(self, upload: Upload) -> MovedParts:
        """Complete the upload, after its digest is checked. Raises IntegrityMismatch of the source,
        LeaseLost, LedgerFailed, and as `_request_completion`."""
        self._completing, workers = True, self._workers
        digests = self._combine_digests() if self.context.digested else {}
        declared = self.context.found.version.digests.get(COMBINED)
        if digests and declared is not None and declared != digests[COMBINED]:
            message = f"the {COMBINED} of the bytes that were read is not the one that was declared"
            raise IntegrityMismatch(message, side="source", seen=str(as_hex(digests)))
        parts: tuple[Part, ...] = tuple(
            workers.done[number] for number in range(1, len(workers.spans) + 1)
        )
        if self.journal is not None:
            self.journal.commit(digests[COMBINED].hex() if digests else "")
        # Of a copy no byte was read here, so only the source's own digests are known.
        known = self.context.found.version.digests if self.context.copying else digests
        reach("before-complete")
        stored = self._request_completion(upload, parts, known)
        reach("after-complete")
        return MovedParts(stored, digests, workers.resent)

    def _request_completion(
        self, upload: Upload, parts: tuple[Part, ...], known: Digests
    ) -> PutResult:
        """Request the completion, with retries. Raises as PartsDestination.complete, and
        Unavailable if a retry finds an object at the place: it may be ours, if the answer to the
        first request was lost."""

        def ask(_: Watchdog) -> PutResult:
            self.context.meter.commit()
            self._completion_requests += 1
            return self._destination.complete(upload, parts, known, if_absent=self.if_absent)

        try:
            return self.context.retry("completing the upload", ask, IntegrityMismatch)
        except PreconditionFailed as error:
            if self._completion_requests == 1:
                raise
            raise Unavailable(
                f"an object appeared at {self.context.place} while the upload was completed:"
                f" {error.message}",
                side="destination",
                hint=("The first completion request may have succeeded; run it again to check."),
            ) from None

    def _combine_digests(self) -> Digests:
        """Combine the digests of the parts into that of the whole object."""
        value = 0
        for number, span in enumerate(self._workers.spans, start=1):
            digest = int.from_bytes(self._workers.digests[number], "big")
            value = combine_crc64nvme(value, digest, span.length)
        return {COMBINED: value.to_bytes(8, "big")}

    def may_be_whole(self, error: RelayError) -> bool:
        """Return whether the destination may have the object in spite of `error`: it got a
        completion request that it has not refused."""
        status = getattr(error, "store_status", None)
        refused = (
            isinstance(error, (*NOT_COMPLETED_ERRORS, UploadGone)) or 400 <= (status or 0) < 500
        )
        # A refusal answers the last request; the answer to an earlier one may have been lost.
        return self._completion_requests > int(refused)

    def _can_continue(self, error: BaseException) -> bool:
        """Return whether another attempt, or another process, can resume the acknowledged parts.

        They are kept after any timeout and any failure of one part, since the user may retry the
        object. They are not kept if they are useless: of another version, cancelled for good, or of
        an upload that can't be completed."""
        if isinstance(error, DISCARD_ERRORS) or (
            self._completing and isinstance(error, NOT_COMPLETED_ERRORS)
        ):
            # A full store refuses to complete for now: its user may free space and resume.
            return isinstance(error, StoreFull)
        if isinstance(error, Cancelled):
            return error.retryable
        if isinstance(error, RelayError):
            return (
                error.retryable
                or bool(self._workers.done)
                or isinstance(error, LeaseLost | LedgerFailed | Unauthenticated)
            )
        return True
