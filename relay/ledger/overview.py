"""What the page asks of the ledger: the list of migrations by group and text, their number in each
group, and the objects of one migration by filters.

Every query is bounded: a list reads one page in the order of its index, and filters without an
index look at WINDOW rows at a time. Never here: the names of groups (`relay/ui/words.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Row,
    Select,
    func,
    select,
    true,
    union_all,
)

from relay.ledger import migration_lists
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_rows import is_visible, of_kind, with_counts, with_names
from relay.ledger.migration_values import Migration
from relay.ledger.pages import (
    TransferRow,
    ids_behind,
    page_query,
    page_values,
    select_rows,
    transfer_row,
)
from relay.ledger.parameters import (
    FORMS,
    LETTERS,
    LEVEL,
    LIMIT,
    MIGRATION,
    PREFIX,
    TRANSFER,
    WINDOW_LIMIT,
)
from relay.ledger.schema import migrations, transfers, uploads
from relay.ledger.stages import count_stages
from relay.ledger.states import ENDED, MigrationState, TransferState
from relay.ledger.viewer import Viewer

WINDOW: Final = 5_000
"""Maximum number of rows that one filtered page of objects looks at."""


class Group(StrEnum):
    """The groups of the list of migrations."""

    ALL = "all"
    RUNNING = "running"
    PAUSED = "paused"
    NEEDS_YOU = "needs_you"
    """relay paused it, or some objects did not arrive and no person has acknowledged that."""
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class MigrationSearch:
    """One page of the list: a group, a text in the places or a number, and the place of the last
    migration of the page before (`Migration.cursor_for`)."""

    group: Group = Group.ALL
    text: str = ""
    before: int | None = None
    limit: int = 50


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
    search has looked at WINDOW rows if the page is not full then."""

    rows: tuple[ObjectRow, ...]
    next: int | None


def find_migrations(
    connection: Connection, wanted: MigrationSearch, viewer: Viewer, runner: str | None = None
) -> list[Migration]:
    """Return up to `wanted.limit` migrations that a viewer sees, newest first and without their
    efforts."""
    narrowed = replace(_GROUPS[wanted.group], search=wanted.text, before=wanted.before)
    return migration_lists.find_migrations(connection, wanted.limit, narrowed, viewer, runner)


def migrations_by_name(
    connection: Connection, names: Sequence[str], viewer: Viewer, runner: str | None = None
) -> list[Migration]:
    """Return the migrations with some names (`Migration.name`), as `find_migrations` does; unknown
    ones are left out."""
    query = query_by_name(names, viewer, runner)
    if query is None:
        return []
    rows = {row.id: row for row in connection.execute(query)}
    return with_counts(connection, list(rows.values()))


def query_by_name(
    names: Sequence[str], viewer: Viewer, runner: str | None = None
) -> CompoundSelect[Any] | None:
    """Return the query for the rows of `migrations_by_name`, or None if nothing can have these
    names. Each of its parts uses an index."""
    visible = is_visible(viewer) & of_kind(runner)
    conditions = with_names(names, viewer)
    found = [select(migrations).where(visible, condition) for condition in conditions]
    return union_all(*found) if found else None


def group_counts(
    connection: Connection, viewer: Viewer, runner: str | None = None
) -> dict[Group, int]:
    """Return the number of the migrations of each group that a viewer sees."""
    counted = count_stages(connection, viewer, runner)
    return {
        group: sum(
            number
            for (state, needy), number in counted.items()
            if (not wanted.states or state in wanted.states)
            and wanted.needs_attention in (None, needy)
        )
        for group, wanted in _GROUPS.items()
    }


def find_objects(connection: Connection, id: str, wanted: ObjectSearch) -> ObjectPage:
    """Return a page of a migration's objects, in the order of their ids, by one query."""
    query = objects_query(
        frozenset() if wanted.state is None else frozenset({wanted.state}),
        has_reason=wanted.reason is not None,
        has_level=bool(wanted.level),
        has_prefix=bool(wanted.prefix),
        sqlite=connection.dialect.name == "sqlite",
    )
    found = connection.execute(query, _object_values(id, wanted)).all()
    end: int | None = None
    if wanted.is_filtered:
        end = found[0].last if found[0].seen == WINDOW else None
        found = [row for row in found if row.id is not None]
    rows = tuple(map(_object_row, found))
    return ObjectPage(rows=rows, next=rows[-1].id if len(rows) == wanted.limit else end)


def one_object(connection: Connection, id: str, transfer: int) -> TransferRow | None:
    """Return one object of a migration, or None."""
    row = connection.execute(_ONE_OBJECT, {"migration": id, "transfer": transfer}).first()
    return None if row is None else transfer_row(row)


def unfinished_uploads(connection: Connection, id: str) -> int:
    """Return the number of a migration's multipart uploads that are neither completed nor
    aborted."""
    # A subquery, not a join: SQLite would scan all transfers of the migration for uploads.
    of = (
        select(transfers.c.migration_id)
        .where(transfers.c.id == uploads.c.transfer_id)
        .scalar_subquery()
    )
    query = select(func.count()).select_from(uploads).where(of == id)
    return int(connection.execute(query).scalar() or 0)


_GROUPS: Final[Mapping[Group, MigrationFilter]] = {
    Group.ALL: MigrationFilter(),
    Group.RUNNING: MigrationFilter(states=frozenset({MigrationState.RUNNING})),
    Group.PAUSED: MigrationFilter(states=frozenset({MigrationState.PAUSED}), needs_attention=False),
    Group.NEEDS_YOU: MigrationFilter(needs_attention=True),
    Group.ENDED: MigrationFilter(states=ENDED),
}


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


def _object_values(id: str, wanted: ObjectSearch) -> Mapping[str, Any]:
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
    ids = ids_behind(states, WINDOW_LIMIT, has_reason=has_reason, sqlite=sqlite)
    # Else the window would be read once for its end, and again for its objects.
    window = ids.cte("seen").prefix_with("MATERIALIZED")
    matching = _OBJECTS.where(transfers.c.id.in_(select(window.c.id)))
    if has_level:
        matching = matching.where(transfers.c.level == LEVEL)
    if has_prefix:
        # Not LIKE, which ignores case in SQLite.
        matching = matching.where(func.substr(transfers.c.name, 1, LETTERS) == PREFIX)
    found = matching.order_by(transfers.c.id).limit(LIMIT).subquery("found")
    end = select(func.max(window.c.id).label("last"), func.count().label("seen"))
    ends = end.select_from(window).subquery("ends")
    return select(ends, found).select_from(ends.outerjoin(found, true())).order_by(found.c.id)


_OBJECTS: Final = select(*_COLUMNS)
_ONE_OBJECT: Final = select_rows().where(
    transfers.c.migration_id == MIGRATION, transfers.c.id == TRANSFER
)
