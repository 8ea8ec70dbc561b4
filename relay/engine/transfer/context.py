"""The context of one transfer: plan, prior knowledge of the object, stores, limits and clocks.

Decided here: what follows from the context alone. Never here: the steps of the transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time

from relay.engine.multipart.journal import Journal
from relay.engine.multipart.lifecycle import UploadLifecycle
from relay.engine.multipart.part_sizes import is_multipart
from relay.engine.multipart.part_workers import PartContext
from relay.engine.outcome import Outcome
from relay.engine.plan import Plan, Verify
from relay.engine.retries import PendingRetries
from relay.engine.transfer.donor import Donor
from relay.engine.transfer.expectations import must_be_single_upload
from relay.engine.transfer.names_under_way import NamesUnderWay
from relay.ledger.planned_values import PlannedPair
from relay.ledger.prior_state_values import PriorState
from relay.location import Location
from relay.receipt import Receipt, State, Version
from relay.retry import Backoff
from relay.stores.interfaces import ObjectInfo, PartLimits, StoreProvider
from relay.transfer_limits import Limits
from relay.wire.capabilities import CapabilityCache
from relay.wire.watchdog import Watchdog


@dataclass(frozen=True, kw_only=True)
class ObjectHints:
    """The knowledge about an object before its transfer begins, besides its locations."""

    listed: Version | None = None
    """The version in the listing. With it a small object is read without a HEAD."""
    promised: Version | None = None
    """Size and digests from the list of URLs. The transfer fails if the object does not match."""
    absent: bool = False
    """True if the destination of the tree was empty a short while ago."""
    begun: bool = False
    """True if another process may have sent the object already. Then the destination is inspected
    before anything is sent again."""
    before: PriorState | None = None
    """The destination's state before that process sent the first byte."""
    after_crash: bool = False
    """True if a process crashed during the transfer, and its leftovers have not been inspected."""
    twins: tuple[Location, ...] = ()
    """Places of other objects of the tree that would be the same object at a destination that folds
    names (case, Unicode normalization)."""
    planned: PlannedPair | None = None
    """What the migration's plan has seen of both sides. Another version is neither read nor
    replaced."""
    donor: Donor | None = None
    """An object of equal content that the destination may copy."""
    needs_md5: bool = False
    """Whether the MD5 of the bytes is computed, by which the ETags of the source are judged."""
    token: str | None = None
    """Part of the temporary name of this attempt's upload, which is renamed when it is
    published."""
    lost: tuple[str, ...] = ()
    """The tokens of crashed attempts. Their temporary uploads are ours to delete."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Sentences about the leftovers of earlier claims, by place."""
    written: Version | None = None
    """The destination's version that this migration had written, before its source was listed in
    another one; without values if it was not written. None: no such change is known."""


@dataclass(eq=False, kw_only=True)
class TransferContext:
    """The unchanging context of one transfer. (Frozen, it would take 2 µs to
    construct.)"""

    id: str
    plan: Plan
    known: ObjectHints
    stores: StoreProvider
    limits: Limits
    backoff: Backoff
    random: Callable[[], float]
    sleep: Callable[[float], None]
    meter: Watchdog
    journal: Journal | None
    troubles: PendingRetries
    memory: CapabilityCache
    """Facts about the servers of both sides."""
    names: NamesUnderWay
    """The names that the process sends now."""
    remains: dict[str, str] = field(default_factory=dict)
    """As Progress.remains."""

    @property
    def began(self) -> float:
        """The start of the transfer, in seconds since 1970."""
        return time() - self.meter.seconds()

    @property
    def needs_digest(self) -> bool:
        """True if the level of proof needs digests."""
        return self.plan.verify is not Verify.SIZE

    @property
    def upload_lifecycle(self) -> UploadLifecycle:
        """Creates and aborts the transfer's multipart uploads."""
        return UploadLifecycle(
            stores=self.stores,
            limits=self.limits,
            meter=self.meter,
            journal=self.journal,
            remains=self.remains,
        )

    def is_multipart(self, found: ObjectInfo | None, parts: PartLimits | None) -> bool:
        """Return whether the object goes as a multipart upload, to a destination with these limits
        of `parts`."""
        if not is_multipart(found, parts, self.limits):
            return False
        size = found.version.size if found else None
        return not must_be_single_upload(self.known.promised, parts, size)

    def part_context(
        self, place: Location, found: ObjectInfo, digested: bool, copying: bool = False
    ) -> PartContext:
        """Return the context of the part transfers from the version `found` to `place`."""
        return PartContext(
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
            troubles=self.troubles,
            remains=self.remains,
        )

    def outcome(
        self,
        state: State,
        place: Location,
        receipt: Receipt | None = None,
        notes: tuple[str, ...] = (),
    ) -> Outcome:
        """Return the outcome: with a `receipt` if the object was moved, without if skipped."""
        moved = receipt.bytes if receipt else 0
        return Outcome(
            id=self.id,
            state=state,
            source=self.plan.source,
            destination=place,
            bytes=moved,
            seconds=self.meter.seconds(),
            receipt=receipt,
            notes=notes,
        )
