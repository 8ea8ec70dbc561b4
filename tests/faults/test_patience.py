"""Retries: which operations are retried, for how long, with which state, and how they are
reported."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import time

import gevent
import pytest

from relay.cli.formatting import headline
from relay.cli.watch_object import _ObjectLines
from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists
from relay.engine.retries import WHOLE, PendingRetries, PendingRetry
from relay.engine.transfer.context import ObjectHints
from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import (
    Cancelled,
    IntegrityMismatch,
    RelayError,
    SourceTruncated,
    Stalled,
    StoreTimeout,
    Unavailable,
)
from relay.filters.filter_set import read_filters
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import UploadRecord
from relay.receipt import State
from relay.retry import Backoff, Patience
from relay.stores.remotes import Remotes
from relay.views.migrations import brief
from tests.conftest import QUICK, Certificates, Engine
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.faults.scripted_s3 import (
    IN_PARTS,
    PART,
    Bucket,
    document,
    place,
    refusal,
    repeat_script,
    reply,
)
from tests.faults.test_window import DATA as LARGE
from tests.faults.test_window import PARTS, Ranges
from tests.faults.test_withdrawn import Notes
from tests.scripted import Peer, Talk

# -- the budget


@dataclass
class Tried:
    """One operation that is retried, on a clock that is set by hand; no wait is shortened."""

    budget: float
    now: float = 0.0
    waits: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.patience = Patience(Backoff(self.budget), lambda: 1.0, lambda: self.now)

    def fail_after(self, after: float, reached: int = 0, moved: float = 0.0) -> float | None:
        """Let it fail after `after` seconds, in the first `moved` of which bytes moved."""
        moved_at = self.now + moved
        self.now += after
        wait = self.patience.wait(reached, moved_at, None)
        self.waits.append(wait)
        self.now += wait or 0.0
        return wait


def test_the_budget_counts_from_the_first_failure() -> None:
    tried = Tried(60)
    assert tried.fail_after(after=24 * 3600, reached=10**12) is not None


def test_a_stall_as_long_as_the_budget_is_retried_once() -> None:
    tried = Tried(60)
    assert tried.fail_after(after=60) is not None
    assert tried.fail_after(after=60) is None


def test_progress_renews_the_budget() -> None:
    tried = Tried(60)
    for reached in range(1, 200):
        assert tried.fail_after(after=59, reached=reached) == 0.25


def test_a_transfer_that_always_ends_at_one_byte_fails() -> None:
    """Even if it takes long to get there: the time in which bytes move does not count, but the
    waits do."""
    tried = Tried(60)
    while tried.fail_after(after=3600, reached=1000, moved=3600) is not None:
        assert len(tried.waits) < 30
    assert 5 < len(tried.waits) < 15
    assert sum(wait or 0 for wait in tried.waits) <= 60


def test_a_stall_after_progress_uses_the_budget() -> None:
    tried = Tried(60)
    assert tried.fail_after(after=100, reached=1000, moved=40) is not None
    assert tried.fail_after(after=100, reached=1000, moved=70) is not None
    assert tried.fail_after(after=100, reached=1000, moved=70) is None


def test_without_a_budget_nothing_is_tried_again() -> None:
    assert Tried(0).fail_after(after=1, reached=5) is None


STALLS: dict[str, Callable[[Talk, bytes], None]] = {
    "a stall": lambda talk, _: (talk.send(GET_HEAD, DATA[:1000]), talk.linger())[0],
    "no answer": lambda talk, _: talk.linger(),
    "half a head": lambda talk, _: (talk.send(GET_HEAD[:20]), talk.linger())[0],
}


@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS)
def test_a_stall_or_a_missing_answer_is_tried_again_by_default(
    certificates: Certificates, stall: Callable[[Talk, bytes], None]
) -> None:
    """By default a stall is noticed after as many seconds as the budget has; here both are one."""
    limits = replace(QUICK, head_seconds=1, stall_seconds=1, stall_bytes=QUICK.stall_bytes)
    engine, cloud = Engine(certificates.ca_file, limits, retry_budget=1), Cloud()
    scripts = [
        source_script(Cloud(), stall),
        *[source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 3,
    ]
    with Peer(scripts) as here, Peer(destination_script(cloud)) as there:
        outcome = engine.migrate(here.url("/a"), there.url("/b"))
    assert outcome.state is State.VERIFIED
    assert cloud.objects == {b"/b": DATA}
    engine.assert_nothing_left()


@pytest.mark.parametrize("kind", [SourceTruncated, Stalled])
def test_a_transfer_without_progress_fails(
    certificates: Certificates, kind: type[RelayError]
) -> None:
    limits = replace(QUICK, stall_seconds=0.3)
    engine = Engine(certificates.ca_file, limits, retry_budget=0.5)

    def get(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[:1000])
        if kind is Stalled:
            talk.linger()

    with (
        Peer(source_script(Cloud(), get)) as here,
        Peer(destination_script(Cloud())) as there,
        gevent.Timeout(15),
    ):
        with pytest.raises(kind):
            engine.migrate(here.url("/a"), there.url("/b"))
    engine.assert_nothing_left()


# -- parts


@dataclass
class Shelf(Bucket):
    """A bucket that lists its parts. A `spoilt` one answers 500 to every second part of its first
    upload, and then lists a part of 0 bytes, as `rclone serve s3` does after a broken part."""

    spoilt: bool = False
    uploads: int = 0

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        if operation.startswith("begin"):
            self.uploads += 1
        if operation == "abort":
            self.parts.clear()
        bad = self.spoilt and self.uploads == 1 and bool(self.parts)
        if bad and operation in ("part", "complete"):
            return refusal(500, "InternalError")
        if operation == "parts" and self.whole is None:
            sizes = {number: len(data) for number, data in self.parts.items()}
            if bad:
                sizes[2] = 0
            rows = "".join(
                f'<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>"part-{number}"</ETag></Part>'
                for number, size in sizes.items()
            )
            return reply(200, document("ListPartsResult").replace(b"><", f">{rows}<".encode()))
        return super()._answer(operation, request, body)


class Book(Notes):
    """A journal in memory that knows which parts are still to be sent."""

    def resume(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        super().resume(upload_id, gone, total)
        assert self.upload is not None
        there = {part.number for part in self.upload.parts}
        self.numbers = iter([number for number in range(1, total + 1) if number not in there])


def parts_engine(certificates: Certificates, budget: float = 0, **limits: float) -> Engine:
    return Engine(certificates.ca_file, replace(IN_PARTS, **limits), retry_budget=budget)  # type: ignore[arg-type]


def attempt(engine: Engine, here: Peer, there: Peer, notes: Notes, begun: bool = False) -> Transfer:
    """Return a transfer whose journal is kept in memory."""
    made = replace(
        engine.runner.transfer(engine.plan(here.url("/a"), place(there))), random=lambda: 0.05
    )
    made.journal = notes
    made.known = replace(made.known, begun=begun)
    return made


def parts_sent(bucket: Bucket) -> int:
    return bucket.asked.count("part")


def test_parts_outlive_the_deadline_of_their_object(certificates: Certificates) -> None:
    engine, source, bucket, notes = (
        parts_engine(certificates, total_seconds=1.0),
        Ranges(),
        Shelf(sums=True),
        Book(),
    )
    bucket.answers["part"] = [accept_part(1), lambda talk: talk.linger(3)]
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(StoreTimeout) as caught:
            engine.runner.run(attempt(engine, here, there, notes))
        assert not caught.value.retryable
        assert "abort" not in bucket.asked
        assert notes.upload is not None
        kept, before = len(notes.upload.parts), parts_sent(bucket)
        assert kept == 1
        engine.runner.limits = engine.runner.wire.limits = IN_PARTS
        outcome = engine.runner.run(attempt(engine, here, there, notes, begun=True))
    assert outcome.state is State.VERIFIED
    assert bucket.whole == LARGE
    assert parts_sent(bucket) - before == PARTS - kept
    engine.assert_nothing_left()


def accept_part(number: int) -> Callable[[Talk], None]:
    return lambda talk: talk.send(reply(200, b"", f'ETag: "part-{number}"'))


REFUSALS = {
    "rejected": refusal(400, "InvalidRequest"),
    "gone": reply(410),
    "no http": b"nonsense\r\n\r\n",
    "denied": refusal(403, "AccessDenied"),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
def test_an_answer_to_one_part_discards_no_other(certificates: Certificates, answer: bytes) -> None:
    engine, source, bucket, notes = parts_engine(certificates), Ranges(), Shelf(sums=True), Book()
    bucket.answers["part"] = [accept_part(1), accept_part(2), answer, answer]
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(RelayError):
            engine.runner.run(attempt(engine, here, there, notes))
        assert "abort" not in bucket.asked
        bucket.answers.clear()
        before = parts_sent(bucket)
        assert (
            engine.runner.run(attempt(engine, here, there, notes, begun=True)).state
            is State.VERIFIED
        )
    assert bucket.whole == LARGE
    assert parts_sent(bucket) - before == PARTS - 2
    engine.assert_nothing_left()


@pytest.mark.parametrize(
    ("what", "lapsed", "resent"),
    [
        ("nothing", True, 0),
        ("the upload", False, 2 * PART),
        ("a part", False, PART),
        ("a record", True, PART),
        ("a record", False, 0),  # the attempt that sent the part has counted it
    ],
)
def test_lost_parts_of_an_earlier_process_count_as_resent(
    certificates: Certificates, what: str, lapsed: bool, resent: int
) -> None:
    engine, source, bucket, notes = parts_engine(certificates), Ranges(), Shelf(sums=True), Book()
    bucket.answers["part"] = [accept_part(1), accept_part(2), *[refusal(400, "InvalidRequest")] * 2]
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(RelayError):
            engine.runner.run(attempt(engine, here, there, notes))
        bucket.answers.clear()
        assert notes.upload is not None and len(notes.upload.parts) == 2
        if what == "the upload":
            bucket.parts.clear()
            bucket.answers["parts"] = [refusal(404, "NoSuchUpload")]
        elif what == "a part":
            del bucket.parts[2]
        elif what == "a record":
            notes.upload = replace(notes.upload, parts=notes.upload.parts[:1])
        second = attempt(engine, here, there, notes, begun=True)
        second.known = replace(second.known, after_crash=lapsed)
        outcome = engine.runner.run(second)
    assert bucket.whole == LARGE
    assert outcome.receipt is not None
    assert outcome.receipt.bytes_resent == second.resent == resent


def test_parts_of_an_upload_that_vanishes_count_as_resent(certificates: Certificates) -> None:
    engine, source, bucket, notes = (
        parts_engine(certificates, 10),
        Ranges(),
        Shelf(sums=True),
        Book(),
    )
    bucket.answers["part"] = [accept_part(1), accept_part(2), refusal(404, "NoSuchUpload")]
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        outcome = engine.runner.run(attempt(engine, here, there, notes))
    assert bucket.whole == LARGE
    assert outcome.receipt is not None
    assert outcome.receipt.bytes_resent >= 2 * PART


@pytest.mark.parametrize(
    "answer",
    [refusal(400, "InvalidPart"), refusal(412, "PreconditionFailed")],
    ids=["invalid part", "exists"],
)
def test_an_upload_that_cannot_be_completed_is_aborted(
    certificates: Certificates, answer: bytes
) -> None:
    engine, source, bucket, notes = parts_engine(certificates), Ranges(), Shelf(sums=True), Book()
    bucket.answers["complete"] = [answer]
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(RelayError):
            engine.runner.run(attempt(engine, here, there, notes))
    assert bucket.asked[-1] == "abort"
    assert notes.upload is None


def test_a_wait_for_another_completion_can_be_stopped(certificates: Certificates) -> None:
    engine, bucket, notes = parts_engine(certificates, 600), Shelf(sums=True), Book()
    bucket.answers["complete"] = [refusal(503, "SlowDown", "Retry-After: 60")]
    waits: list[bool] = []

    def stop(_: float) -> None:
        waits.append(transfer.meter.committed)
        transfer.cancel()

    with Peer([Ranges()] * 20) as here, Peer(repeat_script(bucket)) as there:
        transfer = attempt(engine, here, there, notes)
        transfer.sleep = stop
        with pytest.raises(Cancelled):
            engine.runner.run(transfer)
    assert waits == [False]


def test_an_upload_under_an_earlier_name_is_aborted(certificates: Certificates) -> None:
    """The source named its newest release otherwise then."""
    engine, bucket = parts_engine(certificates), Shelf(sums=True)
    source = Ranges(more="Content-Disposition: attachment; filename=two\r\n")
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        folder = replace(place(there), target="/bucket/a/")
        transfer = engine.runner.transfer(engine.plan(here.url("/latest"), folder))
        begun = UploadRecord(
            upload_id="up/0",
            checked=True,
            place=str(folder.object_named("one")),
            etag='"e"',
            size=len(LARGE),
            part_bytes=PART,
            total=PARTS,
        )
        transfer.journal, transfer.known = Book(begun), ObjectHints(begun=True)
        assert engine.runner.run(transfer).destination == folder.object_named("two")
    deleted = [request.split(b" ")[1] for request in bucket.requests if request[:6] == b"DELETE"]
    assert deleted == [b"/bucket/a/one?uploadId=up%2F0"]


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
@pytest.mark.parametrize("if_exists", [IfExists.SKIP, IfExists.FAIL])
@pytest.mark.parametrize("status", [500, 503, 504])
def test_an_object_found_at_the_second_complete_is_proved(
    certificates: Certificates, status: int, if_exists: IfExists, damaged: bool
) -> None:
    """The first request completed the upload, and only its answer was lost: the object is neither
    left alone as another writer's, nor an obstacle."""
    engine, source, bucket, notes = (
        parts_engine(certificates, 10),
        Ranges(),
        Shelf(sums=True),
        Book(),
    )
    bucket.answers["complete"] = [
        lambda talk: talk.send(refusal(status, "InternalError")),
        refusal(412, "PreconditionFailed"),
    ]
    bucket.mangle = (lambda data: data[::-1]) if damaged else bytes
    with Peer([source] * 60) as here, Peer(repeat_script(bucket)) as there:
        transfer = attempt(engine, here, there, notes)
        transfer.plan = replace(transfer.plan, if_exists=if_exists)
        if damaged:
            with pytest.raises(IntegrityMismatch) as caught:
                engine.runner.run(transfer)
            assert str(place(there)) in caught.value.remains
        else:
            assert engine.runner.run(transfer).state is State.VERIFIED
    assert bucket.whole == (LARGE[::-1] if damaged else LARGE)
    assert parts_sent(bucket) == PARTS
    engine.assert_nothing_left()


def test_a_cancelled_upload_is_aborted(certificates: Certificates) -> None:
    engine, source, bucket, notes = parts_engine(certificates), Ranges(), Shelf(sums=True), Book()
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        transfer = attempt(engine, here, there, notes)

        def cancel(talk: Talk) -> None:
            accept_part(1)(talk)
            transfer.cancel(Cancelled("the migration was cancelled", retryable=False))

        bucket.answers["part"] = [cancel]
        with pytest.raises(Cancelled):
            engine.runner.run(transfer)
    assert bucket.asked[-1] == "abort"
    assert notes.upload is None


def leave_two_parts(engine: Engine, here: Peer, there: Peer, bucket: Shelf, notes: Book) -> None:
    """Let one attempt, without retries, send two parts and fail; the next ones have twenty seconds
    of retries."""
    engine.runner.settings = replace(engine.runner.settings, retry_budget=0)
    bucket.answers["part"] = [accept_part(1), accept_part(2), refusal(503, "SlowDown")]
    with pytest.raises(RelayError):
        engine.runner.run(attempt(engine, here, there, notes))
    engine.runner.settings = replace(engine.runner.settings, retry_budget=20)


def test_a_resumed_upload_that_takes_no_part_restarts(
    certificates: Certificates,
) -> None:
    engine, source, bucket, notes = (
        parts_engine(certificates, 20),
        Ranges(),
        Shelf(sums=True),
        Book(),
    )
    with Peer([source] * 60) as here, Peer(repeat_script(bucket)) as there:
        leave_two_parts(engine, here, there, bucket, notes)
        bucket.spoilt = True
        outcome = engine.runner.run(attempt(engine, here, there, notes, begun=True))
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    assert any("was restarted" in note for note in outcome.receipt.notes)
    assert bucket.whole == LARGE
    assert bucket.uploads == 2
    assert parts_sent(bucket) < 6 * PARTS
    engine.assert_nothing_left()


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_a_resumed_upload_that_cannot_complete_restarts(
    certificates: Certificates, failures: int
) -> None:
    """Even if it cannot be aborted at once."""
    engine, source, bucket, notes = (
        parts_engine(certificates, 20),
        Ranges(),
        Shelf(sums=True),
        Book(),
    )
    with Peer([source] * 60) as here, Peer(repeat_script(bucket)) as there:
        leave_two_parts(engine, here, there, bucket, notes)
        bucket.answers["complete"] = [refusal(400, "InvalidPart")] * (2 if failures > 3 else 1)
        bucket.answers["abort"] = [refusal(500, "InternalError")] * failures
        outcome = engine.runner.run(attempt(engine, here, there, notes, begun=True))
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    assert any("was restarted" in note for note in outcome.receipt.notes)
    assert bucket.asked.count("abort") == failures + 1
    assert bucket.whole == LARGE
    engine.assert_nothing_left()


@pytest.mark.parametrize(("status", "code"), [(503, "ServiceUnavailable"), (521, "")])
def test_an_outage_of_a_store_costs_no_part(
    certificates: Certificates, status: int, code: str
) -> None:
    """An outage says nothing about the upload, after any number of requests."""
    engine, source, bucket, notes = parts_engine(certificates), Ranges(), Shelf(sums=True), Book()
    with Peer([source] * 60) as here, Peer(repeat_script(bucket)) as there:
        bucket.answers["part"] = [accept_part(1), accept_part(2), refusal(503, "SlowDown")]
        with pytest.raises(RelayError):
            engine.runner.run(attempt(engine, here, there, notes))
        engine.runner.settings = replace(engine.runner.settings, retry_budget=0.4)
        bucket.answers["part"] = [refusal(status, code)] * 99
        with pytest.raises(RelayError):
            engine.runner.run(attempt(engine, here, there, notes, begun=True))
        assert "abort" not in bucket.asked
        assert notes.upload is not None and len(notes.upload.parts) == 2
    engine.assert_nothing_left()


# -- the reports


def test_the_oldest_trouble_is_reported_until_it_ends() -> None:
    now = [100.0]
    troubles = PendingRetries(lambda: now[0])
    troubles.note("part 2 of 9", Unavailable("503", side="destination"), 1, 2.0)
    now[0] = 102.0
    troubles.note("part 2 of 9", Unavailable("500", side="destination"), 2, 4.0)
    troubles.note("part 3 of 9", Unavailable("503", side="source"), 1, 1.0)
    assert troubles.worst == PendingRetry(
        what="part 2 of 9",
        code="store-unavailable",
        side="destination",
        detail="500",
        failures=2,
        since=100.0,
        again=106.0,
    )
    troubles.over("part 2 of 9")
    assert troubles.worst is not None and troubles.worst.what == "part 3 of 9"
    troubles.over("part 3 of 9")
    assert troubles.worst is None


def test_progress_names_the_pending_retry(
    certificates: Certificates,
) -> None:
    engine, cloud = Engine(certificates.ca_file, QUICK, retry_budget=30), Cloud()
    go = threading.Event()
    first = source_script(
        Cloud(), fixed_answer(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
    )

    def later(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[:200_000])
        go.wait(10)
        talk.send(DATA[200_000:])

    with (
        Peer([first, source_script(Cloud(), later)]) as here,
        Peer(destination_script(cloud)) as there,
    ):
        transfer = engine.runner.transfer(engine.plan(here.url("/a"), there.url("/b")))
        assert "trouble" not in transfer.progress()
        running = gevent.spawn(engine.runner.run, transfer)
        with gevent.Timeout(5):
            while transfer.trouble is None:
                gevent.sleep(0.01)
        trouble = transfer.progress()["trouble"]
        assert (trouble["what"], trouble["side"], trouble["failures"]) == (WHOLE, "source", 1)
        assert "503" in trouble["detail"]
        assert 0.9 < trouble["again"] - trouble["since"] < 1.3
        with gevent.Timeout(5):
            while transfer.bytes == 0:
                gevent.sleep(0.01)
        assert transfer.trouble is None  # bytes move again
        go.set()
        assert running.get(timeout=10).state is State.VERIFIED
    assert "trouble" not in transfer.progress()
    engine.assert_nothing_left()


def test_a_retried_part_is_named_by_number(certificates: Certificates) -> None:
    engine, source, bucket = parts_engine(certificates, budget=20), Ranges(), Shelf(sums=True)
    bucket.answers["part"] = [accept_part(1), refusal(503, "SlowDown", "Retry-After: 1")]
    with Peer([source] * 60) as here, Peer(repeat_script(bucket)) as there:
        transfer = engine.runner.transfer(engine.plan(here.url("/a"), place(there)))
        running = gevent.spawn(engine.runner.run, transfer)
        with gevent.Timeout(5):
            while transfer.trouble is None:
                gevent.sleep(0.01)
        assert transfer.trouble.what == f"part 2 of {PARTS}"
        assert running.get(timeout=20).state is State.VERIFIED
        assert transfer.trouble is None
    engine.assert_nothing_left()


def test_a_retry_is_visible_in_the_ledger(ledger: Ledger) -> None:
    """Another process sees it too; and it is over when bytes move again, or the object has
    ended."""
    runner = TransferEngine(Settings(egress_allow="127.0.0.1", retry_budget=30))
    cloud = Cloud()
    first = source_script(
        Cloud(), fixed_answer(b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n")
    )
    with (
        Peer([first, source_script(Cloud(), fixed_answer(GET_HEAD, DATA))]) as here,
        Peer(destination_script(cloud)) as there,
    ):
        order = MigrationRequest(Endpoint(here.url("/x")), Endpoint(there.url("/y")))
        id = ledger.create(order.spec(runner.remotes))[0].id
        working = gevent.spawn(Worker(ledger, runner, 1, id).run)
        with gevent.Timeout(10):
            while not (view := brief(ledger.migration(id)))["retried"]:
                gevent.sleep(0.05)
        (one,) = view["retried"]
        assert (one["name"], one["what"], one["error"], one["side"]) == (
            "",
            WHOLE,
            "store-throttled",
            "source",
        )
        assert "503" in one["detail"]
        assert one["since"] <= one["again"] < one["since"] + 5
        view = {**view, "retried": [{**one, "again": time() + 60.4}]}
        assert headline(view, 0.0).endswith(
            f"; {WHOLE} is retried in 60 s: source: {one['detail']}"
        )
        named = {**view, "retried": [{**one, "name": "a\x1bb", "again": 0.0}, one]}
        assert f"; a\\x1bb is retried now: source: {one['detail']}; 1 more like it" in headline(
            named, 0.0
        )
        working.join(20)
        runner.wire.pool.close()
    assert cloud.objects == {b"/y": DATA}
    ended = brief(ledger.migration(id))
    assert (ended["state"], ended["retried"]) == ("succeeded", [])
    assert [row.error for row in ledger.page(id)] == [None]


def test_the_terminal_names_the_reason_of_a_wait(
    certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(certificates.ca_file, QUICK, retry_budget=30)
    transfer = engine.runner.transfer(engine.plan("http://127.0.0.1:1/a", "http://127.0.0.1:1/b"))
    lines = _ObjectLines()
    lines.show(transfer)
    transfer._pending_retries.note(WHOLE, Unavailable("it was busy", side="source"), 1, 20.4)
    lines._next = 0.0
    lines.show(transfer)
    assert capsys.readouterr().err.endswith(f"; {WHOLE} is retried in 20 s: source: it was busy\n")


def test_a_retried_listing_is_reported(ledger: Ledger) -> None:
    runner = TransferEngine(Settings(egress_allow="127.0.0.1"))
    page = b"<html><title>Index of /f/</title><a href='a'>a</a></html>"
    asked: list[bytes] = []

    def folder(talk: Talk) -> None:
        while head := talk.head():
            asked.append(head)
            if len(asked) == 1:
                talk.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n")
            elif head.startswith(b"GET /f/ "):
                talk.send(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
                    % len(page),
                    page,
                )
            else:
                talk.send(GET_HEAD, b"" if head.startswith(b"HEAD") else DATA)

    with Peer([folder] * 20) as here, Peer(destination_script(Cloud())) as there:
        order = MigrationRequest(
            Endpoint(here.url("/f/")), Endpoint(there.url("/to/")), recursive=True
        )
        id = ledger.create(order.spec(runner.remotes))[0].id
        worker = Worker(ledger, runner, 1, id)
        working = gevent.spawn(worker.run)
        with gevent.Timeout(10):
            while not (retried := ledger.migration(id).retried):
                gevent.sleep(0.02)
        assert (retried[0]["what"], retried[0]["side"], retried[0]["failures"]) == (
            "the listing",
            "source",
            1,
        )
        assert "503" in retried[0]["detail"]
        assert retried[0]["since"] <= retried[0]["again"]
        working.join(20)
        assert (ledger.migration(id).retried, ledger.migration(id).error) == ((), None)
        runner.wire.pool.close()
    assert ledger.migration(id).state == "succeeded"


def test_a_filtered_listing_outlasts_a_transfer(ledger: Ledger, tmp_path: Path) -> None:
    """A request for each object of an index, which lacks the times, takes hours."""
    runner = TransferEngine(Settings(egress_allow="127.0.0.1", total_seconds=1e-9))
    page = b"<html><title>Index of /f/</title><a href='a'>a</a><a href='b'>b</a></html>"
    kind = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"

    def folder(talk: Talk) -> None:
        while head := talk.head():
            if head.startswith(b"GET /f/ "):
                talk.send(kind % len(page), page)
            else:
                talk.send(GET_HEAD)

    with Peer([folder] * 20) as here:
        order = MigrationRequest(
            Endpoint(here.url("/f/")),
            Endpoint(f"{tmp_path}/to/"),
            recursive=True,
            filters=read_filters({"min_size": "1b"}, datetime.now(UTC)),
        )
        runner.remotes = Remotes({}, folders=None)
        id = ledger.create(order.spec(runner.remotes))[0].id
        with gevent.Timeout(20):
            Worker(ledger, runner, 1, id).run()
        runner.wire.pool.close()
    ended = ledger.migration(id)
    assert (ended.error, ended.listing) == (None, "done")
    assert [(row.error or {})["code"] for row in ledger.page(id)] == ["store-timeout"] * 2


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_a_stopped_listing_waits_for_no_retry(ledger: Ledger, tmp_path: Path, verb: str) -> None:
    """Otherwise no other tree could be listed until the retry budget is spent."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_bytes(DATA)
    runner = TransferEngine(Settings(egress_allow="127.0.0.1", retry_budget=600))
    runner.remotes = Remotes({}, folders=None)
    local = Endpoint(f"{tmp_path}/to/")

    def busy(talk: Talk) -> None:
        while talk.head():
            talk.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")

    with Peer([busy] * 20) as here:
        ids = [
            ledger.create(MigrationRequest(source, local, recursive=True).spec(runner.remotes))[
                0
            ].id
            for source in (Endpoint(here.url("/f/")), Endpoint(f"{tmp_path}/from/"))
        ]
        working = gevent.spawn((worker := Worker(ledger, runner, 1)).run)
        with gevent.Timeout(30):
            while not ledger.migration(ids[0]).retried:
                gevent.sleep(0.02)
            ledger.act(ids[0], verb)
            while ledger.migration(ids[1]).state == "running":
                gevent.sleep(0.02)
        assert ledger.migration(ids[1]).state == "succeeded"
        assert ledger.migration(ids[0]).listing == "due"
        worker.stop()
        working.join(20)
        runner.wire.pool.close()


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_a_stopped_object_waits_for_no_retry(ledger: Ledger, verb: str) -> None:
    """Its last bytes were sent: until the answer came, it was too late for a stop."""
    runner = TransferEngine(Settings(egress_allow="127.0.0.1", retry_budget=600))
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"
    source, destination = (
        source_script(Cloud(), fixed_answer(GET_HEAD, DATA)),
        destination_script(Cloud(), busy),
    )
    with Peer([source] * 9) as here, Peer([destination] * 9) as there:
        order = MigrationRequest(Endpoint(here.url("/x")), Endpoint(there.url("/y")))
        id = ledger.create(order.spec(runner.remotes))[0].id
        working = gevent.spawn(Worker(ledger, runner, 1, id).run)
        with gevent.Timeout(30):
            while not ledger.migration(id).retried:
                gevent.sleep(0.02)
            ledger.act(id, verb)
            working.join()
        runner.wire.pool.close()
    assert not ledger.migration(id).under_way


def test_a_retry_of_the_destination_check_is_visible(ledger: Ledger, tmp_path: Path) -> None:
    """Before a tree is listed its destination is inspected: a wait for it is reported as one of the
    listing."""
    (tmp_path / "from").mkdir()
    runner = TransferEngine(Settings(egress_allow="127.0.0.1"))
    runner.remotes = Remotes({}, folders=None)

    def busy(talk: Talk) -> None:
        while talk.head():
            talk.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")

    with Peer([busy] * 20) as there:
        order = MigrationRequest(
            Endpoint(f"{tmp_path}/from/"),
            Endpoint(f"webdav://127.0.0.1:{there.port}/to/"),
            recursive=True,
        )
        id = ledger.create(order.spec(runner.remotes))[0].id
        working = gevent.spawn((worker := Worker(ledger, runner, 1, id)).run)
        with gevent.Timeout(10):
            while not (retried := ledger.migration(id).retried):
                gevent.sleep(0.02)
        assert (retried[0]["name"], retried[0]["what"], retried[0]["side"]) == (
            "",
            "the listing",
            "destination",
        )
        assert "503" in retried[0]["detail"]
        worker.stop()
        working.join(20)
        runner.wire.pool.close()
