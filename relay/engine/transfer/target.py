"""The target of a transfer: the destination, the object's place there, and the place's prior state.

Decided here: when a folder gets the object's name. Never here: that name (`relay/file_names.py`),
and what an upload does to the place."""

from __future__ import annotations

from relay.engine.plan import IfExists
from relay.engine.transfer.context import TransferContext
from relay.file_names import name_after_source
from relay.ledger.prior_state_values import PriorState
from relay.location import Location
from relay.stores.interfaces import Destination, ObjectInfo, PartLimits


class Target:
    """The target of one transfer. `reset` begins each attempt; the place is complete from then on,
    or once `name_after` has given a folder the object's name."""

    destination: Destination
    place: Location
    is_folder: bool
    """True if the place ends in '/': then it needs an object's name."""
    if_exists: IfExists
    """What to do with an existing object at the place."""
    if_absent: bool
    """True if an existing object must not be overwritten."""
    publishes_atomically: bool
    """True if an upload that breaks off is never visible at the destination."""
    before: PriorState | None
    """The state of the place before this attempt sends a byte; None until it was inspected."""
    _shows_unproved: bool | None
    """As `shows_unproved`, once that was asked for this place."""

    def __init__(self, context: TransferContext) -> None:
        self._context = context

    def reset(self) -> None:
        """Open the destination again, with nothing known about it."""
        context = self._context
        self.destination = context.stores.destination(context.plan.destination, context.meter)
        self.publishes_atomically = self.destination.publishes_atomically(context.needs_digest)
        self._set_place(context.plan.destination)
        self.before = None

    def name_after(self, found: ObjectInfo) -> None:
        """Complete a place that ends in '/' with the source's name. Raises InvalidURL where it has
        no safe name."""
        if self.is_folder:
            source = self._context.plan.source
            named = name_after_source(self.place, source, found.disposition, found.location)
            self._set_place(named)

    def _set_place(self, place: Location) -> None:
        """Set the place, and what follows from it."""
        self.place, self.is_folder = place, place.path.endswith("/")
        self.if_exists = self._context.plan.if_exists_at(place)
        self.if_absent = self.if_exists.only_if_absent
        self._shows_unproved = None

    @property
    def part_limits(self) -> PartLimits | None:
        """The limits of multipart uploads to the place, or None if the destination has none."""
        return self.destination.part_limits(self.place)

    @property
    def shows_unproved(self) -> bool:
        """True if an object is visible at its place before it is verified: only then may a partial
        or damaged object of ours be there."""
        if self._shows_unproved is None:
            self._shows_unproved = not self.destination.staged_locations(self.place, "")
        return self._shows_unproved
