"""`relay plan SRC DST`: a dry run of a migration."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.filter_flags import FILTERS, say_missing_names, warn_of_filters
from relay.cli.formatting import count_of
from relay.cli.learned_facts import learned_facts
from relay.cli.migrate import order_of
from relay.cli.options import FILE, PLACES, WORK, warn, with_flags
from relay.cli.saved_plan import header_of, refuse_save_place
from relay.cli.terminal import ReaderGone, in_columns, plain, say, tell
from relay.cli.waits import reporting_retries
from relay.engine.decisions import DryRunReport
from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob, refuse_drawn_part
from relay.engine.plan import Metadata
from relay.engine.plan_file import PlanHeader, PlanWriter
from relay.engine.transfer_engine import TransferEngine
from relay.prices.price_list import load_prices
from relay.settings_sources import load_settings
from relay.sorting.spill import SpillSpace
from relay.stores.remotes import Remotes
from relay.views.dry_runs import plan_members


@click.command(
    epilog=(
        "Exit codes: 0 nothing would fail · 1 an object would fail, or the source cannot be listed"
        " · 2 wrong usage · 3 an object is undecided, since a store did not answer for it"
    )
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_flags(WORK, FILTERS, PLACES)
@click.option(
    "--sample",
    type=click.IntRange(0, 100_000),
    default=100,
    help="Number of objects to inspect where listings do not decide (default: 100).",
)
@click.option("--whole", "every", is_flag=True, help="Inspect every object.")
@click.option(
    "--save",
    type=FILE,
    metavar="FILE",
    help="With -r: write the decision about each object, for relay migrate --plan FILE.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(sample: int, every: bool, save: Path | None, as_json: bool, **options: Any) -> int:
    """Show what `relay migrate SRC DST` would do; write nothing anywhere.

    relay lists both sides. Objects about which the listings do not decide are compared by requests:
    a sample of them, or with --whole every one."""
    settings = load_settings()
    remotes = Remotes(settings.remotes, folders=None)
    order = order_of(options, remotes)
    refuse_drawn_part(order.filters)
    places = order.locate(remotes)
    prices = load_prices(settings.prices)
    header = None if save is None else header_of(order, places, remotes)
    if save is not None:
        refuse_save_place(save, places[0])
    job = MigrationJob.from_request("plan", order, *places)
    policy = settings.egress().allowing(*filter(None, (job.source.host, job.destination.host)))
    engine = TransferEngine(settings, policy, remotes=remotes)
    warn(options)
    warn_of_filters(order.filters)
    spec = order.spec_at(*places, remotes)
    with learned_facts(settings) as facts:
        dry_run = DryRun(
            job,
            engine.stores,
            limits=engine.limits,
            space=SpillSpace(settings.spill_folder(), settings.spill_bytes),
            sample=None if every else sample,
            decides_all=header is not None,
            receipt_of=lambda name: facts.receipt(spec, name),
        )
        report = _run(dry_run, save, header)
        members = plan_members(dry_run, report, prices)
        members["time"] = facts.time(members)
    with suppress(ReaderGone):  # its exit code is an answer too
        for text in (
            [json.dumps(members)] if as_json else [in_columns(*row) for row in _lines(members)]
        ):
            tell(text)
    say_missing_names(order.filters, dry_run.missing_names)
    loses_metadata = job.metadata is Metadata.STRICT and report.unkept > 0
    is_empty = job.fail_on_empty and report.objects == 0
    if report.refused or loses_metadata or is_empty or members["fates"].get("failed"):
        return Exit.FAILED
    return Exit.UNVERIFIED if report.unknown else Exit.VERIFIED


def _run(dry_run: DryRun, save: Path | None, header: PlanHeader | None) -> DryRunReport:
    """Make the plan, and save it if there is a `header`. Raises as `DryRun.run` and PlanWriter."""
    meters = dry_run.listings
    with reporting_retries(meters["source"]), reporting_retries(meters["destination"]):
        if save is None or header is None:
            return dry_run.run()
        with PlanWriter(save, header) as writer:
            report = dry_run.run(writer)
            writer.publish()
    say(f"relay: {plain(str(save))} has {writer.objects:,} decisions", sys.stderr)
    return report


_NOTHING = "nothing was found in the source"
LOST, FOLDS = 5, 5
"""Maximum numbers of lines about lost metadata, and about names that may fold."""


def _lines(seen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "source", seen["source"]
    yield "destination", seen["destination"]
    if not seen["objects"] and not seen["refused"]:
        found = "the filters exclude everything" if seen["excluded"] else _NOTHING
        yield "objects", f"none: {found}"
        return
    unsized = f"; {seen['unsized']:,} of them of unknown size" if seen["unsized"] else ""
    yield (
        "objects",
        f"{seen['objects']:,}, {seen['bytes']:,} bytes ({decimal(seen['bytes'])}){unsized}",
    )
    if seen["excluded"]:
        yield "excluded", f"{seen['excluded']:,} by the filters"
    yield from _decision_lines(seen)
    yield from _way_lines(seen)
    yield from _loss_lines(seen)
    yield (
        "expect",
        f"{seen['level']}; `relay doctor` tests what the destination supports",
    )
    if seen["requests"]:
        yield "requests", f"about {seen['requests']:,} to both stores"
    yield "time", _time_text(seen["time"])
    yield from _money_lines(seen["money"])
    why = seen["incomplete"]
    yield "complete", f"no, because {why[0]}" if why else "yes"
    yield from (("", text) for text in why[1:])
    if seen["refused"]:
        yield "refused", f"{count_of(seen['refused'], 'object')} would fail"
    for row in seen["names"]:
        yield "", f"{row['name'] or 'the object'}: {row['why']}"


def _way_lines(seen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how much was inspected, and how objects move."""
    for side in seen["sorted"]:
        yield "sorted", f"the {side}'s listing, which came in another order than that of names"
    if seen["looked"]:
        sample = "all"
        if seen["looked"] != seen["objects"]:
            sample = f"a random sample of {seen['looked']:,}"
        found = " · ".join(f"{count:,} {answer}" for answer, count in seen["found"].items())
        yield "inspected", f"{sample}: {found}"
    if seen["server_copy"]:
        yield (
            "copied",
            "by the store itself, if it permits that; the bytes do not pass through relay",
        )
    if seen["in_parts"]["objects"]:
        parts = seen["in_parts"]
        yield "in parts", f"{count_of(parts['objects'], 'object')}, {decimal(parts['bytes'])}"


def _loss_lines(seen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what stays, what would be lost, and names that may fold."""
    if seen["extra"]:
        yield (
            "only there",
            f"{count_of(seen['extra'], 'name')} that the source does not have; nothing is deleted",
        )
    if seen["unkept"]:
        yield (
            "metadata",
            f"{seen['unkept']:,} of these lose metadata that the destination can't keep",
        )
        yield from (("", f"{row['objects']:,}: {row['what']}") for row in seen["lost"][:LOST])
    if seen["folds"]["groups"]:
        yield (
            "may fold",
            f"{count_of(seen['folds']['groups'], 'group')} of names, if the store folds names",
        )
        yield from (("", " = ".join(names)) for names in seen["folds"]["first"][:FOLDS])


def _decision_lines(seen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a line for each decision: its objects and bytes, and what it rests on."""
    about = "about " if seen["estimated"] else ""
    for name, amount in seen["decisions"].items():
        bases = seen["bases"].get(name, {})
        by = " · ".join(f"{count:,} by {basis}" for basis, count in sorted(bases.items()))
        size = f"{about}{count_of(amount['objects'], 'object')}, {decimal(amount['bytes'])}"
        yield name, f"{size}; {by}" if by and name != "refuse" else size


def _time_text(time: Mapping[str, Any] | None) -> str:
    if time is None:
        return "unknown until measured: no earlier migration between the two stores says it"
    half, most = (timedelta(seconds=round(time[name])) for name in ("p50", "p90"))
    return f"about {half}; in nine of ten cases less than {most}"


def _money_lines(money: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the totals with the date of the prices, the items without a price, and warnings."""
    totals = " + ".join(f"{float(sum_):,.2f} {name}" for name, sum_ in money["totals"].items())
    if totals:
        known = "at least " if money["unknown"] else "about "
        files = ", ".join(money["files"])
        yield "money", f"{known}{totals}, by {files} of {money['oldest']}"
    if money["unknown"]:
        yield ("" if totals else "money"), f"unknown: {', '.join(money['unknown'])}"
    for text in money["warnings"]:
        yield "", text
