"""The removal of orphans at real servers, which leaves all other objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from gevent.event import Event

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.orphans import AGAIN_SECONDS, OrphanSweeper
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from tests.seaweed import KEY, REGION, SECRET, Seaweed
from tests.values import UPLOAD


@dataclass(eq=False)
class Forsaken:
    """A cancelled migration of a tree to a bucket, its one object claimed once, and the sweeper."""

    seaweed: Seaweed
    ledger: Ledger
    id: str
    claim: Claim
    sweeper: OrphanSweeper
    key: str
    now: list[float] = field(default_factory=lambda: [0.0])

    def begin_upload(self, key: str) -> str:
        """Start an upload at the server; return its id."""
        id: str = self.seaweed.client().create_multipart_upload(
            Bucket=self.seaweed.bucket, Key=key
        )["UploadId"]
        return id

    def cancel_upload(self, upload: str) -> None:
        """Record that this upload was started, and cancel the migration."""
        place = f"s3://{self.seaweed.bucket}/{self.key}"
        self.ledger.uploads.record(self.claim, replace(UPLOAD, upload_id=upload, place=place))
        self.ledger.claims.settle([Settlement(self.claim, "hand_back")])
        self.ledger.act(self.id, "cancel")

    @property
    def uploads(self) -> set[str]:
        """The ids of unfinished uploads at the server below the tree."""
        found = self.seaweed.client().list_multipart_uploads(
            Bucket=self.seaweed.bucket, Prefix=self.key
        )
        return {row["UploadId"] for row in found.get("Uploads", ())}


@pytest.fixture
def forsaken_upload(seaweed: Seaweed, tmp_path: Path) -> Iterator[Forsaken]:
    remote = {"type": "s3", "endpoint": seaweed.endpoint, "region": REGION}
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    settings = Settings(
        remotes={"far": remote | keys}, local_folders=str(tmp_path), egress_allow="127.0.0.1"
    )
    runner = TransferEngine(settings)
    ledger = Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
    ledger.leases.renew()
    tree = f"orphans/{tmp_path.name}"
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from"),
        Endpoint(f"far:{seaweed.bucket}/{tree}"),
        recursive=True,
    )
    id = ledger.create(order.spec(runner.remotes))[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject("object", size=30, etag='"e"', modified=1.5, url=None)], "object"
    )
    ledger.listings.end(listing)
    (claim,) = ledger.claims.claim(1)
    made = Forsaken(
        seaweed,
        ledger,
        id,
        claim,
        OrphanSweeper(ledger, runner, jobs=MigrationCache(ledger, runner), over=Event()),
        f"{tree}/object",
    )
    made.sweeper.clock = lambda: made.now[0]
    yield made
    for row in (
        seaweed.client()
        .list_multipart_uploads(Bucket=seaweed.bucket, Prefix=tree)
        .get("Uploads", ())
    ):
        seaweed.client().abort_multipart_upload(
            Bucket=seaweed.bucket, Key=row["Key"], UploadId=row["UploadId"]
        )
    ledger.close()
    runner.wire.pool.close()


def test_f51_only_our_own_upload_is_aborted(forsaken_upload: Forsaken) -> None:
    mine, another = (
        forsaken_upload.begin_upload(forsaken_upload.key),
        forsaken_upload.begin_upload(f"{forsaken_upload.key}-2"),
    )
    same = forsaken_upload.begin_upload(forsaken_upload.key)
    forsaken_upload.cancel_upload(mine)
    assert forsaken_upload.sweeper.sweep() == (1, [])
    assert forsaken_upload.uploads == {another, same}
    assert forsaken_upload.sweeper.sweep() == (0, [])


def test_f51_an_upload_without_a_recorded_id_is_found(
    forsaken_upload: Forsaken,
) -> None:
    lost, another = (
        forsaken_upload.begin_upload(forsaken_upload.key),
        forsaken_upload.begin_upload(f"{forsaken_upload.key}-2"),
    )
    forsaken_upload.cancel_upload("")
    assert forsaken_upload.sweeper.sweep() == (1, [])
    assert lost not in forsaken_upload.uploads
    assert forsaken_upload.uploads == {another}


def test_an_orphan_that_is_gone_already_is_forgotten(forsaken_upload: Forsaken) -> None:
    forsaken_upload.cancel_upload("0123456789abcdef0123456789abcdef")
    assert forsaken_upload.sweeper.sweep() == (1, [])
    assert forsaken_upload.ledger.destinations.orphans() == []


def test_an_orphan_that_cannot_be_removed_is_retried(
    forsaken_upload: Forsaken, tmp_path: Path
) -> None:
    mine = forsaken_upload.begin_upload(forsaken_upload.key)
    forsaken_upload.cancel_upload(mine)
    remotes = forsaken_upload.sweeper.engine.remotes
    forsaken_upload.sweeper.engine.remotes = TransferEngine(
        Settings(local_folders=str(tmp_path))
    ).remotes
    count, ((orphan, error),) = forsaken_upload.sweeper.sweep()
    assert (count, orphan.claim.id) == (0, forsaken_upload.claim.id)
    assert "no remote 'far'" in error.message
    forsaken_upload.sweeper.engine.remotes = remotes
    assert forsaken_upload.sweeper.sweep() == (0, [])
    assert forsaken_upload.uploads == {mine}
    forsaken_upload.now[0] += AGAIN_SECONDS + 1
    assert forsaken_upload.sweeper.sweep() == (1, [])
    assert forsaken_upload.uploads == set()


def test_a_remote_that_leads_elsewhere_is_not_touched(forsaken_upload: Forsaken) -> None:
    mine = forsaken_upload.begin_upload(forsaken_upload.key)
    place = f"s3://{forsaken_upload.seaweed.bucket}/another/place"
    forsaken_upload.ledger.uploads.record(
        forsaken_upload.claim, replace(UPLOAD, upload_id=mine, place=place)
    )
    forsaken_upload.ledger.claims.settle([Settlement(forsaken_upload.claim, "hand_back")])
    forsaken_upload.ledger.act(forsaken_upload.id, "cancel")
    ((_, error),) = forsaken_upload.sweeper.sweep()[1]
    assert "its remote leads elsewhere" in error.message
    assert forsaken_upload.uploads == {mine}


def test_a_stopping_worker_removes_nothing_more(forsaken_upload: Forsaken) -> None:
    mine = forsaken_upload.begin_upload(forsaken_upload.key)
    forsaken_upload.cancel_upload(mine)
    forsaken_upload.sweeper.over.set()
    assert forsaken_upload.sweeper.sweep() == (0, [])
    assert forsaken_upload.uploads == {mine}
