"""Lists of migrations, page by page, the newest first.

Theory of operation. A page begins below a cursor, which is a place in the order of an index; no
page skips rows. The states of a filter are asked one by one, each for at most a page, because no
index has several states in the order of the list. So the cost of a page depends on its length, not
on the length of the list; a search reads on until it has found a page.

Decided here: which migrations a page has. Never here: the members of each
(`migration_rows.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, or_, select, union_all

from relay.ledger.migration_rows import with_counts
from relay.ledger.migration_values import Migration
from relay.ledger.parameters import BEFORE, FORMS, LIMIT, NUMBER, RUNNER, TENANT, TEXT
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
    query = list_query(ListForm.of(wanted, viewer, runner))
    rows = connection.execute(query, list_values(limit, wanted, viewer, runner)).all()
    return with_counts(connection, rows)


@dataclass(frozen=True, kw_only=True)
class ListForm:
    """What decides the query of a list, without its values."""

    states: frozenset[str]
    needs_attention: bool | None
    has_before: bool
    searches: bool
    searches_number: bool
    sees_all: bool
    of_one_kind: bool

    @classmethod
    def of(cls, wanted: MigrationFilter, viewer: Viewer, runner: str | None) -> ListForm:
        """Return the form of a list that a viewer sees; of one kind of worker, or of all."""
        return cls(
            states=wanted.states,
            needs_attention=wanted.needs_attention,
            has_before=wanted.before is not None,
            searches=bool(wanted.search),
            searches_number=_number_in(wanted.search) is not None,
            sees_all=viewer.sees_all,
            of_one_kind=runner is not None,
        )


def list_values(
    limit: int, wanted: MigrationFilter, viewer: Viewer, runner: str | None
) -> Mapping[str, Any]:
    """Return the parameters of `list_query`."""
    return {
        "limit": limit,
        "before": wanted.before,
        "text": re.sub("[/%_]", r"/\g<0>", wanted.search),
        "number": _number_in(wanted.search),
        "tenant": viewer.tenant,
        "runner": runner,
    }


@lru_cache(maxsize=FORMS)
def list_query(form: ListForm) -> Select[Any]:
    """Return the query for the rows of a page."""
    place = migrations.c.number if form.sees_all else migrations.c.ordinal
    page = select(migrations).where(*_conditions(form, place)).order_by(place.desc()).limit(LIMIT)
    if len(form.states) <= 1:
        return page.where(*(migrations.c.state == state for state in form.states))
    pages = [
        select(page.where(migrations.c.state == state).subquery()) for state in sorted(form.states)
    ]
    found = union_all(*pages).subquery()
    return select(found).order_by(found.c[place.name].desc()).limit(LIMIT)


def _conditions(form: ListForm, place: Any) -> Iterator[ColumnElement[bool]]:
    if not form.sees_all:
        yield migrations.c.tenant == TENANT
    if form.of_one_kind:
        yield migrations.c.runner.is_(None) | (migrations.c.runner == RUNNER)
    if form.has_before:
        yield place < BEFORE
    if form.needs_attention is not None:
        yield NEEDY if form.needs_attention else ~migrations.c.needs_attention
    if form.searches:
        yield or_(
            migrations.c.source.icontains(TEXT, escape="/"),
            migrations.c.destination.icontains(TEXT, escape="/"),
            *((migrations.c.ordinal == NUMBER,) if form.searches_number else ()),
        )


def _number_in(text: str) -> int | None:
    """Return the number that a text may name, or None."""
    number = text.removeprefix("#")
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return int(number) if is_number else None
