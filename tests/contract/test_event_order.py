"""Events are read in an order in which none is passed: also if two transactions of PostgreSQL
commit in another order than they wrote."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert, select, text, update

from relay.ledger import event_log
from relay.ledger.event_log import LAST_NUMBER, START, write_event
from relay.ledger.event_values import EventCursor
from relay.ledger.ledger import Ledger
from relay.ledger.opening import _run_versions
from relay.ledger.schema import events, keys
from relay.ledger.states import EventKind
from tests.ledgers import OBJECT, TREE, Opened
from tests.postgres import Postgres


@pytest.fixture
def server_ledger(postgres: Postgres) -> Iterator[Ledger]:
    """Return a ledger in a database of its own on PostgreSQL."""
    ledger = Ledger.connect(postgres.database())
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def transaction(ledger: Ledger) -> Iterator[Connection]:
    """Give a transaction of its own, which the block commits."""
    with ledger.database._engine.connect() as connection:
        yield connection


def write_failure(connection: Connection, id: str, name: str) -> None:
    """Write the event of an object that failed."""
    write_event(connection, id, EventKind.FAILED, {"name": name})


def read_by_number(ledger: Ledger, id: str, since: int) -> list[tuple[int, str]]:
    """Read events as an older relay did: those with a higher number."""
    query = select(events).where(events.c.migration_id == id, events.c.id > since)
    rows = ledger.database.run(lambda c: c.execute(query.order_by(events.c.id)).all(), write=False)
    return [(row.id, json.loads(row.members).get("name", row.kind)) for row in rows]


def names_after(ledger: Ledger, id: str, since: EventCursor) -> tuple[list[str], EventCursor]:
    """Read events in their order; return their names, and the last one's place."""
    found = ledger.events.after(id, since)
    names = [str(event.members.get("name", event.kind)) for event in found]
    return names, found[-1].cursor if found else since


def test_no_event_is_passed_when_two_commits_cross(server_ledger: Ledger) -> None:
    """The first writer commits last: by numbers alone its event is lost."""
    ledger = server_ledger
    id = ledger.create(OBJECT)[0].id
    ((since, _),) = read_by_number(ledger, id, 0)
    _, place = names_after(ledger, id, START)
    with transaction(ledger) as first, transaction(ledger) as second:
        write_failure(first, id, "first")
        write_failure(second, id, "second")
        second.commit()
        ((seen, name),) = read_by_number(ledger, id, since)
        assert name == "second"
        assert names_after(ledger, id, place) == ([], place), "an older transaction still runs"
        first.commit()
    assert read_by_number(ledger, id, seen) == [], "the loss: nothing names the first one again"
    assert names_after(ledger, id, place)[0] == ["first", "second"]


def test_crossing_commits_reach_the_followers_too(server_ledger: Ledger) -> None:
    """Looks before, between and after the commits find each event once, in order."""
    ledger = server_ledger
    migration = ledger.create(OBJECT)[0]
    known = {migration.id: migration}
    mark, found = ledger.live.mark(), []
    with transaction(ledger) as first, transaction(ledger) as second:
        for step in (
            lambda: write_failure(first, migration.id, "first"),
            lambda: write_failure(second, migration.id, "second"),
            second.commit,
            first.commit,
            lambda: None,
        ):
            step()
            seen = ledger.live.look(known, mark)
            mark = seen.mark
            found += [event.members["name"] for event in seen.events]
    assert found == ["first", "second"]


def test_an_undone_transaction_holds_nothing_back(server_ledger: Ledger) -> None:
    ledger = server_ledger
    id = ledger.create(OBJECT)[0].id
    with transaction(ledger) as first, transaction(ledger) as second:
        write_failure(first, id, "first")
        write_failure(second, id, "second")
        second.commit()
        first.rollback()
    assert names_after(ledger, id, START)[0] == ["accepted", "second"]


def test_an_ended_migration_waits_for_no_other_program(server_ledger: Ledger) -> None:
    """A long transaction delays events, but not the last one of a migration: nothing that runs
    could still write one before it."""
    ledger = server_ledger
    migration = ledger.create(OBJECT)[0]
    mark = ledger.live.mark()
    with transaction(ledger) as other:
        other.execute(text("SELECT pg_current_xact_id()"))
        ended = ledger.act(migration.id, "cancel")
        assert [event.kind for event in ledger.events.after(ended.id, START)] == ["accepted"]
        assert [event.kind for event in ledger.events.after(ended.id, START, ended=True)] == [
            "accepted",
            "cancel",
        ]
        seen = ledger.live.look({ended.id: ended}, mark)
        assert [event.kind for event in seen.events] == ["cancel"]
        other.rollback()


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("{tx}-{id}", ["cancel"]),
        ("{id}", ["cancel"]),
        ("0-{id}", ["cancel"]),
        ("7-77777", ["accepted", "cancel"]),
        ("77777", ["accepted", "cancel"]),
        ("{other}", ["accepted", "cancel"]),
    ],
)
def test_a_clients_place_is_found_by_its_event(
    ledger: Ledger, given: str, kinds: list[str]
) -> None:
    """Also a plain number of an older relay. An event that the migration does not have counts as
    none."""
    other, id = (ledger.create(spec)[0].id for spec in (TREE, OBJECT))
    ledger.act(id, "cancel")
    first = ledger.events.after(id, START, ended=True)[0].cursor
    theirs = ledger.events.after(other, START, ended=True)[0].cursor
    place = EventCursor.from_text(given.format(tx=first.tx, id=first.id, other=theirs.id))
    assert place is not None
    _, found, has_gap = ledger.events.past(id, place, 10, ended=True)
    assert ([event.kind for event in found], has_gap) == (kinds, False)


def test_past_events_are_the_newest_ones(ledger: Ledger) -> None:
    id = ledger.create(OBJECT)[0].id
    for number in range(5):
        ledger.database.run(lambda c, n=number: write_failure(c, id, str(n)))  # type: ignore[misc]
    until, found, has_gap = ledger.events.past(id, START, 3, ended=True)
    assert [event.members["name"] for event in found] == ["2", "3", "4"]
    assert has_gap and until == found[-1].cursor
    assert ledger.events.past(id, until, 3, ended=True) == (until, [], False)
    assert not ledger.events.past(id, START, 6, ended=True)[2]


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "x", "1-2-3", "9" * 19, "²", "1 "])
def test_another_text_is_no_place(text: str) -> None:
    assert EventCursor.from_text(text) is None


def test_a_place_reads_as_it_is_written() -> None:
    for place in (START, EventCursor(5, 7), EventCursor(0, 10**17)):
        assert EventCursor.from_text(str(place)) == place
    assert EventCursor(1, LAST_NUMBER) < EventCursor(2, 0)


def test_a_ledger_in_another_server_shows_its_events(
    server_ledger: Ledger, postgres: Postgres
) -> None:
    """A dump has the numbers of the old server's transactions, which the new one reaches later."""
    ledger = server_ledger
    id = ledger.create(OBJECT)[0].id
    ledger.leases.renew()

    def restore(connection: Connection) -> None:
        connection.execute(update(events).values(tx=2**60))
        connection.execute(update(keys).where(keys.c.name == "storage").values(value="another"))

    ledger.database.run(restore)
    assert names_after(ledger, id, START)[0] == []
    place = EventCursor(2**60, ledger.events.after(id, START, ended=True)[0].cursor.id)
    again = Ledger.connect(ledger.database.url.render_as_string(hide_password=False))
    try:
        again.leases.renew()
        assert names_after(again, id, START)[0] == ["accepted"]
        again.act(id, "pause")
        found = again.events.past(id, place, 10, ended=False)[1]
        assert [event.kind for event in found] == ["pause"]
    finally:
        again.close()


def test_an_older_ledgers_events_come_first(postgres: Postgres) -> None:
    """After an upgrade on PostgreSQL; an older relay that still runs writes in order too."""
    address = postgres.database()
    engine = create_engine(address)
    row: dict[str, Any] = {"migration_id": "m", "at": 1.0, "kind": "failed", "members": "{}"}
    with engine.begin() as connection:
        _run_versions(connection, "0010")
        connection.execute(
            text(
                "INSERT INTO migrations (id, number, state, source, destination, options, spec,"
                " listing, created) VALUES ('m', 1, 'running', 's', 'd', '{}', '', 'done', 1)"
            )
        )
        for _ in range(3):
            connection.execute(insert(events).values(**row))
    engine.dispose()
    ledger = Ledger.connect(address)
    try:
        before = ledger.events.after("m", START)
        assert [event.cursor.tx for event in before] == [0, 0, 0]
        ledger.database.run(lambda c: c.execute(insert(events).values(**row)))
        (last,) = ledger.events.after("m", before[-1].cursor)
        assert last.cursor.tx > 0
        assert ledger.events.past("m", EventCursor(0, before[0].cursor.id), 9, ended=False)[1] == [
            *before[1:],
            last,
        ]
    finally:
        ledger.close()


def test_an_older_file_keeps_its_events(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript((Path(__file__).parent / "ledgers" / "0001.sql").read_text())
        written = [kind for (kind,) in old.execute("SELECT kind FROM events ORDER BY id")]
    ledger = Ledger.connect(f"sqlite:///{path}")
    try:
        (migration,) = ledger.migrations()
        assert written and [event["kind"] for event in ledger.events.all(migration.id)] == written
    finally:
        ledger.close()


def test_events_are_read_by_an_index(open_ledger: Opened) -> None:
    """Of one migration, behind a place, in their order."""
    ledger = open_ledger()
    sqlite = ledger.database.sqlite
    statement = (
        "SELECT id FROM events WHERE migration_id = 'm' AND (tx, id) > (0, 5) ORDER BY tx, id"
        " LIMIT 9"
    )

    def explain(connection: Connection) -> list[Any]:
        if not sqlite:  # the table is so small that it would read it as a whole
            for way in ("seqscan", "bitmapscan"):
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        words = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        return list(connection.exec_driver_sql(f"{words} {statement}"))

    rows = ledger.database.run(explain, write=False)
    plan = " ".join(str(row) for row in rows)
    assert "events_in_order" in plan and "Sort" not in plan and "TEMP B-TREE" not in plan


def test_the_mark_is_the_newest_complete_event(ledger: Ledger) -> None:
    id = ledger.create(OBJECT)[0].id
    (first,) = ledger.events.after(id, START, ended=True)
    assert ledger.live.mark() >= first.cursor
    ledger.act(id, "pause")
    second = ledger.events.after(id, first.cursor, ended=True)[0]
    assert first.cursor < second.cursor <= ledger.live.mark()
    assert event_log.mark_of(True, 5) == EventCursor(0, 5)
    assert event_log.mark_of(False, 5) == EventCursor(4, LAST_NUMBER)
