"""The present state of migrations that clients follow, in one statement for all of them; the events
since; and the moving objects of those that are watched.

Theory of operation. Most of a migration never changes: the caller has read it once. What changes
(its state, its counters, its retries) is in six tables. PostgreSQL takes a round trip for each
statement, and SQLite's thread a turn, so one statement asks them all, with a row for each value.
The place up to which events are complete is read by the same statement, and the events up to there
by the next one: so an ended migration comes with its last event.

Never here: who follows, and how often (`relay/api/watcher.py`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Connection,
    Float,
    Select,
    Text,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from relay.ledger.counters import select_parts
from relay.ledger.event_log import events_between, mark_column, mark_of
from relay.ledger.event_values import Event, EventCursor
from relay.ledger.live_rows import moving
from relay.ledger.migration_rows import listing_retried, select_helpers, select_slots
from relay.ledger.migration_values import Count, Migration
from relay.ledger.parameters import IDS
from relay.ledger.retried import select_errors, shown_retries, split_listing_retry
from relay.ledger.sample_values import Moving
from relay.ledger.schema import NEEDY, migrations, tallies
from relay.ledger.states import ENDED

MOST_EVENTS: Final = 1000
"""Maximum number of events that one look reads; more are more than any client takes at a time."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at the ledger found."""

    migrations: Mapping[str, Migration]
    """By id; one that was deleted is missing."""
    events: Sequence[Event]
    """Those since the last look, in order."""
    mark: EventCursor
    """The place up to which they are complete."""
    has_left_out: bool
    """Whether there were more than MOST_EVENTS: then the older ones are left out."""
    moving: Mapping[str, Moving] = field(default_factory=dict)
    """What is moved of the watched migrations."""


def look(
    connection: Connection,
    known: Mapping[str, Migration],
    since: EventCursor | None,
    watched: Collection[str] = (),
) -> Look:
    """Return the present state of the `known` migrations, and their events behind `since`; None
    reads no events. Of the `watched` ones also what is moved at the moment."""
    sqlite = connection.dialect.name == "sqlite"
    rows = connection.execute(_statement(sqlite), {"ids": list(known)}).all()
    mark = mark_of(sqlite, next(int(row.number) for row in rows if row.what == "mark"))
    found = _migrations(known, rows)
    events: list[Event] = []
    if since is not None:
        over = [one.id for one in found.values() if one.state in ENDED and not one.under_way]
        events = events_between(connection, known, since, mark, MOST_EVENTS + 1, ended=over)
    return Look(
        migrations=found,
        events=events[-MOST_EVENTS:],
        mark=mark,
        has_left_out=len(events) > MOST_EVENTS,
        moving=moving(connection, watched) if watched else {},
    )


# -- the statement

_NO_TEXT: Final = cast(null(), Text)
_NO_NUMBER: Final = cast(null(), BigInteger)
_NO_TIME: Final = cast(null(), Float)


def _values(what: str, id: Any, **values: Any) -> Select[Any]:
    """Return the query for the rows of one kind; columns without a value are null."""
    return select(
        literal_column(f"'{what}'").label("what"),
        cast(id, Text).label("id"),
        values.get("name", _NO_TEXT).label("name"),
        values.get("text", _NO_TEXT).label("text"),
        values.get("error", _NO_TEXT).label("error"),
        values.get("number", _NO_NUMBER).label("number"),
        values.get("size", _NO_NUMBER).label("size"),
        values.get("at", _NO_TIME).label("at"),
    )


@cache
def _statement(sqlite: bool) -> CompoundSelect[Any]:
    migration, tally = migrations.c, tallies.c
    parts, helpers = select_parts(IDS).subquery(), select_helpers(IDS).subquery()
    slots, errors = select_slots(IDS).subquery(), select_errors(IDS).subquery()
    return union_all(
        _values("mark", literal_column("''"), number=mark_column(sqlite)),
        _values(
            "migration",
            migration.id,
            name=cast(migration.state, Text),
            text=cast(migration.listing, Text),
            error=migration.error,
            number=cast(case((NEEDY, 1), else_=0), BigInteger),
            size=migration.excluded,
            at=migration.ended,
        ).where(migration.id.in_(IDS)),
        _values(
            "tally",
            tally.migration_id,
            name=cast(tally.state, Text),
            number=tally.objects,
            size=tally.bytes,
        ).where(tally.migration_id.in_(IDS), tally.objects != 0),
        _values("parts", parts.c.migration_id, size=cast(parts.c.there, BigInteger)),
        _values("helpers", helpers.c.migration_id, number=cast(func.count(), BigInteger)).group_by(
            helpers.c.migration_id
        ),
        _values("slots", slots.c.migration_id, number=cast(slots.c.slots, BigInteger)),
        _values("retry", errors.c.migration_id, name=errors.c.name, error=errors.c.error),
    )


# -- its rows


def _migrations(known: Mapping[str, Migration], rows: Iterable[Any]) -> dict[str, Migration]:
    """Return the known migrations with the values of the rows."""
    tallies: defaultdict[str, dict[str, Count]] = defaultdict(dict)
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    errors, found = [], []
    for row in rows:
        if row.what == "migration":
            found.append(row)
        elif row.what == "tally":
            tallies[row.id][row.name] = Count(row.number, row.size)
        elif row.what == "parts":
            sums[row.id]["parts"] = row.size
        elif row.what in ("helpers", "slots"):
            sums[row.id][row.what] += row.number
        elif row.what == "retry":
            errors.append(SimpleNamespace(migration_id=row.id, name=row.name, error=row.error))
    retries = shown_retries(errors)
    return {
        row.id: replace(
            known[row.id],
            state=row.name,
            needs_attention=bool(row.number),
            listing=row.text,
            error=split_listing_retry(row.error)[0],
            ended=row.at,
            excluded=row.size,
            tally=tallies[row.id],
            in_parts=sums[row.id]["parts"],
            helpers=sums[row.id]["helpers"],
            slots=sums[row.id].get("slots"),
            retried=(*listing_retried(row.text, row.error), *retries.get(row.id, ())),
        )
        for row in found
    }
