"""The rows of a listing, and the pairs of two listings that filters choose.

Decided here: which listing is sorted first, and which names a folder hides that could not be
listed. Never here: what a pair proves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from relay.engine.listing_filter import ListingFilter, list_chosen
from relay.engine.migration_request import MigrationJob
from relay.errors import ProtocolViolation, Side
from relay.location import Location
from relay.sorting.merge import Pair, in_order
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace, sort_rows
from relay.stores.interfaces import Destination, Entry, Source, StoreProvider
from relay.stores.s3.account import aws_host
from relay.wire.watchdog import Watchdog

SIDES: Final[tuple[Side, Side]] = ("source", "destination")
"""The sides of a pair, in its order."""


@dataclass(frozen=True, kw_only=True)
class TreeToList:
    """One side of a comparison, as it is listed."""

    side: Side
    store: Source | Destination
    place: Location
    chosen: ListingFilter | None = None
    """The filter of this listing; None: all is chosen."""
    dated: bool = False
    """Whether rows have the times of modification that the listing shows."""

    def rows(self, space: SpillSpace, *, sorts_all: bool = False) -> Iterator[TreeRow]:
        """Yield the rows in the order of names. `sorts_all`: the listing of a bucket of AWS is
        sorted too. Raises as Source.list, SpillFailed, and ProtocolViolation for a bucket of AWS
        that is listed in another order."""
        rows = self.rows_as_listed()
        # AWS lists keys in the order of their bytes (docs.aws.amazon.com, "ListObjectsV2"), except
        # for directory buckets. Of other servers some order folders and objects apart (SeaweedFS).
        if aws_host(self.place.host) is not None and not sorts_all:
            return in_order(rows, partial(_disorder, self.side))
        return sort_rows(rows, space)

    def rows_as_listed(self) -> Iterator[TreeRow]:
        """Yield the rows as they are listed. Raises as Source.list."""
        return (
            row
            for entry in list_chosen(self.store, self.place, self.chosen)
            if not entry.is_listed_further
            for row in self._rows_of(entry)
        )

    def _rows_of(self, entry: Entry) -> tuple[TreeRow, ...]:
        """Return the row of an entry, and that of a folder for an entry that may be one or an
        object."""
        judged = entry if self.chosen is None else self.chosen(entry)
        if self.side == "source":  # where it decides: its error is that of the name
            entry = judged or entry
        if not entry.judged_as and entry.error is None:  # as nearly all are
            return (self._row_of(entry, entry.name, judged is not None),)
        # The source may have the names below a link to a folder, or below a dead mount.
        folder = f"{entry.name}/"
        name = folder if entry.judged_as == (folder,) else entry.name
        row = self._row_of(entry, name, judged is not None)
        if folder in entry.judged_as and not row.is_folder:
            return row, TreeRow(folder, error=row.error, is_chosen=row.is_chosen)
        return (row,)

    def _row_of(self, entry: Entry, name: str, is_chosen: bool) -> TreeRow:
        date = entry.modified if self.dated else None
        error = entry.error
        return TreeRow(
            name,
            size=entry.size,
            etag=entry.etag,
            digests=entry.digests,
            url=entry.url,
            error=None if error is None else error.message,
            code=None if error is None else error.code,
            is_chosen=is_chosen,
            modified=None if date is None else date.timestamp(),
        )


def filtered_tree(
    job: MigrationJob, side: Side, stores: StoreProvider, meter: Watchdog
) -> TreeToList:
    """Return one side of a job with the job's filters. The source decides, so the markers in its
    folders decide about the destination's folders too. Raises as ListingFilter."""
    store: Source | Destination
    if side == "source":
        place, store = job.source, stores.source(job.source, meter)
    else:
        place, store = job.destination, stores.destination(job.destination, meter)
    chosen = None
    if job.filters is not None:
        chosen = ListingFilter(
            job.filters,
            store,
            place,
            meter,
            now=job.accepted,
            seed=job.id,
            marked=(stores.source(job.source, meter), job.source),
        )
    return TreeToList(side=side, store=store, place=place, chosen=chosen)


class PairReport(Protocol):
    """Counts what pairs are not compared."""

    excluded: int
    """Names that the filters left out."""

    def note_folder(self, side: Side, name: str, why: str) -> None:
        """Count a folder that could not be listed."""


@dataclass(eq=False)
class ListedPairs:
    """The pairs of two listings, as far as they are compared."""

    report: PairReport
    _folders: dict[Side, str] = field(default_factory=dict)

    def chosen(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        """Yield the pairs that the filters choose, without the folders that could not be listed,
        which are noted. The source's row decides, if there is one: sizes and times may differ."""
        for pair in pairs:
            ours, theirs = pair
            decides = ours or theirs
            assert decides is not None  # a pair has a row
            if not decides.is_chosen:
                self.report.excluded += 1
            elif not self._note_folder(pair):
                is_pair = ours is not None and theirs is not None
                yield pair if is_pair else self._with_folder(ours, theirs)

    def _note_folder(self, pair: Pair) -> bool:
        """Note a folder that could not be listed. Return whether the pair is one."""
        decides = pair[0] or pair[1]
        assert decides is not None
        if not decides.is_folder:
            return False
        for side, row in zip(SIDES, pair, strict=True):
            if row is not None:
                self._folders[side] = row.name
                self.report.note_folder(side, row.name, row.error or "")
        return True

    def _with_folder(self, ours: TreeRow | None, theirs: TreeRow | None) -> Pair:
        """Return a pair of one row; the other one is a row with an error if its folder could not be
        listed."""
        row = ours or theirs
        assert row is not None
        # Names below a folder follow it, so that one folder a side is enough.
        side: Side = "source" if ours is None else "destination"
        folder = self._folders.get(side)
        if folder is None or not row.name.startswith(folder):
            return ours, theirs
        unknown = TreeRow(row.name, error=f"the {side}'s folder {folder!a} could not be listed")
        return (unknown, theirs) if ours is None else (ours, unknown)


def _disorder(side: Side, before: str, name: str) -> ProtocolViolation:
    """Return the error for the listing of a bucket in another order than that of its keys."""
    return ProtocolViolation(
        f"the listing is not in the order of names: {name!a} comes after {before!a}",
        side=side,
        hint="Run it again with --sort: then relay sorts the listings itself.",
    )
