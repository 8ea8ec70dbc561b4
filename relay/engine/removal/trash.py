"""A trash: each object that a mirror deletes is copied there first, and proved.

Theory of operation. The copy is a transfer like any other, so that the store copies by itself where
it can, and the copy has a receipt. Each migration has a folder of its own in the trash, so that no
copy replaces one of another run.

Decided here: where a copy lies, and when it is good enough for the object to be deleted. Never
here: which objects are deleted (`mirror_removal.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from relay.engine.plan import IfExists, Plan
from relay.engine.removal.version_questions import kept_end, losses_of
from relay.engine.transfer_engine import TransferEngine
from relay.ledger.deletion_values import DeletionEnd, KeptReason
from relay.location import Location
from relay.receipt import State, Version
from relay.stores.version_checks import difference


@dataclass(frozen=True)
class Trash:
    """The folder of a migration's deleted objects. `text` is the trash as its user named it."""

    engine: TransferEngine
    folder: Location
    migration_id: str
    text: str

    def place_of(self, name: str) -> Location:
        """Return the place of the copy of an object. Raises UnsafeKey and KeyTooLong."""
        return self.folder.below(f"{self.migration_id}/{name}", destination=True)

    def keep_copy(self, name: str, place: Location, version: Version) -> DeletionEnd | None:
        """Copy a version of an object into the trash, and prove the copy; return why the object has
        to be kept, or None. Raises as TransferEngine.run."""
        plan = Plan(place, self.place_of(name), if_exists=IfExists.OVERWRITE)
        outcome = self.engine.run(self.engine.transfer(plan))
        if outcome.receipt is None or outcome.state is not State.VERIFIED:
            return kept_end(name, KeptReason.UNPROVED, "its copy in the trash is not proved")
        lost = losses_of(outcome.receipt.notes)
        if lost:
            return kept_end(name, KeptReason.METADATA_LOST, "; ".join(lost))
        changed = difference(version, outcome.receipt.source)
        if changed is not None:
            return kept_end(name, KeptReason.DESTINATION_CHANGED, changed)
        return None

    def restore(self, name: str, place: Location) -> str | None:
        """Copy an object out of the trash to its old place, where nothing may be; return why that
        was not proved, or None. The copy in the trash stays. Raises as TransferEngine.run, and
        AlreadyExists."""
        plan = Plan(self.place_of(name), place, if_exists=IfExists.FAIL)
        outcome = self.engine.run(self.engine.transfer(plan))
        return None if outcome.state is State.VERIFIED else "the restored object is not proved"
