"""Remove unfinished uploads of stopped or lost attempts from a destination, for `relay cancel`."""

from __future__ import annotations

from collections.abc import Iterator

from gevent.event import Event

from relay.cli.engines import engine_for
from relay.config import Settings
from relay.engine.migration_request import MigrationJob
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.orphans import OrphanSweeper
from relay.errors import RelayError
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.stores.remotes import Remotes


def sweep(settings: Settings, ledger: Ledger, migration: Migration) -> Iterator[tuple[str, bool]]:
    """Remove the unfinished uploads of a migration. Yield a line and True for each that may remain,
    and a line and False with the number of the others. The hosts of the migration are allowed,
    since its user named them. Raises LedgerFailed."""
    try:
        remotes = Remotes(settings.remotes, folders=None)
        job, _ = MigrationJob.from_row(migration, ledger.secret(migration.id), remotes)
        engine = engine_for(settings, remotes, job.source, job.destination)
    except RelayError as denied:
        place = migration.destination
        yield f"relay: an unfinished upload may remain at {place}: {denied.message}", True
        return
    sweeper = OrphanSweeper(
        ledger, engine, jobs=MigrationCache(ledger, engine), over=Event(), only=migration.id
    )
    # A sweep removes a page of the ledger's orphans, and does not return the same failed one twice.
    total, more = 0, True
    while more:
        count, left = sweeper.sweep()
        total, more = total + count, bool(count or left)
        for orphan, error in left:
            place = f"{migration.destination}{orphan.claim.name}"
            if orphan.upload:
                place = orphan.upload.place
            again = "" if error.remains else "; run the same command again to retry"
            yield f"relay: an unfinished upload may remain at {place}: {error.message}{again}", True
    if total:
        place = migration.destination
        yield f"relay: nothing unfinished is left at {place} ({total:,} checked)", False
