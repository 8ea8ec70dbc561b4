"""Inspect one object of a plan at both stores, with HEAD requests.

Theory of operation. The requests are those that the migration itself sends before it moves an
object, in its order, and their answers are compared by the same function.

Decided here: what the answers say about an object. Never here: which objects are inspected, and
what is counted (`dry_run.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Final, TypeVar

from relay.engine.comparison import DATED, PairBasis, ReceiptVersions, verdict_of_pair
from relay.engine.decisions import DestinationAnswer, PlanDecision, PlannedObject
from relay.engine.inspection import existing_error, inspect_object, undescribed_error
from relay.engine.listed_decisions import ASKED, LISTING, OpenPair, entry_of, version_of_row
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Plan
from relay.errors import NotFound, PermissionDenied, RelayError
from relay.file_names import name_after_source
from relay.ledger.listing_values import ListedObject
from relay.ledger.planned_values import SeenVersion
from relay.location import Location
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.interfaces import Destination, ObjectInfo, StoreProvider, UnknownObject
from relay.stores.listing_retries import ListingRetries
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog

ABSENT: Final = "head"
"""The basis of a decision about an object that, by its answer, the destination does not have."""

RETRY_SECONDS: Final = 60.0
"""How long a store is asked again about one object that it does not answer for."""

T = TypeVar("T")


@dataclass(frozen=True)
class InspectedObject:
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


@dataclass(eq=False)
class ObjectInspection:
    """The inspection of the objects of one job."""

    job: MigrationJob
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    receipt_of: Callable[[str], Mapping[str, Any] | None]
    """Returns the receipt of a name from an earlier migration between the same places."""

    def compare(self, one: OpenPair) -> InspectedObject:
        """Inspect one object on both sides, or where it is decided, at the source. If a store does
        not answer, the result is `unknown`."""
        row = one.row
        listed = entry_of(row)
        found = self._inspect(listed, one)
        return replace(
            found,
            size=row.size or 0,
            name=row.name,
            decided=one.decided,
            source=found.source or version_of_row(row),
        )

    def _inspect(self, listed: ListedObject, one: OpenPair) -> InspectedObject:
        plan = self.job.plan_of_listed(listed)
        try:
            source = self.stores.source(plan.source, Watchdog(self.limits))
            found = self._retry(lambda: source.head(plan.source))
            if isinstance(found, ObjectInfo):
                answer = (found.disposition, found.location)
                place = name_after_source(plan.destination, plan.source, *answer)
            else:
                place = name_after_source(plan.destination, plan.source)
        except RelayError as error:
            refusal = None if error.retryable else (error.code, error.message)
            return InspectedObject(DestinationAnswer.UNKNOWN, refusal=refusal, detail=error.message)
        seen = InspectedObject(DestinationAnswer.UNKNOWN, name=listed.name)
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
        self, plan: Plan, place: Location, found: ObjectInfo | UnknownObject, seen: InspectedObject
    ) -> InspectedObject:
        """Return what is `seen` at the source of an object, which is `found` there, with the answer
        of its destination."""
        try:
            there = self._retry(lambda: inspect_object(self._destination(), place))
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

    def _retry(self, once: Callable[[], T]) -> T:
        """Return the answer to a question about one object. Raises what stays after some retries:
        the object is then `unknown`."""
        seconds = min(self.limits.listing_seconds, RETRY_SECONDS)
        return ListingRetries(seconds, Watchdog(self.limits)).retry(once)

    def _destination(self) -> Destination:
        return self.stores.destination(self.job.destination, Watchdog(self.limits))


def _with_refusal(seen: InspectedObject, error: RelayError) -> InspectedObject:
    return replace(seen, refusal=(error.code, error.message))


def _seen_version(version: Version, listed_size: int | None) -> SeenVersion:
    date = http_date(version.last_modified)
    return SeenVersion(
        size=listed_size if version.size is None else version.size,
        etag=version.etag,
        modified=None if date is None else date.timestamp(),
    )
