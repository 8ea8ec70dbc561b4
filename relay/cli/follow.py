"""`relay follow SRC DST`: keep the tree DST current while SRC is still written to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from relay.cli.engines import engine_for
from relay.cli.exits import Exit
from relay.cli.filter_flags import FILTERS, warn_of_filters
from relay.cli.interrupt import Interrupted
from relay.cli.migrate import WAITS, growth_of, order_of, settings_of
from relay.cli.options import BOUNDS, HOW, PLACES, bounds_of, warn, with_flags
from relay.cli.quantities import COUNT, Seconds
from relay.cli.terminal import confirm, say, say_error
from relay.errors import Cancelled, RelayError
from relay.ledger.standing_values import PassHours, PassTimes
from relay.process.cooperative import importing
from relay.process.early_interrupt import end_on_interrupt
from relay.process.late_modules import late_modules
from relay.settings_sources import trusted_ledger_url
from relay.stores.remotes import Remotes
from relay.views.problems import problem

if TYPE_CHECKING:
    from relay.engine.worker.slot_growth import SlotGrowth


class Hours(click.ParamType[PassHours, Any]):
    """The hours of a day, such as `22:00-06:00`."""

    name = "hours"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PassHours:
        """Return the hours. Raises click.BadParameter."""
        try:
            return value if isinstance(value, PassHours) else PassHours.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a part of a day, such as 22:00-06:00", param, ctx)


@click.command(
    epilog=(
        "Exit codes, once it ends: 0 all is verified · 1 a pass was incomplete, or an object failed"
        " · 2 wrong usage · 3 something is not verified · 130 interrupted"
    )
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--every",
    type=Seconds(),
    default="1h",
    help="A pass begins this long after the one before began (default: 1h).",
)
@click.option(
    "--window",
    type=Hours(),
    metavar="22:00-06:00",
    help="Begin passes in these hours only, by the clock of this machine.",
)
@click.option("--passes", type=COUNT, metavar="N", help="Stop after N passes.")
@click.option(
    "--overwrite-changed",
    is_flag=True,
    help="Replace the objects that were refused so far as `destination-changed`.",
)
@with_flags(HOW, BOUNDS, FILTERS, PLACES, WAITS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each pass.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def follow(as_json: bool, quiet: bool, **options: Any) -> int:
    """Move the tree SRC to DST, and keep DST current: every pass lists SRC once, and moves what is
    new or has changed. Names that leave SRC stay in DST.

    It runs until Ctrl-C. Run the same command again to go on; after a crash too. `relay cutover`
    rehearses the last pass, and makes it."""
    try:
        return _follow(options, as_json, quiet)
    except Interrupted as error:
        if as_json:
            confirm(json.dumps(problem(Cancelled("interrupted"))))
        return error.code
    except RelayError as error:
        if as_json:
            end_on_interrupt()
            say(json.dumps(problem(error)))
        say_error(error)
        return Exit.of(error)


def _follow(options: Mapping[str, Any], as_json: bool, quiet: bool) -> int:
    settings, first, grows = settings_of(options)
    remotes = Remotes(settings.remotes, folders=None)
    whole = {**options, "recursive": True, "fail_on_empty": False, "method": None}
    order = replace(
        order_of(whole, remotes),
        bounds=replace(bounds_of(options), slots=None),
        standing=PassTimes(options["every"], options["window"]),
    )
    places = order.locate(remotes)
    warn(options, quiet)
    if not quiet:
        warn_of_filters(order.filters)
    with importing(), late_modules():
        from relay.cli.standing_run import Follower
        from relay.ledger.ledger import Ledger

    def growth() -> SlotGrowth | None:
        return growth_of(first, settings) if grows else None

    engine = engine_for(settings, remotes, *places)
    ledger = Ledger.connect(trusted_ledger_url(settings))
    try:
        follower = Follower(
            ledger,
            engine,
            slots=first,
            growth=growth,
            quiet=quiet,
            as_json=as_json,
            passes=options["passes"],
        )
        return follower.run(order, overwrite_changed=options["overwrite_changed"])
    finally:
        ledger.close()
