"""One object in parts: ranged reads of the pinned version into part uploads, several at once.

Theory of operation. The object is cut into spans of one size, so large that the destination's limits hold. A bounded
number of greenlets each take the next span, read it with If-Match, and upload it; a part that fails in a way that may
pass is read and sent again, with a fresh body; so is the last request, which makes one object of them. The CRC64NVME
of each part is computed on the way and all of them are combined into that of the whole, which the source's own and the
destination's are compared with. A part that is read twice must have the same bytes twice. Nobody sees anything before
the destination was told that all parts are there; when anything fails for good the upload is aborted.

With a journal every step is written down, and an upload that another process began is gone on with: the destination
is asked which parts it has, and only those that it and the journal know alike are not sent again.

Decided here: the cut, the window, a part's second chance (law 7). Never here: whether an object goes in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from awscrt import checksums
from gevent.pool import Pool

from relay.config import Limits
from relay.digest import Digests
from relay.engine.journal import Journal, fits, kept
from relay.errors import (
    IntegrityMismatch,
    LeaseLost,
    LedgerFailed,
    NotFound,
    PermissionDenied,
    Rejected,
    RelayError,
    SourceChanged,
    SourceUnstable,
    StoreError,
    Unauthenticated,
    UploadGone,
)
from relay.failpoints import reach
from relay.ledger.rows import Begun, StoredPart
from relay.location import Location
from relay.retry import Backoff
from relay.stores.interfaces import (
    CopyPartsDestination,
    Destination,
    Found,
    Opener,
    Part,
    PartLimits,
    PartsDestination,
    Span,
    Stored,
    Upload,
)
from relay.wire.body import Body
from relay.wire.meter import Meter

T = TypeVar("T")

MIB = 1 << 20
CLOCK_SECONDS = 5.0
"""So much may a store's clock, as its answers tell it, seem to differ from the one that it writes by."""
COMBINED = "crc64nvme"
"""The digest of the whole that is made from those of the parts."""
COPY_BYTES = 512 * MIB
"""The most that a store is asked to copy in one request, which takes it some seconds."""

BEGUN_ANEW = (SourceChanged, UploadGone)
"""Failures that no part can mend by itself: the whole object begins anew, with another version or another upload."""


def cut(size: int, wished: int, limits: PartLimits) -> list[Span]:
    """Cut `size` bytes into spans of about `wished` bytes each, larger ones where there would be too many.

    Raises Rejected for an object that is larger than the store takes.
    """
    if size > limits.object_bytes:
        raise Rejected(
            f"{size} bytes are more than an object may have there ({limits.object_bytes})",
            side="destination",
            hint="The destination can't hold this object; choose another, or split the object.",
        )
    least = -(-size // limits.most)
    step = min(max(wished, limits.smallest, -(-least // MIB) * MIB), limits.largest)
    return [Span(first, min(first + step, size) - 1) for first in range(0, size, step)]


@dataclass(frozen=True)
class Moved:
    """An object that was moved in parts: what the destination said, its digests, and what was sent twice (bytes)."""

    stored: Stored
    digests: Digests
    resent: int


@dataclass(eq=False)
class Parts:
    """One object on its way in parts. `run` once; `bytes` says how far it is."""

    stores: Opener
    found: Found
    source: Location
    place: Location
    meter: Meter
    limits: Limits
    backoff: Backoff
    random: Callable[[], float]
    sleep: Callable[[float], None]
    digested: bool = True
    if_absent: bool = False
    journal: Journal | None = None
    copying: bool = False
    """The store copies the parts by itself; no digest of them is known then."""

    def __post_init__(self) -> None:
        """Nothing has moved yet."""
        self._done: dict[int, Part] = {}
        self._kept: frozenset[int] = frozenset()
        self._digests: dict[int, bytes] = {}
        self._read: dict[int, bytes] = {}
        self._bodies: dict[int, Body] = {}
        self._resent = 0

    @property
    def bytes(self) -> int:
        """The bytes that have moved, those of parts under way included."""
        return sum(part.size for part in self._done.values()) + sum(body.count for body in self._bodies.values())

    @property
    def sent(self) -> int:
        """The bytes that this attempt sent in vain, if nothing comes of it."""
        if self._keeps:
            return self._resent + sum(body.count for body in self._bodies.values())
        return self.bytes + self._resent

    @property
    def _keeps(self) -> bool:
        """Whether what was acknowledged serves the next attempt."""
        return self.journal is not None

    def run(self) -> Moved:
        """Move it. Raises a RelayError when a part fails for good, or the whole; then the upload is aborted.

        RangeIgnored where the source gives no ranges after all: nothing of it is at the destination then.
        """
        size = self.found.version.size
        assert size is not None, "only an object of known size is cut"
        destination = cast(PartsDestination, self.stores.destination(self.place, self.meter))
        limits = destination.part_limits
        assert limits is not None, "only a store that takes parts is asked for them"
        spans = cut(size, COPY_BYTES if self.copying else self.limits.part_bytes, limits)
        upload = self._gone_on(destination, spans) or self._begun(destination, spans)
        try:
            self._move_all(upload, spans)
            return self._completed(destination, upload, spans)
        except BaseException as error:
            if not (self._keeps and self._goes_on(error)):
                self._abort(upload, error)
            raise

    # -- the upload

    def _begun(self, destination: PartsDestination, spans: list[Span]) -> Upload:
        """Begin an upload, and write that down before anything depends on it: that one is about to be begun, and
        which one it is."""
        version = self.found.version
        size, step = version.size or 0, spans[0].length
        about = Begun("", False, str(self.place), version.etag or "", size, step)
        if self.journal is not None:
            self.journal.begin(about)
        reach("before-begin")
        upload = destination.begin(self.place, self.found.metadata)
        reach("after-begin")
        if self.journal is not None:
            try:
                self.journal.begin(replace(about, upload_id=upload.id, checked=upload.checked))
            except BaseException as error:
                self._abort(upload, error, written=False)
                raise
        reach("after-begin-row")
        return upload

    def _gone_on(self, destination: PartsDestination, spans: list[Span]) -> Upload | None:
        """Return the upload of an earlier attempt, if there is one of this very version, with what it has of it.

        One that does not fit is thrown away.
        """
        written = self.journal.begun() if self.journal is not None else None
        if written is None:
            return None
        if not written.upload_id:
            self._sweep(destination, written)
            return None
        upload = Upload(self.place, written.upload_id, written.checked)
        version = self.found.version
        if not fits(written, str(self.place), version.etag, version.size, spans[0].length):
            self._replace(upload)
            return None
        try:
            listed = destination.stored_parts(upload)
        except NotFound:
            return None  # the store threw it away; another is begun in its place
        self._read = {part.number: bytes.fromhex(part.digest) for part in written.parts if part.digest}
        for part in kept(written, listed):
            if self.digested and not part.digest:
                continue  # it was sent when nobody wanted a digest
            self._done[part.number] = Part(part.number, part.size, part.etag, part.checked)
            self._digests[part.number] = bytes.fromhex(part.digest)
        self._kept = frozenset(self._done)
        return upload

    def _sweep(self, destination: PartsDestination, written: Begun) -> None:
        """Throw away what an attempt began that was lost before it learned, or wrote down, which upload it was.

        Nobody else's: it is to this very place, and of the time within which that attempt may have asked for it.
        """
        longest = 2 * (self.limits.head_seconds + self.limits.connect_seconds)
        since, until = written.at - CLOCK_SECONDS, written.at + longest + CLOCK_SECONDS
        for lost in destination.lost_uploads(self.place, since, until):
            self._replace(lost)

    def _replace(self, upload: Upload) -> None:
        """Throw away an upload in whose place another is begun. Raises what may pass: the ledger knows of one only."""
        try:
            self._thrown_away(upload)
        except StoreError as error:
            if error.retryable:
                raise

    # -- the parts

    def _move_all(self, upload: Upload, spans: list[Span]) -> None:
        """Move every span, `parts_in_flight` at a time. Raises the first failure, when all others have stopped."""
        left = [(number, span) for number, span in enumerate(spans, start=1) if number not in self._kept]
        if not left:
            return
        waiting = iter(left)
        workers: Any = Pool(min(self.limits.parts_in_flight, len(left)))
        try:
            for failure in workers.imap_unordered(lambda _: self._work(upload, waiting), range(workers.size)):
                if failure is not None:
                    raise failure
        finally:
            workers.kill()

    def _work(self, upload: Upload, waiting: Iterator[tuple[int, Span]]) -> RelayError | None:
        """Move one span after another; return the failure that ends this, rather than let gevent print it."""
        try:
            for number, span in waiting:
                self._move(upload, number, span)
        except RelayError as error:
            return error
        return None

    def _move(self, upload: Upload, number: int, span: Span) -> None:
        """Move one part, and again while that may help and there is time."""
        self._again(lambda meter: self._move_once(upload, number, span, meter))

    def _again(self, do: Callable[[Meter], T], final: type[RelayError] = SourceUnstable) -> T:
        """Do it, and again while that may help and there is time. Raises its last failure, or the first `final` one."""
        meter, attempt = Meter(self.limits, whole=self.meter), 0
        while True:
            attempt += 1
            try:
                return do(meter)
            except RelayError as error:
                wait = None
                # Sending it again helps no ledger.
                if error.retryable and not isinstance(error, (*BEGUN_ANEW, LedgerFailed, final)):
                    wait = self.backoff.wait(attempt, meter.seconds(), error.retry_after, self.random)
                if wait is None:
                    raise
                self._wait(wait, meter)

    def _wait(self, seconds: float, meter: Meter) -> None:
        """Wait before a part is sent again. Raises what the meter raises, within about a second."""
        until = meter.clock() + seconds
        while (left := until - meter.clock()) > 0:
            self.sleep(min(left, meter.tick_seconds))
            meter.look()

    def _move_once(self, upload: Upload, number: int, span: Span, meter: Meter) -> None:
        if self.copying:
            return self._copy_once(upload, number, span, meter)
        source = self.stores.source(self.source, meter)
        destination = cast(PartsDestination, self.stores.destination(self.place, meter))
        opened = source.get(self.source, self.found.version, span)
        body = opened.body
        assert body is not None, "an Opened has one"
        self._bodies[number] = body
        try:
            if self.digested:
                body.digest_with((COMBINED,))
            part = destination.put_part(upload, number, body)
            reach("after-part")
            digest = body.digests.get(COMBINED, b"")
            _same(self.source, number, self._read.get(number), digest)
            if self.journal is not None:
                self.journal.store(StoredPart(number, part.size, part.etag, digest.hex(), part.checked))
            reach("after-part-row")
            self._digests[number] = digest
            self._done[number] = part
        except BaseException:
            if body.complete and self.digested:
                self._read.setdefault(number, body.digests[COMBINED])
            self._resent += body.count
            raise
        finally:
            del self._bodies[number]
            body.close()

    def _copy_once(self, upload: Upload, number: int, span: Span, meter: Meter) -> None:
        destination = cast(CopyPartsDestination, self.stores.destination(self.place, meter))
        part = destination.copy_part(upload, number, self.source, self.found, span)
        if self.journal is not None:
            self.journal.store(StoredPart(number, part.size, part.etag, "", part.checked))
        self._done[number] = part

    # -- the end

    def _completed(self, destination: PartsDestination, upload: Upload, spans: list[Span]) -> Moved:
        digests = self._whole(spans) if self.digested else {}
        declared = self.found.version.digests.get(COMBINED)
        if digests and declared is not None and declared != digests[COMBINED]:
            raise IntegrityMismatch(f"the {COMBINED} of what was read is not the one that was declared", side="source")
        parts = tuple(self._done[number] for number in range(1, len(spans) + 1))
        if self.journal is not None:
            self.journal.commit(digests[COMBINED].hex() if digests else "")
        known = self.found.version.digests if self.copying else digests
        reach("before-complete")
        self.meter.commit()
        stored = self._again(
            lambda _: destination.complete(upload, parts, known, if_absent=self.if_absent), IntegrityMismatch
        )
        reach("after-complete")
        return Moved(stored, digests, self._resent)

    def _whole(self, spans: list[Span]) -> Digests:
        """Combine the parts' digests into the whole's."""
        value = 0
        for number, span in enumerate(spans, start=1):
            value = checksums.combine_crc64nvme(value, int.from_bytes(self._digests[number], "big"), span.length)
        return {COMBINED: value.to_bytes(8, "big")}

    def _goes_on(self, error: BaseException) -> bool:
        """Say if another attempt, or another process, may go on with what was acknowledged.

        Also one with fresh credentials: who is denied a part after others were allowed wants only those.
        """
        if isinstance(error, UploadGone):
            return False
        if isinstance(error, PermissionDenied):
            return bool(self._done)
        if isinstance(error, RelayError):
            return error.retryable or isinstance(error, LeaseLost | LedgerFailed | Unauthenticated)
        return True

    def _abort(self, upload: Upload, error: BaseException, written: bool = True) -> None:
        """Throw the upload away; where that can't be done, `error` says what remains."""
        try:
            self._thrown_away(upload, written)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.hint = f"{error.hint} An unfinished upload may remain at {self.place} ({failure.message})."

    def _thrown_away(self, upload: Upload, written: bool = True) -> None:
        """Throw the upload away, and then forget it: one that is gone and still written down is found to be gone.

        Not where it is another's by now, who may be going on with it. Raises LeaseLost, StoreError, LedgerFailed.
        """
        if self.journal is not None and written:
            self.journal.held()
        reach("before-abort")
        cast(PartsDestination, self.stores.destination(self.place, Meter(self.limits))).abort(upload)
        reach("after-abort")
        if self.journal is not None and written:
            self.journal.forget()


def _same(source: Location, number: int, before: bytes | None, digest: bytes) -> None:
    """Raise SourceUnstable if a part was read before, of the same version, and had other bytes."""
    if before is not None and digest and before != digest:
        raise SourceUnstable(
            f"part {number} of {source} was read twice, and its bytes were others, under one entity tag"
        )


def parted(found: Found | None, destination: Destination, limits: Limits) -> bool:
    """Say if an object is to go in parts: it is large, its version is pinned, and both sides can."""
    if found is None or found.version.size is None or destination.part_limits is None:
        return False
    return found.version.size >= limits.parted_bytes and found.ranges and found.version.strong_etag is not None
