"""`relay undo ID`: take back deletions of a move or a mirror, where the store kept the versions."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from relay.cli.engines import engine_for
from relay.cli.exits import Exit
from relay.cli.machine_ledger import refuse_server
from relay.cli.options import PLACES, headers_of, warn, with_flags
from relay.cli.terminal import confirm, plain, tell
from relay.engine.migration_request import Endpoint, request_of_options
from relay.errors import ConfigError
from relay.process.cooperative import importing
from relay.process.late_modules import late_modules
from relay.settings_sources import load_settings, trusted_ledger_url
from relay.stores.remotes import Remotes

if TYPE_CHECKING:
    from relay.engine.removal.marker_removal import MarkerRemoval
    from relay.ledger.ledger import Ledger

NAMED = 10
"""Number of failures that are printed."""


@click.command(
    epilog=(
        "Exit codes: 0 every deletion was undone · 1 failed · 2 wrong usage · 3 some were not"
        " · 130 interrupted"
    )
)
@click.argument("id")
@with_flags(PLACES)
@click.option(
    "--list",
    "lists",
    is_flag=True,
    help="Print the deletions and the kept objects, one JSON object a line, and undo nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def undo(id: str, lists: bool, as_json: bool, quiet: bool, **options: Any) -> int:
    """Take back the deletions of migration ID: a `relay move`, or a `relay migrate --mirror`.

    Where a bucket keeps versions, a deletion made a marker that hides the object. Its marker is
    removed, if it is still the newest version. With --trash the object is copied back, if nothing
    is at its place. Other deletions in stores without versions, and those with --purge, can't be
    undone."""
    settings = load_settings()
    refuse_server(settings, "undo reads the ledger itself")
    with importing(), late_modules():
        from relay.cli.removal_run import run_interruptibly
        from relay.engine.removal.marker_removal import MarkerRemoval
        from relay.engine.removal.trash import Trash
        from relay.ledger.ledger import Ledger

    remotes = Remotes(settings.remotes, folders=None)
    ledger = Ledger.connect(trusted_ledger_url(settings))
    try:
        found = ledger.migration(id)
        if lists:
            return _print_rows(ledger, found.id)
        ends = (
            Endpoint(text, headers=headers_of(options, side))
            for side, text in (("source", found.source), ("destination", found.destination))
        )
        order = request_of_options(found.options, *ends)
        places = order.locate(remotes)
        if not ledger.is_at(found.id, order.spec_at(*places, remotes)):
            raise ConfigError(
                f"the names of migration {found.name} lead to other places now",
                hint="Give the remotes, and the headers, that the migration had.",
            )
        warn(options, quiet)
        engine = engine_for(settings, remotes, *places)
        sides = dict(zip(("source", "destination"), places, strict=True))

        def open_trash(text: str) -> Trash:
            folder = remotes.locate(text, destination=True, folder=True).folder()
            return Trash(engine_for(settings, remotes, *places, folder), folder, found.id, text)

        removal = MarkerRemoval(
            ledger,
            engine,
            found.id,
            sides,
            recursive=found.recursive,
            open_trash=cache(open_trash),
        )
        ended, code = run_interruptibly(removal.run, removal.stop, "store", quiet)
    finally:
        ledger.close()
    if isinstance(ended, Exception):
        raise ended
    _print(removal, as_json, quiet)
    if code is not None:
        return code
    return Exit.UNVERIFIED if removal.lost or removal.failures else Exit.VERIFIED


def _print_rows(ledger: Ledger, id: str) -> Exit:
    rows = ledger.deletions.page(id)
    while rows:
        for row in rows:
            tell(json.dumps(row.to_json()))
        rows = ledger.deletions.page(id, after=rows[-1].id)
    return Exit.VERIFIED


def _print(done: MarkerRemoval, as_json: bool, quiet: bool) -> None:
    if as_json:
        samples = [{"name": name, "detail": why} for name, why in done.samples]
        counts = {"undone": done.undone, "lost": done.lost, "failed": done.failures}
        confirm(json.dumps({**counts, "samples": samples}))
        return
    if quiet:
        return
    confirm(f"{done.undone:,} deletions undone")
    if done.lost:
        confirm(f"{done.lost:,} can't be undone: the store kept no version, or named no marker")
    if done.failures:
        confirm(f"{done.failures:,} were not undone")
    for name, why in done.samples[:NAMED]:
        confirm(f"  {plain(name) or 'it'}: {plain(why)}")
