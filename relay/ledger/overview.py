"""What the page asks of the ledger: the list of migrations by group and text, their number in each
group, the objects of one migration by filters, and its failures by reason.

Every query is bounded: a list reads one page in the order of its index, and filters without an
index look at WINDOW rows at a time. Never here: the names of groups (`relay/ui/words.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    false,
    func,
    or_,
    select,
    true,
)

from relay.ledger.counters import parts_of, tallies_of
from relay.ledger.migration_rows import migration_of_row, of_kind
from relay.ledger.pages import TransferRow, error_member, select_rows, transfer_row
from relay.ledger.rows import Efforts, Migration
from relay.ledger.schema import migrations, transfers, uploads
from relay.ledger.states import ENDED, MigrationState, TransferState

WINDOW: Final = 20_000
"""Maximum number of rows that one filtered page of objects looks at."""
EXAMINED: Final = 5_000
"""Maximum number of failed objects that are counted by their reasons."""
_LIKE: Final = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})


class Group(StrEnum):
    """The groups of the list of migrations."""

    ALL = "all"
    RUNNING = "running"
    PAUSED = "paused"
    NEEDS_YOU = "needs_you"
    """relay paused it, or some objects did not arrive."""
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class MigrationSearch:
    """One page of the list: a group, a text in the places or a number, and the lowest number of the
    page before."""

    group: Group = Group.ALL
    text: str = ""
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, kw_only=True)
class ObjectSearch:
    """One page of a migration's objects: those behind the row `after`. `code` is that of an
    error."""

    state: str | None = None
    code: str | None = None
    level: str | None = None
    prefix: str = ""
    after: int = 0
    limit: int = 100

    @property
    def is_filtered(self) -> bool:
        """Whether rows are left out that no index leaves out."""
        return bool(self.code or self.level or self.prefix)


@dataclass(frozen=True, kw_only=True)
class ObjectPage:
    """The objects that were found. `next` is the `after` of the next page, None at the end; the
    search has looked at WINDOW rows if the page is not full then."""

    rows: tuple[TransferRow, ...]
    next: int | None


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Failed objects with one reason; `sample` is the name of one of them."""

    code: str
    side: str
    objects: int
    bytes: int
    sample: str


def find_migrations(
    connection: Connection, wanted: MigrationSearch, runner: str | None = None
) -> list[Migration]:
    """Return up to `wanted.limit` migrations, newest first, with their tallies and without their
    efforts and retries."""
    query = (
        select(migrations)
        .where(of_kind(runner), _in_group(wanted.group), _names(wanted.text))
        .order_by(migrations.c.number.desc())
        .limit(wanted.limit)
    )
    if wanted.before is not None:
        query = query.where(migrations.c.number < wanted.before)
    return _with_tallies(connection, connection.execute(query).all())


def migrations_by_number(
    connection: Connection, numbers: Sequence[int], runner: str | None = None
) -> list[Migration]:
    """Return the migrations with some numbers, as `find_migrations` does; unknown numbers are left
    out."""
    query = select(migrations).where(of_kind(runner), migrations.c.number.in_(numbers))
    return _with_tallies(connection, connection.execute(query).all())


def group_counts(connection: Connection, runner: str | None = None) -> dict[Group, int]:
    """Return the number of migrations in each group."""
    is_waiting = case((_PAUSED_BY_RELAY, True), else_=False)
    query = (
        select(migrations.c.state, is_waiting.label("waits"), func.count().label("number"))
        .where(of_kind(runner))
        .group_by(migrations.c.state, is_waiting)
    )
    found: Counter[Group] = Counter()
    for row in connection.execute(query):
        for group in _groups_of(row.state, bool(row.waits)):
            found[group] += row.number
    return {group: found[group] for group in Group}


def find_objects(connection: Connection, id: str, wanted: ObjectSearch) -> ObjectPage:
    """Return a page of a migration's objects, in the order of their ids."""
    behind = _behind(id, wanted.state, wanted.after)
    end: int | None = None
    if wanted.is_filtered:
        window = select(transfers.c.id).where(behind).order_by(transfers.c.id).limit(WINDOW)
        reached = window.subquery()
        last, seen = connection.execute(
            select(func.max(reached.c.id), func.count()).select_from(reached)
        ).one()
        behind = and_(behind, transfers.c.id <= (last or 0), _matches(connection, wanted))
        end = last if seen == WINDOW else None
    query = select_rows().where(behind).order_by(transfers.c.id).limit(wanted.limit)
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


def failure_reasons(connection: Connection, id: str) -> list[Reason]:
    """Return the reasons of a migration's failed objects, the most frequent first. Only the first
    EXAMINED failed objects count."""
    failed = (
        select(transfers.c.name, transfers.c.error, transfers.c.size)
        .where(_behind(id, TransferState.FAILED, 0))
        .order_by(transfers.c.id)
        .limit(EXAMINED)
        .subquery()
    )
    code, side = (error_member(connection, failed.c.error, name) for name in ("code", "side"))
    query = select(
        code.label("code"),
        side.label("side"),
        func.count().label("objects"),
        func.sum(func.coalesce(failed.c.size, 0) * 1.0).label("bytes"),
        func.min(failed.c.name).label("sample"),
    ).group_by(code, side)
    found = [
        Reason(
            code=row.code,
            side=row.side,
            objects=row.objects,
            bytes=int(row.bytes or 0),
            sample=row.sample,
        )
        for row in connection.execute(query)
    ]
    return sorted(found, key=lambda one: (-one.objects, one.code, one.side))


_PAUSED_BY_RELAY: Final = and_(
    migrations.c.state == MigrationState.PAUSED,
    migrations.c.error.is_not(None),
    # A pending retry of the listing (`retried.py`), which a user's pause left there.
    migrations.c.error.not_like('%"again": %'),
)


def _groups_of(state: str, waits: bool) -> set[Group]:
    found = {Group.ALL}
    if state == MigrationState.RUNNING:
        found.add(Group.RUNNING)
    if state == MigrationState.PAUSED:
        found.add(Group.NEEDS_YOU if waits else Group.PAUSED)
    if state in (MigrationState.PARTIAL, MigrationState.FAILED):
        found.add(Group.NEEDS_YOU)
    if state in ENDED:
        found.add(Group.ENDED)
    return found


def _in_group(group: Group) -> ColumnElement[bool]:
    lost = migrations.c.state.in_((MigrationState.PARTIAL, MigrationState.FAILED))
    conditions: Mapping[Group, ColumnElement[bool]] = {
        Group.ALL: true(),
        Group.RUNNING: migrations.c.state == MigrationState.RUNNING,
        Group.PAUSED: and_(
            migrations.c.state == MigrationState.PAUSED,
            or_(migrations.c.error.is_(None), migrations.c.error.like('%"again": %')),
        ),
        Group.NEEDS_YOU: or_(lost, _PAUSED_BY_RELAY),
        Group.ENDED: migrations.c.state.in_(tuple(ENDED)),
    }
    return conditions[group]


def _names(text: str) -> ColumnElement[bool]:
    """Return the condition for a migration whose place has a text, or whose number it is."""
    if not text:
        return true()
    pattern = f"%{text.translate(_LIKE)}%"
    number = text.removeprefix("#")
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return or_(
        migrations.c.source.ilike(pattern, escape="\\"),
        migrations.c.destination.ilike(pattern, escape="\\"),
        migrations.c.number == int(number) if is_number else false(),
    )


def _behind(id: str, state: str | None, after: int) -> ColumnElement[bool]:
    mine = and_(transfers.c.migration_id == id, transfers.c.id > after)
    return mine if state is None else and_(mine, transfers.c.state == state)


def _matches(connection: Connection, wanted: ObjectSearch) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.code:
        conditions.append(error_member(connection, transfers.c.error, "code") == wanted.code)
    if wanted.level:
        conditions.append(transfers.c.level == wanted.level)
    if wanted.prefix:
        # Not LIKE, which ignores case in SQLite.
        conditions.append(func.substr(transfers.c.name, 1, len(wanted.prefix)) == wanted.prefix)
    return and_(true(), *conditions)


def _with_tallies(connection: Connection, rows: Sequence[Any]) -> list[Migration]:
    ids = [row.id for row in rows]
    tallies, arrived = tallies_of(connection, ids), parts_of(connection, ids)
    return [
        migration_of_row(row, tallies.get(row.id, {}), arrived.get(row.id, 0), Efforts(), 0)
        for row in rows
    ]
