"""Compare what lies at a destination with the receipts of the migration that wrote it.

Theory of operation. The receipts of a migration are sorted by name and merged with the listing of
its destination. A receipt has the digests of the bytes that relay sent; so a digest of the
destination proves an object or its change, and one reading of the destination proves it too. The
source is not asked. Names of the destination that the migration did not write are counted.

An object without a digest may show the ETag that it had after it was written. A bucket gives each
write its ETag, and relay makes those of files of their inode and times, where a changed byte shows;
so there it is a proof that the object was not written since. Other servers make an ETag of a
time and a size, which a changed object may have too: there it proves nothing.

Decided here: what each answer proves. Never here: how receipts are stored, and how stores list and
read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Final

from relay.digest import ALGORITHMS, Digests, compare
from relay.engine.comparison_report import (
    Basis,
    ComparisonReport,
    NameFinding,
    Reads,
    TreeVerdict,
    finding_of_pair,
)
from relay.engine.folds import KEEPS_APART
from relay.engine.inspection import inspect_object, size_by_head
from relay.engine.listed_pairs import ListedPairs, TreeToList
from relay.engine.pair_examination import PairExamination, can_be_listed
from relay.engine.receipt_proof import TELLING_ETAGS
from relay.engine.sampling import NameSample
from relay.engine.transfer.context import ObjectHints
from relay.engine.transfer.wrong_pages import may_be_of_page, refuse_wrong_page
from relay.errors import IntegrityMismatch, NotFound, Side
from relay.ledger.pages import TransferRow
from relay.ledger.states import TransferState
from relay.location import Location
from relay.receipt import Level, Version
from relay.sorting.merge import Pair, pair_rows
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace, sort_rows
from relay.stores.interfaces import Destination, ObjectInfo, StoreProvider
from relay.stores.listing_retries import ListingRetries
from relay.transfer_limits import Limits
from relay.wire.pump import drain
from relay.wire.watchdog import Watchdog

_WITH_RECEIPT: Final = frozenset({TransferState.VERIFIED, TransferState.UNVERIFIED})
_SKIPPED: Final = "it was there before: the migration skipped it, and has no receipt of it"
_UNPROVED_END: Final = "the migration could not prove that it had read the source to its end"
_OTHER_VERSION: Final = "the destination has another version than relay wrote"


@dataclass(eq=False)
class ReceiptComparison:
    """The comparison of one migration's receipts with its destination, a folder."""

    destination: Location
    receipts: Iterable[TransferRow]
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    space: SpillSpace
    reads: Reads = Reads.NONE
    slots: int = 8
    sorts_all: bool = False
    sample: NameSample | None = None

    def __post_init__(self) -> None:
        """Start with empty listings."""
        self.report = ComparisonReport(sample=self.sample)
        """The counts so far."""
        # The listing of a bucket of AWS goes on as long as objects are read.
        self.listings: dict[Side, Watchdog] = {"destination": Watchdog.of_listing(self.limits)}
        """The watchdog of the listing, which shows how long it has waited."""

    def findings(self) -> Iterator[NameFinding]:
        """Yield what is found about each name of a receipt, in the order of names; what a sample
        finds comes at the end. Raises LedgerFailed, and as PairExamination.findings."""
        meter = self.listings["destination"]
        tree = TreeToList(side="destination", store=self._store(meter), place=self.destination)
        receipts = sort_rows(map(_row_of, self.receipts), self.space)
        listed = tree.rows(self.space, sorts_all=self.sorts_all)
        pairs = ListedPairs(self.report).chosen(pair_rows(receipts, listed))
        examination = PairExamination(
            self.report,
            decide=self._decide,
            ask=self._ask,
            lists=lambda side: side == "destination" and self._lists(),
            slots=self.slots,
            sample=self.sample,
        )
        return examination.findings(self._of_migration(pairs))

    def _of_migration(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            if pair[0] is None:
                self.report.others += 1
            else:
                yield pair

    def _decide(self, pair: Pair) -> NameFinding | None:
        """Return what the listing proves about a receipt, or None."""
        ours, theirs = pair
        assert ours is not None  # `_of_migration` leaves others out
        finding = partial(finding_of_pair, pair)
        error = ours.error or (None if theirs is None else theirs.error)
        if error is not None:
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, error)
        if theirs is None:
            # A destination that changes names lists the object under another one.
            is_certain = self.destination.store in KEEPS_APART
            is_certain = is_certain and self._lists_all()
            return finding(TreeVerdict.MISSING, Basis.LISTING) if is_certain else None
        # A listing's 0 may mean that it does not know.
        if theirs.size and theirs.size != ours.size:
            return finding(TreeVerdict.DIFFERS, Basis.SIZE)
        if theirs.size == 0 or self.reads is Reads.ALL:
            return None
        there = Version(theirs.size, theirs.etag, digests=theirs.digests)
        return self._by_version(finding, ours, there)

    def _by_version(
        self, finding: partial[NameFinding], ours: TreeRow, there: Version
    ) -> NameFinding | None:
        """Return what the digests and the ETag of the destination prove, or None."""
        agreeing, differing = compare(ours.digests, there.digests)
        if differing:
            return finding(TreeVerdict.DIFFERS, Basis.DIGEST, ", ".join(differing))
        if agreeing is not None:
            return finding(TreeVerdict.SAME, Basis.DIGEST, agreeing)
        if there.size == ours.size and self._is_version_of(ours, there):
            return finding(TreeVerdict.SAME, Basis.RECEIPT, "the ETag of the version that it names")
        return None

    def _is_version_of(self, ours: TreeRow, there: Version) -> bool:
        if self.destination.store not in TELLING_ETAGS:
            return False
        tag = Version(etag=ours.etag).strong_etag
        return tag is not None and tag == there.strong_etag

    def _ask(self, ours: TreeRow | None, theirs: TreeRow | None) -> NameFinding:
        assert ours is not None  # names of the destination alone are decided
        place = self.destination.below(ours.name, destination=True)
        meter = Watchdog(self.limits)
        store = self._store(meter)
        retries = ListingRetries(self.limits.listing_seconds, meter)
        try:
            found = retries.retry(lambda: inspect_object(store, place))
        except NotFound:
            return finding_of_pair((ours, None), TreeVerdict.MISSING, Basis.HEAD)
        there = Version()
        if isinstance(found, ObjectInfo) and not may_be_of_page(found, place):
            there = found.version.with_size(size_by_head(found, place))
        pair = (ours, TreeRow(ours.name, size=there.size))
        finding = partial(finding_of_pair, pair)
        if there.size is not None and there.size != ours.size:
            return finding(TreeVerdict.DIFFERS, Basis.SIZE, "by HEAD")
        if self.reads is not Reads.ALL:
            if there.size == ours.size == 0:
                return finding(TreeVerdict.SAME, Basis.SIZE)
            by_version = self._by_version(finding, ours, there)
            if by_version is not None:
                return by_version
        if self.reads is Reads.NONE:
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, self._why_unproved(ours, there))
        return self._read(finding, ours, place)

    def _why_unproved(self, ours: TreeRow, there: Version) -> str:
        tags = (Version(etag=ours.etag).strong_etag, there.strong_etag)
        is_shown = self.destination.store in TELLING_ETAGS and None not in tags
        if is_shown and tags[0] != tags[1]:
            return _OTHER_VERSION
        return "the destination reports no digest that the receipt has"

    def _read(self, finding: partial[NameFinding], ours: TreeRow, place: Location) -> NameFinding:
        """Read the destination's object, and compare its bytes with the receipt. Bytes that are not
        those of the digest in their answer are read twice. Raises StoreError, and as Body.read."""
        name = next((one for one in ALGORITHMS if one in ours.digests), None)
        if name is None:
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, "the receipt has no digest")
        meter = Watchdog(self.limits)
        retries = ListingRetries(self.limits.listing_seconds, meter)
        for _ in range(2):
            try:
                count, digests, is_whole = retries.retry(lambda: self._content(place, name))
                break
            except IntegrityMismatch as error:
                why = error.message
        else:
            detail = f"its digest contradicts its bytes: {why}"
            return finding(TreeVerdict.DIFFERS, Basis.READ, detail)
        is_equal = count == ours.size and digests[name] == ours.digests[name]
        # The receipt's size and digest prove the end of equal bytes.
        if not is_equal and not is_whole and count < (ours.size or 0):
            detail = (
                "the destination declared no length: nothing proves that it was read to its end"
            )
            return finding(TreeVerdict.UNPROVED, Basis.NOTHING, detail)
        if not is_equal:
            retries.retry(lambda: self._refuse_page(place))
        verdict = TreeVerdict.SAME if is_equal else TreeVerdict.DIFFERS
        return finding(verdict, Basis.READ, f"{name} of the destination's bytes")

    def _refuse_page(self, place: Location) -> None:
        """Raise Rejected if the destination answers with another page in place of the object, such
        as that of a login. Raises StoreError."""
        store = self._store(Watchdog(self.limits))
        opened = store.get(place)
        assert opened.body is not None  # an OpenedObject has one
        try:
            refuse_wrong_page(opened, place, place, ObjectHints(listed=Version()), store)
        finally:
            opened.body.close()

    def _content(self, place: Location, name: str) -> tuple[int, Digests, bool]:
        opened = self._store(Watchdog(self.limits)).get(place)
        body = opened.body
        assert body is not None  # an OpenedObject has one
        try:
            body.digest_with((name,), opened.version.digests)
            drain(body)
        finally:
            self.report.bytes_read += body.count
            body.close()
        return body.count, body.digests, not body.ends_by_close

    def _store(self, meter: Watchdog) -> Destination:
        return self.stores.destination(self.destination, meter)

    def _lists_all(self) -> bool:
        return self._store(self.listings["destination"]).lists_all(self.destination)

    def _lists(self) -> bool:
        return can_be_listed(self._store(Watchdog(self.limits)), self.destination)


def _row_of(row: TransferRow) -> TreeRow:
    """Return a transfer as the row of an object: what its receipt says of it, or why there is
    none."""
    receipt: Mapping[str, Any] = row.receipt or {}
    there = receipt.get("destination")
    if row.state not in _WITH_RECEIPT or receipt.get("level") is None or there is None:
        return TreeRow(row.name, size=row.size, error=_why_no_receipt(row))
    # The level `size` may be all that a destination could prove; its digests are compared now. Any
    # other unverified object was read from a source that did not prove its end.
    has_end = row.state == TransferState.VERIFIED or receipt["level"] == Level.SIZE.value
    texts = {**(there.get("digests") or {}), **(receipt.get("digests") or {})}
    return TreeRow(
        row.name,
        size=receipt["bytes"],
        etag=there.get("etag"),
        digests={name: bytes.fromhex(text) for name, text in texts.items()},
        error=None if has_end else _UNPROVED_END,
    )


def _why_no_receipt(row: TransferRow) -> str:
    if row.state == TransferState.SKIPPED:
        return _SKIPPED
    if row.state == TransferState.FAILED:
        return f"its transfer failed: {(row.error or {}).get('detail', 'no reason is recorded')}"
    return f"it has no receipt: its transfer is {row.state}"
