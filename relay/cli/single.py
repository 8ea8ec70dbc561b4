"""`relay migrate` of one object, through the ledger, so that the same command resumes it.

Decided here: what is shown of it, and what of its end. Never here: what a ledger is for
(`durable.py`)."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.formatting import bytes_there, exit_of, table
from relay.cli.interrupt import Interrupted
from relay.cli.local_run import STOPPED, accept, failures, held_by_another, work
from relay.cli.terminal import confirm, in_columns, receipt_lines, say
from relay.cli.watch_object import LOOK_SECONDS, display
from relay.engine.migration_request import MigrationRequest
from relay.engine.outcome import Outcome
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import RelayError
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Migration
from relay.views.rows import summary


def migrate_object(
    ledger: Ledger, order: MigrationRequest, runner: TransferEngine, quiet: bool, as_json: bool
) -> Exit:
    """Carry it out to its end; return the exit code. Raises its RelayError, or Interrupted."""
    migration, new = accept(ledger, order, runner, quiet)
    if not new and not quiet:
        there = bytes_there(summary(migration))
        kept = f": {decimal(there)} of it are there already" if there else ""
        say(
            f"relay: going on with migration {migration.number}{kept}{held_by_another(migration)}",
            sys.stderr,
        )
    ends: list[Outcome | RelayError] = []

    claimer = Worker(ledger, runner, 1, migration.id, lambda _, end: ends.append(end))
    with display(quiet) as show:

        def look() -> None:
            for active in claimer.active.values():
                show(active.transfer)

        code = work(claimer, look, LOOK_SECONDS)
    end = ends[-1] if ends else None
    if isinstance(end, Outcome):
        return _print_outcome(replace(end, id=migration.id), quiet, as_json)
    if code is not None:
        if not quiet:
            say(STOPPED, sys.stderr)
        raise Interrupted(code)
    if end is not None:
        raise end
    return _follow_elsewhere(ledger, ledger.migration(migration.id), quiet, as_json)


def _print_outcome(outcome: Outcome, quiet: bool, as_json: bool) -> Exit:
    if as_json:
        confirm(json.dumps(outcome.to_json()))
    elif not quiet:
        for line in receipt_lines(outcome):
            confirm(line)
    return Exit.of(outcome.state)


def _follow_elsewhere(ledger: Ledger, migration: Migration, quiet: bool, as_json: bool) -> Exit:
    """Tell how one ended that did not end here: it waits for what its user must do, or another
    process moved it. Raises what it waits for."""
    if migration.error is not None:
        raise _error_of(migration)
    members = summary(migration)
    if as_json:
        confirm(json.dumps(members))
    elif not quiet:
        for name, value in table(members, failures(ledger, migration), "with other processes"):
            confirm(in_columns(name, value))
        if migration.state == "paused":
            confirm(
                in_columns(
                    "hint", f"`relay resume {migration.number}`, or the same command, goes on"
                )
            )
    return exit_of(members)


def _error_of(migration: Migration) -> RelayError:
    """Return the error that a migration waits for, as it was before it was written down."""
    error = migration.error or {}
    kind = RelayError.named(error["code"]) or RelayError
    return kind(error["detail"], side=error["side"], hint=error["hint"])
