"""`relay cutover | finish | reopen | abort ID`: the end of a standing migration."""

from __future__ import annotations

from pathlib import Path

import click

from relay.cli.exits import Exit
from relay.cli.interrupt import Interrupted
from relay.cli.machine_ledger import open_ledger
from relay.cli.quantities import Seconds
from relay.cli.terminal import confirm
from relay.engine.comparison_report import Reads
from relay.ledger.states import PhaseEvent
from relay.process.cooperative import importing
from relay.process.late_modules import late_modules
from relay.settings_sources import load_settings


@click.command(
    epilog=(
        "Exit codes: 0 rehearsed, or reported · 1 not ready, not quiet in time, or not proved · 2"
        " wrong usage · 130 interrupted"
    )
)
@click.argument("id")
@click.option(
    "--rehearse",
    is_flag=True,
    help="Do the same without its consequences, and say how long it would take.",
)
@click.option(
    "--unrehearsed", is_flag=True, help="Cut over without a rehearsal of the last 24 hours."
)
@click.option(
    "--give-up",
    type=Seconds(),
    default="2h",
    help="Give up if the source is not quiet after this long (default: 2h).",
)
@click.option(
    "--accept-refused",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Accept up to N objects that another writer has changed at the destination.",
)
@click.option(
    "--read",
    type=click.Choice([Reads.NONE.value, Reads.MISSING.value]),
    default=Reads.MISSING.value,
    help="Read the objects that no digest and no receipt proves (missing, default), or none.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The new folder of the report (default: relay-ID-report).",
)
def cutover(
    id: str,
    *,
    rehearse: bool,
    unrehearsed: bool,
    give_up: float,
    accept_refused: int,
    read: str,
    output: Path | None,
) -> int:
    """Make the last passes of the standing migration ID, once its writers were stopped: until two
    listings of the source are equal. Then prove every object, and sign a report.

    Nothing is hidden or renamed meanwhile: the destination's objects can be read at any time. Run
    the same command again after Ctrl-C or a crash."""
    settings = load_settings()
    with importing(), late_modules():
        from relay.cli.cutover_run import CutoverOrder, CutoverRun

    order = CutoverOrder(
        rehearse=rehearse,
        unrehearsed=unrehearsed,
        give_up=give_up,
        accept_refused=accept_refused,
        reads=Reads(read),
        output=output,
    )
    ledger = open_ledger()
    try:
        return CutoverRun(ledger, settings, order).run(id)
    except Interrupted as error:
        return error.code
    finally:
        ledger.close()


@click.command()
@click.argument("id")
def finish(id: str) -> int:
    """End the standing migration ID after its cutover: the readers were switched."""
    ledger = open_ledger()
    try:
        found = ledger.standing.change_phase(id, PhaseEvent.FINISH)
        ledger.finish()
        found = ledger.migration(found.id)
        confirm(f"migration {found.name} is finished: {found.state}")
        return Exit.VERIFIED
    finally:
        ledger.close()


@click.command()
@click.argument("id")
def reopen(id: str) -> int:
    """Continue the standing migration ID after its cutover: the writers were started again."""
    return _change(id, PhaseEvent.REOPEN)


@click.command()
@click.argument("id")
def abort(id: str) -> int:
    """Give up the cutover or the rehearsal of the standing migration ID: its passes go on."""
    return _change(id, PhaseEvent.ABORT)


def _change(id: str, event: str) -> int:
    ledger = open_ledger()
    try:
        found = ledger.standing.change_phase(id, event)
        phase = "" if found.standing is None else found.standing.phase
        confirm(f"migration {found.name} is {phase}: `relay follow` continues its passes")
        return Exit.VERIFIED
    finally:
        ledger.close()
