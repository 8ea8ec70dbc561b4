"""Run a migration of this machine's ledger in a command, so that the same command resumes it.

Decided here: which migration a command resumes, and how Ctrl-C stops it. Never here: its
display."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from math import inf
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
from relay.ledger.migration_values import Migration
from relay.ledger.states import STOPPED as STOPPED_STATES
from relay.ledger.states import ListingState, MigrationState, MigrationVerb, TransferState
from relay.stores.url_lists import SCHEME
from relay.throttle import Throttle
from relay.views.migrations import report_line

STOP_SECONDS: Final = 10.0
ATTEMPTS: Final = 5
"""Number of attempts where another process changes the migration at the same moment."""
OUTAGE_LINE_SECONDS: Final = 30.0
"""Seconds between two messages that the ledger is still unavailable."""
LEASE_SECONDS: Final = 0.25
"""Seconds between two looks at the leases of other processes."""
LOOKING_SECONDS: Final = 5.0
"""Seconds between two messages about the number of checked objects."""
STOPPED: Final = "relay: stopped; run the same command again to resume"
VERBS: Final[Mapping[str, str]] = {
    MigrationState.PAUSED: MigrationVerb.RESUME,
    MigrationState.PARTIAL: MigrationVerb.RETRY,
    MigrationState.FAILED: MigrationVerb.RETRY,
    MigrationState.CANCELLED: MigrationVerb.RETRY,
}
"""How to resume a migration, by its state."""


def accept(
    ledger: Ledger, order: MigrationRequest, engine: TransferEngine, quiet: bool
) -> tuple[Migration, bool]:
    """Return the migration of this request, and whether it is new. A migration of the same request
    that has not succeeded is resumed, unless it is paused or cancelled meanwhile.

    Before that, the objects that had arrived are checked, and those that are missing are moved
    again. Unless `quiet`, stderr says how many are missing, and how many could not be checked.
    Raises RelayError."""
    for _ in range(ATTEMPTS):
        # IllegalTransition: another process resumed or ended it since this one read its state.
        with suppress(IllegalTransition):
            return _accept(ledger, order, engine, quiet)
    return _accept(ledger, order, engine, quiet)


def _accept(
    ledger: Ledger, order: MigrationRequest, engine: TransferEngine, quiet: bool
) -> tuple[Migration, bool]:
    """As `accept`; raises IllegalTransition where another process changes the migration
    meanwhile."""
    # Step 1: find the migration that this command began earlier, or make one.
    found, new = ledger.create(order.spec(engine.remotes), go_on=True)
    if new:
        return found, True
    # Step 2: ask the destination for the objects that had arrived. That may take a while, so the
    # state is read again.
    gone = _find_missing(ledger, order, engine, found, quiet)
    was, found = found.state, ledger.migration(found.id)
    if found.state == MigrationState.SUCCEEDED:  # another process ended it meanwhile
        return _accept(ledger, order, engine, quiet)
    if _is_stopped_since(was, found):
        return found, False
    # Step 3: renew the credentials, before anything is queued that a worker would move with the
    # old ones.
    ledger.renew_secret(found.id, order.secret())
    ledger.reset_crash_counts(found.id)
    # Step 4: queue what is missing, and restart the migration by its state.
    ledger.begin_again(found.id, gone)
    found = ledger.migration(found.id)
    verb = VERBS.get(found.state)
    must_list = order.recursive and (verb == MigrationVerb.RETRY or _is_at_rest(ledger, found))
    was, found = found.state, ledger.migration(found.id)
    if _is_stopped_since(was, found):
        return found, False
    if must_list:
        ledger.list_again(found.id, anyway=True)  # the source may have other objects now
    elif verb:
        ledger.act(found.id, verb, order.secret())
    if ledger.secret(found.id) is None:
        # The migration had ended until now, so another process deleted its secret.
        ledger.renew_secret(found.id, order.secret())
    # Step 5: limits that are given now replace earlier ones; the others stay.
    limits = order.bounds.set_limits()
    return ledger.limit(found.id, limits) if limits else ledger.migration(found.id), False


def _is_stopped_since(was: str, found: Migration) -> bool:
    """Return whether a user has paused or cancelled a migration since its state `was` read: then
    this command leaves it so."""
    return found.state in STOPPED_STATES and found.state != was


def _is_at_rest(ledger: Ledger, found: Migration) -> bool:
    """Return whether the listing of a tree has ended and no worker moves its objects: the listing
    may be old then. A list of URLs does not change, and `relay retry --list` may have given fresher
    URLs since.

    In another container, or on another machine, a process that was killed looks alive until its
    lease ends. One that runs renews its lease before that."""
    has_ended = found.listing in (ListingState.DONE, ListingState.FAILED)
    if not has_ended or found.source.startswith(SCHEME):
        return False
    seen: dict[str, float] = {}
    while True:
        ledger.leases.reclaim()  # release the claims of processes that were killed
        leases = ledger.leases.of_migration(found.id)
        if not leases:
            return not ledger.migration(found.id).under_way
        # A renewed lease, or an infinite one (leases_of), belongs to a process that runs.
        if any(until > seen.get(id, until) or until == inf for id, until in leases.items()):
            return False
        seen = {**leases, **seen}
        gevent.sleep(LEASE_SECONDS)


def _find_missing(
    ledger: Ledger, order: MigrationRequest, engine: TransferEngine, found: Migration, quiet: bool
) -> list[int]:
    """Return the ids of the objects that had arrived and must move again: they are missing at the
    destination now, or a single object has changed at the source."""
    arrived = found.count_in(*ARRIVED).objects
    if not arrived:
        return []
    tell: Callable[[str], None] = (lambda line: None) if quiet else _say_error
    last_line = monotonic()

    def report_count(count: int) -> None:
        nonlocal last_line
        if count < arrived and monotonic() - last_line >= LOOKING_SECONDS:
            last_line = monotonic()
            tell(f"relay: checking the objects at the destination: {count:,} of {arrived:,}")

    throttle = Throttle()
    # The limits of this command replace earlier ones, but only later (`_accept`).
    throttle.allow(replace(found.bounds, **order.bounds.set_limits()))
    job = MigrationJob.from_request(found.id, order, *order.locate(engine.remotes))
    check = ArrivalCheck(ledger, engine, job, throttle=throttle)
    gone = check.find_missing(report_count)
    if gone and order.recursive:
        tell(
            f"relay: {len(gone):,} objects that had arrived are missing at the destination; they"
            " are moved again"
        )
    elif gone:
        tell("relay: the object had arrived, and may have changed since; it is moved again")
    if check.why is not None:
        why = plain(check.why.message)
        tell(
            f"relay: the destination does not say whether {check.unanswered:,} objects are still"
            f" there: {why}"
        )
    return gone


def limits_note(migration: Migration) -> str:
    """Return the limits of a resumed migration as the end of a line, or '' without limits. They may
    have been set long ago, so the user should see them."""
    limits = ", ".join(f"{name} {most:,}" for name, most in migration.bounds.set_limits().items())
    return f"; limits: {limits} (`relay limit {migration.name}`)" if limits else ""


def failures(ledger: Ledger, migration: Migration) -> list[dict[str, Any]]:
    """Return the first NAMED failed objects of a migration, each with its `side` and `hint`, for
    the table of its end."""
    return [
        {**report_line(row), **{name: (row.error or {}).get(name) for name in ("side", "hint")}}
        for row in ledger.page(migration.id, [TransferState.FAILED], limit=NAMED)
    ]


def _say_error(line: str) -> None:
    say(line, sys.stderr)


def work(
    worker: Worker,
    look: Callable[[], None],
    look_seconds: float,
    tell: Callable[[str], None] = _say_error,
) -> Exit | None:
    """Run a worker until it ends or Ctrl-C stops it. Return the exit code of a signal, or None.

    Calls `look` every `look_seconds`, and `tell` with a line while the ledger is unavailable. After
    a signal running transfers are released, so that they can be resumed. Raises as the worker does,
    and LedgerFailed if the ledger's file was removed or replaced: no other process knows what the
    worker has recorded."""
    job = gevent.spawn(_run_worker, worker)
    stopped = Interrupt(worker.stop, STOP_SECONDS)
    last_line: float | None = None
    with stopped.handle_signals():
        while not job.ready() and not stopped.is_late():
            job.join(look_seconds)
            look()
            if worker.trouble is not None and (
                last_line is None or monotonic() - last_line >= OUTAGE_LINE_SECONDS
            ):
                last_line = monotonic()
                tell(
                    f"relay: waiting for the ledger: {plain(worker.trouble.message)};"
                    f" {in_flags(worker.trouble.hint)}"
                )
    # A worker that did not stop in time has no value.
    if isinstance(job.value, RelayError):
        raise job.value
    worker.ledger.check_file()
    return stopped.code


def _run_worker(worker: Worker) -> RelayError | None:
    try:
        worker.run()
    except RelayError as error:
        return error
    return None
