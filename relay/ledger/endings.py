"""End migrations that have no transfer left, and forget the credentials of ended ones.

Decided here: when a migration has ended, and how long its credentials stay. Never here: how one
transfer ends (`settling.py`)."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from sqlalchemy import (
    Connection,
    delete,
    exists,
    select,
    update,
)

from relay.ledger.counters import tallies_of
from relay.ledger.event_log import write_event
from relay.ledger.migration_rows import lock_migration, one, standing_of
from relay.ledger.migration_values import Migration
from relay.ledger.passes import begin_pass, settle_pass
from relay.ledger.schema import (
    LAPSED,
    RUNNING,
    migrations,
    secrets,
    transfers,
    uploads,
)
from relay.ledger.stages import StageDelta
from relay.ledger.states import (
    COMPLETED,
    ENDED,
    FAULTY,
    MIGRATION,
    PENDING,
    PRESENT,
    EventKind,
    ListingState,
    MigrationState,
    MigrationVerb,
    PassKind,
    Phase,
    ending_verb,
    state_after,
)
from relay.ledger.workers import SERVER


def finishable_ids(connection: Connection, now: float) -> list[str]:
    """Return the migrations that have not ended and have no transfer left; of the standing ones
    those whose pass can be settled, and those of a server whose next pass is due. Reads only."""
    waiting = connection.execute(_LISTED).all()
    rows = [row for row in waiting if row.due is None or _begins_itself(row, now)]
    found = tallies_of(connection, [row.id for row in rows]) if rows else {}
    return [row.id for row in rows if not PENDING & found[row.id].keys()]


_OVER: Final = (ListingState.NONE, ListingState.DONE, ListingState.FAILED)
"""The states of a listing that names no further objects."""
_LISTED = (
    select(migrations.c.id, migrations.c.runner, migrations.c.phase, migrations.c.due)
    .add_columns(migrations.c.every, migrations.c.hours)
    .where(migrations.c.state == MigrationState.RUNNING, migrations.c.listing.in_(_OVER))
)


def _begins_itself(row: Any, now: float) -> bool:
    """Return whether the next pass of a standing migration is due, and no command begins it."""
    standing = standing_of(row)
    if standing is None or standing.phase != Phase.STEADY or row.runner != SERVER:
        return False
    return standing.times.is_due(row.due, now)


KEPT_SECONDS: Final = 24 * 3600.0
"""How long after a failure the credentials, and parts at the destination, are kept for a retry."""

_HOLDS_SECRET: Final = (
    secrets.c.locations.like("%?%")
    | secrets.c.locations.like('%"headers": [[%')
    | migrations.c.source.ilike("list+%")
)
"""The stored locations have a query or a header, either of which may be a secret, or the source is
a list, whose URLs may have signatures."""


def forgettable_ids(connection: Connection, now: float) -> list[str]:
    """Return the ended migrations whose credentials are no longer needed. Reads only.

    A cancelled migration needs them until its unfinished uploads are removed from the destination.
    A failed one keeps them for KEPT_SECONDS as well, for a retry."""
    over = (migrations.c.state == MigrationState.CANCELLED) | (
        migrations.c.state.in_((MigrationState.FAILED, MigrationState.PARTIAL))
        & (migrations.c.ended < now - KEPT_SECONDS)
    )
    ended = (
        select(migrations.c.id)
        .join(secrets, secrets.c.migration_id == migrations.c.id)
        .where(over, _HOLDS_SECRET)
    )
    moving = exists().where(transfers.c.migration_id == migrations.c.id, RUNNING)
    # By the few transfers with leftovers. In the other order SQLite reads all transfers of a
    # migration, each second, for as long as a leftover can't be removed.
    of = select(transfers.c.migration_id)
    lapsed = of.where(LAPSED, transfers.c.state.not_in(PRESENT))
    begun = of.where(transfers.c.id.in_(select(uploads.c.transfer_id)))
    is_clean = migrations.c.id.not_in(lapsed) & migrations.c.id.not_in(begun)
    return list(connection.execute(ended.where(~moving, is_clean)).scalars())


def forget_secrets(connection: Connection, now: float) -> None:
    """Delete the credentials of the migrations in `forgettable_ids`, and their lists' URLs."""
    for id in sorted(forgettable_ids(connection, now)):  # rows are locked in one order: no deadlock
        if lock_migration(connection, id).state not in ENDED:
            continue  # resumed since forgettable_ids read it
        connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        gone = (transfers.c.migration_id == id) & transfers.c.url.is_not(None)
        connection.execute(update(transfers).where(gone).values(url=None))


def _unaccounted_error(listed: int | None, accounted: int) -> dict[str, Any]:
    """Return the error of a migration with more or fewer objects than its listing named."""
    return {
        "code": "listing-unaccounted",
        "side": "relay",
        "detail": f"its listing named {listed:,} objects, and {accounted:,} are accounted for",
        "hint": (
            "Run the same command again, which lists the source again. Please report this: it is a"
            " bug in relay."
        ),
    }


def finish(connection: Connection) -> list[Migration]:
    """End every migration that has no transfer left; return those. The secrets of the succeeded
    ones are deleted. Of a standing migration that is not finished the pass is settled, or begun."""
    done, stages, now = [], StageDelta(), time.time()
    for id in sorted(finishable_ids(connection, now)):  # rows are locked in one order: no deadlock
        row = lock_migration(connection, id)
        tally = {state: counted.objects for state, counted in row.tally.items()}
        is_listed = row.listing in _OVER
        if row.state != MigrationState.RUNNING or not is_listed or PENDING & tally.keys():
            continue  # another process ended, retried or listed it since finishable_ids read it
        if row.standing is not None and row.standing.phase != Phase.FINISHED:
            due = row.standing.due
            if due is None:
                settle_pass(connection, row, now)
            elif row.standing.times.is_due(due, now):
                begin_pass(connection, id, PassKind.DELTA, now)
            continue
        verb = ending_verb(tally)
        # Objects that no listing named may be missing, so this is never a success.
        if row.listing == ListingState.FAILED:
            arrived = any(tally.get(state) for state in COMPLETED)
            verb = MigrationVerb.END_PARTIAL if arrived else MigrationVerb.FAIL
        values: dict[str, Any] = {"ended": time.time()}
        if row.listing != ListingState.FAILED and row.entries not in (None, sum(tally.values())):
            verb = MigrationVerb.END_PARTIAL
            values["error"] = json.dumps(_unaccounted_error(row.entries, sum(tally.values())))
        state = state_after(MIGRATION, verb, row.state) or row.state
        stages.change(connection, row, state, needs_attention=state in FAULTY, **values)
        if state == MigrationState.SUCCEEDED:
            connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        write_event(connection, id, EventKind.ENDED, {"state": state})
        done.append(one(connection, id))
    stages.write(connection)
    return done
