"""Read the transfers of a migration page by page, for the API, the terminal and reports."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    literal,
    select,
    tuple_,
    union_all,
)

from relay.ledger.parameters import AFTER, FORMS, LIMIT, MIGRATION, REASON
from relay.ledger.schema import FAILED, receipts, transfers
from relay.ledger.states import TransferState


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
    states: Collection[str] = (),
    after: int = 0,
    limit: int = 1000,
    *,
    reason: str | None = None,
) -> list[TransferRow]:
    """Return up to `limit` transfers with ids above `after`, in the order of their ids; with
    `states`, only those in one of them, and with a `reason`, only those that failed for it."""
    query = page_query(
        frozenset(states),
        has_reason=reason is not None,
        rows=_ROWS,
        sqlite=connection.dialect.name == "sqlite",
    )
    values = page_values(migration, states, after, reason) | {"limit": limit}
    return [transfer_row(row) for row in connection.execute(query, values)]


@lru_cache(maxsize=FORMS)
def page_query(
    states: frozenset[str],
    *,
    has_reason: bool = False,
    rows: Select[Any],
    limit: BindParameter[Any] = LIMIT,
    sqlite: bool,
) -> Select[Any]:
    """Return the query for the rows of a page: those of a query of transfers without a condition.
    Its parameters are `limit` and those of `page_values`."""
    (first, *others) = _ranges(states, has_reason)
    if not others:
        return first.of(rows, sqlite=sqlite).limit(limit)
    ids = ids_behind(states, limit, has_reason=has_reason, sqlite=sqlite)
    return rows.where(transfers.c.id.in_(ids)).order_by(transfers.c.id)


def ids_behind(
    states: frozenset[str], limit: BindParameter[Any], *, has_reason: bool, sqlite: bool
) -> Select[Any]:
    """Return the query for the ids of the rows of a page, in order.

    No index has the ids of several states in order, and SQLite would sort all objects of a
    migration for each page. So each state is asked for its own page, and the pages are merged."""
    pages = [
        one.of(select(transfers.c.id), sqlite=sqlite).limit(limit)
        for one in _ranges(states, has_reason)
    ]
    if len(pages) == 1:
        return pages[0]
    found = union_all(*(select(page.subquery()) for page in pages)).subquery()
    return select(found.c.id).order_by(found.c.id).limit(limit)


def page_values(
    migration: str, states: Collection[str], after: int, reason: str | None
) -> dict[str, Any]:
    """Return the parameters of `ids_behind` and `page_query`, without their limit."""
    # Only a failed object has a reason.
    is_empty = reason is not None and states and TransferState.FAILED not in states
    return {
        "migration": migration,
        "after": _LAST_ID if is_empty else after,
        "reason": reason,
    }


_LAST_ID: Final = 2**63 - 1


@dataclass(frozen=True)
class _PageRange:
    """The rows of a migration with one value in a column, and ids above a place."""

    column: ColumnElement[Any]
    value: ColumnElement[Any]

    def of(self, query: Select[Any], *, sqlite: bool) -> Select[Any]:
        """Return these rows of a query, in the order of their ids, by an index on migration, column
        and id.

        By `id > after` PostgreSQL would take the primary key where it expects matching rows soon,
        and read a million others: rows of one state often stand together. SQLite finds no place in
        an index by a pair with an id."""
        mine = query.where(transfers.c.migration_id == MIGRATION)
        if sqlite:
            rows = mine.where(self.column == self.value, transfers.c.id > AFTER)
            return rows.order_by(transfers.c.id)
        place = tuple_(self.column, transfers.c.id)
        return mine.where(place > tuple_(self.value, AFTER), self.column <= self.value).order_by(
            self.column, transfers.c.id
        )


@dataclass(frozen=True)
class _FailureRange(_PageRange):
    """The same for the failed rows of a reason, which have an index of their own."""

    def of(self, query: Select[Any], *, sqlite: bool) -> Select[Any]:
        """As _PageRange.of."""
        return super().of(query.where(FAILED), sqlite=sqlite)


def _ranges(states: frozenset[str], has_reason: bool) -> Sequence[_PageRange]:
    """Return the ranges that make up a page; the order of each is that of an index."""
    if has_reason:
        return [_FailureRange(transfers.c.reason, REASON)]
    wanted = sorted(states) or sorted(TransferState)
    return [_PageRange(transfers.c.state, literal(str(state))) for state in wanted]


def select_rows() -> Select[Any]:
    """Return the query for transfers with their receipts, without a condition."""
    return select(transfers, receipts.c.receipt).outerjoin(
        receipts, receipts.c.transfer_id == transfers.c.id
    )


_ROWS: Final = select_rows()


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
