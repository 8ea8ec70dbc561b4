"""A dry run in numbers: what becomes of all objects by a sample of them, and the requests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.engine.decisions import Amount, DryRunReport, PlanDecision
from relay.engine.plan import IfExists
from relay.engine.request_counts import ExpectedWork, expected_requests
from relay.ledger.sample_values import Sample
from relay.receipt import Level
from relay.views.dry_runs import decisions_of, is_estimated, time_members
from tests.unit.test_page_words import TREE

WORK = ExpectedWork(
    source="s3",
    destination="s3",
    listed=412_908,
    copied=412_517,
    parted=0,
    parts=0,
    looks=False,
    level=Level.WHOLE_DIGEST,
    copies=False,
)


def report(objects: int, size: int, refused: int = 0, **answers: int) -> DryRunReport:
    """Return a report with these numbers of compared objects of 10 bytes by answer; those of the
    answer `declined` would be refused."""
    declined = answers.pop("declined", 0)
    made = DryRunReport(objects=objects, bytes=size, refused=refused + declined)
    made.decided = {name: Amount(count, 10 * count) for name, count in answers.items()}
    made.declined = Amount(declined, 10 * declined)
    return made


def numbers(found: dict[str, Amount]) -> dict[str, int]:
    """Return the numbers of objects."""
    return {name: amount.objects for name, amount in found.items()}


@pytest.mark.parametrize(
    ("if_exists", "expected"),
    [
        (IfExists.CHANGED, {"copy": 5, "skip": 3, "replace": 2, "unknown": 1, "refuse": 3}),
        (IfExists.OVERWRITE, {"copy": 5, "replace": 5, "unknown": 1, "refuse": 3}),
        (IfExists.SKIP, {"copy": 5, "skip": 5, "unknown": 1, "refuse": 3}),
        (IfExists.FAIL, {"copy": 5, "unknown": 1, "refuse": 8}),
    ],
)
def test_each_object_has_one_decision(if_exists: IfExists, expected: dict[str, int]) -> None:
    """Also the two that were refused by their entry in the listing."""
    made = report(12, 120, 2, new=5, unchanged=3, differs=2, unknown=1, declined=1)
    assert numbers(decisions_of(if_exists, made)) == expected


def test_a_sample_stands_for_all() -> None:
    made = report(10_000, 10**9, new=990, unchanged=9, declined=1)
    found = decisions_of(IfExists.CHANGED, made)
    assert numbers(found) == {"copy": 9900, "skip": 90, "refuse": 10}
    assert found["copy"].bytes == 990_000_000
    nothing = report(7, 70)
    assert numbers(decisions_of(IfExists.CHANGED, nothing)) == {"unknown": 7}
    assert decisions_of(IfExists.CHANGED, report(0, 0)) == {}


def test_the_listings_decide_about_most_objects() -> None:
    """The others have the shares of their sample, and a source that refuses some objects of a
    sample will refuse others."""
    made = report(10_000, 10**9, new=90, unchanged=10)
    assert is_estimated(made)
    made.exact = {PlanDecision.COPY: Amount(9900, 9 * 10**8)}
    assert not is_estimated(made)
    made.described, made.undescribed = Amount(100, 0), Amount(1, 0)
    made.refused += 1
    assert is_estimated(made)
    found = decisions_of(IfExists.CHANGED, made)
    assert numbers(found) == {"copy": 9900 - 99 + 90, "skip": 10, "refuse": 99}
    assert sum(amount.bytes for amount in found.values()) == 10**9


@given(
    st.integers(1, 10**7),
    st.integers(0, 10**15),
    st.integers(0, 9),
    st.dictionaries(
        st.sampled_from(["new", "unchanged", "differs", "unknown", "declined"]),
        st.integers(0, 1000),
    ),
)
def test_the_decisions_add_up(
    objects: int, size: int, refused: int, answers: dict[str, int]
) -> None:
    made = report(max(objects, sum(answers.values())), size, refused, **answers)
    found = decisions_of(IfExists.CHANGED, made)
    assert sum(numbers(found).values()) == made.objects + refused
    if made.objects:
        assert sum(amount.bytes for amount in found.values()) == size


@pytest.mark.parametrize(
    ("change", "requests"),
    [
        ({}, 413 + 2 * 412_517),
        ({"looks": True}, 413 + 2 * 412_517 + 412_908),
        ({"level": Level.READ_BACK}, 413 + 3 * 412_517),
        ({"destination": "webdav"}, 413 + 3 * 412_517),
        ({"source": "local"}, 412_517),
        ({"source": "local", "destination": "local"}, 0),
        ({"copies": True}, 413 + 412_517),
        ({"copied": 1, "parted": 1, "parts": 7}, 413 + 8 + 9),
        ({"listed": 0, "copied": 0}, 1),
    ],
)
def test_the_requests_of_a_migration(change: dict[str, object], requests: int) -> None:
    assert expected_requests(replace(WORK, **change)) == requests  # type: ignore[arg-type]


def test_the_time_is_that_of_an_earlier_migration() -> None:
    """One object a slot-second, in two slots."""
    samples = [
        Sample(
            at=10 * number,
            seconds=10,
            moved=0,
            read_back=0,
            objects=20 * number,
            slot_seconds={"piping": 20.0},
        )
        for number in range(1, 8)
    ]
    decisions = {"copy": {"objects": 900, "bytes": 0}, "replace": {"objects": 100, "bytes": 0}}
    found = time_members(
        {**decisions, "skip": {"objects": 9, "bytes": 9}}, [(TREE, samples[:2]), (TREE, samples)]
    )
    assert found is not None and found["about"] == pytest.approx(500, rel=0.02)
    assert found["low"] <= found["about"] <= found["high"] and found["migration"] == TREE.name
    assert found["p50"] == pytest.approx(500, rel=0.02) and found["p90"] >= found["p50"]
    assert time_members(decisions, []) is time_members(decisions, [(TREE, samples[:2])]) is None
