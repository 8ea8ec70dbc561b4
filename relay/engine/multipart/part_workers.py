"""Concurrent part transfers of one multipart upload, with retries of each part.

Theory of operation. Greenlets each ask which part is theirs to move, read its span of the pinned
version with If-Match, and upload it; with the next question they say that the destination has it.
Who answers decides who moves what: a list where one process moves the object alone, the ledger
where several may. A part that fails in a way that may pass is read and sent again, with a fresh
body, and must have the same bytes then.

So many parts are read at a time, and as many written; but not always the same ones. While the
destination has all bytes of one and has not said yet that it is there, the next is asked for
already, so that a long line carries bytes and not questions. No more than that many are ever handed
over and not acknowledged: so much is what a crash costs. When a part fails for good, those that the
destination has all bytes of are heard first: they need not be sent again.

Decided here: how many parts move at once, and when a part is tried again (law 7). Never here: what
becomes of the upload."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, TypeVar, cast

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from relay.config import Limits
from relay.engine.retries import PendingRetries
from relay.errors import (
    Cancelled,
    LeaseLost,
    LedgerFailed,
    RelayError,
    SourceChanged,
    SourceUnstable,
    UploadGone,
)
from relay.ledger.rows import StoredPart
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
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

T = TypeVar("T")

COMBINED = "crc64nvme"
"""The digest of the whole that is made from those of the parts."""
RESTART_ERRORS = (SourceChanged, UploadGone)
"""Failures that no part can mend by itself: the whole object begins anew, with another version or
another upload."""
NO_DRAIN_ERRORS = (Cancelled, LeaseLost, LedgerFailed, *RESTART_ERRORS)
"""Failures after which no answer is waited for: it would be of no use, or nobody could take note of
it."""

MAX_REREADS = 3
"""So often a part fails in an upload that was gone on with, and that has taken none yet, before the
upload is in doubt: some stores keep a broken part for good, and take no other rightly. Once more
for each ten parts that would be lost."""

NextPart = Callable[[StoredPart | None], int | None]
"""Takes note of a part that the destination has, and answers with the number of the next one that
is ours to move."""


@dataclass(frozen=True)
class PartContext:
    """How the parts of an object go: from where, which version of it, to where, and with what
    patience."""

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
    """The store copies the parts by itself; no digest of them is known then."""
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
        """Do it, and again while that may help, there is time, and it failed at `most` so often one
        after the other.

        Raises its last failure, or the first `final` one.
        """
        meter = Watchdog(self.limits, whole=self.meter)
        patience = Patience(self.backoff, self.random, meter.clock)
        try:
            while True:
                before = meter.moved
                try:
                    return do(meter)
                except RelayError as error:
                    # Sending it again helps no ledger.
                    if not error.retryable or isinstance(
                        error, (*RESTART_ERRORS, LedgerFailed, final)
                    ):
                        raise
                    wait = patience.wait(meter.moved - before, meter.moved_at, error.retry_after)
                    if wait is None or patience.failures >= most():
                        raise
                    meter.check()  # what was told to end is not tried again
                    self.troubles.note(what, error, patience.failures, wait)
                    pause(wait, meter, self.sleep)
        finally:
            self.troubles.over(what)


@dataclass(eq=False)
class PartWorkers:
    """The parts of one upload that this process moves. `run` as often as there may be some; `bytes`
    says how far it is.

    `done` are the parts that the destination has, as far as is known here, and `digests` theirs;
    `read` what parts had when they were read before; `resent` the bytes that were sent in vain."""

    way: PartContext
    spans: list[ByteRange]
    done: dict[int, Part] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    read: dict[int, bytes] = field(default_factory=dict)
    resent: int = 0
    resumed: bool = False
    """The upload is one that an earlier attempt began ..."""
    taken: int = 0
    """... and has taken so many parts since."""

    def __post_init__(self) -> None:
        """Nothing moves yet."""
        self._bodies: dict[int, Body] = {}
        self._fully_sent: set[Any] = set()
        """The greenlets whose part is read to its end, and not taken note of yet."""
        self._moved_here = 0
        self._prefetched: deque[int] = deque()
        """Parts that are ours and that nobody has begun to read."""
        self._max_parts = max(1, self.way.limits.parts_in_flight)
        self._read_slots, self._write_slots = (
            BoundedSemaphore(self._max_parts),
            BoundedSemaphore(self._max_parts),
        )
        self._skip_expect = False
        """The destination has taken the last part that it was offered."""
        self._failed = False
        """A part has failed for good: no other begins any more."""

    @property
    def bytes(self) -> int:
        """The bytes that have moved, those of parts under way included."""
        return sum(part.size for part in self.done.values()) + self.under_way

    @property
    def moved(self) -> int:
        """The bytes of those that have moved here, and not elsewhere or earlier; those under way
        included."""
        return self._moved_here + self.under_way

    @property
    def under_way(self) -> int:
        """The bytes of parts that have moved, and of which nobody has said yet that they are
        there."""
        return sum(body.count for body in self._bodies.values())

    def run(self, upload: Upload, take: NextPart) -> None:
        """Move parts, `parts_in_flight` at a time, until there are none to take.

        Raises the first failure, when all others have stopped.
        """
        self._failed = False
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
            self._prefetched.clear()
            self._fully_sent.clear()

    def _drain(self, workers: Any, failure: RelayError) -> None:
        """Stop what is on its way, but wait for the answers to what is all there; each is taken
        note of, or fails."""
        if isinstance(failure, NO_DRAIN_ERRORS):
            return
        gevent.killall([greenlet for greenlet in workers if greenlet not in self._fully_sent])
        gevent.joinall(list(workers))

    def _work(self, upload: Upload, take: NextPart) -> RelayError | None:
        """Move one part after another; return the failure that ends this, rather than let gevent
        print it."""
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
        """Say which part is done; return the number of the next, or None."""
        try:
            number = take(done)
        except BaseException:
            self.resent += done.size if done else 0
            raise
        if done is not None:
            reach("after-part-row")
            self._moved_here += done.size
            self.record_part(done)
        return number

    def record_part(self, stored: StoredPart) -> None:
        """Take a part for done."""
        self.digests[stored.number] = bytes.fromhex(stored.digest)
        self.done[stored.number] = Part(stored.number, stored.size, stored.etag, stored.checked)

    def _move_part(self, upload: Upload, number: int, permit: _Permit) -> StoredPart:
        """Move one part, and again while that may help and there is time."""
        span, what = self.spans[number - 1], f"part {number} of {len(self.spans)}"
        if self.way.copying:
            return self.way.retry(
                what, lambda meter: self._copy_part_once(upload, number, span, meter)
            )
        return self.way.retry(
            what,
            lambda meter: self._move_part_once(upload, number, span, meter, permit),
            most=self._retry_limit,
        )

    def _retry_limit(self) -> float:
        """Return how often a part of this upload may fail: not for long where one that was gone on
        with takes none."""
        return MAX_REREADS + len(self.done) // 10 if self.resumed and not self.taken else inf

    def _move_part_once(
        self, upload: Upload, number: int, span: ByteRange, meter: Watchdog, permit: _Permit
    ) -> StoredPart:
        way = self.way
        self._fully_sent.discard(gevent.getcurrent())
        permit.begin()
        source = way.stores.source(way.source, meter)
        body = source.get(way.source, way.found.version, span).body
        assert body is not None, "an Opened has one"
        body.on_close(lambda: self._release_source(body, permit))
        with closing(body), self._write_slot(meter):
            return self._write_part(upload, number, body, meter)

    def _release_source(self, body: Body, permit: _Permit) -> None:
        """The source's connection is let go. A part that failed keeps its turn for the next try."""
        if body.complete:
            permit.close()
            self._fully_sent.add(gevent.getcurrent())

    @contextmanager
    def _write_slot(self, meter: Watchdog) -> Iterator[None]:
        """Wait for a place among those that are written, for which nobody is to blame."""
        before = meter.clock()
        with self._write_slots:
            meter.exclude_wait(meter.clock() - before)
            if self._failed:
                raise Cancelled("another part has failed")
            yield

    def _write_part(self, upload: Upload, number: int, body: Body, meter: Watchdog) -> StoredPart:
        way = self.way
        destination = cast(PartsDestination, way.stores.destination(way.place, meter))
        self._bodies[number] = body
        try:
            if way.digested:
                body.digest_with((COMBINED,))
            part = destination.put_part(replace(upload, welcome=self._skip_expect), number, body)
            reach("after-part")
            digest = body.digests.get(COMBINED, b"")
            _refuse_unstable(way.source, number, self.read.get(number), digest)
            self._skip_expect = True
            self.taken += 1
            return StoredPart(number, part.size, part.etag, digest.hex(), part.checked)
        except BaseException as error:
            self._skip_expect = False
            if body.complete and way.digested:
                self.read.setdefault(number, body.digests[COMBINED])
            self.resent += body.count
            if self._failed and isinstance(error, RelayError):
                raise Cancelled("another part has failed") from error  # no other try
            raise
        finally:
            del self._bodies[number]

    def _copy_part_once(
        self, upload: Upload, number: int, span: ByteRange, meter: Watchdog
    ) -> StoredPart:
        destination = cast(CopyPartsDestination, self.way.stores.destination(self.way.place, meter))
        part = destination.copy_part(upload, number, self.way.source, self.way.found, span)
        return StoredPart(number, part.size, part.etag, "", part.checked)


@dataclass(eq=False)
class _Permit:
    """One place of a semaphore, held or not."""

    places: BoundedSemaphore
    held: bool = False

    def begin(self) -> None:
        """Wait for it, if it is not held."""
        if not self.held:
            self.places.acquire()
            self.held = True

    def close(self) -> None:
        """Let it go, if it is held."""
        if self.held:
            self.held = False
            self.places.release()


def pause(seconds: float, meter: Watchdog, sleep: Callable[[float], None]) -> None:
    """Wait before something is done again. Raises what `Watchdog.check` raises, within about a
    second."""
    until = meter.clock() + seconds
    while (left := until - meter.clock()) > 0:
        sleep(min(left, meter.tick_seconds))
        meter.check()


def ranges_of(size: int, step: int) -> list[ByteRange]:
    """Cut `size` bytes into spans of `step` bytes each; the last one may be shorter."""
    return [ByteRange(first, min(first + step, size) - 1) for first in range(0, size, step)]


def numbered_parts(numbers: Iterator[int]) -> NextPart:
    """Return what gives one part after the other to the only process that moves them."""
    return lambda _: next(numbers, None)


def _refuse_unstable(source: Location, number: int, before: bytes | None, digest: bytes) -> None:
    """Raise SourceUnstable if a part was read before, of the same version, and had other bytes."""
    if before is not None and digest and before != digest:
        raise SourceUnstable(
            f"part {number} of {source} was read twice, and its bytes were others, under one"
            " entity tag"
        )
