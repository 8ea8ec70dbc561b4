"""Whether one 401 concerns one object, or the credentials of all."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from relay.engine.worker.refusals import (
    MAX_AGAIN_SECONDS,
    NEEDS,
    PATIENCE,
    Need,
    RefusalHistory,
    Verdict,
)
from relay.ledger.claim_values import Claim
from tests.values import claim_of

OWN, LATER, ALL = Verdict.OWN, Verdict.LATER, Verdict.ALL


def claim(id: int, renewed: int = 0, migration: str = "m") -> Claim:
    return claim_of(f"n{id}", id=id, migration_id=migration, renewed=renewed)


class Door:
    """Refusals with a clock of their own."""

    def __init__(self) -> None:
        self.now, self.busy = 0.0, False
        self.running: set[int] = set()
        self.need: Need = "destination"
        self.refusals = RefusalHistory(lambda: self.now)

    def refuse(self, id: int, renewed: int = 0) -> Verdict:
        self.now += 1
        return self.refusals.judge(
            claim(id, renewed),
            self.need,
            lambda refused: self.busy or bool(self.running - {*refused}),
        )

    def seconds_to_wait(self, id: int) -> float:
        return self.refusals.seconds_to_wait(claim(id), lambda _: self.busy)

    def let_in(
        self,
        began: float | None = None,
        renewed: int = 0,
        id: int = 1000,
        given: Collection[Need] = NEEDS,
    ) -> None:
        self.now += 1
        began = self.now if began is None else began
        self.refusals.note_success(claim(id, renewed), began, given)


@pytest.fixture
def door() -> Door:
    return Door()


def test_a_denial_among_permitted_objects_is_its_own(door: Door) -> None:
    assert door.refuse(1) is LATER
    door.let_in()
    assert door.refuse(1) is OWN


def test_a_decided_refusal_is_forgotten(door: Door) -> None:
    """Else a server would keep an entry for each object that was ever refused."""
    assert door.refuse(99) is LATER
    door.let_in(id=99)
    assert door.refuse(1) is LATER
    door.let_in()
    assert door.refuse(1) is OWN
    assert not door.refusals._waiting


def test_an_earlier_permission_proves_nothing(door: Door) -> None:
    """A large upload that started before the credentials were withdrawn, and succeeds after
    that."""
    began = door.now
    assert door.refuse(1) is LATER
    door.let_in(began)
    assert door.refuse(1) is ALL


def test_a_denial_without_other_objects_counts_for_all(door: Door) -> None:
    assert [door.refuse(1), door.refuse(1)] == [LATER, ALL]


def test_a_denial_is_undecided_while_others_run(door: Door) -> None:
    door.busy = True
    assert [door.refuse(1) for _ in range(5)] == [LATER] * 5
    door.busy = False
    assert door.refuse(1) is ALL


def test_a_run_of_denials_counts_for_the_migration(door: Door) -> None:
    door.busy = True
    assert [door.refuse(id) for id in range(PATIENCE)] == [LATER] * (PATIENCE - 1) + [ALL]


def test_denials_among_successes_fail_their_objects_alone(door: Door) -> None:
    for id in range(100):
        assert door.refuse(id) is LATER
        door.let_in()
        assert door.refuse(id) is OWN


def test_denials_are_counted_for_each_credential(door: Door) -> None:
    assert door.refuse(1) is LATER
    door.let_in()
    assert door.refuse(1, renewed=1) is LATER
    assert door.refuse(1, renewed=1) is ALL


@pytest.mark.parametrize("count", range(2, PATIENCE))
def test_refused_objects_do_not_wait_for_each_other(door: Door, count: int) -> None:
    """Their attempts overlap, so that another one always runs when one is refused."""
    door.running = set(range(count))
    assert [door.refuse(id) for id in range(count)] == [LATER] * count
    assert door.refuse(0) is ALL


def test_a_refusal_waits_for_a_transfer_that_runs(door: Door) -> None:
    door.running = {2}
    assert [door.refuse(1) for _ in range(9)] == [LATER] * 9
    door.running.clear()
    assert door.refuse(1) is ALL


def test_the_delay_of_a_refused_object_grows(door: Door) -> None:
    """A store may refuse it after its last byte, while a large one moves for hours."""
    door.busy, tries, claims = True, 0, 0
    until = door.now + 10 * 3600
    while door.now < until:
        wait, claims = door.seconds_to_wait(1), claims + 1
        assert wait <= MAX_AGAIN_SECONDS
        if not wait:
            door.refuse(1)
            wait, tries = 1, tries + 1
        door.now += wait
    assert 10 < tries < 20
    assert claims < 1500


def test_a_decided_case_is_retried_at_once(door: Door) -> None:
    door.busy = True
    for _ in range(5):
        door.refuse(1)
    assert door.seconds_to_wait(1) > 1
    assert door.seconds_to_wait(2) == 0
    door.let_in()
    assert door.seconds_to_wait(1) == 0


@pytest.mark.parametrize("need", NEEDS)
def test_a_transfer_without_the_need_proves_nothing(door: Door, need: Need) -> None:
    """A skipped object was not sent, and an empty one needs no space."""
    door.need = need
    assert door.refuse(1) is LATER
    door.let_in(given=[other for other in NEEDS if other != need])
    assert door.refuse(1) is ALL
