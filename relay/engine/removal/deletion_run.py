"""What the deletions of a move and of a mirror have in common: how they are recorded and counted.

Decided here: that the intent of each deletion is in the ledger before it, and its end behind it.
Never here: which objects are deleted (`source_removal.py`, `mirror_removal.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from gevent.pool import Pool

from relay.engine.cleanup import NOT_ASKED, may_be_done
from relay.engine.migration_request import MigrationJob
from relay.engine.removal.version_questions import kept_end
from relay.engine.transfer_engine import TransferEngine
from relay.errors import Rejected, RelayError
from relay.ledger.deletion_values import Candidate, DeletionEnd, KeptReason, RemovalState
from relay.ledger.ledger import Ledger
from relay.process.failpoints import reach
from relay.stores.listing_retries import ListingRetries
from relay.throttle import Throttle
from relay.wire.watchdog import Watchdog

PAGE: Final = 256
"""Number of objects whose deletions are recorded at a time."""
ABREAST: Final = 16
"""Number of objects that are deleted concurrently."""
SHOWN: Final = 20
"""Number of kept objects whose reasons are shown."""


@dataclass(frozen=True, kw_only=True)
class RemovalResult:
    """What one run has done: the numbers of objects that were deleted and kept; the reasons of the
    kept ones, and the first of them."""

    deleted: int = 0
    kept: int = 0
    unknown: int = 0
    """Objects whose deletion was sent, and whose answer was lost."""
    reasons: dict[str, int] = field(default_factory=dict)
    samples: tuple[DeletionEnd, ...] = ()


@dataclass(eq=False)
class RemovalRun:
    """One run of deletions at one side of a migration. `stop` ends it after the objects under
    way."""

    ledger: Ledger
    engine: TransferEngine
    job: MigrationJob
    _: KW_ONLY
    throttle: Throttle = field(default_factory=Throttle)
    """The limits of the migration, which hold for these requests as well."""
    abreast: int = ABREAST
    _stopping: bool = field(default=False, init=False)
    _failing: bool = field(default=False, init=False)
    """Whether a store did not answer in time: the next objects are not retried."""
    _deleted: int = field(default=0, init=False)
    _unknown: int = field(default=0, init=False)
    _kept: Counter[str] = field(default_factory=Counter, init=False)
    _samples: list[DeletionEnd] = field(default_factory=list, init=False)

    def stop(self) -> None:
        """End the run after the objects under way."""
        self._stopping = True

    def meter(self) -> Watchdog:
        """Return the limits of one object's requests."""
        meter = Watchdog(self.engine.limits)
        meter.throttle = self.throttle
        return meter

    def patience(self, meter: Watchdog) -> ListingRetries:
        """Return how long one question is retried: not at all once a store has failed."""
        return ListingRetries(0.0 if self._failing else self.engine.limits.listing_seconds, meter)

    def note_failure(self, error: RelayError) -> None:
        """Remember that a store did not answer in time."""
        self._failing = self._failing or error.retryable

    def kept_for(self, name: str, error: RelayError) -> DeletionEnd:
        """Return the end of an object about which a store did not answer."""
        self.note_failure(error)
        reason = KeptReason.UNKNOWN if error.retryable else KeptReason.REFUSED
        return kept_end(name, reason, error.message)

    def delete_and_record(
        self,
        side: str,
        found: Sequence[Candidate],
        delete: Callable[[Candidate], DeletionEnd | None],
        ends: list[DeletionEnd],
    ) -> None:
        """Record that objects are about to be deleted, `delete` them, and record all ends: theirs,
        and those that are known already. Raises LedgerFailed."""
        if found:
            self.ledger.deletions.intend(self.job.id, side, found)
            reach("after-delete-intent")
            pool: Any = Pool(self.abreast)
            for end in pool.imap_unordered(delete, found):
                if end is None:
                    self._unknown += not self._stopping
                else:
                    ends.append(end)
            reach("before-delete-row")
        if ends:
            self.ledger.deletions.settle(self.job.id, side, ends)
        for end in ends:
            self._count(end)

    def _count(self, end: DeletionEnd) -> None:
        if end.reason is None:
            self._deleted += 1
            return
        self._kept[end.reason] += 1
        if len(self._samples) < SHOWN:
            self._samples.append(end)

    def record_end(self, *, is_open: bool) -> None:
        """Record that the run has ended, unless it was stopped; `is_open`: objects are left for
        another one. Raises LedgerFailed."""
        if self._stopping:
            return
        passing = any(KeptReason(reason).may_pass for reason in self._kept)
        left = is_open or self._unknown or passing
        self.ledger.deletions.end(self.job.id, RemovalState.OPEN if left else RemovalState.DONE)

    def counts(self) -> dict[str, Any]:
        """Return the members of a RemovalResult."""
        return {
            "deleted": self._deleted,
            "kept": self._kept.total(),
            "unknown": self._unknown,
            "reasons": dict(self._kept),
            "samples": tuple(self._samples),
        }


def may_have_deleted(error: RelayError) -> bool:
    """Return whether a deletion that ended with this error may have been done. A Rejected without a
    status is relay's own refusal."""
    is_own = isinstance(error, Rejected) and error.store_status is None
    is_asked = not (is_own or isinstance(error, NOT_ASKED))
    return is_asked and may_be_done(error)
