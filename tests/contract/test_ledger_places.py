"""Destinations are compared by their places, however they are printed: an unproved state is known at
one place under two names, and unknown at two places of one name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, update

from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.prior_state_values import PriorState
from relay.ledger.schema import migrations
from relay.ledger.unproved import find_unproved
from relay.receipt import Version

SENT = Version(5, '"x"', "Sun, 15 Jun 2025 15:06:40 GMT")

Place = tuple[str, tuple[str, str] | None, str]
"""What is printed of a destination, its server and path, and the object's name, empty for a single
one."""
SINGLE: Place = ("web:d/a%20b", ("H", "/d/a%20b"), "")
TREE: Place = ("http://h/d/", ("H", "/d/"), "a b")
ALIAS: Place = ("al:", ("H", "/d/"), "a b")
AROUND: Place = ("web:/", ("H", "/"), "d/a b")
URL: Place = ("http://h/%64/a%20b", ("H", "/d/a%20b"), "")
PAIRS = {
    "a single object, then a tree": (SINGLE, TREE),
    "a tree, then a single object": (TREE, SINGLE),
    "two single objects": (SINGLE, URL),
    "two trees": (TREE, ALIAS),
    "a tree around a tree": (ALIAS, AROUND),
    "a tree in a tree": (AROUND, TREE),
}
"""The destinations of two migrations to one place."""
APART = {
    "a single object": (SINGLE, ("web:d/a%20b", ("other", "/d/a%20b"), "")),
    "a tree": (TREE, ("http://h/d/", ("other", "/d/"), "a b")),
    "an object in a tree": (
        ("s3://b/d/x", ("H", "/b/d/x"), ""),
        ("s3://b/", ("other", "/b/"), "d/x"),
    ),
    "a tree around an object": (
        ("s3://b/", ("H", "/b/"), "d/x"),
        ("s3://b/d/x", ("other", "/b/d/x"), ""),
    ),
    "an encoded name": (("http://h/d/", ("H", "/d/"), "a%20b"), URL),
}
"""Destinations that print alike, at two places."""


def spec_of(at: Place, source: str, wish: str) -> Spec:
    printed, place, name = at
    options = {"recursive": bool(name), "if_exists": wish}
    places = (f"{source} of {printed} {name}", str(place))
    return Spec(source, printed, options=options, secret={}, places=places, place=place)


def accept(ledger: Ledger, at: Place, wish: str, source: str = "a") -> str:
    """Accept a migration of one object, as a tree if it has a name."""
    id = ledger.create(spec_of(at, source, wish))[0].id
    if at[2]:
        listing = ledger.listings.claim(id)
        assert listing is not None
        ledger.listings.add_page(listing, [ListedObject(at[2], size=5)], None)
        ledger.listings.end(listing)
    return id


def claim(ledger: Ledger, id: str) -> Claim:
    (found,) = ledger.claims.claim(9, only=id)
    return found


def fail(ledger: Ledger, found: Claim) -> None:
    error = {"code": "x", "side": "source", "detail": "no"}
    ledger.claims.settle([Settlement(found, "failed", error=error)])
    ledger.finish()


def leave(ledger: Ledger, at: Place) -> str:
    """Fail a migration of an object that was sent; return its id."""
    id = accept(ledger, at, "changed")
    found = claim(ledger, id)
    ledger.destinations.note_prior_states([(found, PriorState(known=True, sent=SENT))])
    fail(ledger, found)
    return id


def is_doubted(found: Claim) -> bool:
    return found.before is not None and not found.before.known and found.fence > 1


@pytest.mark.parametrize("pair", PAIRS)
def test_one_place_of_two_names_has_one_object(ledger: Ledger, pair: str) -> None:
    first, second = PAIRS[pair]
    again = accept(ledger, second, "skip", "before")
    fail(ledger, claim(ledger, again))
    leave(ledger, first)
    assert is_doubted(claim(ledger, accept(ledger, second, "skip", "b")))
    ledger.act(again, "retry")
    assert is_doubted(claim(ledger, again))
    if not second[2]:
        state = ledger.destinations.find_unproved(spec_of(second, "c", "skip"))
        assert state is not None and not state.known


@pytest.mark.parametrize("pair", APART)
def test_two_places_of_one_name_have_two_objects(ledger: Ledger, pair: str) -> None:
    first, second = APART[pair]
    leave(ledger, first)
    assert claim(ledger, accept(ledger, second, "skip", "b")).before is None
    if not second[2]:
        assert ledger.destinations.find_unproved(spec_of(second, "c", "skip")) is None


@pytest.mark.parametrize("is_older", [(True, False), (False, True), (True, True)])
def test_the_row_of_an_older_relay_is_compared_as_printed(
    ledger: Ledger, is_older: tuple[bool, bool]
) -> None:
    """It has no place."""
    tree: Place = ("http://h/d/", ("H", "/d/"), "a b")
    alone: Place = ("http://h/d/a%20b", ("H", "/d/a%20b"), "")
    for first, second in ((tree, alone), (alone, tree), (alone, alone)):
        one, two = (
            (at[0], None if older else at[1], at[2])
            for at, older in zip((first, second), is_older, strict=True)
        )
        id = leave(ledger, one)
        assert is_doubted(claim(ledger, accept(ledger, two, "skip", f"b{second}")))
        ledger.database.run(lambda c: c.execute(update(migrations).values(state="succeeded")))
        assert ledger.migration(id).state == "succeeded"


def test_the_place_of_an_older_row_is_learned_when_it_resumes(ledger: Ledger) -> None:
    spec = spec_of(SINGLE, "a", "changed")
    id = ledger.create(replace(spec, place=None))[0].id
    found = claim(ledger, id)
    ledger.destinations.note_prior_states([(found, PriorState(known=True, sent=SENT))])
    fail(ledger, found)
    assert ledger.create(spec, go_on=True)[0].id == id
    assert is_doubted(claim(ledger, accept(ledger, TREE, "skip", "b")))


def test_a_name_that_its_source_gave_is_known_at_the_place(ledger: Ledger) -> None:
    later: Place = ("web:d/", ("H", "/d/"), "")
    left = claim(ledger, accept(ledger, later, "overwrite"))
    ledger.destinations.note_prior_states(
        [(left, PriorState(known=False, place="http://h/d/a%20b"))]
    )
    fail(ledger, left)
    assert is_doubted(claim(ledger, accept(ledger, TREE, "skip", "b")))
    assert is_doubted(claim(ledger, accept(ledger, URL, "skip", "b")))
    state = ledger.destinations.find_unproved(spec_of(later, "c", "skip"), "http://h/d/a%20b")
    assert state is not None and not state.known


def test_places_cost_no_more_statements_than_printed_forms(ledger: Ledger) -> None:
    """For a page of a listing, after another migration to the same place."""
    names = [f"{number:03} x" for number in range(400)]
    printed = count_statements(ledger, ("web:d/", None, names[0]), names)
    ledger.database.run(lambda c: c.execute(update(migrations).values(place="another")))
    assert count_statements(ledger, ("web:e/", ("H", "/e/"), names[0]), names) <= printed


def count_statements(ledger: Ledger, at: Place, names: list[str]) -> int:
    """Return the number of statements by which a second migration learns of a first one."""
    leave(ledger, at)
    id = accept(ledger, at, "skip", "b")
    statements: list[str] = []

    def count(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def learn(connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", count)
        try:
            assert set(find_unproved(connection, id, "skip", names)) == {at[2]}
        finally:
            event.remove(connection, "before_cursor_execute", count)

    ledger.database.run(learn, write=False)
    return len(statements)
