"""Examine the pairs of a comparison: some at a time, a few of them concurrently.

Theory of operation. A pair that the listings decide costs nothing. The others are asked for, or
offered to a sample, whose pairs are asked for at the end. An error about one object is its finding;
a store that does not answer any more ends the comparison.

Decided here: which pairs are asked for, and when a store counts as gone. Never here: what an answer
proves (`tree_comparison.py`, `receipt_comparison.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import gevent
from gevent.pool import Pool

from relay.engine.comparison_report import (
    DEFECTS,
    Basis,
    ComparisonReport,
    NameFinding,
    TreeVerdict,
    finding_of_pair,
)
from relay.engine.sampling import NameSample
from relay.engine.tree_listing import in_pages
from relay.errors import RelayError, StoreError, Unauthenticated
from relay.location import Location
from relay.sorting.merge import Pair
from relay.sorting.rows import TreeRow
from relay.stores.interfaces import Destination, Source

PAGE: Final = 512
"""Number of pairs that are examined before the next ones are listed."""
MOST_FAILURES: Final = 20
"""Number of objects in a row whose requests fail, after which the store counts as gone."""


@dataclass(eq=False)
class PairExamination:
    """One examination of all pairs of a comparison."""

    report: ComparisonReport
    _: KW_ONLY
    decide: Callable[[Pair], NameFinding | None]
    """Returns what the listings prove about a name; None: it is asked for."""
    ask: Callable[[TreeRow | None, TreeRow | None], NameFinding]
    """Returns what requests prove about a name. Raises RelayError."""
    lists: Callable[[str | None], bool]
    """Returns whether a side can be listed now."""
    slots: int
    """Number of objects that are asked for concurrently."""
    prove: Callable[[Sequence[Pair]], Mapping[str, NameFinding]] = lambda pairs: {}
    """Returns what is proved without requests about some pairs that the listings do not decide, by
    their names."""
    sample: NameSample | None = None
    """Which of the undecided names that both sides have are asked for; None: all."""

    def __post_init__(self) -> None:
        """Begin without failures."""
        self._failures = 0

    def findings(self, pairs: Iterator[Pair]) -> Iterator[NameFinding]:
        """Yield and count what is found about each name, in the order of the pairs; what a sample
        finds comes at the end.

        Raises what `pairs` raises, and StoreErrors of a store that stopped answering. An error of
        one object is its finding."""
        pool: Any = Pool(self.slots)
        try:
            for page in in_pages(pairs, PAGE):
                yield from self._page(page, pool)
                gevent.sleep(0)
            if self.sample is None:
                return
            for page in in_pages(iter(self.sample.chosen()), PAGE):
                for found in self._answers(page, pool):
                    self._count_in_sample(found)
                    yield found
            self.report.unsampled = self.sample.rest
        finally:
            pool.kill(block=False)

    def _page(self, page: list[Pair], pool: Any) -> Iterator[NameFinding]:
        sample = self.sample
        known: list[NameFinding | None] = []
        asked: list[Pair] = []
        decided = [self.decide(pair) for pair in page]
        undecided = [
            pair for pair, found in zip(page, decided, strict=True) if found is None and all(pair)
        ]
        proved = self.prove(undecided)
        for pair, by_listings in zip(page, decided, strict=True):
            found = by_listings or (proved.get(pair[0].name) if pair[0] is not None else None)
            # A name that only one listing has is always asked for: it may be missing.
            if found is None and sample is not None and None not in pair:
                sample.offer(pair)
                continue
            known.append(found)
            if found is None:
                asked.append(pair)
        examined = self._answers(asked, pool)
        for found in known:
            if found is None:
                yield next(examined)
            else:
                self.report.count(found)
                yield found

    def _answers(self, pairs: list[Pair], pool: Any) -> Iterator[NameFinding]:
        """Yield and count what is found about pairs by asking."""
        for pair, one in zip(pairs, pool.imap(self._examine, pairs), strict=True):
            found = self._believe(pair, one)
            self.report.count(found)
            yield found

    def _count_in_sample(self, found: NameFinding) -> None:
        assert self.sample is not None  # it chose this name
        self.sample.examined += 1
        self.sample.defects += found.verdict in DEFECTS
        self.sample.unproved += found.verdict is TreeVerdict.UNPROVED

    def _examine(self, pair: Pair) -> NameFinding | RelayError:
        """Return what requests prove about a pair, or the error of a store that may not answer any
        more: one that left this greenlet would be printed."""
        try:
            return self.ask(*pair)
        except RelayError as error:
            is_for_all = isinstance(error, StoreError) and error.retryable
            if is_for_all or isinstance(error, Unauthenticated):
                return error
            return finding_of_failure(pair, error)

    def _believe(self, pair: Pair, one: NameFinding | RelayError) -> NameFinding:
        """Return the finding of an examination; an error is one of this object alone, unless its
        store does not answer any more. Then raises it."""
        if not isinstance(one, RelayError):
            self._failures = 0
            return one
        self._failures += 1
        if self._failures == MOST_FAILURES or not self.lists(one.side):
            raise one
        return finding_of_failure(pair, one)


def can_be_listed(store: Source | Destination, place: Location) -> bool:
    """Return whether a tree can be listed now: its first entry is asked for."""
    entries: Any = store.list(place)
    try:
        with closing(entries):
            next(entries, None)
    except RelayError:
        return False
    return True


def finding_of_failure(pair: Pair, error: RelayError) -> NameFinding:
    """Return the finding of a name whose requests failed."""
    side = f"{error.side}: " if error.side in ("source", "destination") else ""
    return finding_of_pair(pair, TreeVerdict.UNPROVED, Basis.NOTHING, f"{side}{error.message}")
