"""Compare two trees object by object: each name is the same, differs, or is not proved.

Theory of operation. Both listings are merged by the names that a migration writes at the
destination, so memory does not grow with the trees. A bucket of AWS is compared while it lists its
keys in the order of their bytes; any other listing is sorted first. Each pair is decided by the
cheapest answer that proves something: the listings, HEAD, or the bytes where reading is allowed.
Equal sizes prove nothing. Nothing is written to any store.

Decided here: what each answer proves. Never here: how stores list and read, how rows are sorted
(`relay/sorting/`), and how findings are printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from math import inf
from operator import attrgetter
from typing import Any, Final, TypeVar

import gevent
from gevent.pool import Pool

from relay.digest import ALGORITHMS, ALWAYS, Digests, as_hex, compare
from relay.engine.comparison_report import Basis, ComparisonReport, NameFinding, Reads, TreeVerdict
from relay.engine.inspection import inspect_object
from relay.engine.listing_filter import ListingFilter, list_chosen
from relay.engine.migration_request import MigrationJob
from relay.engine.tree_listing import in_pages
from relay.errors import (
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Rejected,
    RelayError,
    Side,
    StoreError,
    Unauthenticated,
)
from relay.ledger.listing_values import ListedObject
from relay.location import Location
from relay.receipt import Version
from relay.sorting.merge import Pair, in_order, pair_rows
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace, sort_rows
from relay.stores.interfaces import (
    Destination,
    Entry,
    ObjectInfo,
    Source,
    StoreProvider,
    UnknownObject,
)
from relay.stores.listing_retries import ListingRetries
from relay.stores.s3.account import aws_host
from relay.transfer_limits import Limits
from relay.wire.pump import drain
from relay.wire.watchdog import Watchdog

PAGE: Final = 512
"""Number of pairs that are examined before the next ones are listed."""
MOST_FAILURES: Final = 20
"""Number of objects in a row whose requests fail, after which the store counts as gone."""
_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_EMPTY_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"
"""The MD5 of no bytes, which some servers show for every object."""

T = TypeVar("T")


@dataclass(eq=False)
class TreeComparison:
    """The comparison of one job's source with its destination."""

    job: MigrationJob
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    space: SpillSpace
    reads: Reads = Reads.NONE
    slots: int = 8
    """Number of objects that are examined concurrently."""
    sorts_all: bool = False
    """Whether the listings of AWS's buckets are sorted too."""

    def __post_init__(self) -> None:
        """Start with empty listings."""
        self.report = ComparisonReport()
        """The counts so far."""
        # A bucket of AWS is listed as long as objects are read: the limit is one of a transfer.
        endless = replace(self.limits, total_seconds=inf)
        self.listings: dict[Side, Watchdog] = {
            side: Watchdog(endless) for side in ("source", "destination")
        }
        """The watchdog of each listing, which shows how long it has waited."""
        self._folders: dict[Side, str] = {}
        self._chosen_by: list[ListingFilter] = []
        self._failures = 0

    @property
    def missing_names(self) -> frozenset[str]:
        """The names of the filters' list that neither side has, after the comparison."""
        missing = [chosen.missing_names for chosen in self._chosen_by]
        return frozenset(missing[0]).intersection(*missing) if missing else frozenset()

    def findings(self) -> Iterator[NameFinding]:
        """Yield what is found about each name, in the order of names.

        Raises the errors of both listings, StoreErrors of a store that stopped answering,
        SpillFailed, and ProtocolViolation for the listing of a bucket in another order. An error of
        one object is its finding."""
        pairs = pair_rows(self._rows("source"), self._rows("destination"))
        pool: Any = Pool(self.slots)
        try:
            for page in in_pages(self._chosen(pairs), PAGE):
                known = [self._decide_by_listings(pair) for pair in page]
                open_pairs = [
                    pair for pair, found in zip(page, known, strict=True) if found is None
                ]
                examined = pool.imap(self._examine, open_pairs)
                for pair, found in zip(page, known, strict=True):
                    one = self._believe(pair, next(examined)) if found is None else found
                    self.report.count(one)
                    yield one
                gevent.sleep(0)
        finally:
            pool.kill(block=False)

    # -- listings

    def _rows(self, side: Side) -> Iterator[TreeRow]:
        job, meter = self.job, self.listings[side]
        store: Source | Destination
        if side == "source":
            place, store = job.source, self.stores.source(job.source, meter)
        else:
            place, store = job.destination, self.stores.destination(job.destination, meter)
        chosen: ListingFilter | None = None
        if job.filters is not None:
            chosen = ListingFilter(
                job.filters,
                store,
                place,
                meter,
                now=job.accepted,
                seed=job.id,
            )
            self._chosen_by.append(chosen)
        entries = list_chosen(store, place, chosen)
        rows = (
            row
            for entry in entries
            if not entry.is_listed_further
            for row in _rows_of(side, entry, chosen)
        )
        # AWS lists keys in the order of their bytes (docs.aws.amazon.com, "ListObjectsV2"), except
        # for directory buckets. Of other servers some order folders and objects apart (SeaweedFS).
        if aws_host(place.host) is not None and not self.sorts_all:
            return in_order(rows, partial(_disorder, side))
        return sort_rows(rows, self.space)

    def _chosen(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        """Yield the pairs that the filters choose, without the folders that could not be listed,
        which are noted. The source's row decides, if there is one: sizes and times may differ."""
        for ours, theirs in pairs:
            decides = ours or theirs
            assert decides is not None  # a pair has a row
            if not decides.is_chosen:
                self.report.excluded += 1
                continue
            sides: tuple[tuple[Side, TreeRow | None], ...] = (
                ("source", ours),
                ("destination", theirs),
            )
            is_folder = False
            for side, row in sides:
                if row is not None and row.is_folder:
                    is_folder = True
                    self._folders[side] = row.name
                    self.report.note_folder(side, row.name, row.error or "")
            if not is_folder:
                yield self._with_folder(ours, theirs)

    def _with_folder(self, ours: TreeRow | None, theirs: TreeRow | None) -> Pair:
        """Return the pair; a row that is not there because its folder could not be listed is one
        with an error."""
        # Step 1: names below a folder follow it, so that one folder a side is enough.
        row = ours or theirs
        assert row is not None
        side: Side = "source" if ours is None else "destination"
        folder = self._folders.get(side)
        if (ours is not None and theirs is not None) or folder is None:
            return ours, theirs
        # Step 2
        if not row.name.startswith(folder):
            return ours, theirs
        unknown = TreeRow(row.name, error=f"the {side}'s folder {folder!a} could not be listed")
        return (unknown, theirs) if ours is None else (ours, unknown)

    # -- one pair

    def _decide_by_listings(self, pair: Pair) -> NameFinding | None:
        """Return what the listings prove about a name, or None."""
        ours, theirs = pair
        finding = partial(_finding, pair)
        if ours is None:
            assert theirs is not None  # a pair has a row
            return finding(TreeVerdict.EXTRA, Basis.LISTING, theirs.error or "")
        if theirs is None:
            return (
                None
                if self._asks_for(ours)
                else finding(TreeVerdict.MISSING, Basis.LISTING, ours.error or "")
            )
        error = ours.error or theirs.error
        if error is not None:
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, error)
        # A listing's 0 may mean that it does not know (/proc, documents in a FUSE mount).
        if ours.size == 0 or theirs.size == 0:
            return None
        if None not in (ours.size, theirs.size) and ours.size != theirs.size:
            return finding(TreeVerdict.DIFFERS, Basis.SIZE)
        if self.reads is Reads.ALL:
            return None
        by_digest = _decide_by_digests(finding, _store_digests(ours), _store_digests(theirs))
        if by_digest is not None:
            return by_digest
        stores = (self.job.source.store, self.job.destination.store)
        if stores == ("s3", "s3") and _has_one_md5(ours, theirs):
            return finding(TreeVerdict.SAME, Basis.ETAG, "md5")
        return None

    def _asks_for(self, ours: TreeRow) -> bool:
        """Return whether the destination's listing does not prove that an object is missing."""
        if ours.error is not None:
            return False
        return not self._destination(self.listings["destination"]).lists_all(self.job.destination)

    def _examine(self, pair: Pair) -> NameFinding | RelayError:
        """Return what requests prove about a pair, or the error of a store that may not answer any
        more: one that left this greenlet would be printed."""
        ours, theirs = pair
        assert ours is not None  # `_decide_by_listings` has decided about extra names
        try:
            return self._ask(ours, theirs)
        except RelayError as error:
            is_for_all = isinstance(error, StoreError) and error.retryable
            if is_for_all or isinstance(error, Unauthenticated):
                return error
            return _finding_of_failure(pair, error)

    def _believe(self, pair: Pair, one: NameFinding | RelayError) -> NameFinding:
        """Return the finding of an examination; an error is one of this object alone, unless its
        store does not answer any more. Then raises it."""
        if not isinstance(one, RelayError):
            self._failures = 0
            return one
        self._failures += 1
        if self._failures == MOST_FAILURES or not self._lists(one.side):
            raise one
        return _finding_of_failure(pair, one)

    def _lists(self, side: str | None) -> bool:
        """Return whether a side's tree can be listed now."""
        meter = Watchdog(self.limits)
        entries: Any
        if side == "source":
            entries = self.stores.source(self.job.source, meter).list(self.job.source)
        elif side == "destination":
            entries = self._destination(meter).list(self.job.destination)
        else:
            return False
        try:
            with closing(entries):
                next(entries, None)
        except RelayError:
            return False
        return True

    def _ask(self, ours: TreeRow, theirs: TreeRow | None) -> NameFinding:
        # Step 1: an object that a listing may lack.
        listed = ListedObject(ours.name, size=ours.size, etag=ours.etag, url=ours.url)
        plan = self.job.plan_of_listed(listed)
        meter = Watchdog(self.limits)
        source, destination = self.stores.source(plan.source, meter), self._destination(meter)
        if theirs is None:
            try:
                found = self._retry(meter, lambda: inspect_object(destination, plan.destination))
            except NotFound:
                return _finding((ours, None), TreeVerdict.MISSING, Basis.HEAD)
            size = found.version.size if isinstance(found, ObjectInfo) else None
            theirs = TreeRow(ours.name, size=size)
        sides = (source, plan.source, ours), (destination, plan.destination, theirs)
        if self.reads is Reads.ALL:
            return self._read_both(*sides)
        # Step 2: digests.
        here, there = self._version(*sides[0], meter), self._version(*sides[1], meter)
        sized = (replace(ours, size=here.size), replace(theirs, size=there.size))
        finding = partial(_finding, sized)
        if None not in (here.size, there.size) and here.size != there.size:
            return finding(TreeVerdict.DIFFERS, Basis.SIZE, "by HEAD")
        if here.size == there.size == 0:
            return finding(TreeVerdict.SAME, Basis.SIZE)
        by_digest = _decide_by_digests(finding, here.digests, there.digests)
        if by_digest is not None:
            return by_digest
        # Step 3: bytes.
        if self.reads is Reads.NONE:
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, _why_unproved(here, there))
        if here.digests or there.digests:
            return self._read_one(
                finding,
                (source, plan.source, here),
                (destination, plan.destination, there),
                ours.digests,
            )
        return self._read_both(
            (source, plan.source, sized[0]), (destination, plan.destination, sized[1])
        )

    def _version(
        self, store: Source | Destination, place: Location, row: TreeRow, meter: Watchdog
    ) -> Version:
        """Return what a listing and HEAD say of an object. If it may be read, a refused HEAD says
        nothing. Raises StoreError, and IntegrityMismatch where the two contradict each other."""
        found: ObjectInfo | UnknownObject
        try:
            found = self._retry(meter, lambda: store.head(place))
        except (PermissionDenied, Rejected) as error:
            if self.reads is Reads.NONE:
                raise
            found = UnknownObject(error)
        listed, digests = row.size or None, _store_digests(row)  # its 0 may mean "unknown"
        if not isinstance(found, ObjectInfo):
            return Version(listed, row.etag, digests=digests)
        version = found.version
        if compare(row.digests, version.digests)[1]:
            raise IntegrityMismatch(f"the listed digest of {place} is not that of HEAD")
        size = listed if version.size is None else version.size
        return Version(size, version.etag, digests={**digests, **version.digests})

    def _read_one(
        self,
        finding: Callable[..., NameFinding],
        ours: tuple[Source, Location, Version],
        theirs: tuple[Destination, Location, Version],
        listed: Digests,
    ) -> NameFinding:
        """Read the side that reports no digest, and compare with the one that does, and with the
        digests that are `listed` of the source."""
        known, read = (ours, theirs) if ours[2].digests else (theirs, ours)
        name = next(one for one in ALGORITHMS if one in known[2].digests)
        side = "destination" if read is theirs else "source"
        store, place, _ = read
        content = self._read(store, place, (name, *listed)).with_promises(read[2].size, listed)
        if content.why is not None:
            return finding(TreeVerdict.DIFFERS, Basis.READ, f"{side}: {content.why}")
        size = known[2].size
        is_equal = content.digests[name] == known[2].digests[name]
        is_equal = is_equal and size in (None, content.count)
        if not content.is_whole and (is_equal or size is None or content.count < size):
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, _why_not_whole(side))
        if is_equal and compare(content.digests, listed)[1]:
            detail = "source: its listed digest contradicts its bytes"
            return finding(TreeVerdict.DIFFERS, Basis.READ, detail)
        verdict = TreeVerdict.SAME if is_equal else TreeVerdict.DIFFERS
        return finding(verdict, Basis.READ, f"{name} of the {side}'s bytes")

    def _read_both(
        self,
        ours: tuple[Source, Location, TreeRow],
        theirs: tuple[Destination, Location, TreeRow],
    ) -> NameFinding:
        """Read both sides, each with the digests that its listing promises."""
        contents: list[_Content] = []
        pair = (ours[2], theirs[2])
        sides: tuple[Side, Side] = ("source", "destination")
        for side, (store, place, row) in zip(sides, (ours, theirs), strict=True):
            content = self._read(store, place, (*ALWAYS, *row.digests))
            why = content.why
            if compare(content.digests, row.digests)[1]:
                why = "its listed digest contradicts its bytes"
            if why is not None:
                return _finding(pair, TreeVerdict.DIFFERS, Basis.READ, f"{side}: {why}")
            contents.append(content.with_promises(row.size, row.digests))
        here, there = contents
        sized = (replace(pair[0], size=here.count), replace(pair[1], size=there.count))
        finding = partial(_finding, sized)
        shorter = min(contents, key=attrgetter("count"))
        open_side = "destination" if here.is_whole else "source"
        if here.count != there.count:
            if not shorter.is_whole:
                return finding(TreeVerdict.UNPROVED, Basis.NOTHING, _why_not_whole(open_side))
            detail = f"{here.count:,} bytes at the source, {there.count:,} at the destination"
            return finding(TreeVerdict.DIFFERS, Basis.READ, detail)
        agreeing, differing = compare(here.digests, there.digests)
        if differing or agreeing is None:
            return finding(TreeVerdict.DIFFERS, Basis.READ, ", ".join(differing))
        if not (here.is_whole and there.is_whole):
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, _why_not_whole(open_side))
        return finding(TreeVerdict.SAME, Basis.READ, f"{agreeing} of both")

    def _read(
        self, store: Source | Destination, place: Location, names: tuple[str, ...]
    ) -> _Content:
        """Return the digests of an object's bytes. Bytes that are not those of the digest in their
        answer are read twice. Raises StoreError, and as Body.read."""
        once = partial(self._read_once, store, place, names)
        meter = Watchdog(self.limits)
        content = self._retry(meter, once)
        return content if content.why is None else self._retry(meter, once)

    def _read_once(
        self, store: Source | Destination, place: Location, names: tuple[str, ...]
    ) -> _Content:
        opened = store.get(place)
        body = opened.body
        assert body is not None  # an OpenedObject has one
        try:
            body.digest_with(names, opened.version.digests)
            drain(body)
        except IntegrityMismatch as error:
            return _Content(body.count, {}, f"its digest contradicts its bytes: {error.message}")
        finally:
            self.report.bytes_read += body.count
            body.close()
        is_whole = not body.ends_by_close or bool(opened.version.digests)
        return _Content(body.count, body.digests, None, is_whole=is_whole)

    def _destination(self, meter: Watchdog) -> Destination:
        return self.stores.destination(self.job.destination, meter)

    def _retry(self, meter: Watchdog, once: Callable[[], T]) -> T:
        return ListingRetries(self.limits.listing_seconds, meter).retry(once)


@dataclass(frozen=True)
class _Content:
    """An object that was read; `why` says how its bytes contradict their own digest, and `is_whole`
    whether a length, the framing or a digest proves its end."""

    count: int
    digests: Digests
    why: str | None
    _: KW_ONLY
    is_whole: bool = True

    def with_promises(self, size: int | None, digests: Digests) -> _Content:
        """Return the content, whose end a size (but 0) or a digest from elsewhere may prove."""
        is_proved = self.count == (size or None) or compare(self.digests, digests)[0] is not None
        return replace(self, is_whole=self.is_whole or is_proved)


def _rows_of(side: Side, entry: Entry, chosen: ListingFilter | None) -> Iterator[TreeRow]:
    """Yield the row of an entry, and that of a folder for an entry that may be one or an object."""
    row = _row_of(side, entry, chosen)
    yield row
    folder = f"{entry.name}/"
    if folder in entry.judged_as and not row.is_folder:
        yield TreeRow(folder, error=row.error, is_chosen=row.is_chosen)


def _row_of(side: Side, entry: Entry, chosen: ListingFilter | None) -> TreeRow:
    judged = entry if chosen is None else chosen(entry)
    if side == "source":  # where it decides: its error is that of the name
        entry = judged or entry
    # The source may have the names below a link to a folder, or below a dead mount.
    folder = f"{entry.name}/"
    return TreeRow(
        folder if entry.judged_as == (folder,) else entry.name,
        size=entry.size,
        etag=entry.etag,
        digests=entry.digests,
        url=entry.url,
        error=None if entry.error is None else entry.error.message,
        is_chosen=judged is not None,
    )


def _disorder(side: Side, before: str, name: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"the listing is not in the order of names: {name!a} comes after {before!a}",
        side=side,
        hint="Run it again with --sort: then relay sorts the listings itself.",
    )


def _finding(pair: Pair, verdict: TreeVerdict, basis: Basis, detail: str = "") -> NameFinding:
    ours, theirs = pair
    row = ours or theirs
    assert row is not None  # a pair has a row
    return NameFinding(
        verdict,
        row.name,
        basis,
        detail,
        source_size=None if ours is None else ours.size,
        destination_size=None if theirs is None else theirs.size,
    )


def _finding_of_failure(pair: Pair, error: RelayError) -> NameFinding:
    side = f"{error.side}: " if error.side in ("source", "destination") else ""
    return _finding(pair, TreeVerdict.UNPROVED, Basis.NOTHING, f"{side}{error.message}")


def _store_digests(row: TreeRow) -> Digests:
    """Return the digests that the store itself reports: not those that a list of URLs declares."""
    return {} if row.url is not None else row.digests


def _why_not_whole(side: str) -> str:
    return (
        f"the {side} declared neither a length nor a digest:"
        " nothing proves that it was read to its end"
    )


def _decide_by_digests(
    finding: Callable[..., NameFinding], ours: Digests, theirs: Digests
) -> NameFinding | None:
    """Return what two sets of digests prove, or None."""
    agreeing, differing = compare(ours, theirs)
    if differing:
        return finding(TreeVerdict.DIFFERS, Basis.DIGEST, ", ".join(differing))
    return None if agreeing is None else finding(TreeVerdict.SAME, Basis.DIGEST, agreeing)


def _has_one_md5(ours: TreeRow, theirs: TreeRow) -> bool:
    """Return whether two buckets show the same MD5 as ETag. Another one proves nothing: under
    SSE-KMS and SSE-C an ETag is not an MD5, and of an object in parts it depends on their size
    (docs.aws.amazon.com, "Object", ETag)."""
    tags = [_MD5.fullmatch(row.etag or "") for row in (ours, theirs)]
    values = {tag[1] for tag in tags if tag is not None}
    if None in tags or len(values) != 1 or ours.size is None or ours.size != theirs.size:
        return False
    value = values.pop()
    return value != _EMPTY_MD5 and len(set(value)) > 1


def _why_unproved(here: Version, there: Version) -> str:
    if here.digests and there.digests:
        return f"no digest in common: {_names(here)} and {_names(there)}"
    if here.digests or there.digests:
        side = "destination" if here.digests else "source"
        return f"the {side} reports no digest"
    return "neither side reports a digest"


def _names(version: Version) -> str:
    return ", ".join(as_hex(version.digests))
