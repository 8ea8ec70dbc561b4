"""The report of a dry run as plain values, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from relay.engine.dry_run import Amount, DryRun, DryRunReport
from relay.engine.plan import IfExists
from relay.engine.request_counts import ExpectedWork, expected_requests
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Sample
from relay.views.time_left import Rest, time_left

FATES: Mapping[IfExists, Mapping[str, str]] = {
    IfExists.OVERWRITE: {"new": "moved", "unchanged": "overwritten", "differs": "overwritten"},
    IfExists.CHANGED: {"new": "moved", "unchanged": "skipped", "differs": "overwritten"},
    IfExists.SKIP: {"new": "moved", "unchanged": "skipped", "differs": "skipped"},
    IfExists.FAIL: {"new": "moved", "unchanged": "failed", "differs": "failed"},
}
"""The fate of an object by the state of its destination."""
DECISIONS: Final[Mapping[str, str]] = {
    "moved": "copy",
    "skipped": "skip",
    "overwritten": "replace",
    "failed": "refuse",
    "unknown": "unknown",
}
"""The decision about an object by its fate, in the order in which they are shown."""


def plan_members(dry_run: DryRun, report: DryRunReport) -> dict[str, Any]:
    """Return the plan as plain values. `fates` are those of the compared objects; `decisions` are
    about all objects, and `estimated` from the compared ones if not all were."""
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
    decisions = decisions_of(dry_run.job.if_exists, report)
    return {
        "source": str(dry_run.job.source),
        "destination": str(dry_run.job.destination),
        "objects": report.objects,
        "bytes": report.bytes,
        "unsized": report.unsized,
        "excluded": report.excluded,
        "complete": report.is_complete,
        "destination_empty": report.destination_empty,
        "refused": report.refused,
        "names": [{"name": name, "why": why} for name, why in report.names],
        "looked": report.inspected_count,
        "found": dict(sorted(report.looks.items())),
        "fates": dict(sorted(fates.items())),
        "decisions": {
            name: {"objects": amount.objects, "bytes": amount.bytes}
            for name, amount in decisions.items()
        },
        "estimated": is_estimated(report),
        "in_parts": {
            "objects": report.large if parted else 0,
            "bytes": report.large_bytes if parted else 0,
        },
        "server_copy": dry_run.copies,
        "unkept": report.unkept,
        "level": dry_run.level(report).value,
        "requests": expected_requests(_work(dry_run, report, decisions, parted=parted)),
    }


def is_estimated(report: DryRunReport) -> bool:
    """Return whether the decisions follow from a sample. In an empty destination all objects are
    new, unless some of the sample could not be compared or would be refused."""
    all_new = report.destination_empty and not report.declined.objects
    all_new = all_new and report.decided.keys() <= {"new"}
    return report.inspected_count < report.objects and not all_new


def decisions_of(if_exists: IfExists, report: DryRunReport) -> dict[str, Amount]:
    """Return what becomes of all objects, by decision. If only a sample was compared, its shares
    hold for all."""
    compared: dict[str, Amount] = {name: Amount() for name in DECISIONS.values()}
    for answer, amount in report.decided.items():
        _add(compared[DECISIONS[FATES[if_exists].get(answer, "unknown")]], amount)
    _add(compared["refuse"], report.declined)
    found = _extrapolate(compared, Amount(report.objects, report.bytes))
    # Those that were refused by their entry in the listing are not among the objects.
    found["refuse"].objects += report.refused - report.declined.objects
    return {name: amount for name, amount in found.items() if amount.objects}


def time_members(
    decisions: Mapping[str, Mapping[str, int]],
    measured: Sequence[tuple[Migration, Sequence[Sample]]],
) -> dict[str, Any] | None:
    """Return the time that the objects to be sent will need, in seconds with a range, by the first
    of some migrations between the same two stores whose samples say it; None if none does."""
    sent = [decisions[name] for name in ("copy", "replace") if name in decisions]
    objects, size = (sum(one[name] for one in sent) for name in ("objects", "bytes"))
    rest = Rest(objects=objects, bytes=size, all_objects=objects, all_bytes=size)
    for migration, samples in measured:
        found = time_left(samples, rest, now=samples[-1].at + samples[-1].seconds)
        if found is not None:
            times = {"about": found.seconds, "low": found.low, "high": found.high}
            return {**times, "migration": migration.name}
    return None


def _work(
    dry_run: DryRun, report: DryRunReport, decisions: Mapping[str, Amount], *, parted: bool
) -> ExpectedWork:
    names = ("copy", "replace", "unknown")
    copied = sum(decisions[name].objects for name in names if name in decisions)
    share = copied / report.objects if parted and report.objects else 0.0
    return ExpectedWork(
        source=dry_run.job.source.store,
        destination=dry_run.job.destination.store,
        listed=report.objects,
        copied=copied,
        parted=round(report.large * share),
        parts=round(report.large_parts * share),
        looks=not report.destination_empty and dry_run.job.if_exists is not IfExists.OVERWRITE,
        level=dry_run.level(report),
        copies=dry_run.copies,
    )


def _extrapolate(compared: Mapping[str, Amount], every: Amount) -> dict[str, Amount]:
    """Return amounts in the proportions of the `compared` ones that add up to `every`."""
    seen = Amount()
    for amount in compared.values():
        _add(seen, amount)
    if not seen.objects:
        return {name: Amount() for name in compared} | {"unknown": every}
    objects, size = every.objects / seen.objects, every.bytes / (seen.bytes or 1)
    found = {
        name: Amount(round(amount.objects * objects), round(amount.bytes * size))
        for name, amount in compared.items()
    }
    # What rounding has left over belongs to the largest one.
    largest = max(found.values(), key=lambda amount: amount.objects)
    largest.objects += every.objects - sum(amount.objects for amount in found.values())
    largest.bytes += every.bytes - sum(amount.bytes for amount in found.values())
    return found


def _add(total: Amount, amount: Amount) -> None:
    total.objects += amount.objects
    total.bytes += amount.bytes
