"""The names that a destination has and the source lacks, by complete listings of both.

Theory of operation. Both listings are sorted and merged, in memory that does not grow with the
trees. They are complete only if each ended by its own mark, which the stores see to, and if no
folder on either side refused to be listed. Filters apply to both sides: a name that they exclude is
no extra one.

Decided here: which names are extra, and when the listings do not show that. Never here: whether an
extra object is deleted (`mirror_removal.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

from relay.engine.listed_pairs import filtered_tree
from relay.engine.migration_request import MigrationJob
from relay.engine.tree_listing import NAME_CHARACTERS
from relay.errors import Side
from relay.parsing import UNSAFE_CHARACTERS
from relay.sorting.merge import Pair, pair_rows
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace, sort_rows
from relay.stores.interfaces import StoreProvider
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog


@dataclass(eq=False)
class ExtraNames:
    """One listing of both sides; the counts are final once the first row was taken."""

    job: MigrationJob
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    space: SpillSpace
    source_objects: int = field(default=0, init=False)
    """Objects of the source that the filters choose."""
    destination_objects: int = field(default=0, init=False)
    """Objects of the destination that the filters choose."""
    extras: int = field(default=0, init=False)
    unsafe: int = field(default=0, init=False)
    """Extra objects whose names relay does not take; they are not among the rows."""
    gap: str | None = field(default=None, init=False)
    """Why the listings are not complete; None: they are."""

    def rows(self) -> Iterator[TreeRow]:
        """Yield the extra objects of the destination in the order of their names, after both
        listings have ended. Raises the errors of both listings, and SpillFailed."""
        pairs = pair_rows(self._rows_of("source"), self._rows_of("destination"))
        return sort_rows(self._extras_of(pairs), self.space)

    def _rows_of(self, side: Side) -> Iterator[TreeRow]:
        meter = Watchdog.of_listing(self.limits)
        tree = filtered_tree(self.job, side, self.stores, meter)
        yield from tree.rows(self.space, sorts_all=True)
        as_destination = self.stores.destination(tree.place, meter)
        if not as_destination.lists_all(tree.place):
            self._note_gap(f"a listing of the {side} may lack objects")

    def _extras_of(self, pairs: Iterator[Pair]) -> Iterator[TreeRow]:
        for ours, theirs in pairs:
            if ours is not None:
                self._note_folder("source", ours)
                self.source_objects += ours.is_chosen and ours.error is None
            if theirs is None:
                continue
            self._note_folder("destination", theirs)
            if theirs.is_folder or not theirs.is_chosen:
                continue
            self.destination_objects += 1
            if ours is not None or theirs.error is not None:
                continue
            if UNSAFE_CHARACTERS.search(theirs.name) or len(theirs.name) > NAME_CHARACTERS:
                self.unsafe += 1
                continue
            self.extras += 1
            yield theirs

    def _note_folder(self, side: Side, row: TreeRow) -> None:
        if row.is_folder:
            self._note_gap(f"the {side}'s folder {row.name!a} could not be listed: {row.error}")

    def _note_gap(self, why: str) -> None:
        self.gap = self.gap or why
