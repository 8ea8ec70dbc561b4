"""How a worker handles ends that are not errors: a kill, a timeout, an exit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from sqlalchemy import select

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists, Verify
from relay.engine.transfer.finalize import Finalizer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.claim_journal import ClaimJournal
from relay.engine.worker.conversions import hints_of_claim
from relay.engine.worker.helped_uploads import JOIN_SECONDS
from relay.engine.worker.part_helper import PartHelper
from relay.engine.worker.worker import Worker
from relay.errors import LeaseLost, LedgerBusy, LedgerFailed, RelayError
from relay.ledger.claim_ledger import ClaimLedger
from relay.ledger.claim_values import Claim
from relay.ledger.lease_ledger import LeaseLedger
from relay.ledger.ledger import Ledger
from relay.ledger.listing_ledger import ListingLedger
from relay.ledger.listing_values import ListedObject, ListingClaim
from relay.ledger.migration_values import Count
from relay.ledger.releases import MOST_CRASHES
from relay.ledger.schema import runners
from relay.receipt import Version
from relay.stores.local import LocalStore
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from tests.conftest import Engine
from tests.faults.scripted_http import Meanwhile
from tests.faults.scripted_peers import DATA as CLOUD_DATA
from tests.faults.scripted_peers import (
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.faults.scripted_s3_objects import Shelf as Bucket
from tests.faults.test_explosions import with_explosion
from tests.ledgers import hand_back_suspect, verified_end
from tests.scripted import Peer, Talk
from tests.values import UPLOAD

DATA = b"bytes " * 1000


def accept_object(ledger: Ledger, folder: Path, runner: TransferEngine) -> str:
    """Accept one object; return its migration's id."""
    (folder / "from").write_bytes(DATA)
    order = MigrationRequest(Endpoint(f"file://{folder}/from"), Endpoint(f"file://{folder}/to"))
    return ledger.create(order.spec(runner.remotes))[0].id


def run_worker(ledger: Ledger, runner: TransferEngine, id: str) -> None:
    """Work on a migration until it has ended."""
    worker = Worker(ledger, runner, 1, id)
    with gevent.Timeout(30):
        worker.run()
    assert worker.active == {}
    assert runner.running == set()
    assert runner.slots.held == 0


def test_a_claim_that_never_ran_has_sent_nothing(ledger: Ledger, tmp_path: Path) -> None:
    """The process stops. The next claim must not take an object at the destination for ours."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    worker = Worker(ledger, runner, 1, accept_object(ledger, tmp_path, runner))
    worker.stop()
    ledger.leases.renew()
    for _ in range(2):
        (claim,) = ledger.claims.claim(1)
        assert not hints_of_claim(claim).begun
        ledger.claims.settle([worker._claim_runner.run(claim, 1)])


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("kind", [gevent.GreenletExit, gevent.Timeout])
def test_f67_a_kill_at_the_commit_commits_once(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseException],
    after: bool,
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_object(ledger, tmp_path, runner)
    commits = count_publishes(monkeypatch, LocalStore.publish)
    monkeypatch.setattr(LocalStore, "publish", with_explosion(LocalStore.publish, kind(), 1, after))
    run_worker(ledger, runner, id)
    (row,) = ledger.page(id)
    assert (row.state, row.attempts, row.level) == ("verified", 2, "read_back")
    assert commits == ["publish"]
    assert sorted(path.name for path in tmp_path.iterdir() if "ledger" not in path.name) == [
        "from",
        "to",
    ]
    assert (tmp_path / "to").read_bytes() == DATA


def count_publishes(monkeypatch: pytest.MonkeyPatch, publish: Callable[..., Any]) -> list[str]:
    """Let every publish that is made be counted."""
    commits: list[str] = []

    def counting(*args: Any, **options: Any) -> Any:
        commits.append("publish")
        return publish(*args, **options)

    monkeypatch.setattr(LocalStore, "publish", counting)
    return commits


def test_f67_a_kill_at_every_attempt_ends(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_object(ledger, tmp_path, runner)

    def kill(*_: Any, **__: Any) -> None:
        raise gevent.Timeout(1)

    monkeypatch.setattr(LocalStore, "publish", kill)
    run_worker(ledger, runner, id)
    (row,) = ledger.page(id)
    assert (row.state, row.attempts) == ("failed", MOST_CRASHES)
    assert not (tmp_path / "to").exists()


def test_f76_a_worker_lists_a_lost_page_again(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger commits a page and loses it, as in a failover: no object is missing at the end."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    (tmp_path / "from").mkdir()
    for name in "abc":
        (tmp_path / "from" / name).write_bytes(DATA)
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from/"), Endpoint(f"file://{tmp_path}/to/"), recursive=True
    )
    id = ledger.create(order.spec(runner.remotes))[0].id
    pages: list[str] = []
    add_page = ListingLedger.add_page

    def lose_second(
        self: ListingLedger,
        listing: ListingClaim,
        page: list[ListedObject],
        *more: Any,
        **named: Any,
    ) -> bool:
        pages.append(page[0].name)
        if len(pages) != 2:
            return add_page(self, listing, page, *more, **named)
        listing.fence += 1
        return True

    monkeypatch.setattr(ListingLedger, "add_page", lose_second)
    monkeypatch.setattr("relay.engine.tree_listing.PAGE", 1)
    run_worker(ledger, runner, id)
    assert len(pages) > 4  # the third was refused
    assert {row.name: row.state for row in ledger.page(id)} == dict.fromkeys("abc", "verified")
    assert ledger.migration(id).state == "succeeded"


def test_f67_a_bug_after_the_upload_leaves_a_note(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later migration does not mistake our upload for an existing object."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path), egress_allow="127.0.0.1"))
    (tmp_path / "from").write_bytes(DATA)
    cloud = Cloud()

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with Peer(destination_script(cloud)) as peer:
        source, there = Endpoint(f"file://{tmp_path}/from"), Endpoint(peer.url("/to"))
        id = ledger.create(MigrationRequest(source, there).spec(runner.remotes))[0].id
        with monkeypatch.context() as patched:
            patched.setattr(Finalizer, "verify_and_publish", fail)
            run_worker(ledger, runner, id)
        (row,) = ledger.page(id)
        assert row.state == "failed"
        assert row.error is not None
        assert "What was sent may remain at" in row.error["hint"]
        cloud.objects["/to"] = DATA[:-1]
        skips = MigrationRequest(source, there, if_exists=IfExists.SKIP)
        again = ledger.create(skips.spec(runner.remotes))[0].id
        run_worker(ledger, runner, again)
        assert [row.state for row in ledger.page(again)] != ["skipped"]
        runner.wire.pool.close()


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
def test_f67_an_exit_at_the_commit_hands_back_once(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_object(ledger, tmp_path, runner)
    commits = count_publishes(monkeypatch, LocalStore.publish)
    monkeypatch.setattr(
        LocalStore, "publish", with_explosion(LocalStore.publish, SystemExit(1), 1, after)
    )
    with pytest.raises(SystemExit):
        run_worker(ledger, runner, id)
    (row,) = ledger.page(id)
    assert row.state == "queued"
    run_worker(ledger, TransferEngine(Settings(local_folders=str(tmp_path))), id)
    assert [row.state for row in ledger.page(id)] == ["verified"]
    assert commits == ["publish"]
    assert (tmp_path / "to").read_bytes() == DATA


@pytest.mark.parametrize("verify", ["size", "auto"])
def test_f62_a_lost_lease_never_completes_the_object(
    ledger: Ledger, tmp_path: Path, engine: Engine, splice_counts: list[int], verify: str
) -> None:
    """This also holds if the kernel moves the bytes: the last of them are held back until the
    ledger has been asked."""
    cloud, half, gone = Cloud(), len(CLOUD_DATA) // 2, threading.Event()

    def get(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, CLOUD_DATA[:half])
        if gone.wait(20):
            talk.send(CLOUD_DATA[half:])

    with Peer(source_script(Cloud(), get)) as source, Peer(destination_script(cloud)) as peer:
        order = MigrationRequest(
            Endpoint(source.url()), Endpoint(peer.url("/to")), verify=Verify(verify)
        )
        ledger.create(order.spec(engine.runner.remotes))
        ledger.leases.renew()
        (claim,) = ledger.claims.claim(1)
        transfer = engine.runner.transfer(engine.plan(source.url(), peer.url("/to"), verify=verify))
        transfer.journal = ClaimJournal(ledger, claim)
        job = gevent.spawn(failure, transfer.run)
        with gevent.Timeout(20):
            while transfer.bytes < half:
                gevent.sleep(0.005)
        assert ledger.leases.renew(-1)
        other = Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
        try:
            other.leases.renew()
            assert other.leases.reclaim() == 1
            assert len(other.claims.claim(1)) == 1
            gone.set()
            assert isinstance(job.get(timeout=20), LeaseLost)
        finally:
            other.close()
    assert (cloud.objects, cloud.broken) == ({}, 1)
    assert bool(splice_counts) == (verify == "size")


def test_f62_a_worker_without_a_lease_leaves_its_successor_alone(
    ledger: Ledger, tmp_path: Path, engine: Engine
) -> None:
    """The piece looks like the worker's own, and the server ignores the precondition of DELETE."""
    half, gone, shelf = len(CLOUD_DATA) // 2, threading.Event(), Meanwhile()

    def get(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, CLOUD_DATA[:half])
        if gone.wait(20):
            talk.send(CLOUD_DATA[half:])

    with Peer(source_script(Cloud(), get)) as source, Peer(shelf) as peer:
        order = MigrationRequest(Endpoint(source.url()), Endpoint(peer.url("/to")))
        ledger.create(order.spec(engine.runner.remotes))
        ledger.leases.renew()
        (claim,) = ledger.claims.claim(1)
        transfer = engine.runner.transfer(engine.plan(source.url(), peer.url("/to")))
        transfer.journal = ClaimJournal(ledger, claim)
        job = gevent.spawn(failure, transfer.run)
        with gevent.Timeout(20):
            while transfer.bytes < half:
                gevent.sleep(0.005)
        ledger.claims.release_unknown(())
        shelf.again = lambda: shelf.objects.update({b"/to": CLOUD_DATA})
        gone.set()
        assert isinstance(job.get(timeout=20), LeaseLost)
    assert shelf.again is None
    assert shelf.objects == {b"/to": CLOUD_DATA}


def test_f62_an_empty_object_asks_too(ledger: Ledger, tmp_path: Path, engine: Engine) -> None:
    cloud, empty = Cloud(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with (
        Peer(source_script(Cloud(), fixed_answer(empty), empty)) as source,
        Peer(destination_script(cloud)) as peer,
    ):
        order = MigrationRequest(Endpoint(source.url()), Endpoint(peer.url("/to")))
        ledger.create(order.spec(engine.runner.remotes))
        ledger.leases.renew()
        (claim,) = ledger.claims.claim(1)
        transfer = engine.runner.transfer(engine.plan(source.url(), peer.url("/to")))
        transfer.journal = ClaimJournal(ledger, claim)
        ledger.claims.release_unknown(())
        with pytest.raises(LeaseLost):
            engine.runner.run(transfer)
    assert b"PUT" not in cloud.methods


def test_f62_a_copy_by_the_store_asks_too(ledger: Ledger, engine: Engine) -> None:
    bucket = Bucket({"old": DATA, "new": b"of the successor"})
    with Peer([bucket] * 5) as peer:
        config = S3Config(Signer(lambda: AwsCredentials("KEY", "SECRET"), "eu-1"), peer.url(""))
        old, new = (s3_location(config, "bucket", key) for key in ("old", "new"))
        order = MigrationRequest(Endpoint("https://h/old"), Endpoint("https://h/new"))
        ledger.create(order.spec(engine.runner.remotes))
        ledger.leases.renew()
        (claim,) = ledger.claims.claim(1)
        transfer = engine.runner.transfer(engine.plan(old, new))
        transfer.journal = ClaimJournal(ledger, claim)
        ledger.claims.release_unknown(())
        with pytest.raises(LeaseLost) as caught:
            engine.runner.run(transfer)
    assert bucket.objects == {"old": DATA, "new": b"of the successor"}
    assert caught.value.remains == {}


def failure(run: Callable[[], object]) -> RelayError | None:
    """Return the exception that it raises."""
    try:
        run()
    except RelayError as error:
        return error
    return None


# -- rounds


def accept_tree(ledger: Ledger, folder: Path, runner: TransferEngine, count: int) -> str:
    """Accept a tree of `count` objects; return its migration's id."""
    (folder / "tree").mkdir()
    for number in range(count):
        (folder / "tree" / f"{number:03}").write_bytes(DATA)
    order = MigrationRequest(
        Endpoint(f"file://{folder}/tree"), Endpoint(f"file://{folder}/there"), recursive=True
    )
    return ledger.create(order.spec(runner.remotes))[0].id


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize(
    "error", [LedgerBusy("kept"), LedgerFailed("lost"), LedgerFailed("lost after it")], ids=str
)
def test_f76_a_poll_without_an_answer_happens_once(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: LedgerFailed, nth: int
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, runner, 60)
    commits = count_publishes(monkeypatch, LocalStore.publish)
    turn, raised = (
        with_explosion(ClaimLedger.settle_and_claim, error, nth, "after" in error.message),
        list[LedgerFailed](),
    )

    def failing(*args: Any, **options: Any) -> Any:
        try:
            return turn(*args, **options)
        except LedgerFailed as failure:
            raised.append(failure)
            raise

    monkeypatch.setattr(ClaimLedger, "settle_and_claim", failing)
    worker = Worker(ledger, runner, 4, id)
    with gevent.Timeout(60):
        worker.run()
    rows = ledger.page(id)
    assert [(row.state, row.level) for row in rows] == [("verified", "read_back")] * 60
    assert raised == [error]
    assert len(commits) == 60
    assert ledger.migration(id).tally == {"verified": Count(60, 60 * len(DATA))}
    assert worker.trouble is None
    assert ledger.migration(id).state == "succeeded"


def test_a_new_worker_claims_only_for_its_slots(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree of few large objects is shared with a second worker."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, runner, 20)
    gate, begun, publish = Event(), Event(), LocalStore.publish
    waiting: list[int] = []

    def publish_late(*args: Any, **options: Any) -> Any:
        waiting.append(1)
        if len(waiting) == 3:
            begun.set()
        gate.wait()
        return publish(*args, **options)

    monkeypatch.setattr(LocalStore, "publish", publish_late)
    worker = Worker(ledger, runner, 3, id)
    working = gevent.spawn(worker.run)
    with gevent.Timeout(60):
        begun.wait()
        worker.wake()
        while ledger.migration(id).listing != "done":
            gevent.sleep(0)
        assert ledger.migration(id).count_in("running").objects == 3
        gate.set()
        working.get()
    assert ledger.migration(id).count_in("verified").objects == 20


def test_a_round_of_claims_loads_its_migration_once(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, runner, 40)
    asked: list[str] = []
    secret = Ledger.secret

    def counting(self: Ledger, id: str) -> Any:
        asked.append(id)
        return secret(self, id)

    monkeypatch.setattr(Ledger, "secret", counting)
    with gevent.Timeout(60):
        Worker(ledger, runner, 16, id).run()
    assert asked == [id]


def test_f61_the_lease_is_kept_until_running_transfers_end(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running transfers take longer to stop than the lease lasts: at least until its next
    renewal."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_object(ledger, tmp_path, runner)
    gate, begun, publish, renew = Event(), Event(), LocalStore.publish, LeaseLedger.renew
    worker = Worker(ledger, runner, 1, id, lease_seconds=0.4)

    def publish_late(*args: Any, **options: Any) -> Any:
        begun.set()
        gate.wait()
        return publish(*args, **options)

    def renewing(self: LeaseLedger, seconds: float, slots: int | None) -> bool:
        if worker.stopping:
            gate.set()
        return renew(self, seconds)

    monkeypatch.setattr(LocalStore, "publish", publish_late)
    monkeypatch.setattr(LeaseLedger, "renew", renewing)
    working = gevent.spawn(worker.run)
    with gevent.Timeout(60):
        begun.wait()
        worker.stop()
        working.get()
    (row,) = ledger.page(id)
    assert (row.state, row.attempts) == ("verified", 1)


# -- parts of others


@dataclass(eq=False)
class Turns:
    """Count the polls of a worker."""

    count: int = 0

    def await_polls(self, worker: Worker, count: int) -> None:
        """Wait until it has polled that often again."""
        until = self.count + count
        while self.count < until:
            worker.wake()
            gevent.sleep(0.01)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Count the polls of every worker."""
    found, turn = Turns(), ClaimLedger.settle_and_claim

    def counting(*args: Any, **options: Any) -> Any:
        found.count += 1
        return turn(*args, **options)

    monkeypatch.setattr(ClaimLedger, "settle_and_claim", counting)
    return found


def test_f81_a_suspect_waits_while_parts_of_others_move(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: Turns
) -> None:
    """The suspect is claimed alone; while it runs, the worker helps with no parts."""
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_tree(ledger, tmp_path, runner, 2)
    sharing, enough, begun, gate = Event(), Event(), Event(), Event()
    publish = LocalStore.publish

    def share_briefly(self: PartHelper) -> None:
        sharing.set()
        enough.wait()
        self.ledger.uploads.release_parts(self.share.claim)

    def publish_late(*args: Any, **options: Any) -> Any:
        begun.set()
        gate.wait()
        return publish(*args, **options)

    monkeypatch.setattr(PartHelper, "run", share_briefly)
    monkeypatch.setattr(LocalStore, "publish", publish_late)
    other = Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
    try:
        other.leases.renew()
        mine, suspect = claim_both(other)
        pinned, place = Version(30, '"e"'), f"{tmp_path}/there/000"
        other.uploads.record(mine, replace(UPLOAD, place=place, pinned=pinned))
        worker = Worker(ledger, runner, 2, id)
        working = gevent.spawn(worker.run)
        with gevent.Timeout(60):
            sharing.wait()
            hand_back_suspect(other, suspect)
            turns.await_polls(worker, 3)
            assert [row.state for row in ledger.page(id)] == ["running", "queued"]
            sharing.clear()
            enough.set()
            begun.wait()
            sharing.clear()
            enough.clear()
            later = worker.clock() + 2 * JOIN_SECONDS
            while worker.clock() < later:
                turns.await_polls(worker, 1)
            assert not sharing.is_set()
            gate.set()
            enough.set()
            while ledger.page(id)[1].state != "verified":
                gevent.sleep(0.01)
            other.claims.settle([verified_end(mine)])
            working.get()
    finally:
        other.close()


def claim_both(ledger: Ledger) -> list[Claim]:
    """List a tree of two objects, and claim both."""
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject("000", size=30, etag='"e"'), ListedObject("001")], "001"
    )
    ledger.listings.end(listing)
    return ledger.claims.claim(2)


def test_f62_claims_between_two_leases_are_not_kept(ledger: Ledger, tmp_path: Path) -> None:
    """A process that was stopped and presumed dead may claim before it registers itself again: the
    same object too."""
    cloud, goes_on = Cloud(), threading.Event()
    runner = TransferEngine(
        Settings(egress_allow="127.0.0.1")
    )  # its budget exceeds a lease, so its transfers are inspected

    def get(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, CLOUD_DATA[:10])
        if goes_on.wait(60):
            talk.send(CLOUD_DATA[10:])

    with Peer(source_script(Cloud(), get)) as source, Peer(destination_script(cloud)) as peer:
        order = MigrationRequest(Endpoint(source.url()), Endpoint(peer.url("/to")))
        id = ledger.create(order.spec(runner.remotes))[0].id
        worker = Worker(ledger, runner, 2, id)
        other = Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
        working = gevent.spawn(worker.run)
        with gevent.Timeout(60):
            while not worker.active:
                gevent.sleep(0.01)
            first = worker.active[1].claim
            assert ledger.leases.renew(-1)
            assert other.leases.reclaim() == 1
            while first in [active.claim for active in worker.active.values()]:
                gevent.sleep(0.01)  # the object is claimed again and starts
            while ledger.page(id)[0].state == "running" and not ledger.database.run(
                lambda c: c.execute(select(runners)).all(), write=False
            ):
                gevent.sleep(0.01)  # until it has registered itself again
            goes_on.set()
            working.get()
        other.close()
        assert [(row.state, row.error) for row in ledger.page(id)] == [("verified", None)]
        assert worker.active == {}
        assert cloud.objects == {b"/to": CLOUD_DATA}
