"""A transfer that follows a plan moves the versions that the plan has seen, and no others, over
stores whose broken uploads are visible."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists
from relay.engine.transfer.context import ObjectHints
from relay.errors import PlanStale
from relay.ledger.planned_values import PlannedPair, SeenVersion
from relay.receipt import State
from relay.stores.local_locations import local_location
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf
from tests.scripted import Peer

DATA, THEIRS, OTHER = b"n" * 9000, b"o" * 9000, b"x" * 9000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(DATA)
    return tmp_path / "a"


def as_seen(data: bytes) -> SeenVersion:
    """Return the version of an object of the shelf, as a plan sees it."""
    return SeenVersion(size=len(data), etag=f'"{hashlib.md5(data).hexdigest()}"')


def follow(
    engine: Engine, source: Path, url: str, there: SeenVersion | None, **hints: bool
) -> Outcome:
    """Move the object as a plan decided that has seen this at the destination."""
    exists = IfExists.FAIL if there is None else IfExists.OVERWRITE
    origin = local_location(source, destination=False)
    plan = engine.plan(origin, url, if_exists=exists.value)
    stat = source.stat()
    ours = SeenVersion(size=stat.st_size, modified=stat.st_mtime)
    known = ObjectHints(planned=PlannedPair(source=ours, destination=there), **hints)
    transfer = replace(engine.runner.transfer(plan), known=known, random=lambda: 0.05)
    return engine.runner.run(transfer)


@pytest.mark.parametrize("there", [None, THEIRS])
def test_the_versions_of_the_plan_are_moved(
    engine: Engine, source: Path, there: bytes | None
) -> None:
    shelf = Shelf({} if there is None else {b"/a": there})
    with Peer(shelf) as peer:
        planned = None if there is None else as_seen(there)
        outcome = follow(engine, source, peer.url("/a"), planned)
    assert outcome.state is State.VERIFIED and shelf.objects == {b"/a": DATA}


@pytest.mark.parametrize(
    ("planned", "there"), [(None, THEIRS), (THEIRS, OTHER), (THEIRS, None), (THEIRS, THEIRS + b"1")]
)
def test_another_version_is_not_replaced(
    engine: Engine, source: Path, planned: bytes | None, there: bytes | None
) -> None:
    """Nothing is sent, and nothing deleted."""
    before = {} if there is None else {b"/a": there}
    shelf = Shelf(dict(before))
    with Peer(shelf) as peer, pytest.raises(PlanStale) as caught:
        follow(engine, source, peer.url("/a"), None if planned is None else as_seen(planned))
    assert caught.value.side == "destination"
    assert shelf.objects == before and set(shelf.methods) <= {b"HEAD", b"GET"}


def test_another_source_is_not_read(engine: Engine, source: Path) -> None:
    stat = source.stat()
    source.write_bytes(OTHER)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 2 * 10**9))
    shelf = Shelf()
    planned = SeenVersion(size=stat.st_size, modified=stat.st_mtime)
    with Peer(shelf) as peer:
        origin = local_location(source, destination=False)
        plan = engine.plan(origin, peer.url("/a"), if_exists="fail")
        known = ObjectHints(planned=PlannedPair(source=planned, destination=None))
        with pytest.raises(PlanStale) as caught:
            engine.runner.run(replace(engine.runner.transfer(plan), known=known))
    assert caught.value.side == "source" and shelf.objects == {}


@pytest.mark.parametrize("there", [None, THEIRS])
def test_a_piece_of_our_own_is_not_another_version(
    patient_engine: Engine, source: Path, there: bytes | None
) -> None:
    """The upload broke off, and the server shows its first bytes: it is sent again."""
    shelf = Shelf({} if there is None else {b"/a": there}, cut=100)
    with Peer(shelf) as peer:
        planned = None if there is None else as_seen(there)
        outcome = follow(patient_engine, source, peer.url("/a"), planned)
    assert outcome.state is State.VERIFIED and shelf.objects == {b"/a": DATA}


def test_a_killed_process_does_not_make_an_object_ours(engine: Engine, source: Path) -> None:
    """Not one that begins otherwise, and has the length of the source's or more."""
    for there in (OTHER, DATA + b"1"):
        shelf = Shelf({b"/a": there})
        with Peer(shelf) as peer, pytest.raises(PlanStale):
            follow(engine, source, peer.url("/a"), as_seen(THEIRS), begun=True)
        assert shelf.objects == {b"/a": there}


def test_a_piece_of_a_killed_process_is_replaced(engine: Engine, source: Path) -> None:
    shelf = Shelf({b"/a": DATA[:100]})
    with Peer(shelf) as peer:
        outcome = follow(
            engine, source, peer.url("/a"), as_seen(THEIRS), begun=True, after_crash=True
        )
    assert outcome.state is State.VERIFIED and shelf.objects == {b"/a": DATA}
