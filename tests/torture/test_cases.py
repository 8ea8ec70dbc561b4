"""The generator: the same seed is the same case, and each pair of habits is met."""

from __future__ import annotations

from itertools import combinations

from simulators.liars.habits import BY_NAME
from tests.torture.cases import HONEST, draw, pairs, together


def test_a_seed_is_one_case() -> None:
    assert [draw(seed) for seed in range(40)] == [draw(seed) for seed in range(40)]
    assert draw(1) != draw(2)


def test_each_pair_of_habits_is_drawn_in_a_full_run() -> None:
    drawn = {
        frozenset(two) for seed in range(1, 5001) for two in combinations(draw(seed).traits, 2)
    }
    assert set(pairs()) <= drawn


def test_no_store_has_two_habits_of_a_group_or_a_foreign_one() -> None:
    for seed in range(300):
        case = draw(seed)
        for role, store in (("source", case.source), ("destination", case.destination)):
            habits = [BY_NAME[name] for name in case.habits(role)]
            assert all(store in habit.stores and role in habit.roles for habit in habits)
            assert len({habit.group for habit in habits}) == len(habits)


def test_some_seeds_are_honest() -> None:
    assert all(not draw(seed).traits for seed in range(0, 60, HONEST))


def test_habits_of_one_group_meet_only_at_different_stores() -> None:
    assert together((("source", "head-403"), ("destination", "head-405")))
    assert not together((("source", "head-403"), ("source", "head-405")))
    assert not together(
        (("source", "redirects"), ("source", "clock-skew"))
    )  # one belongs to plain HTTP, one to S3
