"""Trees of one destination: names that a store may fold into one, and links to one file, are known
to each other in migrations with other filters, and of other sources."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.siblings import MOST, siblings_of
from tests.ledgers import Opened, statements_of, verified_end

WHOLE = Spec("a:x", "b:x", options={"recursive": True}, secret={}, place=("b", "/x/"))
SMALL = replace(WHOLE, options={**WHOLE.options, "filters": {"max_size": "1K"}})
LARGE = replace(WHOLE, options={**WHOLE.options, "filters": {"min_size": "1K"}})
NAMED = replace(WHOLE, options={**WHOLE.options, "filters": {"exclude": ["*.tmp"]}})
DRAWN = replace(WHOLE, options={**WHOLE.options, "filters": {"hash_filter": "@/2"}})
OTHER = replace(WHOLE, source="a:y")
ELSEWHERE = replace(LARGE, destination="b:z", place=("b", "/z/"))
PAIRS = {
    "other filters": (SMALL, LARGE),
    "filters, then none": (SMALL, WHOLE),
    "no filters, then some": (WHOLE, SMALL),
    "the same filters": (SMALL, SMALL),
    "another part": (DRAWN, DRAWN),
    "filters of names, then none": (NAMED, WHOLE),
    "no filters, then some of names": (WHOLE, NAMED),
    "another source": (WHOLE, OTHER),
}
"""Two migrations to one place that may divide its objects between them."""


def list_tree(ledger: Ledger, spec: Spec, *names: str, tenant: str = "default") -> str:
    """Accept a migration, and list its objects."""
    migration, _ = ledger.create(spec, tenant=tenant)
    listing = ledger.listings.claim()
    assert listing is not None and listing.migration_id == migration.id
    ledger.listings.add_page(listing, [ListedObject(name, size=1) for name in names], None)
    ledger.listings.end(listing)
    return migration.id


def claim_of(ledger: Ledger, id: str, name: str) -> Claim:
    """Claim the object of a migration."""
    found = [one for one in ledger.claims.claim(9) if (one.migration_id, one.name) == (id, name)]
    return found[0]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("names", [("a", "A"), ("A", "a"), ("A", "A "), ("b/C", "B/c")])
def test_a_twin_of_another_command_is_known(
    ledger: Ledger, pair: str, names: tuple[str, str]
) -> None:
    one, other = PAIRS[pair]
    first = claim_of(ledger, list_tree(ledger, one, names[0]), names[0])
    second = claim_of(ledger, list_tree(ledger, other, names[1]), names[1])
    assert ledger.destinations.enter_folded(second) is None, "the first one may be under way"
    ledger.claims.settle([verified_end(first)])
    assert ledger.destinations.enter_folded(second) == (names[0],)


def test_a_command_that_still_runs_learns_of_a_later_twin(ledger: Ledger) -> None:
    first = claim_of(ledger, list_tree(ledger, SMALL, "a"), "a")
    second = claim_of(ledger, list_tree(ledger, LARGE, "A"), "A")
    ledger.claims.settle([Settlement(first, "hand_back")])
    assert ledger.destinations.enter_folded(second) == ("a",), "it may have been sent"
    ledger.claims.settle([verified_end(second)])
    (again,) = ledger.claims.claim(9)
    assert again.twins and ledger.destinations.enter_folded(again) == ("A",)


@pytest.mark.parametrize("pair", [(WHOLE, WHOLE), (NAMED, NAMED), (SMALL, ELSEWHERE)])
def test_no_other_names_are_compared(ledger: Ledger, pair: tuple[Spec, Spec]) -> None:
    """A source has renamed its object, if two commands list the same names of it. Nor at another
    place."""
    first = claim_of(ledger, list_tree(ledger, pair[0], "a"), "a")
    ledger.claims.settle([verified_end(first)])
    second = claim_of(ledger, list_tree(ledger, pair[1], "A"), "A")
    assert not second.twins and ledger.destinations.enter_folded(second) == ()


def test_the_names_of_another_tenant_stay_unknown(ledger: Ledger) -> None:
    first = claim_of(ledger, list_tree(ledger, SMALL, "a"), "a")
    ledger.claims.settle([verified_end(first)])
    second = claim_of(ledger, list_tree(ledger, LARGE, "A", tenant="acme"), "A")
    assert not second.twins and ledger.destinations.enter_folded(second) == ()


def test_the_same_name_is_no_twin(ledger: Ledger) -> None:
    ledger.claims.settle([verified_end(claim_of(ledger, list_tree(ledger, SMALL, "A"), "A"))])
    assert not claim_of(ledger, list_tree(ledger, LARGE, "A"), "A").twins


def test_a_name_that_arrived_since_its_twin_arrives_again(ledger: Ledger) -> None:
    """The source has renamed it, and a person has deleted it at the destination."""
    for spec, name in ((SMALL, "a"), (LARGE, "A")):
        ledger.claims.settle([verified_end(claim_of(ledger, list_tree(ledger, spec, name), name))])
    again = claim_of(ledger, list_tree(ledger, LARGE, "A"), "A")
    assert again.twins and ledger.destinations.enter_folded(again) == ()
    back = claim_of(ledger, list_tree(ledger, SMALL, "a"), "a")
    assert ledger.destinations.enter_folded(back) is None
    ledger.claims.settle([Settlement(again, "skipped")])
    assert ledger.destinations.enter_folded(back) == ("A",)


def test_an_object_at_a_link_of_another_command_is_known(ledger: Ledger) -> None:
    first = claim_of(ledger, list_tree(ledger, SMALL, "a"), "a")
    assert ledger.destinations.keep_link(first, "/a", "/apart/f", "/apart/f") == {}
    second = claim_of(ledger, list_tree(ledger, LARGE, "b"), "b")
    found = ledger.destinations.keep_link(second, "/b", "/apart/f", "/apart/f")
    assert found == {"a": "running"}
    error = {"code": "key-collision", "side": "destination", "detail": "no"}
    ledger.claims.settle([verified_end(first), Settlement(second, "failed", error=error)])
    again = claim_of(ledger, list_tree(ledger, SMALL, "a"), "a")
    assert ledger.destinations.keep_link(again, "/a", "/apart/f", "/apart/f") == {}, (
        "the other one was never sent"
    )


@pytest.mark.parametrize("end", ["queued", "failed", "cancelled", "lost"])
@pytest.mark.parametrize("exists", ["changed", "fail"])
def test_an_object_at_a_link_that_moves_again_is_known(
    open_ledger: Opened, end: str, exists: str
) -> None:
    """It has changed at the source: its older version is at the destination until the new one
    arrives."""
    ledger, other = open_ledger(), open_ledger()
    one = replace(SMALL, options={**SMALL.options, "if_exists": exists})
    id = list_tree(ledger, one, "a", "bad")
    claims = {claim.name: claim for claim in ledger.claims.claim(9)}
    ledger.destinations.keep_link(claims["a"], "/a", "/apart/f", "/apart/f")
    error = {"code": "not-found", "side": "source", "detail": "no"}
    ledger.claims.settle([verified_end(claims["a"]), Settlement(claims["bad"], "failed")])
    ledger.finish()
    ledger.list_again(id)
    listing = ledger.listings.claim(only=id)
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject(name, size=2) for name in ("a", "bad")], None)
    ledger.listings.end(listing)
    if end == "failed":
        claims = {claim.name: claim for claim in ledger.claims.claim(9)}
        failed = Settlement(claims["a"], "failed", error=error, untouched=True)
        ledger.claims.settle([failed, Settlement(claims["bad"], "failed", error=error)])
    elif end == "cancelled":
        ledger.act(id, "cancel")
    elif end == "lost":
        ledger.claims.claim(9)
        ledger.leases.renew(-1)
        other.leases.reclaim()
    (second,) = other.claims.claim(9, only=list_tree(other, LARGE, "b"))
    for tree in (None, "/to"):  # an upload, and a skip
        found = other.destinations.keep_link(second, "/b", "/apart/f", "/apart/f", tree)
        assert found == {"a": "unverified"}


def test_the_newest_siblings_are_compared(ledger: Ledger) -> None:
    ids = [list_tree(ledger, SMALL, "a") for _ in range(MOST + 2)]
    found = ledger.database.run(lambda c: siblings_of(c, ids[-1]))
    assert found == list(reversed(ids[1:-1]))


def test_a_page_without_siblings_costs_two_look_ups(ledger: Ledger) -> None:
    """By the index of the places: also if the tenant has many migrations."""
    for _ in range(3):
        list_tree(ledger, ELSEWHERE, "A")
    id = list_tree(ledger, SMALL, "a")
    with statements_of(ledger) as seen:
        assert ledger.database.run(lambda c: siblings_of(c, id)) == []
    assert len(seen) == 2
    if ledger.database.sqlite:
        sql, values = seen[1]
        plan = ledger.database.run(lambda c: _plan_of(c, sql, values))
        assert "migrations_by_place" in plan and "SCAN" not in plan, plan


def test_names_are_locked_before_the_rows_of_a_page(ledger: Ledger) -> None:
    """Two listings of one place would wait for each other's rows, if they list again; and each
    would miss the other's page, if it is the first of its migration."""
    id = list_tree(ledger, SMALL, "a")
    ledger.list_again(id, anyway=True)
    listing = ledger.listings.claim(only=id)
    assert listing is not None
    with statements_of(ledger) as seen:
        ledger.listings.add_page(listing, [ListedObject("a", size=2)], None)
    first = next(n for n, one in enumerate(seen) if "FROM transfers" in one.sql)
    locks = [n for n, one in enumerate(seen) if "pg_advisory_xact_lock" in one.sql]
    assert ledger.database.sqlite or len(locks) == 1 and locks[0] < first


def _plan_of(connection: Connection, sql: str, values: tuple[object, ...]) -> str:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
    return "\n".join(row.detail for row in rows)
