"""`relay verify SRC DST`: compare two trees, and prove each object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Final

import click
from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.filter_flags import FILTERS, filters_of, say_missing_names, warn_of_filters
from relay.cli.options import PLACES, absolute_path, headers_of, warn, with_flags
from relay.cli.quantities import COUNT
from relay.cli.terminal import ReaderGone, in_columns, plain, say, tell
from relay.cli.waits import reporting_retries
from relay.engine.comparison_report import ComparisonReport, NameFinding, Reads, TreeVerdict
from relay.engine.migration_request import Endpoint, MigrationJob, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_comparison import TreeComparison
from relay.errors import NotFound
from relay.settings_sources import load_settings
from relay.sorting.spill import SpillSpace
from relay.stores.remotes import Remotes
from relay.views.tree_findings import (
    FINDING_FIELDS,
    comparison_members,
    finding_csv,
    finding_members,
)

LINES, SECONDS = 500, 0.5
"""Rows are written together: at most LINES, and the first after at most SECONDS."""


def _table_line(found: NameFinding) -> str:
    why = f"{found.basis.value}: {found.detail}" if found.detail else found.basis.value
    return f"{found.verdict.value:<9} {plain(found.name)}  ({plain(why)})"


def _json_line(found: NameFinding) -> str:
    return json.dumps(finding_members(found))


_FORMS: Final[Mapping[str, Callable[[NameFinding], str]]] = {
    "table": _table_line,
    "jsonl": _json_line,
    "csv": finding_csv,
}


@click.command(
    epilog=(
        "Exit codes: 0 every object is proved to be the same · 1 an object differs, is missing or"
        " extra, or a tree cannot be listed · 2 wrong usage · 3 something is not proved"
    )
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--read",
    type=click.Choice([reads.value for reads in Reads]),
    default="none",
    help=(
        "Objects whose bytes are read: none (default), missing (those that no digest decides), or"
        " all, from both sides."
    ),
)
@with_flags(FILTERS, PLACES)
@click.option(
    "--only",
    type=click.Choice([verdict.value for verdict in TreeVerdict]),
    multiple=True,
    help="Print only the rows with this verdict. Repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(_FORMS)),
    help="Format of the rows (default: table, without those that are the same).",
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
def verify(read: str, as_json: bool, sorts_all: bool, slots: int, **options: Any) -> int:
    """Compare the tree SRC with the tree DST; write nothing to any store.

    An object is the same if both stores report one digest of it, or if its bytes were read and
    agree. Objects of equal size that nothing proves are `unproved`."""
    if as_json and options["form"] is not None:
        raise click.UsageError("--json prints the counts, and --format the rows: give one of them")
    settings = load_settings()
    remotes = Remotes(settings.remotes, folders=None)
    order = _request_of(options, remotes)
    job = MigrationJob.from_request("verify", order, *order.locate(remotes))
    policy = settings.egress().allowing(*filter(None, (job.source.host, job.destination.host)))
    engine = TransferEngine(settings, policy, remotes=remotes)
    warn(options)
    warn_of_filters(order.filters)
    comparison = TreeComparison(
        job,
        engine.stores,
        limits=engine.limits,
        space=SpillSpace(settings.spill_folder(), settings.spill_bytes),
        reads=Reads(read),
        slots=slots,
        sorts_all=sorts_all,
    )
    output, meters = _Output(), comparison.listings
    with reporting_retries(meters["source"]), reporting_retries(meters["destination"]):
        _print_rows(comparison, options["form"], as_json, set(options["only"]), output)
    report = comparison.report
    members = comparison_members(report)
    is_empty = report.names == 0 and not report.unlisted
    if as_json:
        output.write(json.dumps(members))
    elif not is_empty:
        # Where the rows go to a program, the summary does not mix with them.
        stream = sys.stderr if options["form"] in ("jsonl", "csv") else None
        for row in _summary(report):
            if stream is None:
                output.write(in_columns(*row))
            else:
                say(in_columns(*row), stream)
    for side, name, why in report.folders:
        say(f"relay: {side}: {plain(name)} could not be listed: {plain(why)}", sys.stderr)
    missing = comparison.missing_names
    say_missing_names(order.filters, missing, "on either side")
    if read == Reads.NONE and report.counts[TreeVerdict.UNPROVED] and not as_json:
        say("hint: --read missing reads the objects that no digest proves", sys.stderr)
    if is_empty:
        raise _empty_error(report.excluded)
    if report.has_differences:
        return Exit.FAILED
    return Exit.VERIFIED if report.is_proved and not missing else Exit.UNVERIFIED


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


class _Output:
    """stdout, until its reader closes it: the exit code is an answer too."""

    def __init__(self) -> None:
        self._is_closed = False

    def write(self, text: str) -> None:
        """Print some lines. Raises OutputFailed."""
        if self._is_closed:
            return
        try:
            tell(text)
        except ReaderGone:
            self._is_closed = True


def _print_rows(
    comparison: TreeComparison, form: str | None, as_json: bool, only: set[str], output: _Output
) -> None:
    """Print the rows as they are found. Raises as `TreeComparison.findings` and OutputFailed."""
    line_of = _FORMS[form or "table"]
    if form == "csv":
        output.write(",".join(FINDING_FIELDS))
    lines: list[str] = []
    written = monotonic()
    try:
        for found in comparison.findings():
            is_shown = (
                found.verdict.value in only
                if only
                else (form in ("jsonl", "csv") or found.verdict is not TreeVerdict.SAME)
            )
            if as_json or not is_shown:
                continue
            lines.append(line_of(found))
            if len(lines) == LINES or monotonic() - written > SECONDS:
                text = "\n".join(lines)
                lines, written = [], monotonic()
                output.write(text)
    finally:
        if lines:
            output.write("\n".join(lines))


def _summary(report: ComparisonReport) -> Iterator[tuple[str, str]]:
    same = report.counts[TreeVerdict.SAME]
    by = " · ".join(f"{count:,} by {basis.value}" for basis, count in report.bases.items())
    yield "same", f"{same:,} objects, {_bytes(report.same_bytes)}" + (f"; {by}" if by else "")
    for verdict, count in report.counts.items():
        if verdict is not TreeVerdict.SAME and count:
            yield verdict.value, f"{count:,}"
    if report.excluded:
        yield "excluded", f"{report.excluded:,} by the filters"
    if report.bytes_read:
        yield "read", _bytes(report.bytes_read)
    if report.unlisted:
        yield "incomplete", f"{report.unlisted:,} folders could not be listed"


def _bytes(count: int) -> str:
    return f"{count:,} bytes ({decimal(count)})" if count >= 1000 else f"{count:,} bytes"


def _empty_error(excluded: int) -> NotFound:
    if excluded:
        return NotFound(
            f"the filters exclude everything: the trees have {excluded:,} names",
            hint="`relay ls -r` with the same filters shows what they choose.",
        )
    return NotFound(
        "nothing was found on either side",
        hint="Check both names: many stores show a missing folder as an empty one.",
    )
