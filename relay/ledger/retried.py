"""The pending retries of each worker, visible to every other process.

A pending retry is stored in the `error` of the running transfer until the transfer is settled. That
of a listing is stored in the `error` of its migration, which has no other error during the listing.
Never here: which operations are retried, and when (`relay/engine/retries.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Select, bindparam, select, update

from relay.ledger.claim_values import Claim
from relay.ledger.listing_values import ListingClaim
from relay.ledger.parameters import IDS
from relay.ledger.schema import RUNNING, migrations, transfers
from relay.ledger.states import ListingState, MigrationState

SHOWN: Final = 5
"""Maximum number of pending retries that are shown of one migration."""
AGAIN: Final = "again"
"""The member that only pending retries have: a running transfer may still have the error of an
earlier attempt."""

LOCATING: Final = "reading the credentials"
"""What a worker tries again before it can list a migration, or transfer anything of it."""
LOCATING_SECONDS: Final = 60.0
"""How long such a retry is shown after its time. A worker that was lost does not remove it."""

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
    """Write the pending retry of each transfer; None removes it. Transfers that the owner has lost
    are unchanged."""
    for claim, trouble in troubles:
        error = None if trouble is None else json.dumps(trouble)
        row = {"the_id": claim.id, "the_fence": claim.fence, "the_owner": owner, "the_error": error}
        connection.execute(_NOTE, row)


def note_listing(
    connection: Connection, owner: str, listing: ListingClaim, trouble: Mapping[str, Any] | None
) -> None:
    """Write the pending retry of a listing; None removes it. A listing that the owner has lost is
    unchanged, and so is a migration that does not run: its column has the error for which it was
    paused."""
    table = migrations.c
    ours = (table.id == listing.migration_id) & (table.listing_owner == owner)
    error = None if trouble is None else json.dumps(trouble)
    row = update(migrations).where(
        ours, table.listing == ListingState.RUNNING, table.state == MigrationState.RUNNING
    )
    connection.execute(row.values(error=error))


def note_locating(connection: Connection, id: str, trouble: Mapping[str, Any] | None) -> None:
    """Write the pending retry of a migration that a worker can't locate; None removes it. One that
    does not run is unchanged: its column has the error for which it was paused."""
    table = migrations.c
    running = (table.id == id) & (table.state == MigrationState.RUNNING)
    query = select(table.error).where(running).with_for_update()
    row = connection.execute(query).first()
    error, retry = split_listing_retry(row.error) if row is not None else (None, None)
    is_ours = retry is not None and retry["what"] == LOCATING
    if row is None or error is not None or (trouble is None and not is_ours):
        return
    text = None if trouble is None else json.dumps(trouble)
    connection.execute(update(migrations).where(running).values(error=text))


def migration_retry(listing: str, error: str | None, now: float) -> Mapping[str, Any] | None:
    """Return the pending retry of a migration's listing, or of its location, from the state of the
    listing and the column `error`; None without one. `now` is in seconds since 1970."""
    retry = split_listing_retry(error)[1]
    if retry is None:
        return None
    if retry["what"] == LOCATING:
        is_shown = now < retry[AGAIN] + LOCATING_SECONDS
    else:
        is_shown = listing == ListingState.RUNNING
    return retry if is_shown else None


def split_listing_retry(
    text: str | None,
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Return the error of a migration, and the pending retry of its listing; at most one of them is
    not None."""
    found = json.loads(text) if text else None
    is_retry = found is not None and AGAIN in found
    return (None, found) if is_retry else (found, None)


def pending_retries(
    connection: Connection, ids: Sequence[str]
) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Return up to SHOWN pending retries of each migration, the longest-lasting first."""
    return shown_retries(connection.execute(_ERRORS, {"ids": list(ids)})) if ids else {}


def select_errors(ids: BindParameter[Any]) -> Select[Any]:
    """Return the query for the errors of the running transfers of the migrations that a parameter
    names: migration, name and error. `shown_retries` takes the retries from it."""
    query = select(transfers.c.migration_id, transfers.c.name, transfers.c.error)
    return query.where(transfers.c.migration_id.in_(ids), RUNNING, transfers.c.error.is_not(None))


_ERRORS: Final = select_errors(IDS)


def shown_retries(rows: Iterable[Any]) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Return up to SHOWN pending retries of each migration, the longest-lasting first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        trouble = json.loads(row.error)
        if AGAIN in trouble:
            found.setdefault(row.migration_id, []).append({"name": row.name, **trouble})
    return {
        id: tuple(sorted(some, key=lambda one: one["since"])[:SHOWN]) for id, some in found.items()
    }
