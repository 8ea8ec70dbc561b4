"""Compare two inventories: what two stores had, by the files that describe them. No store is asked.

Theory of operation. Both inventories are sorted by name and merged, as listings are. Neither is a
snapshot, and they are not of one moment: an object that was written after the older one was begun
may be in one of them alone, or in two versions. It is `too-new`, unless a digest proves it.

Decided here: what two rows prove. Never here: the files of an inventory (`relay/inventories/`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Final

from relay.digest import compare
from relay.engine.comparison_report import (
    Basis,
    ComparisonReport,
    NameFinding,
    TreeVerdict,
    finding_of_pair,
)
from relay.engine.listed_pairs import SIDES
from relay.engine.md5_etags import md5_of_etag
from relay.inventories.inventory_files import Inventory
from relay.sorting.merge import Pair, pair_rows
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace, sort_rows

_PARTS: Final = re.compile(r'"?[0-9a-f]{32}-[0-9]+"?')
"""The ETag of an object that was uploaded in parts."""


@dataclass(eq=False)
class InventoryComparison:
    """The comparison of the inventory of a source with that of a destination."""

    source: Inventory
    destination: Inventory
    _: KW_ONLY
    space: SpillSpace

    def __post_init__(self) -> None:
        """Find the time from which on an object is too new."""
        self.report = ComparisonReport()
        """The counts so far."""
        begun = [one.begun for one in (self.source, self.destination) if one.begun is not None]
        self.older_begun = min(begun) if begun else None
        """When the older inventory was begun; None: neither says when."""

    def findings(self) -> Iterator[NameFinding]:
        """Yield what is found about each name, in the order of names. Raises SpillFailed, and
        InventoryRefused for a file without names."""
        # Both are sorted, so each was read to its end before its first row comes: its gaps are
        # known then.
        ours = sort_rows(self.source.rows(), self.space)
        theirs = sort_rows(self.destination.rows(), self.space)
        for pair in pair_rows(ours, theirs):
            found = self._decide(pair)
            self.report.count(found)
            yield found
        for side, one in zip(SIDES, (self.source, self.destination), strict=True):
            for why in one.gaps:
                self.report.note_folder(side, one.path.name, why)
            self.report.unlisted += one.gap_count - len(one.gaps)

    def _decide(self, pair: Pair) -> NameFinding:
        found = self._by_rows(pair)
        if found.verdict is TreeVerdict.SAME or self.older_begun is None:
            return found
        newest = max((row.modified or 0.0 for row in pair if row is not None), default=0.0)
        # Times in an inventory may be in whole seconds.
        if newest < int(self.older_begun):
            return found
        detail = f"it was written after the older inventory was begun: {found.verdict.value}"
        return found._replace(verdict=TreeVerdict.TOO_NEW, detail=detail)

    def _by_rows(self, pair: Pair) -> NameFinding:
        ours, theirs = pair
        if ours is None or theirs is None:
            return self._of_one_side(pair)
        error = ours.error or theirs.error
        if error is not None:
            return finding_of_pair(pair, TreeVerdict.UNPROVED, Basis.NOTHING, error)
        if None not in (ours.size, theirs.size):
            if ours.size != theirs.size:
                return finding_of_pair(pair, TreeVerdict.DIFFERS, Basis.SIZE)
            if ours.size == 0:
                return finding_of_pair(pair, TreeVerdict.SAME, Basis.SIZE)
        agreeing, differing = compare(ours.digests, theirs.digests)
        if differing:
            return finding_of_pair(pair, TreeVerdict.DIFFERS, Basis.DIGEST, ", ".join(differing))
        if agreeing is not None:
            return finding_of_pair(pair, TreeVerdict.SAME, Basis.DIGEST, agreeing)
        # An ETag that differs proves nothing: whether it is an MD5 is not known.
        md5s = (self._md5_of(self.source, ours), self._md5_of(self.destination, theirs))
        if None not in md5s and md5s[0] == md5s[1]:
            return finding_of_pair(pair, TreeVerdict.SAME, Basis.ETAG, "md5")
        why = _why_unproved(ours, theirs)
        return finding_of_pair(pair, TreeVerdict.UNPROVED, Basis.NOTHING, why)

    def _of_one_side(self, pair: Pair) -> NameFinding:
        """Return the finding of a name that one inventory has."""
        ours, theirs = pair
        other = self.source if ours is None else self.destination
        if other.gap_count:
            side = "source" if ours is None else "destination"
            why = f"the {side}'s inventory is not complete"
            return finding_of_pair(pair, TreeVerdict.UNPROVED, Basis.NOTHING, why)
        verdict = TreeVerdict.EXTRA if ours is None else TreeVerdict.MISSING
        row = ours or theirs
        assert row is not None  # a pair has a row
        return finding_of_pair(pair, verdict, Basis.LISTING, row.error or "")

    @staticmethod
    def _md5_of(inventory: Inventory, row: TreeRow) -> bytes | None:
        """Return the MD5 of an object, which its ETag may be."""
        known = row.digests.get("md5")
        if known is not None or inventory.dialect.store != "s3" or row.size is None:
            return known
        return md5_of_etag(row.etag)


def _why_unproved(ours: TreeRow, theirs: TreeRow) -> str:
    if any(_PARTS.fullmatch(row.etag or "") for row in (ours, theirs)):
        return "an object in parts has no digest of the whole object in an inventory"
    if ours.digests and theirs.digests:
        return "no digest in common"
    return "an inventory has no digest of it"
