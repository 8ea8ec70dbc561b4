"""An unproved state of an object is known to a migration whose destination is inside that of
another, or around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.prior_state_values import PriorState
from relay.receipt import Version
from tests.ledgers import Opened, verified_end

SENT = Version(5, '"x"', "Sun, 15 Jun 2025 15:06:40 GMT")
REMAINS = {"place": "something"}
PAIRS = {
    "a single object, then a tree": (("https://h/to/a/b", ""), ("https://h/to/", "a/b")),
    "a tree, then a single object": (("https://h/to/", "a/b"), ("https://h/to/a/b", "")),
    "a tree in the tree": (("https://h/to/a/", "b"), ("https://h/to/", "a/b")),
    "a tree around the tree": (("https://h/to/", "a/b"), ("https://h/to/a/", "b")),
    "an encoded single object": (("https://h/to/a%20b/%C3%BC", ""), ("https://h/to/", "a b/ü")),
    "an encoded tree": (("https://h/to/a%20b/", "ü"), ("https://h/to/", "a b/ü")),
    "a tree around what is encoded": (
        ("https://h/to/", "a b/ü"),
        ("https://h/to/a%20b/%C3%BC", ""),
    ),
    "an object encoded as by a browser": (
        ("https://h/to/a%20(1),%C3%BC", ""),
        ("https://h/to/", "a (1),ü"),
    ),
    "a plain key": (("s3://h/a b%", ""), ("s3://h/", "a b%")),
    "a remote": (("r:a/b", ""), ("r:", "a/b")),
    "a folder of a remote, with a slash": (("r:a/", "b"), ("r:a", "b")),
    "a folder of a remote, without one": (("r:a", "b"), ("r:a/", "b")),
    "a folder of a remote": (("r:a", "b"), ("r:a/b", "")),
}
"""The destinations of both migrations, and the name of the object: empty for a single one."""
APART = {
    "another object": (("https://h/to/a/c", ""), ("https://h/to/", "a/b")),
    "another folder": (("https://h/to/a", ""), ("https://h/to/", "a/b")),
    "a longer name": (("https://h/to/a/bb", ""), ("https://h/to/", "a/b")),
    "an object that takes its source's name": (("https://h/to/a/", ""), ("https://h/to/", "a/b")),
    "a folder of another name": (("https://h/to/a", "b"), ("https://h/to/aa/b", "")),
}


def accept(ledger: Ledger, at: tuple[str, str], wish: str, source: str = "a") -> str:
    """Accept a migration of one object, as a tree if it has a name."""
    destination, name = at
    options = {"recursive": bool(name), "if_exists": wish}
    places = (f"{source} of {destination}", destination)
    id = ledger.create(
        Spec(source, destination, options=options, secret={"secret": 1}, places=places)
    )[0].id
    if name:
        relist(ledger, id, name)
    return id


def relist(ledger: Ledger, id: str, name: str) -> None:
    listing = ledger.listings.claim(id)
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject(name, size=5), ListedObject("other", size=5)], None
    )
    ledger.listings.end(listing)


def claim(ledger: Ledger, id: str) -> Claim:
    """Claim the object of a migration, and end the other object of its tree."""
    claims = {found.name: found for found in ledger.claims.claim(9, only=id)}
    if (other := claims.pop("other", None)) is not None:
        assert other.before is None
        ledger.claims.settle([verified_end(other)])
    (found,) = claims.values()
    return found


def fail(ledger: Ledger, found: Claim, **more: Any) -> None:
    ledger.claims.settle(
        [Settlement(found, "failed", error={"code": "x", "side": "source", "detail": "no"}, **more)]
    )
    ledger.finish()


def assert_doubted(found: Claim) -> None:
    assert found.before is not None and not found.before.known and found.before.since is not None
    assert found.fence > 1 and found.remains == REMAINS


@pytest.mark.parametrize("pair", PAIRS)
def test_a_nested_migration_knows_leftovers_of_the_other(ledger: Ledger, pair: str) -> None:
    first, second = PAIRS[pair]
    left = claim(ledger, accept(ledger, first, "changed"))
    ledger.destinations.note_prior_states([(left, PriorState(known=True, sent=SENT))])
    fail(ledger, left, remains=REMAINS)
    id = accept(ledger, second, "skip")
    found = claim(ledger, id)
    assert_doubted(found)
    ledger.claims.settle([verified_end(found)])
    ledger.finish()
    assert ledger.migration(id).state == "succeeded"
    assert claim(ledger, accept(ledger, second, "skip")).before is None


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("second", [("https://h/to/", "a b/ü"), ("https://h/to/a%20b/%C3%BC", "")])
def test_an_object_that_its_source_named_is_known_by_its_place(
    ledger: Ledger, second: tuple[str, str], noted: bool
) -> None:
    place = "https://h/to/a%20b/%C3%BC"
    for again in (True, False):
        id = accept(ledger, second, "skip") if again else ""
        if again:
            fail(ledger, claim(ledger, id))
        left = claim(ledger, accept(ledger, ("https://h/to/a%20b/", ""), "overwrite"))
        if noted:
            ledger.destinations.note_prior_states([(left, PriorState(known=False, place=place))])
        fail(ledger, left, remains={} if noted else {place: "something"})
        if again:
            ledger.act(id, "retry")
        found = claim(ledger, id or accept(ledger, second, "skip", "another source"))
        assert found.before is not None and not found.before.known and found.fence > 1
        ledger.claims.settle([verified_end(found)])
        ledger.finish()


@pytest.mark.parametrize("first", [("https://h/to/", "a b/ü"), ("https://h/to/a%20b/%C3%BC", "")])
def test_a_skip_of_a_source_named_object_is_judged_by_place(
    ledger: Ledger, first: tuple[str, str]
) -> None:
    place = "https://h/to/a%20b/%C3%BC"
    fail(ledger, claim(ledger, accept(ledger, first, "overwrite")), remains=REMAINS)
    id = accept(ledger, ("https://h/to/a%20b/", ""), "skip")
    found = claim(ledger, id)
    assert found.before is None
    ledger.claims.settle([Settlement(found, "skipped", place=f"{place}x")])
    ledger.finish()
    assert ledger.migration(id).state == "succeeded"
    id = accept(ledger, ("https://h/to/a%20b/", ""), "skip")
    ledger.claims.settle([Settlement(claim(ledger, id), "skipped", place=place)])
    found = claim(ledger, id)
    assert_doubted(found)
    assert found.before is not None and found.before.place == place
    ledger.claims.settle([Settlement(found, "skipped", place=place)])
    ledger.finish()
    assert ledger.migration(id).state == "succeeded"


@pytest.mark.parametrize("pair", APART)
def test_unrelated_places_know_no_leftovers(ledger: Ledger, pair: str) -> None:
    first, second = APART[pair]
    left = claim(ledger, accept(ledger, first, "changed"))
    ledger.destinations.note_prior_states([(left, PriorState(known=True, sent=SENT))])
    fail(ledger, left, remains=REMAINS)
    found = claim(ledger, accept(ledger, second, "skip"))
    assert (found.before, found.remains) == (None, {})


@pytest.mark.parametrize("pair", PAIRS)
def test_a_repeated_command_learns_of_leftovers_of_another(ledger: Ledger, pair: str) -> None:
    first, second = PAIRS[pair]
    id = accept(ledger, second, "skip")
    fail(ledger, claim(ledger, id))
    left = claim(ledger, accept(ledger, first, "changed"))
    ledger.destinations.note_prior_states([(left, PriorState(known=True, sent=SENT))])
    fail(ledger, left, remains=REMAINS)
    ledger.act(id, "retry")
    assert_doubted(claim(ledger, id))


def test_an_overwrite_of_a_lost_worker_is_known_to_the_other(open_ledger: Opened) -> None:
    """It records nothing before bytes are sent."""
    one, two = open_ledger(), open_ledger()
    claim(one, accept(one, ("https://h/to/a/b", ""), "overwrite"))
    one.leases.renew(0)
    two.leases.reclaim()
    found = claim(two, accept(two, ("https://h/to/", "a/b"), "skip"))
    assert found.before is not None and not found.before.known


def test_another_object_in_the_remotes_folder_has_no_leftover(ledger: Ledger) -> None:
    """Its source names it."""
    left = claim(ledger, accept(ledger, ("dav:", ""), "changed"))
    ledger.destinations.note_prior_states([(left, PriorState(known=True, place="dav:x"))])
    fail(ledger, left)
    assert claim(ledger, accept(ledger, ("dav:", ""), "skip", "b")).before is None


@pytest.mark.parametrize("verb", ["verified", "unverified"])
@pytest.mark.parametrize("pair", [*PAIRS, "the same place"])
def test_an_object_that_another_migration_stored_is_no_piece(
    open_ledger: Opened, pair: str, verb: str
) -> None:
    """It may begin like the source's object, if that has grown since."""
    ours, theirs = PAIRS.get(pair, (("https://h/to/", "a"), ("https://h/to/", "a")))
    one, two = open_ledger(), open_ledger()
    id = accept(one, ours, "overwrite")
    claim(one, id)
    one.leases.renew(0)
    assert two.leases.reclaim() == 1
    found = claim(two, accept(two, theirs, "overwrite", "b"))
    two.claims.settle([replace(verified_end(found), verb=verb)])
    two.act(id, "cancel")
    (orphan,) = two.destinations.orphans(id)
    assert orphan.before is not None
    assert orphan.before.arrived


@pytest.mark.parametrize("pair", APART)
def test_an_object_at_another_place_has_not_arrived(open_ledger: Opened, pair: str) -> None:
    ours, theirs = APART[pair]
    one, two = open_ledger(), open_ledger()
    id = accept(one, ours, "overwrite")
    claim(one, id)
    one.leases.renew(0)
    assert two.leases.reclaim() == 1
    two.claims.settle([verified_end(claim(two, accept(two, theirs, "overwrite", "b")))])
    two.act(id, "cancel")
    (orphan,) = two.destinations.orphans(id)
    assert orphan.before is not None
    assert not orphan.before.arrived
