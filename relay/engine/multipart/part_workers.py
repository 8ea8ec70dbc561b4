"""Concurrent part transfers of one multipart upload, with retries of each part.

Theory of operation. Each greenlet calls `NextPart` for the number of a part, reads that range of
the pinned version with If-Match, and uploads it. The next call of `NextPart` records the part.
`NextPart` is a list if one process moves the object alone, or the ledger if several workers do. A
part that fails with a retryable error is read and sent again with a new body, and must have the
same bytes.

At most `parts_in_flight` parts are read and `parts_in_flight` written concurrently. While a part
waits for its response, its worker prefetches the next, which hides the latency of a long link. At
most `parts_in_flight` parts are sent and not recorded: a crash costs no more. On a permanent error,
parts that are already fully sent still get their response, so that they need not be sent again.

Decided here: the concurrency of parts, and when a part is retried (law 7). Never here: whether the
upload is completed or aborted (`upload.py`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from math import inf
from typing import Any, TypeVar, cast

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from relay.engine.retries import PendingRetries
from relay.errors import (
    Cancelled,
    LeaseLost,
    LedgerFailed,
    RangeIgnored,
    RelayError,
    SourceChanged,
    SourceUnstable,
    Unavailable,
    UploadGone,
)
from relay.ledger.upload_values import StoredPart
from relay.location import Location
from relay.process.failpoints import reach
from relay.retry import Backoff, Patience
from relay.stores.interfaces import (
    ByteRange,
    CopyPartsDestination,
    ObjectInfo,
    Part,
    PartsDestination,
    StoreProvider,
    Upload,
)
from relay.transfer_limits import Limits
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

T = TypeVar("T")

COMBINED = "crc64nvme"
"""The digest of the whole object that can be combined from the digests of its parts."""
RESTART_ERRORS = (SourceChanged, UploadGone)
"""Failures that a retry of one part can't repair: the whole object restarts, with another version
or another upload."""
NO_DRAIN_ERRORS = (Cancelled, LeaseLost, LedgerFailed, *RESTART_ERRORS)
"""Failures after which no outstanding response is awaited: it would be useless, or could not be
recorded."""

MAX_REREADS = 3
"""Maximum failures of a part in a resumed upload that has accepted no part yet; one more for each
ten parts that a restart would lose. After that the upload itself is suspect: some stores keep a
broken part, and then accept no other in that upload."""

NextPart = Callable[[StoredPart | None], int | None]
"""Records a part that the destination has acknowledged, and returns the number of the next part to
move, or None."""


@dataclass(frozen=True, kw_only=True)
class PartContext:
    """The context of part transfers: source, pinned version, destination, limits and retries."""

    stores: StoreProvider
    found: ObjectInfo
    source: Location
    place: Location
    meter: Watchdog
    limits: Limits
    backoff: Backoff
    random: Callable[[], float]
    sleep: Callable[[float], None]
    digested: bool = True
    copying: bool = False
    """True if the store copies the parts itself. Their digests are unknown then."""
    troubles: PendingRetries = field(default_factory=PendingRetries)
    remains: dict[str, str] = field(default_factory=dict)
    """As Progress.remains."""

    def retry(
        self,
        what: str,
        do: Callable[[Watchdog], T],
        final: type[RelayError] = SourceUnstable,
        most: Callable[[], float] = lambda: inf,
    ) -> T:
        """Call `do`, and again after retryable errors, until the retry budget is spent or it has
        failed `most()` times in a row. `what` names it in messages.

        Raises the last RelayError, or at once one of the type `final`.
        """
        meter = Watchdog(self.limits, whole=self.meter)
        patience = Patience(self.backoff, self.random, meter.clock)
        try:
            while True:
                before = meter.moved
                try:
                    return do(meter)
                except RelayError as error:
                    # Another request to the store does not repair the ledger.
                    if not error.retryable or isinstance(
                        error, (*RESTART_ERRORS, LedgerFailed, final)
                    ):
                        raise
                    wait = patience.wait(meter.moved - before, meter.moved_at, error.retry_after)
                    if wait is None or patience.failures >= most():
                        raise
                    # A failed completion waits now, so a cancel is possible again.
                    self.meter.committed = False
                    meter.check()  # a cancelled transfer is not retried
                    self.troubles.note(what, error, patience.failures, wait)
                    if self.meter.tally is not None:
                        self.meter.tally.note_failure(error)
                        self.meter.tally.note_retry("part", error)
                    pause(wait, meter, self.sleep)
        finally:
            self.troubles.over(what)


@dataclass(eq=False)
class PartWorkers:
    """Moves the parts of one upload in this process. Call `run` as often as parts may be left."""

    context: PartContext
    spans: list[ByteRange]
    """The byte range of each part, in order. Part numbers start at 1."""
    _: KW_ONLY
    done: dict[int, Part] = field(default_factory=dict)
    """The parts that the destination is known to have, by number."""
    digests: dict[int, bytes] = field(default_factory=dict)
    """The digests of the parts in `done`."""
    read: dict[int, bytes] = field(default_factory=dict)
    """The digests of earlier reads of parts; another read must match."""
    resent: int = 0
    """Bytes that had to be sent again, or will have to be."""
    lost: dict[int, int] = field(default_factory=dict)
    """The bytes of earlier attempts' parts that are not kept, by number: `resent` counts a part
    once it is moved again."""
    resumed: bool = False
    """True if an earlier attempt created the upload."""
    taken: int = 0
    """Number of parts that the destination has accepted from this object."""

    def __post_init__(self) -> None:
        """Prepare the limits of concurrency. Nothing moves yet."""
        self._bodies: dict[int, Body] = {}
        """The bodies of the parts that are being sent, by number."""
        self._fully_sent: set[Any] = set()
        """The greenlets whose part is fully sent and not recorded yet."""
        self._moved_here = 0
        self._prefetched: deque[int] = deque()
        """Numbers of claimed parts that no greenlet reads yet."""
        self._max_parts = max(1, self.context.limits.parts_in_flight)
        self._read_slots = BoundedSemaphore(self._max_parts)
        self._write_slots = BoundedSemaphore(self._max_parts)
        self._skip_expect = False
        """True if the last part was accepted: send the next without Expect: 100-continue."""
        self._failed = False
        """True if a part has failed permanently: no other part starts."""
        self._taking: set[gevent.Greenlet[..., int | RelayError | None]] = set()
        """The calls of NextPart that have not returned."""
        self.unsure: LedgerFailed | None = None
        """The failure of a call of NextPart whose caller was stopped: the ledger may hold a part
        for this process that it does not move."""

    @property
    def bytes(self) -> int:
        """The bytes that have moved, including those of parts in flight."""
        return sum(part.size for part in self.done.values()) + self.under_way

    @property
    def moved_bytes(self) -> int:
        """The bytes that this object has moved, including those of parts in flight; without those
        of other workers and earlier attempts."""
        return self._moved_here + self.under_way

    @property
    def under_way(self) -> int:
        """The bytes of parts in flight: sent, and not acknowledged."""
        return sum(body.count for body in self._bodies.values())

    def run(self, upload: Upload, take: NextPart) -> None:
        """Move parts, `parts_in_flight` at a time, until `take` returns None.

        Raises the first RelayError, after all greenlets have stopped, and all calls of `take` have
        returned.
        """
        self._failed = False
        # `_max_parts` workers may read a part while as many others send one and wait.
        workers: Any = Pool(max(1, min(2 * self._max_parts, len(self.spans) - len(self.done))))
        try:
            for failure in workers.imap_unordered(
                lambda _: self._work(upload, take), range(workers.size)
            ):
                if failure is not None:
                    self._drain(workers, failure)
                    raise failure
        finally:
            workers.kill()
            self._wait_for_takers()
            self._prefetched.clear()
            self._fully_sent.clear()

    def _drain(self, workers: Any, failure: RelayError) -> None:
        """Stop the parts in flight, but wait for the responses to fully sent parts: each is
        recorded, or fails."""
        if isinstance(failure, NO_DRAIN_ERRORS):
            return
        gevent.killall([greenlet for greenlet in workers if greenlet not in self._fully_sent])
        gevent.joinall(list(workers))

    def _work(self, upload: Upload, take: NextPart) -> RelayError | None:
        """Move one part after another. Return the failure instead of raising it, since gevent would
        print its traceback."""
        try:
            while True:
                with closing(_Permit(self._read_slots)) as permit:
                    permit.begin()
                    number = (
                        self._prefetched.popleft() if self._prefetched else self._next(take, None)
                    )
                    if number is None:
                        return None
                    done = self._move_part(upload, number, permit)
                following = self._next(take, done)
                self._fully_sent.discard(gevent.getcurrent())
                if self._failed:
                    return None
                if following is not None:
                    self._prefetched.append(following)
        except RelayError as error:
            self._failed = True
            return error

    def _next(self, take: NextPart, done: StoredPart | None) -> int | None:
        """Record the part `done`, and return the number of the next part, or None."""
        try:
            number = self._take(take, done)
        except BaseException:
            # The destination has the part, but no record says so: the part will be sent again.
            self.resent += done.size if done else 0
            raise
        if done is not None:
            reach("after-part-row")
            self._moved_here += done.size
            self.record_part(done)
        return number

    def _take(self, take: NextPart, done: StoredPart | None) -> int | None:
        """Call `take` in a greenlet of its own. The caller may be killed while PostgreSQL commits,
        and a part that is taken then can be released only after that commit."""
        taking = gevent.spawn(_take_caught, take, done)
        self._taking.add(taking)
        taken = taking.get()
        self._taking.discard(taking)
        if isinstance(taken, RelayError):
            raise taken
        return taken

    def _wait_for_takers(self) -> None:
        gevent.joinall(tuple(self._taking))
        for failed in (one.value for one in self._taking):
            if isinstance(failed, LedgerFailed):
                self.unsure = failed
        self._taking.clear()

    def record_part(self, stored: StoredPart) -> None:
        """Record a completed part."""
        self.digests[stored.number] = bytes.fromhex(stored.digest)
        self.done[stored.number] = Part(stored.number, stored.size, stored.etag, stored.checked)

    def _move_part(self, upload: Upload, number: int, permit: _Permit) -> StoredPart:
        """Move one part, with retries."""
        span, what = self.spans[number - 1], f"part {number} of {len(self.spans)}"
        if self.context.copying:
            return self.context.retry(
                what,
                lambda meter: self._copy_part_once(upload, number, span, meter),
                most=self._retry_limit,
            )
        self.resent += self.lost.pop(number, 0)
        return self.context.retry(
            what,
            lambda meter: self._move_part_once(upload, number, span, meter, permit),
            most=self._retry_limit,
        )

    def _retry_limit(self) -> float:
        """Return the maximum number of failures of a part: few in a resumed upload that has
        accepted no part yet."""
        if self.resumed and not self.taken:
            return MAX_REREADS + len(self.done) // 10
        return inf

    def _move_part_once(
        self, upload: Upload, number: int, span: ByteRange, meter: Watchdog, permit: _Permit
    ) -> StoredPart:
        context = self.context
        # A retry reads the part again. Until it is fully sent, `_drain` must not wait for it.
        self._fully_sent.discard(gevent.getcurrent())
        permit.begin()
        source = context.stores.source(context.source, meter)
        try:
            body = source.get(context.source, context.found.version, span).body
        except RangeIgnored as error:
            if not self.taken:
                raise
            # The source has ranges: this is another server behind its name, or a login page.
            raise Unavailable(error.message, side=error.side) from None
        assert body is not None, "an OpenedObject has a body"
        body.on_close(lambda: self._release_source(body, permit))
        with closing(body), self._write_slot(meter):
            return self._write_part(upload, number, body, meter)

    def _release_source(self, body: Body, permit: _Permit) -> None:
        """Release the read slot of a fully read part. A part that failed keeps it for its retry."""
        if body.complete:
            permit.close()
            self._fully_sent.add(gevent.getcurrent())

    @contextmanager
    def _write_slot(self, meter: Watchdog) -> Iterator[None]:
        """Acquire a write slot. The wait does not count towards the stall timeout."""
        before = meter.clock()
        with self._write_slots:
            meter.exclude_wait(meter.clock() - before)
            if self._failed:
                raise _stopped_error()
            yield

    def _write_part(self, upload: Upload, number: int, body: Body, meter: Watchdog) -> StoredPart:
        context = self.context
        destination = cast(PartsDestination, context.stores.destination(context.place, meter))
        self._bodies[number] = body
        try:
            if context.digested:
                body.digest_with((COMBINED,))
            part = destination.put_part(replace(upload, welcome=self._skip_expect), number, body)
            reach("after-part")
            digest = body.digests.get(COMBINED, b"")
            _refuse_unstable(context.source, number, self.read.get(number), digest)
            self._skip_expect = True
            self.taken += 1
            return StoredPart(
                number=number,
                size=part.size,
                etag=part.etag,
                digest=digest.hex(),
                checked=part.checked,
            )
        except BaseException as error:
            self._skip_expect = False
            if body.complete and context.digested:
                self.read.setdefault(number, body.digests[COMBINED])
            self.resent += body.count
            if self._failed and isinstance(error, RelayError):
                raise _stopped_error() from error
            raise
        finally:
            del self._bodies[number]

    def _copy_part_once(
        self, upload: Upload, number: int, span: ByteRange, meter: Watchdog
    ) -> StoredPart:
        destination = cast(
            CopyPartsDestination, self.context.stores.destination(self.context.place, meter)
        )
        part = destination.copy_part(upload, number, self.context.source, self.context.found, span)
        self.taken += 1
        return StoredPart(
            number=number, size=part.size, etag=part.etag, digest="", checked=part.checked
        )


@dataclass(eq=False)
class _Permit:
    """One slot of a semaphore, held or not."""

    places: BoundedSemaphore
    held: bool = False

    def begin(self) -> None:
        """Acquire the slot, if it is not held."""
        if not self.held:
            self.places.acquire()
            self.held = True

    def close(self) -> None:
        """Release the slot, if it is held."""
        if self.held:
            self.held = False
            self.places.release()


def pause(seconds: float, meter: Watchdog, sleep: Callable[[float], None]) -> None:
    """Sleep before a retry. Raises as `Watchdog.check`, within about a second of a cancel."""
    until = meter.clock() + seconds
    while (left := until - meter.clock()) > 0:
        sleep(min(left, meter.tick_seconds))
        meter.check()


def numbered_parts(numbers: Iterator[int]) -> NextPart:
    """Return a NextPart for an object that one process moves alone."""
    return lambda _: next(numbers, None)


def _take_caught(take: NextPart, done: StoredPart | None) -> int | RelayError | None:
    """Call `take`, and return a RelayError instead of raising it, since gevent would print its
    traceback."""
    try:
        return take(done)
    except RelayError as error:
        return error


def _stopped_error() -> Cancelled:
    """Return the error of a part that is not retried, since another one has failed permanently."""
    return Cancelled("another part has failed", retryable=False)


def _refuse_unstable(source: Location, number: int, before: bytes | None, digest: bytes) -> None:
    """Raise SourceUnstable if an earlier read of the part, of the same version, had other bytes."""
    if before is not None and digest and before != digest:
        raise SourceUnstable(
            f"two reads of part {number} of {source} returned different bytes under one ETag"
        )
