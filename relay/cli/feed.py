"""`relay feed ID`: the objects of a standing migration as they arrive, for programs."""

from __future__ import annotations

import json
import time
from typing import Final

import click

from relay.cli.exits import Exit
from relay.cli.machine_ledger import open_ledger
from relay.cli.terminal import ReaderGone, tell
from relay.ledger.states import ENDED
from relay.views.pass_members import feed_members

PAGE: Final = 1000
LOOK_SECONDS: Final = 0.5
"""Seconds between two looks at the ledger with --follow."""


@click.command()
@click.argument("id")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="SEQ",
    help="Print the rows behind this number: the `seq` of the last row that you have.",
)
@click.option(
    "--follow", is_flag=True, help="Wait for further rows, until the migration has ended."
)
def feed(id: str, *, after: int, follow: bool) -> int:
    """Print a JSON object for each object of the standing migration ID that arrived or was refused.

    The numbers `seq` have no gap, and are in the order in which the ends were recorded. Keep the
    last one, and give it to --after the next time: no row is left out then."""
    ledger = open_ledger()
    try:
        migration = ledger.migration(id)
        while True:
            has_ended = ledger.migration(migration.id).state in ENDED
            rows = ledger.standing.feed(migration.id, after, PAGE)
            for row in rows:
                tell(json.dumps(feed_members(row, migration)))
            after = rows[-1].seq if rows else after
            if len(rows) == PAGE:
                continue
            if not follow or has_ended:
                return Exit.VERIFIED
            time.sleep(LOOK_SECONDS)
    except ReaderGone:
        return Exit.VERIFIED
    finally:
        ledger.close()
