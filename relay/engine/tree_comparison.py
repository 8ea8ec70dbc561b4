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
from relay.engine.comparison import has_one_md5
from relay.engine.comparison_report import (
    Basis,
    ComparisonReport,
    NameFinding,
    Reads,
    TreeVerdict,
    finding_of_pair,
)
from relay.engine.folded_pairs import FoldedPairs
from relay.engine.folds import KEEPS_APART
from relay.engine.inspection import inspect_object, size_by_head
from relay.engine.listed_pairs import SIDES, ListedPairs, filtered_tree
from relay.engine.listing_filter import LIST, ListingFilter
from relay.engine.migration_request import MigrationJob
from relay.engine.pair_examination import PairExamination, can_be_listed
from relay.engine.receipt_proof import is_proved_by
from relay.engine.sampling import NameSample
from relay.engine.transfer.wrong_pages import (
    hints_of_answer,
    may_be_of_page,
    refuse_wrong_page,
)
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
    OpenedObject,
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
            side: Watchdog.of_listing(self.limits) for side in SIDES
        }
        """The watchdog of each listing, which shows how long it has waited."""
        self._chosen_by: list[ListingFilter] = []

    @property
    def missing_names(self) -> frozenset[str]:
        """The names of the filters' list that neither side has, after the comparison."""
        missing = [chosen.missing_names for chosen in self._chosen_by]
        return frozenset(missing[0]).intersection(*missing) if missing else frozenset()

    def findings(self) -> Iterator[NameFinding]:
        """Yield what is found about each name, in the order of names. At the end come the names
        that one side alone has, if the destination may change names, and those of a sample.

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
            folds=None if self._keeps_names else FoldedPairs(self.space),
        )
        return examination.findings(ListedPairs(self.report).chosen(pairs))

    @property
    def _keeps_names(self) -> bool:
        return self.job.destination.store in KEEPS_APART

    def _rows(self, side: Side) -> Iterator[TreeRow]:
        tree = filtered_tree(self.job, side, self.stores, self.listings[side])
        if tree.chosen is not None:
            self._chosen_by.append(tree.chosen)
        return tree.rows(self.space, sorts_all=self.sorts_all)

    # -- one pair

    def _decide_by_listings(self, pair: Pair) -> NameFinding | None:
        """Return what the listings prove about a name, or None."""
        ours, theirs = pair
        finding = partial(finding_of_pair, pair)
        if ours is None or theirs is None:
            row, verdict, place = (
                (theirs, TreeVerdict.EXTRA, self.job.source)
                if ours is None
                else (ours, TreeVerdict.MISSING, self.job.destination)
            )
            assert row is not None  # a pair has a row
            is_asked = row.error is None and self._lists_less(place)
            return None if is_asked else finding(verdict, Basis.LISTING, row.error or "")
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
        is_sized = ours.size is not None and ours.size == theirs.size
        if stores == ("s3", "s3") and is_sized and has_one_md5(ours.etag, theirs.etag):
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

    def _lists_less(self, place: Location) -> bool:
        """Return whether the listing of a side does not prove that it has no other object: an index
        page of nginx leaves out the names that begin with a dot."""
        if place.store == LIST:
            return False
        meter = self.listings["destination"]
        return not self.stores.destination(place, meter).lists_all(place)

    def _lists(self, side: str | None) -> bool:
        """Return whether a side's tree can be listed now."""
        meter = Watchdog(self.limits)
        if side == "source":
            return can_be_listed(self.stores.source(self.job.source, meter), self.job.source)
        if side == "destination":
            return can_be_listed(self._destination(meter), self.job.destination)
        return False

    def _ask(self, ours: TreeRow | None, theirs: TreeRow | None) -> NameFinding:
        # Step 1: an object that a listing may lack.
        row = ours or theirs
        assert row is not None  # a pair has a row
        plan = self.job.plan_of_listed(ListedObject(row.name, url=row.url))
        meter = Watchdog(self.limits)
        source, destination = self.stores.source(plan.source, meter), self._destination(meter)
        try:
            ours = ours or self._find_row(source, plan.source, row.name, meter)
            theirs = theirs or self._find_row(destination, plan.destination, row.name, meter)
        except NotFound:
            verdict = TreeVerdict.EXTRA if ours is None else TreeVerdict.MISSING
            return finding_of_pair((ours, theirs), verdict, Basis.HEAD)
        one = _Object("source", source, plan.source, ours, named=plan.destination)
        other = _Object(
            "destination", destination, plan.destination, theirs, named=plan.destination
        )
        if self.reads is Reads.ALL:
            return self._read_both(one, other)
        # Step 2: digests.
        here, there = self._version(one, meter), self._version(other, meter)
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
            return self._read_one(finding, (one, here), (other, there))
        return self._read_both(replace(one, row=sized[0]), replace(other, row=sized[1]))

    def _find_row(
        self, store: Source | Destination, place: Location, name: str, meter: Watchdog
    ) -> TreeRow:
        """Return the row of an object that its listing lacks. Raises as `inspect_object`."""
        found = self._retry(meter, lambda: inspect_object(store, place))
        is_known = isinstance(found, ObjectInfo) and not may_be_of_page(found, place)
        size = found.version.size if isinstance(found, ObjectInfo) and is_known else None
        return TreeRow(name, size=size)

    def _version(self, one: _Object, meter: Watchdog) -> Version:
        """Return what a listing and HEAD say of an object. If it may be read, a refused HEAD says
        nothing. Raises StoreError, and IntegrityMismatch where the two contradict each other."""
        row, place = one.row, one.place
        found: ObjectInfo | UnknownObject
        try:
            found = self._retry(meter, lambda: one.store.head(place))
            if isinstance(found, ObjectInfo) and may_be_of_page(found, place):
                raise Rejected(f"{place} is answered with an HTML page", side=one.side)
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
        size = size_by_head(found, place)
        size = listed if size is None else size
        return Version(size, version.etag, digests={**digests, **version.digests})

    def _read_one(
        self,
        finding: Callable[..., NameFinding],
        ours: tuple[_Object, Version],
        theirs: tuple[_Object, Version],
    ) -> NameFinding:
        """Read the side that reports no digest, and compare with the one that does, and with the
        digests that are listed of the source."""
        (_, known), (read, version) = (ours, theirs) if ours[1].digests else (theirs, ours)
        name = next(one for one in ALGORITHMS if one in known.digests)
        side, listed = read.side, ours[0].row.digests
        content = self._read(read, (name, *listed)).with_promises(version.size, listed)
        if content.why is not None:
            return finding(TreeVerdict.DIFFERS, Basis.READ, f"{side}: {content.why}")
        size = known.size
        is_equal = content.digests[name] == known.digests[name]
        is_equal = is_equal and size in (None, content.count)
        if not content.is_whole and (is_equal or size is None or content.count < size):
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, _why_not_whole(side))
        if is_equal and compare(content.digests, listed)[1]:
            detail = "source: its listed digest contradicts its bytes"
            return finding(TreeVerdict.DIFFERS, Basis.READ, detail)
        verdict = TreeVerdict.SAME if is_equal else TreeVerdict.DIFFERS
        return finding(verdict, Basis.READ, f"{name} of the {side}'s bytes")

    def _read_both(self, ours: _Object, theirs: _Object) -> NameFinding:
        """Read both sides, each with the digests that its listing promises."""
        contents: list[_Content] = []
        pair = (ours.row, theirs.row)
        for one in (ours, theirs):
            row = one.row
            content = self._read(one, (*ALWAYS, *row.digests))
            why = content.why
            if compare(content.digests, row.digests)[1]:
                why = "its listed digest contradicts its bytes"
            if why is not None:
                return finding_of_pair(pair, TreeVerdict.DIFFERS, Basis.READ, f"{one.side}: {why}")
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

    def _read(self, one: _Object, names: tuple[str, ...]) -> _Content:
        """Return the digests of an object's bytes. Bytes that are not those of the digest in their
        answer are read twice. Raises StoreError, Rejected for a page in place of the object, and
        as Body.read."""
        once = partial(self._read_once, one, names)
        meter = Watchdog(self.limits)
        content = self._retry(meter, once)
        return content if content.why is None else self._retry(meter, once)

    def _read_once(self, one: _Object, names: tuple[str, ...]) -> _Content:
        opened = one.store.get(one.place)
        body = opened.body
        assert body is not None  # an OpenedObject has one
        try:
            one.refuse_page(opened)
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
class _Object:
    """An object of one side; `named` is its place at the destination."""

    side: Side
    store: Source | Destination
    place: Location
    row: TreeRow
    _: KW_ONLY
    named: Location

    def refuse_page(self, opened: OpenedObject) -> None:
        """Raise Rejected if the answer is another page in place of the object: a program that
        copied the object may have copied that page."""
        known = hints_of_answer(self.row.url, self.row.digests)
        try:
            refuse_wrong_page(opened, self.place, self.named, known, self.store)
        except Rejected as error:
            error.side = self.side
            raise


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


def _why_unproved(here: Version, there: Version) -> str:
    if here.digests and there.digests:
        return f"no digest in common: {_names(here)} and {_names(there)}"
    if here.digests or there.digests:
        side = "destination" if here.digests else "source"
        return f"the {side} reports no digest"
    return "neither side reports a digest"


def _names(version: Version) -> str:
    return ", ".join(as_hex(version.digests))
