"""An unproved state of an object passes to the next migration to the same place, until it has
arrived."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, event

from relay.engine.worker.conversions import hints_of_claim
from relay.ledger import unproved
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.prior_state_values import PriorState
from relay.receipt import Version
from tests.ledgers import Opened, verified_end

THERE = Version(5, '"x"', "Sun, 15 Jun 2025 15:06:40 GMT")
UNPROVED = PriorState(known=False, sent=THERE, remains={"b": "something"})
OLD = PriorState(known=True, version=Version(3, '"old"'))
FAILED: dict[str, Any] = {"error": {"code": "x", "side": "source", "detail": "no"}}


def accept(
    ledger: Ledger, wish: str = "changed", *, verify: str = "auto", owner: str = "me"
) -> str:
    """Accept a migration of one object."""
    options = {"recursive": False, "if_exists": wish, "verify": verify}
    return ledger.create(
        Spec("a", "b", options=options, secret={}, places=("a", "b"), owners=(owner, owner))
    )[0].id


def claim(ledger: Ledger, id: str) -> Claim:
    (found,) = ledger.claims.claim(1, only=id)
    return found


def prior_state(found: Claim) -> PriorState | None:
    """Return the claim's knowledge, except for the time at which its migration was accepted."""
    return found.before and replace(found.before, since=None)


def end(ledger: Ledger, found: Claim, verb: str, **more: Any) -> None:
    ledger.claims.settle(
        [verified_end(found) if verb == "verified" else Settlement(found, verb, **more)]
    )
    ledger.finish()


def end_unverified(ledger: Ledger, id: str) -> None:
    end(ledger, claim(ledger, id), "unverified", remains=UNPROVED.remains, sent=THERE)


@pytest.mark.parametrize("wish", ["changed", "skip", "fail"])
@pytest.mark.parametrize("first", ["changed", "overwrite"])
def test_an_unverified_object_and_its_name_are_known_later(
    ledger: Ledger, first: str, wish: str
) -> None:
    """With any options, and by any account; from then on it is in its own row."""
    end_unverified(ledger, accept(ledger, first, verify="size"))
    id = accept(ledger, wish, owner="another")
    for _ in range(2):
        found = claim(ledger, id)
        assert prior_state(found) == UNPROVED
        assert found.fence > 1  # as if it had started
        end(ledger, found, "hand_back")


def test_the_next_attempt_knows_notes_before_a_failure(ledger: Ledger) -> None:
    found = claim(ledger, accept(ledger))
    ledger.destinations.note_prior_states([(found, OLD)])
    end(ledger, found, "failed", **FAILED)
    assert prior_state(claim(ledger, accept(ledger))) == OLD


@pytest.mark.parametrize("verb", ["verified", "skipped"])
def test_an_arrived_object_is_not_unproved(ledger: Ledger, verb: str) -> None:
    end_unverified(ledger, accept(ledger))
    end(ledger, claim(ledger, accept(ledger)), verb)
    assert claim(ledger, accept(ledger)).before is None


@pytest.mark.parametrize(("later", "ahead"), [(True, 0.0), (True, 3600.0), (False, 0.0)])
def test_a_skip_after_a_sent_version_asks_about_others(
    open_ledger: Opened, monkeypatch: pytest.MonkeyPatch, later: bool, ahead: float
) -> None:
    """The object that is there is another one, and may be what the other migration left."""
    one, two = open_ledger(), open_ledger()
    id, other = accept(two, "skip"), accept(two, "overwrite")

    def lose_other() -> None:
        one.leases.renew()
        claim(one, other)
        one.leases.renew(0)
        two.leases.reclaim()

    if not later:
        lose_other()
    with monkeypatch.context() as fast:  # the clock is set back after it
        clock = time.time
        fast.setattr(time, "time", lambda: clock() + ahead)
        end_unverified(two, id)
    if later:
        lose_other()
    two.act(id, "retry")
    found = claim(two, id)
    assert found.before is not None and found.before.sent == THERE
    two.claims.settle([Settlement(found, "skipped")])
    assert [row.state for row in two.page(id)] == ["queued" if later else "skipped"]
    if later:
        found = claim(two, id)
        assert prior_state(found) == PriorState(known=False, remains=UNPROVED.remains)
        two.claims.settle([Settlement(found, "skipped")])
        assert [row.state for row in two.page(id)] == ["skipped"]


@pytest.mark.parametrize(
    ("verb", "arrived"), [("verified", True), ("skipped", True), ("failed", False)]
)
def test_an_orphan_knows_what_arrived_in_another_migration(
    open_ledger: Opened, verb: str, arrived: bool
) -> None:
    """The object at its place may be the other one's."""
    one, two = open_ledger(), open_ledger()
    id = accept(one, "overwrite")
    claim(one, id)
    one.leases.renew(0)
    two.leases.reclaim()
    end(two, claim(two, accept(two, "skip")), verb, **(FAILED if verb == "failed" else {}))
    two.act(id, "cancel")
    (orphan,) = two.destinations.orphans(id)
    assert orphan.before is not None
    assert orphan.before.arrived == arrived


def test_a_failure_without_sent_bytes_hides_nothing(ledger: Ledger) -> None:
    end_unverified(ledger, accept(ledger))
    for _ in range(2):
        failed = claim(ledger, accept(ledger, "overwrite"))
        assert failed.before is None  # everything is overwritten, so a prior object does not matter
        end(ledger, failed, "failed", **FAILED)
    assert prior_state(claim(ledger, accept(ledger))) == UNPROVED


def test_an_unproved_name_may_have_been_sent_before(
    ledger: Ledger,
) -> None:
    id = ledger.create(
        Spec(
            "a", "b", options={"recursive": True, "if_exists": "skip"}, secret={}, places=("a", "b")
        )
    )[0].id
    listing = ledger.listings.claim(only=id)
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject(name, size=5) for name in ("name", "Name", "plain")], "z"
    )
    assert [hints_of_claim(found).begun for found in ledger.claims.claim(9, only=id)] == [False] * 3
    ledger.claims.release_unknown(())  # as after a failure: the last claims may be forgotten
    ledger.claims.release_unknown(())
    assert [hints_of_claim(found).begun for found in ledger.claims.claim(9, only=id)] == [True] * 3


def test_a_tree_knows_an_unproved_object_by_name(ledger: Ledger) -> None:
    """Nothing is known of an object that arrived, that failed before it sent anything, or that is
    new."""
    for verify, names in (("auto", "abc"), ("size", "abcd")):
        options = {"recursive": True, "if_exists": "changed", "verify": verify}
        id = ledger.create(Spec("a", "b", options=options, secret={}, places=("a", "b")))[0].id
        listing = ledger.listings.claim(only=id)
        assert listing is not None
        ledger.listings.add_page(listing, [ListedObject(name, size=5) for name in names], names[-1])
        ledger.listings.end(listing)
        claims = {found.name: found for found in ledger.claims.claim(9, only=id)}
        if verify == "auto":
            end(ledger, claims["a"], "unverified", remains=UNPROVED.remains, sent=THERE)
            end(ledger, claims["b"], "verified")
            end(ledger, claims["c"], "failed", **FAILED)
    assert {name: prior_state(found) for name, found in claims.items()} == {
        "a": UNPROVED,
        "b": None,
        "c": None,
        "d": None,
    }


# -- how they are found


@pytest.mark.parametrize("is_older", [True, False])
def test_the_migrations_of_one_destination_are_found_by_an_index(
    ledger: Ledger, is_older: bool
) -> None:
    """Also for a URL that no B-tree of PostgreSQL accepts; in the row of an older relay by the
    printed destination."""
    long = Spec(
        "a",
        f"https://b/{random_text(6000)}",
        options={"if_exists": "skip"},
        secret={},
        places=("a", "b"),
        place=None if is_older else ("b", f"/{random_text(6000)}"),
    )
    id = ledger.create(long)[0].id
    plans: list[str] = []

    def explain(
        connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> None:
        if "destination_empty" in statement and "EXPLAIN" not in statement:
            plan = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
            plans.append(str(connection.exec_driver_sql(plan + statement, parameters).all()))

    def others(connection: Connection) -> None:
        if connection.dialect.name != "sqlite":
            connection.exec_driver_sql(
                "SET LOCAL enable_seqscan = off"
            )  # which is the quickest for a few rows
        event.listen(connection, "before_cursor_execute", explain)
        try:
            unproved.find_unproved(connection, id, "skip", ["x"])
        finally:
            event.remove(connection, "before_cursor_execute", explain)

    ledger.database.run(others, write=False)
    one = r"migrations_by_destination\b" if is_older else r"migrations_by_place\b"
    assert any(re.search(one, plan) and "migrations_by_places" in plan for plan in plans), plans
    assert not any("SCAN migrations" in plan for plan in plans), plans


def random_text(length: int) -> str:
    """Return a text that no compression makes shorter than a page of an index."""
    return Random(1).randbytes(length // 2).hex()  # noqa: S311 - the same each time
