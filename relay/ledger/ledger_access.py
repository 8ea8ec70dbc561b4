"""How one worker, and one actor, reach a ledger: transactions, and the row of the audit log in the
transaction of a change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection

from relay.ledger import audit_log
from relay.ledger.database import Database, Operation
from relay.ledger.workers import TERMINAL, WorkerId

T = TypeVar("T")


@dataclass
class WriteAheadLog:
    """SQLite's write-ahead log, as far as this process knows."""

    has_secrets: bool = False
    """Whether it may still hold secrets that were deleted."""


@dataclass(frozen=True, kw_only=True)
class LedgerAccess:
    """The way to a ledger for one `worker`. With an `actor` the audit log records what is changed,
    in the change's own transaction."""

    database: Database
    worker: WorkerId
    actor: audit_log.Actor | None = None
    log: WriteAheadLog = field(default_factory=WriteAheadLog)

    @property
    def shown_kind(self) -> str | None:
        """The kind of migrations that are shown, None for all. A terminal owns the file and sees
        all; a server's clients see only the migrations that the server accepted."""
        return None if self.worker.kind == TERMINAL else self.worker.kind

    def read(self, do: Callable[[Connection], T], operation: Operation = "other") -> T:
        """As Database.run, without a lock."""
        return self.database.run(do, write=False, operation=operation)

    def write(self, do: Callable[[Connection], T], operation: Operation = "other") -> T:
        """As Database.run."""
        return self.database.run(do, operation=operation)

    def record(
        self,
        connection: Connection,
        verb: str,
        object: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a row to the audit log, if there is an actor."""
        if self.actor is not None:
            audit_log.append(
                connection,
                self.actor,
                verb,
                object,
                before=before,
                after=after,
                now=time.time(),
            )

    def note_deleted_secret(self) -> None:
        """Note that SQLite's log may hold a secret that a change has deleted."""
        self.log.has_secrets = True
