"""A dry run: find out what a migration would do, with listings and HEAD requests only.

Theory of operation. The listings of both sides are merged by name (`paired_listings.py`), and they
decide about most objects: one that the destination does not have is new, and one of another size
differs. About the others only requests can decide, as the migration itself sends them. They are
sent for a random sample of these objects (Vitter's algorithm R), or for all of them, several
concurrently. The sources of a sample of the new and replaced objects are asked too: for metadata
that would be lost, and for a source that refuses its objects.

Decided here: the findings before an object is moved. Never here: how they are printed; properties
that a store shows only when it is written to (`engine/doctor.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from math import inf
from random import Random
from typing import Any, Final, Generic, Protocol, TypeVar

from gevent.pool import Pool

from relay.engine.comparison import (
    DATED,
    Compare,
    PairBasis,
    PairVerdict,
    ReceiptVersions,
    verdict_of_pair,
)
from relay.engine.decisions import (
    NAMED,
    Amount,
    DestinationAnswer,
    DryRunReport,
    PlanDecision,
    PlannedObject,
    decide,
    shown_name,
)
from relay.engine.folds import KEEPS_APART, FoldedNames
from relay.engine.inspection import existing_error, inspect_object, undescribed_error
from relay.engine.listed_pairs import SIDES
from relay.engine.migration_request import TURNS, MigrationJob
from relay.engine.paired_listings import PairedListings
from relay.engine.plan import IfExists, Plan
from relay.engine.proof_levels import predict_level
from relay.engine.tree_listing import in_pages, listed_object
from relay.errors import NotFound, PermissionDenied, RelayError, Side
from relay.file_names import name_after_source
from relay.ledger.listing_values import ListedObject
from relay.ledger.planned_values import TAGGED, SeenVersion
from relay.location import Location
from relay.parsing import http_date
from relay.receipt import Level, Version
from relay.sorting.merge import Pair
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import (
    Destination,
    Entry,
    ObjectInfo,
    PartLimits,
    StoreProvider,
    UnknownObject,
)
from relay.transfer_limits import Limits
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import yield_to_hub

PAGE: Final = 512
"""Number of pairs that are decided before the next ones are listed."""
LISTING: Final = "listing"
"""The basis of a decision about an object that the destination's listing lacks."""
ABSENT: Final = "head"
"""The same, where the destination answered that it has no such object."""
ASKED: Final = "asked"
"""The basis of a decision that `if_exists` makes about each existing object."""
VERSIONED: Final = TAGGED | {"webdav", "nextcloud"}
"""Stores whose listings show the versions of objects as their answers to HEAD do."""
LONGEST_PLAIN, SHORT_FOLDER, SHORT_DEPTH = 200, 600, 40
"""Length of a plain name, and length and depth of both folders, up to which no store refuses the
path."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._=@,/-]*[A-Za-z0-9])?")
_ODD: Final = re.compile(r"/[^A-Za-z0-9]|[^A-Za-z0-9]/|relay-|\.\.")
"""What a plain name does not have: segments that begin or end otherwise, or that relay itself
writes."""

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """One object compared on both sides."""

    answer: str
    """A `DestinationAnswer`: `unknown` if one side does not answer for the object."""
    _: KW_ONLY
    basis: str = PairBasis.UNKNOWN.value
    """What the answer rests on."""
    ranges: bool = False
    """Whether the source serves ranges of the object."""
    digested: bool = False
    """Whether the destination reports a digest of the object that it has."""
    unkept: tuple[str, ...] = ()
    """What the destination would lose of the object's metadata, as far as is known."""
    refusal: tuple[str, str] | None = None
    """The code and the sentence of the error with which it would fail; None if none is known."""
    size: int = 0
    """The object's declared size, 0 without one."""
    name: str = ""
    detail: str = ""
    """Why a side did not answer."""
    source: SeenVersion | None = None
    destination: SeenVersion | None = None
    """As the requests have shown them."""
    decided: PlannedObject | None = None
    """The decision, if the listings have made it."""


class Sink(Protocol):
    """Takes the decision about each object, in the order of names."""

    def add(self, one: PlannedObject) -> None:
        """Take the next one."""

    def restart(self) -> None:
        """Forget all: the listing begins again, now sorted."""


class _Disorder(Exception):
    """A listing that was believed to be in order has a name that is not."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side: Side = side


@dataclass(frozen=True, slots=True)
class _Open:
    """A pair about which the listings do not decide, or (`decided`) whose source is asked too."""

    row: TreeRow
    there: TreeRow | None
    decided: PlannedObject | None = None


@dataclass(frozen=True, slots=True)
class _Unmovable:
    """An object that its listing or its name refuses already. It is counted."""

    refused: PlannedObject


_Judged = PlannedObject | _Open | _Unmovable | None
"""What the listings say about a name; None if only the destination has it."""


@dataclass(eq=False)
class RandomSample(Generic[T]):
    """Some of many values, each equally likely (Vitter 1985, algorithm R)."""

    size: int
    random: Random
    kept: list[T] = field(default_factory=list)
    seen: int = 0

    def add(self, one: T) -> None:
        """Take one more value, or not."""
        self.seen += 1
        if len(self.kept) < self.size:
            self.kept.append(one)
        elif (place := self.random.randrange(self.seen)) < self.size:
            self.kept[place] = one


@dataclass(eq=False)
class DryRun:
    """The dry run of one migration.

    `sample` is the number of objects that are inspected where the listings do not decide, and of
    those where they do; None means all. With `decides_all`, all of the former are, and all that
    would be replaced."""

    job: MigrationJob
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    space: SpillSpace
    sample: int | None
    decides_all: bool = False
    receipt_of: Callable[[str], Mapping[str, Any] | None] = lambda _: None
    """Returns the receipt of a name from an earlier migration between the same places."""
    abreast: int = 8
    """Number of objects that are inspected concurrently."""
    random: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        """Start with an empty listing."""
        self.listings: dict[Side, Watchdog] = {
            side: Watchdog.of_listing(self.limits) for side in SIDES
        }
        """The watchdog of each listing, which shows how long it has waited."""
        self.report = DryRunReport()
        """The counts so far, also of a run that was interrupted."""
        # A bucket lists its keys in the order of their bytes (docs.aws.amazon.com,
        # "ListObjectsV2"), except for directory buckets, and some other servers.
        stores: tuple[tuple[Side, Location], ...] = (
            ("source", self.job.source),
            ("destination", self.job.destination),
        )
        self._ordered: set[Side] = {side for side, place in stores if place.store == "s3"}
        self._paired = self._pair_listings()

    @property
    def listing(self) -> Watchdog:
        """The watchdog of the source's listing."""
        return self.listings["source"]

    def run(self, sink: Sink | None = None) -> DryRunReport:
        """List, count and inspect; return the report. Raises the errors of the source's listing,
        SpillFailed, and what `sink` raises; an error of one object is only counted."""
        if not self.job.recursive:
            return self._run_one()
        while True:
            try:
                self._run_tree(sink)
                return self.report
            except _Disorder as found:
                # A listing of names that were decided already can't be taken back: begin again.
                self._ordered.discard(found.side)
                self.report = DryRunReport(sorted=self.report.sorted | {found.side})
                self._paired = self._pair_listings()
                if sink is not None:
                    sink.restart()

    @property
    def missing_names(self) -> set[str]:
        """The names of the filters' list that no object had so far."""
        return self._paired.missing_names

    @property
    def offers_parts(self) -> bool:
        """Whether the destination offers multipart uploads."""
        return self._part_limits() is not None

    @property
    def copies(self) -> bool:
        """Whether both sides are one store that may copy by itself."""
        return self.job.server_copy and self._destination().can_copy(
            self.job.source, self.job.destination
        )

    def level(self, made: DryRunReport) -> Level:
        """Return the most likely level of proof of the receipts."""
        return predict_level(self.job.verify, self.job.destination, made.digested > 0)

    # -- one object

    def _run_one(self) -> DryRunReport:
        made = self.report
        source = self.stores.source(self.job.source, self.listing)
        found = source.head(self.job.source)
        size = found.version.size if isinstance(found, ObjectInfo) else None
        made.is_listed = True
        one = TreeRow("", size=size)
        refusal = self._refusal(one)
        if refusal is not None:
            made.refuse("", *refusal, size)
            return made
        made.count(size, self.limits)
        if self.sample != 0:
            self._count_compared(self._compare(_Open(one, None)), None)
        return made

    # -- a tree

    def _run_tree(self, sink: Sink | None) -> None:
        made, paired = self.report, self._paired
        open_pairs = RandomSample[_Open](self.sample or 0, self.random)
        decided = RandomSample[_Open](self.sample or 0, self.random)
        folds = None if self.job.destination.store in KEEPS_APART else FoldedNames(self.space)
        asks_all = self.decides_all or self.sample is None
        pool: Any = Pool(self.abreast)
        try:
            for page in in_pages(paired.pairs(), PAGE):
                made.excluded_folders = paired.excluded_folders
                lists_all = paired.lists_all()
                judged = [self._judge(pair, lists_all, folds) for pair in page]
                asked = [
                    one
                    for one in judged
                    if isinstance(one, _Open) and self._asks_now(one, asks_all=asks_all)
                ]
                answers = pool.imap(self._compare, asked)
                self._take_page(judged, answers, (open_pairs, decided), asks_all, sink)
                yield_to_hub()
            made.excluded_folders = paired.excluded_folders
            self._end_listing(folds)
            for sample in (open_pairs, decided):
                for found in pool.imap(self._compare, sample.kept):
                    self._count_compared(found, None)
        finally:
            pool.kill(block=False)
            if folds is not None:
                folds.close()

    def _asks_now(self, one: _Open, *, asks_all: bool) -> bool:
        """Return whether an object is inspected with its page, and not perhaps in a sample. A saved
        plan needs its version, which some listings do not show."""
        is_shown = one.decided is not None and self.job.source.store in VERSIONED
        return self.sample is None or (asks_all and not is_shown)

    def _take_page(
        self,
        judged: Sequence[_Judged],
        answers: Iterator[Comparison],
        samples: tuple[RandomSample[_Open], RandomSample[_Open]],
        asks_all: bool,
        sink: Sink | None,
    ) -> None:
        """Count the decisions of one page, in their order."""
        for one in judged:
            if one is None:
                continue
            if isinstance(one, PlannedObject | _Unmovable):
                found = one.refused if isinstance(one, _Unmovable) else one
                if found is one:
                    self.report.count_exact(found)
                if sink is not None:
                    sink.add(found)
            elif self._asks_now(one, asks_all=asks_all):
                if one.decided is not None:
                    self.report.count_exact(one.decided)
                self._count_compared(next(answers), sink)
            elif one.decided is not None:
                self.report.count_exact(one.decided)
                samples[1].add(one)
                if sink is not None:
                    sink.add(one.decided)
            else:
                samples[0].add(one)

    def _end_listing(self, folds: FoldedNames | None) -> None:
        made, paired = self.report, self._paired
        made.is_listed = True
        made.destination_empty = paired.unlisted is None and not paired.listed_there
        if paired.unlisted is not None:
            made.destination_error = paired.unlisted.message
        for names in folds.groups() if folds is not None else ():
            made.folds += 1
            if len(made.folded) < NAMED:
                made.folded.append(tuple(map(shown_name, names)))

    def _pair_listings(self) -> PairedListings:
        def disorder(side: Side, *_: str) -> Exception:
            return _Disorder(side)

        return PairedListings(
            self.job,
            self.stores,
            self.listings,
            space=self.space,
            report=self.report,
            ordered=frozenset(self._ordered),
            disorder=disorder,
        )

    def _judge(self, pair: Pair, lists_all: bool, folds: FoldedNames | None) -> _Judged:
        """Return what the listings decide about a pair."""
        ours, theirs = pair
        made = self.report
        if folds is not None:
            folds.add((ours or theirs).name)  # type: ignore[union-attr]  # a pair has a row
        if ours is None:
            made.extra += 1
            return None
        refusal = self._refusal(ours)
        if refusal is not None:
            made.refuse(ours.name, *refusal, ours.size)
            return _Unmovable(_decision_of(ours, theirs, PlanDecision.REFUSE, *refusal))
        made.count(ours.size, self.limits)
        if theirs is None:
            if not lists_all:
                return _Open(ours, None)
            return _Open(ours, None, _decision_of(ours, None, PlanDecision.COPY, LISTING))
        if theirs.error is not None:
            return _Open(ours, theirs)
        return self._judge_existing(ours, theirs)

    def _judge_existing(self, ours: TreeRow, theirs: TreeRow) -> PlannedObject | _Open:
        """Return what the listings decide about an object that both sides have."""
        exists = self.job.if_exists
        if exists is IfExists.FAIL:
            plan = self.job.plan_of_listed(_entry_of(ours))
            why = existing_error(plan, plan.destination)
            one = _decision_of(ours, theirs, PlanDecision.REFUSE, why.code, why.message)
            return one
        if exists is IfExists.SKIP:
            return _decision_of(ours, theirs, PlanDecision.SKIP, ASKED)
        if exists is IfExists.OVERWRITE:
            verdict: PairVerdict | None = PairVerdict(False, PairBasis.ASKED)
        else:
            verdict = self._verdict_of_listings(ours, theirs)
        if verdict is None:
            return _Open(ours, theirs)
        if verdict.is_same:
            return _decision_of(ours, theirs, PlanDecision.SKIP, verdict.basis)
        # A saved plan needs the versions that requests show.
        if self.decides_all:
            return _Open(ours, theirs)
        return _Open(ours, theirs, _decision_of(ours, theirs, PlanDecision.REPLACE, verdict.basis))

    def _verdict_of_listings(self, ours: TreeRow, theirs: TreeRow) -> PairVerdict | None:
        """Return what the listings prove about a pair as `verdict_of_pair`, or None."""
        compare = self.job.compare
        if compare is Compare.ALWAYS:
            return PairVerdict(False, PairBasis.ASKED)
        # A listing's 0 may mean that it does not know (/proc, documents in a FUSE mount).
        if not ours.size or not theirs.size:
            return None
        if ours.size != theirs.size:
            return PairVerdict(False, PairBasis.SIZE)
        if compare is Compare.TIME:
            return None
        digests = {} if ours.url is not None else ours.digests
        stores = (self.job.source.store, self.job.destination.store)
        if not digests and compare is not Compare.SIZE and stores != ("s3", "s3"):
            return None
        # Without dates: those of a listing are not what a transfer compares.
        verdict = verdict_of_pair(
            Version(ours.size, ours.etag, digests=digests),
            Version(theirs.size, theirs.etag, digests=theirs.digests),
            compare,
            stores=stores,
            metadata=_no_metadata,
        )
        return None if verdict.basis is PairBasis.UNKNOWN else verdict

    def _refusal(self, row: TreeRow) -> tuple[str, str] | None:
        """Return the code and the sentence of the error of an object that can't be moved, or None
        if no reason is known."""
        if row.error is not None:
            return row.code or "unknown", row.error
        if row.size is not None and row.size > self._object_bytes:
            most = self._object_bytes
            return "too-large", f"its {row.size} bytes exceed the destination's maximum of {most}"
        if row.url is None and self._is_plain(row.name):
            return None
        listed = _entry_of(row)
        if listed.error is not None:
            return str(listed.error["code"]), str(listed.error["detail"])
        try:
            self.job.plan_of_listed(listed)
        except RelayError as error:
            return error.code, error.message
        return None

    def _is_plain(self, name: str) -> bool:
        """Return whether nothing can be wrong with a name, so that no Location is made of it."""
        return (
            len(name) <= LONGEST_PLAIN
            and _PLAIN.fullmatch(name) is not None
            and _ODD.search(name) is None
            and name.count("/") < TURNS
            and self._is_short
        )

    @cached_property
    def _is_short(self) -> bool:
        """Whether both folders leave room for a plain name: every store takes the path then."""
        paths = (self.job.source.path, self.job.destination.path)
        return all(len(path) < SHORT_FOLDER and path.count("/") < SHORT_DEPTH for path in paths)

    @cached_property
    def _object_bytes(self) -> float:
        """The size of the largest object that the destination takes."""
        limits = self._part_limits()
        return inf if limits is None else limits.object_bytes

    # -- inspecting

    def _count_compared(self, found: Comparison, sink: Sink | None) -> None:
        """Count an object that was inspected, and its decision, unless that is counted already."""
        made = self.report
        made.count_look(found.answer, found.ranges, found.digested, found.unkept)
        one = found.decided
        if found.refusal is not None:
            code, why = found.refusal
            made.refuse(found.name, code, why, found.size)
            made.note_refusal(found.size, is_exact=one is not None)
            source = found.source or SeenVersion()
            one = PlannedObject(found.name, PlanDecision.REFUSE, code, why, source=source)
        elif one is None:
            made.decided.setdefault(found.answer, Amount()).add(found.size)
            decision = decide(self.job.if_exists, found.answer)
            one = PlannedObject(
                found.name,
                decision,
                found.basis,
                found.detail,
                source=found.source or SeenVersion(),
                destination=found.destination,
            )
        elif found.source is not None:
            one = replace(one, source=found.source)
        if found.decided is None:
            made.note(one)
            if one.decision is PlanDecision.REFUSE and found.refusal is None:
                made.note_reason(one.basis, one.name, one.detail, one.source.size)
        else:
            made.described.add(found.size)
        if sink is not None:
            sink.add(one)

    def _compare(self, one: _Open) -> Comparison:
        """Inspect one object on both sides, or where it is decided, at the source. If a store does
        not answer, the result is `unknown`."""
        row = one.row
        listed = _entry_of(row)
        found = self._inspect(listed, one)
        return replace(
            found,
            size=row.size or 0,
            name=row.name,
            decided=one.decided,
            source=found.source or _version_of_row(row),
        )

    def _inspect(self, listed: ListedObject, one: _Open) -> Comparison:
        plan = self.job.plan_of_listed(listed)
        try:
            found = self.stores.source(plan.source, Watchdog(self.limits)).head(plan.source)
            if isinstance(found, ObjectInfo):
                answer = (found.disposition, found.location)
                place = name_after_source(plan.destination, plan.source, *answer)
            else:
                place = name_after_source(plan.destination, plan.source)
        except RelayError as error:
            refusal = None if error.retryable else (error.code, error.message)
            return Comparison(DestinationAnswer.UNKNOWN, refusal=refusal, detail=error.message)
        seen = Comparison(DestinationAnswer.UNKNOWN, name=listed.name)
        if isinstance(found, ObjectInfo):
            unkept = self._destination().unkept_metadata(place, found.metadata)
            version = _seen_version(found.version, listed.size)
            seen = replace(seen, ranges=found.ranges, unkept=unkept, source=version)
        if one.decided is not None:
            is_new = one.decided.decision is PlanDecision.COPY
            return replace(
                seen, answer=DestinationAnswer.NEW if is_new else DestinationAnswer.DIFFERS
            )
        # A POST creates a new object each time, whatever its URL shows.
        if place.method == "POST":
            return replace(seen, answer=DestinationAnswer.NEW, basis=LISTING)
        return self._inspect_destination(plan, place, found, seen)

    def _inspect_destination(
        self, plan: Plan, place: Location, found: ObjectInfo | UnknownObject, seen: Comparison
    ) -> Comparison:
        """Return what is `seen` at the source of an object, which is `found` there, with the answer
        of its destination."""
        try:
            there = inspect_object(self._destination(), place)
        except NotFound:
            return replace(seen, answer=DestinationAnswer.NEW, basis=ABSENT)
        except RelayError as error:
            seen = replace(seen, detail=error.message)
            is_refused = self._is_refused_for(error)
            return replace(seen, refusal=(error.code, error.message)) if is_refused else seen
        # The source's answer chose the name, and by default such a name replaces nothing.
        if plan.if_exists_at(place) is IfExists.FAIL is not plan.if_exists:
            return _with_refusal(seen, existing_error(plan, place))
        if isinstance(there, UnknownObject):
            needs = self._needs_description(plan, place)
            seen = replace(seen, detail=there.why.message)
            return _with_refusal(seen, undescribed_error(place)) if needs else seen
        version = _seen_version(there.version, None)
        seen = replace(seen, destination=version, digested=bool(there.version.digests))
        exists = plan.if_exists_at(place)
        if exists is IfExists.FAIL:
            why = existing_error(plan, place)
            return replace(
                seen, answer=DestinationAnswer.DIFFERS, basis=why.code, detail=why.message
            )
        if exists is not IfExists.CHANGED:
            return replace(seen, answer=DestinationAnswer.DIFFERS, basis=ASKED)
        if isinstance(found, UnknownObject):
            return replace(seen, detail=found.why.message)
        ours, theirs = found, there
        verdict = verdict_of_pair(
            ours.version,
            theirs.version,
            plan.compare,
            stores=(plan.source.store, place.store),
            metadata=lambda: (ours.metadata, theirs.metadata if place.store in DATED else ()),
            receipt=lambda: ReceiptVersions.from_json(self.receipt_of(seen.name)),
        )
        answer = DestinationAnswer.UNCHANGED if verdict.is_same else DestinationAnswer.DIFFERS
        return replace(seen, answer=answer, basis=verdict.basis.value)

    def _needs_description(self, plan: Plan, place: Location) -> bool:
        """Return whether nothing is sent to a place that does not show whether an object exists, as
        `DestinationCheck.inspect` decides that."""
        honours = self._destination().honours_preconditions(place)
        return plan.if_exists_at(place).only_if_absent and not honours

    def _is_refused_for(self, error: RelayError) -> bool:
        """Return whether an object fails because its destination can't be inspected for this error,
        as `DestinationCheck.inspect` decides that."""
        exists = self.job.if_exists
        is_overlooked = exists is IfExists.OVERWRITE or (
            exists is IfExists.CHANGED and isinstance(error, PermissionDenied)
        )
        return not (error.retryable or is_overlooked)

    def _part_limits(self) -> PartLimits | None:
        return self._destination().part_limits(self.job.destination)

    def _destination(self) -> Destination:
        return self.stores.destination(self.job.destination, Watchdog(self.limits))


def _no_metadata() -> tuple[Fields, Fields]:
    return (), ()


def _with_refusal(seen: Comparison, error: RelayError) -> Comparison:
    return replace(seen, refusal=(error.code, error.message))


def _decision_of(
    ours: TreeRow, theirs: TreeRow | None, decision: PlanDecision, basis: str, detail: str = ""
) -> PlannedObject:
    there = None if theirs is None else _version_of_row(theirs)
    return PlannedObject(
        ours.name, decision, basis, detail, source=_version_of_row(ours), destination=there
    )


def _version_of_row(row: TreeRow) -> SeenVersion:
    return SeenVersion(size=row.size, etag=row.etag, modified=row.modified)


def _seen_version(version: Version, listed_size: int | None) -> SeenVersion:
    date = http_date(version.last_modified)
    return SeenVersion(
        size=listed_size if version.size is None else version.size,
        etag=version.etag,
        modified=None if date is None else date.timestamp(),
    )


def _entry_of(row: TreeRow) -> ListedObject:
    """Return a row of the source as its listing would be written into the ledger."""
    modified = None if row.modified is None else datetime.fromtimestamp(row.modified, UTC)
    if row.name == "":  # one object, which no listing names
        return ListedObject("", size=row.size)
    entry = Entry(row.name, row.size, row.etag, modified, url=row.url, digests=row.digests)
    return listed_object(entry)
