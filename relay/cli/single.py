"""`relay migrate` of one object, through the ledger, so that the same command resumes it.

Decided here: the display of the transfer and of its end. Never here: how a migration is resumed
(`local_run.py`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from relay.cli.removal_run import RemovalEnd, RemovalStep


def migrate_object(
    ledger: Ledger,
    order: MigrationRequest,
    engine: TransferEngine,
    quiet: bool,
    as_json: bool,
    *,
    step: RemovalStep | None = None,
) -> int:
    """Run the migration to its end; return the exit code. `step` deletes the source's object if its
    copy was proved. Raises the RelayError of the transfer, or Interrupted."""
    migration, new = accept(ledger, order, engine, quiet)
    if step is not None:
        step.begin(migration)
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
        moved = None if step is None else step.run(ledger.migration(migration.id))
        return _print_outcome(replace(end, id=migration.id), quiet, as_json, moved)
    if code is not None:
        if not quiet:
            say(STOPPED_LINE, sys.stderr)
        raise Interrupted(code)
    if isinstance(end, RelayError):
        raise end
    found = ledger.migration(migration.id)
    moved = None if step is None else step.run(found)
    return _follow_elsewhere(ledger, found, quiet, as_json, moved)


def _is_recorded(ledger: Ledger, id: str, end: Outcome) -> bool:
    """Return whether the ledger has this end. It accepts none of a lost claim, nor a skip where
    another command may have sent what the skip found (`relay/ledger/settling.py`)."""
    return any(row.state == end.state.value for row in ledger.page(id))


def _print_outcome(
    outcome: Outcome, quiet: bool, as_json: bool, moved: RemovalEnd[Any] | None
) -> int:
    if as_json:
        confirm(json.dumps(_with_move(outcome.to_json(), moved)))
    elif not quiet:
        for line in receipt_lines(outcome):
            confirm(line)
    return _end_of_move(Exit.of(outcome.state), moved, quiet, as_json)


def _with_move(members: Mapping[str, Any], moved: RemovalEnd[Any] | None) -> dict[str, Any]:
    return dict(members) if moved is None else {**members, **moved.members()}


def _end_of_move(code: Exit, moved: RemovalEnd[Any] | None, quiet: bool, as_json: bool) -> int:
    """Print the deletion of a move, unless it is in the JSON; return the exit code."""
    if moved is None:
        return code
    if not as_json:
        moved.print(as_json, quiet)
    return moved.exit_after(code)


def _follow_elsewhere(
    ledger: Ledger, migration: Migration, quiet: bool, as_json: bool, moved: RemovalEnd[Any] | None
) -> int:
    """Print the end of a migration whose transfer did not end here, because another process moved
    the object. Raises the migration's error if it waits for its user."""
    if migration.error is not None:
        raise _error_of(migration)
    members = summary(migration)
    if as_json:
        confirm(json.dumps(_with_move(members, moved)))
    else:
        rows = table(members, failures(ledger, migration), "with other processes")
        confirm_table(rows, quiet)
    return _end_of_move(exit_of(members), moved, quiet, as_json)


def _error_of(migration: Migration) -> RelayError:
    """Return the recorded error of a migration as an exception."""
    error = migration.error or {}
    kind = RelayError.class_of(error["code"]) or RelayError
    return kind(error["detail"], side=error["side"], hint=error["hint"])
