"""The state of an object that a migration inherits from another migration to the same destination
that may have left it unproved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.prior_state_values import PriorState
from relay.ledger.unproved import MAX_KNOWING, names_left
from relay.receipt import Version
from tests.ledgers import Opened, learn_empty, states, verified_end

OPTIONS = {"recursive": True, "if_exists": "changed"}
FIRST = Spec("a:photos", "b:photos", options=OPTIONS, secret={}, places=("a", "b"))
SECOND = replace(FIRST, options={**OPTIONS, "if_exists": "skip"})
NAMES = ("fresh", "noted", "handed", "arrived", "left", "killed")
THERE = Version(3, '"e"')
NOW = time.time()


def list_tree(ledger: Ledger, spec: Spec, names: tuple[str, ...] = NAMES) -> str:
    """Accept a tree, list it to its end, and return its id."""
    migration, new = ledger.create(spec, go_on=True)
    assert new
    listing = ledger.listings.claim(migration.id)
    assert listing is not None
    assert ledger.listings.add_page(listing, [ListedObject(name, size=5) for name in names], None)
    ledger.listings.end(listing)
    return migration.id


def lose_at_work(open_ledger: Opened, spec: Spec) -> Ledger:
    """Return a ledger in which the worker of a migration was lost in the middle of its work."""
    one, two = open_ledger(), open_ledger()
    id = list_tree(one, spec)
    learn_empty(one, id, True)  # then nothing need be recorded before bytes are sent
    claims = {claim.name: claim for claim in one.claims.claim(9, id)}
    one.destinations.note_prior_states(
        [
            (claims["noted"], PriorState(known=True, version=THERE)),
            (claims["arrived"], PriorState(known=True)),
        ]
    )
    remains = {"b/left": "What was sent may remain at b/left"}
    one.claims.settle(
        [
            Settlement(claims["fresh"], "failed"),
            Settlement(claims["handed"], "hand_back"),
            verified_end(claims["arrived"]),
            Settlement(claims["left"], "failed", remains=remains),
        ]
    )
    one.leases.renew(-1)
    two.leases.reclaim()
    two.leases.renew()
    return two


def claims_by_name(ledger: Ledger, id: str) -> dict[str, Claim]:
    return {claim.name: claim for claim in ledger.claims.claim(9, id)}


def test_possible_leftovers_are_inherited(open_ledger: Opened) -> None:
    ledger = lose_at_work(open_ledger, FIRST)
    claims = claims_by_name(ledger, list_tree(ledger, SECOND))
    assert {name: claim.fence for name, claim in claims.items() if claim.fence > 1} == {
        "noted": 2,
        "left": 2,
        "killed": 2,
    }
    noted, left, lost = (claims[name].before for name in ("noted", "left", "killed"))
    assert noted == PriorState(known=True, version=THERE)
    assert left is not None and lost is not None
    assert (left.known, lost.known) == (False, False)
    assert left.since is not None and left.since == lost.since
    assert claims["left"].remains == {"b/left": "What was sent may remain at b/left"}
    assert all(claims[name].before is None for name in ("fresh", "handed", "arrived"))


def test_equal_names_of_places_do_not_share_a_prior_state(
    open_ledger: Opened,
) -> None:
    """Since then a remote's endpoint, or the source, has changed."""
    ledger = lose_at_work(open_ledger, FIRST)
    claims = claims_by_name(ledger, list_tree(ledger, replace(SECOND, places=("a", "c"))))
    found = {name: claim.before for name, claim in claims.items() if claim.before is not None}
    assert found.keys() == {"noted", "left", "killed"}
    assert {(before.known, before.version, before.sent) for before in found.values()} == {
        (False, None, None)
    }


@pytest.mark.parametrize(
    ("destination", "places", "takes"),
    [
        ("b:x", ("a", "b"), True),
        ("b:x", ("c", "b"), True),
        ("b:f/", ("a", "b"), True),
        ("b:f/", ("c", "b"), False),
    ],
)
def test_a_single_object_takes_over_too(
    open_ledger: Opened, destination: str, places: tuple[str, str], takes: bool
) -> None:
    """Not that of another source, where its name at the destination is its source's."""
    one, two = open_ledger(), open_ledger()
    spec = Spec(
        "a:x", destination, options={"if_exists": "overwrite"}, secret={}, places=("a", "b")
    )
    first, _ = one.create(spec)
    assert one.claims.claim(1, first.id)
    one.leases.renew(-1)
    two.leases.reclaim()
    second, new = two.create(
        replace(spec, options={"if_exists": "skip"}, places=places), go_on=True
    )
    assert new
    (claim,) = two.claims.claim(1, second.id)
    assert (claim.fence, claim.attempts) == (2 if takes else 1, 1)
    assert (claim.before is not None and not claim.before.known) == takes


@pytest.mark.parametrize(
    "other",
    [
        {"options": {**OPTIONS, "if_exists": "overwrite"}},
        {"destination": "b:others", "places": ("a", "c")},
    ],
    ids=["an overwrite", "another destination"],
)
def test_an_overwrite_or_another_place_inherits_nothing(
    open_ledger: Opened, other: dict[str, Any]
) -> None:
    ledger = lose_at_work(open_ledger, FIRST)
    claims = claims_by_name(ledger, list_tree(ledger, replace(SECOND, **other)))
    assert {(claim.fence, claim.before) for claim in claims.values()} == {(1, None)}


def test_nothing_is_inherited_from_a_later_success(open_ledger: Opened) -> None:
    """It names neither the work of the newer migration nor earlier leftovers."""
    ledger = lose_at_work(open_ledger, FIRST)
    id = list_tree(ledger, SECOND)
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(9, id)])
    ledger.finish()
    assert ledger.migration(id).state == "succeeded"
    third = replace(SECOND, options={**OPTIONS, "if_exists": "fail"})
    claims = claims_by_name(ledger, list_tree(ledger, third))
    assert {(claim.fence, claim.before) for claim in claims.values()} == {(1, None)}


def test_the_newest_migration_to_start_an_object_decides(open_ledger: Opened) -> None:
    ledger = lose_at_work(open_ledger, FIRST)
    id = list_tree(ledger, SECOND)
    claims = ledger.claims.claim(9, id)
    ledger.claims.settle(
        [verified_end(c) if c.name == "noted" else Settlement(c, "hand_back") for c in claims]
    )
    third = replace(SECOND, options={**OPTIONS, "if_exists": "fail"})
    found = claims_by_name(ledger, list_tree(ledger, third))
    assert {name for name, claim in found.items() if claim.fence > 1} == {"left", "killed"}


def lose_worker(open_ledger: Opened, ledger: Ledger, claim: Claim) -> None:
    """Lose the worker that holds a claim."""
    ledger.leases.renew(0)
    open_ledger().leases.reclaim()


def fail_claim(open_ledger: Opened, ledger: Ledger, claim: Claim) -> None:
    """End a claim with a leftover at its place."""
    ledger.claims.settle(
        [Settlement(claim, "failed", remains={"b/a": "What was sent may remain at b/a"})]
    )


def hand_back_claim(open_ledger: Opened, ledger: Ledger, claim: Claim) -> None:
    """Record the prior state of a claim, and hand it back, as at Ctrl-C."""
    ledger.destinations.note_prior_states([(claim, PriorState(known=True))])
    ledger.claims.settle([Settlement(claim, "hand_back")])


@pytest.mark.parametrize("leave", [lose_worker, fail_claim, hand_back_claim])
@pytest.mark.parametrize("succeeds", [True, False])
def test_a_leftover_is_known_after_another_moved_the_object(
    open_ledger: Opened, leave: Callable[[Opened, Ledger, Claim], None], succeeds: bool
) -> None:
    """Two commands move it at the same time; the one that was accepted first claims it last."""
    one, two = open_ledger(), open_ledger()
    first = list_tree(
        one, replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"}), ("a", "b")
    )
    (mine,) = (claim for claim in one.claims.claim(9, first) if claim.name == "a")
    second = list_tree(two, FIRST, ("a",) if succeeds else ("a", "b"))
    two.claims.settle(
        [verified_end(claim) for claim in two.claims.claim(9, second) if claim.name == "a"]
    )
    two.finish()
    leave(open_ledger, one, mine)
    if not succeeds:
        two.act(second, "pause")  # its latest news do not concern this object
    (found,) = (
        claim
        for claim in two.claims.claim(9, list_tree(two, SECOND, ("a", "b")))
        if claim.name == "a"
    )
    assert found.before is not None


@pytest.mark.parametrize("succeeds", [True, False])
def test_an_arrival_by_a_fast_clock_hides_no_later_leftover(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, succeeds: bool
) -> None:
    """The clock was a day fast when an object arrived, and was set back before another command left
    an object there."""
    first = list_tree(ledger, FIRST, ("a",) if succeeds else ("a", "b"))
    with monkeypatch.context() as fast:
        fast.setattr(time, "time", lambda now=time.time: now() + 86400.0)
        ledger.claims.settle(
            [verified_end(claim) for claim in ledger.claims.claim(9, first) if claim.name == "a"]
        )
        ledger.finish()
    overwrites = replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"})
    (claim,) = ledger.claims.claim(9, list_tree(ledger, overwrites, ("a",)))
    ledger.claims.settle([Settlement(claim, "failed", remains={"b/a": "What was sent may remain"})])
    (found,) = ledger.claims.claim(9, list_tree(ledger, SECOND, ("a",)))
    assert found.before is not None


@pytest.mark.parametrize("succeeds", [True, False])
def test_an_arrival_before_a_slow_clock_hides_no_leftover(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, succeeds: bool
) -> None:
    """The machine has no clock of its own, and the network had not set it yet."""
    first = list_tree(ledger, FIRST, ("a",) if succeeds else ("a", "b"))
    ends = {"a": verified_end, "b": lambda claim: Settlement(claim, "failed")}
    ledger.claims.settle([ends[claim.name](claim) for claim in ledger.claims.claim(9, first)])
    ledger.finish()
    overwrites = replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"})
    with monkeypatch.context() as slow:
        slow.setattr(time, "time", lambda now=time.time: now() - 86400.0)
        (claim,) = ledger.claims.claim(9, list_tree(ledger, overwrites, ("a",)))
        ledger.claims.settle(
            [Settlement(claim, "failed", remains={"b/a": "What was sent may remain"})]
        )
    (found,) = ledger.claims.claim(9, list_tree(ledger, SECOND, ("a",)))
    assert found.before is not None
    if not succeeds:
        ledger.act(first, "retry")
        assert states(ledger, first) == ["queued", "queued"]


def arrive_and_fail(ledger: Ledger, spec: Spec) -> str:
    """Accept a tree in which one object arrives, and one fails."""
    id = list_tree(ledger, spec, ("a", "b"))
    ends = {"a": verified_end, "b": lambda claim: Settlement(claim, "failed")}
    ledger.claims.settle([ends[claim.name](claim) for claim in ledger.claims.claim(9, id)])
    ledger.finish()
    return id


@pytest.mark.parametrize("leave", [None, lose_worker, fail_claim])
def test_a_second_overwrite_of_an_arrival_is_not_skipped(
    open_ledger: Opened, leave: Callable[[Opened, Ledger, Claim], None] | None
) -> None:
    """It was gone from its destination, so the same command sends it again, and notes nothing."""
    one, two = open_ledger(), open_ledger()
    first = arrive_and_fail(one, replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"}))
    one.begin_again(first, [row.id for row in one.page(first) if row.name == "a"])
    one.act(first, "retry")
    (mine,) = (claim for claim in one.claims.claim(9, first) if claim.name == "a")
    if leave is not None:
        leave(open_ledger, one, mine)
    (found,) = two.claims.claim(9, list_tree(two, SECOND, ("a",)))
    assert found.before is not None and not found.before.known


def test_a_restarted_object_hides_no_leftover_of_others(open_ledger: Opened) -> None:
    """It has not been sent again so far."""
    one, two = open_ledger(), open_ledger()
    first = arrive_and_fail(one, FIRST)
    one.begin_again(first, [row.id for row in one.page(first) if row.name == "a"])
    one.act(first, "retry")
    assert len(one.claims.claim(9, first)) == 2
    overwrites = replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"})
    (claim,) = two.claims.claim(9, list_tree(two, overwrites, ("a",)))
    fail_claim(open_ledger, two, claim)
    (found,) = two.claims.claim(9, list_tree(two, SECOND, ("a",)))
    assert found.before is not None


@pytest.mark.parametrize("wish", ["changed", "skip", "overwrite"])
@pytest.mark.parametrize("again", ["command", "retry"])
@pytest.mark.parametrize("verb", ["unverified", "failed", "verified"])
def test_an_arrival_that_others_left_unproved_moves_again(
    ledger: Ledger, wish: str, again: str, verb: str
) -> None:
    """It may have the same length, so the destination does not show that it is another one."""
    id = arrive_and_fail(ledger, replace(FIRST, options={**OPTIONS, "if_exists": wish}))
    other = replace(FIRST, options={**OPTIONS, "if_exists": "overwrite", "verify": "size"})
    for claim in ledger.claims.claim(9, list_tree(ledger, other, ("a", "b", "c"))):
        remains = {} if verb == "verified" else {f"b/{claim.name}": "What was sent may remain"}
        ledger.claims.settle([Settlement(claim, verb, remains=remains)])
    ledger.finish()
    if again == "command":
        ledger.begin_again(id, [])
    ledger.act(id, "retry")
    if verb == "verified":
        assert states(ledger, id) == ["verified", "queued"]
        return
    assert states(ledger, id) == ["queued", "queued"]
    claims = ledger.claims.claim(9, id)
    assert all((claim.before is None) == (wish == "overwrite") for claim in claims)
    ledger.claims.settle([verified_end(claim) for claim in claims])
    ledger.begin_again(id, [])  # it has arrived since
    assert states(ledger, id) == ["verified", "verified"]


@pytest.mark.parametrize("leave", [None, lose_worker, fail_claim, hand_back_claim])
@pytest.mark.parametrize("wish", ["skip", "changed"])
def test_an_object_another_command_is_sending_is_not_skipped(
    open_ledger: Opened, wish: str, leave: Callable[[Opened, Ledger, Claim], None] | None
) -> None:
    """The other command started it after this one had listed it: the visible object is unproved,
    until the other command has proved it."""
    one, two = open_ledger(), open_ledger()
    id = list_tree(one, replace(FIRST, options={**OPTIONS, "if_exists": wish}), ("a", "b"))
    overwrites = replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"})
    (mine,) = two.claims.claim(9, list_tree(two, overwrites, ("a",)))
    claims = one.claims.claim(9, id)
    if leave is not None:
        leave(open_ledger, two, mine)
    assert not one.claims.settle([Settlement(claim, "skipped") for claim in claims])
    assert states(one, id) == ["queued", "skipped"]
    (claim,) = one.claims.claim(9, id)
    assert (claim.fence, claim.before is not None) == (2, True)
    assert not one.claims.settle([Settlement(claim, "skipped")])  # it has judged the object by that
    one.finish()
    assert one.migration(id).state == "succeeded"


def test_an_object_another_command_has_proved_is_skipped(ledger: Ledger) -> None:
    id = list_tree(ledger, SECOND, ("a",))
    claims = ledger.claims.claim(9, id)
    overwrites = replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"})
    ledger.claims.settle(
        [verified_end(claim) for claim in ledger.claims.claim(9, list_tree(ledger, overwrites))]
    )
    ledger.claims.settle([Settlement(claim, "skipped") for claim in claims])
    assert states(ledger, id) == ["skipped"]


def test_an_unsent_waiting_object_hides_nothing(open_ledger: Opened) -> None:
    one = open_ledger()
    first = list_tree(one, FIRST, ("a",))
    second = list_tree(one, replace(FIRST, options={**OPTIONS, "if_exists": "overwrite"}), ("a",))
    fail_claim(open_ledger, one, *one.claims.claim(1, second))
    (claim,) = one.claims.claim(1, first)
    one.claims.settle([Settlement(claim, "failed", unsent=True)])
    (found,) = one.claims.claim(1, list_tree(one, SECOND, ("a",)))
    assert found.before is not None


def test_a_retry_forgets_a_noted_entry_that_is_gone(ledger: Ledger) -> None:
    """A link that led nowhere was removed. A server's user has no command that lists again."""
    list_tree(ledger, FIRST, ("log",))
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([Settlement(claim, "unverified", bytes=5, level="size", sent=Version(5))])
    id = ledger.create(SECOND)[0].id
    refusal = {"code": "not-found", "side": "source", "detail": "a link"}

    def list_names(*page: ListedObject) -> list[str]:
        """List the tree to its end, move it, and return the states of its objects."""
        listing = ledger.listings.claim(id)
        assert listing is not None
        ledger.listings.add_page(listing, page, None)
        ledger.listings.end(listing)
        ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(9, id)])
        ledger.finish()
        return states(ledger, id)

    kept, link = ListedObject("kept", size=5), ListedObject("log", error=refusal)
    assert list_names(kept, link) == ["verified", "failed"]
    ledger.act(id, "retry")
    assert list_names(kept, link) == ["verified", "failed"]
    ledger.act(id, "retry")
    assert list_names(kept) == ["verified"]
    found = ledger.migration(id)
    assert (found.state, found.entries) == ("succeeded", 1)


def test_many_other_sources_hide_no_migration_of_the_same_places(open_ledger: Opened) -> None:
    ledger = lose_at_work(open_ledger, FIRST)
    for number in range(12):
        list_tree(ledger, replace(FIRST, places=(f"c{number}", "b")), ("x",))
    assert {
        claim.name for claim in ledger.claims.claim(9, list_tree(ledger, SECOND)) if claim.before
    } == {
        "noted",
        "left",
        "killed",
    }


def test_many_other_sources_hide_no_other_one_that_knows_the_object(open_ledger: Opened) -> None:
    """Folders that are put together in one."""
    ledger = lose_at_work(open_ledger, replace(FIRST, places=("other", "b")))
    for number in range(12):
        list_tree(ledger, replace(FIRST, places=(f"c{number}", "b")), (f"x{number}",))
    claims = ledger.claims.claim(9, list_tree(ledger, SECOND))
    assert {claim.name for claim in claims if claim.before} == {"noted", "left", "killed"}


def test_many_of_the_same_source_hide_no_later_one_of_another(open_ledger: Opened) -> None:
    """Each of a nightly migration had all objects but one."""
    earlier = open_ledger()
    for number in range(MAX_KNOWING + 1):
        nightly = replace(FIRST, options={**OPTIONS, "verify": f"{number}"})
        claims = earlier.claims.claim(9, list_tree(earlier, nightly))
        earlier.claims.settle([verified_end(claim) for claim in claims if claim.name != "noted"])
    ledger = lose_at_work(open_ledger, replace(FIRST, places=("other", "b")))
    claims = ledger.claims.claim(9, list_tree(ledger, SECOND))
    assert "left" in {claim.name for claim in claims if claim.before}


def test_a_migration_of_a_fast_clock_is_dated_back(
    open_ledger: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pieces would be older than its acceptance, and count as another writer's objects."""
    with monkeypatch.context() as fast:
        right = time.time
        earlier = open_ledger().create(replace(FIRST, places=("c", "d")))[0].created
        fast.setattr(time, "time", lambda: right() + 3 * 86400.0)
        lose_at_work(open_ledger, FIRST)
    later = open_ledger()
    later.leases.renew()
    claims = claims_by_name(later, list_tree(later, SECOND))
    found = [claims[name].before for name in ("left", "killed")]
    assert [was and was.since for was in found] == pytest.approx([earlier] * 2, abs=5)


@pytest.mark.parametrize("now", [3600.0, NOW - 3600.0], ids=["never set", "behind"])
def test_a_clock_that_is_behind_dates_no_migration_back(
    open_ledger: Opened, monkeypatch: pytest.MonkeyPatch, now: float
) -> None:
    """A small machine starts after a power cut, and has not reached its time server yet."""
    id = open_ledger().create(FIRST)[0].id
    with monkeypatch.context() as slow:
        slow.setattr(time, "time", lambda: now)
        open_ledger()
    assert open_ledger().migration(id).created >= NOW


@pytest.mark.parametrize("page", [[], [ListedObject("fresh", size=5)]])
def test_later_migrations_without_it_do_not_hide_a_leftover(
    open_ledger: Opened, page: list[ListedObject]
) -> None:
    """Their source did not answer, or denied a folder."""
    ledger = lose_at_work(open_ledger, FIRST)
    error = {"code": "connect-failed", "side": "source", "detail": "no", "hint": ""}
    for _ in range(10):
        id = ledger.create(FIRST)[0].id
        listing = ledger.listings.claim(id)
        assert listing is not None
        ledger.listings.add_page(listing, page, None)
        ledger.listings.end(listing, error)
        ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(9, id)])
        ledger.finish()
    claims = claims_by_name(ledger, list_tree(ledger, SECOND))
    assert {name for name, claim in claims.items() if claim.before} == {"noted", "left", "killed"}
    for claim in claims.values():
        ledger.claims.settle([Settlement(claim, "failed")])
    ledger.finish()
    assert unproved_names(ledger, id) >= {"noted", "left", "killed"}


def unproved_names(ledger: Ledger, id: str) -> set[str]:
    return ledger.database.run(lambda c: names_left(c, id), write=False)
