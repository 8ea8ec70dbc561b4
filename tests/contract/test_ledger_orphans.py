"""The orphans of the ledger: abandoned transfers whose uploads may still exist."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy import update

from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.schema import transfers
from tests.ledgers import Opened, states, tree, verified_end
from tests.values import PART, UPLOAD


def leave_upload(ledger: Ledger, *, verb: str = "hand_back") -> tuple[str, Claim]:
    """Accept a tree of one object, start its upload, and abandon it; return its migration's id and
    the claim."""
    id = tree(ledger, 30)
    (claim,) = ledger.claims.claim(1)
    ledger.uploads.record(claim, UPLOAD)
    assert ledger.uploads.take_part(claim, "upload-1", None) == 1
    ledger.uploads.take_part(claim, "upload-1", PART)
    assert (
        ledger.claims.settle(
            [Settlement(claim, verb, error={"code": "x"} if verb == "failed" else None)]
        )
        == []
    )
    return id, claim


def test_an_upload_of_a_cancelled_migration_is_an_orphan(ledger: Ledger) -> None:
    id, claim = leave_upload(ledger)
    assert ledger.destinations.orphans() == []
    ledger.act(id, "cancel")
    (orphan,) = ledger.destinations.orphans()
    assert (orphan.claim.id, orphan.claim.name, orphan.claim.fence) == (
        claim.id,
        "000",
        claim.fence,
    )
    assert orphan.upload is not None
    assert (orphan.upload.upload_id, orphan.upload.place) == ("upload-1", "s3://b/x")
    assert ledger.destinations.orphans(id) == [orphan]
    assert ledger.destinations.orphans("another") == []
    assert ledger.destinations.orphans(but=[claim.id]) == []
    ledger.destinations.note_removed(orphan)
    assert ledger.destinations.orphans() == []
    assert ledger.uploads.find(claim) is None
    assert ledger.migration(id).in_parts == 0


def test_an_orphan_of_a_lost_worker_needs_no_upload(open_ledger: Opened) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5, 6)
    (claim,) = one.claims.claim(1)
    two.act(id, "cancel")
    assert two.destinations.orphans() == []  # it may still be created
    one.leases.renew(-1)
    assert two.leases.reclaim() == 1
    (orphan,) = two.destinations.orphans()
    assert (orphan.claim.id, orphan.upload) == (claim.id, None)
    two.destinations.note_removed(orphan)
    assert two.destinations.orphans() == []
    assert states(two, id) == ["cancelled", "cancelled"]


def test_a_failed_object_waits_before_it_is_an_orphan(ledger: Ledger) -> None:
    _, claim = leave_upload(ledger, verb="failed")
    ledger.finish()
    assert ledger.destinations.orphans() == []
    (orphan,) = ledger.destinations.orphans(kept=-1)
    assert orphan.claim.id == claim.id


def test_a_failed_object_of_a_running_migration_is_not_an_orphan(ledger: Ledger) -> None:
    """It failed long ago, and the migration still runs, or is listed again by its command: a retry
    resumes the upload."""
    id, _ = leave_upload(ledger, verb="failed")
    assert ledger.destinations.orphans(kept=-1) == []
    ledger.finish()
    ledger.list_again(id)
    assert (states(ledger, id), ledger.destinations.orphans(kept=-1)) == (["failed"], [])


def test_a_quarantined_row_becomes_an_orphan_like_any_failed(
    open_ledger: Opened,
) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 30)
    for _ in range(5):
        (claim,) = one.claims.claim(1)
        one.uploads.record(claim, UPLOAD)
        one.leases.renew(-1)
        two.leases.reclaim()
        one.leases.renew()
    assert states(two, id) == ["failed"]
    two.finish()
    assert two.destinations.orphans() == []
    assert [orphan.claim.id for orphan in two.destinations.orphans(kept=-1)] == [claim.id]


def test_a_queued_or_arrived_object_is_not_an_orphan(ledger: Ledger) -> None:
    leave_upload(ledger)
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([verified_end(claim, 30)])
    assert ledger.destinations.orphans(kept=-1) == []


@pytest.mark.parametrize("fresh", ["upload-2", "upload-1"], ids=["restarted", "resumed"])
def test_a_concurrent_retry_keeps_its_state(ledger: Ledger, fresh: str) -> None:
    id, _ = leave_upload(ledger)
    ledger.act(id, "cancel")
    (orphan,) = ledger.destinations.orphans()
    ledger.act(id, "retry")
    (claim,) = ledger.claims.claim(1)
    if fresh != UPLOAD.upload_id:
        ledger.uploads.record(claim, replace(UPLOAD, upload_id=fresh))
    ledger.destinations.note_removed(orphan)
    found = ledger.uploads.find(claim)
    assert found is not None
    assert found.upload_id == fresh


def test_the_same_upload_found_twice_is_removed_once(ledger: Ledger) -> None:
    id, _ = leave_upload(ledger)
    ledger.act(id, "cancel")
    (orphan,) = ledger.destinations.orphans()
    ledger.destinations.note_removed(orphan)
    ledger.destinations.note_removed(orphan)
    assert ledger.destinations.orphans() == []
    assert states(ledger, id) == ["cancelled"]


@pytest.mark.parametrize("verbs", [("cancel", "retry"), ("cancel", "retry", "cancel", "retry")])
def test_leftovers_of_a_lost_worker_are_kept_until_removed(
    open_ledger: Opened, verbs: tuple[str, ...]
) -> None:
    """A user may resume it and then cancel it again before any worker has started."""
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5)
    one.claims.claim(1)
    one.leases.renew(-1)
    assert two.leases.reclaim() == 1
    two.reset_crash_counts(id)
    for verb in (*verbs, "cancel"):
        two.act(id, verb)
    (orphan,) = two.destinations.orphans()
    two.destinations.note_removed(orphan)
    assert two.destinations.orphans() == []


def test_a_lost_claim_ended_with_its_lease(open_ledger: Opened) -> None:
    """Perhaps no worker looked for days: an object from since then is another writer's. Neither a
    cancel nor a restart of the object makes the claim any younger."""
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5)
    one.claims.claim(1)
    one.leases.renew(-3600)
    assert two.leases.reclaim() == 1
    two.act(id, "cancel")
    two.list_again(id)
    relist_tree(two, id)
    two.act(id, "cancel")
    (orphan,) = two.destinations.orphans()
    assert orphan.ended == pytest.approx(time.time() - 3600, abs=60)


def relist_tree(ledger: Ledger, id: str) -> None:
    listing = ledger.listings.claim(id)
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("000", size=5, etag='"0"', modified=1.5)], None)
    ledger.listings.end(listing)
    assert states(ledger, id) == ["queued"]


@pytest.mark.parametrize(
    ("rid", "remains", "lapses"), [(False, {}, 1), (True, {}, 0), (True, {"place": "x"}, 1)]
)
def test_a_failure_without_leftovers_needs_no_inspection(
    open_ledger: Opened, rid: bool, remains: dict[str, str], lapses: int
) -> None:
    one, two = open_ledger(), open_ledger()
    id = tree(one, 5)
    one.claims.claim(1)
    one.leases.renew(-1)
    two.leases.reclaim()
    (claim,) = two.claims.claim(1)
    two.claims.settle(
        [Settlement(claim, "failed", error={"code": "not-found"}, rid=rid, remains=remains)]
    )
    two.finish()
    assert len(two.destinations.orphans(kept=-1)) == lapses
    two.act(id, "retry")
    assert [again.crash_count for again in two.claims.claim(1)] == [lapses]


def test_a_failure_with_leftovers_is_an_orphan(ledger: Ledger) -> None:
    tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    assert claim.crash_count == 0
    ledger.claims.settle([Settlement(claim, "failed", error={"code": "x"}, remains={"place": "x"})])
    ledger.finish()
    assert [orphan.claim.id for orphan in ledger.destinations.orphans(kept=-1)] == [claim.id]


def test_a_leftover_stays_noted_over_a_late_claim_that_did_not_run(ledger: Ledger) -> None:
    """A whole object under a temporary name, whose MOVE failed. After many claims the note also
    says which of them have left nothing."""
    tree(ledger, 5)
    ledger.database.run(lambda c: c.execute(update(transfers).values(fence=20)))
    (claim,) = ledger.claims.claim(1)
    remains = {"there/.relay-x.part": "The whole object may remain there."}
    ledger.claims.settle([Settlement(claim, "hand_back", rid=True, remains=remains)])
    for _ in range(2):
        (claim,) = ledger.claims.claim(1)
        assert (claim.rid, claim.remains) == (20, remains)
        ledger.claims.settle([Settlement(claim, "hand_back")])
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([Settlement(claim, "hand_back", rid=True)])
    (claim,) = ledger.claims.claim(1)
    assert claim.remains == {}
