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
from dataclasses import dataclass, field, replace
from functools import partial
from random import random
from time import monotonic
from typing import Any

import gevent

from relay.config import Limits
from relay.digest import ALGORITHMS, ALWAYS
from relay.disposition import safe_name
from relay.engine.leftovers import Before, Broken, look_before, remove, sweep
from relay.engine.parts import Parts, parted
from relay.engine.plan import IfExists, Plan, Verify
from relay.engine.verify import Proof, Sent, prove
from relay.errors import (
    AlreadyExists,
    CertificateRefused,
    ConnectFailed,
    DestinationLost,
    EgressDenied,
    IntegrityMismatch,
    InvalidURL,
    LengthRequired,
    NotFound,
    PreconditionFailed,
    RangeIgnored,
    RelayError,
    StoreError,
)
from relay.location import Location
from relay.receipt import Receipt, State, Version
from relay.retry import Backoff
from relay.stores.interfaces import Destination, Found, Opened, Opener, Source, Stored
from relay.throttle import Slots
from relay.wire.body import Body
from relay.wire.meter import Meter

SWEEP_SECONDS = 5.0
"""How long looking for what a broken upload left may take."""

NOTHING_SENT = (ConnectFailed, CertificateRefused, EgressDenied, PreconditionFailed)
"""Failures of an upload after which nothing of it can be at the destination."""


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


@dataclass(eq=False)
class Transfer:
    """One object from one Location to another. Run it once, in a greenlet of its own or in the caller's.

    Others may read its progress while it runs: `phase` (waiting, opening, piping, verifying, settled), `bytes`,
    `total` (None while unknown) and `attempt`; and may call `cancel`.
    """

    plan: Plan
    stores: Opener
    slots: Slots
    limits: Limits
    backoff: Backoff
    random: Callable[[], float] = random
    sleep: Callable[[float], None] = gevent.sleep
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    phase: str = "waiting"
    attempt: int = 0
    total: int | None = None
    resent: int = 0

    def __post_init__(self) -> None:
        """Start the clocks."""
        self.meter = Meter(self.limits)
        self._body: Body | None = None
        self._parts: Parts | None = None

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
                    self._wait_after(error)
        finally:
            self.phase = "settled"

    def _attempt(self) -> Outcome:
        """Make one attempt while holding a slot; the slot is let go while we wait for the next."""
        self.phase = "waiting"
        with self.slots.slot(admitted=self.attempt > 0, tick=self.meter.look):
            self.attempt += 1
            self.phase = "opening"
            self._parts = None
            try:
                return self._moved()
            finally:
                self._close()

    def _wait_after(self, error: RelayError) -> None:
        """Wait before the next attempt, or raise `error` if there is to be none."""
        wait = None
        if error.retryable and self.attempt:
            wait = self.backoff.wait(self.attempt, self.meter.seconds(), error.retry_after, self.random)
        if wait is None:
            raise error
        self.phase = "waiting"
        until = monotonic() + wait
        while (left := until - monotonic()) > 0:
            self.sleep(min(left, self.meter.tick_seconds))
            self.meter.look()

    def _close(self) -> None:
        if self._body is not None:
            self._body.close()

    # -- one attempt, in order

    def _moved(self) -> Outcome:
        source = self.stores.source(self.plan.source, self.meter)
        destination = self.stores.destination(self.plan.destination, self.meter)
        found = source.head(self.plan.source)
        place = self._named(found) if found else self.plan.destination
        named = not place.path.endswith("/")
        before = self._looked(destination, place) if named else None
        if before and self._skips(before, place):
            return self._outcome(State.SKIPPED, place, None)
        if found and before and parted(found, destination, self.limits):
            try:
                return self._in_parts(destination, place, found)
            except PreconditionFailed as error:
                return self._existing(error, place)
            except RangeIgnored:
                self._parts = None  # it comes in one piece, then
        opened = self._open(source, found)
        if before is None:
            place = self._named(opened)
            before = self._looked(destination, place)
            if self._skips(before, place):
                return self._outcome(State.SKIPPED, place, None)
        try:
            return self._piped(destination, place, before, opened)
        except PreconditionFailed as error:
            return self._existing(error, place)

    def _looked(self, destination: Destination, place: Location) -> Before:
        """Look at the destination before the upload, where one that breaks could be seen, or `if_exists` asks.

        A POST makes a new object, so there is nothing to look at.
        """
        needed = self.plan.if_exists is not IfExists.OVERWRITE
        if (place.method == "POST" or self._atomic(destination)) and not needed:
            return Before(known=False)
        return look_before(destination, place, needed)

    def _atomic(self, destination: Destination) -> bool:
        return destination.atomic(digested=self.plan.verify is not Verify.SIZE)

    def _open(self, source: Source, found: Found | None) -> Opened:
        opened = source.get(self.plan.source, found.version if found else None)
        body = self._body = opened.body
        assert body is not None  # an Opened has one
        self.total = body.length
        if self.plan.verify is not Verify.SIZE:
            body.digest_with(_wanted(opened.version), opened.version.digests)
        return opened

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
        if error.side != "destination" or self.plan.if_exists is IfExists.OVERWRITE:
            raise error
        if self.plan.if_exists is IfExists.FAIL:
            raise AlreadyExists(f"{place} exists") from None
        return self._outcome(State.SKIPPED, place, None)

    def _in_parts(self, destination: Destination, place: Location, found: Found) -> Outcome:
        """Move it in parts. Raises RangeIgnored where the source gives no ranges; nothing has happened then."""
        parts = self._parts = Parts(
            stores=self.stores,
            found=found,
            source=self.plan.source,
            place=place,
            meter=self.meter,
            limits=self.limits,
            backoff=self.backoff,
            random=self.random,
            sleep=self.sleep,
            digested=self.plan.verify is not Verify.SIZE,
            if_absent=self.plan.if_exists is not IfExists.OVERWRITE,
        )
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
        return self._settled(destination, place, moved.stored, found, sent, ())

    def _piped(self, destination: Destination, place: Location, before: Before, opened: Opened) -> Outcome:
        body = self._body
        assert body is not None  # _open set it
        self.phase = "piping"
        try:
            stored = destination.put(
                place, body, opened.metadata, if_absent=self.plan.if_exists is not IfExists.OVERWRITE
            )
        except RelayError as error:
            self._close()
            self.resent += body.count
            if not (place.method == "POST" or self._atomic(destination) or isinstance(error, NOTHING_SENT)):
                self._sweep(Broken(place, before, body.count, body.length), error)
            if isinstance(error, LengthRequired) and body.length is not None:
                raise _refused_length(error) from None
            raise
        self.phase = "verifying"
        notes = _UNENDED if body.ends_by_close else ()
        whole = not body.ends_by_close or bool(opened.version.digests and body.digester)
        sent = Sent(body.count, body.digests, opened.version.digests)
        return self._settled(destination, place, stored, opened, sent, notes, whole)

    def _settled(
        self,
        destination: Destination,
        place: Location,
        stored: Stored,
        found: Found,
        sent: Sent,
        notes: tuple[str, ...],
        whole: bool = True,
    ) -> Outcome:
        """Prove what is at the destination now. Raises as `prove`; an object that is wrong is removed."""
        try:
            proof = prove(destination, stored, sent, self.plan.verify, self._settling())
            version = self._published(destination, stored, proof)
        except RelayError as error:
            self.resent += sent.bytes
            if isinstance(error, IntegrityMismatch) or stored.place is not None:
                remove(destination, stored, error)
            raise
        receipt = Receipt(
            level=proof.level,
            bytes=sent.bytes,
            digests=sent.digests,
            source=replace(found.version, size=sent.bytes),
            destination=version,
            attempts=self.attempt,
            bytes_resent=self.resent,
            notes=proof.notes + notes,
            whole=whole,
        )
        return self._outcome(receipt.state, place, receipt)

    def _published(self, destination: Destination, stored: Stored, proof: Proof) -> Version:
        """Let it be seen at its place, now that it is proved. Raises as Destination.publish, and DestinationLost."""
        if stored.place is None:
            return proof.version
        absent = self.plan.if_exists is not IfExists.OVERWRITE
        try:
            version = destination.publish(stored, if_absent=absent)
        except NotFound as error:
            raise DestinationLost(f"{stored.place} is not there after it was moved there: {error.message}") from None
        size = proof.version.size
        if None not in (size, version.size) and size != version.size:
            raise DestinationLost(f"{stored.place} has {version.size} bytes after {size} were moved there")
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
