"""The objects of one migration by filters, page by page in the order of their ids.

Theory of operation. A state and a reason have indexes, which serve a page each. A level of proof
and the beginning of a name have none. So a page by these looks at WINDOW rows, shows those that
match, and says where the next one goes on: in one state, or for one reason, at the next WINDOW rows
of its index; else at the WINDOW ids from the next object of the migration on, whose rows lie
together.

Decided here: which objects a page has. Never here: their reports (`pages.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, func, literal_column, select, true

from relay.ledger.pages import (
    TransferRow,
    ids_behind,
    page_query,
    page_values,
    select_rows,
    transfer_row,
)
from relay.ledger.parameters import (
    AFTER,
    BEFORE,
    FORMS,
    LETTERS,
    LEVEL,
    LIMIT,
    MIGRATION,
    PREFIX,
    TRANSFER,
    WINDOW_LIMIT,
)
from relay.ledger.schema import transfers
from relay.ledger.states import TransferState

WINDOW: Final = 5_000
"""Maximum number of rows that one filtered page looks at."""


@dataclass(frozen=True, kw_only=True)
class ObjectSearch:
    """One page of a migration's objects: those behind the row `after`. `reason` is one of
    `reasons.reasons_of`."""

    state: str | None = None
    reason: str | None = None
    level: str | None = None
    prefix: str = ""
    after: int = 0
    limit: int = 100

    @property
    def is_filtered(self) -> bool:
        """Whether rows are left out that no index leaves out."""
        return bool(self.level or self.prefix)


@dataclass(frozen=True, kw_only=True)
class ObjectRow:
    """One object in a list."""

    id: int
    name: str
    state: str
    size: int | None
    """The bytes that have moved, or else the listed size."""
    attempts: int
    level: str | None
    error: Mapping[str, Any] | None
    """Why it failed; None in any other state."""


@dataclass(frozen=True, kw_only=True)
class ObjectPage:
    """The objects that were found. `next` is the `after` of the next page, None at the end; the
    search has looked at WINDOW rows or ids if the page is not full then."""

    rows: tuple[ObjectRow, ...]
    next: int | None


def find_objects(connection: Connection, id: str, wanted: ObjectSearch) -> ObjectPage:
    """Return a page of a migration's objects, by one query; by a level or a prefix alone, by up to
    three."""
    has_index = wanted.state is not None or wanted.reason is not None
    if wanted.is_filtered and not has_index:
        found, end = _find_in_span(connection, id, wanted)
    else:
        found, end = _find_by_index(connection, id, wanted)
    rows = tuple(map(_object_row, found))
    return ObjectPage(rows=rows, next=rows[-1].id if len(rows) == wanted.limit else end)


def _find_by_index(
    connection: Connection, id: str, wanted: ObjectSearch
) -> tuple[Sequence[Row[Any]], int | None]:
    """Return the rows of a page, and the last one that was looked at, if more may follow."""
    query = objects_query(
        frozenset() if wanted.state is None else frozenset({wanted.state}),
        has_reason=wanted.reason is not None,
        has_level=bool(wanted.level),
        has_prefix=bool(wanted.prefix),
        sqlite=connection.dialect.name == "sqlite",
    )
    found = connection.execute(query, _values(id, wanted)).all()
    if not wanted.is_filtered:
        return found, None
    end = found[0].last if found[0].seen == WINDOW else None
    return [row for row in found if row.id is not None], end


def _find_in_span(
    connection: Connection, id: str, wanted: ObjectSearch
) -> tuple[Sequence[Row[Any]], int | None]:
    """As _find_by_index, of the WINDOW ids from the next object on."""
    first = _next_id(connection, id, wanted.after)
    if first is None:
        return (), None
    end = first + WINDOW - 1
    query = span_query(has_level=bool(wanted.level), has_prefix=bool(wanted.prefix))
    values = {**_values(id, wanted), "after": first - 1, "before": end}
    found = connection.execute(query, values).all()
    is_full = len(found) == wanted.limit
    has_more = is_full or _next_id(connection, id, end) is not None
    return found, end if has_more else None


def _next_id(connection: Connection, id: str, after: int) -> int | None:
    """Return the id of the migration's first object behind a place, or None."""
    query = _next_query(connection.dialect.name == "sqlite")
    found = connection.execute(query, {**page_values(id, (), after, None), "limit": 1}).scalar()
    return None if found is None else int(found)


def one_object(connection: Connection, id: str, transfer: int) -> TransferRow | None:
    """Return one object of a migration, or None."""
    row = connection.execute(_ONE_OBJECT, {"migration": id, "transfer": transfer}).first()
    return None if row is None else transfer_row(row)


_COLUMNS: Final = tuple(
    transfers.c[name]
    for name in ("id", "name", "state", "size", "bytes", "attempts", "level", "error")
)
"""Those of an ObjectRow. A list has no receipts."""


def _object_row(row: Row[Any]) -> ObjectRow:
    # A running transfer has the error of an earlier attempt, or a pending retry.
    error = json.loads(row.error) if row.error and row.state == TransferState.FAILED else None
    return ObjectRow(
        id=row.id,
        name=row.name,
        state=row.state,
        size=row.size if row.bytes is None else row.bytes,
        attempts=row.attempts,
        level=row.level,
        error=error,
    )


def _values(id: str, wanted: ObjectSearch) -> Mapping[str, Any]:
    states = () if wanted.state is None else (wanted.state,)
    return {
        **page_values(id, states, wanted.after, wanted.reason),
        "limit": wanted.limit,
        "window": WINDOW,
        "level": wanted.level,
        "prefix": wanted.prefix,
        "letters": len(wanted.prefix),
    }


@lru_cache(maxsize=FORMS)
def objects_query(
    states: frozenset[str], *, has_reason: bool, has_level: bool, has_prefix: bool, sqlite: bool
) -> Select[Any]:
    """Return the query for a page of objects.

    By a level or a prefix it finds the objects of a window that match. Each row then also has the
    number of objects that were `seen` and the id of the `last` one, and there is at least one row:
    it has no object if none matches."""
    if not (has_level or has_prefix):
        return page_query(states, has_reason=has_reason, rows=_OBJECTS, sqlite=sqlite)
    rows = page_query(
        states, has_reason=has_reason, rows=_OBJECTS, limit=WINDOW_LIMIT, sqlite=sqlite
    )
    # Else the window would be read once for its end, and again for its objects.
    window = rows.cte("seen").prefix_with("MATERIALIZED")
    match = _matching(select(window), window.c, has_level=has_level, has_prefix=has_prefix)
    found = match.subquery("found")
    end = select(func.max(window.c.id).label("last"), func.count().label("seen"))
    ends = end.select_from(window).subquery("ends")
    return select(ends, found).select_from(ends.outerjoin(found, true())).order_by(found.c.id)


@cache
def span_query(*, has_level: bool, has_prefix: bool) -> Select[Any]:
    """Return the query for the matching objects with ids above `after`, up to `before`."""
    # An expression: by an index on the migration all its objects would be read.
    of = transfers.c.migration_id + literal_column("''")
    mine = _OBJECTS.where(transfers.c.id > AFTER, transfers.c.id <= BEFORE, of == MIGRATION)
    return _matching(mine, transfers.c, has_level=has_level, has_prefix=has_prefix)


@cache
def _next_query(sqlite: bool) -> Select[Any]:
    return ids_behind(frozenset(), LIMIT, has_reason=False, sqlite=sqlite)


def _matching(
    query: Select[Any], columns: Any, *, has_level: bool, has_prefix: bool
) -> Select[Any]:
    """Return a page of those rows of a query that match, by their columns."""
    if has_level:
        query = query.where(columns.level == LEVEL)
    if has_prefix:
        # Not LIKE, which ignores case in SQLite.
        query = query.where(func.substr(columns.name, 1, LETTERS) == PREFIX)
    return query.order_by(columns.id).limit(LIMIT)


_OBJECTS: Final = select(*_COLUMNS)
_ONE_OBJECT: Final = select_rows().where(
    transfers.c.migration_id == MIGRATION, transfers.c.id == TRANSFER
)
