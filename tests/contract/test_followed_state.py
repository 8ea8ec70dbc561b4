"""One look at the ledger for all clients that follow migrations: it finds what reading each of them
finds, in a fixed number of statements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relay.api.watcher import Watcher
from relay.ledger.claim_values import Settlement
from relay.ledger.event_log import write_event
from relay.ledger.event_values import EventCursor
from relay.ledger.followed_state import MOST_EVENTS
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.states import EventKind
from relay.receipt import Version
from relay.views.migrations import brief
from tests.ledgers import OBJECT, TREE, Opened, statements_of, tree, verified_end
from tests.values import PART, UPLOAD

PINNED = replace(UPLOAD, pinned=Version(30, '"e"'))
TROUBLE = {"what": "the object", "error": "x", "side": "source", "detail": "d", "failures": 1}


def migrations_in_every_state(one: Ledger, two: Ledger) -> list[Migration]:
    """Accept migrations that differ in all that a look reads; return them as they were accepted."""
    at_first = [one.create(OBJECT, str(number))[0] for number in range(3)]
    one.act(at_first[0].id, "cancel")
    id = tree(one, 30, 40, 50)
    at_first.append(replace(one.migration(id), state="running", tally={}, listing="due"))
    first, second = one.claims.claim(2, only=id)
    one.uploads.record(first, PINNED)
    assert two.uploads.join() is not None
    two.uploads.take_part(first, "upload-1", PART)
    one.claims.note_retried([(second, {**TROUBLE, "since": 5.0, "again": 9.0})])
    (ended,) = one.claims.claim(1, only=at_first[1].id)
    one.claims.settle([verified_end(ended, 7)])
    one.finish()
    (failed,) = one.claims.claim(1, only=at_first[2].id)
    one.claims.settle([Settlement(failed, "failed", error={"code": "x"})])
    at_first.append(one.create(replace(TREE, source="c:x"))[0])
    listing = one.listings.claim(at_first[-1].id)
    assert listing is not None
    one.listings.note_retried(listing, {**TROUBLE, "since": 5.0, "again": 9.0})
    one.leases.renew(slots=7)
    return at_first


def test_a_look_finds_what_reading_each_finds(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    known = {migration.id: migration for migration in migrations_in_every_state(one, two)}
    found = one.live.look(known, None)
    assert {id: brief(migration) for id, migration in found.migrations.items()} == {
        id: brief(one.migration(id)) for id in known
    }
    states = {migration.state for migration in found.migrations.values()}
    assert {"running", "cancelled", "succeeded"} <= states
    shown = next(one for one in found.migrations.values() if one.in_parts)
    assert (shown.slots, shown.helpers, len(shown.retried)) == (7, 1, 1)


def test_a_deleted_migration_is_missing(ledger: Ledger) -> None:
    migration = ledger.create(OBJECT)[0]
    gone = replace(migration, id="gone")
    found = ledger.live.look({migration.id: migration, gone.id: gone}, EventCursor())
    assert list(found.migrations) == [migration.id]


def test_followers_cost_two_statements_a_look(open_ledger: Opened) -> None:
    """However many there are, and of however many migrations; states alone cost one, and a client
    that comes costs its past events."""
    ledger = open_ledger()
    made = [ledger.create(OBJECT, str(number))[0] for number in range(4)]
    watcher = Watcher(ledger.live, spawn=lambda run: None)
    following = [watcher.subscribe([made[number % 4]]) for number in range(100)]
    with statements_of(ledger) as asked:
        watcher.turn()
    assert len(asked) == 1, asked
    following += [watcher.subscribe([made[number % 4]], events=True) for number in range(100)]
    ledger.act(made[0].id, "pause")
    with statements_of(ledger) as asked:
        watcher.turn()
        watcher.turn()
    assert len(asked) == 4, asked
    updates = [one.take() for one in following]
    assert all(update.failure is None for update in updates)
    kinds = [[notice.kind for notice in update.notices] for update in updates]
    assert kinds[:100] == [[]] * 100 and kinds[100:104] == [["pause"], [], [], []]
    for one in following:
        watcher.unsubscribe(one)
    with statements_of(ledger) as asked:
        watcher.turn()
    assert asked == [], "nobody follows"


def test_a_burst_of_events_leaves_out_the_oldest(ledger: Ledger) -> None:
    """So that one look reads no more than MOST_EVENTS."""
    migration = ledger.create(OBJECT)[0]
    mark = ledger.live.mark()

    def burst(connection: Any) -> None:
        for number in range(MOST_EVENTS + 5):
            write_event(connection, migration.id, EventKind.FAILED, {"name": str(number)})

    ledger.database.run(burst)
    found = ledger.live.look({migration.id: migration}, mark)
    assert found.has_left_out and len(found.events) == MOST_EVENTS
    assert found.events[-1].members["name"] == str(MOST_EVENTS + 4)
    assert ledger.live.look({migration.id: migration}, found.mark).events == []
