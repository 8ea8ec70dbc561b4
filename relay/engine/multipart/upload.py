"""One object as a multipart upload: begin it, fill it with ranged reads of the pinned version,
complete it.

Theory of operation. The object is cut into spans of one size, so large that the destination's
limits hold; a workers moves some of them at a time (`workers.py`). The CRC64NVME of each part is
computed on the way and all of them are combined into that of the whole, which the source's own and
the destination's are compared with. Nobody sees anything before the destination was told that all
parts are there; when anything fails for good the upload is aborted.

With a journal every step is written down, and an upload that another process began is gone on with:
the destination is asked which parts it has, and only those that it and the journal know alike are
not sent again. Other runners may take parts of it meanwhile (`share.py`); whoever has the transfer
waits for theirs, and completes it.

Decided here: the cut, what is kept, when an upload is completed or thrown away. Never here: whether
an object goes in parts, and how one moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

from awscrt import checksums

from relay.config import Limits
from relay.digest import Digests, as_hex
from relay.engine.multipart.journal import Journal, can_resume, confirmed_parts
from relay.engine.multipart.lifecycle import UploadLifecycle
from relay.engine.multipart.part_workers import (
    COMBINED,
    NextPart,
    PartContext,
    PartWorkers,
    numbered_parts,
    pause,
    ranges_of,
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
from relay.ledger.rows import UploadRecord
from relay.location import Location
from relay.process.failpoints import reach
from relay.receipt import Version
from relay.stores.interfaces import (
    ByteRange,
    Destination,
    ObjectInfo,
    Part,
    PartLimits,
    PartsDestination,
    PutResult,
    UnknownObject,
    Upload,
)
from relay.wire.watchdog import Watchdog

MIB = 1 << 20
COPY_BYTES = 512 * MIB
"""The most that a store is asked to copy in one request, which takes it some seconds."""
OTHERS_SECONDS = 0.25
"""How often one who has no part left to move looks if the others are done with theirs."""


def split_into_ranges(size: int, wished: int, limits: PartLimits) -> list[ByteRange]:
    """Cut `size` bytes into spans of about `wished` bytes each, larger ones where there would be
    too many.

    Raises Rejected for an object that is larger than the store takes.
    """
    if size > limits.object_bytes:
        raise Rejected(
            f"{size} bytes are more than an object may have there ({limits.object_bytes})",
            side="destination",
            hint="The destination can't hold this object; choose another, or split the object.",
        )
    least = -(-size // limits.most)
    return ranges_of(
        size, min(max(wished, limits.smallest, -(-least // MIB) * MIB), limits.largest)
    )


MAX_FRUITLESS_RESUMES = 2
"""So often, one after the other, an attempt goes on with an upload that takes nothing."""
UNREACHABLE_ERRORS = (
    UploadGone,
    ConnectFailed,
    CertificateRefused,
    EgressDenied,
    Throttled,
    Locked,
)
"""Failures that say nothing about an upload: the store is away, or busy."""
DISCARD_ERRORS = (UploadGone, RangeIgnored, SourceUnstable)
"""Failures after which what has arrived is of no use to anybody."""

NOT_COMPLETED_ERRORS = (Rejected, PreconditionFailed, AlreadyExists, IntegrityMismatch)
"""Answers to an upload that is to be completed after which nobody asks again: of the whole, and not
of one part."""


@dataclass(frozen=True)
class MovedParts:
    """An object that was moved in parts: what the destination said, its digests, and what was sent
    twice (bytes)."""

    stored: PutResult
    digests: Digests
    resent: int


@dataclass(eq=False)
class MultipartUpload:
    """One object on its way in parts. `run` once; `bytes` says how far it is."""

    way: PartContext
    if_absent: bool = False
    journal: Journal | None = None
    vain: int = 0
    """So many attempts before this one, and with this one, went on with the upload, which took
    nothing."""

    def __post_init__(self) -> None:
        """Cut it; nothing has moved yet. Raises Rejected as `split_into_ranges`."""
        size = self.way.found.version.size
        assert size is not None, "only an object of known size is cut"
        self._destination = cast(
            PartsDestination, self.way.stores.destination(self.way.place, self.way.meter)
        )
        limits = self._destination.part_limits
        assert limits is not None, "only a store that takes parts is asked for them"
        wished = COPY_BYTES if self.way.copying else self.way.limits.part_bytes
        self._workers = PartWorkers(self.way, split_into_ranges(size, wished, limits))
        self._lifecycle = UploadLifecycle(
            self.way.stores, self.way.limits, self.way.meter, self.journal, self.way.remains
        )
        self._resumed: Upload | None = None
        """The upload that this attempt went on with."""
        self._completing = False
        self._completion_requests = 0
        """How often the destination was asked to complete the upload."""
        self.discarded = ""
        """What is to be said of an upload that this attempt went on with, and threw away."""

    @property
    def bytes(self) -> int:
        """The bytes that have moved, those of parts under way included."""
        return self._workers.bytes

    @property
    def moved(self) -> int:
        """As PartWorkers.moved."""
        return self._workers.moved

    @property
    def under_way(self) -> int:
        """As PartWorkers.under_way."""
        return self._workers.under_way

    @property
    def sent(self) -> int:
        """The bytes that this attempt sent in vain, if nothing comes of it."""
        if self._is_journalled:
            return self._workers.resent + self._workers.under_way
        return self._workers.bytes + self._workers.resent

    @property
    def _is_journalled(self) -> bool:
        """Whether what was acknowledged serves the next attempt."""
        return self.journal is not None

    def run(self) -> MovedParts:
        """Move it. Raises a RelayError when a part fails for good, or the whole; then the upload is
        aborted, unless there is a journal, and some of it has arrived.

        RangeIgnored where the source gives no ranges after all: nothing of it is at the destination
        then."""
        written = self.journal.recorded_upload() if self.journal is not None else None
        if written is not None and (moved := self._resume_completed(written)):
            return moved
        upload: Upload | None = None
        try:
            upload = (written and self._resume(written)) or self._create()
            self._move_all(upload)
            return self._complete(upload)
        except BaseException as error:
            if (gone := self._discard_stuck_upload(error)) is not None:
                raise gone from error
            if upload is not None and not (self._is_journalled and self._can_continue(error)):
                self._lifecycle.abort(upload, error)
            raise

    def _discard_stuck_upload(self, error: BaseException) -> UploadGone | None:
        """Throw away an upload that was gone on with and does not get on; return that, or None
        where it is kept.

        Some stores keep what came of a broken part, and never take that upload's parts rightly
        again. One that can't be thrown away either is kept: then it is the store that does not
        answer. Raises why, where that may pass and the upload was refused."""
        upload, self.vain = self._resumed, self.vain + 1 if self._is_fruitless(error) else 0
        refused = self._completing and isinstance(error, Rejected)
        if (
            upload is None
            or not isinstance(error, RelayError)
            or not (refused or self.vain >= MAX_FRUITLESS_RESUMES)
        ):
            return None
        try:
            self._lifecycle.discard(upload)
        except RelayError as failure:
            if refused and failure.retryable:
                raise  # it is refused again, and thrown away by an attempt to come
            return None
        self.vain = 0
        self.discarded = (
            "an upload in parts that had been begun before took no more, and was begun anew:"
            f" {error.message}"
        )
        return UploadGone(f"the upload that was gone on with takes nothing: {error.message}")

    def _is_fruitless(self, error: BaseException) -> bool:
        """Say if the destination answers, and this upload of an earlier attempt still has taken
        nothing."""
        if self._resumed is None or self._workers.taken or not isinstance(error, RelayError):
            return False
        busy = isinstance(error, UNREACHABLE_ERRORS) or getattr(error, "store_status", None) in (
            502,
            503,
            504,
        )
        return error.side == "destination" and error.retryable and not busy

    # -- the upload

    def _resume_completed(self, written: UploadRecord) -> MovedParts | None:
        """Return what an earlier attempt completed under another name, and did not live to publish;
        nothing is sent.

        Like any object that was just sent, it is believed only when it is proved.
        """
        if written.digest is None or not self._is_ours(written):
            return None
        left = self._completed_location(written)
        if left is None:
            return None
        for part in written.parts:
            self._workers.record_part(part)
        digests = {COMBINED: bytes.fromhex(written.digest)} if written.digest else {}
        return MovedParts(PutResult(Version(), left, {}, place=self.way.place), digests, 0)

    def _completed_location(self, written: UploadRecord) -> Location | None:
        """Return where the whole lies that was completed under another name, if it does."""
        for place in self._destination.staged_locations(self.way.place, written.upload_id):
            try:
                found = self._destination.head(place)
            except NotFound:
                continue
            if not isinstance(found, UnknownObject) and found.version.size in (None, written.size):
                return place
        return None

    def _is_ours(self, written: UploadRecord) -> bool:
        """Say if an upload that stands in the journal is of this version, to this place, in this
        cut."""
        version = self.way.found.version
        step = self._workers.spans[0].length
        return can_resume(written, str(self.way.place), version.etag, version.size, step)

    def _create(self) -> Upload:
        """Begin an upload; what is written down lets others move parts of it, and go on with it."""
        version, spans = self.way.found.version, self._workers.spans
        about = UploadRecord(
            "",
            False,
            str(self.way.place),
            version.etag or "",
            version.size or 0,
            spans[0].length,
            total=len(spans),
            digested=self.way.digested,
            pinned=None if self.way.copying else version,
        )
        return self._lifecycle.begin(self.way.place, self.way.found.metadata, about)

    def _resume(self, written: UploadRecord) -> Upload | None:
        """Return the upload of an earlier attempt, if there is one of this very version, with what
        it has of it.

        One that does not fit is thrown away.
        """
        assert self.journal is not None, "it is where this was written"
        if not written.upload_id:
            self._lifecycle.abort_lost_uploads(self.way.place, written)
            return None
        workers = self._workers
        upload = Upload(
            self.way.place, written.upload_id, written.checked, described=self.way.found.metadata
        )
        if not self._is_ours(written):
            self._lifecycle.replace(upload)
            return None
        self._resumed, workers.resumed = upload, True
        try:
            listed = self._destination.stored_parts(upload)
        except NotFound:
            self._resumed, workers.resumed = None, False
            return None  # the store threw it away; another is begun in its place
        workers.read = {
            part.number: bytes.fromhex(part.digest) for part in written.parts if part.digest
        }
        for part in confirmed_parts(written, listed):
            if part.digest or not self.way.digested:  # else it was sent when nobody wanted a digest
                workers.record_part(part)
        gone = frozenset(part.number for part in written.parts) - frozenset(workers.done)
        self.journal.resume(upload.id, gone, len(workers.spans))
        return upload

    # -- the parts

    def _move_all(self, upload: Upload) -> None:
        """Have every part moved, by us or by others. Raises the first failure of ours, when all
        else of ours has stopped."""
        take = self._next_part(upload)
        while len(self._workers.done) < len(self._workers.spans):
            self._workers.run(upload, take)
            if self.journal is not None:
                self._adopt_parts_of_others(self.journal)

    def _next_part(self, upload: Upload) -> NextPart:
        """Return what says which part is ours to move."""
        if self.journal is not None:
            return partial(self.journal.take, upload.id)
        return numbered_parts(iter(range(1, len(self._workers.spans) + 1)))

    def _adopt_parts_of_others(self, journal: Journal) -> None:
        """Take over what others have moved, and wait a moment for what they have not.

        A part that stands as ours is one of which we were not told: whoever takes the next may have
        it."""
        workers = self._workers
        if len(workers.done) == len(workers.spans):
            return
        left = journal.outstanding_parts()
        if not left:
            for part in written.parts if (written := journal.recorded_upload()) else ():
                if part.number not in workers.done:
                    workers.record_part(part)
            if len(workers.done) < len(workers.spans):
                raise UploadGone(
                    f"the parts of {self.way.place} were forgotten while they were moved"
                )
        elif any(left.values()):
            journal.release_parts()
        else:
            pause(OTHERS_SECONDS, self.way.meter, self.way.sleep)

    # -- the end

    def _complete(self, upload: Upload) -> MovedParts:
        self._completing, workers = True, self._workers
        digests = self._combine_digests() if self.way.digested else {}
        declared = self.way.found.version.digests.get(COMBINED)
        if digests and declared is not None and declared != digests[COMBINED]:
            message = f"the {COMBINED} of what was read is not the one that was declared"
            raise IntegrityMismatch(message, side="source", seen=str(as_hex(digests)))
        parts: tuple[Part, ...] = tuple(
            workers.done[number] for number in range(1, len(workers.spans) + 1)
        )
        if self.journal is not None:
            self.journal.commit(digests[COMBINED].hex() if digests else "")
        known = self.way.found.version.digests if self.way.copying else digests
        reach("before-complete")
        self.way.meter.commit()
        stored = self._request_completion(upload, parts, known)
        reach("after-complete")
        return MovedParts(stored, digests, workers.resent)

    def _request_completion(
        self, upload: Upload, parts: tuple[Part, ...], known: Digests
    ) -> PutResult:
        """Ask for the whole, and again while that may help. Raises as PartsDestination.complete,
        and Unavailable where something is there by the time that it is asked again: that may be
        ours, of which only the answer was lost."""

        def ask(_: Watchdog) -> PutResult:
            self._completion_requests += 1
            return self._destination.complete(upload, parts, known, if_absent=self.if_absent)

        try:
            return self.way.retry("completing the upload", ask, IntegrityMismatch)
        except PreconditionFailed as error:
            if self._completion_requests == 1:
                raise
            raise Unavailable(
                f"something came to {self.way.place} while the upload was completed:"
                f" {error.message}",
                side="destination",
                hint=(
                    "The first request to complete it may have done so: run it again, and it is"
                    " looked at."
                ),
            ) from None

    def _combine_digests(self) -> Digests:
        """Combine the parts' digests into the whole's."""
        value = 0
        for number, span in enumerate(self._workers.spans, start=1):
            digest = int.from_bytes(self._workers.digests[number], "big")
            value = checksums.combine_crc64nvme(value, digest, span.length)
        return {COMBINED: value.to_bytes(8, "big")}

    def may_be_whole(self, error: RelayError) -> bool:
        """Say if the object may be there after `error`: the destination was asked to complete it,
        and has not refused the only request."""
        status = getattr(error, "store_status", None)
        refused = (
            isinstance(error, (*NOT_COMPLETED_ERRORS, UploadGone)) or 400 <= (status or 0) < 500
        )
        return self._completion_requests > int(refused)

    def _can_continue(self, error: BaseException) -> bool:
        """Say if another attempt, or another process, may go on with what was acknowledged.

        What has arrived outlives every limit of time, and whatever one part was answered: the
        object may be tried again, by hand too. Not what can be of no use: another version's, what
        nobody wants, what can't be completed."""
        if isinstance(error, DISCARD_ERRORS) or (
            self._completing and isinstance(error, NOT_COMPLETED_ERRORS)
        ):
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


def is_multipart(found: ObjectInfo | None, destination: Destination, limits: Limits) -> bool:
    """Say if an object is to go in parts: it is large, its version is pinned, and both sides
    can."""
    if found is None or found.version.size is None or destination.part_limits is None:
        return False
    return (
        found.version.size >= limits.parted_bytes
        and found.ranges
        and found.version.strong_etag is not None
    )
