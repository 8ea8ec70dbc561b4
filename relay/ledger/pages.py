"""Read the transfers of a migration page by page, for the API, the terminal and reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, Row, Select, cast, func, select

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
        select_rows()
        .where(transfers.c.migration_id == migration, transfers.c.id > after)
        .order_by(transfers.c.id)
        .limit(limit)
    )
    wanted = tuple(states)
    if wanted:
        query = query.where(transfers.c.state.in_(wanted))
    return [transfer_row(row) for row in connection.execute(query)]


def select_rows() -> Select[Any]:
    """Return the query for transfers with their receipts, without a condition."""
    return select(transfers, receipts.c.receipt).outerjoin(
        receipts, receipts.c.transfer_id == transfers.c.id
    )


def error_member(
    connection: Connection, error: ColumnElement[Any], name: str
) -> ColumnElement[str]:
    """Return a member of the error of a transfer as text, '' without one. The column is JSON, whose
    spaces differ between the two databases."""
    if connection.dialect.name == "sqlite":  # which would take CAST(… AS JSON) as a number
        return func.coalesce(func.json_extract(error, f"$.{name}"), "")
    return func.coalesce(cast(error, JSON)[name].as_string(), "")


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
        receipt=json.loads(row.receipt) if row.receipt else None,
        ended=row.ended,
    )
