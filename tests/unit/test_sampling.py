"""Samples: the choice depends on the seed and the names alone, and the statement is true."""

from __future__ import annotations

import random

import pytest

from relay.engine.sampling import NameSample, beta_quantile, sample_number, sample_size
from relay.sorting.rows import TreeRow
from relay.views.sample_statements import sample_members, sample_statement

NAMES = [f"photos/{number:04}.jpg" for number in range(400)]


def sample_of(names: list[str], size: int, seed: str) -> NameSample:
    sample = NameSample(size, seed, confidence=0.95)
    for name in names:
        row = TreeRow(name)
        sample.offer((row, row))
    return sample


def chosen(sample: NameSample) -> list[str]:
    return [row.name for row, _ in sample.chosen() if row is not None]


@pytest.mark.parametrize(
    ("confidence", "defects", "size"), [(0.99, 1e-4, 46_050), (0.95, 1e-3, 2_995), (0.5, 0.5, 1)]
)
def test_the_size_of_a_sample(confidence: float, defects: float, size: int) -> None:
    assert sample_size(confidence, defects) == size


def test_anybody_with_the_seed_finds_the_same_names() -> None:
    shuffled = random.Random(1).sample(NAMES, len(NAMES))
    one, other = sample_of(NAMES, 30, "s"), sample_of(shuffled, 30, "s")
    below = [name for name in NAMES if sample_number(b"s", name.encode()) < one.threshold]
    assert chosen(one) == chosen(other) == below and len(below) == 30
    assert one.threshold == other.threshold
    assert chosen(sample_of(NAMES, 30, "t")) != below
    whole = sample_of(NAMES, 400, "s")
    assert chosen(whole) == NAMES and whole.threshold == 1 << 256


def test_defects_are_found_as_often_as_stated() -> None:
    """2,000 trials: a share of defects that a clean sample refutes is found that often."""
    size = sample_size(0.95, 0.05)
    bad = frozenset(random.Random(2).sample(NAMES, 20))
    misses = sum(
        bad.isdisjoint(chosen(sample_of(NAMES, size, str(trial)))) for trial in range(2000)
    )
    assert misses <= 100


def test_the_interval_has_the_share_as_often_as_stated() -> None:
    bad = frozenset(random.Random(3).sample(NAMES, 40))
    outside = 0
    for trial in range(400):
        sample = sample_of(NAMES, 60, f"i{trial}")
        sample.examined = 60
        sample.defects = len(bad.intersection(chosen(sample)))
        _, low, high = sample.interval
        outside += not low <= 0.1 <= high
    assert outside <= 20


@pytest.mark.parametrize(
    ("probability", "a", "b", "value"),
    [
        (0.025, 1, 100, 0.000253),
        (0.975, 2, 99, 0.054459),
        (0.025, 5, 46, 0.033275),
        (0.975, 6, 45, 0.218135),
    ],
)
def test_quantiles_of_tables(probability: float, a: float, b: float, value: float) -> None:
    assert beta_quantile(probability, a, b) == pytest.approx(value, abs=2e-6)


def test_what_a_sample_states() -> None:
    sample = sample_of(NAMES, 60, "seed")
    sample.examined = 60
    how = "(sample of 60 of the 400 objects that listings do not decide, seed seed)"
    assert sample_statement(sample) == (
        f"with 95 % confidence fewer than 4.88 % of the objects differ {how}"
    )
    sample.defects = 3
    assert sample_statement(sample) == (
        f"about 5 % of the objects differ, with 95 % confidence 1.04 % to 14 % {how}"
    )
    members = sample_members(sample)
    assert members["fewer_than"] is None and members["share"] == 0.05
    sample.defects, sample.unproved = 0, 1
    assert sample_statement(sample).startswith("nothing is proved: 1 objects")
    whole = sample_of(NAMES, 1000, "seed")
    whole.examined = 400
    assert sample_statement(whole).startswith("all of the 400 objects")
    assert sample_members(whole)["fewer_than"] == 0.0
    assert "nothing was left" in sample_statement(NameSample(5, "s"))
