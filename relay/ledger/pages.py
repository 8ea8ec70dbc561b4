"""Read the transfers of a migration page by page, for the API, the terminal and reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from relay.ledger.schema import receipts, transfers


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """One transfer, as reports and the API show it."""

    id: int
    name: str
    state: str
    size: int | None
    bytes: int | None
    resent: int
    attempts: int
    seconds: float | None
    level: str | None
    error: dict[str, Any] | None
    receipt: dict[str, Any] | None
    ended: float | None


def page(
    connection: Connection,
    migration: str,
    states: Iterable[str] = (),
    after: int = 0,
    limit: int = 1000,
) -> list[TransferRow]:
    """Return up to `limit` transfers with ids above `after`, in the order of their ids; with
    `states`, only those in one of them."""
    query = (
        select(transfers, receipts.c.receipt)
        .outerjoin(receipts, receipts.c.transfer_id == transfers.c.id)
        .where(transfers.c.migration_id == migration, transfers.c.id > after)
        .order_by(transfers.c.id)
        .limit(limit)
    )
    wanted = tuple(states)
    if wanted:
        query = query.where(transfers.c.state.in_(wanted))
    return [
        TransferRow(
            id=row.id,
            name=row.name,
            state=row.state,
            size=row.size,
            bytes=row.bytes,
            resent=row.resent,
            attempts=row.attempts,
            seconds=row.seconds,
            level=row.level,
            error=json.loads(row.error) if row.error else None,
            receipt=json.loads(row.receipt) if row.receipt else None,
            ended=row.ended,
        )
        for row in connection.execute(query)
    ]
