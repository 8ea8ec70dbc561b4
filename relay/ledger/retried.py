"""What each worker retries at the moment, visible to every other process.

It stands in the `error` of a transfer that runs, and goes with the end of that; that of a listing
in the `error` of its migration, which has none of its own while it is listed. Never here: what is
tried again, and when (`relay/engine/retries.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select, update

from relay.ledger.rows import Claim, Listing
from relay.ledger.schema import RUNNING, migrations, transfers

SHOWN: Final = 5
"""So many are told of one migration."""
AGAIN: Final = "again"
"""The member that only what is tried again has: a transfer may have kept the error of an earlier
end."""

_NOTE = (
    update(transfers)
    .where(
        transfers.c.id == bindparam("the_id"),
        transfers.c.fence == bindparam("the_fence"),
        transfers.c.owner == bindparam("the_owner"),
        RUNNING,
    )
    .values(error=bindparam("the_error"))
)


def note(
    connection: Connection, owner: str, troubles: Sequence[tuple[Claim, Mapping[str, Any] | None]]
) -> None:
    """Write what of each of these is tried again, or None: nothing. Of what is not the owner's any
    more nothing is."""
    for claim, trouble in troubles:
        error = None if trouble is None else json.dumps(trouble)
        row = {"the_id": claim.id, "the_fence": claim.fence, "the_owner": owner, "the_error": error}
        connection.execute(_NOTE, row)


def note_listing(
    connection: Connection, owner: str, listing: Listing, trouble: Mapping[str, Any] | None
) -> None:
    """Write what of a listing is tried again, or None: nothing. Of one that is not the owner's any
    more nothing is, nor of one whose migration does not run: what that waits for stands there."""
    table = migrations.c
    ours = (
        (table.id == listing.migration_id)
        & (table.listing_owner == owner)
        & (table.listing_fence == listing.fence)
    )
    error = None if trouble is None else json.dumps(trouble)
    row = update(migrations).where(ours, table.listing == "running", table.state == "running")
    connection.execute(row.values(error=error))


def split_listing_retry(
    text: str | None,
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Return the error of a migration, and what of its listing is tried again: at most one of them
    is there."""
    reported = json.loads(text) if text else None
    return (None, reported) if reported is not None and AGAIN in reported else (reported, None)


def retried_of(
    connection: Connection, ids: Sequence[str]
) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Return what of these migrations is tried again, that which has lasted the longest first."""
    if not ids:
        return {}
    query = select(transfers.c.migration_id, transfers.c.name, transfers.c.error)
    query = query.where(transfers.c.migration_id.in_(ids), RUNNING, transfers.c.error.is_not(None))
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in connection.execute(query):
        trouble = json.loads(row.error)
        if AGAIN in trouble:
            found.setdefault(row.migration_id, []).append({"name": row.name, **trouble})
    return {
        id: tuple(sorted(some, key=lambda one: one["since"])[:SHOWN]) for id, some in found.items()
    }
