"""Names that one side alone has, paired once more by the form that some store takes for one name.

Theory of operation. A destination may change a name that is written to it: another case, another
Unicode form. Its listing then has an extra name, and lacks the source's. Both are sorted by their
folded form, so that memory does not grow with the trees; names of one form follow each other. Only
a request by the source's own name shows whether the destination takes the two for one.

Decided here: which names are a group. Never here: which names share a form
(`relay/name_folding.py`), and what the request proves (`pair_examination.py`)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from relay.name_folding import fold
from relay.sorting.merge import Pair
from relay.sorting.rows import TreeRow
from relay.sorting.spill import RowSorter, SpillSpace

MOST_GROUPED: Final = 1000
"""Maximum number of names of a group; a larger group is several."""
_BETWEEN: Final = "\0"
"""Between the folded form and the name. A name that has it is not held."""


@dataclass(frozen=True)
class FoldedGroup:
    """The names of one folded form that one side alone has."""

    ours: list[TreeRow]
    theirs: list[TreeRow]

    @property
    def is_mixed(self) -> bool:
        """Whether both sides have names of this form."""
        return bool(self.ours and self.theirs)

    def pairs(self) -> list[Pair]:
        """Return each name as a pair without its counterpart."""
        return [*((row, None) for row in self.ours), *((None, row) for row in self.theirs)]


class FoldedPairs:
    """The pairs of one comparison that have one row, until all are known."""

    def __init__(self, space: SpillSpace) -> None:
        self._ours, self._theirs = RowSorter(space), RowSorter(space)

    def without_held(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        """Yield the pairs that can't be of another name; hold the others. Raises what `pairs`
        raises, and SpillFailed."""
        for pair in pairs:
            ours, theirs = pair
            if ours is not None and theirs is not None:
                yield pair
                continue
            row = ours or theirs
            assert row is not None  # a pair has a row
            if row.error is not None or _BETWEEN in row.name:
                yield pair
                continue
            sorter = self._theirs if ours is None else self._ours
            sorter.add(replace(row, name=f"{fold(row.name)}{_BETWEEN}{row.name}"))

    def groups(self) -> Iterator[FoldedGroup]:
        """Yield the names that were held, by their forms. Raises SpillFailed."""
        rows = heapq.merge(
            ((row, True) for row in self._ours.rows()),
            ((row, False) for row in self._theirs.rows()),
            key=lambda tagged: tagged[0].key,
        )
        for _, same in groupby(rows, key=lambda tagged: tagged[0].name.partition(_BETWEEN)[0]):
            group = FoldedGroup([], [])
            for row, is_ours in same:
                named = replace(row, name=row.name.partition(_BETWEEN)[2])
                (group.ours if is_ours else group.theirs).append(named)
                if len(group.ours) + len(group.theirs) == MOST_GROUPED:
                    yield group
                    group = FoldedGroup([], [])
            if group.ours or group.theirs:
                yield group

    def close(self) -> None:
        """Give the disk's space back."""
        self._ours.close()
        self._theirs.close()
