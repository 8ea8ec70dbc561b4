"""What a signed report reads of the ledger, and what the ledger keeps of it.

Theory of operation. A report is about one moment: the migration and all its objects are read in one
transaction, as they were when it began. Each report names the one before it. So the ledger keeps
the digest of each as an event, before anybody has the report: a report that a crash keeps back is
named by the next one, and none is left out.

Decided here: the order of the objects, and which report is the last one. Never here: a report's
members (`relay/reports/`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection, select

from relay.ledger import migration_rows
from relay.ledger.earlier_receipts import (
    earlier_migrations,
    with_earlier_receipts,
    without_deleted,
)
from relay.ledger.event_log import write_event
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Migration
from relay.ledger.pages import TransferRow, page, select_rows, transfer_row
from relay.ledger.schema import events, transfers
from relay.ledger.states import EventKind

T = TypeVar("T")
ROWS_READ: Final = 500
"""Number of rows that are held at a time."""


@dataclass(frozen=True)
class ReportLedger:
    """The signed reports of a ledger's migrations: every call is one transaction, and raises as
    those of `Ledger`."""

    access: LedgerAccess

    def at_one_moment(self, id: str, use: Callable[[Migration, Iterator[TransferRow]], T]) -> T:
        """Call `use` with a migration and its objects, all as they are at one moment, and return
        its result. The objects come in the order of their names' UTF-8 bytes; ROWS_READ of them are
        held at a time. With SQLite `use` is called in a native thread."""

        def read(connection: Connection) -> T:
            return use(migration_rows.one(connection, id), _rows_by_name(connection, id))

        return self.access.read(read)

    def with_receipts(self, id: str) -> Iterator[TransferRow]:
        """Yield the objects of a migration in the order of their ids; one that was skipped has the
        newest receipt of an earlier migration to the same place. Objects that its mirror has
        deleted are left out. Each page of ROWS_READ is read in transactions of its own, so that a
        reader may take its time."""
        earlier, after = self.access.read(partial(earlier_migrations, id=id)), 0

        def read(connection: Connection) -> list[TransferRow]:
            return page(connection, id, after=after, limit=ROWS_READ)

        def judge(connection: Connection) -> list[TransferRow]:
            left = without_deleted(connection, id, found)
            return with_earlier_receipts(connection, left, earlier)

        while True:
            found = self.access.read(read)
            yield from self.access.read(judge)
            if len(found) < ROWS_READ:
                return
            after = found[-1].id

    def last(self, id: str) -> str | None:
        """Return the digest of the last report of a migration, or None."""
        return self.access.read(lambda c: _last(c, id))

    def record(self, id: str, previous: str | None, digest: str) -> bool:
        """Record the digest of a report, and return True; unless the last report is another one
        than `previous` by now: then nothing is recorded."""

        def record(connection: Connection) -> bool:
            migration_rows.lock_migration(connection, id)
            if _last(connection, id) != previous:
                return False
            write_event(connection, id, EventKind.REPORT_SIGNED, {"sha256": digest})
            return True

        return self.access.write(record)


def _rows_by_name(connection: Connection, id: str) -> Iterator[TransferRow]:
    name = transfers.c.name
    # SQLite compares bytes, and has an index in this order; PostgreSQL sorts, on its disk.
    order = name if connection.dialect.name == "sqlite" else name.collate("C")
    query = select_rows().where(transfers.c.migration_id == id).order_by(order)
    some_at_a_time = query.execution_options(stream_results=True, yield_per=ROWS_READ)
    return map(transfer_row, connection.execute(some_at_a_time))


def _last(connection: Connection, id: str) -> str | None:
    mine = (events.c.migration_id == id) & (events.c.kind == EventKind.REPORT_SIGNED)
    query = select(events.c.members).where(mine).order_by(events.c.tx.desc(), events.c.id.desc())
    found = connection.execute(query.limit(1)).scalar()
    return None if found is None else str(json.loads(found)["sha256"])
