"""A saved plan fits as long as nothing changes, over every kind of store on either side: the
versions of listings, of HEAD, and of transfers are compared as each store shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relay.engine.decisions import PlanDecision, PlannedObject
from relay.engine.dry_run import DryRun
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Verify
from relay.engine.tree_listing import planned_object
from relay.engine.worker.conversions import hints_of_claim
from relay.errors import PlanStale
from relay.ledger.claim_values import Claim
from relay.location import Location
from relay.receipt import State
from relay.sorting.spill import SpillSpace
from relay.stores.local_locations import local_location
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.contract.moves import put
from tests.contract.test_true_plans import Rows

KINDS = (
    *("local", "seaweed", "webdav+wsgidav", "webdav+nginx", "nextcloud", "nginx"),
    pytest.param("swift", marks=pytest.mark.campaign),
)
FILES = {"a b": b"1234", "c/ä": b"x" * 3000, "empty": b"", "longer": b"12345"}
THERE = {"longer": b"1", "elsewhere": b"2"}
MOVED = (PlanDecision.COPY, PlanDecision.REPLACE)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plan_of(
    engine: Engine, folder: Path, source: Location, destination: Location
) -> tuple[MigrationJob, list[PlannedObject]]:
    """Return the decisions of a saved plan."""
    job = MigrationJob(
        id="plan",
        source=source.folder(),
        destination=destination.folder(),
        recursive=True,
        verify=Verify.AUTO,
        if_exists=IfExists.CHANGED,
    )
    sink = Rows()
    DryRun(
        job,
        engine.runner.stores,
        limits=engine.runner.limits,
        space=SpillSpace(folder / "runs", 1 << 20),
        sample=0,
        decides_all=True,
    ).run(sink)
    return job, sink.rows


def follow(engine: Engine, job: MigrationJob, one: PlannedObject) -> State:
    """Move one object of a plan, as a worker would that has claimed it."""
    listed = planned_object(one)
    assert listed.error is None
    claim = Claim(
        id=1,
        migration_id="plan",
        fence=1,
        name=listed.name,
        url=None,
        size=listed.size,
        etag=listed.etag,
        modified=listed.modified,
        attempts=1,
        crash_count=0,
        resent=0,
        planned=listed.planned,
    )
    transfer = engine.runner.transfer(job.plan(claim))
    known = hints_of_claim(claim)
    return engine.runner.run(replace(transfer, known=known, random=lambda: 0.05)).state


def fill(folder: Path, files: dict[str, bytes]) -> Location:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return local_location(folder, destination=False)


@pytest.mark.timeout(60)
def test_a_plan_to_each_store_fits(engine: Engine, place: Place, tmp_path: Path) -> None:
    source, there = fill(tmp_path / "from", FILES), place("tree/")
    for name, data in THERE.items():
        put(engine, there.folder().below(name, destination=True), data)
    job, rows = plan_of(engine, tmp_path, source, there)
    assert [row.decision for row in rows] == [*[PlanDecision.COPY] * 3, PlanDecision.REPLACE]
    for row in rows:
        assert follow(engine, job, row) is State.VERIFIED
    for row in rows[:3]:  # now it exists, and the plan has seen none
        with pytest.raises(PlanStale):
            follow(engine, job, row)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [one for one in KINDS if one != "webdav+nginx"], indirect=True)
def test_a_plan_from_each_store_fits(engine: Engine, place: Place, tmp_path: Path) -> None:
    """nginx lists nothing over WebDAV."""
    source = place("tree/").folder()
    for name, data in FILES.items():
        put(engine, source.below(name, destination=True), data)
    fill(tmp_path / "to", THERE)
    there = local_location(tmp_path / "to", destination=True)
    job, rows = plan_of(engine, tmp_path, source, there)
    assert {row.name for row in rows} == FILES.keys()
    put(engine, source.below("a b", destination=True), b"12345678")
    ends = {}
    for row in rows:
        try:
            ends[row.name] = follow(engine, job, row).value
        except PlanStale as error:
            ends[row.name] = f"{error.code} {error.side}"
    assert ends == {**dict.fromkeys(FILES, "verified"), "a b": "plan-stale source"}
