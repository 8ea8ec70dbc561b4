"""One process's access to the ledger for the requests that it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay.api.caller import current_caller
from relay.api.following import StreamPlaces, Waiters
from relay.api.planner import Planner
from relay.api.watcher import Watcher
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration


@dataclass(frozen=True, kw_only=True)
class LedgerContext:
    """One process's access to the ledger; `waiters`, `places` and `watcher` serve its clients that
    follow a migration, `planner` those that plan one."""

    ledger: Ledger
    worker: Worker
    waiters: Waiters
    places: StreamPlaces
    watcher: Watcher
    planner: Planner


def ledger_context(ledger: Ledger, worker: Worker, engine: TransferEngine) -> LedgerContext:
    """Return a process's access to the ledger, with the limits of the engine's settings."""
    settings = engine.settings
    watcher = Watcher(
        ledger.live, trouble=lambda: worker.trouble, is_stopping=lambda: engine.draining
    )
    places = StreamPlaces(settings.streams, settings.token_streams)
    return LedgerContext(
        ledger=ledger,
        worker=worker,
        waiters=Waiters(settings.waiters),
        places=places,
        watcher=watcher,
        planner=Planner(ledger, engine),
    )


def visible_migration(works: LedgerContext, id: str) -> Migration:
    """Return a migration that the caller of this request sees. Raises MigrationUnknown for any
    other: a foreign migration is answered as one that does not exist."""
    return works.ledger.migration(id, current_caller().viewer)


def with_trouble(works: LedgerContext, members: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a migration with the `trouble` of this process's ledger, if any."""
    return {**members, **trouble_of(works)}


def trouble_of(works: LedgerContext) -> dict[str, Any]:
    """Return the `trouble` of this process while its ledger is unavailable, else {}."""
    error = works.worker.trouble
    return {} if error is None else {"trouble": {"code": error.code, "detail": error.title}}
