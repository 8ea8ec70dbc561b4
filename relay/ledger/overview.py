"""What the page asks of the ledger: the list of migrations by group and text, and their number in
each group. A list reads one page in the order of its index.

Never here: the objects of one migration (`object_lists.py`), and the names of groups
(`relay/ui/words.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import CompoundSelect, Connection, func, select, union_all

from relay.ledger import migration_lists
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_rows import is_visible, of_kind, with_counts, with_names
from relay.ledger.migration_values import Migration
from relay.ledger.schema import migrations, transfers, uploads
from relay.ledger.stages import count_stages
from relay.ledger.states import ENDED, MigrationState
from relay.ledger.viewer import Viewer


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
