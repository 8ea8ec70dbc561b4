"""Credentials that expire between an upload and its proof (F25): the migration waits, and nothing
is sent again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic

import gevent
import pytest
from gevent.event import Event

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.multipart.journal import Journal
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.refusals import RefusalJudge, Verdict
from relay.engine.worker.worker import Worker
from relay.errors import CredentialsWithdrawn, PermissionDenied, StoreError
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import StoredPart, UploadRecord
from relay.receipt import Level, State
from relay.stores.local_locations import local_location
from relay.stores.s3.quirks import TRAILERS
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import Cloud, destination_script
from tests.faults.scripted_s3 import IN_PARTS, SIZE, Bucket, place, refusal, repeat_script, reply
from tests.ledgers import tree
from tests.scripted import Peer, Script, Talk

DATA = b"bytes " * 1000


@dataclass
class Gate:
    """The permissions: the valid token, and the methods that it is never valid for."""

    refusal: int
    never: tuple[bytes, ...] = ()
    token: bytes = b"first"
    after: bytes = b"PUT"
    """When the first token expires: after the first permitted request of this method."""
    shut: bytes | None = None
    """A text that no permitted request may contain."""
    denied: list[bytes] = field(default_factory=list)

    def before(self, script: Script) -> Script:
        """Let `script` see only permitted requests."""

        def guard(talk: Talk) -> None:
            read = talk.head

            def head() -> bytes:
                while request := read():
                    method = request.split(b" ", 1)[0]
                    good = b"\r\nAuthorization: Bearer " + self.token + b"\r\n" in request
                    if (
                        good
                        and method not in self.never
                        and not (self.shut and self.shut in request)
                    ):
                        if method == self.after and self.token == b"first":
                            self.token = b"second"
                        return request
                    self.denied.append(method)
                    talk.send(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.refusal)
                return b""

            talk.head = head  # type: ignore[method-assign]
            script(talk)

        return guard


def order(folder: Path, peer: Peer, token: str) -> MigrationRequest:
    (folder / "from").write_bytes(DATA)
    there = Endpoint(peer.url("/to"), headers=(("Authorization", f"Bearer {token}"),))
    return MigrationRequest(Endpoint(f"file://{folder}/from"), there)


def runner_of(folder: Path, retry_budget: float = 0) -> TransferEngine:
    allowed = Settings(local_folders=str(folder), egress_allow="127.0.0.1")
    return TransferEngine(replace(allowed, retry_budget=retry_budget, settle_seconds=1))


def run_worker(ledger: Ledger, runner: TransferEngine, id: str) -> None:
    with gevent.Timeout(30):
        Worker(ledger, runner, 1, id).run()
    runner.wire.pool.close()
    assert runner.wire.pool.open == 0


@pytest.mark.parametrize("refusal", [401, 403])
def test_f25_an_unprovable_object_waits_and_is_not_resent(
    ledger: Ledger, tmp_path: Path, refusal: int
) -> None:
    cloud, gate, runner = Cloud(), Gate(refusal), runner_of(tmp_path)
    with Peer(gate.before(destination_script(cloud))) as peer:
        id = ledger.create(order(tmp_path, peer, "first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
        found = ledger.migration(id)
        assert (found.state, found.error and found.error["code"]) == (
            "paused",
            "store-credentials-withdrawn",
        )
        assert found.error is not None and found.error["side"] == "destination"
        assert [row.state for row in ledger.page(id)] == ["queued"]
        assert set(gate.denied) == {b"HEAD", b"GET"}
        ledger.act(id, "resume", order(tmp_path, peer, "second").secret())
        run_worker(ledger, runner, id)
        (row,) = ledger.page(id)
        assert (row.state, row.level) == ("verified", "read_back")
    assert cloud.objects == {b"/to": DATA}
    assert cloud.methods.count(b"PUT") == 1


def assert_paused_again(ledger: Ledger, id: str, refusal: int, side: str) -> None:
    """Assert that it waits, with a reason, and that nothing of it has failed."""
    codes = {401: "store-unauthenticated", 403: "store-credentials-withdrawn"}
    found = ledger.migration(id)
    assert found.error is not None, found
    assert (found.state, found.error["code"], found.error["side"]) == (
        "paused",
        codes[refusal],
        side,
    )
    assert f"answered {refusal}" in found.error["detail"]
    assert [row.state for row in ledger.page(id)] == ["queued"]


@pytest.mark.parametrize("refusal", [401, 403])
def test_f25_a_resume_that_the_destination_denies_says_so(
    ledger: Ledger, tmp_path: Path, refusal: int
) -> None:
    cloud, gate, runner = Cloud(), Gate(refusal), runner_of(tmp_path)
    with Peer(gate.before(destination_script(cloud))) as peer:
        id = ledger.create(order(tmp_path, peer, "first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
        for token in ("third", "fourth"):
            ledger.act(id, "resume", order(tmp_path, peer, token).secret())
            run_worker(ledger, runner, id)
            assert_paused_again(ledger, id, refusal, "destination")
        ledger.act(id, "resume", order(tmp_path, peer, "second").secret())
        run_worker(ledger, runner, id)
        assert [row.state for row in ledger.page(id)] == ["verified"]
    assert cloud.methods.count(b"PUT") == 1


def breaking_script(script: Script) -> Script:
    """Answer the first GET with half of the promised bytes, and then the end."""
    broken: list[bytes] = []

    def once(talk: Talk) -> None:
        read = talk.head

        def head() -> bytes:
            request = read()
            if not request.startswith(b"GET ") or broken:
                return request
            broken.append(request)
            talk.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA), DATA[: len(DATA) // 2]
            )
            return b""

        talk.head = head  # type: ignore[method-assign]
        script(talk)

    return once


@pytest.mark.parametrize("refusal", [401, 403])
def test_f25_a_resume_that_the_source_denies_says_so(
    ledger: Ledger, tmp_path: Path, refusal: int
) -> None:
    cloud, gate, runner = (
        Cloud(objects={b"/from": DATA}),
        Gate(refusal, after=b"GET"),
        runner_of(tmp_path, 5),
    )

    def to_folder(token: str) -> MigrationRequest:
        return MigrationRequest(
            Endpoint(peer.url("/from"), headers=(("Authorization", f"Bearer {token}"),)),
            Endpoint(f"file://{tmp_path}/to"),
        )

    with Peer(gate.before(breaking_script(destination_script(cloud)))) as peer:
        id = ledger.create(to_folder("first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
        for token in ("third", "fourth"):
            ledger.act(id, "resume", to_folder(token).secret())
            run_worker(ledger, runner, id)
            assert_paused_again(ledger, id, refusal, "source")
        ledger.act(id, "resume", to_folder("second").secret())
        run_worker(ledger, runner, id)
        assert [row.state for row in ledger.page(id)] == ["verified"]
    assert (tmp_path / "to").read_bytes() == DATA


def plant_tree(folder: Path) -> None:
    (folder / "tree").mkdir()
    for name in ("a", "b", "c"):
        (folder / "tree" / name).write_bytes(DATA)


def tree_request(folder: Path, peer: Peer, token: str) -> MigrationRequest:
    """Return the request that moves the tree with a token of the destination."""
    there = Endpoint(peer.url("/to/"), headers=(("Authorization", f"Bearer {token}"),))
    return MigrationRequest(Endpoint(f"file://{folder}/tree"), there, recursive=True)


@pytest.mark.parametrize("shut", ["a", "b"])
def test_f25_an_object_denied_again_fails_alone(ledger: Ledger, tmp_path: Path, shut: str) -> None:
    cloud, gate, runner = Cloud(objects={b"/to/": b"not empty"}), Gate(403), runner_of(tmp_path)
    plant_tree(tmp_path)
    with Peer(gate.before(destination_script(cloud))) as peer:
        tree = partial(tree_request, tmp_path, peer)
        id = ledger.create(tree("first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
        assert ledger.migration(id).state == "paused"
        gate.shut = f" /to/{shut} ".encode()
        ledger.act(id, "resume", tree("second").secret())
        run_worker(ledger, runner, id)
    assert {row.name: row.state for row in ledger.page(id)} == {
        name: "failed" if name == shut else "verified" for name in ("a", "b", "c")
    }
    (failed,) = ledger.page(id, ["failed"])
    assert failed.error is not None and failed.error["code"] == "store-permission-denied"


def test_f25_a_tree_resumed_with_denied_credentials_waits(ledger: Ledger, tmp_path: Path) -> None:
    cloud, gate, runner = Cloud(objects={b"/to/": b"not empty"}), Gate(403), runner_of(tmp_path)
    plant_tree(tmp_path)
    with Peer(gate.before(destination_script(cloud))) as peer:
        tree = partial(tree_request, tmp_path, peer)
        id = ledger.create(tree("first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
        ledger.act(id, "resume", tree("third").secret())
        run_worker(ledger, runner, id)
        found = ledger.migration(id)
        assert found.error is not None
        assert (found.state, found.error["code"]) == ("paused", "store-credentials-withdrawn")
        assert {row.state for row in ledger.page(id)} == {"queued"}


@pytest.mark.parametrize("refusal", [401, 403])
def test_f25_a_destination_that_denies_reading_is_unverified(
    ledger: Ledger, tmp_path: Path, refusal: int
) -> None:
    """Credentials that may only write have not been withdrawn."""
    gate = Gate(refusal, never=(b"HEAD", b"GET"), after=b"")
    cloud, runner = Cloud(), runner_of(tmp_path)
    with Peer(gate.before(destination_script(cloud))) as peer:
        id = ledger.create(order(tmp_path, peer, "first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
    (row,) = ledger.page(id)
    assert (row.state, row.level) == ("unverified", "size")
    assert cloud.objects == {b"/to": DATA}


def test_f25_permission_for_head_alone_is_unverified(ledger: Ledger, tmp_path: Path) -> None:
    gate = Gate(403, never=(b"GET",), after=b"")
    cloud, runner = Cloud(), runner_of(tmp_path)
    with Peer(gate.before(destination_script(cloud))) as peer:
        id = ledger.create(order(tmp_path, peer, "first").spec(runner.remotes))[0].id
        run_worker(ledger, runner, id)
    assert [row.state for row in ledger.page(id)] == ["unverified"]


@pytest.mark.parametrize("kind", [CredentialsWithdrawn, PermissionDenied])
def test_f25_a_denial_of_replaced_credentials_is_retried(
    ledger: Ledger, tmp_path: Path, kind: type[StoreError]
) -> None:
    """The user gives fresh credentials while the earlier ones are valid, and an object that began
    with those is denied later."""
    jobs = MigrationCache(ledger, runner_of(tmp_path))
    judge, denied = RefusalJudge(jobs, monotonic, {}), kind("no", side="destination")
    id = tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    assert judge.judge(claim, denied)[0] is not Verdict.LATER
    ledger.act(id, "resume", {"source": {}, "destination": {}})
    assert judge.judge(claim, denied)[0] is Verdict.LATER
    ledger.claims.settle([Settlement(claim, "hand_back")])
    (again,) = ledger.claims.claim(1)
    assert judge.judge(again, denied)[0] is not Verdict.LATER


def test_credentials_that_do_not_come_delay_no_other(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that gives credentials may hang, or wait for a person."""
    jobs, gate, begun = MigrationCache(ledger, runner_of(tmp_path)), Event(), Event()

    def read(id: str) -> str:
        if id == "hangs":
            begun.set()
            gate.wait()
        return id

    monkeypatch.setattr(jobs, "_read", read)
    waiting = gevent.spawn(jobs.job, "hangs", 0)
    assert begun.wait(10)
    with gevent.Timeout(10):
        assert jobs.job("other", 0) == "other"
    gate.set()
    assert waiting.get(timeout=10) == "hangs"


# -- a store that is not inspected before an upload


@dataclass
class Notes(Journal):
    """A journal in memory."""

    upload: UploadRecord | None = None
    numbers: Iterator[int] = iter(())

    def recorded_upload(self) -> UploadRecord | None:
        return self.upload

    def begin(self, upload: UploadRecord) -> None:
        self.upload, self.numbers = upload, iter(range(1, upload.total + 1))

    def resume(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        assert self.upload is not None
        there = tuple(part for part in self.upload.parts if part.number not in gone)
        self.upload, self.numbers = replace(self.upload, parts=there), iter(sorted(gone))

    def take(self, upload_id: str, done: StoredPart | None) -> int | None:
        assert self.upload is not None
        if done is not None:
            self.upload = replace(self.upload, parts=(*self.upload.parts, done))
        return next(self.numbers, None)

    def outstanding_parts(self) -> Mapping[int, bool]:
        return {}

    def release_parts(self, numbers: Collection[int]) -> None:
        raise AssertionError(f"{numbers} were taken by nobody")

    def commit(self, digest: str) -> None:
        assert self.upload is not None
        self.upload = replace(self.upload, digest=digest)

    def forget(self) -> None:
        self.upload = None

    def check_lease(self) -> None:
        return


DENIED = {"head": [reply(403)], "get": [refusal(403, "AccessDenied")] * 2}
"""HEAD, the request for the reason of its refusal, which follows if HEAD succeeded before, and the
read-back."""


@pytest.mark.parametrize("size", [len(DATA), SIZE])
@pytest.mark.parametrize("before", ["read", "never read", "other credentials", "no journal"])
def test_f25_a_permission_of_one_object_explains_a_denial(
    certificates: Certificates, tmp_path: Path, before: str, size: int
) -> None:
    (tmp_path / "from").write_bytes(b"x" * size)
    engine, bucket = Engine(certificates.ca_file, IN_PARTS), Bucket()
    source = local_location(tmp_path / "from", destination=False)
    with Peer(repeat_script(bucket)) as peer:
        there = place(peer)
        if before == "never read":
            engine.runner.wire.memory.learn(
                there.origin, TRAILERS
            )  # which is otherwise inspected once after an upload
        else:
            first = engine.migrate(source, place(peer) if before == "other credentials" else there)
            assert first.receipt is not None and first.receipt.level is Level.READ_BACK
        bucket.answers |= {name: list(answers) for name, answers in DENIED.items()}
        notes = None if before == "no journal" else Notes()
        transfer = replace(engine.runner.transfer(engine.plan(source, there)), journal=notes)
        if before == "read":
            with pytest.raises(CredentialsWithdrawn) as caught:
                engine.runner.run(transfer)
            assert (caught.value.side, transfer.resent) == ("destination", 0)
            again = replace(engine.runner.transfer(engine.plan(source, there)), journal=notes)
            again.known = replace(again.known, begun=True)
            sent = bucket.asked.count("put") + bucket.asked.count("part")
            outcome = engine.runner.run(again)
            assert outcome.state is State.VERIFIED
            assert bucket.asked.count("put") + bucket.asked.count("part") == sent
        else:
            assert engine.runner.run(transfer).state is State.UNVERIFIED
        assert bucket.whole == b"x" * size
    engine.assert_nothing_left()
