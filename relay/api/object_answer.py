"""The answer to `POST /migrate` of one object that a migration in the ledger moves, because the
token of the request is counted.

Decided here: how the end of such a migration is answered: as the end of any one object. Never here:
which requests go to the ledger (`migrate_route.py`)."""

from __future__ import annotations

from typing import Any

from relay.errors import Cancelled
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.pages import TransferRow
from relay.ledger.states import PRESENT, TransferState
from relay.views.problems import stored_problem


def object_end(ledger: Ledger, migration: Migration) -> tuple[str, dict[str, Any]] | None:
    """Return how the one object of a migration ended: `result` with its outcome, or `problem` with
    the members of one; None if it has no end yet. A migration that relay has paused is answered as
    a problem: the object did not arrive. Raises LedgerFailed."""
    (row,) = ledger.page(migration.id, limit=1)
    if row.state in PRESENT:
        return "result", _outcome(migration, row)
    if row.state == TransferState.FAILED and row.error is not None:
        return "problem", stored_problem(row.error, migration.id)
    if row.state == TransferState.CANCELLED:
        cancelled = {"code": Cancelled.code, "detail": "the migration was cancelled"}
        return "problem", stored_problem(cancelled, migration.id)
    if migration.error is not None:
        return "problem", stored_problem(migration.error, migration.id)
    return None


def _outcome(migration: Migration, row: TransferRow) -> dict[str, Any]:
    """Return the members of `Outcome.to_json`; the `id` is that of the migration."""
    return {
        "id": migration.id,
        "state": row.state,
        "source": migration.source,
        "destination": migration.destination,
        "bytes": row.bytes or 0,
        "seconds": round(row.seconds or 0.0, 3),
        "receipt": row.receipt,
    }
