"""`relay move SRC DST`: migrate, and then delete at the source what is proved."""

from __future__ import annotations

from typing import Any

import click

from relay.cli.filter_flags import FILTERS
from relay.cli.migrate import RUN, run_migration
from relay.cli.options import PLACES, WORK, with_flags
from relay.cli.quantities import Seconds
from relay.ledger.deletion_values import RemovalSettings

EPILOG = (
    "Exit codes: 0 moved · 1 failed · 2 wrong usage · 3 something was kept at the source, or is not"
    " verified · 130 interrupted"
)


class Delay(Seconds):
    """A duration, or 0."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As Seconds.convert."""
        return 0.0 if str(value).strip() == "0" else super().convert(value, param, ctx)


MOVE = (
    click.option(
        "--delete-after",
        type=Delay(),
        default="0",
        metavar="7d",
        help=(
            "Leave each source object for this time after its proof; then run the same command"
            " again (default: 0)."
        ),
    ),
    click.option(
        "--purge",
        is_flag=True,
        help=(
            "Where the source keeps versions: delete the version that was read for good (default: a"
            " delete marker hides it)."
        ),
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Refuse a source that is not known to compare the version when it deletes.",
    ),
    click.option(
        "--lose-metadata",
        is_flag=True,
        help="Delete source objects too whose metadata the destination does not keep.",
    ),
)


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_flags(MOVE, WORK, FILTERS, PLACES, RUN)
def move(
    as_json: bool,
    quiet: bool,
    *,
    delete_after: float,
    purge: bool,
    strict: bool,
    lose_metadata: bool,
    **options: Any,
) -> int:
    """Move one object, or with -r a tree, from SRC to DST: copy and prove it, then delete it at
    SRC.

    An object is deleted only if its copy was proved by more than its size, if DST still has the
    version that was proved, and if SRC still has the version that was read. Everything doubtful is
    kept, and the reason is printed. Nothing is deleted before all copies have ended.

    After Ctrl-C or a crash, run the same command again: it asks the same questions again."""
    settings = RemovalSettings(
        after=delete_after, purge=purge, strict=strict, loses_metadata=lose_metadata
    )
    return run_migration(options, as_json, quiet, settings)
