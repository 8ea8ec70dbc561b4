"""Compare two trees object by object: each name is the same, differs, or is not proved.

Theory of operation. Both listings are merged by the names that a migration writes at the
destination, so memory does not grow with the trees. A bucket of AWS is compared while it lists its
keys in the order of their bytes; any other listing is sorted first. Each pair is decided by the
cheapest answer that proves something: the listings, HEAD, or the bytes where reading is allowed.
Equal sizes prove nothing. Nothing is written to any store.

Decided here: what each answer proves. Never here: how stores list and read, how rows are sorted
(`relay/sorting/`), and how findings are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from relay.digest import ALGORITHMS, ALWAYS, Digests, as_hex, compare
from relay.engine.comparison_report import (
    Basis,
    ComparisonReport,
    NameFinding,
    Reads,
    TreeVerdict,
    finding_of_pair,
)
from relay.engine.inspection import inspect_object
from relay.engine.listed_pairs import ListedPairs, TreeToList
from relay.engine.listing_filter import ListingFilter
from relay.engine.md5_etags import md5_of_etag
from relay.engine.migration_request import MigrationJob
from relay.engine.pair_examination import PairExamination, can_be_listed
from relay.engine.receipt_proof import is_proved_by
from relay.engine.sampling import NameSample
from relay.errors import (
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    Rejected,
    Side,
)
from relay.ledger.listing_values import ListedObject
from relay.location import Location
from relay.receipt import Version
from relay.sorting.merge import Pair, pair_rows
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import (
    Destination,
    ObjectInfo,
    Source,
    StoreProvider,
    UnknownObject,
)
from relay.stores.listing_retries import ListingRetries
from relay.transfer_limits import Limits
from relay.wire.pump import drain
from relay.wire.watchdog import Watchdog

T = TypeVar("T")
FindsReceipts = Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]


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
    sample: NameSample | None = None
    """Which of the objects that the listings do not decide are asked for; None: all."""
    receipts: FindsReceipts | None = None
    """Finds the receipts of a migration's objects by their names; None: no receipt counts."""

    def __post_init__(self) -> None:
        """Start with empty listings."""
        self.report = ComparisonReport(sample=self.sample)
        """The counts so far."""
        self.listings: dict[Side, Watchdog] = {
            side: Watchdog.of_listing(self.limits) for side in ("source", "destination")
        }
        """The watchdog of each listing, which shows how long it has waited."""
        self._chosen_by: list[ListingFilter] = []

    @property
    def missing_names(self) -> frozenset[str]:
        """The names of the filters' list that neither side has, after the comparison."""
        missing = [chosen.missing_names for chosen in self._chosen_by]
        return frozenset(missing[0]).intersection(*missing) if missing else frozenset()

    def findings(self) -> Iterator[NameFinding]:
        """Yield what is found about each name, in the order of names; what a sample finds comes at
        the end.

        Raises the errors of both listings, StoreErrors of a store that stopped answering,
        SpillFailed, and ProtocolViolation for the listing of a bucket in another order. An error of
        one object is its finding."""
        pairs = pair_rows(self._rows("source"), self._rows("destination"))
        examination = PairExamination(
            self.report,
            decide=self._decide_by_listings,
            ask=self._ask,
            lists=self._lists,
            slots=self.slots,
            prove=self._prove,
            sample=self.sample,
        )
        return examination.findings(ListedPairs(self.report).chosen(pairs))

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
        tree = TreeToList(side=side, store=store, place=place, chosen=chosen)
        return tree.rows(self.space, sorts_all=self.sorts_all)

    # -- one pair

    def _decide_by_listings(self, pair: Pair) -> NameFinding | None:
        """Return what the listings prove about a name, or None."""
        ours, theirs = pair
        finding = partial(finding_of_pair, pair)
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

    def _prove(self, pairs: Sequence[Pair]) -> dict[str, NameFinding]:
        """Return the objects among some pairs that their receipts prove."""
        if self.receipts is None or self.reads is Reads.ALL or not pairs:
            return {}
        both = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        receipts = self.receipts([ours.name for ours, _ in both])
        stores = (self.job.source.store, self.job.destination.store)
        return {
            ours.name: finding_of_pair((ours, theirs), TreeVerdict.SAME, Basis.RECEIPT)
            for ours, theirs in both
            if is_proved_by(receipts.get(ours.name), ours, theirs, stores)
        }

    def _asks_for(self, ours: TreeRow) -> bool:
        """Return whether the destination's listing does not prove that an object is missing."""
        if ours.error is not None:
            return False
        return not self._destination(self.listings["destination"]).lists_all(self.job.destination)

    def _lists(self, side: str | None) -> bool:
        """Return whether a side's tree can be listed now."""
        meter = Watchdog(self.limits)
        if side == "source":
            return can_be_listed(self.stores.source(self.job.source, meter), self.job.source)
        if side == "destination":
            return can_be_listed(self._destination(meter), self.job.destination)
        return False

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
                return finding_of_pair((ours, None), TreeVerdict.MISSING, Basis.HEAD)
            size = found.version.size if isinstance(found, ObjectInfo) else None
            theirs = TreeRow(ours.name, size=size)
        sides = (source, plan.source, ours), (destination, plan.destination, theirs)
        if self.reads is Reads.ALL:
            return self._read_both(*sides)
        # Step 2: digests.
        here, there = self._version(*sides[0], meter), self._version(*sides[1], meter)
        sized = (replace(ours, size=here.size), replace(theirs, size=there.size))
        finding = partial(finding_of_pair, sized)
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
                return finding_of_pair(pair, TreeVerdict.DIFFERS, Basis.READ, f"{side}: {why}")
            contents.append(content.with_promises(row.size, row.digests))
        here, there = contents
        sized = (replace(pair[0], size=here.count), replace(pair[1], size=there.count))
        finding = partial(finding_of_pair, sized)
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
    """Return whether two buckets show the same MD5 as ETag. Another one proves nothing."""
    if ours.size is None or ours.size != theirs.size:
        return False
    md5 = md5_of_etag(ours.etag)
    return md5 is not None and md5 == md5_of_etag(theirs.etag)


def _why_unproved(here: Version, there: Version) -> str:
    if here.digests and there.digests:
        return f"no digest in common: {_names(here)} and {_names(there)}"
    if here.digests or there.digests:
        side = "destination" if here.digests else "source"
        return f"the {side} reports no digest"
    return "neither side reports a digest"


def _names(version: Version) -> str:
    return ", ".join(as_hex(version.digests))
