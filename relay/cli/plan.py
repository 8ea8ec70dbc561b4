"""`relay plan SRC DST`: a dry run of a migration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import click
from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.filter_flags import FILTERS, say_missing_names, warn_of_filters
from relay.cli.migrate import order_of
from relay.cli.options import PLACES, WORK, warn, with_flags
from relay.cli.terminal import ReaderGone, in_columns, tell
from relay.cli.waits import reporting_retries
from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob, refuse_drawn_part
from relay.engine.plan import Metadata
from relay.engine.transfer_engine import TransferEngine
from relay.settings_sources import load_settings
from relay.stores.remotes import Remotes
from relay.views.dry_runs import plan_members


@click.command(
    epilog=(
        "Exit codes: 0 nothing would fail · 1 an object would fail, or the source cannot be listed"
        " · 2 wrong usage"
    )
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_flags(WORK, FILTERS, PLACES)
@click.option(
    "--sample",
    type=click.IntRange(0, 100_000),
    default=100,
    help="Number of objects to compare on both sides (default: 100).",
)
@click.option("--whole", "every", is_flag=True, help="Compare every object on both sides.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(sample: int, every: bool, as_json: bool, **options: Any) -> int:
    """Show what `relay migrate SRC DST` would do; write nothing anywhere.

    relay lists the whole source, and compares a sample (or with --whole every object) with the
    destination."""
    settings = load_settings()
    remotes = Remotes(settings.remotes, folders=None)
    order = order_of(options, remotes)
    refuse_drawn_part(order.filters)
    job = MigrationJob.from_request("plan", order, *order.locate(remotes))
    policy = settings.egress().allowing(*filter(None, (job.source.host, job.destination.host)))
    engine = TransferEngine(settings, policy, remotes=remotes)
    warn(options)
    warn_of_filters(order.filters)
    dry_run = DryRun(job, engine.stores, limits=engine.limits, sample=None if every else sample)
    with reporting_retries(dry_run.listing):
        report = dry_run.run()
    members = plan_members(dry_run, report)
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
    return Exit.VERIFIED


_NOTHING = "nothing was found in the source"


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
    if seen["looked"]:
        sample = "all"
        if seen["looked"] != seen["objects"]:
            sample = f"a random sample of {seen['looked']:,}"
        yield (
            "compared",
            f"{sample}: "
            + " · ".join(f"{count:,} {answer}" for answer, count in seen["found"].items()),
        )
        yield (
            "result",
            " · ".join(f"{count:,} {fate}" for fate, count in seen["fates"].items()),
        )
    if seen["server_copy"]:
        yield (
            "copied",
            "by the store itself, if it permits that; the bytes do not pass through relay",
        )
    if seen["in_parts"]["objects"]:
        yield (
            "in parts",
            f"{seen['in_parts']['objects']:,} objects, {decimal(seen['in_parts']['bytes'])}",
        )
    if seen["unkept"]:
        yield (
            "metadata",
            f"{seen['unkept']:,} of these lose metadata that the destination can't keep",
        )
    yield (
        "expect",
        f"{seen['level']}; `relay doctor` tests what the destination supports",
    )
    if seen["refused"]:
        yield "refused", f"{seen['refused']:,} objects would fail"
    for row in seen["names"]:
        yield "", f"{row['name'] or 'the object'}: {row['why']}"
