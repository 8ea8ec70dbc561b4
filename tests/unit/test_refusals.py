"""Whether one 401 concerns one object, or the credentials of all."""

from __future__ import annotations

import pytest

from relay.engine.worker.refusals import PATIENCE, RefusalHistory, Verdict
from relay.ledger.rows import Claim
from tests.values import claim_of

OWN, LATER, ALL = Verdict.OWN, Verdict.LATER, Verdict.ALL


def claim(id: int, renewed: int = 0, migration: str = "m") -> Claim:
    return claim_of(f"n{id}", id=id, migration_id=migration, renewed=renewed)


class Door:
    """Refusals with a clock of their own."""

    def __init__(self) -> None:
        self.now, self.busy = 0.0, False
        self.refusals = RefusalHistory(lambda: self.now)

    def refuse(self, id: int, renewed: int = 0) -> Verdict:
        self.now += 1
        return self.refusals.judge(claim(id, renewed), lambda _: self.busy)

    def let_in(self, began: float | None = None, renewed: int = 0, id: int = 1000) -> None:
        self.now += 1
        self.refusals.note_success(claim(id, renewed), self.now if began is None else began)


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
