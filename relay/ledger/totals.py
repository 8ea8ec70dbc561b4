"""The totals of a ledger: how many migrations there are in each state, and how many of them need a
person, by reason.

Decided here: the reasons. Never here: which migration needs a person (`stages.py`), and a single
migration (`migration_rows.py`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select, text

from relay.errors import ConfigError, RelayError, RequestError, StoreFull
from relay.ledger.acceptance import WITHDRAWN
from relay.ledger.database import Database
from relay.ledger.migration_rows import of_kind
from relay.ledger.retried import split_listing_retry
from relay.ledger.schema import NEEDY, migrations
from relay.ledger.stages import count_stages
from relay.ledger.states import FAULTY, MigrationState
from relay.ledger.viewer import EVERYTHING

REASONS: Final = ("credentials", "full", "settings", "other", "partial", "failed")
"""Why a migration needs a person: relay has paused it for one of the first four, or it has ended
so, and no person has acknowledged that."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The numbers of one ledger."""

    states: Mapping[str, int]
    """Number of migrations in each state, also of those that have none."""
    attention: Mapping[str, int]
    """Number of migrations that need a person, by each of REASONS."""
    bytes: int
    """Size of the database, in bytes."""
    free_bytes: int | None
    """Free bytes of the disk of SQLite's file; None for another database."""


def read(connection: Connection, database: Database, runner: str | None) -> Totals:
    """Read the totals of the migrations of one kind of worker (None: of all). Reads only."""
    stages = count_stages(connection, EVERYTHING, runner)
    states = {state.value: stages[state, False] + stages[state, True] for state in MigrationState}
    ended = {state.value: stages[state, True] for state in sorted(FAULTY)}
    attention = dict.fromkeys(REASONS, 0) | ended | _pause_reasons(connection, runner)
    size, free = _sizes(connection, database)
    return Totals(states=states, attention=attention, bytes=size, free_bytes=free)


def _pause_reasons(connection: Connection, runner: str | None) -> dict[str, int]:
    """Return the number of migrations that relay has paused, by reason."""
    is_paused = migrations.c.state == MigrationState.PAUSED
    query = select(migrations.c.error).where(of_kind(runner), is_paused, NEEDY)
    errors = (split_listing_retry(row)[0] for row in connection.execute(query).scalars())
    return dict(Counter(_reason("" if error is None else error["code"]) for error in errors))


def _reason(code: str) -> str:
    kind = RelayError.class_of(code) or RelayError
    if code in WITHDRAWN:
        return "credentials"
    if issubclass(kind, StoreFull):
        return "full"
    return "settings" if issubclass(kind, ConfigError | RequestError) else "other"


def _sizes(connection: Connection, database: Database) -> tuple[int, int | None]:
    """Return the size of the database, and the free bytes of its disk."""
    if not database.sqlite:
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        return int(size), None
    path, size, free = str(database.url.database), 0, None
    for name in (path, f"{path}-wal"):
        with suppress(OSError):
            size += os.stat(name).st_size
    with suppress(OSError):
        found = os.statvfs(os.path.dirname(path) or ".")
        free = found.f_bavail * found.f_frsize
    return size, free
