"""`relay ls LOCATION`: list a folder."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import click

from relay.cli.exits import Exit
from relay.cli.filter_flags import FILTERS, filters_of, say_missing_names, warn_of_filters
from relay.cli.options import with_flags
from relay.cli.terminal import plain, say, tell, tell_empty
from relay.cli.waits import reporting_retries
from relay.settings_sources import load_settings
from relay.stores.interfaces import Entry
from relay.stores.provider import Stores, make_dialer, make_wire
from relay.stores.remotes import Remotes
from relay.wire.watchdog import Watchdog

if TYPE_CHECKING:
    from relay.engine.listing_filter import ListingFilter

LINES, SECONDS = 1000, 0.5
"""Lines are written together: at most LINES, and the first after at most SECONDS."""


@click.command()
@click.argument("location", metavar="LOCATION")
@click.option("--recursive", "-r", is_flag=True, help="List all objects below it, not one folder.")
@click.option(
    "--long",
    "-l",
    "long_",
    is_flag=True,
    help="Print sizes in bytes and times of change (UTC) too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@with_flags(FILTERS)
@click.option(
    "--dump-filters",
    is_flag=True,
    help="Print the rules of the filters as expressions, as rclone does, and list nothing.",
)
def ls(location: str, long_: bool, as_json: bool, dump_filters: bool, **options: Any) -> int:
    """List the folder LOCATION: s3://bucket/folder, webdav+https://host/folder, sftp://host/folder,
    remote:path, or a path. With filters, list what `relay migrate -r` with the same filters would
    move.

    An object that cannot be moved is named on stderr with the reason. If a folder below cannot be
    listed, the exit code is 1."""
    recursive: bool = options["recursive"]
    filters = filters_of(options)
    warn_of_filters(filters)
    if dump_filters:
        # Imported here, as below: most listings have no filters, and need not wait for the rules.
        from relay.filters.filter_set import Filters

        tell((filters or Filters()).dump(datetime.now(UTC)))
        return Exit.VERIFIED
    settings = load_settings()
    place = Remotes(settings.remotes, folders=None).locate(location, folder=True)
    policy = settings.egress().allowing(*filter(None, (place.host,)))
    wire = make_wire(make_dialer(settings, policy))
    meter = Watchdog.of_listing(wire.limits)
    with reporting_retries(meter):
        source = Stores(wire).source(place, meter)
        entries = source.list(place, recursive)
        chosen: ListingFilter | None = None
        if filters is not None:
            from relay.engine.listing_filter import ListingFilter

            seed = uuid.uuid4().hex
            chosen = ListingFilter(filters, source, place, meter, now=time(), seed=seed)
            entries = chosen.chosen(source.list(place, True, enters=chosen.enters))
        code, count = _print_entries(entries, recursive, long_, as_json)
    excluded = 0 if chosen is None else chosen.entries + chosen.folders
    if excluded:
        say(f"relay: {excluded:,} excluded by the filters", sys.stderr)
    if chosen is not None:
        say_missing_names(filters, chosen.missing_names)
    if not count:
        tell_empty(f"{place} is empty" if not excluded else f"nothing in {place} was chosen")
    return code


def _print_entries(
    entries: Iterable[Entry], recursive: bool, long_: bool, as_json: bool
) -> tuple[Exit, int]:
    lines: list[str] = []
    written, code, count = monotonic(), Exit.VERIFIED, 0
    for entry in entries:
        count += 1
        if entry.error is not None:
            say(f"relay: {plain(entry.name)}: {plain(entry.error.message)}", sys.stderr)
        if recursive and entry.folder:
            # A recursive listing names a folder only if that folder can't be listed.
            code = Exit.FAILED
        lines.append(json.dumps(_members(entry)) if as_json else _line(entry, long_))
        # A write for each line would cost more than the listing.
        if len(lines) == LINES or monotonic() - written > SECONDS:
            tell("\n".join(lines))
            lines, written = [], monotonic()
    if lines:
        tell("\n".join(lines))
    return code, count


def _line(entry: Entry, long_: bool) -> str:
    name = plain(entry.name)
    if not long_:
        return name
    size = "" if entry.size is None else str(entry.size)
    when = entry.modified.strftime("%Y-%m-%d %H:%M:%S") if entry.modified else ""
    return f"{size:>15}  {when:19}  {name}"


def _members(entry: Entry) -> dict[str, object]:
    modified = entry.modified.isoformat() if entry.modified else None
    members = {
        "name": entry.name,
        "size": entry.size,
        "etag": entry.etag,
        "modified": modified,
        "folder": entry.folder,
    }
    return {**members, **({"error": entry.error.message} if entry.error is not None else {})}
