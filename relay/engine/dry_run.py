"""A dry run: find out what a migration would do, with listings and HEAD requests only.

Theory of operation. The listings of both sides are merged by name (`paired_listings.py`), and they
decide about most objects (`listed_decisions.py`). About the others only requests can decide, as the
migration itself sends them (`object_inspection.py`). They are sent for a random sample of these
objects (Vitter's algorithm R), or for all of them, several concurrently. The sources of a sample of
the new and replaced objects are asked too: for metadata that would be lost, and for a source that
refuses its objects.

Decided here: the findings before an object is moved. Never here: how they are printed; properties
that a store shows only when it is written to (`engine/doctor.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from random import Random
from typing import Any, Final, Generic, Protocol, TypeVar

from gevent.pool import Pool

from relay.engine.decisions import (
    NAMED,
    Amount,
    DryRunReport,
    PlanDecision,
    PlannedObject,
    decide,
    shown_name,
)
from relay.engine.folds import KEEPS_APART, FoldedNames
from relay.engine.listed_decisions import Judged, ListedDecisions, OpenPair, UnmovableObject
from relay.engine.listed_pairs import SIDES
from relay.engine.migration_request import MigrationJob
from relay.engine.object_inspection import InspectedObject, ObjectInspection
from relay.engine.paired_listings import PairedListings
from relay.engine.proof_levels import predict_level
from relay.engine.tree_listing import in_pages
from relay.errors import Side
from relay.ledger.planned_values import TAGGED, SeenVersion
from relay.location import Location
from relay.receipt import Level
from relay.sorting.rows import TreeRow
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import (
    ObjectInfo,
    StoreProvider,
)
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import yield_to_hub

PAGE: Final = 512
"""Number of pairs that are decided before the next ones are listed."""
VERSIONED: Final = TAGGED | {"webdav", "nextcloud"}
"""Stores whose listings show the versions of objects as their answers to HEAD do."""

T = TypeVar("T")


class Sink(Protocol):
    """Takes the decision about each object, in the order of names."""

    def add(self, one: PlannedObject) -> None:
        """Take the next one, or a folder of the source that could not be listed, as refused."""

    def restart(self) -> None:
        """Forget all: the listing begins again, now sorted."""


class _Disorder(Exception):
    """A listing that was believed to be in order has a name that is not."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side: Side = side


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
        self._listed = ListedDecisions(
            self.job, self.stores, limits=self.limits, decides_all=self.decides_all
        )
        self._inspection = ObjectInspection(
            self.job, self.stores, limits=self.limits, receipt_of=self.receipt_of
        )

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
        return self._listed.part_limits() is not None

    @property
    def copies(self) -> bool:
        """Whether both sides are one store that may copy by itself."""
        if not self.job.server_copy:
            return False
        source, destination = self.job.source, self.job.destination
        store = self.stores.destination(destination, Watchdog(self.limits))
        return store.can_copy(source, destination)

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
        refusal = self._listed.refusal(one)
        if refusal is not None:
            made.refuse("", *refusal, size)
            return made
        made.count(size, self.limits)
        if self.sample != 0:
            self._count_compared(self._inspection.compare(OpenPair(one, None)), None)
        return made

    # -- a tree

    def _run_tree(self, sink: Sink | None) -> None:
        made, paired = self.report, self._paired
        if sink is not None:
            made.takes_folder = sink.add
        open_pairs = RandomSample[OpenPair](self.sample or 0, self.random)
        decided = RandomSample[OpenPair](self.sample or 0, self.random)
        folds = None if self.job.destination.store in KEEPS_APART else FoldedNames(self.space)
        asks_all = self.decides_all or self.sample is None
        pool: Any = Pool(self.abreast)
        try:
            for page in in_pages(paired.pairs(), PAGE):
                made.excluded_folders = paired.excluded_folders
                lists_all = paired.lists_all()
                if folds is not None:
                    for ours, theirs in page:
                        folds.add((ours or theirs).name)  # type: ignore[union-attr]  # of a pair
                judged = [self._listed.judge(pair, made, lists_all=lists_all) for pair in page]
                asked = [
                    one
                    for one in judged
                    if isinstance(one, OpenPair) and self._asks_now(one, asks_all=asks_all)
                ]
                answers = pool.imap(self._inspection.compare, asked)
                self._take_page(judged, answers, (open_pairs, decided), asks_all, sink)
                yield_to_hub()
            made.excluded_folders = paired.excluded_folders
            self._end_listing(folds)
            for sample in (open_pairs, decided):
                for found in pool.imap(self._inspection.compare, sample.kept):
                    self._count_compared(found, None)
        finally:
            pool.kill(block=False)
            if folds is not None:
                folds.close()

    def _asks_now(self, one: OpenPair, *, asks_all: bool) -> bool:
        """Return whether an object is inspected with its page, and not perhaps in a sample. A saved
        plan needs its version, which some listings do not show."""
        is_shown = one.decided is not None and self.job.source.store in VERSIONED
        return self.sample is None or (asks_all and not is_shown)

    def _take_page(
        self,
        judged: Sequence[Judged],
        answers: Iterator[InspectedObject],
        samples: tuple[RandomSample[OpenPair], RandomSample[OpenPair]],
        asks_all: bool,
        sink: Sink | None,
    ) -> None:
        """Count the decisions of one page, in their order."""
        for one in judged:
            if one is None:
                continue
            if isinstance(one, PlannedObject | UnmovableObject):
                found = one.refused if isinstance(one, UnmovableObject) else one
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

    # -- inspecting

    def _count_compared(self, found: InspectedObject, sink: Sink | None) -> None:
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
