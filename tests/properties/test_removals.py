"""Deletions of moves and mirrors in random runs, with a fault or another writer at a random
request: no object is deleted that is not at its other place, or that its source has."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Verify
from relay.engine.removal.mirror_removal import MirrorRemoval
from relay.engine.removal.source_removal import SourceRemoval
from relay.errors import (
    ConnectionLost,
    PermissionDenied,
    PreconditionFailed,
    RelayError,
    Unavailable,
)
from relay.ledger.claim_values import Settlement
from relay.ledger.deletion_values import DeleteLimit, MirrorSettings, RemovalSettings
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.location import Location
from relay.receipt import Version
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import Deletion, Enters, Entry, ObjectInfo
from relay.stores.kinds import LocateOptions
from relay.transfer_limits import Limits
from tests.contract.memory import MemoryStore, Shelf, memory_location
from tests.ledgers import TREE

SEEDS = int(os.environ.get("RELAY_REMOVAL_SEEDS", "500"))
"""Number of random mirrors of a campaign; a tenth as many moves."""
NAMES = [f"{folder}{name}" for folder in ("", "a/", "b/c/") for name in "pqrstuvw"]
SOURCE, DESTINATION = "/src/", "/dst/"


@dataclass
class Cloud:
    """One shelf with both trees, and the moment of its fault."""

    chance: random.Random
    shelf: Shelf = field(default_factory=dict)
    fault_at: int = 0
    kind: str = ""
    requests: int = 0
    listing_broke: bool = False
    deleted: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def request(self, what: str, path: str) -> None:
        """Count a request; at the fault's one another writer acts, or the request fails. A writer
        acts before the answer that shows it: no store closes the moment after that answer."""
        self.requests += 1
        if self.requests != self.fault_at:
            return
        late = {"return": ("delete",), "remove": ("delete", "head" if path[:5] == SOURCE else "")}
        if what in late.get(self.kind, ()):
            return
        tree, name = (path[:5], path[5:]) if path[:5] in (SOURCE, DESTINATION) else ("", "")
        if self.kind == "return":
            self.shelf[SOURCE + (name or self.chance.choice(NAMES))] = b"a new one"
        elif self.kind == "change":
            self.shelf[tree + name] = b"changed meanwhile"
        elif self.kind == "remove":
            self.shelf.pop(DESTINATION + name, None)
        else:
            self.listing_broke = what == "list"
            error = {"403": PermissionDenied, "503": Unavailable, "cut": ConnectionLost}[self.kind]
            raise error(f"{what} {path}", side="source")


class CloudStore(MemoryStore):
    """The shelf, with deletions of versions."""

    def __init__(self, cloud: Cloud, side: Any, meter: Any) -> None:
        super().__init__(cloud.shelf, side, meter)
        self._cloud = cloud

    def head(self, location: Location) -> ObjectInfo:
        self._cloud.request("head", location.path)
        return super().head(location)

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        for entry in super().list(location, recursive):
            try:
                self._cloud.request("list" if recursive else "peek", location.path)
            except PermissionDenied as error:  # a folder that is not listed
                yield Entry(f"{entry.name.rpartition('/')[0]}z/", error=error)
                continue
            yield entry

    def deletes_conditionally(self, location: Location) -> bool:
        return True

    def require_deletes(self, folder: Location) -> None:
        """All may be deleted."""

    def delete_version(
        self, location: Location, version: Version, *, purge: bool = False
    ) -> Deletion:
        self._cloud.request("delete", location.path)
        found = MemoryStore.head(self, location)
        if found.version.etag != version.etag:
            raise PreconditionFailed("another version", side=self._side)
        self._judge(location.path)
        del self._shelf[location.path]
        self._cloud.deleted.append(location.path)
        if self._cloud.requests + 1 == self._cloud.fault_at and self._cloud.kind == "cut":
            self._cloud.requests += 1
            raise ConnectionLost("the answer is lost", side="source")
        return Deletion()

    def _judge(self, path: str) -> None:
        """Note a deletion that loses something."""
        tree, name = path[:5], path[5:]
        if "-relay-probe-" in name:
            return
        if tree == SOURCE and self._shelf.get(DESTINATION + name) != self._shelf[path]:
            self._cloud.wrong.append(path)
        if tree == DESTINATION and SOURCE + name in self._shelf:
            self._cloud.wrong.append(path)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger.connect(f"sqlite:///{tmp_path}/relay.db")
    made.leases.renew()
    yield made
    made.close()


def trees(chance: random.Random) -> Cloud:
    """Return two random trees, of which some names are the same."""
    cloud = Cloud(chance)
    for name in NAMES:
        content = f"{name} {chance.randrange(3)}".encode()
        if chance.random() < 0.7:
            cloud.shelf[SOURCE + name] = content
        if chance.random() < 0.7:
            cloud.shelf[DESTINATION + name] = content
    cloud.fault_at = chance.randrange(1, 120)
    cloud.kind = chance.choice(["return", "change", "remove", "403", "503", "cut"])
    return cloud


def engine_of(cloud: Cloud) -> Any:
    """Return what deletions need of an engine."""
    stores = SimpleNamespace(
        source=lambda place, meter: CloudStore(cloud, "source", meter),
        destination=lambda place, meter: CloudStore(cloud, "destination", meter),
    )
    return SimpleNamespace(stores=stores, limits=Limits(listing_seconds=0))


def job_of(id: str) -> MigrationJob:
    source, destination = (
        memory_location(f"memory://{tree.strip('/')}/", LocateOptions()) for tree in ("src", "dst")
    )
    return MigrationJob(
        id=id,
        source=source,
        destination=destination,
        recursive=True,
        verify=Verify.AUTO,
        if_exists=IfExists.CHANGED,
        accepted=time.time(),
    )


def mirror_once(ledger: Ledger, seed: int, folder: Path) -> None:
    """Mirror two random trees with a fault, and once more without it."""
    chance = random.Random(seed)
    cloud = trees(chance)
    id = ledger.create(TREE)[0].id
    limit = chance.randrange(0, 12)
    settings = MirrorSettings(
        limit=DeleteLimit(number=limit),
        empty_source=chance.random() < 0.1,
        empty_folders=chance.random() < 0.5,
    )
    removal = MirrorRemoval(
        ledger, engine_of(cloud), job_of(id), settings, space=SpillSpace(folder, 1 << 20)
    )
    ledger.deletions.begin(id, "mirror", {})
    try:
        end = removal.run()
    except RelayError:
        end = None
    assert not cloud.wrong, (seed, cloud)
    mine = [path for path in cloud.deleted if "relay-" not in path]
    assert len(mine) <= limit, (seed, cloud)
    if cloud.listing_broke:
        assert not mine, (seed, cloud)
    if end is not None and end.refusal is not None:
        assert not mine, (seed, cloud)
    rows = ledger.deletions.page(id, ["deleted", "deleting"])
    assert {row.name for row in rows} >= {path[5:] for path in mine}, (seed, cloud)


def move_once(ledger: Ledger, seed: int) -> None:
    """Move the objects that two random trees have in common, with a fault, and once more."""
    chance = random.Random(seed)
    cloud = trees(chance)
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    common = sorted(
        name for name in NAMES if {SOURCE + name, DESTINATION + name} <= cloud.shelf.keys()
    )
    store = MemoryStore(cloud.shelf, "source", None)  # type: ignore[arg-type]
    job = job_of(migration.id)
    versions = {name: store.head(job.source.below(name)).version for name in common}
    listed = [
        ListedObject(name, size=one.size, etag=one.etag, modified=1.5, url=None)
        for name, one in versions.items()
    ]
    ledger.listings.add_page(listing, listed, common[-1])
    ledger.listings.end(listing)
    ends = []
    for claim in ledger.claims.claim(100):
        version = versions[claim.name].to_json()
        receipt = {"level": "read_back", "bytes": version["size"], "digests": {}, "notes": []}
        receipt |= {"source": version, "destination": version}
        end = Settlement(
            claim, "verified", bytes=version["size"], level="read_back", receipt=receipt
        )
        ends.append(end)
    ledger.claims.settle(ends)
    ledger.deletions.begin(migration.id, "move", {})
    before = {name: cloud.shelf[SOURCE + name] for name in common}
    for _ in range(2):
        removal = SourceRemoval(ledger, engine_of(cloud), job, RemovalSettings())
        try:
            removal.run()
        except RelayError:
            continue
    assert not cloud.wrong, (seed, cloud)
    rows = ledger.deletions.page(migration.id, ["deleted", "deleting"])
    gone = {path[5:] for path in cloud.deleted if path.startswith(SOURCE) and path[5:] in before}
    assert {row.name for row in rows} >= gone, (seed, cloud)


def test_random_mirrors_delete_nothing_wrong(ledger: Ledger, tmp_path: Path) -> None:
    for seed in range(120):
        mirror_once(ledger, seed, tmp_path)


def test_random_moves_delete_nothing_wrong(ledger: Ledger) -> None:
    for seed in range(30):
        move_once(ledger, seed)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_many_random_removals(ledger: Ledger, tmp_path: Path) -> None:
    for seed in range(1000, 1000 + SEEDS):
        mirror_once(ledger, seed, tmp_path)
        if seed % 10 == 0:
            move_once(ledger, seed)
