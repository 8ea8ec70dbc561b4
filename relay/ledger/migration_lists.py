"""Lists of migrations, page by page, the newest first.

Theory of operation. A page begins below a cursor, which is a place in the order of an index; no
page skips rows. The states of a filter are asked one by one, each for at most a page, because no
index has several states in the order of the list. So the cost of a page depends on its length, not
on the length of the list; a search reads on until it has found a page.

Decided here: which migrations a page has. Never here: the members of each
(`migration_rows.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, or_, select, union_all

from relay.ledger.migration_rows import is_visible, of_kind, with_counts
from relay.ledger.migration_values import Migration
from relay.ledger.schema import NEEDY, migrations
from relay.ledger.viewer import EVERYTHING, Viewer


@dataclass(frozen=True, kw_only=True)
class MigrationFilter:
    """The migrations that a list has; each member narrows it."""

    states: frozenset[str] = frozenset()
    """Only migrations in one of these states; empty for all."""
    needs_attention: bool | None = None
    """Only migrations that need a person, or only others; None for all."""
    search: str = ""
    """Only migrations whose source or destination has this text, in any case, or that have this
    number."""
    before: int | None = None
    """Only migrations after this place in the list: `Migration.cursor_for` of the last one of the
    page before."""


ALL = MigrationFilter()


def find_migrations(
    connection: Connection,
    limit: int,
    wanted: MigrationFilter = ALL,
    viewer: Viewer = EVERYTHING,
    runner: str | None = None,
) -> list[Migration]:
    """Return up to `limit` migrations that a viewer sees, newest first and without their efforts,
    by at most four queries; of one kind of worker as `migration_rows.of_kind`."""
    if "\0" in wanted.search:  # PostgreSQL refuses it, and no location has it
        return []
    rows = connection.execute(list_query(limit, wanted, viewer, runner)).all()
    return with_counts(connection, rows)


def list_query(
    limit: int, wanted: MigrationFilter, viewer: Viewer, runner: str | None
) -> Select[Any]:
    """Return the query for the rows of a page."""
    place = migrations.c.number if viewer.sees_all else migrations.c.ordinal
    conditions = [is_visible(viewer), of_kind(runner), *_conditions(wanted, place)]
    page = select(migrations).where(*conditions).order_by(place.desc()).limit(limit)
    if len(wanted.states) <= 1:
        return page.where(*(migrations.c.state == state for state in wanted.states))
    pages = [
        select(page.where(migrations.c.state == state).subquery())
        for state in sorted(wanted.states)
    ]
    found = union_all(*pages).subquery()
    return select(found).order_by(found.c[place.name].desc()).limit(limit)


def _conditions(wanted: MigrationFilter, place: Any) -> Iterator[ColumnElement[bool]]:
    if wanted.before is not None:
        yield place < wanted.before
    if wanted.needs_attention is not None:
        yield NEEDY if wanted.needs_attention else ~migrations.c.needs_attention
    if wanted.search:
        text = wanted.search
        number = text.removeprefix("#")
        numbered = number.isascii() and number.isdigit() and len(number) < 10
        yield or_(
            migrations.c.source.icontains(text, autoescape=True),
            migrations.c.destination.icontains(text, autoescape=True),
            *((migrations.c.ordinal == int(number),) if numbered else ()),
        )
