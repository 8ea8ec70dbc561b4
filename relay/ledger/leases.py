"""The registered workers and their leases.

Theory of operation. A worker registers itself with the time at which its lease expires, and renews
the lease every few seconds. A worker is lost when its lease has expired, its machine has restarted,
or its process has ended. Its claims return to the queue (`releases.py`).

Decided here: which workers are lost. Never here: claims (`claims.py`)."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from math import inf
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, text, update

from relay.ledger.database import Database
from relay.ledger.distrust import distrust_recent_commits
from relay.ledger.event_log import restamp
from relay.ledger.migration_rows import HELPERS
from relay.ledger.releases import Released, release_claims
from relay.ledger.schema import (
    NOT_THERE,
    RUNNING,
    events,
    keys,
    migrations,
    parts,
    runners,
    transfers,
)
from relay.ledger.states import ListingState, TransferVerb
from relay.ledger.workers import LEASE_SECONDS, WorkerId
from relay.process.identities import process_identity

LONGEST_LEASE_SECONDS: Final = 2 * 3600.0
"""More than any worker's lease (`Settings.lease_seconds`)."""
AHEAD_SECONDS: Final = 24 * 3600.0
"""How far ahead an acceptance may be: nothing is called older than one by less than that
(`CLOCKS_SECONDS` in `engine/transfer/ownership.py`). The present clock may be hours behind, as that
of a small machine without a battery which has not reached its time server since it started."""
SET_SINCE: Final = 1_767_225_600.0
"""The beginning of 2026, before the first relay: a clock that shows an earlier time was not set."""
_STORAGE: Final = "storage"
_KEEP_STORAGE: Final = text(
    "INSERT INTO keys (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value ="
    " excluded.value"
)


class RenewedMeanwhile(Exception):
    """A worker that seemed lost has renewed its lease."""


def renew(
    connection: Connection,
    database: Database,
    worker: WorkerId,
    seconds: float = LEASE_SECONDS,
    slots: int | None = None,
) -> bool:
    """Renew a worker's lease for `seconds` from now, and note the present number of its slots.
    Returns False, and registers the worker, if it was not registered or had been removed as lost:
    then it also corrects the times of migrations that were accepted by a clock that was ahead."""
    row: dict[str, Any] = {"until": database.clock(connection) + seconds, "slots": slots}
    if connection.execute(update(runners).where(runners.c.id == worker.id).values(row)).rowcount:
        return True
    row |= {"id": worker.id, "host": worker.host, "boot": worker.boot, "process": worker.process}
    connection.execute(insert(runners), row)
    _distrust_restored_ledger(connection, database)
    _correct_acceptance_times(connection, time.time())
    return False


def leave(connection: Connection, worker: WorkerId) -> None:
    """Hand back a worker's claims and remove the worker; no claim counts as a crash."""
    release_claims(connection, [worker.id], TransferVerb.HAND_BACK)
    connection.execute(delete(runners).where(runners.c.id == worker.id))


def reclaim(connection: Connection, database: Database, worker: WorkerId) -> Released:
    """Return the claims of lost workers to the queue; return the numbers of claims.

    Raises RenewedMeanwhile if one of those workers renewed its lease in this moment: its claims
    hold, so the transaction must be rolled back."""
    now = database.clock(connection)
    if not database.is_clock_steady:
        return Released()
    others = connection.execute(select(runners).where(runners.c.id != worker.id)).all()
    gone = [row for row in others if _is_gone(row, now, worker, database.sqlite)]
    unregistered = _unregistered_owners(connection, worker)
    if not gone and not unregistered:
        return Released()
    # SQLite's clock of leases starts with the machine.
    comparable = [row for row in gone if not database.sqlite or row.boot == worker.boot]
    lost_for = {row.id: max(0.0, now - row.until) for row in comparable}
    owners = [*(row.id for row in gone), *unregistered]
    released = release_claims(connection, owners, TransferVerb.LAPSE, lost_for)
    # SQLite's file is on the machine of its workers, which may have another name since it started
    # again: a container's name often changes. Or the file is a copy from another machine.
    here = [row for row in gone if database.sqlite or row.host == worker.host]
    if any(row.boot != worker.boot for row in here):
        distrust_recent_commits(connection)
    for row in gone:
        as_seen = (runners.c.id == row.id) & (runners.c.until == row.until)
        if not connection.execute(delete(runners).where(as_seen)).rowcount:
            raise RenewedMeanwhile
    return released


def lost_workers(connection: Connection, database: Database, worker: WorkerId) -> list[str]:
    """Return the ids of lost workers, and of owners that are not registered. Reads only.

    While the leases of workers that run may have ended by a step of the server's clock alone, no
    worker is called lost."""
    now = database.clock(connection)
    if not database.is_clock_steady:
        return []
    others = connection.execute(select(runners).where(runners.c.id != worker.id)).all()
    return [
        row.id for row in others if _is_gone(row, now, worker, database.sqlite)
    ] + _unregistered_owners(connection, worker)


def leases_of(
    connection: Connection, database: Database, worker: WorkerId, id: str
) -> dict[str, float]:
    """Return the workers that hold transfers or parts of a migration, each with the end of its
    lease; infinite for a worker whose process certainly runs. Reads only."""
    found = _workers_of(connection, _owners_of(connection, id))
    return {row.id: inf if _is_shown(row, worker, database.sqlite) else row.until for row in found}


def has_worker(connection: Connection, database: Database, worker: WorkerId, id: str) -> bool:
    """Return whether a worker that is not lost holds transfers, parts or the listing of a
    migration. Reads only.

    With SQLite a killed process of this machine is lost at once. In another container, or with
    PostgreSQL, it counts until its lease ends."""
    listed = (migrations.c.id == id) & (migrations.c.listing == ListingState.RUNNING)
    owners = _owners_of(connection, id)
    owners |= set(connection.execute(select(migrations.c.listing_owner).where(listed)).scalars())
    now = database.clock(connection)
    return not all(
        _is_gone(row, now, worker, database.sqlite) for row in _workers_of(connection, owners)
    )


def _owners_of(connection: Connection, id: str) -> set[str]:
    """Return the ids of the workers that hold transfers or parts of a migration."""
    of = (transfers.c.migration_id == id) & RUNNING
    owners = set(connection.execute(select(transfers.c.owner).where(of).distinct()).scalars())
    return owners | {row.owner for row in connection.execute(HELPERS, {"ids": [id]})}


def _workers_of(connection: Connection, ids: Collection[str]) -> Sequence[Row[Any]]:
    """Return the rows of those workers that are registered."""
    return connection.execute(select(runners).where(runners.c.id.in_(ids))).all()


def _distrust_restored_ledger(connection: Connection, database: Database) -> None:
    """Distrust recent commits if the database is not where the last worker registered itself: it is
    a backup, or a replica that may have been behind."""
    now, kept = database.storage(connection), keys.c.name == _STORAGE
    was = connection.execute(select(keys.c.value).where(kept)).scalar()
    if now is None or now == was:
        return
    if was is not None:
        distrust_recent_commits(connection)
        restamp(connection)
    connection.execute(_KEEP_STORAGE, {"name": _STORAGE, "value": now})


def _correct_acceptance_times(connection: Connection, now: float) -> None:
    """Date migrations back that were accepted in the future: the clock was ahead then, and nothing
    of theirs may be called older than its acceptance. Each gets the time of the newest event before
    its own, or 0 without one."""
    if now < SET_SINCE:
        return
    ahead = migrations.c.created > now + AHEAD_SECONDS
    for id in connection.execute(select(migrations.c.id).where(ahead)).scalars().all():
        first = select(func.min(events.c.id)).where(events.c.migration_id == id).scalar_subquery()
        known = select(func.max(events.c.at)).where(events.c.id < first, events.c.at <= now)
        created = connection.execute(known).scalar() or 0.0
        connection.execute(update(migrations).where(migrations.c.id == id).values(created=created))


def _unregistered_owners(connection: Connection, worker: WorkerId) -> list[str]:
    """Return the owners of claims, parts and listings that are not registered: a worker that was
    removed as lost, claimed once more before it noticed, and ended."""
    found: set[str] = set()
    for owner, held in (
        (transfers.c.owner, RUNNING),
        (parts.c.owner, NOT_THERE),
        (migrations.c.listing_owner, migrations.c.listing == ListingState.RUNNING),
    ):
        entered = owner.in_(select(runners.c.id)) | (owner == worker.id)
        query = select(owner).where(held, owner.is_not(None), ~entered).distinct()
        found |= set(connection.execute(query).scalars())
    return sorted(found)


def _is_gone(row: Row[Any], now: float, worker: WorkerId, one_machine: bool) -> bool:
    if one_machine and row.boot != worker.boot:
        return True  # the machine restarted, and with it the clock and every process
    if not now <= row.until <= now + LONGEST_LEASE_SECONDS:  # ended, or the clock was set back
        return True
    if not _is_shown(row, worker, one_machine):
        return False
    found = process_identity(int(_pid_of(row)))
    # The start time before the '@' shows if another process has the pid by now.
    return found is None or ("@" in found and found != row.process)


def _is_shown(row: Row[Any], worker: WorkerId, one_machine: bool) -> bool:
    """Return whether this process sees if a worker's process has ended. A pid means nothing in
    another container, or where /proc shows nothing: then only the lease's expiry counts."""
    here = row.host == worker.host and row.boot == worker.boot
    namespace = row.process.partition("@")[2]
    same = bool(namespace) and namespace == worker.process.partition("@")[2]
    return bool(here and one_machine and same and _pid_of(row).isdigit())


def _pid_of(row: Row[Any]) -> str:
    pid: str = row.process.partition("@")[0].partition(".")[0]
    return pid
