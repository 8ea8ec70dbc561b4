"""The events of migrations: written with the change that they tell of, read in an order in which
none is passed.

Theory of operation. PostgreSQL gives numbers to events when they are written, and shows them when
they are committed: a reader that has seen number 8 would never see number 7, if that is committed
later. So each event has the number of its transaction, and a reader waits for all older
transactions: it takes what lies below the oldest one that runs (`pg_snapshot_xmin`), in the order
of transaction and number. A long transaction of another program on the same server delays events,
and loses none. SQLite has one writer at a time, so there every event has transaction 0.

Numbers of transactions belong to one PostgreSQL server. Where a ledger was restored into another
one, `restamp` gives the events that the new server could not have written a number of its own. A
client's cursor is therefore looked up by the number of its event, which stays.

Decided here: the order of events, and which are complete. Never here: what an event tells."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)

from relay.ledger.event_values import Event, EventCursor
from relay.ledger.schema import events
from relay.ledger.states import EventKind

START: Final = EventCursor()
"""Before all events."""
LAST_NUMBER: Final = 2**63 - 1
_OLDEST: Final[ColumnElement[int]] = literal_column(
    "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
)
"""The oldest transaction that still runs: everything below it is committed or undone."""
_NEXT: Final[ColumnElement[int]] = literal_column(
    "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)
_CURRENT: Final[ColumnElement[int]] = literal_column("pg_current_xact_id()::text::bigint")
_ORDER: Final = tuple_(events.c.tx, events.c.id)


def write_event(
    connection: Connection, migration: str, kind: EventKind, members: Mapping[str, Any]
) -> None:
    """Write an event of a migration; `members` are its JSON members besides `id`, `at`, `kind`."""
    row = {
        "migration_id": migration,
        "at": time.time(),
        "kind": kind,
        "members": json.dumps(members),
    }
    connection.execute(insert(events), row)


def events_after(
    connection: Connection,
    id: str,
    since: EventCursor,
    limit: int,
    *,
    ended: bool = False,
    newest: bool = False,
) -> list[Event]:
    """Return up to `limit` of a migration's events behind `since`, in order: the oldest of them, or
    the `newest`.

    Of a migration that has `ended`, with no transfer under way, all events are committed: nothing
    that still runs could write one before them."""
    query = select(events).where(events.c.migration_id == id, tuple_(since.tx, since.id) < _ORDER)
    if not ended and connection.dialect.name != "sqlite":
        query = query.where(events.c.tx < _OLDEST)
    return _read(connection, query, limit, newest=newest)


def events_between(
    connection: Connection,
    ids: Collection[str],
    after: EventCursor,
    until: EventCursor,
    limit: int,
    *,
    ended: Collection[str] = (),
) -> list[Event]:
    """Return the newest `limit` events of some migrations from `after` up to the mark `until`, in
    order; and of those that have `ended` all of them."""
    bound = tuple_(until.tx, until.id) >= _ORDER
    query = select(events).where(
        events.c.migration_id.in_(list(ids)),
        tuple_(after.tx, after.id) < _ORDER,
        or_(bound, events.c.migration_id.in_(list(ended))) if ended else bound,
    )
    return _read(connection, query, limit, newest=True)


def _read(connection: Connection, query: Any, limit: int, *, newest: bool) -> list[Event]:
    columns = (events.c.tx, events.c.id)
    order = [column.desc() for column in columns] if newest else columns
    rows = connection.execute(query.order_by(*order).limit(limit)).all()
    found = [
        Event(
            cursor=EventCursor(row.tx, row.id),
            migration_id=row.migration_id,
            at=row.at,
            kind=row.kind,
            members=json.loads(row.members),
        )
        for row in rows
    ]
    return found[::-1] if newest else found


def mark_column(sqlite: bool) -> ColumnElement[int]:
    """Return the expression that `mark_of` turns into the place up to which events are
    complete."""
    if sqlite:
        return select(func.coalesce(func.max(events.c.id), 0)).scalar_subquery()
    return _OLDEST


def mark_of(sqlite: bool, value: int) -> EventCursor:
    """Return the place up to which events are complete, from the value of `mark_column`."""
    return EventCursor(0, value) if sqlite else EventCursor(value - 1, LAST_NUMBER)


def mark(connection: Connection) -> EventCursor:
    """Return the place up to which events are complete: none can be committed before it."""
    sqlite = connection.dialect.name == "sqlite"
    return mark_of(sqlite, int(connection.execute(select(mark_column(sqlite))).scalar_one()))


def resolve(connection: Connection, id: str, given: EventCursor) -> EventCursor:
    """Return the present place of a client's cursor in a migration's events: it may be of an older
    relay, or of a ledger that was restored into another server since. START for an event that the
    migration does not have."""
    named = (events.c.id == given.id) & (events.c.migration_id == id)
    tx = connection.execute(select(events.c.tx).where(named)).scalar()
    return START if tx is None else EventCursor(tx, given.id)


def past_events(
    connection: Connection, id: str, given: EventCursor, limit: int, *, ended: bool
) -> tuple[EventCursor, list[Event], bool]:
    """Return the newest `limit` events of a migration behind a client's cursor, in order; the place
    up to which these are all; and whether there are older ones."""
    since = resolve(connection, id, given) if given != START else START
    found = events_after(connection, id, since, limit + 1, ended=ended, newest=True)
    until = found[-1].cursor if found else since
    return until, found[-limit:], len(found) > limit


def restamp(connection: Connection) -> None:
    """Give the events of a restored ledger that this server could not have written the number of
    this transaction: they would be hidden until the server's numbers reach theirs."""
    if connection.dialect.name != "sqlite":
        connection.execute(update(events).where(events.c.tx >= _NEXT).values(tx=_CURRENT))


def last_pause_error(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the error for which a migration last paused by itself, or None if it never did."""
    query = select(events.c.members).where(
        events.c.migration_id == id, events.c.kind == EventKind.PAUSED
    )
    text = connection.execute(
        query.order_by(events.c.tx.desc(), events.c.id.desc()).limit(1)
    ).scalar()
    return None if text is None else json.loads(text)


def gone_since(connection: Connection, id: str, since: float) -> int:
    """Return the number of failed and cancelled objects that listings which have ended `since` then
    (seconds since 1970) no longer named, and that were deleted (`gone_objects.forget_gone`)."""
    done = (events.c.migration_id == id) & (events.c.kind == EventKind.LISTING_DONE)
    found = connection.execute(select(events.c.members).where(done, events.c.at >= since)).scalars()
    return sum(json.loads(members).get("gone", 0) for members in found)
