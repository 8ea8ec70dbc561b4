"""Passes and phases of a standing migration in both ledgers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import gevent
import pytest
from sqlalchemy import Connection

from relay.engine.tree_listing import hides_names
from relay.errors import FeedGone, IllegalTransition, NotFound, UnsafeKey
from relay.ledger.claim_values import Settlement
from relay.ledger.counters import CounterDelta
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.passes import require_standing
from relay.ledger.settling import settle
from relay.ledger.standing_values import FeedRow, Pass, PassHours, PassTimes
from relay.ledger.states import PassKind, Phase, PhaseEvent
from relay.ledger.workers import SERVER, WorkerId
from relay.stores.interfaces import Entry
from tests.ledgers import TREE, Opened, states, verified_end

TIMES = PassTimes(3600.0)
STANDING = replace(TREE, standing=TIMES, options={**TREE.options, "if_exists": "changed"})


def page_of(*names: str, version: str = "1") -> list[ListedObject]:
    """Return a page of objects in one version."""
    return [ListedObject(name, size=5, etag=f'"{version}"', modified=1.5) for name in names]


def run_pass(ledger: Ledger, page: Sequence[ListedObject], *, lacks: bool = False) -> Pass:
    """List, move and settle the pass under way; return it."""
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, page, None, lacks=lacks)
    ledger.listings.end(listing)
    claims = ledger.claims.claim(10)
    receipts = {
        claim.id: {
            "level": "whole_digest",
            "source": {"size": 5, "etag": claim.etag},
            "destination": {"size": 5, "etag": f'"of {claim.etag}"', "last_modified": None},
        }
        for claim in claims
    }
    ends = [replace(verified_end(claim), receipt=receipts[claim.id]) for claim in claims]
    ledger.claims.settle(ends)
    ledger.finish()
    (last,) = ledger.standing.passes(listing.migration_id, limit=1)
    return last


def test_a_pass_counts_what_is_new_changed_and_gone(ledger: Ledger) -> None:
    id = ledger.create(STANDING)[0].id
    first = run_pass(ledger, page_of("a", "b", "c"))
    assert (first.kind, first.complete, first.listed, first.copied) == ("first", True, 3, 3)
    assert require_standing(ledger.migration(id)).phase == Phase.STEADY
    assert ledger.standing.begin_pass(id, PassKind.DELTA)
    assert not ledger.standing.begin_pass(id, PassKind.DELTA)  # never two at a time
    again = run_pass(ledger, [*page_of("a", "d"), *page_of("b", version="2")])
    counts = (again.listed, again.changed, again.gone, again.copied, again.bytes)
    assert counts == (3, 2, 1, 2, 10)
    assert ledger.standing.begin_pass(id, PassKind.DELTA)
    quiet = run_pass(ledger, [*page_of("a", "d"), *page_of("b", version="2")])
    assert quiet.is_quiet and states(ledger, id) == ["verified"] * 4
    assert ledger.standing.begin_pass(id, PassKind.DELTA)
    back = run_pass(ledger, [*page_of("a", "c", "d"), *page_of("b", version="2")])
    assert (back.changed, back.copied) == (1, 0)  # the same version is back: nothing to copy


def test_a_claim_knows_what_was_written_before(ledger: Ledger) -> None:
    """Only for an object that is certainly listed in another version."""
    id = ledger.create(STANDING)[0].id
    run_pass(ledger, page_of("a", "b"))
    ledger.standing.begin_pass(id, PassKind.DELTA)
    listing = ledger.listings.claim()
    assert listing is not None
    page = [*page_of("a", version="2"), ListedObject("b", size=5)]
    ledger.listings.add_page(listing, page, None)
    claims = {claim.name: claim.written for claim in ledger.claims.claim(10)}
    assert claims["a"] is not None and claims["a"].etag == '"of "1""'
    assert claims["b"] is None


def test_a_listing_that_lacks_a_folder_is_incomplete(ledger: Ledger) -> None:
    id = ledger.create(STANDING)[0].id
    assert run_pass(ledger, page_of("a"), lacks=True).complete is False
    ledger.standing.begin_pass(id, PassKind.DELTA)
    assert run_pass(ledger, page_of("a")).complete is True


def test_a_failed_listing_ends_its_pass_and_nothing_else(ledger: Ledger) -> None:
    id = ledger.create(STANDING)[0].id
    run_pass(ledger, page_of("a"))
    ledger.standing.begin_pass(id, PassKind.DELTA)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.end(listing, {"code": "x", "side": "source", "detail": "no", "hint": ""})
    assert ledger.finish() == []
    (last,) = ledger.standing.passes(id, limit=1)
    assert ledger.standing.passes(id, limit=1, before=2**53 - 1) == [last]
    found = ledger.migration(id)
    assert (last.complete, found.state, found.is_at_rest) == (False, "running", True)
    ledger.standing.begin_pass(id, PassKind.DELTA)
    again = run_pass(ledger, page_of("a"))
    assert (again.complete, again.changed, again.copied) == (True, 1, 0)  # it is listed again


@pytest.mark.parametrize(
    ("entry", "hides"),
    [
        (Entry("a/", error=NotFound("gone"), judged_as=("a/",)), True),
        (Entry("a", error=NotFound("gone"), judged_as=("a", "a/")), True),
        (Entry("", error=NotFound("gone"), judged_as=("",)), True),
        (Entry("a", error=UnsafeKey("odd")), False),
        (Entry("a/"), False),
    ],
)
def test_a_folder_that_is_not_listed_hides_names(entry: Entry, hides: bool) -> None:
    assert hides_names(entry) is hides


def test_an_empty_listing_pauses_after_a_failed_one_too(ledger: Ledger) -> None:
    id = ledger.create(STANDING)[0].id
    run_pass(ledger, page_of("a"))
    for error in ({"code": "x", "side": "source", "detail": "no", "hint": ""}, None):
        ledger.standing.begin_pass(id, PassKind.DELTA)
        listing = ledger.listings.claim()
        assert listing is not None
        ledger.listings.end(listing, error)
        ledger.finish()
    found = ledger.migration(id)
    assert found.error is not None
    assert (found.state, found.error["code"]) == ("paused", "source-empty")
    assert states(ledger, id) == ["verified"]


def test_two_that_cut_over_get_one_phase(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = one.create(STANDING)[0].id
    with pytest.raises(IllegalTransition, match="its phase is first"):
        one.standing.change_phase(id, PhaseEvent.CUTOVER)
    run_pass(one, page_of("a"))
    both = [
        gevent.spawn(ledger.standing.change_phase, id, PhaseEvent.CUTOVER) for ledger in (one, two)
    ]
    gevent.joinall(both, timeout=30, raise_error=True)
    begun = [gevent.spawn(ledger.standing.begin_pass, id, PassKind.FINAL) for ledger in (one, two)]
    gevent.joinall(begun, timeout=30, raise_error=True)
    assert sorted(job.value for job in begun) == [False, True]
    assert run_pass(one, page_of("a")).is_quiet
    one.standing.change_phase(id, PhaseEvent.REPORT)
    one.standing.change_phase(id, PhaseEvent.FINISH)
    (ended,) = one.finish()
    assert (ended.state, two.migration(id).state) == ("succeeded", "succeeded")


def test_a_server_begins_the_passes_that_are_due(open_ledger: Opened) -> None:
    """At a poll that looks for the ends of migrations; a terminal's passes are begun by it."""
    server, terminal = open_ledger(), open_ledger()
    server.access = replace(server.access, worker=WorkerId.of_this_process("s" * 8, SERVER))
    soon = replace(STANDING, standing=PassTimes(0.0))
    ids = [ledger.create(soon)[0].id for ledger in (server, terminal)]
    for ledger in (server, terminal):
        run_pass(ledger, page_of("a"))
    server.finish()
    due = [require_standing(terminal.migration(id)).due is None for id in ids]
    assert due == [True, False]


@pytest.mark.parametrize(
    ("hours", "at", "expected"),
    [
        ("22:00-06:00", "23:30", "23:30"),
        ("22:00-06:00", "05:59", "05:59"),
        ("22:00-06:00", "06:00", "22:00"),
        ("08:00-09:00", "07:00", "08:00"),
        ("08:00-09:00", "09:00", "08:00"),
    ],
)
def test_passes_begin_in_their_hours(hours: str, at: str, expected: str) -> None:
    moment = time.mktime(time.strptime(f"2026-03-10 {at}", "%Y-%m-%d %H:%M"))
    found = PassHours.parse(hours).next_moment(moment)
    assert found >= moment
    assert time.strftime("%H:%M", time.localtime(found)) == expected
    assert found - moment < 24 * 3600


def test_a_feed_has_no_gap_and_leaves_nothing_out(open_ledger: Opened) -> None:
    """Four workers settle at once, and one transaction in three is undone after it has numbered its
    rows. A reader that keeps its cursor gets each row once, in order."""
    workers = [open_ledger() for _ in range(4)]
    id = workers[0].create(STANDING)[0].id
    listing = workers[0].listings.claim()
    assert listing is not None
    names = [f"{number:03}" for number in range(120)]
    workers[0].listings.add_page(listing, page_of(*names), None)
    workers[0].listings.end(listing)
    undone = 0

    def settle_all(worker: Ledger) -> None:
        nonlocal undone
        while claims := worker.claims.claim(3):
            ends = [verified_end(claim) for claim in claims]
            if int(claims[0].name) % 3 == 0:
                undone += 1
                with pytest.raises(ZeroDivisionError):
                    worker.database.run(partial(settle_and_fail, worker=worker.worker, ends=ends))
            worker.claims.settle(ends)

    jobs = [gevent.spawn(settle_all, worker) for worker in workers]
    read: list[FeedRow] = []
    while len(read) < len(names):
        rows = workers[0].standing.feed(id, read[-1].seq if read else 0, 7)
        read += rows
        gevent.sleep(0.001)
        for job in jobs:
            if job.exception is not None:
                raise job.exception
    gevent.joinall(jobs, timeout=30, raise_error=True)
    assert undone > 0
    assert [row.seq for row in read] == list(range(1, len(names) + 1))
    assert sorted(row.name for row in read) == names
    assert {row.event for row in read} == {"copied"}
    with pytest.raises(FeedGone):
        workers[0].standing.feed(id, len(names) + 1, 7)


def settle_and_fail(connection: Connection, worker: WorkerId, ends: Sequence[Settlement]) -> None:
    """Settle in a transaction that is undone."""
    changes = CounterDelta()
    settle(connection, worker, ends, changes)
    changes.write(connection)
    raise ZeroDivisionError


def test_a_feed_says_what_was_replaced(ledger: Ledger) -> None:
    id = ledger.create(STANDING)[0].id
    run_pass(ledger, page_of("a", "b"))
    ledger.standing.begin_pass(id, PassKind.DELTA)
    run_pass(ledger, [*page_of("a", version="2"), *page_of("b")])
    found = [(row.name, row.event) for row in ledger.standing.feed(id, 0, 10)]
    assert found == [("a", "copied"), ("b", "copied"), ("a", "replaced")]
    (last,) = ledger.standing.feed(id, 2, 10)
    assert last.members["source"] == {"etag": '"2"', "version": None}
