"""What both listings decide about an object of a plan, without a request for it.

Theory of operation. An object that the destination does not have is new, and one of another size
differs; digests and MD5s of listings decide as they do in a transfer. A name that no store refuses
costs a regular expression; a Location is made of any other one.

Decided here: which objects the listings decide about, and how. Never here: what requests show
(`object_inspection.py`), and how objects are compared (`comparison.py`)."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import inf
from typing import Final

from relay.engine.comparison import Compare, PairBasis, PairVerdict, verdict_of_pair
from relay.engine.decisions import DryRunReport, PlanDecision, PlannedObject
from relay.engine.inspection import existing_error
from relay.engine.migration_request import TURNS, MigrationJob
from relay.engine.plan import IfExists
from relay.engine.tree_listing import listed_object
from relay.errors import RelayError
from relay.ledger.listing_values import ListedObject
from relay.ledger.planned_values import SeenVersion
from relay.receipt import Version
from relay.sorting.merge import Pair
from relay.sorting.rows import TreeRow
from relay.stores.interfaces import Entry, PartLimits, StoreProvider
from relay.transfer_limits import Limits
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

LISTING: Final = "listing"
"""The basis of a decision about an object that the destination's listing lacks."""
ASKED: Final = "asked"
"""The basis of a decision that `if_exists` makes about each existing object."""
LONGEST_PLAIN, SHORT_FOLDER, SHORT_DEPTH = 200, 600, 40
"""Length of a plain name, and length and depth of both folders, up to which no store refuses the
path."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._=@,/-]*[A-Za-z0-9])?")
_ODD: Final = re.compile(r"/[^A-Za-z0-9]|[^A-Za-z0-9]/|relay-|\.\.")
"""What a plain name does not have: segments that begin or end otherwise, or that relay itself
writes."""


@dataclass(frozen=True, slots=True)
class OpenPair:
    """A pair about which the listings do not decide, or (`decided`) whose source is asked too."""

    row: TreeRow
    there: TreeRow | None
    decided: PlannedObject | None = None


@dataclass(frozen=True, slots=True)
class UnmovableObject:
    """An object that its listing or its name refuses already. It is counted."""

    refused: PlannedObject


Judged = PlannedObject | OpenPair | UnmovableObject | None
"""What the listings say about a name; None if only the destination has it."""


@dataclass(eq=False)
class ListedDecisions:
    """The decisions of the listings of one job. With `decides_all`, requests are sent for objects
    that would be replaced, too."""

    job: MigrationJob
    stores: StoreProvider
    _: KW_ONLY
    limits: Limits
    decides_all: bool = False

    def part_limits(self) -> PartLimits | None:
        """Return the limits of the destination's multipart uploads; None if it has none."""
        store = self.stores.destination(self.job.destination, Watchdog(self.limits))
        return store.part_limits(self.job.destination)

    def judge(self, pair: Pair, report: DryRunReport, *, lists_all: bool) -> Judged:
        """Return what the listings decide about a pair, and count it. `lists_all`: whether the
        destination does not have what its listing lacks."""
        ours, theirs = pair
        if ours is None:
            report.extra += 1
            return None
        refusal = self.refusal(ours)
        if refusal is not None:
            report.refuse(ours.name, *refusal, ours.size)
            return UnmovableObject(_decision_of(ours, theirs, PlanDecision.REFUSE, *refusal))
        report.count(ours.size, self.limits)
        if theirs is None:
            if not lists_all:
                return OpenPair(ours, None)
            return OpenPair(ours, None, _decision_of(ours, None, PlanDecision.COPY, LISTING))
        if theirs.error is not None:
            return OpenPair(ours, theirs)
        return self._judge_existing(ours, theirs)

    def _judge_existing(self, ours: TreeRow, theirs: TreeRow) -> PlannedObject | OpenPair:
        """Return what the listings decide about an object that both sides have."""
        exists = self.job.if_exists
        if exists is IfExists.FAIL:
            plan = self.job.plan_of_listed(entry_of(ours))
            why = existing_error(plan, plan.destination)
            return _decision_of(ours, theirs, PlanDecision.REFUSE, why.code, why.message)
        if exists is IfExists.SKIP:
            return _decision_of(ours, theirs, PlanDecision.SKIP, ASKED)
        if exists is IfExists.OVERWRITE:
            verdict: PairVerdict | None = PairVerdict(False, PairBasis.ASKED)
        else:
            verdict = self._verdict_of_listings(ours, theirs)
        if verdict is None:
            return OpenPair(ours, theirs)
        if verdict.is_same:
            return _decision_of(ours, theirs, PlanDecision.SKIP, verdict.basis)
        # A saved plan needs the versions that requests show.
        if self.decides_all:
            return OpenPair(ours, theirs)
        return OpenPair(
            ours, theirs, _decision_of(ours, theirs, PlanDecision.REPLACE, verdict.basis)
        )

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

    def refusal(self, row: TreeRow) -> tuple[str, str] | None:
        """Return the code and the sentence of the error of an object that can't be moved, or None
        if no reason is known."""
        if row.error is not None:
            return row.code or "unknown", row.error
        if row.size is not None and row.size > self._object_bytes:
            most = self._object_bytes
            return "too-large", f"its {row.size} bytes exceed the destination's maximum of {most}"
        if row.url is None and self._is_plain(row.name):
            return None
        listed = entry_of(row)
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
        limits = self.part_limits()
        return inf if limits is None else limits.object_bytes


def _no_metadata() -> tuple[Fields, Fields]:
    return (), ()


def _decision_of(
    ours: TreeRow, theirs: TreeRow | None, decision: PlanDecision, basis: str, detail: str = ""
) -> PlannedObject:
    there = None if theirs is None else version_of_row(theirs)
    return PlannedObject(
        ours.name, decision, basis, detail, source=version_of_row(ours), destination=there
    )


def version_of_row(row: TreeRow) -> SeenVersion:
    """Return a row as a plan keeps it."""
    return SeenVersion(size=row.size, etag=row.etag, modified=row.modified)


def entry_of(row: TreeRow) -> ListedObject:
    """Return a row of the source as its listing would be written into the ledger."""
    modified = None if row.modified is None else datetime.fromtimestamp(row.modified, UTC)
    if row.name == "":  # one object, which no listing names
        return ListedObject("", size=row.size)
    entry = Entry(row.name, row.size, row.etag, modified, url=row.url, digests=row.digests)
    return listed_object(entry)
