"""What the page asks of the ledger: the list of migrations by group and text, their number in each
group, and the objects of one migration by filters.

Every query is bounded: a list reads one page in the order of its index, and filters without an
index look at WINDOW rows at a time. Never here: the names of groups (`relay/ui/words.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    and_,
    func,
    select,
    true,
    union_all,
)

from relay.ledger import migration_lists
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_rows import is_visible, of_kind, with_counts, with_names
from relay.ledger.migration_values import Migration
from relay.ledger.pages import TransferRow, ids_behind, select_rows, transfer_row
from relay.ledger.schema import migrations, transfers, uploads
from relay.ledger.stages import count_stages
from relay.ledger.states import ENDED, MigrationState
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
class ObjectPage:
    """The objects that were found. `next` is the `after` of the next page, None at the end; the
    search has looked at WINDOW rows if the page is not full then."""

    rows: tuple[TransferRow, ...]
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
    """Return a page of a migration's objects, in the order of their ids."""
    states = () if wanted.state is None else (wanted.state,)
    most = WINDOW if wanted.is_filtered else wanted.limit
    sqlite = connection.dialect.name == "sqlite"
    ids = ids_behind(id, states, wanted.after, most, reason=wanted.reason, sqlite=sqlite)
    end: int | None = None
    if wanted.is_filtered:
        window = ids.subquery()
        bounds = select(func.max(window.c.id), func.count()).select_from(window)
        last, seen = connection.execute(bounds).one()
        end = last if seen == WINDOW else None
    query = select_rows().where(transfers.c.id.in_(ids), _matches(wanted))
    query = query.order_by(transfers.c.id).limit(wanted.limit)
    rows = tuple(transfer_row(row) for row in connection.execute(query))
    return ObjectPage(rows=rows, next=rows[-1].id if len(rows) == wanted.limit else end)


def one_object(connection: Connection, id: str, transfer: int) -> TransferRow | None:
    """Return one object of a migration, or None."""
    mine = (transfers.c.migration_id == id) & (transfers.c.id == transfer)
    row = connection.execute(select_rows().where(mine)).first()
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


def _matches(wanted: ObjectSearch) -> ColumnElement[bool]:
    """Return the condition by what no index has."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.level:
        conditions.append(transfers.c.level == wanted.level)
    if wanted.prefix:
        # Not LIKE, which ignores case in SQLite.
        conditions.append(func.substr(transfers.c.name, 1, len(wanted.prefix)) == wanted.prefix)
    return and_(true(), *conditions)
