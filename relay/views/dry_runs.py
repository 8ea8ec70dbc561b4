"""The report of a dry run as plain values, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final

from relay.engine.decisions import Amount, DryRunReport, PlanDecision, decide
from relay.engine.dry_run import DryRun
from relay.engine.plan import IfExists
from relay.engine.request_counts import (
    LOCAL,
    ExpectedWork,
    expected_requests,
    requests_by_kind,
)
from relay.errors import Side
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Sample
from relay.location import Location
from relay.prices.money import Bill, StoreUse, bill_of
from relay.prices.price_list import Price, price_of
from relay.receipt import Level
from relay.stores.s3.account import region_of
from relay.views.time_left import Rest, quantile_of, time_left, times_of

FATES: Final[Mapping[PlanDecision, str]] = {
    PlanDecision.COPY: "moved",
    PlanDecision.SKIP: "skipped",
    PlanDecision.REPLACE: "overwritten",
    PlanDecision.REFUSE: "failed",
    PlanDecision.UNKNOWN: "unknown",
}
"""What becomes of an object, in a word."""
_SENT: Final = ("copy", "replace", "unknown")
"""The decisions about objects that are sent, as far as is known."""


def plan_members(
    dry_run: DryRun, report: DryRunReport, prices: Sequence[Price] = ()
) -> dict[str, Any]:
    """Return the plan as plain values. `fates` are those of the objects that the listings or
    requests decided; `decisions` are about all objects, and `estimated` if not all were decided."""
    fates = fates_of(dry_run.job.if_exists, report)
    # A store that copies by itself needs no parts. Without an inspected object (`--sample 0`) the
    # source is assumed to have ranges.
    parted = (
        dry_run.offers_parts
        and not dry_run.copies
        and (report.ranges > 0 or not report.inspected_count)
    )
    decisions = decisions_of(dry_run.job.if_exists, report)
    work = _work(dry_run, report, decisions, parted=parted)
    return {
        "source": str(dry_run.job.source),
        "destination": str(dry_run.job.destination),
        "objects": report.objects,
        "bytes": report.bytes,
        "unsized": report.unsized,
        "excluded": report.excluded + report.excluded_folders,
        "complete": not report.incomplete,
        "incomplete": report.incomplete,
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
        "lost": [{"what": what, "objects": count} for what, count in report.lost.items()],
        "bases": {name.value: dict(bases) for name, bases in sorted(report.bases.items())},
        "first": {name.value: names for name, names in sorted(report.first.items())},
        "reasons": [
            {
                "code": code,
                "objects": reason.amount.objects,
                "bytes": reason.amount.bytes,
                "names": [name for name, _ in reason.names],
            }
            for code, reason in sorted(report.reasons.items())
        ],
        "sorted": sorted(report.sorted),
        "extra": report.extra,
        "folds": {"groups": report.folds, "first": [list(names) for names in report.folded]},
        "level": dry_run.level(report).value,
        "requests": expected_requests(work),
        "money": _bill_of(dry_run, work, decisions, prices).to_json(date.today()),
    }


def fates_of(if_exists: IfExists, report: DryRunReport) -> dict[str, int]:
    """Return the fates of the decided objects: their numbers by a word."""
    fates: dict[str, int] = {}
    decided = [(decision, amount.objects) for decision, amount in report.exact.items()]
    decided += [(decide(if_exists, answer), count) for answer, count in _answers(report)]
    # The fate of those that would be refused is that they do not move; why, is with their names.
    decided.append((PlanDecision.UNKNOWN, report.declined.objects))
    refused = report.undescribed.objects
    for decision, count in decided:
        left = min(refused, count) if decision in (PlanDecision.COPY, PlanDecision.REPLACE) else 0
        refused -= left
        for fate, number in ((FATES[decision], count - left), ("unknown", left)):
            if number:
                fates[fate] = fates.get(fate, 0) + number
    return fates


def _answers(report: DryRunReport) -> list[tuple[str, int]]:
    return [(answer, amount.objects) for answer, amount in report.decided.items()]


def is_estimated(report: DryRunReport) -> bool:
    """Return whether the decisions follow from a sample: not all objects were compared about which
    the listings do not decide, or the source refuses some of those whose source was asked."""
    seen = report.declined.objects + sum(count for _, count in _answers(report))
    exact = _sum(report.exact.values())
    if seen < report.objects - exact.objects:
        return True
    return report.undescribed.objects > 0 and report.described.objects < exact.objects


def decisions_of(if_exists: IfExists, report: DryRunReport) -> dict[str, Amount]:
    """Return what becomes of all objects, by decision. The listings decide about some; if only a
    sample of the others was compared, its shares hold for all of them."""
    exact = _sum(report.exact.values())
    compared = {name: Amount() for name in PlanDecision}
    for answer, amount in report.decided.items():
        _add(compared[decide(if_exists, answer)], amount)
    _add(compared[PlanDecision.REFUSE], report.declined)
    rest = Amount(report.objects - exact.objects, report.bytes - exact.bytes)
    found = _extrapolate(compared, rest)
    for decision, amount in _with_refused(report, exact).items():
        _add(found[decision], amount)
    # Those that were refused by their entry in the listing are not among the objects.
    refused = report.declined.objects + report.undescribed.objects
    found[PlanDecision.REFUSE].objects += report.refused - refused
    return {name.value: amount for name, amount in found.items() if amount.objects}


def _with_refused(report: DryRunReport, exact: Amount) -> dict[PlanDecision, Amount]:
    """Return the amounts about which the listings decide, without the share of those that their
    source would refuse."""
    found = {name: Amount(one.objects, one.bytes) for name, one in report.exact.items()}
    sent = [name for name in (PlanDecision.COPY, PlanDecision.REPLACE) if name in found]
    if not report.undescribed.objects or not sent:
        return found
    share = report.undescribed.objects / report.described.objects
    refused = found.setdefault(PlanDecision.REFUSE, Amount())
    for name in sent:
        objects, size = (round(share * one) for one in (found[name].objects, found[name].bytes))
        _add(refused, Amount(objects, size))
        _add(found[name], Amount(-objects, -size))
    return found


def time_members(
    decisions: Mapping[str, Mapping[str, int]],
    measured: Sequence[tuple[Migration, Sequence[Sample]]],
) -> dict[str, Any] | None:
    """Return the time that the objects to be sent will need, in seconds with a range, by the first
    of some migrations between the same two stores whose samples say it; None if none does. `p50`
    and `p90` are by all of them: half of the estimates, and nine of ten, are below."""
    sent = [decisions[name] for name in ("copy", "replace") if name in decisions]
    objects, size = (sum(one[name] for one in sent) for name in ("objects", "bytes"))
    rest = Rest(objects=objects, bytes=size, all_objects=objects, all_bytes=size)
    every: list[float] = []
    first: dict[str, Any] | None = None
    for migration, samples in measured:
        now = samples[-1].at + samples[-1].seconds
        found = time_left(samples, rest, now=now)
        if found is None:
            continue
        every += times_of(samples, rest, now=now)
        if first is None:
            times = {"about": found.seconds, "low": found.low, "high": found.high}
            first = {**times, "migration": migration.name}
    if first is None:
        return None
    every = sorted(every) or [first["about"]]
    return {**first, "p50": quantile_of(every, 0.5), "p90": quantile_of(every, 0.9)}


def _bill_of(
    dry_run: DryRun,
    work: ExpectedWork,
    decisions: Mapping[str, Amount],
    prices: Sequence[Price],
) -> Bill:
    """Return what the migration costs: its requests, and the bytes that leave a store."""
    counts = requests_by_kind(work)
    sent = sum(decisions[name].bytes for name in _SENT if name in decisions)
    egress: Mapping[Side, int] = {
        "source": 0 if work.copies else sent,
        "destination": sent if work.level is Level.READ_BACK else 0,
    }
    places: Mapping[Side, Location] = {
        "source": dry_run.job.source,
        "destination": dry_run.job.destination,
    }
    return bill_of(
        [
            StoreUse(
                side=side,
                requests=counts[side],
                egress_bytes=0 if place.store == LOCAL else egress[side],
                price=price_of(prices, place.store, place.host, region_of(place)),
            )
            for side, place in places.items()
        ]
    )


def _work(
    dry_run: DryRun, report: DryRunReport, decisions: Mapping[str, Amount], *, parted: bool
) -> ExpectedWork:
    copied = sum(decisions[name].objects for name in _SENT if name in decisions)
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


def _extrapolate(
    compared: Mapping[PlanDecision, Amount], every: Amount
) -> dict[PlanDecision, Amount]:
    """Return amounts in the proportions of the `compared` ones that add up to `every`."""
    seen = _sum(compared.values())
    if not seen.objects:
        return {name: Amount() for name in compared} | {PlanDecision.UNKNOWN: every}
    objects, size = every.objects / seen.objects, every.bytes / (seen.bytes or 1)
    found = {
        name: Amount(round(amount.objects * objects), round(amount.bytes * size))
        for name, amount in compared.items()
    }
    # What rounding has left over belongs to the largest one.
    largest = max(found.values(), key=lambda amount: amount.objects)
    given = _sum(found.values())
    largest.objects += every.objects - given.objects
    largest.bytes += every.bytes - given.bytes
    return found


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = Amount()
    for amount in amounts:
        _add(total, amount)
    return total


def _add(total: Amount, amount: Amount) -> None:
    total.objects += amount.objects
    total.bytes += amount.bytes
