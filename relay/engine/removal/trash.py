"""A trash: each object that a mirror deletes is copied there first, and proved.

Theory of operation. The copy is a transfer like any other, so that the store copies by itself where
it can, and the copy has a receipt. Each copy has a name that no other one has, nor can be taken for
by a store that folds names, and nothing in a trash is ever replaced. The name is recorded before
the copy is made.

Decided here: where a copy lies, and when it is good enough for the object to be deleted. Never
here: which objects are deleted (`mirror_removal.py`)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from relay.engine.inspection import inspect_object
from relay.engine.plan import IfExists, Plan
from relay.engine.removal.version_questions import kept_end, losses_of
from relay.engine.transfer_engine import TransferEngine
from relay.ledger.deletion_values import DeletionEnd, KeptReason, TrashCopy
from relay.location import Location
from relay.receipt import State, Version
from relay.stores.interfaces import ObjectInfo
from relay.stores.version_checks import difference
from relay.wire.watchdog import Watchdog


@dataclass(frozen=True)
class Trash:
    """The folder of a migration's deleted objects. `text` is the trash as its user named it."""

    engine: TransferEngine
    folder: Location
    migration_id: str
    text: str

    def new_copy(self, name: str) -> TrashCopy:
        """Return a place for one more copy of an object, at which nothing is."""
        return TrashCopy(self.text, f"{self.migration_id}/{name}~{secrets.token_hex(8)}")

    def keep_copy(
        self, name: str, place: Location, version: Version, copy: TrashCopy
    ) -> DeletionEnd | TrashCopy:
        """Copy a version of an object into the trash, and prove the copy; return it, or why the
        object has to be kept. Raises as TransferEngine.run, UnsafeKey and KeyTooLong."""
        plan = Plan(place, self._place_of(copy), if_exists=IfExists.FAIL)
        outcome = self.engine.run(self.engine.transfer(plan))
        if outcome.receipt is None or outcome.state is not State.VERIFIED:
            return kept_end(name, KeptReason.UNPROVED, "its copy in the trash is not proved")
        lost = losses_of(outcome.receipt.notes)
        if lost:
            return kept_end(name, KeptReason.METADATA_LOST, "; ".join(lost))
        changed = difference(version, outcome.receipt.source)
        if changed is not None:
            return kept_end(name, KeptReason.DESTINATION_CHANGED, changed)
        return replace(copy, version=outcome.receipt.destination)

    def restore(self, copy: TrashCopy, place: Location, deleted: Version) -> str | None:
        """Copy an object out of the trash to its old place, where nothing may be; return why that
        was not done or not proved, or None. The copy in the trash stays. Raises as
        TransferEngine.run, and AlreadyExists."""
        kept = self._place_of(copy)
        store = self.engine.stores.destination(kept, Watchdog(self.engine.limits))
        found = inspect_object(store, kept)
        there = found.version if isinstance(found, ObjectInfo) else Version()
        other = _other_object(copy.version, deleted, there)
        if other is not None:
            return f"the trash has another object: {other}"
        outcome = self.engine.run(self.engine.transfer(Plan(kept, place, if_exists=IfExists.FAIL)))
        if outcome.receipt is None or outcome.state is not State.VERIFIED:
            return "the restored object is not proved"
        other = _other_object(copy.version, deleted, outcome.receipt.source)
        return None if other is None else f"another object was restored: {other}"

    def _place_of(self, copy: TrashCopy) -> Location:
        return self.folder.below(copy.name, destination=True)


def _other_object(kept: Version | None, deleted: Version, there: Version) -> str | None:
    """Return what shows that the object in a trash is not the copy of a deleted one, or None."""
    if None not in (deleted.size, there.size) and deleted.size != there.size:
        return f"its size was {deleted.size} and is {there.size}"
    if kept is None or kept.strong_etag is None or there.strong_etag is None:
        return None
    return difference(kept, there)
