"""`relay verify`: compare two trees, a destination with its receipts, or two inventories."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click

from relay.cli.exits import Exit
from relay.cli.filter_flags import FILTERS, filters_of, say_missing_names, warn_of_filters
from relay.cli.machine_ledger import refuse_server
from relay.cli.options import PLACES, absolute_path, headers_of, warn, with_flags
from relay.cli.quantities import COUNT
from relay.cli.sample_flags import SAMPLES, sample_of
from relay.cli.terminal import say
from relay.cli.verify_output import FORMS, VerifyOutput, VerifyWords
from relay.cli.waits import reporting_retries
from relay.config import Settings
from relay.engine.comparison_report import ComparisonReport, Reads, TreeVerdict
from relay.engine.migration_request import (
    Endpoint,
    MigrationJob,
    MigrationRequest,
    refuse_drawn_part,
)
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_comparison import TreeComparison
from relay.errors import ConfigError
from relay.ledger.states import ListingState
from relay.settings_sources import load_settings, trusted_ledger_url
from relay.sorting.spill import SpillSpace
from relay.stores.remotes import Remotes

_OF_RECEIPTS: Final = VerifyWords(
    gaps="listings are not complete",
    gap="is not complete",
    empty="the migration has no objects",
    empty_hint="`relay report` prints what it has.",
)
_OF_INVENTORIES: Final = VerifyWords(
    gaps="gaps in the inventories",
    gap="is not complete",
    empty="neither inventory has an object",
    empty_hint="Check the folder of --below.",
)
_HINT: Final = "hint: --read missing reads the objects that no digest proves"


@click.command(
    epilog=(
        "Exit codes: 0 every object is proved to be the same · 1 an object differs, is missing or"
        " extra, or a tree cannot be listed · 2 wrong usage · 3 something is not proved"
    )
)
@click.argument("source", metavar="[SRC]", required=False)
@click.argument("destination", metavar="[DST]", required=False)
@click.option(
    "--receipts",
    metavar="ID",
    help=(
        "Compare the destination of a migration with its receipts, in place of a source. DST is"
        " needed only if that of the migration has secrets."
    ),
)
@click.option(
    "--inventory",
    "inventories",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help=(
        "Compare two inventories, without a request to any store. Given twice: the manifest of the"
        " source's, then that of the destination's."
    ),
)
@click.option(
    "--below",
    multiple=True,
    metavar="FOLDER",
    help="Compare only the objects in a folder of the inventory before it. Given twice.",
)
@click.option(
    "--read",
    type=click.Choice([reads.value for reads in Reads]),
    default="none",
    help=(
        "Objects whose bytes are read: none (default), missing (those that no digest decides), or"
        " all, from both sides."
    ),
)
@with_flags(SAMPLES, FILTERS, PLACES)
@click.option("-r", is_flag=True, hidden=True, expose_value=False)  # as for the other trees
@click.option(
    "--only",
    type=click.Choice([verdict.value for verdict in TreeVerdict]),
    multiple=True,
    help="Print only the rows with this verdict. Repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMS)),
    help="Format of the rows (default: table). A table and HTML leave out those that are the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the counts.")
@click.option(
    "--slots",
    type=COUNT,
    default=8,
    help="Maximum number of objects that are asked for or read concurrently (default: 8).",
)
@click.option(
    "--sort",
    "sorts_all",
    is_flag=True,
    help="Sort the listings of AWS's buckets too (directory buckets list keys in any order).",
)
def verify(**options: Any) -> int:
    """Compare the tree SRC with the tree DST; write nothing to any store.

    An object is the same if both stores report one digest of it, or if its bytes were read and
    agree. Objects of equal size that nothing proves are `unproved`."""
    if options["as_json"] and options["form"] is not None:
        raise click.UsageError("--json prints the counts, and --format the rows: give one of them")
    if options["inventories"]:
        return _verify_inventories(options)
    if options["below"]:
        raise click.UsageError("--below needs --inventory")
    if options["receipts"] is not None:
        return _verify_receipts(options)
    if options["source"] is None or options["destination"] is None:
        raise click.UsageError("give SRC and DST, or --receipts ID, or two times --inventory FILE")
    return _verify_trees(options)


def _verify_trees(options: Mapping[str, Any]) -> Exit:
    sample = sample_of(options)
    settings = load_settings()
    remotes = Remotes(settings.remotes, folders=None)
    order = _request_of(options, remotes)
    refuse_drawn_part(order.filters, "relay verify")
    job = MigrationJob.from_request("verify", order, *order.locate(remotes))
    policy = settings.egress().allowing(*filter(None, (job.source.host, job.destination.host)))
    engine = TransferEngine(settings, policy, remotes=remotes)
    warn(options)
    warn_of_filters(order.filters)
    comparison = TreeComparison(
        job,
        engine.stores,
        limits=engine.limits,
        space=_space(settings),
        reads=Reads(options["read"]),
        slots=options["slots"],
        sorts_all=options["sorts_all"],
        sample=sample,
    )
    output = _output(options, VerifyWords())
    with ExitStack() as stack:
        for meter in comparison.listings.values():
            stack.enter_context(reporting_retries(meter))
        code = output.print(comparison)
    missing = comparison.missing_names
    say_missing_names(order.filters, missing, "on either side")
    _hint_at_reads(options, comparison.report)
    output.refuse_empty(comparison.report)
    return Exit.UNVERIFIED if missing and code == Exit.VERIFIED else code


def _verify_receipts(options: Mapping[str, Any]) -> Exit:
    """Compare the destination of a migration of this machine's ledger with its receipts. Raises
    MigrationUnknown, and ConfigError for another destination than the migration's."""
    from relay.engine.receipt_comparison import ReceiptComparison
    from relay.identity import place_in_server
    from relay.ledger.ledger import Ledger

    sample = sample_of(options)
    if options["source"] is not None and options["destination"] is not None:
        raise click.UsageError("--receipts takes the place of SRC: give DST alone, or nothing")
    if any(options[f"source_{name}"] for name in ("header", "headers_file")):
        raise click.UsageError("--receipts asks no source: give headers of the destination only")
    _refuse_filters(options, "--receipts")
    settings = load_settings()
    refuse_server(settings, "--receipts reads the ledger itself")
    ledger = Ledger.connect(trusted_ledger_url(settings))
    migration = ledger.migration(options["receipts"])
    if not migration.recursive:
        raise click.UsageError(f"migration {migration.name} is one of a single object, not a tree")
    remotes = Remotes(settings.remotes, folders=None)
    text, given = migration.destination, options["source"]
    if given is not None:
        remotes.refuse_like_remote(given)
        text = absolute_path(given, True)
    headers = headers_of(options, "destination")
    place = remotes.locate(text, headers=headers, destination=True, folder=True).folder()
    shown = remotes.display(text, place)
    if not ledger.destinations.is_of(migration.id, place_in_server(place), shown):
        raise ConfigError(
            f"{shown} is not the destination of migration {migration.name}",
            hint="Give its destination as DST, as the migration had it, with its credentials.",
        )
    warn(options)
    policy = settings.egress().allowing(*filter(None, (place.host,)))
    engine = TransferEngine(settings, policy, remotes=remotes)
    comparison = ReceiptComparison(
        place,
        ledger.reports.with_receipts(migration.id),
        engine.stores,
        limits=engine.limits,
        space=_space(settings),
        reads=Reads(options["read"]),
        slots=options["slots"],
        sorts_all=options["sorts_all"],
        sample=sample,
    )
    if migration.listing != ListingState.DONE:
        why = f"its listing is {migration.listing}, so that objects may be without a row"
        comparison.report.note_folder("source", f"migration {migration.name}", why)
    output = _output(options, _OF_RECEIPTS)
    with reporting_retries(comparison.listings["destination"]):
        code = output.print(comparison)
    _hint_at_reads(options, comparison.report)
    output.refuse_empty(comparison.report)
    return code


def _verify_inventories(options: Mapping[str, Any]) -> Exit:
    """Compare two inventories. Raises InventoryRefused."""
    from relay.engine.inventory_comparison import InventoryComparison
    from relay.inventories.inventory_files import open_inventory

    paths, below = options["inventories"], options["below"] or ("", "")
    if len(paths) != 2:
        raise click.UsageError("give --inventory two times: --inventory FILE --inventory FILE")
    if len(below) != 2:
        raise click.UsageError("give --below two times, or not at all")
    if options["source"] is not None or options["receipts"] is not None:
        raise click.UsageError("--inventory takes the place of SRC and DST, and of --receipts")
    if sample_of(options) is not None or options["read"] != Reads.NONE:
        raise click.UsageError(
            "--inventory asks no store: neither --read nor --sample goes with it"
        )
    _refuse_filters(options, "--inventory")
    comparison = InventoryComparison(
        *(open_inventory(path, folder) for path, folder in zip(paths, below, strict=True)),
        space=_space(load_settings()),
    )
    output = _output(options, _OF_INVENTORIES)
    code = output.print(comparison)
    output.refuse_empty(comparison.report)
    return code


def _output(options: Mapping[str, Any], words: VerifyWords) -> VerifyOutput:
    return VerifyOutput(
        form=options["form"],
        as_json=options["as_json"],
        only=frozenset(options["only"]),
        words=words,
    )


def _space(settings: Settings) -> SpillSpace:
    return SpillSpace(settings.spill_folder(), settings.spill_bytes)


def _hint_at_reads(options: Mapping[str, Any], report: ComparisonReport) -> None:
    is_open = report.counts[TreeVerdict.UNPROVED] and options["read"] == Reads.NONE
    if is_open and not options["as_json"]:
        say(_HINT, sys.stderr)


def _refuse_filters(options: Mapping[str, Any], flag: str) -> None:
    if filters_of({**options, "recursive": True}) is not None:
        raise click.UsageError(f"{flag} compares all of a tree: leave the filters out")


def _request_of(options: Mapping[str, Any], remotes: Remotes) -> MigrationRequest:
    """Return the request of a migration between the two trees. Raises as `read_headers` and
    `filters_of`, and InvalidURL for a path that looks like one of the `remotes`."""
    for side in ("source", "destination"):
        remotes.refuse_like_remote(options[side])
    ends = [
        Endpoint(absolute_path(options[side], True), headers=headers_of(options, side))
        for side in ("source", "destination")
    ]
    return MigrationRequest(
        *ends, recursive=True, filters=filters_of({**options, "recursive": True})
    )
