"""`relay migrate SRC DST`: move an object or a tree with the server's engine, without a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from relay.cli.engines import engine_for
from relay.cli.exits import EPILOG, Exit
from relay.cli.filter_flags import FILTERS, filters_of, warn_of_filters
from relay.cli.interrupt import Interrupted
from relay.cli.mirror_flags import MIRROR, take_mirror_settings
from relay.cli.options import (
    FILE,
    ONCE,
    PLACES,
    WORK,
    absolute_path,
    bounds_of,
    headers_of,
    warn,
    with_flags,
)
from relay.cli.saved_plan import order_of_plan
from relay.cli.terminal import confirm, say, say_error
from relay.config import Settings
from relay.engine.comparison import Compare
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists, Metadata, Verify, existing_of
from relay.engine.worker.slot_growth import MOST_SLOTS, SlotGrowth
from relay.errors import Cancelled, RelayError
from relay.ledger.deletion_values import MirrorSettings, RemovalSettings
from relay.process.cooperative import importing
from relay.process.early_interrupt import end_on_interrupt
from relay.process.late_modules import late_modules
from relay.process.memory import available_bytes
from relay.settings_sources import is_given, load_settings, trusted_ledger_url
from relay.stores.remotes import Remotes
from relay.views.problems import problem

_SECONDS = click.FloatRange(min=0)

LIMITS = (
    "connect_seconds",
    "head_seconds",
    "total_seconds",
    "stall_seconds",
    "retry_budget",
    "ca_bundle",
)
"""The flags that override the settings of the same name."""


WAITS = (
    click.option(
        "--ca-bundle",
        type=FILE,
        metavar="FILE",
        help="Trust the certificate authorities in this file too (PEM).",
    ),
    click.option(
        "--connect-seconds",
        type=_SECONDS,
        help="Limit of a connection with its TLS handshake, in seconds.",
    ),
    click.option(
        "--head-seconds",
        type=_SECONDS,
        help="Limit from a request to the head of its answer, in seconds.",
    ),
    click.option(
        "--stall-seconds",
        type=_SECONDS,
        help="Seconds without enough bytes before a store counts as stalled.",
    ),
    click.option(
        "--total-seconds",
        type=_SECONDS,
        help="Limit of one transfer with all its attempts, in seconds.",
    ),
    click.option(
        "--retry-budget", type=_SECONDS, help="Seconds within which a failed transfer is retried."
    ),
)
"""The flags of LIMITS."""

RUN = (
    *WAITS,
    click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object: the outcome or the problem."
    ),
    click.option(
        "--quiet", "-q", is_flag=True, help="Print errors only: no progress and no receipt."
    ),
)
"""Limits of one command, and its output."""


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC", required=False)
@click.argument("destination", metavar="DST", required=False)
@with_flags(WORK, (ONCE,), MIRROR, FILTERS, PLACES)
@click.option(
    "--plan",
    type=FILE,
    metavar="FILE",
    help="Do what relay plan --save FILE decided, and nothing else; SRC and DST may be left out.",
)
@with_flags(RUN)
def migrate(as_json: bool, quiet: bool, plan: Path | None, **options: Any) -> int:
    """Move one object, or with -r a tree, from SRC to DST, and prove each object.

    A DST that ends in '/' takes the source's name. With -r an object that is there unchanged is
    skipped, and a failure stops nothing else.

    After Ctrl-C or a crash, run the same command again: it resumes where it stopped.

    The process list shows arguments to every user of this machine: pass secrets with '@FILE' or a
    headers file. relay connects to the hosts that you name, wherever they are; a redirect may lead
    to public hosts only."""
    for name, metavar in (("source", "SRC"), ("destination", "DST")):
        if options[name] is None and (plan is None or options["source"] is not None):
            raise click.UsageError(f"Missing argument '{metavar}'.")
    mirror = take_mirror_settings(options)
    if mirror is not None and plan is not None:
        raise click.UsageError("--mirror lists both sides itself: leave --plan out")
    return run_migration(options, as_json, quiet, mirror, plan=plan)


def run_migration(
    options: Mapping[str, Any],
    as_json: bool,
    quiet: bool,
    removal: RemovalSettings | MirrorSettings | None,
    *,
    plan: Path | None = None,
) -> int:
    """Run the command `migrate`, or `move`, which have a `removal` of their own; return the exit
    code. With the file of a `plan`, only what it decided is done."""
    interrupted = json.dumps(problem(Cancelled("interrupted"))) if as_json else ""
    if as_json:
        # Until the work begins, which then handles Ctrl-C itself (local_run.work).
        end_on_interrupt(f"{interrupted}\n".encode())
    try:
        return _migrate(options, plan, as_json, quiet, removal)
    except Interrupted as error:
        if as_json:
            confirm(interrupted)
        return error.code
    except RelayError as error:
        if as_json:
            end_on_interrupt()
            say(json.dumps(problem(error)))
        say_error(error)
        return Exit.of(error)


def _migrate(
    options: Mapping[str, Any],
    plan: Path | None,
    as_json: bool,
    quiet: bool,
    removal: RemovalSettings | MirrorSettings | None,
) -> int:
    settings, first, grows = settings_of(options)
    remotes = Remotes(settings.remotes, folders=None)
    order = replace(
        order_of(options, remotes) if plan is None else order_of_plan(plan, options, remotes),
        # `--slots` limits this process only. As a limit for all workers it would prevent claims
        # ahead of time.
        bounds=replace(bounds_of(options), slots=None),
        moves=isinstance(removal, RemovalSettings),
        mirrors=isinstance(removal, MirrorSettings),
    )
    places = order.locate(remotes)
    warn(options, quiet)
    if not quiet:
        warn_of_filters(order.filters)
    if settings.url and not quiet:
        say(
            "relay: this migration is in the ledger of this machine; `relay status`, `cancel` and"
            " the others ask the server of RELAY_URL: unset it for them",
            sys.stderr,
        )
    # Imported here because SQLAlchemy takes a fifth of a second, for which a usage error should not
    # wait.
    with importing(), late_modules():
        from relay.cli.single import migrate_object
        from relay.cli.tree import migrate_tree
        from relay.ledger.ledger import Ledger

        if removal is not None:
            from relay.cli.removal_steps import Removal

    deletions = None if removal is None else Removal.of(order, places, removal, remotes)
    trash = None if deletions is None else deletions.trash
    engine = engine_for(settings, remotes, *places, *([] if trash is None else [trash]))
    if deletions is not None:
        deletions.require_possible(engine)
    ledger = Ledger.connect(trusted_ledger_url(settings))
    try:
        step = None
        if deletions is not None:
            step = deletions.step(ledger, engine, settings, quiet=quiet)
            earlier = step.finish_earlier()
            if earlier is not None:
                earlier.print(as_json, quiet)
                return earlier.exit_after(Exit.VERIFIED)
        if order.recursive:
            growth = growth_of(first, settings) if grows else None
            return migrate_tree(
                ledger,
                order,
                engine,
                slots=first,
                growth=growth,
                quiet=quiet,
                as_json=as_json,
                step=step,
            )
        return migrate_object(ledger, order, engine, quiet, as_json, step=step)
    finally:
        ledger.close()


def settings_of(options: Mapping[str, Any]) -> tuple[Settings, int, bool]:
    """Return the settings, the first number of slots, and whether that number may grow. Raises as
    load_settings."""
    flags = {name: options[name] for name in (*LIMITS, "slots")}
    settings = load_settings(flags)
    first, grows = settings.slots, not is_given("slots", flags)
    if grows:  # the pools and queues of the most slots that there may be
        settings = load_settings({**flags, "slots": max(first, MOST_SLOTS)})
    return settings, first, grows


def growth_of(first: int, settings: Settings) -> SlotGrowth:
    """Return the growth from the `first` number of slots to that of the settings, as far as there
    is memory for their payload."""

    def room() -> int:
        available = available_bytes()
        return settings.slots if available is None else available // settings.slot_bytes()

    return SlotGrowth(first=first, most=settings.slots, room=room)


def order_of(options: Mapping[str, Any], remotes: Remotes) -> MigrationRequest:
    """Return the request of the flags, without its limits. Raises as `read_headers` and
    `filters_of` and `existing_of`, and InvalidURL for a path that looks like one of the
    `remotes`."""
    tree = options["recursive"]
    if_exists = IfExists(options["if_exists"]) if options["if_exists"] else None
    compare = Compare(options["compare"]) if options["compare"] else None
    for side in ("source", "destination"):
        remotes.refuse_like_remote(options[side])
    return MigrationRequest(
        Endpoint(absolute_path(options["source"], tree), headers=headers_of(options, "source")),
        Endpoint(
            absolute_path(options["destination"], tree),
            headers=headers_of(options, "destination"),
            method=options["method"],
        ),
        recursive=tree,
        verify=Verify(options["verify"]),
        if_exists=existing_of(if_exists, compare),
        compare=compare,
        server_copy=options["server_copy"],
        metadata=Metadata(options["metadata"]),
        fail_on_empty=options["fail_on_empty"],
        once=options.get("once", False),
        filters=filters_of(options),
    )
