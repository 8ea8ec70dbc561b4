"""The context of one transfer: plan, prior knowledge of the object, stores, limits and clocks.

Decided here: what follows from the terms alone. Never here: what is done about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time
from typing import Final

from relay.config import Limits
from relay.engine.multipart.journal import Journal
from relay.engine.multipart.lifecycle import UploadLifecycle
from relay.engine.multipart.part_workers import PartContext
from relay.engine.multipart.upload import is_multipart
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Plan, Verify
from relay.engine.retries import PendingRetries
from relay.engine.transfer.expectations import must_be_single_upload
from relay.ledger.rows import PriorState
from relay.location import Location
from relay.receipt import Receipt, State, Version
from relay.retry import Backoff
from relay.stores.interfaces import Destination, ObjectInfo, StoreProvider
from relay.wire.watchdog import Watchdog

_IF_ABSENT: Final = (IfExists.SKIP, IfExists.FAIL)


@dataclass(frozen=True)
class ObjectHints:
    """What is known of an object before its transfer begins, besides its locations.

    `listed` is what a listing told of it: a small object is read at once then, without a HEAD.
    `absent` says that nothing was at the destination of its tree, a short while ago. `begun` says
    that another process may have sent it already: then the destination is asked before anything is
    sent again. `before` is what that process found there before it sent the first byte."""

    listed: Version | None = None
    promised: Version | None = None
    """What a list of URLs says of it: one that is another is not moved."""
    absent: bool = False
    begun: bool = False
    before: PriorState | None = None
    lapsed: bool = False
    """That a process ended in the middle of it, and nobody has looked since at what it left."""
    twins: tuple[Location, ...] = ()
    """Where objects of the same tree may be that this destination takes for the same, if it takes
    two names for one."""
    token: str | None = None
    """What names this attempt's upload where it lies under another name until it is published,
    ..."""
    lost: tuple[str, ...] = ()
    """... and those of attempts that were lost, whose uploads are ours to remove."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """What the claims before this one left, as they ended, in words, by place."""


@dataclass(eq=False)
class TransferContext:
    """The terms of one transfer. Nothing of them changes while it runs. (Frozen, each would take 2
    µs to be made.)"""

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
    remains: dict[str, str] = field(default_factory=dict)
    """As Progress.remains."""

    @property
    def if_absent(self) -> bool:
        """Whether nothing may be at the destination."""
        return self.plan.if_exists in _IF_ABSENT

    @property
    def began(self) -> float:
        """When the transfer began, in seconds since 1970."""
        return time() - self.meter.seconds()

    @property
    def needs_digest(self) -> bool:
        """Whether digests are wanted at all."""
        return self.plan.verify is not Verify.SIZE

    @property
    def upload_lifecycle(self) -> UploadLifecycle:
        """What begins and ends its uploads in parts."""
        return UploadLifecycle(self.stores, self.limits, self.meter, self.journal, self.remains)

    def publishes_atomically(self, destination: Destination) -> bool:
        """Say if nobody sees anything of an upload that breaks off there."""
        return destination.publishes_atomically(digested=self.needs_digest)

    def is_multipart(self, found: ObjectInfo | None, destination: Destination) -> bool:
        """Say if the object is to go in parts."""
        size = found.version.size if found else None
        whole = must_be_single_upload(self.known.promised, destination.part_limits, size)
        return is_multipart(found, destination, self.limits) and not whole

    def part_context(
        self, place: Location, found: ObjectInfo, digested: bool, copying: bool = False
    ) -> PartContext:
        """Return how the parts of what was `found` go to `place`."""
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
        """Return how it ended: with a `receipt`, or skipped."""
        moved = receipt.bytes if receipt else 0
        return Outcome(
            self.id, state, self.plan.source, place, moved, self.meter.seconds(), receipt, notes
        )
