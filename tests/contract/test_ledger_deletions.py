"""The rows of deletions, in both databases."""

from __future__ import annotations

from relay.ledger.deletion_values import (
    Candidate,
    DeletionBasis,
    DeletionEnd,
    DeletionState,
    KeptReason,
    RemovalState,
)
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.receipt import Version
from tests.ledgers import TREE, tree, verified_end

OLD = Version(5, '"a"', "date", digests={"crc32c": b"1234"}, id="v1")
LONG = "x" * 5000


def end_of(name: str, reason: KeptReason | None = None) -> DeletionEnd:
    state = DeletionState.KEPT if reason else DeletionState.DELETED
    return DeletionEnd(name, state, reason=reason, marker=None if reason else "m1")


def test_an_intent_becomes_a_fact(ledger: Ledger) -> None:
    id, rows = tree(ledger, 1), ledger.deletions
    some = [Candidate(name, OLD, DeletionBasis.RECEIPT) for name in ("a", "é", LONG)]
    rows.intend(id, "source", some)
    found = rows.newest(id, "source", ["a", "é", LONG, "none"])
    assert {name: row.state for name, row in found.items()} == dict.fromkeys(
        ("a", "é", LONG), DeletionState.DELETING
    )
    assert found["a"].version == OLD
    assert rows.newest(id, "destination", ["a"]) == {}
    rows.settle(id, "source", [end_of("a"), end_of("é", KeptReason.GONE), end_of("new")])
    assert rows.tally(id).states == {"deleted": 2, "kept": 1, "deleting": 1}
    assert rows.tally(id).reasons == {"gone": 1}
    assert [row.name for row in rows.page(id, ["deleted"])] == ["a", "new"]
    assert rows.newest(id, "source", ["a"])["a"].marker == "m1"
    # A kept object may be asked about again; a deleted one of that name stays in the history.
    rows.intend(id, "source", some)
    assert rows.tally(id).states == {"deleted": 2, "deleting": 3}
    assert rows.newest(id, "source", ["a"])["a"].state is DeletionState.DELETING


def test_the_same_command_finds_what_was_left(ledger: Ledger) -> None:
    first = tree(ledger, 5)
    ledger.deletions.begin(first, "move", {"after": 1.0})
    assert ledger.deletions.find_unfinished(TREE) == []  # it still runs
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1)])
    ledger.finish()
    assert ledger.migration(first).state == "succeeded"
    assert ledger.deletions.find_unfinished(TREE) == [(first, RemovalState.RUNNING)]
    ledger.deletions.end(first, RemovalState.OPEN)
    assert ledger.deletions.find_unfinished(TREE) == [(first, RemovalState.OPEN)]
    second = tree(ledger, 5)
    proved = ledger.deletions.earlier_receipts(second, ["000", "001"])
    assert {name: row.receipt for name, row in proved.items()} == {"000": {"level": "whole_digest"}}
    assert ledger.deletions.earlier_receipts(first, ["000"]) == {}
    ledger.deletions.end(first, RemovalState.DONE)
    assert ledger.deletions.find_unfinished(TREE) == []


def test_names_that_the_destination_may_have_folded(ledger: Ledger) -> None:
    id = ledger.create(TREE)[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    names = ["Photo.JPG", "e\u0301", "plain"]
    listed = [ListedObject(name, size=1, etag=None, modified=None, url=None) for name in names]
    ledger.listings.add_page(listing, listed, "z")
    ledger.listings.end(listing)
    extra = ["photo.jpg", "\u00e9", "plain", "PLAIN", "other", "Photo.JPG"]
    assert ledger.deletions.folded_names(id, extra) == {"photo.jpg", "\u00e9", "PLAIN"}
