"""The corruption matrix: whatever happened to an object is found, over every kind of store, on real
servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.engine.comparison_report import Reads
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Verify
from relay.engine.tree_comparison import TreeComparison
from relay.sorting.spill import SpillSpace
from relay.stores.local_locations import local_location
from tests.conftest import Engine
from tests.contract.conftest import Place
from tests.contract.moves import put

KINDS = (
    *("local", "memory", "seaweed", "webdav+wsgidav"),
    pytest.param("swift", marks=pytest.mark.campaign),
)
GOOD, OTHER = os.urandom(20_000), os.urandom(20_000)
PLANTED: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "empty": (b"", b"", "same"),
    "f/good é": (GOOD, GOOD, "same"),
    "f-extra": (None, GOOD, "extra"),
    "flipped": (GOOD, GOOD[:7000] + bytes([GOOD[7000] ^ 1]) + GOOD[7001:], "differs"),
    "missing": (GOOD, None, "missing"),
    "stale": (GOOD, OTHER, "differs"),
    "swapped/1": (GOOD, OTHER, "differs"),
    "swapped/2": (OTHER, GOOD, "differs"),
    "truncated": (GOOD, GOOD[:-1], "differs"),
    "zero-tailed": (GOOD, GOOD[:-512] + bytes(512), "differs"),
}
"""The content of each object at the source and at the destination, and its verdict."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.timeout(120)
def test_every_fault_is_found(engine: Engine, place: Place, tmp_path: Path) -> None:
    """Without reading, nothing that differs counts as the same."""
    for name, (ours, theirs, _) in PLANTED.items():
        if ours is not None:
            (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "from" / name).write_bytes(ours)
        if theirs is not None:
            put(engine, place("tree/").folder().below(name, destination=True), theirs)
    job = MigrationJob(
        id="verify",
        source=local_location(tmp_path / "from", destination=False).folder(),
        destination=place("tree/").folder(),
        recursive=True,
        verify=Verify.AUTO,
        if_exists=IfExists.CHANGED,
    )
    expected = {name: verdict for name, (_, _, verdict) in PLANTED.items()}
    for reads in Reads:
        comparison = TreeComparison(
            job,
            engine.runner.stores,
            limits=engine.runner.limits,
            space=SpillSpace(tmp_path / "runs", 1 << 20, held_rows=3),
            reads=reads,
            slots=3,
        )
        found = {one.name: one.verdict.value for one in comparison.findings()}
        if reads is Reads.NONE:
            certain = {name for name, verdict in found.items() if verdict != "unproved"}
            assert certain >= {"empty", "f-extra", "missing", "truncated"}
            found.update({name: expected[name] for name in found if name not in certain})
        assert found == expected, reads
        if reads is Reads.ALL:
            lengths = (
                len(data)
                for ours, theirs, verdict in PLANTED.values()
                for data in (ours, theirs)
                if ours is not None and theirs is not None and len(ours) == len(theirs)
            )
            assert comparison.report.bytes_read == sum(map(int, lengths))
    assert not list((tmp_path / "runs").iterdir())
