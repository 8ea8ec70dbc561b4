"""The generator: the same seed is the same case, and each pair of habits is met."""

from __future__ import annotations

from simulators.liars.habits import BY_NAME, HABITS
from tests.torture.cases import HONEST, draw, meet, pairs


def test_a_seed_is_one_case() -> None:
    assert [draw(seed) for seed in range(40)] == [draw(seed) for seed in range(40)]
    assert draw(1) != draw(2)


def test_each_pair_of_habits_is_drawn_within_as_many_seeds_as_there_are_pairs() -> None:
    last = len(pairs()) * HONEST // (HONEST - 1) + 1
    drawn = {
        frozenset(pair)
        for seed in range(1, last)
        for traits in [draw(seed).traits]
        for pair in zip(traits, traits[1:], strict=False)
    }
    assert {frozenset(pair) for pair in pairs()} <= drawn


def test_no_store_has_two_habits_of_one_group_or_one_that_is_not_its_own() -> None:
    for seed in range(300):
        case = draw(seed)
        for role, store in (("source", case.source), ("destination", case.destination)):
            habits = [BY_NAME[name] for name in case.habits(role)]
            assert all(store in habit.stores and role in habit.roles for habit in habits)
            assert len({habit.group for habit in habits}) == len(habits)


def test_some_seeds_are_honest() -> None:
    assert all(not draw(seed).traits for seed in range(0, 60, HONEST))


def test_a_pair_of_one_group_is_met_at_two_stores_alone() -> None:
    one, two = (habit for habit in HABITS if habit.name in ("head-403", "head-405"))
    assert meet(("source", one), ("destination", two))
    assert not meet(("source", one), ("source", two))
