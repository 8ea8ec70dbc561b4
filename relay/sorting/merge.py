"""Merge two sorted listings: each name once, with its row of either side.

Decided here: which rows are a pair. Never here: what a pair proves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from relay.sorting.rows import TreeRow

Pair = tuple[TreeRow | None, TreeRow | None]
"""The rows of one name at the source and at the destination; never two times None."""


def in_order(
    rows: Iterable[TreeRow], disorder: Callable[[str, str], Exception]
) -> Iterator[TreeRow]:
    """Yield rows as they come, in the order of their names. Raises `disorder(before, name)` for a
    name that does not come after the one `before` it."""
    before: TreeRow | None = None
    last = b""
    for row in rows:
        key = row.key
        if before is not None and key <= last:
            raise disorder(before.name, row.name)
        before, last = row, key
        yield row


def pair_rows(source: Iterator[TreeRow], destination: Iterator[TreeRow]) -> Iterator[Pair]:
    """Yield the pairs of two listings in the order of names, which both must have. Raises what they
    raise."""
    ours, theirs = next(source, None), next(destination, None)
    while ours is not None and theirs is not None:
        here, there = ours.key, theirs.key
        if here == there:
            yield ours, theirs
            ours, theirs = next(source, None), next(destination, None)
        elif here < there:
            yield ours, None
            ours = next(source, None)
        else:
            yield None, theirs
            theirs = next(destination, None)
    while ours is not None:
        yield ours, None
        ours = next(source, None)
    while theirs is not None:
        yield None, theirs
        theirs = next(destination, None)
