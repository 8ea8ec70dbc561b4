"""The promises of the ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from sqlalchemy import inspect, update

from relay.errors import IllegalTransition, KeyReused, LeaseLost, MigrationUnknown, UploadGone
from relay.ledger import database, opening, schema, settling
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.claims import EMPTY_SECONDS
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_values import Count, Efforts, MigrationView, Spec
from relay.ledger.opening import NEW_FILE
from relay.ledger.prior_state_values import PriorState
from relay.ledger.releases import MOST_CRASHES
from relay.ledger.schema import migrations
from relay.ledger.upload_values import PartLease, StoredPart, UploadRecord
from relay.process.identities import pid_namespace
from relay.receipt import Version
from relay.throttle import Bounds
from relay.views.migrations import progress_events
from tests import new_ledger
from tests.ledgers import (
    OBJECT,
    TREE,
    Opened,
    assert_counted,
    learn_empty,
    states,
    tree,
    verified_end,
)
from tests.values import PART, UPLOAD

VERSIONS = Path(database.__file__).parent / "versions"


# -- migrations


def test_one_object_is_accepted_claimed_settled_and_ends(ledger: Ledger) -> None:
    migration, new = ledger.create(OBJECT)
    assert new
    assert (migration.number, migration.state, migration.recursive) == (1, "running", False)
    (claim,) = ledger.claims.claim(10)
    assert (claim.name, claim.attempts, claim.fence) == ("", 1, 1)
    assert ledger.claims.claim(10) == []
    assert ledger.finish() == []
    assert ledger.claims.settle([verified_end(claim, 7)]) == []
    (ended,) = ledger.finish()
    assert (ended.state, ended.tally) == ("succeeded", {"verified": Count(1, 7)})
    assert ended.ended is not None
    (row,) = ledger.page(migration.id)
    assert (row.state, row.bytes, row.level, row.receipt) == (
        "verified",
        7,
        "whole_digest",
        {"level": "whole_digest"},
    )
    assert [event["kind"] for event in ledger.events.all(migration.id)] == ["accepted", "ended"]


def test_secrets_are_kept_only_as_long_as_they_are_needed(ledger: Ledger) -> None:
    migration, _ = ledger.create(OBJECT)
    assert ledger.secret(migration.id) == OBJECT.secret
    assert "secret" not in repr(migration) + repr(OBJECT)
    ledger.renew_secret(migration.id, {"source": "fresh"})
    assert ledger.secret(migration.id) == {"source": "fresh"}
    ledger.claims.settle([verified_end(ledger.claims.claim(1)[0])])
    ledger.finish()
    assert ledger.secret(migration.id) is None


def test_an_idempotency_key_finds_its_migration(ledger: Ledger) -> None:
    first, _ = ledger.create(OBJECT, "key-1")
    again, new = ledger.create(OBJECT, "key-1")
    assert (again.id, new) == (first.id, False)
    with pytest.raises(KeyReused):
        ledger.create(TREE, "key-1")
    assert len(ledger.migrations()) == 1


def test_the_same_request_resumes_until_it_has_succeeded(ledger: Ledger) -> None:
    migration, new = ledger.create(OBJECT, go_on=True)
    assert new
    same = Spec(
        OBJECT.source, OBJECT.destination, options=OBJECT.options, secret={"source": "other"}
    )
    found, new = ledger.create(same, go_on=True)
    assert (found.id, new) == (migration.id, False)
    assert ledger.create(TREE, go_on=True)[1]
    ledger.claims.settle([verified_end(ledger.claims.claim(1, only=migration.id)[0])])
    ledger.finish()
    found, new = ledger.create(OBJECT, go_on=True)
    assert (found.id != migration.id, new) == (True, True)


def test_two_equal_requests_at_once_become_one_migration(
    ledger: Ledger, open_ledger: Opened
) -> None:
    ledgers = (ledger, open_ledger())
    for number in range(20):
        spec = replace(OBJECT, source=f"https://a.example/{number}")
        both = [gevent.spawn(one.create, spec, go_on=True) for one in ledgers]
        gevent.joinall(both, raise_error=True)
        assert sorted(new for _, new in (job.value for job in both)) == [False, True]
        assert len({migration.id for migration, _ in (job.value for job in both)}) == 1


def test_a_migration_is_found_by_id_or_number(ledger: Ledger) -> None:
    migration, _ = ledger.create(OBJECT)
    assert ledger.migration("1").id == ledger.migration(migration.id).id == migration.id
    for unknown in ("2", "no-such-id", "", "9" * 40, "½", "\0"):
        with pytest.raises(MigrationUnknown):
            ledger.migration(unknown)
        with pytest.raises(MigrationUnknown):
            ledger.act(unknown, "pause")


def test_migrations_are_paged_from_the_newest(ledger: Ledger) -> None:
    for _ in range(5):
        ledger.create(OBJECT)
    assert [m.number for m in ledger.migrations(2)] == [5, 4]
    older = ledger.migrations(2, MigrationFilter(before=4))
    assert [m.number for m in older] == [3, 2]


def test_a_paused_migration_is_not_claimed_until_resumed(ledger: Ledger) -> None:
    id = tree(ledger, 5)
    assert ledger.act(id, "pause").state == "paused"
    assert ledger.act(id, "pause").state == "paused"
    assert ledger.claims.claim(10) == []
    with pytest.raises(IllegalTransition, match="paused"):
        ledger.act(id, "retry")
    ledger.act(id, "resume")
    assert len(ledger.claims.claim(10)) == 1


def test_a_cancel_ends_queued_rows_and_lets_running_ones_settle(ledger: Ledger) -> None:
    id = tree(ledger, 5, 6, 7)
    first, second = ledger.claims.claim(2)
    ledger.act(id, "cancel")
    assert states(ledger, id) == ["running", "running", "cancelled"]
    ledger.claims.settle([verified_end(first), Settlement(second, "hand_back")])
    assert states(ledger, id) == ["verified", "cancelled", "cancelled"]
    with pytest.raises(IllegalTransition, match="cancelled"):
        ledger.act(id, "pause")


def test_a_retry_queues_only_failed_transfers(ledger: Ledger) -> None:
    id = tree(ledger, 5, 6)
    good, bad = ledger.claims.claim(2)
    error = {"code": "not-found", "side": "source", "detail": "gone"}
    ledger.claims.settle([verified_end(good), Settlement(bad, "failed", error=error)])
    (ended,) = ledger.finish()
    assert ended.state == "partial"
    assert ledger.page(id, ["failed"])[0].error == error
    assert {"kind": "failed", "name": "001"}.items() <= ledger.events.all(id)[-2].items()
    ledger.act(id, "retry")
    assert states(ledger, id) == ["verified", "queued"]
    (again,) = ledger.claims.claim(5)
    assert (again.name, again.attempts, again.fence) == ("001", 1, 2)
    ledger.claims.settle([verified_end(again)])
    assert ledger.finish()[0].state == "succeeded"


def test_a_retry_queues_what_has_failed_in_a_running_migration(ledger: Ledger) -> None:
    id = tree(ledger, 5, 6)
    bad, _ = ledger.claims.claim(2)
    ledger.claims.settle([Settlement(bad, "failed", error={"code": "x"})])
    assert ledger.act(id, "retry").state == "running"
    assert states(ledger, id) == ["queued", "running"]


@pytest.mark.parametrize(
    ("verbs", "end"),
    [
        (["verified", "skipped"], "succeeded"),
        (["verified", "unverified"], "partial"),
        (["unverified", "unverified"], "partial"),
        (["failed", "failed"], "failed"),
        (["failed", "skipped"], "partial"),
    ],
)
def test_the_ends_of_transfers_decide_the_end_of_the_migration(
    ledger: Ledger, verbs: list[str], end: str
) -> None:
    tree(ledger, 5, 6)
    ledger.claims.settle(
        [Settlement(claim, verb) for claim, verb in zip(ledger.claims.claim(2), verbs, strict=True)]
    )
    assert ledger.finish()[0].state == end


# -- claims


def test_two_runners_never_hold_one_transfer(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    tree(one, *[5] * 20)
    mine, yours = one.claims.claim(12), two.claims.claim(12)
    assert len(mine) + len(yours) == 20
    assert not {c.id for c in mine} & {c.id for c in yours}


def test_a_handed_back_row_waits_for_its_delay(ledger: Ledger) -> None:
    tree(ledger, 5, 6)
    first, second = ledger.claims.claim(2)
    ledger.claims.settle(
        [Settlement(first, "hand_back", resent=3, wait=60.0), Settlement(second, "hand_back")]
    )
    (again,) = ledger.claims.claim(2)
    assert (again.id, again.attempts) == (second.id, 2)


def test_a_leaving_worker_hands_back_without_a_lapse(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    tree(one, 5, 6)
    assert len(one.claims.claim(2)) == 2
    one.leases.leave()
    assert [claim.crash_count for claim in two.claims.claim(5)] == [0, 0]


@pytest.mark.parametrize("how", ["time", "boot", "process"])
def test_claims_of_a_lost_worker_go_to_others(open_ledger: Opened, how: str) -> None:
    two = open_ledger()
    if how != "time" and not two.database.sqlite:
        pytest.skip("only one machine has one boot and one list of processes")
    one = open_ledger(
        process=f"1.1@{pid_namespace()}" if how == "process" else None,
        boot="earlier" if how == "boot" else None,
    )
    id = tree(one, 5)
    (mine,) = one.claims.claim(1)
    if how == "time":
        assert two.leases.reclaim() == 0
        one.leases.renew(-1)
    assert two.leases.reclaim() == 1
    (yours,) = two.claims.claim(1)
    assert (yours.id, yours.crash_count, yours.attempts) == (mine.id, 1, 2)
    assert yours.fence > mine.fence
    assert one.claims.settle([Settlement(mine, "failed")]) == [mine]
    assert states(two, id) == ["running"]
    assert two.claims.settle([verified_end(yours)]) == []
    assert states(two, id) == ["verified"]


def test_a_transfer_that_kills_every_worker_is_quarantined(open_ledger: Opened) -> None:
    watcher = open_ledger()
    id = tree(watcher, 5)
    for _ in range(MOST_CRASHES):
        doomed = open_ledger()
        assert len(doomed.claims.claim(1)) == 1
        doomed.leases.renew(-1)
        watcher.leases.reclaim()
    (row,) = watcher.page(id)
    assert row.state == "failed"
    assert row.error is not None
    assert row.error["code"] == "quarantined"
    assert states(watcher, id) == ["failed"]


def test_a_resume_resets_the_crash_count(open_ledger: Opened) -> None:
    watcher = open_ledger()
    id = tree(watcher, 5)
    for _ in range(MOST_CRASHES + 2):
        doomed = open_ledger()
        assert len(doomed.claims.claim(1)) == 1
        doomed.leases.renew(-1)
        watcher.leases.reclaim()
        watcher.reset_crash_counts(id)
    assert states(watcher, id) == ["queued"]


def test_a_lapsed_claim_of_a_cancelled_migration_is_cancelled(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5)
    one.claims.claim(1)
    one.act(id, "cancel")
    one.leases.renew(-1)
    two.leases.reclaim()
    assert states(two, id) == ["cancelled"]


def test_the_more_urgent_migration_comes_first(ledger: Ledger) -> None:
    ledger.create(OBJECT)
    urgent, _ = ledger.create(Spec("https://c/x", "https://d/x", options={}, secret={}, priority=5))
    assert [claim.migration_id for claim in ledger.claims.claim(1)] == [urgent.id]


def test_one_migration_alone_can_be_claimed_from(ledger: Ledger) -> None:
    ledger.create(OBJECT)
    other, _ = ledger.create(Spec("https://c/x", "https://d/x", options={}, secret={}))
    assert [claim.migration_id for claim in ledger.claims.claim(5, other.id)] == [other.id]


# -- listings


def test_a_listing_of_a_removed_worker_is_reclaimed(open_ledger: Opened) -> None:
    """It was thought lost, claimed the listing before it noticed that, and was killed."""
    one, two = open_ledger(), open_ledger()
    one.create(TREE)
    one.leases.renew(-1)
    two.leases.reclaim()
    assert one.listings.claim() is not None
    two.leases.reclaim()
    assert two.listings.claim() is not None


def test_a_listing_resumes_where_another_worker_stopped(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    migration, _ = one.create(TREE)
    listing = one.listings.claim()
    assert listing is not None
    assert two.listings.claim() is None
    one.listings.add_page(listing, [ListedObject("a", size=1), ListedObject("b", size=2)], "b")
    assert len(two.claims.claim(5)) == 2
    one.leases.renew(-1)
    two.leases.reclaim()
    again = two.listings.claim()
    assert again is not None
    assert again.cursor == "b"
    with pytest.raises(LeaseLost):
        one.listings.add_page(listing, [ListedObject("z", size=1)], "z")
    two.listings.add_page(again, [ListedObject("b", size=2), ListedObject("c", size=3)], "c")
    two.listings.end(again)
    assert [row.name for row in two.page(migration.id)] == ["a", "b", "c"]
    assert two.migration(migration.id).count_in().objects == 3


def test_a_migration_that_is_still_listed_does_not_end(ledger: Ledger) -> None:
    ledger.create(TREE)
    assert ledger.finish() == []
    listing = ledger.listings.claim()
    assert listing is not None
    assert ledger.finish() == []
    ledger.listings.end(listing)
    assert ledger.finish()[0].state == "succeeded"


def test_a_failed_listing_fails_the_migration_until_a_retry(ledger: Ledger) -> None:
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    error = {"code": "store-permission-denied", "side": "source", "detail": "no"}
    ledger.listings.end(listing, error)
    (ended,) = ledger.finish()
    assert (ended.state, ended.error) == ("failed", error)
    ledger.act(migration.id, "retry")
    assert ledger.listings.claim() is not None


@pytest.mark.parametrize("pauses_by_itself", [False, True])
def test_a_resume_lists_again_after_a_failed_listing(
    ledger: Ledger, pauses_by_itself: bool
) -> None:
    """The source listed one object and then denied its listing; then the migration paused, perhaps
    for that reason. A resume deletes the error of both."""
    id = ledger.create(TREE)[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    denied = {"code": "store-permission-denied", "side": "source", "detail": "no", "hint": ""}
    ledger.listings.end(listing, denied)
    if pauses_by_itself:
        ledger.pause_for(id, {**denied, "code": "store-credentials-withdrawn"})
    else:
        ledger.act(id, "pause")
    assert ledger.act(id, "resume").error is None
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1)])
    assert ledger.finish() == []
    again = ledger.listings.claim()
    assert again is not None and again.cursor == "a"
    ledger.listings.add_page(again, [ListedObject("b", size=1)], "b")
    ledger.listings.end(again)
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1)])
    assert [(one.state, one.entries) for one in ledger.finish()] == [("succeeded", 2)]


def test_a_listing_stops_when_its_migration_is_paused(ledger: Ledger) -> None:
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.act(migration.id, "pause")
    assert not ledger.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    ledger.listings.hand_back(listing)
    assert ledger.listings.claim() is None
    ledger.act(migration.id, "resume")
    again = ledger.listings.claim()
    assert again is not None
    assert again.cursor == "a"


def test_transfers_are_paged_and_chosen_by_state(ledger: Ledger) -> None:
    id = tree(ledger, *range(1, 8))
    first = ledger.page(id, limit=3)
    assert [row.name for row in first] == ["000", "001", "002"]
    assert [row.name for row in ledger.page(id, after=first[-1].id)] == ["003", "004", "005", "006"]
    claims = ledger.claims.claim(2)
    assert [row.id for row in ledger.page(id, ["running"])] == [claim.id for claim in claims]


# -- multipart uploads

PINNED = Version(30, '"e"', "Wed, 25 Nov 2026 00:00:00 GMT", id="v1")
PINNED_UPLOAD = replace(UPLOAD, pinned=PINNED)


def part(number: int) -> StoredPart:
    return replace(PART, number=number, etag=f'"p{number}"')


def uploading(ledger: Ledger) -> Claim:
    """Accept a tree of one object, claim it, and begin its upload in three parts."""
    tree(ledger, 30)
    (claim,) = ledger.claims.claim(1)
    ledger.uploads.record(claim, PINNED_UPLOAD)
    return claim


def test_an_upload_and_its_parts_are_recorded(ledger: Ledger) -> None:
    tree(ledger, 30)
    (claim,) = ledger.claims.claim(1)
    assert ledger.uploads.find(claim) is None
    ledger.uploads.record(claim, PINNED_UPLOAD)
    assert ledger.uploads.take_part(claim, "upload-1", None) == 1
    assert ledger.uploads.take_part(claim, "upload-1", PART) == 2
    ledger.uploads.commit(claim, "fedcba9876543210")
    found = ledger.uploads.find(claim)
    assert found is not None
    assert (found.upload_id, found.part_bytes, found.digest, found.parts) == (
        "upload-1",
        10,
        "fedcba9876543210",
        (PART,),
    )
    ledger.claims.settle([Settlement(claim, "hand_back")])
    (again,) = ledger.claims.claim(1)
    assert ledger.uploads.find(again) == found
    ledger.uploads.record(
        again,
        UploadRecord(
            upload_id="upload-2",
            checked=False,
            place="s3://b/x",
            etag='"e"',
            size=30,
            part_bytes=10,
        ),
    )
    second = ledger.uploads.find(again)
    assert second is not None
    assert (second.upload_id, second.parts) == ("upload-2", ())
    ledger.claims.settle([verified_end(again)])
    assert ledger.uploads.find(again) is None


def test_a_replaced_worker_records_nothing_of_an_upload(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    tree(one, 30)
    (mine,) = one.claims.claim(1)
    one.uploads.record(mine, PINNED_UPLOAD)
    one.leases.renew(-1)
    two.leases.reclaim()
    (yours,) = two.claims.claim(1)
    for write in (
        lambda: one.uploads.record(mine, PINNED_UPLOAD),
        lambda: one.uploads.resume(mine, "upload-1", (), 3),
        lambda: one.uploads.commit(mine, "00"),
        lambda: one.uploads.forget(mine),
    ):
        with pytest.raises(LeaseLost):
            write()
    found = two.uploads.find(yours)
    assert found is not None
    assert found.parts == ()


def test_each_part_has_one_worker_and_fresh_parts_go_first(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    claim = uploading(one)
    three = open_ledger()
    first = three.uploads.join()
    assert first is not None
    assert [first.first, one.uploads.take_part(claim, "upload-1", None)] == [1, 2]
    three.uploads.release_parts(claim)
    share = two.uploads.join()
    assert share is not None
    assert (share.claim.id, share.first, share.upload) == (
        claim.id,
        3,
        replace(PINNED_UPLOAD, at=share.upload.at),
    )
    assert one.uploads.outstanding_parts(claim) == {1: False, 2: True, 3: False}
    assert two.uploads.take_part(share.claim, "upload-1", part(3)) == 1
    assert two.uploads.take_part(share.claim, "upload-1", part(1)) is None
    assert one.uploads.take_part(claim, "upload-1", part(2)) is None
    assert one.uploads.outstanding_parts(claim) == {}
    found = one.uploads.find(claim)
    assert found is not None
    assert [(p.number, p.etag) for p in found.parts] == [(1, '"p1"'), (2, '"p2"'), (3, '"p3"')]
    assert two.uploads.join() is None


def test_bytes_of_incomplete_parts_are_reported(ledger: Ledger) -> None:
    id = tree(ledger, 30, 40)
    (claim,) = ledger.claims.claim(1)
    ledger.uploads.record(claim, PINNED_UPLOAD)
    assert ledger.uploads.take_part(claim, "upload-1", None) == 1
    assert ledger.migration(id).in_parts == 0
    ledger.uploads.take_part(claim, "upload-1", part(1))
    ledger.uploads.take_part(claim, "upload-1", part(2))
    assert ledger.migration(id).in_parts == 20
    assert [one.in_parts for one in ledger.migrations()] == [20]
    ledger.claims.settle([Settlement(claim, "hand_back")])
    assert ledger.migration(id).in_parts == 20
    (again,) = ledger.claims.claim(1)
    ledger.claims.settle([verified_end(again, 30)])
    assert ledger.migration(id).in_parts == 0


def test_a_running_retry_is_visible_everywhere(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 30, 40, 50)
    first, second, third = one.claims.claim(3)
    assert two.migration(id).retried == ()
    trouble = {
        "what": "the object",
        "error": "store-unavailable",
        "side": "source",
        "since": 2.0,
        "again": 3.0,
    }
    one.claims.note_retried([(first, trouble), (second, {**trouble, "since": 1.0})])
    two.claims.note_retried([(third, trouble)])  # another worker owns it
    one.claims.note_retried([(replace(third, fence=third.fence + 1), trouble)])
    retried = two.migration(id).retried
    assert [(row["name"], row["since"]) for row in retried] == [
        (second.name, 1.0),
        (first.name, 2.0),
    ]
    one.claims.note_retried([(second, None)])
    assert [row["name"] for row in two.migrations()[0].retried] == [first.name]
    one.claims.settle(
        [verified_end(first, 30), Settlement(second, "failed", error={"code": "x", "detail": "y"})]
    )
    assert two.migration(id).retried == ()
    assert [row.error and row.error["code"] for row in two.page(id)] == [None, "x", None]
    one.claims.note_retried([(third, trouble)])
    one.leases.renew(-1)
    two.leases.reclaim()
    assert len(two.claims.claim(1)) == 1
    assert two.migration(id).retried == ()  # that of a lost worker


def test_a_retried_listing_is_visible_in_the_ledger(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = one.create(TREE)[0].id
    listing = one.listings.claim()
    assert listing is not None
    trouble = {
        "what": "the listing",
        "error": "store-unavailable",
        "side": "source",
        "since": 2.0,
        "again": 3.0,
    }
    one.listings.note_retried(listing, trouble)
    two.listings.note_retried(listing, {**trouble, "since": 9.0})  # another worker owns it
    for found in (two.migration(id), two.migrations()[0]):
        assert (found.retried, found.error) == (({"name": "", **trouble},), None)
    one.listings.note_retried(listing, None)
    assert two.migration(id).retried == ()
    one.listings.note_retried(listing, trouble)
    one.leases.renew(-1)
    two.leases.reclaim()
    assert (two.migration(id).retried, two.migration(id).error) == ((), None)  # as no worker does
    again = two.listings.claim()
    assert again is not None
    assert two.migration(id).retried == ()
    one.listings.note_retried(listing, trouble)  # as it was taken from this worker
    assert two.migration(id).retried == ()
    two.listings.note_retried(again, trouble)
    withdrawn = {
        "code": "store-unauthenticated",
        "side": "source",
        "detail": "401",
        "hint": "Give others.",
    }
    two.pause_for(id, withdrawn)
    two.listings.note_retried(again, trouble)  # a part that it waits for exists
    assert (two.migration(id).retried, two.migration(id).error) == ((), withdrawn)
    two.listings.hand_back(again)
    two.act(id, "resume")
    last = two.listings.claim()
    assert last is not None
    two.listings.note_retried(last, trouble)
    two.act(id, "pause")
    assert two.migration(id).error is None
    two.act(id, "resume")
    two.listings.end(last, withdrawn)
    assert (two.migration(id).retried, two.migration(id).error) == ((), withdrawn)


def test_a_worker_helps_with_shared_objects_of_others_alone(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 30)
    (claim,) = one.claims.claim(1)
    one.uploads.record(claim, replace(PINNED_UPLOAD, upload_id=""))
    assert two.uploads.join() is None  # its upload is about to start
    one.uploads.record(claim, replace(PINNED_UPLOAD, pinned=None))
    assert two.uploads.join() is None
    one.uploads.record(claim, PINNED_UPLOAD)
    assert one.uploads.join() is None
    assert two.uploads.join("another") is None
    assert two.uploads.join(but=[claim.id]) is None
    one.act(id, "pause")
    assert two.uploads.join() is None
    one.act(id, "resume")
    assert two.uploads.join(id) is not None


def test_the_parts_of_a_lost_helper_are_free_again(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    claim = uploading(one)
    assert one.uploads.take_part(claim, "upload-1", None) == 1
    share = two.uploads.join()
    assert share is not None
    assert share.first == 2
    assert one.uploads.take_part(claim, "upload-1", part(1)) == 3
    assert one.uploads.take_part(claim, "upload-1", part(3)) is None
    two.leases.renew(-1)
    assert one.leases.reclaim() == 0  # it owned no transfer
    assert one.uploads.outstanding_parts(claim) == {2: False}
    assert one.uploads.take_part(claim, "upload-1", None) == 2
    with pytest.raises(LeaseLost):
        two.uploads.take_part(share.claim, "upload-1", part(2))
    assert one.uploads.take_part(claim, "upload-1", part(2)) is None


def test_a_helper_continues_after_the_owner_is_lost(
    open_ledger: Opened,
) -> None:
    one, two, three = open_ledger(), open_ledger(), open_ledger()
    tree(one, 30)
    (claim,) = one.claims.claim(1)
    one.uploads.record(claim, PINNED_UPLOAD)
    assert one.uploads.take_part(claim, "upload-1", None) == 1
    share = two.uploads.join()
    assert share is not None
    one.leases.renew(-1)
    assert three.leases.reclaim() == 1
    (again,) = three.claims.claim(1)
    three.uploads.resume(again, "upload-1", [], 3)
    assert three.uploads.outstanding_parts(again) == {1: False, 2: False}
    assert two.uploads.take_part(share.claim, "upload-1", part(2)) == 3
    assert three.uploads.take_part(again, "upload-1", None) == 1
    assert three.uploads.outstanding_parts(again) == {1: True, 3: False}


def test_a_part_of_an_aborted_upload_is_refused(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    claim = uploading(one)
    share = two.uploads.join()
    assert share is not None
    one.uploads.forget(claim)
    with pytest.raises(UploadGone):
        two.uploads.take_part(share.claim, "upload-1", part(share.first))
    one.uploads.record(claim, replace(PINNED_UPLOAD, upload_id="upload-2"))
    with pytest.raises(UploadGone):
        two.uploads.take_part(share.claim, "upload-1", part(share.first))
    assert two.uploads.take_part(share.claim, "upload-1", None) is None


def test_handing_back_an_upload_frees_its_parts(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    claim = uploading(one)
    assert one.uploads.take_part(claim, "upload-1", None) == 1
    one.claims.settle([Settlement(claim, "hand_back")])
    (again,) = two.claims.claim(1)
    assert two.uploads.outstanding_parts(again) == {1: False}
    assert [two.uploads.take_part(again, "upload-1", None) for _ in range(4)] == [2, 3, 1, None]


def test_parts_that_the_store_lost_are_sent_again(ledger: Ledger) -> None:
    claim = uploading(ledger)
    ledger.uploads.take_part(claim, "upload-1", None)
    ledger.uploads.take_part(claim, "upload-1", part(1))
    ledger.uploads.take_part(claim, "upload-1", part(2))
    ledger.uploads.resume(claim, "upload-1", [2], 3)
    found = ledger.uploads.find(claim)
    assert found is not None
    assert [p.number for p in found.parts] == [1]
    assert [ledger.uploads.take_part(claim, "upload-1", None) for _ in range(3)] == [2, 3, None]


def test_an_unreported_part_is_disowned(ledger: Ledger) -> None:
    tree(ledger, 30)
    (claim,) = ledger.claims.claim(1)
    ledger.uploads.record(claim, PINNED_UPLOAD)
    assert ledger.uploads.take_part(claim, "upload-1", None) == 1
    ledger.claims.release_unknown([claim])
    assert ledger.uploads.outstanding_parts(claim) == {1: True}
    ledger.claims.release_unknown([], [claim.id])
    assert ledger.uploads.outstanding_parts(claim) == {1: True}
    ledger.claims.release_unknown([])
    assert ledger.uploads.outstanding_parts(claim) == {1: False}


def lease_part(one: Ledger, two: Ledger) -> tuple[str, Claim, PartLease]:
    """Accept a tree with two slots, and let one worker upload an object, and another help it;
    return the migration's id and their rights."""
    id = tree(one, 30, 40)
    one.limit(id, {"slots": 2, "bytes_per_second": 1000})
    (claim,) = one.claims.claim(1)
    one.uploads.record(claim, PINNED_UPLOAD)
    share = two.uploads.join()
    assert share is not None
    return id, claim, share


def test_a_helper_counts_against_the_bounds_of_a_migration(open_ledger: Opened) -> None:
    one, two, three = open_ledger(), open_ledger(), open_ledger()
    id, claim, share = lease_part(one, two)
    assert three.claims.claim(5) == []
    assert three.uploads.join() is None
    assert {runner.migration_views([id])[id].of for runner in (one, two)} == {2}
    two.uploads.release_parts(share.claim)
    assert len(three.claims.claim(5)) == 1


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_paused_object_rests_once_its_helpers_leave(open_ledger: Opened, verb: str) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 30, 40)
    assert one.migration(id).under_way == 0
    (claim,) = one.claims.claim(1)
    one.uploads.record(claim, PINNED_UPLOAD)
    share = two.uploads.join()
    assert share is not None
    assert one.migration(id).under_way == 2
    assert one.act(id, verb).under_way == 2
    one.claims.settle([Settlement(claim, "hand_back")])
    assert [found.under_way for found in (one.migration(id), *one.migrations())] == [1, 1]
    assert two.uploads.take_part(share.claim, "upload-1", part(share.first)) == 2
    assert one.migration(id).under_way == 1
    two.uploads.release_parts(share.claim)
    assert one.migration(id).under_way == 0


def test_a_helper_of_a_cancelled_migration_sees_its_end(ledger: Ledger) -> None:
    id = tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    ledger.act(id, "cancel")
    seen: list[int] = []

    def sleep(_: float) -> None:
        seen.append(len(seen))
        if len(seen) == 3:
            ledger.claims.settle([Settlement(claim, "hand_back")])

    progress = [
        members for kind, members in progress_events(ledger, id, sleep) if kind == "progress"
    ]
    assert [members["under_way"] for members in progress] == [1, 1, 1, 0]
    assert progress[-1]["objects"] == {"cancelled": 1}


@pytest.mark.parametrize("how", ["lost", "handed back", "failed"])
def test_a_helper_of_an_ownerless_transfer_counts(open_ledger: Opened, how: str) -> None:
    one, two, three = open_ledger(), open_ledger(), open_ledger()
    id, claim, share = lease_part(one, two)
    if how == "lost":
        one.leases.renew(-1)
        assert three.leases.reclaim() == 1
    else:
        one.claims.settle(
            [Settlement(claim, "failed" if how == "failed" else "hand_back", error={"code": "x"})]
        )
    assert len(three.claims.claim(5)) == 1
    assert three.claims.claim(5) == []
    assert three.uploads.join() is None
    assert {runner.migration_views([id])[id].of for runner in (two, three)} == {2}
    two.uploads.release_parts(share.claim)
    assert three.migration_views([id])[id].of == 1
    assert len(three.claims.claim(5)) == (0 if how == "failed" else 1)


def test_bytes_resent_by_a_helper_are_counted(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 30)
    (claim,) = one.claims.claim(1)
    one.uploads.record(claim, PINNED_UPLOAD)
    share = two.uploads.join()
    assert share is not None
    two.uploads.release_parts(share.claim, resent=7)
    one.claims.settle([replace(verified_end(claim), resent=4)])
    (row,) = one.page(id)
    assert row.resent == 11


# -- large objects among small ones

HUGE = 64 << 20


def test_large_objects_go_first_and_leave_slots_for_small_ones(ledger: Ledger) -> None:
    tree(ledger, 1, 2, HUGE, 3, 3 * HUGE, 4, 2 * HUGE, 5)
    claims = ledger.claims.claim(5, large=2, only_large=4)
    assert [claim.size for claim in claims] == [3 * HUGE, 2 * HUGE, 1, 2, 3]
    claims = ledger.claims.claim(5, large=0, only_large=4)
    assert [claim.size for claim in claims] == [4, 5, HUGE]


def test_large_objects_alone_take_all_slots(
    ledger: Ledger,
) -> None:
    tree(ledger, *[HUGE] * 9)
    assert len(ledger.claims.claim(12, large=2, only_large=4)) == 4
    assert ledger.claims.claim(8, large=0, only_large=0) == []


def test_large_objects_respect_bounds_and_priorities(ledger: Ledger) -> None:
    first = tree(ledger, HUGE, HUGE, 1)
    ledger.limit(first, {"slots": 2})
    second = tree(ledger, 2 * HUGE, 2)
    ledger.limit(second, {"priority": 5})
    claims = ledger.claims.claim(9, large=2, only_large=9)
    assert [(claim.migration_id, claim.size) for claim in claims] == [
        (second, 2 * HUGE),
        (second, 2),
        (first, HUGE),
        (first, 1),
    ]


# -- bounds


def test_bounds_are_applied_changed_and_removed(ledger: Ledger) -> None:
    migration, _ = ledger.create(
        Spec("a:x", "b:x", options={}, secret={}, priority=3, bounds=Bounds(4, None, 2))
    )
    assert (migration.priority, migration.bounds) == (3, Bounds(4, None, 2))
    for _ in range(2):
        changed = ledger.limit(
            migration.id, {"priority": -5, "bytes_per_second": 10**12, "slots": None}
        )
        assert (changed.priority, changed.bounds) == (-5, Bounds(None, 10**12, 2))
    assert ledger.migration(migration.id) == changed
    limited = [event for event in ledger.events.all(migration.id) if event["kind"] == "limited"]
    assert [
        {"priority": -5, "bytes_per_second": 10**12, "slots": None}.items() <= event.items()
        for event in limited
    ] == [True]
    with pytest.raises(MigrationUnknown):
        ledger.limit("nobody", {})


def test_limits_end_with_their_migration(ledger: Ledger) -> None:
    migration, _ = ledger.create(OBJECT)
    ledger.act(migration.id, "pause")
    assert ledger.limit(migration.id, {"slots": 1}).bounds == Bounds(1)
    ledger.act(migration.id, "cancel")
    with pytest.raises(IllegalTransition, match="cancelled"):
        ledger.limit(migration.id, {"slots": 2})


def test_the_slots_of_a_migration_bound_all_workers_together(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, *[5] * 20)
    one.limit(id, {"slots": 3})
    mine, yours = one.claims.claim(2), two.claims.claim(10)
    assert (len(mine), len(yours)) == (2, 1)
    one.claims.settle([verified_end(mine[0])])
    assert len(two.claims.claim(10)) == 1
    one.limit(id, {"connections": 2})
    two.claims.settle([verified_end(yours[0])])
    assert two.claims.claim(10) == []
    one.limit(id, {"slots": None, "connections": None})
    assert len(two.claims.claim(100)) == 16


def test_concurrent_claims_of_workers_respect_the_slots(open_ledger: Opened) -> None:
    runners = [open_ledger() for _ in range(4)]
    id = tree(runners[0], *[5] * 40)
    runners[0].limit(id, {"slots": 5})
    jobs = [gevent.spawn(runner.claims.claim, 4) for runner in runners for _ in range(3)]
    gevent.joinall(jobs, timeout=60, raise_error=True)
    assert states(runners[0], id).count("running") == 5


def test_a_limited_migration_does_not_delay_others(ledger: Ledger) -> None:
    id = tree(ledger, 5, 5)
    ledger.limit(id, {"slots": 1, "priority": 9})
    other, _ = ledger.create(OBJECT)
    assert [claim.migration_id for claim in ledger.claims.claim(10)] == [id, other.id]


def test_the_workers_of_a_migration_know_their_ranks(open_ledger: Opened) -> None:
    one, two, three = open_ledger(), open_ledger(), open_ledger()
    id = tree(one, *[5] * 10)
    assert two.migration_views([id])[id] == MigrationView(
        state="running", bounds=Bounds(), place=0, of=1
    )
    one.limit(id, {"bytes_per_second": 100})
    assert two.migration_views([id])[id] == MigrationView(
        state="running", bounds=Bounds(None, 100), place=0, of=1
    )
    one.claims.claim(3), three.claims.claim(3)
    found = [runner.migration_views([id])[id] for runner in (one, three)]
    assert sorted((standing.place, standing.of) for standing in found) == [(0, 2), (1, 2)]
    one.act(id, "pause")
    assert two.migration_views([id])[id].state == "paused"


def test_a_worker_with_old_credentials_learns_of_new_ones(ledger: Ledger) -> None:
    id = tree(ledger, 5, 6, 7)
    (first,) = ledger.claims.claim(1)
    ledger.renew_secret(id, {"source": "fresh"})
    (second,) = ledger.claims.claim(1)
    assert second.renewed > first.renewed
    ledger.act(id, "pause")
    ledger.act(id, "resume")
    (third,) = ledger.claims.claim(1)
    assert third.renewed > second.renewed
    assert ledger.migration(id).renewed == third.renewed


# -- prior objects at the destination


def test_an_empty_destination_is_trusted_once_for_a_while(ledger: Ledger) -> None:
    """The destination was empty then: a later or repeated migration inspects it."""
    id = tree(ledger, 5, 6, 7)
    learn_empty(ledger, id, True)
    (first,) = ledger.claims.claim(1)
    assert first.empty
    ledger.claims.settle(
        [Settlement(first, "failed", error={"code": "x", "side": "source", "detail": "no"})]
    )
    ledger.act(id, "pause")
    ledger.act(id, "resume")
    (second,) = ledger.claims.claim(1)
    assert not second.empty
    learn_empty(ledger, id, True)
    ledger.claims.settle([verified_end(second)])
    long_ago = (
        update(migrations)
        .where(migrations.c.id == id)
        .values(looked=time.time() - EMPTY_SECONDS - 1)
    )
    ledger.database.run(lambda c: c.execute(long_ago))
    (third,) = ledger.claims.claim(1)
    assert not third.empty
    ledger.claims.settle([verified_end(third)])
    ledger.finish()
    ledger.act(id, "retry")
    (again,) = ledger.claims.claim(1)
    assert (again.id, again.empty, again.fence) == (first.id, False, 2)


def test_the_prior_state_is_recorded_for_good(ledger: Ledger) -> None:
    id = tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    assert claim.before is None
    before = PriorState(
        known=True, version=Version(3, '"old"', "then", id="v1"), sent=Version(5, '"new"')
    )
    assert ledger.destinations.note_prior_states([(claim, before)]) == (True,)
    ledger.claims.settle(
        [Settlement(claim, "failed", error={"code": "x", "side": "source", "detail": "no"})]
    )
    assert ledger.destinations.note_prior_states([(claim, PriorState(known=False))]) == (False,)
    ledger.finish()
    ledger.act(id, "retry")
    (again,) = ledger.claims.claim(1)
    assert again.before == before


@pytest.mark.parametrize("end", ["untouched", "sent", "lapsed"])
def test_a_claim_that_sent_nothing_is_known(open_ledger: Opened, end: str) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5)
    (first,) = one.claims.claim(1)
    assert not first.untouched
    one.claims.settle([Settlement(first, "hand_back", untouched=True)])
    (second,) = one.claims.claim(1)
    assert second.untouched and second.before is None
    if end == "lapsed":
        one.leases.renew(-1)
        two.leases.reclaim()
    else:
        one.claims.settle(
            [Settlement(second, "failed", untouched=end == "untouched", error={"code": "x"})]
        )
        one.finish()
        one.act(id, "retry")
    (third,) = two.claims.claim(1)
    assert third.untouched == (end == "untouched")


# -- older ledgers

_AGAIN = Efforts({"whole_digest": 1}, resent=7, retries=1)
EFFORTS = {"0001": Efforts({"read_back": 1}), "0004": _AGAIN, "0005": _AGAIN, "0006": _AGAIN}
EFFORTS |= dict.fromkeys([f"{number:04}" for number in range(7, 22)], _AGAIN)
"""The number of proved bytes and the time they took, in files in which they differ from the
others."""


@pytest.mark.parametrize(
    "version", sorted(path.stem for path in (Path(__file__).parent / "ledgers").glob("*.sql"))
)
def test_an_older_ledger_is_upgraded_and_resumed(tmp_path: Path, version: str) -> None:
    """A file as an older schema's relay left it: one object arrived, one in parts, one queued, its
    worker lost."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript((Path(__file__).parent / "ledgers" / f"{version}.sql").read_text())
    ledger = Ledger.connect(f"sqlite:///{path}")
    try:
        (listed,) = ledger.migrations()
        migration = ledger.migration(listed.id)
        assert {
            state: counted.objects for state, counted in migration.tally.items() if counted.objects
        } == {
            "verified": 1,
            "running": 1,
            "queued": 1,
        }
        assert ledger.secret(migration.id) is not None
        assert migration.efforts == EFFORTS.get(version, Efforts({"whole_digest": 1}))
        assert migration.in_parts == 11
        ledger.leases.renew()
        assert ledger.leases.reclaim() == 1
        claims = {claim.name: claim for claim in ledger.claims.claim(10)}
        assert sorted(claims) == ["three.bin", "two.bin"]
        begun = ledger.uploads.find(claims["two.bin"])
        assert begun is not None
        assert [(part.number, part.size) for part in begun.parts] == [(1, 11)]
        assert claims["two.bin"].digests == ({} if version < "0002" else {"md5": "00" * 16})
        assert (migration.bounds, migration.renewed) == (Bounds(), 0)
        assert (migration.tenant, migration.number) == ("default", migration.sequence)
        assert_counted(ledger, migration.id)
    finally:
        ledger.close()
    again = Ledger.connect(f"sqlite:///{path}")
    again.close()


def test_the_newest_version_is_the_one_that_the_code_writes() -> None:
    """For each older schema a file is kept, as its relay left it."""
    newest = max(path.name.partition("_")[0] for path in VERSIONS.glob("0*.py"))
    assert newest == schema.HEAD
    kept = {path.stem for path in (Path(__file__).parent / "ledgers").glob("*.sql")}
    assert kept == {path.name.partition("_")[0] for path in VERSIONS.glob("0*.py")} - {schema.HEAD}


def test_a_new_file_is_the_one_that_all_versions_make(tmp_path: Path) -> None:
    """It is made from a script, without Alembic; `python -m tests.new_ledger` writes that."""
    versions = new_ledger.script(tmp_path / "by versions")
    assert NEW_FILE.read_text(encoding="utf-8") == versions
    ledger = Ledger.connect(f"sqlite:///{tmp_path / 'by script'}")
    ledger.close()
    made = [
        new_ledger.statements(tmp_path / name).splitlines() for name in ("by versions", "by script")
    ]
    assert made[0] == made[1]
    with closing(sqlite3.connect(tmp_path / "by script")) as file:
        ((identity,),) = file.execute("SELECT value FROM keys WHERE name = 'identity'").fetchall()
    assert len(identity) == 64


def test_a_new_file_gets_the_versions_that_its_script_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a version was added, and the script not written again."""
    older = sorted(path.name.partition("_")[0] for path in VERSIONS.glob("0*.py"))[-2]
    (tmp_path / "older.sql").write_text(new_ledger.script(tmp_path / "older", older))
    monkeypatch.setattr(opening, "NEW_FILE", tmp_path / "older.sql")
    new_ledger.script(tmp_path / "by versions")
    Ledger.connect(f"sqlite:///{tmp_path / 'by script'}").close()
    made = [new_ledger.statements(tmp_path / name) for name in ("by versions", "by script")]
    assert sorted(made[0].split(";\n")) == sorted(made[1].split(";\n"))


def test_a_new_ledger_has_the_columns_that_the_code_knows(address: str) -> None:
    ledger = Ledger.connect(address)
    try:
        found = ledger.database.run(
            lambda c: {
                name: {row["name"] for row in inspect(c).get_columns(name)}
                for name in schema.metadata.tables
            }
        )
    finally:
        ledger.close()
    assert found == {
        name: {column.name for column in table.c} for name, table in schema.metadata.tables.items()
    }


# -- the end of a claim, which each database writes in its own SQL


def test_both_databases_settle_the_same_columns() -> None:
    (*names,) = settling._IN_ORDER.__reduce__()[1]
    sqlite = re.sub(r"\?", lambda _: names.pop(0), settling._ENDS)
    assert not names
    both = str(settling._ALL)
    postgresql = re.findall(r"(UPDATE .*) FROM ends( WHERE .*) RETURNING", both)[0]
    assert clauses(sqlite) == clauses("".join(postgresql))
    kept = re.findall(r"AS rows\((.*?)\)\)", both)[0]
    columns = [column.split()[0] for column in kept.split(", ")]
    assert sorted(columns) == sorted([*settling._IN_ORDER.__reduce__()[1], "receipt"])


def clauses(statement: str) -> tuple[set[str], set[str]]:
    """Return the assignments and the condition of an UPDATE."""
    sets, _, where = statement.partition(" SET ")[2].partition(" WHERE ")
    return set(re.split(r", (?=\w+ = )", sets)), set(where.split(" AND "))


def test_a_failed_retry_has_no_receipt(ledger: Ledger) -> None:
    """The receipt of the unverified object is that of bytes which the failure is not about."""
    id = ledger.create(OBJECT)[0].id
    (claim,) = ledger.claims.claim(1)
    receipt = {"level": "size", "digests": {"crc64nvme": "00"}}
    ledger.claims.settle(
        [Settlement(claim, "unverified", bytes=5, seconds=0.5, level="size", receipt=receipt)]
    )
    ledger.finish()
    (row,) = ledger.page(id)
    assert row.receipt == receipt
    ledger.act(id, "retry")
    (claim,) = ledger.claims.claim(1)
    error = {"code": "not-found", "side": "source", "detail": "gone", "hint": ""}
    ledger.claims.settle([Settlement(claim, "failed", error=error)])
    (row,) = ledger.page(id)
    assert (row.state, row.receipt) == ("failed", None)
