"""A multipart upload of an object of unknown length, and its row in the ledger: which of them
exists, and when."""

from __future__ import annotations

import socket
import sqlite3
import threading
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import IntegrityMismatch
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import UploadRecord
from relay.receipt import State
from tests.conftest import Engine
from tests.faults.scripted_s3 import (
    IN_PARTS,
    PART,
    Bucket,
    Scripted,
    place,
    refusal,
    repeat_script,
    with_retries,
)
from tests.scripted import Peer, Script, Talk

SIZE = 2 * PART + 1000
"""The size of three parts."""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Watched(Bucket):
    """A bucket that records, at each request, the ids of the uploads that the ledger then knows."""

    ledger: Path = Path()
    known: list[tuple[str, str | None]] = field(default_factory=list)

    def _operation(self, request: bytes) -> str:
        operation = super()._operation(request)
        with closing(
            sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=10)
        ) as connection:
            row = connection.execute("SELECT upload_id FROM uploads").fetchone()
        self.known.append((operation, row and row[0]))
        return operation


def growing_source(size: int, cut: int | None = None) -> Script:
    """A source without HEAD, ranges, and length; with `cut` its bytes break off there."""

    def script(talk: Talk) -> None:
        while request := talk.head():
            if request.startswith(b"HEAD "):
                talk.send(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
                continue
            talk.send(CHUNKED, b"%x\r\n" % size, bytes(size if cut is None else cut))
            if cut is not None:
                return
            talk.send(b"\r\n0\r\n\r\n")

    return script


def runner_of(bucket: Peer) -> TransferEngine:
    keys = {"access_key_id": "KEY", "secret_access_key": "SECRET", "region": "us-east-1"}
    remotes: dict[str, Any] = {"far": {"type": "s3", "endpoint": bucket.url(""), **keys}}
    return TransferEngine(
        Settings(
            remotes=remotes,
            egress_allow="127.0.0.1",
            retry_budget=0,
            part_bytes=PART,
            settle_seconds=1,
        )
    )


def order(source: Peer) -> MigrationRequest:
    return MigrationRequest(Endpoint(source.url("/x")), Endpoint("far:bucket/a/b.bin"))


def move_once(ledger: Ledger, runner: TransferEngine, source: Peer) -> str:
    """Move the object by a migration of its own; return that migration's id."""
    id = ledger.create(order(source).spec(runner.remotes))[0].id
    run_worker(ledger, runner, id)
    return id


def run_worker(ledger: Ledger, runner: TransferEngine, id: str) -> None:
    with gevent.Timeout(60):
        Worker(ledger, runner, 1, id).run()
    runner.wire.pool.close()
    assert runner.wire.pool.open == 0


def test_f51_the_row_comes_before_the_upload_and_goes_after_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    bucket = Watched(ledger=tmp_path / "ledger.db")
    with Peer(repeat_script(bucket)) as there, Peer(growing_source(SIZE)) as source:
        id = move_once(ledger, runner_of(there), source)
    assert [row.state for row in ledger.page(id)] == ["verified"]
    begun = [known for operation, known in bucket.known if operation.startswith("begin")]
    assert begun == [""]
    sent = {known for operation, known in bucket.known if operation in ("part", "complete")}
    assert (bucket.asked.count("part"), sent) == (3, {"up/1"})
    assert ledger.destinations.orphans(kept=0) == []
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*) FROM uploads").fetchone() == (0,)


def test_f51_an_object_of_one_request_has_no_row(ledger: Ledger, tmp_path: Path) -> None:
    bucket = Watched(ledger=tmp_path / "ledger.db")
    with Peer(repeat_script(bucket)) as there, Peer(growing_source(1000)) as source:
        id = move_once(ledger, runner_of(there), source)
    assert [row.state for row in ledger.page(id)] == ["verified"]
    assert {known for _, known in bucket.known} == {None}


FAILURES: dict[str, tuple[dict[str, list[Scripted]], int | None]] = {
    "the source breaks off": ({}, PART + 10),
    "a part is refused": ({"part": [refusal(400, "InvalidTag")]}, None),
    "the end is refused": ({"complete": [refusal(400, "InvalidPart")]}, None),
}


@pytest.mark.parametrize("how", FAILURES)
def test_f51_a_failed_upload_is_aborted_and_then_forgotten(
    ledger: Ledger, tmp_path: Path, how: str
) -> None:
    answers, cut = FAILURES[how]
    bucket = Watched(
        answers={name: list(scripted) for name, scripted in answers.items()},
        ledger=tmp_path / "ledger.db",
    )
    with Peer(repeat_script(bucket)) as there, Peer(growing_source(SIZE, cut)) as source:
        id = move_once(ledger, runner_of(there), source)
    assert [row.state for row in ledger.page(id)] == ["failed"]
    assert bucket.known[-1] == ("abort", "up/1")
    assert ledger.destinations.orphans(kept=0) == []


def test_f51_an_upload_that_cannot_be_aborted_keeps_its_row(ledger: Ledger, tmp_path: Path) -> None:
    """The failure reports it, and the next attempt aborts the upload first."""
    bucket = Watched({"abort": [refusal(403, "AccessDenied")] * 9}, ledger=tmp_path / "ledger.db")
    ways = [growing_source(SIZE), growing_source(SIZE, PART + 10)]
    with Peer(repeat_script(bucket)) as there, Peer(lambda talk: ways[-1](talk)) as source:
        id = move_once(ledger, runner_of(there), source)
        (row,) = ledger.page(id)
        assert row.error is not None
        assert "An unfinished upload may remain at s3://bucket/a/b.bin" in row.error["hint"]
        (orphan,) = ledger.destinations.orphans(kept=0)
        assert isinstance(orphan.upload, UploadRecord)
        assert (orphan.upload.upload_id, orphan.upload.pinned) == ("up/1", None)
        bucket.answers.clear()
        bucket.asked.clear()
        ways.pop()
        ledger.act(id, "retry", order(source).secret())
        run_worker(ledger, runner_of(there), id)
    assert [row.state for row in ledger.page(id)] == ["verified"]
    assert bucket.asked.index("abort") < next(
        i for i, one in enumerate(bucket.asked) if one.startswith("begin")
    )


def _listen_again(peer: Peer) -> None:
    peer._listener = socket.create_server(("127.0.0.1", peer.port), backlog=256)
    peer.__enter__()


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_an_object_assembled_before_a_restart_is_ours(
    engine: Engine, if_exists: str, damaged: bool
) -> None:
    """The answer is lost, and the server is unreachable for a moment."""
    with_retries(engine).runner.limits = engine.runner.wire.limits = IN_PARTS
    bucket = Bucket(mangle=(lambda data: b"x" + data[1:]) if damaged else bytes)
    with Peer(repeat_script(bucket)) as there, Peer(growing_source(SIZE)) as source:

        def restart(talk: Talk) -> None:
            there._listener.shutdown(socket.SHUT_RDWR)
            there._listener.close()
            talk.reset()
            threading.Timer(0.2, _listen_again, [there]).start()

        bucket.answers["complete"] = [restart]
        with pytest.raises(IntegrityMismatch) if damaged else nullcontext():
            assert (
                engine.migrate(source.url("/x"), place(there), if_exists=if_exists).state
                is State.VERIFIED
            )
