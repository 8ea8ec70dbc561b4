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
from relay.engine.folded_pairs import FoldedGroup, FoldedPairs
from relay.engine.sampling import NameSample
from relay.engine.tree_listing import in_pages
from relay.errors import RelayError, StoreError, Unauthenticated
from relay.location import Location
from relay.sorting.merge import Pair
from relay.sorting.rows import TreeRow
from relay.stores.interfaces import Destination, Source

PAGE: Final = 512
"""Number of pairs that are examined before the next ones are listed."""
MOST_NAMED: Final = 3
"""Maximum number of names that a finding lists."""
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
    folds: FoldedPairs | None = None
    """Holds the names that one side alone has, where the destination may change names."""

    def __post_init__(self) -> None:
        """Begin without failures."""
        self._failures = 0

    def findings(self, pairs: Iterator[Pair]) -> Iterator[NameFinding]:
        """Yield and count what is found about each name, in the order of the pairs. At the end come
        the names that one side alone has, if the destination may change names, and those of a
        sample.

        Raises what `pairs` raises, and StoreErrors of a store that stopped answering. An error of
        one object is its finding."""
        pool: Any = Pool(self.slots)
        try:
            in_order = pairs if self.folds is None else self.folds.without_held(pairs)
            for page in in_pages(in_order, PAGE):
                yield from self._page(page, pool)
                gevent.sleep(0)
            if self.folds is not None:
                for groups in in_pages(self.folds.groups(), PAGE):
                    yield from self._groups(groups, pool)
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
            if self.folds is not None:
                self.folds.close()

    def _groups(self, groups: list[FoldedGroup], pool: Any) -> Iterator[NameFinding]:
        """Yield and count what is found about names that one side alone has."""
        single = [pair for group in groups if not group.is_mixed for pair in group.pairs()]
        yield from self._page(single, pool)
        for group in groups:
            if not group.is_mixed:
                continue
            findings = self._of_group(group, pool)
            for found in findings:
                self.report.count(found)
                yield found
            if all(found.verdict is TreeVerdict.MISSING for found in findings):
                yield from self._page([(None, row) for row in group.theirs], pool)

    def _of_group(self, group: FoldedGroup, pool: Any) -> list[NameFinding]:
        """Return what is found about the source's names of a form that both sides have. The
        destination is asked for each: it may have the object under the name that it lists. Of
        several names it may have kept one object."""
        pairs: list[Pair] = [(row, None) for row in group.ours]
        listed = ", ".join(ascii(row.name) for row in group.theirs[:MOST_NAMED])
        is_single = len(group.ours) == len(group.theirs) == 1
        findings: list[NameFinding] = []
        for pair, one in zip(pairs, pool.imap(self._examine, pairs), strict=True):
            found = self._believe(pair, one)
            if found.verdict is not TreeVerdict.MISSING and is_single:
                detail = f"{found.detail}; " if found.detail else ""
                found = found._replace(detail=f"{detail}the destination lists it as {listed}")
            elif found.verdict is not TreeVerdict.MISSING:
                why = f"the destination may have one object for several names: it lists {listed}"
                found = finding_of_pair(pair, TreeVerdict.UNPROVED, Basis.NOTHING, why)
            findings.append(found)
        return findings

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
