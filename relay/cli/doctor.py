"""`relay doctor LOCATION`: test what a store can do, and print a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import click

from relay.cli.exits import Exit
from relay.cli.flags import in_flags
from relay.cli.interrupt import Interrupted, interrupt_as_exception
from relay.cli.terminal import ReaderGone, plain, say, tell
from relay.engine.doctor import Answer, Finding, probe_readable, probe_writable
from relay.engine.scratch import ScratchFolder
from relay.engine.transfer_engine import TransferEngine
from relay.receipt import Level
from relay.settings_sources import load_settings
from relay.stores.remotes import Remotes
from relay.wire.watchdog import Watchdog

REMOVING = "relay: removing the test objects; press Ctrl-C again to stop at once"
MEANS = {
    Level.WHOLE_DIGEST: "whole_digest: verified by the store's own digest",
    Level.READ_BACK: "read_back: every object is read back to verify it",
    Level.SIZE: "size: only sizes can be compared, so objects stay unverified",
}


@click.command()
@click.argument("location", metavar="LOCATION")
@click.option(
    "--read-only", is_flag=True, help="Write nothing: list the folder and read one of its objects."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def doctor(location: str, read_only: bool, as_json: bool) -> int:
    """Test what the folder LOCATION supports: ranges, conditional writes, multipart uploads,
    digests, names, listings.

    relay writes some small objects below a name of its own (and one of 5 MiB if the store has
    multipart uploads), and removes them. Exit codes: 0 relay can use it, 1 it cannot, 2 wrong
    usage."""
    settings = load_settings()
    remotes = Remotes(settings.remotes, folders=None)
    place = remotes.locate(location, folder=True, destination=not read_only)
    policy = settings.egress().allowing(*filter(None, (place.host,)))
    engine = TransferEngine(settings, policy, remotes=remotes)
    scratch = ScratchFolder(engine.stores, place.folder(), lambda: Watchdog(engine.limits))
    try:
        with interrupt_as_exception("" if read_only else REMOVING):
            return _print_findings(
                scratch, probe_readable if read_only else probe_writable, as_json
            )
    except Interrupted:
        for left in scratch.left:
            say(f"relay: not removed: {plain(left)}", sys.stderr)
        raise


def _print_findings(
    scratch: ScratchFolder, examination: Callable[[ScratchFolder], Iterator[Finding]], as_json: bool
) -> int:
    code, findings = Exit.VERIFIED, examination(scratch)
    try:
        for finding in findings:
            # Without a reader the tests continue, for the exit code.
            with suppress(ReaderGone):
                tell(_json(finding) if as_json else _line(finding))
            if finding.needed and finding.answer is Answer.NO:
                code = Exit.FAILED
    finally:
        findings.close()  # type: ignore[attr-defined]  # a generator: it removes what it wrote
    if code is Exit.VERIFIED and examination is probe_writable:
        level = scratch.predict_level()
        line = f"\nexpect {MEANS[level]}"
        if as_json:
            line = json.dumps({"what": "expect", "level": level.value})
        with suppress(ReaderGone):
            tell(line)
    return code


def _line(finding: Finding) -> str:
    return f"{finding.what:<18} {finding.answer.value:<8} {plain(in_flags(finding.means))}"


def _json(finding: Finding) -> str:
    members = {
        "what": finding.what,
        "answer": finding.answer.value,
        "means": finding.means,
        "needed": finding.needed,
    }
    return json.dumps(members)
