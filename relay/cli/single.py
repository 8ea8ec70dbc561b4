"""`relay migrate` of one object, through the ledger, so that the same command resumes it.

Decided here: the display of the transfer and of its end. Never here: how a migration is resumed
(`local_run.py`)."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.formatting import bytes_at_destination, exit_of, table
from relay.cli.interrupt import Interrupted
from relay.cli.local_run import STOPPED as STOPPED_LINE
from relay.cli.local_run import accept, failures, limits_note, work
from relay.cli.terminal import confirm, confirm_table, receipt_lines, say
from relay.cli.watch_object import LOOK_SECONDS, display
from relay.engine.migration_request import MigrationRequest
from relay.engine.outcome import Outcome
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import RelayError
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.states import STOPPED
from relay.views.migrations import summary


def migrate_object(
    ledger: Ledger, order: MigrationRequest, engine: TransferEngine, quiet: bool, as_json: bool
) -> Exit:
    """Run the migration to its end; return the exit code. Raises the RelayError of the transfer, or
    Interrupted."""
    migration, new = accept(ledger, order, engine, quiet)
    if not new and not quiet and migration.state not in STOPPED:
        there = bytes_at_destination(summary(migration))
        kept = f": {decimal(there)} have arrived already" if there else ""
        say(
            f"relay: resuming migration {migration.name}{kept}{limits_note(migration)}",
            sys.stderr,
        )
    ends: list[Outcome | RelayError] = []

    worker = Worker(ledger, engine, 1, migration.id, ended=lambda _, end: ends.append(end))
    with display(quiet) as show:

        def look() -> None:
            for active in worker.active.values():
                show(active.transfer)

        code = work(worker, look, LOOK_SECONDS)
    # An end that the ledger has counts more than a signal that came after it.
    end = ends[-1] if ends else None
    if isinstance(end, Outcome) and _is_recorded(ledger, migration.id, end):
        return _print_outcome(replace(end, id=migration.id), quiet, as_json)
    if code is not None:
        if not quiet:
            say(STOPPED_LINE, sys.stderr)
        raise Interrupted(code)
    if isinstance(end, RelayError):
        raise end
    return _follow_elsewhere(ledger, ledger.migration(migration.id), quiet, as_json)


def _is_recorded(ledger: Ledger, id: str, end: Outcome) -> bool:
    """Return whether the ledger has this end. It accepts none of a lost claim, nor a skip where
    another command may have sent what the skip found (`relay/ledger/settling.py`)."""
    return any(row.state == end.state.value for row in ledger.page(id))


def _print_outcome(outcome: Outcome, quiet: bool, as_json: bool) -> Exit:
    if as_json:
        confirm(json.dumps(outcome.to_json()))
    elif not quiet:
        for line in receipt_lines(outcome):
            confirm(line)
    return Exit.of(outcome.state)


def _follow_elsewhere(ledger: Ledger, migration: Migration, quiet: bool, as_json: bool) -> Exit:
    """Print the end of a migration whose transfer did not end here, because another process moved
    the object. Raises the migration's error if it waits for its user."""
    if migration.error is not None:
        raise _error_of(migration)
    members = summary(migration)
    if as_json:
        confirm(json.dumps(members))
    else:
        rows = table(members, failures(ledger, migration), "with other processes")
        confirm_table(rows, quiet)
    return exit_of(members)


def _error_of(migration: Migration) -> RelayError:
    """Return the recorded error of a migration as an exception."""
    error = migration.error or {}
    kind = RelayError.class_of(error["code"]) or RelayError
    return kind(error["detail"], side=error["side"], hint=error["hint"])
