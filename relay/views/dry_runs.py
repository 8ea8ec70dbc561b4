"""The report of a dry run as plain values, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.engine.dry_run import DryRun, DryRunReport
from relay.engine.plan import IfExists

FATES: Mapping[IfExists, Mapping[str, str]] = {
    IfExists.OVERWRITE: {"new": "moved", "unchanged": "overwritten", "differs": "overwritten"},
    IfExists.CHANGED: {"new": "moved", "unchanged": "skipped", "differs": "overwritten"},
    IfExists.SKIP: {"new": "moved", "unchanged": "skipped", "differs": "skipped"},
    IfExists.FAIL: {"new": "moved", "unchanged": "failed", "differs": "failed"},
}
"""The fate of an object by the state of its destination."""


def plan_members(dry_run: DryRun, report: DryRunReport) -> dict[str, Any]:
    """Return the plan as plain values. `fates` are those of the compared objects."""
    fates: dict[str, int] = {}
    for answer, count in report.looks.items():
        fate = FATES[dry_run.job.if_exists].get(answer, "unknown")
        fates[fate] = fates.get(fate, 0) + count
    # A store that copies by itself needs no parts. Without an inspected object (`--sample 0`) the
    # source is assumed to have ranges.
    parted = (
        dry_run.offers_parts
        and not dry_run.copies
        and (report.ranges > 0 or not report.inspected_count)
    )
    return {
        "source": str(dry_run.job.source),
        "destination": str(dry_run.job.destination),
        "objects": report.objects,
        "bytes": report.bytes,
        "unsized": report.unsized,
        "refused": report.refused,
        "names": [{"name": name, "why": why} for name, why in report.names],
        "looked": report.inspected_count,
        "found": dict(sorted(report.looks.items())),
        "fates": dict(sorted(fates.items())),
        "in_parts": {
            "objects": report.large if parted else 0,
            "bytes": report.large_bytes if parted else 0,
        },
        "server_copy": dry_run.copies,
        "unkept": report.unkept,
        "level": dry_run.level(report).value,
    }
