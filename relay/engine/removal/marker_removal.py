"""Undo deletions: remove the delete markers that relay made, where they are the newest versions, or
copy objects out of the trash, where nothing took their places.

Decided here: which deletions can be undone. Never here: how a store removes a marker
(`stores/`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Final

from gevent.pool import Pool

from relay.engine.removal.trash import Trash
from relay.engine.transfer_engine import TransferEngine
from relay.errors import RelayError
from relay.ledger.deletion_values import DeletionRow, DeletionState, TrashCopy
from relay.ledger.ledger import Ledger
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import VersionedStore
from relay.stores.listing_retries import ListingRetries
from relay.stores.version_checks import difference
from relay.wire.watchdog import Watchdog

PAGE: Final = 256
"""Number of deletions that are undone between two records of it."""
ABREAST: Final = 16
"""Number of deletions that are undone concurrently."""
SHOWN: Final = 20
"""Number of failures that are shown."""


@dataclass(eq=False)
class MarkerRemoval:
    """One undo of a migration's deletions. `places` are the tree, or the object, of each side."""

    ledger: Ledger
    engine: TransferEngine
    id: str
    places: dict[str, Location]
    _: KW_ONLY
    recursive: bool
    open_trash: Callable[[str], Trash]
    """Returns the trash of this name. Raises RelayError."""
    undone: int = field(default=0, init=False)
    lost: int = field(default=0, init=False)
    """Deletions of which no version was kept."""
    failures: int = field(default=0, init=False)
    samples: list[tuple[str, str]] = field(default_factory=list, init=False)
    """The names of the first failures, with their reasons."""
    _stopping: bool = field(default=False, init=False)
    _newest: set[int] = field(default_factory=set, init=False)

    def stop(self) -> None:
        """End the run after the objects under way."""
        self._stopping = True

    def run(self, tell: Callable[[int], None] = lambda done: None) -> MarkerRemoval:
        """Undo what can be undone, and record it; return this run. Raises LedgerFailed."""
        after, done = 0, 0
        pool: Any = Pool(ABREAST)
        while not self._stopping:
            page = self.ledger.deletions.page(self.id, [DeletionState.DELETED], after, PAGE)
            if not page:
                break
            after, done = page[-1].id, done + len(page)
            rows = [row for row in page if row.undone is None]
            marked = [row for row in rows if row.marker is not None or row.detail is not None]
            self._newest = self._newest_of(marked)
            self.lost += len(rows) - len(marked)
            ends = list(pool.imap_unordered(lambda row: (row, self._restore(row)), marked))
            self.ledger.deletions.note_undone([row.id for row, why in ends if why is None])
            for row, why in ends:
                self._count(row.name, why)
            tell(done)
        return self

    def _newest_of(self, rows: Sequence[DeletionRow]) -> set[int]:
        """Return the ids of the rows that are the last deletions of their names."""
        found: set[int] = set()
        for side in {row.side for row in rows}:
            names = [row.name for row in rows if row.side == side]
            newest = self.ledger.deletions.newest(self.id, side, names, [DeletionState.DELETED])
            found |= {row.id for row in newest.values()}
        return found

    def _count(self, name: str, why: str | None) -> None:
        if why is None:
            self.undone += 1
            return
        self.failures += 1
        if len(self.samples) < SHOWN:
            self.samples.append((name, why))

    def _restore(self, row: DeletionRow) -> str | None:
        """Undo a deletion; return why that was not possible, or None."""
        meter = Watchdog(self.engine.limits)
        if row.id not in self._newest:
            return "an object of that name was deleted once more later"
        if row.marker is None:
            return self._copy_back(row)
        patience = ListingRetries(self.engine.limits.listing_seconds, meter)
        try:
            there = patience.retry(partial(self._remove_marker, row, meter))
        except RelayError as error:
            return error.message
        changed = difference(row.version, there)
        return None if changed is None else f"its marker is removed, but {changed}"

    def _copy_back(self, row: DeletionRow) -> str | None:
        assert row.detail is not None  # a row without a marker has a trash
        copy = TrashCopy.from_text(row.detail)
        try:
            return self.open_trash(copy.trash).restore(copy, self._place_of(row), row.version)
        except RelayError as error:
            return error.message

    def _place_of(self, row: DeletionRow) -> Location:
        place = self.places[row.side]
        return place.below(row.name, destination=True) if self.recursive else place

    def _remove_marker(self, row: DeletionRow, meter: Watchdog) -> Version:
        place = self._place_of(row)
        store = self.engine.stores.destination(place, meter)
        assert isinstance(store, VersionedStore) and row.marker is not None  # S3 alone names one
        return store.remove_marker(place, row.marker)
