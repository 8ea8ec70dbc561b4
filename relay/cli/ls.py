"""`relay ls LOCATION`: list a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from time import monotonic

import click

from relay.cli.exits import Exit
from relay.cli.terminal import plain, say, tell, tell_empty
from relay.cli.waits import reporting_retries
from relay.settings_sources import load_settings
from relay.stores.interfaces import Entry
from relay.stores.provider import Stores, make_dialer, make_wire
from relay.stores.remotes import Remotes
from relay.wire.watchdog import Watchdog

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
def ls(location: str, recursive: bool, long_: bool, as_json: bool) -> int:
    """List the folder LOCATION: s3://bucket/folder, webdav+https://host/folder, remote:path, or a
    path.

    An object that cannot be moved is named on stderr with the reason. If a folder below cannot be
    listed, the exit code is 1."""
    settings = load_settings()
    place = Remotes(settings.remotes, folders=None).locate(location, folder=True)
    policy = settings.egress().allowing(*filter(None, (place.host,)))
    wire = make_wire(make_dialer(settings, policy))
    meter = Watchdog(wire.limits)
    with reporting_retries(meter):
        entries = Stores(wire).source(place, meter).list(place, recursive)
        code, count = _print_entries(entries, recursive, long_, as_json)
    if not count:
        tell_empty(f"{place} is empty")
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
