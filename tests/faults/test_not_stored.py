"""An upload that a store acknowledges and does not store: the prior object stays, and is not
believed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from time import time

import pytest

from relay.errors import DestinationLost, Rejected, RelayError
from relay.receipt import State
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import DATA, GET_HEAD, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import Bucket, place, repeat_script, reply, with_retries
from tests.scripted import Peer, Talk, length_of

OLD = b"the old object, and the only one" * 3


@dataclass
class Forgetful(Bucket):
    """A bucket that has an object, and acknowledges an upload without storing it; its answer has
    the fields `answer_fields`."""

    answer_fields: tuple[str, ...] = ()
    times: int = 99

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        if operation == "put" and self.times:
            self.times -= 1
            return reply(200, b"", *self.answer_fields)
        return super()._answer(operation, request, body)


def tags(data: bytes) -> str:
    return f'ETag: "{hashlib.md5(data).hexdigest()}"'


LONG_AGO = ("Last-Modified: Mon, 02 Jan 2023 03:04:05 GMT",)
AGES: dict[str, Callable[[], tuple[str, ...]]] = {
    "long ago": lambda: LONG_AGO,
    "just now": lambda: (f"Last-Modified: {formatdate(time() - 2, usegmt=True)}",),
    "no date": tuple,
}
ANSWERS = {"nothing": (), "the old tag": (tags(OLD),), "another tag": ('ETag: "other"',)}


@pytest.mark.parametrize("what", ANSWERS)
@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("if_exists", ["overwrite", "changed"])
@pytest.mark.parametrize("age", AGES)
def test_a_prior_object_is_not_deleted(
    engine: Engine, what: str, patience: int, if_exists: str, age: str
) -> None:
    """Even without an inspection before it, and after any number of attempts."""
    shelf = Forgetful(
        whole=OLD, tag=hashlib.md5(OLD).hexdigest(), fields=AGES[age](), answer_fields=ANSWERS[what]
    )
    engine = with_retries(engine, patience)
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(repeat_script(shelf)) as there,
    ):
        with pytest.raises(RelayError) as caught:
            engine.migrate(source.url("/a"), place(there), if_exists=if_exists)
    assert caught.value.side == "destination"
    assert (shelf.whole, "delete" in shelf.asked) == (OLD, False)
    assert shelf.asked.index("put") == (if_exists == "changed"), "overwrite need not look first"


@pytest.mark.parametrize("what", ["nothing", "the old tag"])
def test_an_object_stored_at_last_arrives(engine: Engine, what: str) -> None:
    shelf = Forgetful(
        whole=OLD,
        tag=hashlib.md5(OLD).hexdigest(),
        fields=LONG_AGO,
        answer_fields=ANSWERS[what],
        times=1,
    )
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(repeat_script(shelf)) as there,
    ):
        outcome = with_retries(engine).migrate(
            source.url("/a"), place(there), if_exists="overwrite"
        )
    assert (outcome.state, shelf.whole) == (State.VERIFIED, DATA)


def test_the_length_of_the_coding_does_not_prove_ownership(engine: Engine) -> None:
    """A checksum behind the bytes that is stored with them makes an object of exactly that
    length."""
    old = bytes(
        len(b"%x\r\n" % len(DATA)) + len(DATA) + len(b"\r\n0\r\nx-amz-checksum-crc64nvme:") + 12 + 4
    )
    shelf = Forgetful(whole=old, tag="old", answer_fields=('ETag: "ours"',), times=1)
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(repeat_script(shelf)) as there,
    ):
        with pytest.raises(RelayError):
            engine.migrate(source.url("/a"), place(there), if_exists="overwrite")
    assert (shelf.whole, "delete" in shelf.asked) == (old, False)


class Beside(Shelf):
    """Stores an object beside one of its name, as copyparty does, and says where."""

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        data = talk.body(length_of(request))
        if path in self.objects:
            path += b"-%d.txt" % len(self.objects)
        self.objects[path] = data
        talk.send(b"HTTP/1.1 201 X\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % path)
        return True


BESIDE = {
    "another length": ("auto", OLD),
    "this length": ("auto", DATA[::-1]),
    "the same bytes": ("auto", DATA),
    "this length alone is compared": ("size", DATA[::-1]),
}


@pytest.mark.parametrize(("verify", "old"), BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("if_exists", ["overwrite", "changed"])
def test_an_object_that_is_stored_beside_another_is_named(
    engine: Engine, if_exists: str, verify: str, old: bytes
) -> None:
    shelf = Beside({b"/a.txt": old})
    with Peer(Shelf({b"/a": DATA})) as here, Peer(shelf) as there:
        with pytest.raises(Rejected, match="did not replace") as caught:
            engine.migrate(here.url("/a"), there.url("/a.txt"), if_exists=if_exists, verify=verify)
        assert list(caught.value.remains) == [there.url("/a.txt-1.txt")]
    assert shelf.objects == {b"/a.txt": old, b"/a.txt-1.txt": DATA}


class Acknowledging(Shelf):
    """Acknowledges an upload, and stores nothing."""

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        talk.body(length_of(request))
        talk.send(empty_answer(204))
        return True


def test_the_prior_object_is_not_taken_for_ours(engine: Engine) -> None:
    shelf = Acknowledging({b"/a": OLD})
    with Peer(Shelf({b"/a": DATA})) as here, Peer(shelf) as there:
        with pytest.raises(DestinationLost) as caught:
            engine.migrate(here.url("/a"), there.url("/a"))
        assert "from before" in caught.value.remains[there.url("/a")]
    assert shelf.objects == {b"/a": OLD}
