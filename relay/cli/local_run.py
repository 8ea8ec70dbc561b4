"""Run a migration of this machine's ledger in a command, so that the same command resumes it.

Decided here: which migration a command means, and what Ctrl-C does to it. Never here: what is shown
meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import gevent

from relay.cli.exits import Exit
from relay.cli.flags import in_flags
from relay.cli.formatting import NAMED
from relay.cli.interrupt import Interrupt
from relay.cli.terminal import plain, say
from relay.engine.migration_request import MigrationJob, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.arrived import ARRIVED, ArrivalCheck
from relay.engine.worker.worker import Worker
from relay.errors import IllegalTransition, RelayError
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Migration
from relay.stores.url_lists import SCHEME
from relay.views.rows import reported

STOP_SECONDS: Final = 10.0
AGAIN: Final = 5
"""How often a migration is looked at again that another process acts on at the same moment."""
TOLD_SECONDS: Final = 30.0
"""How often it is said that the ledger is still waited for."""
LOOKING_SECONDS: Final = 5.0
"""How often it is said how many objects were looked at."""
STOPPED: Final = "relay: stopped; the same command goes on where this was left"
VERBS: Final = {"paused": "resume", "partial": "retry", "failed": "retry", "cancelled": "retry"}
"""What goes on with a migration that was not ended well."""


def accept(
    ledger: Ledger, order: MigrationRequest, runner: TransferEngine, quiet: bool
) -> tuple[Migration, bool]:
    """Return the migration of this request, and whether it is new: one that has not succeeded is
    gone on with.

    What has arrived of that one is looked at before anything else, and what is gone is moved again;
    unless `quiet`, that is said on stderr, and of how much the destination does not tell. Raises
    RelayError."""
    for _ in range(AGAIN):
        with suppress(
            IllegalTransition
        ):  # another process did that, or ended it, since it was looked at
            return _accept(ledger, order, runner, quiet)
    return _accept(ledger, order, runner, quiet)


def _accept(
    ledger: Ledger, order: MigrationRequest, runner: TransferEngine, quiet: bool
) -> tuple[Migration, bool]:
    """As `accept`; raises IllegalTransition where another process acts on it meanwhile."""
    found, new = ledger.create(order.spec(runner.remotes), go_on=True)
    if new:
        return found, True
    gone = _find_missing(ledger, order, runner, found, quiet)
    found = ledger.migration(found.id)
    if found.state == "succeeded":  # another process ended it meanwhile
        return _accept(ledger, order, runner, quiet)
    ledger.renew_secret(found.id, order.secret())
    ledger.reset_crash_counts(found.id)
    if gone:
        ledger.begin_again(found.id, gone)
        found = ledger.migration(found.id)
    verb = VERBS.get(found.state)
    if order.recursive and (verb == "retry" or _is_at_rest(ledger, found)):
        ledger.list_again(
            found.id, anyway=True
        )  # the source may have more by now, and other objects
    elif verb:
        ledger.act(found.id, verb, order.secret())
    if (
        ledger.secret(found.id) is None
    ):  # another process forgot it, since the migration had ended until now
        ledger.renew_secret(found.id, order.secret())
    limits = order.bounds.given()
    return ledger.limit(found.id, limits) if limits else ledger.migration(found.id), False


def _is_at_rest(ledger: Ledger, found: Migration) -> bool:
    """Say if a tree was listed to its end, and nobody works on it: then that may have been long
    ago. A list of URLs is what it was, and `relay retry --list` may have given fresher ones
    since."""
    if found.listing not in ("done", "failed") or found.source.startswith(SCHEME):
        return False
    ledger.reclaim()  # a process that was killed may still stand there as one that works on it
    return not ledger.migration(found.id).under_way


def _find_missing(
    ledger: Ledger, order: MigrationRequest, runner: TransferEngine, found: Migration, quiet: bool
) -> list[int]:
    """Return the ids of the objects that have arrived, and are not at the destination any more."""
    arrived = found.count_in(*ARRIVED).objects
    if not arrived:
        return []
    tell: Callable[[str], None] = (lambda line: None) if quiet else _say_error
    told_at = monotonic()

    def looked(count: int) -> None:
        nonlocal told_at
        if count < arrived and monotonic() - told_at >= LOOKING_SECONDS:
            told_at = monotonic()
            tell(f"relay: looking at what has arrived before: {count:,} of {arrived:,} objects")

    look = ArrivalCheck(
        ledger, runner, MigrationJob.from_request(found.id, order, *order.locate(runner.remotes))
    )
    gone = look.find_missing(looked)
    if gone:
        tell(
            f"relay: {len(gone):,} objects had arrived, and are not at the destination any more:"
            " they are moved again"
        )
    if look.why is not None:
        why = plain(look.why.message)
        tell(
            f"relay: the destination does not tell if {look.untold:,} objects that arrived are"
            f" still there: {why}"
        )
    return gone


def held_by_another(migration: Migration) -> str:
    """Return the limits of a migration that is gone on with, which nobody may remember, as the end
    of a line."""
    limits = ", ".join(f"{name} {most:,}" for name, most in migration.bounds.given().items())
    return f"; limits: {limits} (`relay limit {migration.number}`)" if limits else ""


def failures(ledger: Ledger, migration: Migration) -> list[dict[str, Any]]:
    """Return the first of its objects that failed, for the table of its end."""
    return [reported(row) for row in ledger.page(migration.id, ["failed"], limit=NAMED)]


def _say_error(line: str) -> None:
    say(line, sys.stderr)


def work(
    claimer: Worker,
    look: Callable[[], None],
    look_seconds: float,
    tell: Callable[[str], None] = _say_error,
) -> Exit | None:
    """Let a claimer work to its end, or to Ctrl-C; `look` so often meanwhile, and `tell` why
    nothing goes on, where the ledger does not answer. Return what code a signal ends with.

    What ran is handed back, and goes on another time. Raises what the claimer does.
    """
    job = gevent.spawn(_run_worker, claimer)
    stopped = Interrupt(claimer.stop, STOP_SECONDS)
    told_at: float | None = None
    with stopped.caught():
        while not job.ready() and not stopped.late():
            job.join(look_seconds)
            look()
            if claimer.trouble is not None and (
                told_at is None or monotonic() - told_at >= TOLD_SECONDS
            ):
                told_at = monotonic()
                tell(
                    f"relay: waiting for the ledger: {plain(claimer.trouble.message)};"
                    f" {in_flags(claimer.trouble.hint)}"
                )
    if isinstance(job.value, RelayError):
        raise job.value
    return stopped.code


def _run_worker(claimer: Worker) -> RelayError | None:
    try:
        claimer.run()
    except RelayError as error:
        return error
    return None
