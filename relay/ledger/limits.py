"""Limits of a migration: stored here, applied by every worker.

Decided here: how many more transfers of a migration may be claimed, and which workers share its
bounds. Never here: how bytes and requests are held back (`relay/throttle.py`)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update

from relay.ledger.actions import not_now
from relay.ledger.event_log import write_event
from relay.ledger.live_rows import is_watched
from relay.ledger.live_tables import watches
from relay.ledger.migration_rows import HELPERS, bounds_of, lock_migration, one
from relay.ledger.migration_values import Migration, MigrationView
from relay.ledger.parameters import IDS
from relay.ledger.schema import migrations, tallies, transfers
from relay.ledger.states import ENDED, EventKind, ListingState, TransferState
from relay.throttle import Bounds


def limit(connection: Connection, id: str, change: Mapping[str, int | None]) -> Migration:
    """Change a migration's priority and bounds. Members that `change` does not name stay; None
    removes a bound.

    Idempotent. Raises MigrationUnknown, and IllegalTransition for a migration that has ended."""
    found = lock_migration(connection, id)
    if found.state in ENDED:
        raise not_now(found, "limit")
    before = {"priority": found.priority, **found.bounds.to_json()}
    new = {name: value for name, value in change.items() if before[name] != value}
    if not new:
        return found
    connection.execute(update(migrations).where(migrations.c.id == found.id).values(**new))
    write_event(connection, found.id, EventKind.LIMITED, new)
    return one(connection, found.id)


def room(connection: Connection, migration: str, bounds: Bounds, wanted: int, more: int = 0) -> int:
    """Return how many of the `wanted` transfers of a migration may be claimed now. `more` transfers
    run in addition to those in its tally.

    The running transfers are counted under a lock on the migration's row. No other worker can claim
    meanwhile, so that all workers together keep to the bound. (SQLite allows one writer
    at a time anyway.)"""
    if bounds.transfers is None:
        return wanted
    row = connection.execute(
        select(migrations).where(migrations.c.id == migration).with_for_update(key_share=True)
    ).one()
    # Read again under the lock: the bound may have changed since the caller read it.
    bound = bounds_of(row).transfers
    if bound is None:
        return wanted
    running = select(tallies.c.objects).where(
        tallies.c.migration_id == migration, tallies.c.state == TransferState.RUNNING
    )
    running_now = int(connection.execute(running).scalar() or 0) + more
    running_now += len(connection.execute(HELPERS, {"ids": [migration]}).all())
    return max(0, min(wanted, bound - running_now))


def migration_views(
    connection: Connection, runner: str, ids: Sequence[str]
) -> dict[str, MigrationView]:
    """Return the state and bounds of some migrations, with the `runner`'s rank among the workers
    that share each migration's bounds."""
    query = _views_query(connection.dialect.name == "sqlite")
    rows = connection.execute(query, {"ids": list(ids), "now": time.time()}).all()
    bounded = [row.id for row in rows if bounds_of(row) != Bounds()]
    workers: defaultdict[str, set[str]] = defaultdict(lambda: {runner})
    if bounded:
        running = (transfers.c.migration_id.in_(bounded)) & (
            transfers.c.state == TransferState.RUNNING
        )
        for pair in connection.execute(
            select(transfers.c.migration_id, transfers.c.owner).where(running).distinct()
        ):
            workers[pair.migration_id].add(pair.owner)
        for row in connection.execute(HELPERS, {"ids": bounded}):
            workers[row.migration_id].add(row.owner)
    return {row.id: _view(row, runner, workers[row.id]) for row in rows}


@cache
def _views_query(sqlite: bool) -> Select[Any]:
    watched = is_watched(sqlite).label("watched")
    joined = select(migrations, watched).outerjoin(
        watches, watches.c.migration_id == migrations.c.id
    )
    return joined.where(migrations.c.id.in_(IDS))


def _view(row: Row[Any], runner: str, workers: set[str]) -> MigrationView:
    if row.listing == ListingState.RUNNING and row.listing_owner:
        workers.add(row.listing_owner)
    return MigrationView(
        state=row.state,
        bounds=bounds_of(row),
        place=sorted(workers).index(runner),
        of=len(workers),
        watched=bool(row.watched),
    )
