"""The sequence of the parts of one object: the connection stays busy, and unacknowledged parts are
bounded."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from relay.engine.multipart.part_workers import PartWorkers
from relay.errors import PermissionDenied
from relay.receipt import State
from relay.transfer_limits import Limits
from tests.conftest import Engine
from tests.faults.scripted_s3 import (
    IN_PARTS,
    PART,
    Bucket,
    place,
    refusal,
    repeat_script,
    reply,
    with_retries,
)
from tests.scripted import Peer, Talk

PARTS = 4
DATA = random.Random(7).randbytes(1 << 20) * (PARTS * PART >> 20)


@dataclass
class Ranges:
    """A source of `DATA`, which records its requests; `begun` is set when the second part
    starts."""

    asked: list[int] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    denied: int = 0
    """The part that is denied."""
    unranged: int = 0
    """The part whose first request is answered with the whole object."""
    more: str = ""
    """Further fields of each answer."""

    def __call__(self, talk: Talk) -> None:
        while request := talk.head():
            found = re.search(rb"\r\nRange: bytes=(\d+)-(\d+)\r\n", request)
            first, last = map(int, found.groups()) if found else (0, len(DATA) - 1)
            if found:
                self.asked.append(first // PART + 1)
                if first >= PART:
                    self.begun.set()
                if self.asked[-1] == self.denied:
                    talk.send(reply(403))
                    continue
                if self.asked[-1] == self.unranged:
                    self.unranged = 0
                    talk.send(reply(200, DATA, 'ETag: "e"'))
                    continue
            fields = (
                f"Content-Range: bytes {first}-{last}/{len(DATA)}\r\n"
                if found
                else "Accept-Ranges: bytes\r\n"
            )
            status = "206 X" if found else "200 X"
            head = f'HTTP/1.1 {status}\r\nContent-Length: {last + 1 - first}\r\nETag: "e"\r\n{self.more}{fields}\r\n'
            talk.send(head.encode(), b"" if request.startswith(b"HEAD") else DATA[first : last + 1])


@pytest.fixture
def engine_limits() -> Limits:
    return replace(IN_PARTS, head_seconds=20.0)


def move_object(engine: Engine, source: Ranges, bucket: Bucket) -> None:
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        outcome = engine.migrate(here.url("/a"), place(there))
    assert outcome.state is State.VERIFIED
    assert bucket.whole == DATA


def test_the_next_part_is_read_before_the_last_is_acknowledged(engine: Engine) -> None:
    source, bucket = Ranges(), Bucket(sums=True)
    seen: list[bool] = []

    def late(talk: Talk) -> None:
        seen.append(source.begun.wait(10))
        talk.send(reply(200, b"", 'ETag: "part-1"'))

    bucket.answers["part"] = [late]
    move_object(engine, source, bucket)
    assert seen == [True]
    assert source.asked == [1, 2, 3, 4]


def test_unacknowledged_parts_are_bounded(engine: Engine) -> None:
    source, bucket = Ranges(), Bucket(sums=True)
    early: list[bool] = []
    second = threading.Event()

    def late(talk: Talk) -> None:
        early.append(second.wait(1))
        talk.send(reply(200, b"", 'ETag: "part-1"'))

    def next_one(talk: Talk) -> None:
        second.set()
        talk.send(reply(200, b"", 'ETag: "part-2"'))

    bucket.answers["part"] = [late, next_one]
    move_object(engine, source, bucket)
    assert early == [False]
    assert second.is_set()


def test_expect_continue_is_sent_first_and_after_a_failure(
    engine: Engine,
) -> None:
    source, bucket = Ranges(), Bucket(sums=True)
    taken = reply(200, b"", 'ETag: "part-1"')
    bucket.answers["part"] = [lambda talk: talk.send(taken), refusal(503, "SlowDown")]
    move_object(with_retries(engine), source, bucket)
    parts = [request for request in bucket.requests if b"partNumber=" in request.split(b" ", 2)[1]]
    asked = [b"100-continue" in request.lower() for request in parts]
    assert len(parts) == PARTS + 1
    assert asked[:2] == [True, False]
    assert asked[2] is True
    assert asked[-1] is False


def test_a_denied_part_waits_for_answers_to_sent_parts(
    engine: Engine,
) -> None:
    """It need not be sent again: with a ledger it is kept."""
    source, bucket = Ranges(denied=2), Bucket(sums=True)
    early: list[bool] = []
    aborted = threading.Event()

    def late(talk: Talk) -> None:
        assert source.begun.wait(10)
        early.append(aborted.wait(1))
        talk.send(reply(200, b"", 'ETag: "part-1"'))

    def throw_away(talk: Talk) -> None:
        aborted.set()
        talk.send(reply(204))

    bucket.answers.update(part=[late], abort=[throw_away])
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(PermissionDenied):
            engine.migrate(here.url("/a"), place(there))
    assert early == [False]
    assert aborted.is_set()


def test_a_part_that_fails_after_another_is_not_sent_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, bucket = Ranges(denied=2), Bucket(sums=True)
    failed, drain = threading.Event(), PartWorkers._drain

    def draining(workers: PartWorkers, *rest: Any) -> None:
        failed.set()
        drain(workers, *rest)

    def late(talk: Talk) -> None:
        assert failed.wait(10)
        talk.send(refusal(503, "SlowDown"))

    monkeypatch.setattr(PartWorkers, "_drain", draining)
    bucket.answers["part"] = [late]
    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(PermissionDenied):
            with_retries(engine).migrate(here.url("/a"), place(there))
    assert source.asked.count(1) == 1


def test_one_answer_without_its_range_costs_one_part(engine: Engine) -> None:
    """As of another server behind the same name: the parts that arrived are kept."""
    source, bucket = Ranges(unranged=3), Bucket(sums=True)
    move_object(with_retries(engine), source, bucket)
    assert source.asked == [1, 2, 3, 3, 4]
    assert (bucket.asked.count("part"), "abort" in bucket.asked) == (PARTS, False)
