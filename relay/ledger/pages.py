"""Read the transfers of a migration page by page, for the API, the terminal and reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from relay.ledger.schema import FAILED, receipts, transfers


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
    reason: str | None
    receipt: dict[str, Any] | None
    ended: float | None


def page(
    connection: Connection,
    migration: str,
    states: Iterable[str] = (),
    after: int = 0,
    limit: int = 1000,
    *,
    reason: str | None = None,
) -> list[TransferRow]:
    """Return up to `limit` transfers with ids above `after`, in the order of their ids; with
    `states`, only those in one of them, and with a `reason`, only those that failed for it."""
    query = page_query(migration, states, after, limit, reason=reason)
    return [transfer_row(row) for row in connection.execute(query)]


def page_query(
    migration: str,
    states: Iterable[str] = (),
    after: int = 0,
    limit: int = 1000,
    *,
    reason: str | None = None,
) -> Select[Any]:
    """Return the query for the rows of a page."""
    query = (
        select_rows()
        .where(transfers.c.migration_id == migration, transfers.c.id > after)
        .order_by(transfers.c.id)
        .limit(limit)
    )
    wanted = tuple(states)
    if wanted:
        query = query.where(transfers.c.state.in_(wanted))
    if reason is not None:
        query = query.where(FAILED, transfers.c.reason == reason)
    return query


def select_rows() -> Select[Any]:
    """Return the query for transfers with their receipts, without a condition."""
    return select(transfers, receipts.c.receipt).outerjoin(
        receipts, receipts.c.transfer_id == transfers.c.id
    )


def transfer_row(row: Row[Any]) -> TransferRow:
    """Return a row of `select_rows` as a value."""
    return TransferRow(
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
        reason=row.reason,
        receipt=json.loads(row.receipt) if row.receipt else None,
        ended=row.ended,
    )
