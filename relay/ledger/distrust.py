"""Distrust the newest commits of a ledger that may have lost some: the machine crashed, or the
database was restored from a backup.

Decided here: which assumptions relay drops. Never here: when it drops them (`leases.py`)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    case,
    cast,
    func,
    literal,
    select,
    update,
)

from relay.ledger.rows import ARRIVED, MARKED, UNNOTED, PriorState
from relay.ledger.schema import RUNNING, migrations, transfers
from relay.ledger.states import ListingState, MigrationState, TransferState

FORGOTTEN: Final = 2
"""Maximum number of claims of one transfer among the commits that a ledger has lost."""
DOUBTED: Final = 1_000_000
"""Added to a listing's fence after commits may have been lost: an object that is listed then may
have been listed, and claimed, before."""


def first_fence(listing: int) -> int:
    """Return the first fence of a transfer that a listing with this fence adds."""
    return FORGOTTEN * (listing // DOUBTED)


def distrust_recent_commits(connection: Connection) -> None:
    """Stop assuming that queued transfers were never started and that destinations are empty.

    For a ledger that may have lost its newest commits: the machine crashed and its disk had
    acknowledged writes that it did not keep, or the database was restored from a backup.

    A lost claim had a fence that must not be used again, and may have left an object under its
    name. So FORGOTTEN fences of each queued transfer are skipped. A transfer that was lost itself
    skips them when it is listed again (`first_fence`)."""
    is_open = migrations.c.state.in_((MigrationState.RUNNING, MigrationState.PAUSED))
    unended = select(migrations.c.id).where(is_open)
    connection.execute(
        update(migrations).where(is_open).values(destination_empty=False, looked=None)
    )
    single = unended.where(migrations.c.listing == ListingState.NONE)
    queued = transfers.c.state == TransferState.QUEUED
    forgotten = transfers.c.fence + FORGOTTEN
    entered = case((transfers.c.twins == MARKED, forgotten + 1), else_=transfers.c.twins)
    skipped = {"fence": forgotten, "twins": entered}
    connection.execute(
        update(transfers).where(transfers.c.migration_id.in_(unended), queued).values(**skipped)
    )
    # The running listings as well: their workers claim them again.
    open_listing = migrations.c.listing.in_((ListingState.DUE, ListingState.RUNNING))
    connection.execute(
        update(migrations)
        .where(is_open, open_listing)
        .values(listing_fence=migrations.c.listing_fence + DOUBTED)
    )
    # Running transfers as well: where the destination was empty, no prior state was recorded, and
    # that the destination was empty is forgotten here.
    unrecorded = transfers.c.before.is_(None) | (transfers.c.before == ARRIVED)
    unknown = transfers.c.migration_id.in_(unended) & (queued | RUNNING) & unrecorded
    connection.execute(update(transfers).where(unknown).values(before=_unknown_since()))
    left = (
        transfers.c.migration_id.in_(unended)
        & (queued | RUNNING)
        & transfers.c.before.contains(UNNOTED)
    )
    noted = func.replace(transfers.c.before, UNNOTED, UNNOTED.replace("false", "true"))
    connection.execute(update(transfers).where(left).values(before=noted))
    untouched = transfers.c.migration_id.in_(single) & queued & (transfers.c.attempts == 0)
    connection.execute(update(transfers).where(untouched).values(attempts=1))


def _unknown_since() -> ColumnElement[str]:
    """Return the text of a PriorState that is unknown since the migration was accepted."""
    head, _, tail = PriorState(known=False, since=0.5).to_text().partition("0.5")
    of = (
        select(migrations.c.created)
        .where(migrations.c.id == transfers.c.migration_id)
        .scalar_subquery()
    )
    return literal(head) + cast(of, Text) + literal(tail)
