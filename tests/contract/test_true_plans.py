"""A plan is what its migration does: the same numbers of objects and bytes, over random pairs of
trees, and over every kind of store."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relay.engine.comparison import Compare
from relay.engine.decisions import PlanDecision, PlannedObject
from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Verify
from relay.errors import RelayError
from relay.ledger.listing_values import ListedObject
from relay.receipt import State
from relay.sorting.spill import SpillSpace
from relay.stores.local_locations import local_location
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.contract.moves import put

KINDS = ("local", "memory", "seaweed", "webdav+wsgidav")
NAMES = ("a-b", "a/b", "a.c", "b/ä", "b/c/d", "z z", "A1", "%41")
ENDS = {
    State.VERIFIED: "sent",
    State.UNVERIFIED: "sent",
    State.SKIPPED: "skip",
}
CHOICES = [
    *((exists, None) for exists in IfExists),
    *((IfExists.CHANGED, compare) for compare in Compare),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Rows:
    """The decisions of a plan."""

    def __init__(self) -> None:
        self.rows: list[PlannedObject] = []

    def add(self, one: PlannedObject) -> None:
        self.rows.append(one)

    def restart(self) -> None:
        self.rows.clear()


def some_trees(seed: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the objects of a source and of a destination; some are the same."""
    chance = random.Random(seed)

    def data() -> bytes:
        return chance.randbytes(chance.choice((0, 1, 7, 7, 7, 900)))

    source = {name: data() for name in NAMES if chance.random() < 0.8}
    there = {
        name: source.get(name, b"") if chance.random() < 0.4 else data()
        for name in NAMES
        if chance.random() < 0.6
    }
    return source, there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    return tmp_path


def job_of(folder: Path, place: Place, exists: IfExists, compare: Compare | None) -> MigrationJob:
    return MigrationJob(
        id="plan",
        source=local_location(folder / "from", destination=False).folder(),
        destination=place(f"{exists.value}{compare}/").folder(),
        recursive=True,
        verify=Verify.AUTO,
        if_exists=exists,
        compare=compare,
    )


def ends_of(engine: Engine, job: MigrationJob, names: Iterator[str]) -> dict[str, tuple[str, int]]:
    """Move each object; return how it ended, and its bytes."""
    found: dict[str, tuple[str, int]] = {}
    for name in names:
        plan = job.plan_of_listed(ListedObject(name))
        try:
            outcome = engine.runner.run(replace(engine.runner.transfer(plan), random=lambda: 0.05))
            found[name] = (ENDS[outcome.state], outcome.bytes)
        except RelayError as error:
            found[name] = (error.code, 0)
    return found


SEEDS = [
    *(1, 2),
    *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(3, 30)),
]
"""Each makes a pair of trees for each of the CHOICES; `make test-all` has a thousand pairs."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_is_what_its_migration_does(
    engine: Engine, place: Place, folder: Path, seed: int
) -> None:
    for number, (exists, compare) in enumerate(CHOICES):
        source, there = some_trees(100 * seed + number)
        shutil.rmtree(folder / "from")
        (folder / "from").mkdir()
        for name, data in source.items():
            path = folder / "from" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        job = job_of(folder, place, exists, compare)
        for name, data in there.items():
            put(engine, job.destination.below(name, destination=True), data)
        sink = Rows()
        dry_run = DryRun(
            job,
            engine.runner.stores,
            limits=engine.runner.limits,
            space=SpillSpace(folder / "runs", 1 << 20, held_rows=3),
            sample=0,
            decides_all=True,
        )
        report = dry_run.run(sink)
        assert not report.incomplete
        rows = {one.name: one for one in sink.rows}
        assert list(rows) == sorted(rows, key=str.encode)
        assert rows.keys() == source.keys()
        expected = {
            name: {
                PlanDecision.COPY: "sent",
                PlanDecision.REPLACE: "sent",
                PlanDecision.SKIP: "skip",
            }.get(one.decision, one.basis)
            for name, one in rows.items()
        }
        planned_bytes = sum(
            one.source.size or 0
            for one in rows.values()
            if one.decision in (PlanDecision.COPY, PlanDecision.REPLACE)
        )
        ends = ends_of(engine, job, iter(source))
        assert {name: end for name, (end, _) in ends.items()} == expected, (exists, compare)
        assert sum(size for end, size in ends.values() if end == "sent") == planned_bytes
        counts = Counter(one.decision for one in rows.values())
        shown = Counter({name: len(names) for name, names in report.first.items()})
        assert shown == counts
    assert not list((folder / "runs").iterdir())
