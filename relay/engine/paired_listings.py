"""The listings of both sides of a migration, as pairs: for a plan.

Theory of operation. The source is listed with the migration's filters, and the destination without:
the source decides which names there are. A side that is believed to list names in order is merged
as it comes. A destination that does not exist is empty, and one that can't be listed is noted.

Decided here: how the two sides of a plan are listed. Never here: rows and pairs
(`listed_pairs.py`), and what becomes of a pair (`dry_run.py`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

from relay.engine.listed_pairs import ListedPairs, PairReport, TreeToList
from relay.engine.listing_filter import ListingFilter
from relay.engine.migration_request import MigrationJob, filter_of
from relay.errors import NotFound, RelayError, Side, SpillFailed
from relay.sorting.merge import Pair, in_order, pair_rows
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace, sort_rows
from relay.stores.interfaces import StoreProvider
from relay.wire.watchdog import Watchdog

Disorder = Callable[[Side, str, str], Exception]
"""Returns the error for a name of a side's listing that does not come after the one before it."""


@dataclass(eq=False)
class PairedListings:
    """The listings of one job's source and destination, as pairs of rows."""

    job: MigrationJob
    stores: StoreProvider
    meters: dict[Side, Watchdog]
    _: KW_ONLY
    space: SpillSpace
    report: PairReport
    ordered: Collection[Side]
    """The sides that are believed to list names in the order of their bytes."""
    disorder: Disorder
    listed_there: int = 0
    """The number of the destination's rows so far."""
    unlisted: RelayError | None = None
    """Why the destination could not be listed, or not to its end."""
    _chosen: ListingFilter | None = field(default=None, init=False)

    @property
    def excluded_folders(self) -> int:
        """The number of the source's folders that the filters left out without listing them."""
        return 0 if self._chosen is None else self._chosen.folders

    @property
    def missing_names(self) -> set[str]:
        """The names of the filters' list that no object of the source had so far."""
        return set() if self._chosen is None else self._chosen.missing_names

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs that the filters choose, in the order of names.

        Raises the errors of the source's listing, SpillFailed, and `disorder` for a listing that
        was believed to be in order."""
        rows = (self._source_rows(), self._destination_rows())
        return ListedPairs(self.report).chosen(pair_rows(*rows))

    def lists_all(self) -> bool:
        """Return whether a name that the destination's listing lacks is one that it does not have;
        after the listing has ended, or for its part so far."""
        if self.unlisted is not None:
            return False
        place = self.job.destination
        return self.stores.destination(place, self.meters["destination"]).lists_all(place)

    # -- rows

    def _source_rows(self) -> Iterator[TreeRow]:
        place, meter = self.job.source, self.meters["source"]
        store = self.stores.source(place, meter)
        self._chosen = filter_of(self.job, store, meter)
        tree = TreeToList(side="source", store=store, place=place, chosen=self._chosen, dated=True)
        return self._in_order("source", tree.rows_as_listed())

    def _destination_rows(self) -> Iterator[TreeRow]:
        """Yield the destination's rows until its listing fails. A folder that does not exist is an
        empty one: the migration makes it."""
        place, meter = self.job.destination, self.meters["destination"]
        store = self.stores.destination(place, meter)
        tree = TreeToList(side="destination", store=store, place=place, dated=True)
        try:
            for row in self._in_order("destination", tree.rows_as_listed()):
                self.listed_there += 1
                yield row
        except NotFound:
            return
        except SpillFailed:
            raise
        except RelayError as error:
            self.unlisted = error

    def _in_order(self, side: Side, rows: Iterator[TreeRow]) -> Iterator[TreeRow]:
        if side in self.ordered:
            return in_order(rows, partial(self.disorder, side))
        return sort_rows(rows, self.space)
