"""S3 credentials that may only write: each object gets the level that the answer to its upload
proves, and none fails.

Over scripted buckets that know no checksum, or report none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.stores.s3.quirks import UNSEEN
from tests.end_to_end.terminal import bucket_terminal
from tests.faults.scripted_s3 import (
    EMPTY_PAGE,
    GONE,
    PART,
    PARTED,
    SIZE,
    Bucket,
    refusal,
    repeat_script,
    reply,
)
from tests.faults.test_window import DATA, PARTS, Ranges
from tests.pairs import in_pairs
from tests.scripted import Peer, Talk

DENIED = refusal(403, "AccessDenied")


@dataclass
class WriteOnly(Bucket):
    """A bucket that denies every read; with `lists` it reports absent objects, as S3 does for
    credentials that may list."""

    lists: bool = False
    there: set[bytes] = field(default_factory=set)

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        target = request.split(b" ", 2)[1]
        key = target.partition(b"?")[0]
        if operation in ("head", "get"):
            return self._deny(operation, key, b"list-type" in target)
        if operation == "parts":
            return DENIED
        answer = super()._answer(operation, request, body)
        if operation in ("put", "complete") and answer.startswith(b"HTTP/1.1 200"):
            self.there.add(key)
        return answer

    def _deny(self, operation: str, key: bytes, listing: bool) -> bytes:
        if self.lists and listing:
            return reply(200, EMPTY_PAGE)
        if self.lists and key not in self.there:
            return GONE
        return reply(403) if operation == "head" else DENIED


BUCKETS: dict[str, Callable[..., WriteOnly]] = {
    "tells none": lambda **more: WriteOnly(**more),
    "tells none, and keeps the coding": lambda **more: WriteOnly(blind=True, **more),
    "knows none": lambda **more: WriteOnly(old=True, tags=False, **more),
    "knows none, and denies it": lambda **more: WriteOnly(
        refuses={b"x-amz-trailer": DENIED}, **more
    ),
    "knows MD5": lambda **more: WriteOnly(old=True, **more),
    "knows MD5, and denies the rest": lambda **more: WriteOnly(
        old=True, refuses={b"x-amz-trailer": DENIED}, **more
    ),
    "tells checksums": lambda **more: WriteOnly(sums=True, **more),
}
PROVEN = ("knows MD5", "knows MD5, and denies the rest", "tells checksums")
WITHOUT_CHECKSUMS = ("tells none", "tells none, and keeps the coding")


def move_tree(
    ledger: Ledger, folder: Path, peer: Peer, if_exists: IfExists | None = None
) -> tuple[Migration, list[Any]]:
    """Move a tree of small objects and a large one, with one slot; return the migration and its
    rows."""
    (folder / "from").mkdir(exist_ok=True)
    for name, size in [*((f"{i}", 1000 + i) for i in range(4)), ("large", SIZE)]:
        (folder / "from" / name).write_bytes(name.encode() * (size // len(name)))
    keys = {"access_key_id": "KEY", "secret_access_key": "SECRET", "region": "us-east-1"}
    remotes: dict[str, Any] = {"far": {"type": "s3", "endpoint": peer.url(""), **keys}}
    common = Settings(
        remotes=remotes, local_folders=str(folder), egress_allow="127.0.0.1", settle_seconds=1
    )
    runner = TransferEngine(replace(common, retry_budget=5, part_bytes=PART, parted_bytes=PART))
    order = MigrationRequest(
        Endpoint(f"file://{folder}/from"),
        Endpoint("far:bucket/a"),
        recursive=True,
        if_exists=if_exists,
    )
    id = ledger.create(order.spec(runner.remotes))[0].id
    with gevent.Timeout(60):
        Worker(ledger, runner, 1, id).run()
    runner.wire.pool.close()
    assert runner.wire.pool.open == 0
    return ledger.migration(id), ledger.page(id)


@in_pairs(
    if_exists=[IfExists.CHANGED, IfExists.OVERWRITE],
    lists={"may list": True, "may not list": False},
    kind=list(BUCKETS),
)
def test_f54_each_object_gets_the_level_that_its_upload_proves(
    ledger: Ledger, tmp_path: Path, kind: str, lists: bool, if_exists: IfExists
) -> None:
    """The second time the objects exist, and still cannot be inspected."""
    bucket = BUCKETS[kind](lists=lists)
    level = ("verified", "whole_digest") if kind in PROVEN else ("unverified", "size")
    with Peer(repeat_script(bucket)) as peer:
        for _ in range(2):
            migration, rows = move_tree(ledger, tmp_path, peer, if_exists)
            assert migration.error is None
            found = {row.name: (row.state, row.level) for row in rows}
            assert found == {f"{i}": level for i in range(4)} | {"large": ("unverified", "size")}


@pytest.mark.parametrize("kind", WITHOUT_CHECKSUMS)
def test_f54_an_object_that_may_hold_the_coding_is_noted(
    ledger: Ledger, tmp_path: Path, kind: str
) -> None:
    bucket = BUCKETS[kind]()
    with Peer(repeat_script(bucket)) as peer:
        _, rows = move_tree(ledger, tmp_path, peer)
        noted = [row.name for row in rows if UNSEEN in row.receipt["notes"]]
        assert noted == ["0"]
    small = [
        request
        for request in bucket.requests
        if request.startswith(b"PUT") and b"partNumber" not in request
    ]
    assert [b"x-amz-trailer" in request for request in small] == [True, False, False, False]


def test_f54_an_unseen_existing_object_is_not_overwritten(ledger: Ledger, tmp_path: Path) -> None:
    """Nothing can show then that the object is absent."""
    bucket = BUCKETS["knows MD5"]()
    with Peer(repeat_script(bucket)) as peer:
        _, rows = move_tree(ledger, tmp_path, peer, IfExists.SKIP)
    assert {(row.state, row.error["code"]) for row in rows} == {
        ("failed", "store-permission-denied")
    }
    assert not bucket.there


@dataclass
class Expiring(Bucket):
    """A bucket of many objects that accepts its credentials for a number of uploads."""

    takes: int = 2
    objects: set[bytes] = field(default_factory=set)

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        key = request.split(b" ", 2)[1].partition(b"?")[0]
        if len(self.objects) >= self.takes and operation != "list":
            return reply(403) if operation == "head" else refusal(403, "InvalidAccessKeyId")
        if operation == "put":
            self.objects.add(key)
        elif operation in ("head", "get") and key not in self.objects:
            return GONE
        return super()._answer(operation, request, body)


def test_a_head_denied_for_expired_credentials_fails_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    """HEAD has no body, and MinIO answers 403 for keys that it no longer knows."""
    bucket = Expiring(sums=True)
    with Peer(repeat_script(bucket)) as peer:
        migration, rows = move_tree(ledger, tmp_path, peer, IfExists.SKIP)
    assert sorted(row.state for row in rows) == ["queued"] * 3 + ["verified"] * 2
    assert migration.error is not None
    assert migration.error["code"] == "store-unauthenticated"


@pytest.mark.parametrize(
    ("size", "moment", "end", "later"),
    [
        (1000, "after-put-sent", 0, PART),
        (3 * PART, "after-part-row", 3, PART),
        (3 * PART, "after-part-row", 3, 2 * PART),
    ],
)
def test_a_killed_upload_is_resumed_unseen(
    tmp_path: Path, size: int, moment: str, end: int, later: int
) -> None:
    """Also if its parts would have another size now."""
    bucket, (file, data) = WriteOnly(sums=True), (tmp_path / "a", bytes(range(250)) * (size // 250))
    file.write_bytes(data)
    with Peer(repeat_script(bucket)) as peer:
        settings = {**PARTED, "RELAY_PARTS_IN_FLIGHT": "1", "RELAY_RETRY_BUDGET": "3"}
        terminal = bucket_terminal(tmp_path, peer.url(""), **settings)
        words = ("migrate", str(file), "s3://bucket/a")
        assert terminal.run(*words, RELAY_FAILPOINT=f"{moment}:1:kill9")[0] == -9
        code, _, err = terminal.run(*words, RELAY_PART_BYTES=str(later))
    assert code == end, err
    assert bucket.whole == data
    assert bucket.asked.count("part") <= 4
    assert "abort" not in bucket.asked


def test_f38_a_lost_answer_to_complete_denies_nothing(ledger: Ledger, tmp_path: Path) -> None:
    bucket = WriteOnly({"complete": [b""]}, sums=True)
    with Peer(repeat_script(bucket)) as peer:
        migration, rows = move_tree(ledger, tmp_path, peer, IfExists.OVERWRITE)
    assert migration.error is None
    assert {row.state for row in rows if row.name == "large"} == {"unverified"}


@dataclass
class Session:
    """A proxy before a source, which redirects to its login page after some requests."""

    source: Ranges
    requests: int

    def __call__(self, talk: Talk) -> None:
        read = talk.head

        def head() -> bytes:
            while request := read():
                method, path = request.split(b" ", 2)[:2]
                if path == b"/login":
                    page = reply(200, b"<p>Log in", "Content-Type: text/html", 'ETag: "l"')
                    talk.send(page.partition(b"<p>")[0] if method == b"HEAD" else page)
                elif self.requests:
                    self.requests -= 1
                    return request
                else:
                    talk.send(reply(302, b"", "Location: /login"))
            return b""

        talk.head = head  # type: ignore[method-assign]
        self.source(talk)


def test_arrived_parts_outlive_the_session_of_their_source(tmp_path: Path) -> None:
    bucket, session = WriteOnly(sums=True), Session(Ranges(), requests=3)
    with Peer([session] * 40) as here, Peer(repeat_script(bucket)) as there:
        settings = {**PARTED, "RELAY_PARTS_IN_FLIGHT": "1", "RELAY_RETRY_BUDGET": "1"}
        allowed = {"RELAY_EGRESS_ALLOW": "127.0.0.0/8"}
        terminal = bucket_terminal(tmp_path, there.url(""), **settings, **allowed)
        words = ("migrate", here.url("/a.bin"), "s3://bucket/a")
        code, _, err = terminal.run(*words)
        assert (code, "login page" in err, "abort" in bucket.asked) == (1, True, False), err
        session.requests = 100
        assert terminal.run(*words)[0] == 3
    assert bucket.whole == DATA
    assert bucket.asked.count("part") == PARTS
