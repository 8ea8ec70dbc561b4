"""A dry run: find out what a migration would do by listing and looking alone.

Theory of operation. The source's listing is counted as it comes, and nothing of it is kept but a
sample: of so many objects, chosen by chance among all (Vitter's algorithm R), both sides are asked
what they have. Where every object is to be looked at they are asked as they come, several at a
time.

Decided here: what can be known before anything is moved. Never here: how it is printed; what a
store can only show by being written to (`engine/doctor.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from gevent.pool import Pool

from relay.config import Limits
from relay.engine.comparison import proof_of_equality
from relay.engine.inspection import inspect_object
from relay.engine.listing import in_pages, listed_object
from relay.engine.migration_request import MigrationJob
from relay.engine.proof_levels import predict_level
from relay.errors import InvalidURL, NotFound, RelayError
from relay.file_names import safe_name
from relay.ledger.rows import Claim, Listed
from relay.location import Location
from relay.receipt import Level
from relay.stores.interfaces import Destination, ObjectInfo, StoreProvider, UnknownObject
from relay.wire.watchdog import Watchdog

PAGE: Final = 256
"""So many are looked at before the listing goes on."""
NAMED: Final = 10
"""So many names that would be refused are kept."""


@dataclass(frozen=True)
class Comparison:
    """What was seen of one object on both sides: `new`, `unchanged`, `differs`, or `untold` where a
    side does not say.

    `ranges` says that its source gives parts of it, `digested` that its destination tells a digest
    of what it has."""

    answer: str
    ranges: bool = False
    digested: bool = False
    unkept: bool = False
    """The destination can't keep all that describes it, as far as that can be known."""


@dataclass(eq=False)
class DryRunReport:
    """What was counted. Sizes in bytes; objects whose size is not told are `unsized`."""

    objects: int = 0
    bytes: int = 0
    unsized: int = 0
    large: int = 0
    large_bytes: int = 0
    """Those that are large enough for parts, if both sides can."""
    refused: int = 0
    names: list[tuple[str, str]] = field(default_factory=list)
    """The first names that would fail, and why."""
    looks: dict[str, int] = field(default_factory=dict)
    """How many of those that were looked at are new, unchanged, differ, or are not told."""
    ranges: int = 0
    digested: int = 0
    unkept: int = 0

    @property
    def looked(self) -> int:
        """How many were looked at."""
        return sum(self.looks.values())

    def count(self, one: Listed, limits: Limits) -> None:
        """Count an object that can be moved."""
        self.objects += 1
        self.bytes += one.size or 0
        self.unsized += one.size is None
        if one.size is not None and one.size >= limits.parted_bytes:
            self.large += 1
            self.large_bytes += one.size

    def refuse(self, name: str, why: str) -> None:
        """Count an object that can't be moved."""
        self.refused += 1
        if len(self.names) < NAMED:
            self.names.append((name, why))

    def count_comparison(self, look: Comparison) -> None:
        """Count what was seen of one."""
        self.looks[look.answer] = self.looks.get(look.answer, 0) + 1
        self.ranges += look.ranges
        self.digested += look.digested
        self.unkept += look.unkept


@dataclass(eq=False)
class DryRun:
    """Surveys one migration. `sample` objects are looked at on both sides, all of them where it is
    None."""

    job: MigrationJob
    stores: StoreProvider
    limits: Limits
    sample: int | None
    abreast: int = 8
    """So many are looked at at a time."""
    random: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        """Nothing is listed yet."""
        self.listing = Watchdog(self.limits)
        """What measures the listing: its waits may be told."""

    def run(self) -> DryRunReport:
        """List, count and look. Raises what listing the source raises; one object's trouble is
        counted."""
        made = DryRunReport()
        good = self._count_entries(made)
        if self.sample is not None:
            good = iter(_sample(good, self.sample, self.random))
        pool: Any = Pool(self.abreast)
        for page in in_pages(good, PAGE):
            for seen in pool.imap_unordered(self._compare, page):
                made.count_comparison(seen)
        return made

    @property
    def parted(self) -> bool:
        """Whether the destination takes objects in parts."""
        return self._destination().part_limits is not None

    @property
    def copies(self) -> bool:
        """Whether the destination is the source's own store, and may be asked to copy by itself."""
        return self.job.server_copy and self._destination().can_copy(
            self.job.source, self.job.destination
        )

    def level(self, made: DryRunReport) -> Level:
        """Return the level that receipts will most likely have."""
        return predict_level(self.job.verify, self.job.destination, made.digested > 0)

    # -- counting

    def _count_entries(self, made: DryRunReport) -> Iterator[Listed]:
        for one in self._each_entry():
            why = self._refusal_reason(one)
            if why is not None:
                made.refuse(one.name, why)
                continue
            made.count(one, self.limits)
            yield one

    def _each_entry(self) -> Iterator[Listed]:
        source = self.stores.source(self.job.source, self.listing)
        if not self.job.recursive:
            found = source.head(self.job.source)
            yield Listed("", found.version.size if isinstance(found, ObjectInfo) else None)
            return
        for entry in source.list(self.job.source, True):
            if not entry.is_listed_further:
                yield listed_object(entry)

    def _refusal_reason(self, one: Listed) -> str | None:
        """Return why an object can't be moved, if that can be known."""
        if one.error is not None:
            return str(one.error["detail"])
        limits = self._destination().part_limits
        if limits is not None and (one.size or 0) > limits.object_bytes:
            return (
                f"{one.size} bytes are more than an object may have there ({limits.object_bytes})"
            )
        try:
            self.job.plan(_hypothetical_claim(self.job.id, one))
        except RelayError as error:
            return error.message
        return None

    # -- looking

    def _compare(self, one: Listed) -> Comparison:
        """Look at both sides; a store that does not answer is told, and stops nothing."""
        plan = self.job.plan(_hypothetical_claim(self.job.id, one))
        try:
            found = self.stores.source(plan.source, Watchdog(self.limits)).head(plan.source)
            place = _name_after_source(plan.destination, found, plan.source)
        except RelayError:
            return Comparison("untold")
        destination = self._destination()
        ranges = isinstance(found, ObjectInfo) and found.ranges
        unkept = isinstance(found, ObjectInfo) and bool(
            destination.unkept_metadata(place, found.metadata)
        )
        try:
            there = inspect_object(destination, place)
        except NotFound:
            return Comparison("new", ranges, unkept=unkept)
        except RelayError:
            return Comparison("untold", ranges, unkept=unkept)
        if isinstance(there, UnknownObject) or isinstance(found, UnknownObject):
            return Comparison("untold", ranges, unkept=unkept)
        same = proof_of_equality(found.version, there.version) is not None
        return Comparison(
            "unchanged" if same else "differs", ranges, bool(there.version.digests), unkept
        )

    def _destination(self) -> Destination:
        return self.stores.destination(self.job.destination, Watchdog(self.limits))


def _hypothetical_claim(migration: str, one: Listed) -> Claim:
    """Return what a runner would claim of an object."""
    return Claim(0, migration, 0, one.name, one.url, one.size, one.etag, one.modified, 1, 0, 0)


def _name_after_source(
    place: Location, found: ObjectInfo | UnknownObject, source: Location
) -> Location:
    """Give a destination that ends in '/' the source's name. Raises InvalidURL where it has none
    that is safe."""
    if not place.path.endswith("/"):
        return place
    reported = (
        safe_name(found.disposition, found.location) if isinstance(found, ObjectInfo) else None
    )
    name = reported or safe_name(None, source)
    if name is None:
        raise InvalidURL("the destination is a folder, and the source has no name that is safe")
    return place.named(name)


def _sample(entries: Iterable[Listed], size: int, random: Random) -> list[Listed]:
    """Return so many of the entries, each as likely as any other (Vitter 1985, algorithm R)."""
    kept: list[Listed] = []
    for number, one in enumerate(entries):
        if number < size:
            kept.append(one)
        elif (place := random.randrange(number + 1)) < size:
            kept[place] = one
    return kept
