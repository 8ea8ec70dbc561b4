"""Find the names of a tree that a destination may fold into one.

Theory of operation. Each name is sorted once more, by the form that all names share which some
store takes for one. Names of one form follow each other then, so memory does not grow with the
tree. Whether the destination does fold them is only known once one of them is there: a migration
asks for that, and moves the second one only if both are kept apart.

Decided here: which names are a group. Never here: which names share a form
(`relay/name_folding.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from relay.engine.decisions import NAMED
from relay.name_folding import fold
from relay.sorting.rows import TreeRow
from relay.sorting.spill import RowSorter, SpillSpace

KEEPS_APART: Final = frozenset({"s3"})
"""Stores that keep all names apart (docs.aws.amazon.com, "Naming Amazon S3 objects")."""
_BETWEEN: Final = "\0"
"""No name has it, so that equal forms follow each other."""


class FoldedNames:
    """The names of both sides of a plan, by their folded form."""

    def __init__(self, space: SpillSpace) -> None:
        self._sorter = RowSorter(space)

    def add(self, name: str) -> None:
        """Take one more name. Raises SpillFailed."""
        self._sorter.add(TreeRow(f"{fold(name)}{_BETWEEN}{name}"))

    def groups(self) -> Iterator[tuple[str, ...]]:
        """Yield the names of each form that several names have, at most NAMED, and forget all.
        Raises SpillFailed."""
        form, names, count = "", list[str](), 0
        for row in self._sorter.rows():
            other, _, name = row.name.partition(_BETWEEN)
            if other != form:
                if count > 1:
                    yield tuple(names)
                form, names, count = other, [], 0
            count += 1
            if count <= NAMED:
                names.append(name)
        if count > 1:
            yield tuple(names)

    def close(self) -> None:
        """Forget all names."""
        self._sorter.close()
