"""A dry run: find out what a migration would do, with listings and HEAD requests only.

Theory of operation. The source's listing is counted as it arrives, and only a random sample of its
entries is kept (Vitter's algorithm R). The objects of the sample are inspected on both sides.
Without a sample every object is inspected as it is listed, several concurrently. If the destination
is empty, only the source's objects are inspected.

Decided here: the findings before an object is moved. Never here: how they are printed; properties
that a store shows only when it is written to (`engine/doctor.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from random import Random
from typing import Any, Final

from gevent.pool import Pool

from relay.engine.comparison import needs_full_times, proof_of_equality
from relay.engine.inspection import (
    existing_error,
    inspect_object,
    is_empty_folder,
    undescribed_error,
)
from relay.engine.listing_filter import ListingFilter, list_chosen
from relay.engine.migration_request import MigrationJob, filter_of
from relay.engine.plan import IfExists, Plan
from relay.engine.proof_levels import predict_level
from relay.engine.tree_listing import in_pages, listed_object
from relay.errors import NotFound, PermissionDenied, RelayError
from relay.file_names import name_after_source
from relay.ledger.listing_values import ListedObject
from relay.location import Location
from relay.receipt import Level
from relay.stores.interfaces import (
    Destination,
    ObjectInfo,
    PartLimits,
    StoreProvider,
    UnknownObject,
)
from relay.stores.metadata import is_modified_since
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog

PAGE: Final = 256
"""Number of entries that are inspected before the next ones are listed."""
NAMED: Final = 10
"""Maximum number of refused names in the report."""


@dataclass(frozen=True)
class Comparison:
    """One object compared on both sides."""

    answer: str
    """`new`, `unchanged`, `differs`, or `unknown` if one side does not answer for the object."""
    _: KW_ONLY
    ranges: bool = False
    """Whether the source serves ranges of the object."""
    digested: bool = False
    """Whether the destination reports a digest of the object that it has."""
    unkept: bool = False
    """Whether the destination would lose some of the object's metadata, as far as is known."""
    refusal: tuple[str, str] | None = None
    """The object's name, and why it would fail; None if no reason is known."""
    size: int = 0
    """The object's declared size, 0 without one."""


@dataclass(eq=False)
class Amount:
    """A number of objects, and the sum of their bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(eq=False, kw_only=True)
class DryRunReport:
    """The counts of a dry run. Sizes are in bytes; `unsized` objects have no declared size."""

    objects: int = 0
    bytes: int = 0
    unsized: int = 0
    large: int = 0
    large_bytes: int = 0
    large_parts: int = 0
    """Objects large enough for a multipart upload, their bytes, and the parts of usual size."""
    excluded: int = 0
    """Entries of the listing that the filters left out."""
    refused: int = 0
    names: list[tuple[str, str]] = field(default_factory=list)
    """The first refused names, with the reason."""
    looks: dict[str, int] = field(default_factory=dict)
    """The number of inspected objects by `Comparison.answer`."""
    decided: dict[str, Amount] = field(default_factory=dict)
    """The inspected objects by `Comparison.answer`, except for those that would be refused."""
    declined: Amount = field(default_factory=Amount)
    """The inspected objects that would be refused."""
    destination_empty: bool = False
    """Whether the destination's folder had nothing."""
    is_complete: bool = False
    """Whether the source was listed to its end."""
    ranges: int = 0
    digested: int = 0
    unkept: int = 0

    @property
    def inspected_count(self) -> int:
        """The number of inspected objects."""
        return sum(self.looks.values())

    def count(self, one: ListedObject, limits: Limits) -> None:
        """Count an object that can be moved."""
        self.objects += 1
        self.bytes += one.size or 0
        self.unsized += one.size is None
        if one.size is not None and one.size >= limits.parted_bytes:
            self.large += 1
            self.large_bytes += one.size
            self.large_parts += -(-one.size // limits.part_bytes)

    def refuse(self, name: str, why: str) -> None:
        """Count an object that can't be moved."""
        self.refused += 1
        if len(self.names) < NAMED:
            self.names.append((name, why))

    def count_comparison(self, look: Comparison) -> None:
        """Count one comparison."""
        self.looks[look.answer] = self.looks.get(look.answer, 0) + 1
        self.ranges += look.ranges
        self.digested += look.digested
        self.unkept += look.unkept
        amount = self.declined
        if look.refusal is not None:
            self.refuse(*look.refusal)
        else:
            amount = self.decided.setdefault(look.answer, Amount())
        amount.objects += 1
        amount.bytes += look.size


@dataclass(eq=False)
class DryRun:
    """The dry run of one migration. `sample` is the number of objects that are inspected on both
    sides; None means all."""

    job: MigrationJob
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    sample: int | None
    abreast: int = 8
    """Number of objects that are inspected concurrently."""
    random: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        """Start with an empty listing."""
        self.listing = Watchdog.of_listing(self.limits)
        """The watchdog of the listing, which shows how long it has waited."""
        self.report = DryRunReport()
        """The counts so far, also of a run that was interrupted."""
        self._chosen: ListingFilter | None = None

    def run(self) -> DryRunReport:
        """List, count and inspect; return the report. Raises the errors of the source's listing; an
        error of one object is only counted."""
        made = self.report
        if self.job.recursive:
            made.destination_empty = is_empty_folder(self._destination(), self.job.destination)
        good = self._count_entries(made)
        if self.sample is not None:
            # This reads the listing to its end, so that every entry is counted.
            good = iter(_sample(good, self.sample, self.random))
        pool: Any = Pool(self.abreast)
        try:
            for page in in_pages(good, PAGE):
                for seen in pool.imap_unordered(self._compare, page):
                    made.count_comparison(seen)
        finally:
            pool.kill(block=False)
        return made

    @property
    def missing_names(self) -> set[str]:
        """The names of the filters' list that no object had so far."""
        return set() if self._chosen is None else self._chosen.missing_names

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

    # -- counting

    def _count_entries(self, made: DryRunReport) -> Iterator[ListedObject]:
        for one in self._each_entry():
            why = self._refusal_reason(one)
            if why is not None:
                made.refuse(one.name, why)
                continue
            made.count(one, self.limits)
            yield one
        made.is_complete = True

    def _each_entry(self) -> Iterator[ListedObject]:
        source = self.stores.source(self.job.source, self.listing)
        if not self.job.recursive:
            found = source.head(self.job.source)
            yield ListedObject(
                "", size=found.version.size if isinstance(found, ObjectInfo) else None
            )
            return
        self._chosen = chooses = filter_of(self.job, source, self.listing)
        for entry in list_chosen(source, self.job.source, chooses):
            if not entry.is_listed_further:
                judged = entry if chooses is None else chooses(entry)
                if judged is not None:
                    yield listed_object(judged)
            if chooses is not None:
                self.report.excluded = chooses.entries + chooses.folders
        if chooses is not None:  # the last folders may not have been listed
            self.report.excluded = chooses.entries + chooses.folders

    def _refusal_reason(self, one: ListedObject) -> str | None:
        """Return why an object can't be moved, or None if no reason is known."""
        if one.error is not None:
            return str(one.error["detail"])
        limits = self._part_limits()
        if limits is not None and (one.size or 0) > limits.object_bytes:
            return f"its {one.size} bytes exceed the destination's maximum of {limits.object_bytes}"
        try:
            self.job.plan_of_listed(one)
        except RelayError as error:
            return error.message
        return None

    # -- inspecting

    def _compare(self, one: ListedObject) -> Comparison:
        """Inspect one object on both sides. If a store does not answer, the result is `unknown`."""
        return replace(self._inspect(one), size=one.size or 0)

    def _inspect(self, one: ListedObject) -> Comparison:
        plan = self.job.plan_of_listed(one)
        try:
            found = self.stores.source(plan.source, Watchdog(self.limits)).head(plan.source)
            if isinstance(found, ObjectInfo):
                answer = (found.disposition, found.location)
                place = name_after_source(plan.destination, plan.source, *answer)
            else:
                place = name_after_source(plan.destination, plan.source)
        except RelayError as error:
            refusal = None if error.retryable else (one.name, error.message)
            return Comparison("unknown", refusal=refusal)
        seen = Comparison("unknown")
        if isinstance(found, ObjectInfo):
            unkept = bool(self._destination().unkept_metadata(place, found.metadata))
            seen = replace(seen, ranges=found.ranges, unkept=unkept)
        # A POST creates a new object each time, whatever its URL shows.
        if place.method == "POST" or self.report.destination_empty:
            return replace(seen, answer="new")
        return self._inspect_destination(plan, place, found, name=one.name, seen=seen)

    def _inspect_destination(
        self,
        plan: Plan,
        place: Location,
        found: ObjectInfo | UnknownObject,
        *,
        name: str,
        seen: Comparison,
    ) -> Comparison:
        """Return what is `seen` at the source of an object, which is `found` there, with the answer
        of its destination."""
        try:
            there = inspect_object(self._destination(), place)
        except NotFound:
            return replace(seen, answer="new")
        except RelayError as error:
            is_refused = self._is_refused_for(error)
            return replace(seen, refusal=(name, error.message)) if is_refused else seen
        # The source's answer chose the name, and by default such a name replaces nothing.
        if plan.if_exists_at(place) is IfExists.FAIL is not plan.if_exists:
            return replace(seen, refusal=(name, existing_error(plan, place).message))
        if isinstance(there, UnknownObject):
            needs = self._needs_description(plan, place)
            return (
                replace(seen, refusal=(name, undescribed_error(place).message)) if needs else seen
            )
        if isinstance(found, UnknownObject):
            return seen
        why = proof_of_equality(found.version, there.version)
        is_modified = needs_full_times(why, found.version, there.version) and is_modified_since(
            found.metadata, there.metadata
        )
        answer = "unchanged" if why is not None and not is_modified else "differs"
        return replace(seen, answer=answer, digested=bool(there.version.digests))

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


def _sample(entries: Iterable[ListedObject], size: int, random: Random) -> list[ListedObject]:
    """Return `size` of the entries, each equally likely (Vitter 1985, algorithm R)."""
    kept: list[ListedObject] = []
    for number, one in enumerate(entries):
        if number < size:
            kept.append(one)
        elif (place := random.randrange(number + 1)) < size:
            kept[place] = one
    return kept
