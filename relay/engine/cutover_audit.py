"""Prove, at the end of a cutover, that the destination has every object of the source.

Theory of operation. Both trees are listed and compared as by `relay verify`, and the receipts of
the migration count as proofs: where both listings have the versions of a receipt, no request is
needed. A name that only the destination has is not a difference: it left the source after it was
copied, or another program wrote it. Both are counted.

Decided here: what an audit counts, and when it is good. Never here: what proves an object
(`tree_comparison.py`, `receipt_proof.py`)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final

from relay.engine.comparison_report import ComparisonReport, NameFinding, Reads, TreeVerdict
from relay.engine.migration_request import MigrationJob, filters_from
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_comparison import TreeComparison
from relay.ledger.ledger import Ledger
from relay.sorting.spill import SpillSpace

SHOWN: Final = 20
"""Maximum number of objects that are named."""
PAGE: Final = 500
MOST_NAMED: Final = 1000
"""Maximum number of refused objects that a report names."""
MOST_REFUTED: Final = 10_000
"""Maximum number of names that one audit hands to the next pass."""
BAD: Final = frozenset({TreeVerdict.MISSING, TreeVerdict.DIFFERS, TreeVerdict.UNPROVED})


@dataclass(eq=False)
class AuditResult:
    """What an audit has found."""

    report: ComparisonReport
    _: KW_ONLY
    left: int = 0
    """Names at the destination that this migration moved, and that left the source since."""
    foreign: int = 0
    """Names at the destination that this migration never moved."""
    bad: list[NameFinding] = field(default_factory=list)
    """The first objects that are missing, differ, or are not proved."""
    refused: int = 0
    """Objects that differ because another writer's copy at the destination was not replaced."""
    refused_names: list[str] = field(default_factory=list)
    """The first of them."""
    refuted: list[str] = field(default_factory=list)
    """The first names that are missing or differ: another pass may move them again."""
    folders: list[str] = field(default_factory=list)
    """The first folders that could not be listed, and why."""

    @property
    def proved_objects(self) -> int:
        """The number of proved objects."""
        return self.report.counts[TreeVerdict.SAME]

    def is_good(self, accepted: int = 0) -> bool:
        """Return whether every object of the source is proved, but for as many `refused` ones as a
        person has `accepted`. No other difference is accepted, and a source without a proved
        object is not good: it may not be mounted."""
        counts = self.report.counts
        lost = counts[TreeVerdict.MISSING] + counts[TreeVerdict.UNPROVED] + self.report.unlisted
        is_same = counts[TreeVerdict.DIFFERS] == self.refused <= accepted
        return is_same and not lost and self.proved_objects > 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        counts = self.report.counts
        return {
            "proved": self.proved_objects,
            "bytes": self.report.same_bytes,
            "by": {basis.value: count for basis, count in sorted(self.report.bases.items())},
            "missing": counts[TreeVerdict.MISSING],
            "differs": counts[TreeVerdict.DIFFERS],
            "refused": self.refused,
            "unproved": counts[TreeVerdict.UNPROVED],
            "unlisted_folders": self.report.unlisted,
            "left_source": self.left,
            "foreign": self.foreign,
            "bytes_read": self.report.bytes_read,
        }


def audit(
    ledger: Ledger,
    job: MigrationJob,
    engine: TransferEngine,
    space: SpillSpace,
    *,
    reads: Reads,
    slots: int,
) -> AuditResult:
    """Compare the job's source with its destination, with the receipts of its migration. Raises as
    `TreeComparison.findings`, and LedgerFailed."""
    comparison = TreeComparison(
        _job_of_passes(ledger, job),
        engine.stores,
        limits=engine.limits,
        space=space,
        reads=reads,
        slots=slots,
        receipts=lambda names: ledger.standing.receipts(job.id, names),
    )
    result = AuditResult(comparison.report)
    extra: list[str] = []
    differing: list[str] = []
    for found in comparison.findings():
        if found.verdict is TreeVerdict.EXTRA:
            extra.append(found.name)
            if len(extra) == PAGE:
                _count_extra(ledger, job.id, extra, result)
                extra = []
        elif found.verdict in BAD:
            _note_bad(result, found)
            differing += [found.name] if found.verdict is TreeVerdict.DIFFERS else []
            if len(differing) == PAGE:
                _count_refused(ledger, job.id, differing, result)
                differing = []
    _count_refused(ledger, job.id, differing, result)
    _count_extra(ledger, job.id, extra, result)
    result.folders = [f"{side}: {name}: {why}" for side, name, why in comparison.report.folders]
    return result


def _count_refused(ledger: Ledger, id: str, names: list[str], result: AuditResult) -> None:
    refused = sorted(ledger.standing.refused_names(id, names)) if names else []
    result.refused += len(refused)
    result.refused_names += refused[: MOST_NAMED - len(result.refused_names)]


def _job_of_passes(ledger: Ledger, job: MigrationJob) -> MigrationJob:
    """Return the job with the filters that the last pass had: ages count from its beginning."""
    if job.filters is None:
        return job
    origins = ledger.listings.age_origins(job.id)
    filters = filters_from(job.filters, origins)
    return replace(job, filters=filters, accepted=origins.earliest)


def _note_bad(result: AuditResult, found: NameFinding) -> None:
    if len(result.bad) < SHOWN:
        result.bad.append(found)
    if found.verdict is not TreeVerdict.UNPROVED and len(result.refuted) < MOST_REFUTED:
        result.refuted.append(found.name)


def _count_extra(ledger: Ledger, id: str, names: list[str], result: AuditResult) -> None:
    unknown = ledger.listings.unknown_names(id, names) if names else set()
    result.foreign += len(unknown)
    result.left += len(names) - len(unknown)
