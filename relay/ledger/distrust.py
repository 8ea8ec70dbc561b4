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

from relay.ledger.claim_values import MARKED
from relay.ledger.prior_state_values import ARRIVED, UNNOTED, PriorState
from relay.ledger.schema import RUNNING, migrations, transfers
from relay.ledger.states import ListingState, MigrationState, TransferState

FORGOTTEN: Final = 2
"""Maximum number of claims of one transfer among the commits that a ledger has lost."""
DOUBTED: Final = 1_000_000
"""Added to a listing's fence after commits may have been lost: an object that is listed then may
have been listed, and claimed, before."""
_MOST_DOUBTED: Final = 2**30
"""The fence from which it grows no more, for the column has 32 bits."""


def doubted_fence() -> ColumnElement[int]:
    """Return the fence of a listing after commits may have been lost."""
    fence = migrations.c.listing_fence
    return case((fence < _MOST_DOUBTED, fence + DOUBTED), else_=fence)


def first_fence(listing: int) -> int:
    """Return the first fence of a transfer that a listing with this fence adds."""
    return FORGOTTEN * (listing // DOUBTED)


def distrust_recent_commits(connection: Connection, ended: bool = True) -> None:
    """Stop assuming that transfers were never started and that destinations are empty.

    For a ledger that may have lost its newest commits: the machine crashed and its disk had
    acknowledged writes that it did not keep, or the database was restored from a backup.

    A lost claim had a fence that must not be used again, and may have left an object under its
    name. So FORGOTTEN fences of each transfer are skipped, except of running ones. A transfer that
    was lost itself skips them when it is listed again (`first_fence`).

    With `ended`, that holds for transfers and migrations that had ended too: they may have been
    restarted by a commit that was lost. Without it, for a loss of seconds at most, only queued
    transfers are doubted, which are fewer."""
    unended = (MigrationState.RUNNING, MigrationState.PAUSED)
    is_doubted: ColumnElement[bool] = migrations.c.state.in_(unended)
    idle: ColumnElement[bool] = transfers.c.state == TransferState.QUEUED
    is_listed: ColumnElement[bool] = migrations.c.listing.in_(
        (ListingState.DUE, ListingState.RUNNING)
    )
    if ended:
        is_doubted = migrations.c.state != MigrationState.SUCCEEDED
        idle = transfers.c.state != TransferState.RUNNING
        is_listed = migrations.c.listing != ListingState.NONE
    doubted = select(migrations.c.id).where(is_doubted)
    connection.execute(
        update(migrations).where(is_doubted).values(destination_empty=False, looked=None)
    )
    # The running listings as well: their workers claim them again.
    doubted_listings = update(migrations).where(is_doubted, is_listed)
    connection.execute(doubted_listings.values(listing_fence=doubted_fence()))
    ours = transfers.c.migration_id.in_(doubted)
    forgotten = transfers.c.fence + FORGOTTEN
    entered = case((transfers.c.twins == MARKED, forgotten + 1), else_=transfers.c.twins)
    skipped = {"fence": forgotten, "twins": entered}
    connection.execute(update(transfers).where(ours, idle).values(**skipped))
    # Running transfers as well: where the destination was empty, no prior state was recorded, and
    # that the destination was empty is forgotten here.
    movable = ours & (idle | RUNNING)
    before = transfers.c.before
    unrecorded = before.is_(None) | (before == ARRIVED)
    connection.execute(update(transfers).where(movable, unrecorded).values(before=_unknown_since()))
    # A text that names leftovers only must say now that the state is unknown: a lost claim may
    # have sent bytes.
    noted = func.replace(before, UNNOTED, UNNOTED.replace("false", "true"))
    connection.execute(
        update(transfers).where(movable, before.contains(UNNOTED)).values(before=noted)
    )
    single = doubted.where(migrations.c.listing == ListingState.NONE)
    queued = transfers.c.state == TransferState.QUEUED
    untouched = transfers.c.migration_id.in_(single) & queued & (transfers.c.attempts == 0)
    connection.execute(update(transfers).where(untouched).values(attempts=1))


def _unknown_since() -> ColumnElement[str]:
    """Return the text of a PriorState that is unknown since the migration was accepted."""
    text = PriorState(known=False, since=0.5, doubted=True).to_text()
    head, _, tail = text.partition("0.5")
    of = (
        select(migrations.c.created)
        .where(migrations.c.id == transfers.c.migration_id)
        .scalar_subquery()
    )
    return literal(head) + cast(of, Text) + literal(tail)
