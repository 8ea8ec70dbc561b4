"""One transfer, from queued to settled: slot, head, get, pipe, verify, record, retry.

Theory of operation. `Transfer.run` makes attempts until one succeeds, one fails for good, or the budget of seconds
is spent. Each attempt starts from nothing: a fresh head, a fresh body, a fresh upload; no byte of an earlier one is
reused. Within an attempt the order is fixed: pin the source's version, look at the destination where `if_exists`
wants that, open the source at the pinned version, pipe, verify. Whatever ends an attempt, its body is closed, which
breaks an upload that was not whole; an object that turned out wrong after the destination took it is deleted again.

Decided here: the order of work, and what is tried again (law 7). Never here: how bytes move.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from random import random
from time import monotonic
from typing import Any, cast

import gevent

from relay.config import Limits
from relay.digest import ALGORITHMS, ALWAYS, Digests, compare
from relay.disposition import safe_name
from relay.engine.allowed import Allowed
from relay.engine.journal import Journal
from relay.engine.leftovers import Before, Broken, look_before, remove, sweep
from relay.engine.parts import COPY_BYTES, Parts, parted
from relay.engine.plan import IfExists, Plan, Verify
from relay.engine.promised import as_listed, as_promised, one_piece, uncompared
from relay.engine.unchanged import unchanged
from relay.engine.unfinished import Unfinished, place_of
from relay.engine.verify import Proof, Sent, prove
from relay.engine.window import BEGUN_ANEW, COMBINED, Way, pause
from relay.errors import (
    AlreadyExists,
    CertificateRefused,
    ConnectFailed,
    CredentialsWithdrawn,
    DestinationLost,
    DestinationMutates,
    EgressDenied,
    IntegrityMismatch,
    InvalidURL,
    LedgerFailed,
    LengthRequired,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RangeIgnored,
    RelayError,
    SameObject,
    SourceChanged,
    SourceUnstable,
    StoreError,
)
from relay.failpoints import reach
from relay.location import Location, same_object, same_path
from relay.receipt import Receipt, State, Version
from relay.retry import Backoff
from relay.stores.interfaces import CopyDestination, Destination, Found, Opened, Opener, Source, Span, Stored
from relay.throttle import Slots
from relay.wire.body import Body
from relay.wire.meter import Meter
from relay.wire.pump import drain

SWEEP_SECONDS = 5.0
"""How long looking for what a broken upload left may take."""

ANEW = 2
"""So often an object begins anew because its source became another version, or its upload was thrown away. The budget
of seconds is for what may pass; these may come after hours."""

NOTHING_SENT = (ConnectFailed, CertificateRefused, EgressDenied, PreconditionFailed)
"""Failures of an upload after which nothing of it can be at the destination."""

LISTED = frozenset({"s3"})
"""Stores that tell whoever may list that nothing is there, whether he may read or not (docs.aws.amazon.com,
"HeadObject")."""

_COPIED = "the store copied it by itself: no byte passed through relay"
_SENT_BEFORE = "it was there: an earlier process sent it, and was lost before it could say so"
_UNENDED = ("the source gave neither a length nor a digest: nothing proves that it was read to its end",)


@dataclass(frozen=True)
class Outcome:
    """How a transfer ended well. `receipt` is None for one that was skipped."""

    id: str
    state: State
    source: Location
    destination: Location
    bytes: int
    seconds: float
    receipt: Receipt | None
    notes: tuple[str, ...] = ()
    """Why it was skipped, where it was."""

    def to_json(self) -> Mapping[str, Any]:
        """Return it as the API and the command line print it; locations without their secrets."""
        return {
            "id": self.id,
            "state": self.state.value,
            "source": str(self.source),
            "destination": str(self.destination),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }


@dataclass(frozen=True)
class Known:
    """What is known of an object before its transfer begins, besides its locations.

    `listed` is what a listing told of it: a small object is read at once then, without a HEAD. `absent` says that
    nothing was at the destination when its migration began. `begun` says that another process may have sent it
    already: then the destination is asked before anything is sent again.
    """

    listed: Version | None = None
    promised: Version | None = None
    """What a list of URLs says of it: one that is another is not moved."""
    absent: bool = False
    begun: bool = False
    token: str | None = None
    """What names this attempt's upload where it lies under another name until it is published, ..."""
    lost: tuple[str, ...] = ()
    """... and those of attempts that were lost, whose uploads are ours to remove."""


@dataclass(eq=False)
class Transfer:
    """One object from one Location to another. Run it once, in a greenlet of its own or in the caller's.

    Others may read its progress while it runs: `phase` (waiting, opening, copying, piping, verifying, settled),
    `bytes`, `total` (None while unknown) and `attempt`; and may call `cancel`.
    """

    plan: Plan
    stores: Opener
    slots: Slots
    limits: Limits
    backoff: Backoff
    random: Callable[[], float] = random
    sleep: Callable[[float], None] = gevent.sleep
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    known: Known = Known()
    journal: Journal | None = None
    admitted: bool = False
    """It is not one of those who stand in line for a slot: whoever started it knows that one is free."""
    allowed: Allowed = field(default_factory=Allowed)
    phase: str = "waiting"
    attempt: int = 0
    total: int | None = None
    resent: int = 0

    def __post_init__(self) -> None:
        """Start the clocks."""
        self.meter = Meter(self.limits)
        self._body: Body | None = None
        self._parts: Parts | None = None
        self._hint: Found | None = None
        self._anew = 0
        self._answered = False
        self._read_before: tuple[str, Digests] | None = None
        self._altered: str | None = None

    # -- what others may see and do

    @property
    def bytes(self) -> int:
        """The bytes of the object that this attempt has moved."""
        if self._parts is not None:
            return self._parts.bytes
        return self._body.count if self._body is not None else 0

    def progress(self) -> Mapping[str, Any]:
        """Return where the transfer stands, as plain values."""
        return {
            "id": self.id,
            "phase": self.phase,
            "bytes": self.bytes,
            "total": self.total,
            "attempt": self.attempt,
            "seconds": round(self.meter.seconds(), 3),
        }

    def cancel(self, why: RelayError | None = None) -> None:
        """Let it end with `why` (Cancelled if none is given) within about a second."""
        self.meter.cancel(why)

    # -- attempts

    def run(self) -> Outcome:
        """Make the transfer. Raises the last attempt's RelayError; nothing of ours is left anywhere then."""
        try:
            while True:
                try:
                    return self._attempt()
                except RelayError as error:
                    if isinstance(error, PermissionDenied) and not error.retryable:
                        raise self._withdrawn(error) from None
                    self._wait_after(error)
        finally:
            self.phase = "settled"

    def _attempt(self) -> Outcome:
        """Make one attempt while holding a slot; the slot is let go while we wait for the next."""
        self.phase = "waiting"
        with self.slots.slot(admitted=self.admitted or self.attempt > 0, tick=self.meter.look):
            self.attempt += 1
            self.phase = "opening"
            self._parts, self.meter.committed = None, False
            try:
                return self._moved()
            finally:
                self._close()

    def _withdrawn(self, error: PermissionDenied) -> StoreError:
        """Return what a denial means: of one who was allowed before, that his credentials are not good any more.

        He was, if he has read some of the object, or parts of it have arrived. Without a journal nobody could go on.
        """
        if self.journal is None:
            return error
        written = self.journal.begun()
        allowed = (error.side == "source" and self.meter.moved > 0) or bool(written and written.parts)
        if not allowed:
            return error
        return CredentialsWithdrawn(error.message, side=error.side, store_status=error.store_status)

    def _wait_after(self, error: RelayError) -> None:
        """Wait before the next attempt, or raise `error` if there is to be none."""
        again = error.retryable and self.attempt and not isinstance(error, LedgerFailed)
        wait = self._wait(error) if again else None
        if wait is None:
            raise error
        self.phase = "waiting"
        pause(wait, self.meter, self.sleep)

    def _wait(self, error: RelayError) -> float | None:
        """Return how long to wait before the next attempt, in seconds, or None if there is to be none."""
        elapsed = self.meter.seconds()
        if isinstance(error, BEGUN_ANEW):
            self._anew += 1
            if self._anew > ANEW:
                return None
            elapsed = 0.0
        return self.backoff.wait(self.attempt, elapsed, error.retry_after, self.random)

    def _close(self) -> None:
        if self._body is not None:
            self._body.close()

    @property
    def _if_absent(self) -> bool:
        """Whether nothing may be at the destination."""
        return self.plan.if_exists in (IfExists.SKIP, IfExists.FAIL)

    # -- one attempt, in order

    def _moved(self) -> Outcome:
        source = self.stores.source(self.plan.source, self.meter)
        destination = self.stores.destination(self.plan.destination, self.meter)
        self._hint = self._hinted()
        found = self._hint or self._head(source) or self._peeked(source, destination)
        place = self._named(found) if found else self.plan.destination
        reach("after-pin")
        named = not place.path.endswith("/")
        if named:
            self._refuse_itself(found, place)
            self._remove_lost(destination, place)
        before = self._looked(destination, place) if named else None
        if before and (early := self._there(source, destination, place, before, found)):
            self._clear(destination)
            return early
        if found and before and (copied := self._copied(source, destination, place, found)):
            return copied
        if found and before and self._parted(found, destination):
            try:
                return self._in_parts(destination, place, found)
            except PreconditionFailed as error:
                return self._existing(error, place)
            except RangeIgnored:
                self._parts = None  # it comes in one piece, then
        self._clear(destination)
        opened = self._open(source, found)
        if before is None:
            place = self._named(opened)
            self._refuse_itself(opened, place)
            self._remove_lost(destination, place)
            before = self._looked(destination, place)
            if early := self._there(source, destination, place, before, opened):
                return early
        self._refuse_itself(opened, place)
        try:
            return self._piped(destination, place, before, opened)
        except PreconditionFailed as error:
            return self._existing(error, place)

    def _remove_lost(self, destination: Destination, place: Location) -> None:
        """Remove what attempts that were lost left under names that only they had; what can't be stays."""
        for token in self.known.lost if self.attempt == 1 else ():
            left = destination.unpublished(place, token)
            if left is None:
                return
            reach("during-sweep")
            with suppress(StoreError):
                destination.delete(left, Version())

    def _clear(self, destination: Destination) -> None:
        """Throw away the upload in parts that an attempt before this one began, and that this one does not go on
        with."""
        again = self.attempt > 1 or self.known.begun or bool(self.known.lost)
        if self.journal is None or destination.part_limits is None or not again:
            return
        written = self.journal.begun()
        place = place_of(self.plan, written) if written is not None else None
        if written is not None and place is not None:
            self._unfinished.sweep(place, written)

    @property
    def _unfinished(self) -> Unfinished:
        return Unfinished(self.stores, self.limits, self.meter, self.journal)

    def _hinted(self) -> Found | None:
        """Return what a listing told of a small object, in the place of what a HEAD would."""
        listed = self.known.listed
        if listed is None or self.attempt > 1 or self.known.begun or self.plan.destination.path.endswith("/"):
            return None
        small = listed.size is not None and listed.size < self.limits.parted_bytes
        return Found(listed, self.plan.source) if small and listed.strong_etag else None

    def _there(
        self, source: Source, destination: Destination, place: Location, before: Before, found: Found | None
    ) -> Outcome | None:
        """Return how it ends if what is at the destination already is enough, or None. Raises AlreadyExists."""
        if before.version is None:
            return None
        if self._may_be_sent and (outcome := self._sent_before(source, destination, place, before.version, found)):
            return outcome
        if self.plan.if_exists is IfExists.CHANGED:
            return self._unchanged(source, place, before.version, found)
        return self._outcome(State.SKIPPED, place, None) if self._skips(before, place) else None

    def _unchanged(self, source: Source, place: Location, there: Version, found: Found | None) -> Outcome | None:
        """Return a skip, if the destination has the object as it is at the source, and why."""
        if found is not None and None not in (found.version.size, there.size) and found.version.size != there.size:
            return None
        if found is None or found is self._hint:  # a listing tells no digest
            found = source.head(self.plan.source)
        why = unchanged(found.version, there) if found else None
        return replace(self._outcome(State.SKIPPED, place, None), notes=(why,)) if why else None

    @property
    def _may_be_sent(self) -> bool:
        """Whether an earlier attempt may have sent the object without anybody having learned of it."""
        lasting = self.journal is not None or self._if_absent
        again = self.known.begun or (lasting and self.attempt > 1)
        return again and self.plan.destination.method != "POST"  # which makes a new object each time

    def _sent_before(
        self, source: Source, destination: Destination, place: Location, there: Version, found: Found | None
    ) -> Outcome | None:
        """Return how it ends if the destination has the whole object: an earlier attempt sent it, and was lost then.

        Nothing is sent. None where the destination has something else.
        """
        if self._parted(found, destination):
            sent = self._written(found)
        else:
            sent, found = self._read(source, there)
        if sent is None or found is None or there.size not in (None, sent.bytes):
            return None
        self.phase = "verifying"
        notes, whole = self._end_of(found)
        try:
            stored = Stored(there, place, there.digests)
            return self._settled(destination, place, stored, found, sent, (_SENT_BEFORE, *notes), whole, keep=True)
        except (IntegrityMismatch, DestinationLost):
            return None

    def _written(self, found: Found | None) -> Sent | None:
        """Return what the journal says was sent in parts; nothing where the upload was never to be completed."""
        written = self.journal.begun() if self.journal is not None else None
        if written is None or not written.digest or found is None or found.version.etag != written.etag:
            return None
        return Sent(written.size, {COMBINED: bytes.fromhex(written.digest)}, found.version.digests)

    def _read(self, source: Source, there: Version, pinned: Version | None = None) -> tuple[Sent | None, Opened]:
        """Read the source, or what is `pinned` of it, without sending it, if it has as many bytes as `there`."""
        opened = self._open(source, Found(pinned, self.plan.source) if pinned else None)
        body = self._body
        assert body is not None  # _open set it
        try:
            if None not in (body.length, there.size) and body.length != there.size:
                return None, opened
            if body.digester is None:
                body.digest_with(_wanted(opened.version), opened.version.digests)
            drain(body)
            return Sent(body.count, body.digests, opened.version.digests), opened
        finally:
            self._close()
            self._body, self.total = None, None

    def _looked(self, destination: Destination, place: Location) -> Before:
        """Look at the destination before the upload, where one that breaks could be seen, or `if_exists` asks.

        A POST makes a new object, so there is nothing to look at.
        """
        asked = self.plan.if_exists is not IfExists.OVERWRITE or self._may_be_sent
        if self.known.absent and self.attempt == 1 and not self._may_be_sent:
            return Before(known=self._atomic(destination))
        if (place.method == "POST" or self._atomic(destination)) and not asked:
            return Before(known=False)
        try:
            before = look_before(destination, place, asked)
        except PermissionDenied as error:
            if error.retryable or not self._goes_unseen:
                raise
            before = Before(known=False)
        self._answered |= before.known and (before.version is not None or place.store not in LISTED)
        return before

    @property
    def _goes_unseen(self) -> bool:
        """Whether an upload goes also where the destination lets nobody look: what is there is not to be left alone,
        and nobody before us may have been let."""
        return not (self._if_absent or self.known.begun or self._answered)

    def _atomic(self, destination: Destination) -> bool:
        return destination.atomic(digested=self.plan.verify is not Verify.SIZE)

    def _open(self, source: Source, found: Found | None) -> Opened:
        try:
            opened = source.get(self.plan.source, found.version if found else None)
        except (SourceChanged, PreconditionFailed):
            if found is None or found is not self._hint:
                raise
            opened = source.get(self.plan.source)  # it changed since it was listed, which is nobody's fault
        body = self._body = opened.body
        assert body is not None  # an Opened has one
        opened = as_promised(opened, self.known.promised)
        if body.length is None and self.known.promised and self.known.promised.size is not None:
            body.promise(self.known.promised.size)
        self._hold_to_listing(opened)
        self.total = body.length
        if self.plan.verify is not Verify.SIZE:
            body.digest_with(_wanted(opened.version), opened.version.digests)
        return opened

    def _head(self, source: Source) -> Found | None:
        found = source.head(self.plan.source)
        if found and found.version.size:  # many a server that does not know says 0
            self._hold_to_listing(found)
        return found and as_promised(found, self.known.promised)

    def _hold_to_listing(self, found: Found) -> None:
        """Raise SourceChanged where a listing told another size of this very version."""
        if self.known.listed is not None and self.known.promised is None:
            as_listed(found.version, self.known.listed)

    def _refuse_itself(self, found: Found | None, place: Location) -> None:
        """Raise SameObject where a name that was taken over, or a redirect, leads back to the source."""
        source = self.plan.source
        there = source if found is None else found.location
        if same_object(source, place) or (there is not source and same_object(there, place)):
            raise SameObject(f"{place} is both source and destination")

    def _peeked(self, source: Source, destination: Destination) -> Found | None:
        """Return what the first byte of the object tells, where a HEAD tells nothing: most URLs that are signed allow
        GET alone.

        Only where something hangs on it: one that goes in parts can be gone on with when the signature has expired.
        """
        promised = self.known.promised.size if self.known.promised else None
        small = promised is not None and promised < self.limits.parted_bytes
        if self.journal is None or destination.part_limits is None or small:
            return None
        try:
            opened = source.get(self.plan.source, None, Span(0, 0))
        except (RangeIgnored, SourceChanged):  # it gives no ranges, or is empty
            return None
        assert opened.body is not None  # an Opened has one
        with closing(opened.body) as body:
            body.read()
        found = Found(opened.version, opened.location, opened.disposition, opened.metadata, ranges=True)
        return as_promised(found, self.known.promised)

    def _parted(self, found: Found | None, destination: Destination) -> bool:
        """Say if it is to go in parts."""
        size = found.version.size if found else None
        whole = one_piece(self.known.promised, destination.part_limits, size)
        return parted(found, destination, self.limits) and not whole

    def _named(self, found: Found) -> Location:
        """Give a destination that ends in '/' the source's name (Content-Disposition, else the last segment)."""
        place = self.plan.destination
        if not place.path.endswith("/"):
            return place
        name = safe_name(found.disposition, found.location) or safe_name(None, self.plan.source)
        if name is None:
            raise InvalidURL(
                "the destination is a folder, and the source has no name that is safe",
                pointer="/destination",
                hint="Give the whole URL of the destination, with the object's name.",
            )
        return place.named(name)

    def _skips(self, before: Before, place: Location) -> bool:
        """Say if what is there is to be left alone. Raises AlreadyExists.

        Where the destination did not tell, the precondition of the upload has to.
        """
        if self.plan.if_exists is IfExists.FAIL and before.version is not None:
            raise AlreadyExists(f"{place} exists")
        return self.plan.if_exists is IfExists.SKIP and before.version is not None

    def _existing(self, error: PreconditionFailed, place: Location) -> Outcome:
        """Make of a 412 to the upload what `if_exists` asks for."""
        if error.side != "destination" or not self._if_absent:
            raise error
        if self.plan.if_exists is IfExists.FAIL:
            raise AlreadyExists(f"{place} exists") from None
        return self._outcome(State.SKIPPED, place, None)

    def _in_parts(self, destination: Destination, place: Location, found: Found) -> Outcome:
        """Move it in parts. Raises RangeIgnored where the source gives no ranges; nothing has happened then."""
        parts = self._parts = self._of_parts(place, found)
        self.total = found.version.size
        self.phase = "piping"
        try:
            moved = parts.run()
        except RelayError:
            self.resent += parts.sent
            raise
        self.resent += moved.resent
        self.phase = "verifying"
        sent = Sent(parts.bytes, moved.digests, found.version.digests)
        notes = uncompared(self.known.promised)
        return self._settled(destination, place, moved.stored, found, sent, notes)

    def _of_parts(self, place: Location, found: Found, copying: bool = False) -> Parts:
        digested = self.plan.verify is not Verify.SIZE and not copying
        return Parts(self.way(place, found, digested, copying), self._if_absent, self.journal)

    def way(self, place: Location, found: Found, digested: bool, copying: bool = False) -> Way:
        """Return how the parts of what was `found` go to `place`."""
        return Way(
            stores=self.stores,
            found=found,
            source=self.plan.source,
            place=place,
            meter=self.meter,
            limits=self.limits,
            backoff=self.backoff,
            random=self.random,
            sleep=self.sleep,
            digested=digested,
            copying=copying,
        )

    def _copied(self, source: Source, destination: Destination, place: Location, found: Found) -> Outcome | None:
        """Let the store copy it by itself. None where it would not, or could not say of what: it is piped then.

        Where the source has no digest of the whole object it is read, once, so that the copy can be proved.
        """
        if not (self.plan.server_copy and destination.copies(self.plan.source, place)):
            return None
        if found is self._hint:
            found = source.head(self.plan.source) or found
        if found.version.size is None or found is self._hint:
            return None
        self.phase, self.total = "copying", found.version.size
        try:
            stored = self._copy(destination, place, found)
        except PreconditionFailed as error:
            return self._existing(error, place)
        except StoreError as error:
            self._parts = None
            if error.retryable:
                raise
            return None
        self.phase = "verifying"
        sent = Sent(found.version.size, {}, found.version.digests)
        if not sent.declared and self.plan.verify is not Verify.SIZE:
            sent = self._read(source, found.version, found.version)[0] or sent
        return self._settled(destination, place, stored, found, sent, (_COPIED,), moved=0)

    def _copy(self, destination: Destination, place: Location, found: Found) -> Stored:
        """Have it copied; in parts, if it is too large for one request. Raises as CopyDestination.copy."""
        size = found.version.size or 0
        if destination.part_limits is not None and size > COPY_BYTES:
            self._parts = self._of_parts(place, found, copying=True)
            return self._parts.run().stored
        named = {} if self.known.token is None else {"token": self.known.token}
        copier = cast(CopyDestination, destination)
        return copier.copy(self.plan.source, found, place, if_absent=self._if_absent, **named)

    def _piped(self, destination: Destination, place: Location, before: Before, opened: Opened) -> Outcome:
        body = self._body
        assert body is not None  # _open set it
        atomic = self._atomic(destination)
        if not atomic and same_path(opened.location, place) and _twins(opened.version, before.version):
            raise _alias(place)
        body.guard = partial(self._last_bytes, destination.unpublished(place, "") is None)
        if body.complete:
            body.ask_guard()  # an empty one has no bytes that could wait for it
        self.phase = "piping"
        try:
            stored = destination.put(
                place, body, opened.metadata, if_absent=self._if_absent, **self._named_put(destination, opened)
            )
        except RelayError as error:
            self._close()
            self._note_read(opened, body)
            self.resent += body.count
            if not (place.method == "POST" or atomic or isinstance(error, NOTHING_SENT)):
                self._sweep(Broken(place, before, body.count, body.length), error)
            if isinstance(error, LengthRequired) and body.length is not None:
                raise _refused_length(error) from None
            raise
        self.phase = "verifying"
        notes, whole = self._end_of(opened)
        sent = Sent(body.count, body.digests, opened.version.digests)
        try:
            self._note_read(opened, body)
        except SourceUnstable as error:
            remove(destination, stored, error)
            raise
        return self._settled(destination, place, stored, opened, sent, notes, whole)

    def _named_put(self, destination: Destination, opened: Opened) -> dict[str, Any]:
        """Return what goes along with an upload where there is such a thing: its token, and what begins its parts."""
        named: dict[str, Any] = {} if self.known.token is None else {"token": self.known.token}
        growing = opened.body is not None and opened.body.length is None
        if growing and destination.part_limits is not None:
            digested = self.plan.verify is not Verify.SIZE
            named["begins"] = self._unfinished.growing(opened.version, digested)
        return named

    @staticmethod
    def _end_of(found: Found) -> tuple[tuple[str, ...], bool]:
        """Return what is to be said of the source's end, and whether it was proved: by a length, the framing, or a
        digest that the source declared and that what came has."""
        body = found.body if isinstance(found, Opened) else None
        proved = body is None or not body.ends_by_close or bool(found.version.digests and body.digester)
        return (() if proved else _UNENDED), proved

    def _last_bytes(self, shown: bool) -> None:
        """Look before the last bytes go out whether the object is still ours; `shown` says that they make it one that
        everybody sees. Raises LeaseLost, LedgerFailed, and what the meter raises."""
        if self.journal is not None:
            self.journal.held()
        if shown:
            self.meter.commit()

    def _note_read(self, opened: Opened, body: Body) -> None:
        """Keep in mind what was read of this version, whole. Raises SourceUnstable if it was something else before."""
        etag = opened.version.strong_etag
        if not body.complete or etag is None or not body.digests:
            return
        if self._read_before is not None and self._read_before[0] == etag:
            _, differing = compare(self._read_before[1], body.digests)
            if differing:
                raise SourceUnstable(f"{opened.location} was read twice, and its bytes were others, under {etag}")
        self._read_before = (etag, body.digests)

    def _settled(
        self,
        destination: Destination,
        place: Location,
        stored: Stored,
        found: Found,
        sent: Sent,
        notes: tuple[str, ...],
        whole: bool = True,
        keep: bool = False,
        moved: int | None = None,
    ) -> Outcome:
        """Prove what is at the destination now. Raises as `prove`; an object that is wrong is removed, unless `keep`
        says that it may be another's. `moved` is how many bytes that took, if not all of them."""
        reach("before-verify")
        try:
            proof = prove(destination, stored, sent, self.plan.verify, self._settling())
            self._still_allowed(place, proof)
            version = self._published(destination, stored, proof)
        except RelayError as error:
            if keep:
                raise
            judged = self._judged(error, place)
            if isinstance(judged, CredentialsWithdrawn) and stored.place is None:
                raise  # it is there, and need only be proved
            self.resent += sent.bytes if moved is None else moved
            if isinstance(judged, IntegrityMismatch | DestinationMutates) or stored.place is not None:
                remove(destination, stored, judged)
            raise judged from error.__cause__
        receipt = Receipt(
            level=proof.level,
            bytes=sent.bytes,
            digests=sent.digests,
            source=found.version.sized(sent.bytes),
            destination=version,
            attempts=self.attempt,
            bytes_resent=self.resent,
            notes=proof.notes + stored.notes + notes,
            whole=whole,
        )
        return self._outcome(receipt.state, place, receipt)

    def _still_allowed(self, place: Location, proof: Proof) -> None:
        """Raise CredentialsWithdrawn where the destination denies the proof, and answered such questions before.

        Without a journal nobody could go on; one that never let us look stays what it is, unverified.
        """
        if proof.read:
            self.allowed.note(place)
        elif proof.denied and self.journal is not None and (self._answered or self.allowed.has(place)):
            raise CredentialsWithdrawn(
                f"the object was taken, and can't be proved: {proof.denied.message}",
                side="destination",
                hint="Resume with fresh credentials that may read it too; what has arrived is not sent again.",
                store_status=proof.denied.store_status,
            )

    def _judged(self, error: RelayError, place: Location) -> RelayError:
        """Return the failure of a proof, or what it means: the same other bytes twice are no accident."""
        seen = error.seen if isinstance(error, IntegrityMismatch) and error.side == "destination" else None
        again, self._altered = seen is not None and seen == self._altered, seen
        return DestinationMutates(f"{place}, twice: {error.message}") if again else error

    def _published(self, destination: Destination, stored: Stored, proof: Proof) -> Version:
        """Let it be seen at its place, now that it is proved. Raises as Destination.publish, and DestinationLost."""
        if stored.place is None:
            return proof.version
        if self.journal is not None:
            self.journal.held()
        reach("before-publish")
        self.meter.commit()
        try:
            version = destination.publish(stored, if_absent=self._if_absent)
            reach("after-publish")
        except NotFound as error:
            raise DestinationLost(f"{stored.place} is not there after it was moved there: {error.message}") from None
        size = proof.version.size
        if None not in (size, version.size) and size != version.size:
            raise DestinationMutates(
                f"{stored.place} has {version.size} bytes after {size} were moved there; they were left alone"
            )
        return replace(version, size=size if version.size is None else version.size)

    def _settling(self) -> Callable[[], bool]:
        """Return what waits a moment longer each time, until the destination had its time to settle."""
        until, waits = monotonic() + self.limits.settle_seconds, iter([0.05, 0.1, 0.2, 0.5])

        def poll() -> bool:
            self.meter.look()
            left = until - monotonic()
            if left > 0:
                self.sleep(min(next(waits, 1.0), left))
            return left > 0

        return poll

    def _sweep(self, broken: Broken, error: RelayError) -> None:
        """Look for what the broken upload left, on a short clock of its own: ours may be what ran out."""
        seconds = min(self.limits.head_seconds, SWEEP_SECONDS)
        meter = Meter(replace(self.limits, head_seconds=seconds, total_seconds=2 * seconds))
        waits = [partial(self.sleep, wait) for wait in self.limits.sweep_waits]
        sweep(self.stores.destination(broken.place, meter), broken, error, waits)

    def _outcome(self, state: State, place: Location, receipt: Receipt | None) -> Outcome:
        moved = receipt.bytes if receipt else 0
        return Outcome(self.id, state, self.plan.source, place, moved, self.meter.seconds(), receipt)


def _twins(source: Version, there: Version | None) -> bool:
    """Say if two versions are the same in all that tells versions apart, as those of one object by two names are.

    For two objects of one server that says little: nginx makes its tags of the second and the size.
    """
    ours, theirs = ((one.etag, one.size, one.last_modified) for one in (source, there or Version()))
    return ours == theirs and None not in ours


def _alias(place: Location) -> SameObject:
    return SameObject(
        f"{place} has the source's path, entity tag, size and time: it may be the same object by another name",
        hint="An upload would empty it before it is read. Two exact twins need no move: 'if_exists': 'changed' skips.",
    )


def _wanted(version: Version) -> tuple[str, ...]:
    """Return the digests to compute: the cheap ones, and one of those that the source declared.

    Of the expensive ones the first is enough, and only where the source declared no cheap one.
    """
    declared = [name for name in ALGORITHMS if name in version.digests]
    return ALWAYS if not declared or declared[0] in ALWAYS else (*ALWAYS, declared[0])


def _refused_length(error: LengthRequired) -> RelayError:
    return StoreError(
        f"{error.message}, although a Content-Length was sent",
        side="destination",
        store_status=error.store_status,
    )
