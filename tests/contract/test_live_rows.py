"""Live state through the ledger: what moves, written only while somebody watches; and samples, of
which fewer are kept later. On both databases."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import insert, select, update

from relay.api.watcher import WATCH_SECONDS, Watcher
from relay.ledger.ledger import Ledger
from relay.ledger.live_rows import FRESH_SECONDS, WATCHED_SECONDS
from relay.ledger.live_tables import live, samples, watches
from relay.ledger.sample_values import Moving, MovingObject, Traffic
from relay.ledger.samples import MOST_ENDED
from tests.ledgers import OBJECT, TREE, Opened, statements_of, tree, verified_end

HOUR, DAY = 3600, 24 * 3600
NOON = 1_800_000_000
"""A multiple of ten minutes."""


def moving_object(id: str, name: str = "x", **members: Any) -> MovingObject:
    """Return an object that moves."""
    values: dict[str, Any] = {
        "phase": "piping",
        "bytes": 5,
        "total": 9,
        "rate": 2,
        "attempt": 1,
        "part": 1,
        "parts": 3,
        **members,
    }
    return MovingObject(migration_id=id, name=name, **values)


def text(*objects: MovingObject, **counts: int) -> str:
    """Return the text of a worker's row."""
    return json.dumps({"moving": counts, "objects": [one.to_json() for one in objects]})


def age(ledger: Ledger, table: Any, column: str, seconds: float) -> None:
    """Let all rows of a table be older."""
    ledger.database.run(
        lambda c: c.execute(update(table).values({column: table.c[column] - seconds}))
    )


def test_a_worker_sees_who_watches_in_its_own_poll(ledger: Ledger) -> None:
    """Until some seconds after the last watcher has gone."""
    id, other = (ledger.create(spec)[0].id for spec in (OBJECT, TREE))
    assert not ledger.migration_views([id])[id].watched
    ledger.live.watch({id, "deleted"})
    views = ledger.migration_views([id, other])
    assert (views[id].watched, views[other].watched) == (True, False)
    age(ledger, watches, "until", WATCHED_SECONDS + 1)
    assert not ledger.migration_views([id])[id].watched
    ledger.live.watch([id])
    assert ledger.migration_views([id])[id].watched


def test_what_several_workers_move_is_shown_together(open_ledger: Opened) -> None:
    """Not what a worker wrote some seconds ago, and nothing of a worker that has left."""
    one, two, three = open_ledger(), open_ledger(), open_ledger()
    a, b = (one.create(spec)[0].id for spec in (OBJECT, TREE))
    one.live.write_live(text(moving_object(a), **{a: 1, b: 7}))
    two.live.write_live(text(moving_object(a, "y"), **{a: 4}))
    assert one.live.moving(a) == Moving(objects=(moving_object(a), moving_object(a, "y")), count=5)
    assert one.live.moving(b) == Moving(count=7)
    two.live.write_live(text(**{a: 2}))
    assert three.live.moving(a) == Moving(objects=(moving_object(a),), count=3)
    one.leases.leave()
    assert three.live.moving(a) == Moving(count=2)
    age(two, live, "at", FRESH_SECONDS + 1)
    assert three.live.moving(a) == Moving()
    one.live.write_live(text(**{a: 1}))
    assert three.live.moving(a) == Moving(), "it is not registered any longer"


def test_watchers_read_three_times_a_second(open_ledger: Opened) -> None:
    """However many clients show what moves; and write once in five seconds."""
    ledger = open_ledger()
    made = [ledger.create(OBJECT, str(number))[0] for number in range(3)]
    now = [0.0]
    watcher = Watcher(ledger.live, clock=lambda: now[0], spawn=lambda run: None)
    following = [
        watcher.subscribe([made[number % 3]], events=True, moving=True) for number in range(60)
    ]
    watcher.turn()
    ledger.live.write_live(text(moving_object(made[1].id), **{made[1].id: 1}))
    with statements_of(ledger) as asked:
        watcher.turn()
        watcher.turn()
    assert len(asked) == 6 and all("SELECT" in one.sql for one in asked), asked
    assert [one.take().moving[made[0].id].count for one in following[::3]] == [0] * 20
    assert [one.take().moving[made[1].id].count for one in following[1::3]] == [1] * 20
    now[0] += WATCH_SECONDS
    with statements_of(ledger) as asked:
        watcher.turn()
    assert len(asked) == 4 and "INSERT INTO watches" in asked[-1].sql
    views = ledger.migration_views([one.id for one in made])
    assert all(view.watched for view in views.values())


# -- samples


def test_samples_of_all_workers_are_summed(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5, 6)
    (claim,) = one.claims.claim(1)
    one.claims.settle([verified_end(claim)])
    first = Traffic(moved=5, read_back=1, slot_seconds={"piping": 2.0, "opening": 0.5})
    assert one.live.write_samples({id: first}, NOON + 10) == set()
    assert (
        two.live.write_samples({id: Traffic(moved=7, slot_seconds={"piping": 3.0})}, NOON + 11)
        == set()
    )
    two.live.write_samples(
        {id: Traffic(moved=1)}, NOON + 19
    )  # its last one, in the same ten seconds
    two.live.write_samples({id: Traffic(moved=2)}, NOON + 20)
    found = one.live.samples(id)
    assert [(sample.at, sample.seconds) for sample in found] == [(NOON, 10), (NOON + 10, 10)]
    assert (found[0].moved, found[0].read_back, found[0].objects) == (13, 1, 1)
    assert found[0].slot_seconds == {"opening": 0.5, "piping": 5.0}
    assert [sample.at for sample in one.live.samples(id, NOON + 1)] == [NOON + 10]


def test_a_worker_learns_which_migrations_have_ended(ledger: Ledger) -> None:
    """Nothing is written of a rest without bytes."""
    running, ended = (ledger.create(spec)[0].id for spec in (OBJECT, TREE))
    ledger.act(ended, "cancel")
    done = {id: Traffic() for id in (running, ended, "deleted")}
    assert ledger.live.write_samples(done, NOON) == {ended, "deleted"}
    assert ledger.live.samples(running) == ledger.live.samples(ended) == []


def fill(ledger: Ledger, id: str, begin: int, end: int) -> None:
    """Write a sample of one byte for each ten seconds."""
    rows = [
        {
            "migration_id": id,
            "at": at,
            "runner": "r",
            "step": 10,
            "moved": 1,
            "read_back": 2,
            "objects": at - begin,
            "slots": '{"piping": 1.0}',
        }
        for at in range(begin, end, 10)
    ]
    ledger.database.run(lambda c: c.execute(insert(samples), rows))


def test_older_samples_are_merged_and_nothing_is_lost(ledger: Ledger) -> None:
    """Ten seconds for an hour, a minute for a day, then ten minutes."""
    id = ledger.create(OBJECT)[0].id
    begin = NOON - DAY - HOUR
    fill(ledger, id, begin, NOON)
    for _ in range(2):  # a second time changes nothing
        ledger.live.write_samples({id: Traffic(moved=1)}, NOON + 10)
        found = ledger.live.samples(id)
        steps = {step: [one for one in found if one.seconds == step] for step in (10, 60, 600)}
        assert [len(steps[step]) for step in (10, 60, 600)] == [361, 23 * 60, 6]
        assert steps[600][0].at == begin and steps[60][0].at == NOON - DAY
        assert all(one.moved == 60 and one.read_back == 120 for one in steps[600])
        assert all(one.slot_seconds == {"piping": 6.0} for one in steps[60])
        assert steps[600][0].objects == 590
    total = (DAY + HOUR) // 10
    assert sum(one.moved for one in found) == total + 2
    late = {"at": begin + 20, "step": 10, "moved": 3, "read_back": 0, "objects": 1, "slots": "{}"}
    ledger.database.run(
        lambda c: c.execute(insert(samples), {"migration_id": id, "runner": "late", **late})
    )
    ledger.live.write_samples({id: Traffic(moved=1)}, NOON + 10)
    assert sum(one.moved for one in ledger.live.samples(id)) == total + 6
    assert ledger.live.samples(id)[0].moved == 63


def test_an_ended_migration_keeps_few_samples(ledger: Ledger) -> None:
    """Also one that is retried, and ends again."""
    id = ledger.create(OBJECT)[0].id
    begin = NOON - 2 * HOUR
    fill(ledger, id, begin, NOON)
    ledger.claims.settle([verified_end(ledger.claims.claim(1)[0])])
    ledger.finish()
    assert ledger.live.write_samples({id: Traffic(moved=1)}, NOON + 10) == {id}
    found = ledger.live.samples(id)
    assert len(found) <= MOST_ENDED and sum(one.moved for one in found) == 2 * HOUR // 10 + 1
    assert {one.seconds for one in found} == {40}
    fill(ledger, id, NOON + 10, NOON + HOUR)
    ledger.live.write_samples({id: Traffic()}, NOON + HOUR)
    again = ledger.live.samples(id)
    assert len(again) <= MOST_ENDED and sum(one.moved for one in again) == 3 * HOUR // 10


def test_a_short_migration_keeps_all_its_samples(ledger: Ledger) -> None:
    id = ledger.create(OBJECT)[0].id
    fill(ledger, id, NOON - 600, NOON)
    ledger.act(id, "cancel")
    ledger.live.write_samples({id: Traffic()}, NOON)
    assert len(ledger.live.samples(id)) == 60


def test_two_workers_merge_the_same_samples_once(open_ledger: Opened) -> None:
    """Where one merges at the moment, the other leaves it alone."""
    one, two = open_ledger(), open_ledger()
    id = one.create(OBJECT)[0].id
    fill(one, id, NOON - 2 * HOUR, NOON)
    for ledger in (one, two):
        ledger.live.write_samples({id: Traffic(moved=1)}, NOON + 10)
    assert sum(sample.moved for sample in one.live.samples(id)) == 2 * HOUR // 10 + 2
    count = select(samples.c.at).where(samples.c.step == 60)
    assert len(one.database.run(lambda c: c.execute(count).all(), write=False)) == 60
