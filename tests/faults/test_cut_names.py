"""A server that cuts a name at a delimiter of URLs: no other object is overwritten, deleted, or
taken for the object of that name. A real proxy that does so is in tests/end_to_end/test_nginx.py.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import gevent
import pytest

from relay.engine.transfer import attempt
from relay.engine.transfer.names_under_way import NamesUnderWay, Sending
from relay.engine.worker import claim_runner
from relay.errors import KeyCollision, Rejected
from relay.ledger.ledger import Ledger
from relay.location import parse_location
from relay.receipt import State
from relay.stores.webdav.account import webdav_location
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.test_refused import run_to
from tests.faults.test_webdav import Dav
from tests.scripted import Peer, Talk

DATA = b"the bytes of the object"


def _cut_url(path: bytes) -> bytes:
    """Parse a path after it was decoded."""
    return re.split(rb"[?#]", unquote_to_bytes(path))[0]


def _cut_parameters(path: bytes) -> bytes:
    return re.sub(rb";[^/]*", b"", unquote_to_bytes(path))


def _decode_twice(path: bytes) -> bytes:
    return unquote_to_bytes(unquote_to_bytes(path))


def _put_in_query(path: bytes) -> bytes:
    """Put a decoded path into a query, as `RewriteRule ^/(.*) /put.php?path=$1` does."""
    return unquote_to_bytes(path).partition(b"&")[0]


CUTS = {
    "a query": (_cut_url, "/to/a%3Fid=1"),
    "a fragment": (_cut_url, "/to/a%231.jpg"),
    "a folder's query": (_cut_url, "/to/a%3f/b"),
    "nothing is left": (_cut_url, "/to/%3Fa"),
    "a parameter": (_cut_parameters, "/to/a%3Bb"),
    "a folder's parameter": (_cut_parameters, "/to/x%3Bb/a"),
    "an ampersand": (_put_in_query, "/to/a%26b.txt"),
    "a second delimiter": (_cut_url, "/to/a%26b%3Fc"),
    "an encoded blank": (_decode_twice, "/to/a%2520b.txt"),
    "encoded letters": (_decode_twice, "/to/caf%25C3%25A9"),
    "a folder's blank": (_decode_twice, "/to/%25e4/a"),
    "an encoded '%'": (_decode_twice, "/to/%25252fa.b"),
    "an encoded '/'": (_decode_twice, "/to/%252Fa"),
}
CUTTING = pytest.mark.parametrize(("folds", "name"), CUTS.values(), ids=CUTS)
Folding = Callable[[bytes], bytes]


def migrate(engine: Engine, here: Shelf, there: Shelf, name: str, **options: object) -> State:
    """Move DATA, under the same name on both sides."""
    here.objects.setdefault(here.folds(name.encode()), DATA)
    with Peer([here] * 30) as source, Peer([there] * 30) as destination:
        return engine.migrate(source.url(name), destination.url(name), **options).state


@CUTTING
@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
@pytest.mark.parametrize("other", [None, DATA, b"another"])
def test_an_object_of_the_cut_name_stays_as_it_is(
    engine: Engine, folds: Folding, name: str, if_exists: str, other: bytes | None
) -> None:
    there = Shelf(folds=folds)
    before = {} if other is None else {folds(name.encode()): other}
    there.objects.update(before)
    with pytest.raises(KeyCollision, match="the name of") as caught:
        migrate(engine, Shelf(), there, name, if_exists=if_exists)
    assert there.objects == before
    assert there.methods.count(b"PUT") == (not before)
    assert "may remain" not in caught.value.hint


@CUTTING
@pytest.mark.parametrize("head", [None, 405], ids=["HEAD", "only GET"])
def test_an_object_of_the_cut_name_is_not_read(
    engine: Engine, folds: Folding, name: str, head: int | None
) -> None:
    here, there = Shelf(folds=folds), Shelf()
    here.refused = {b"HEAD": empty_answer(head)} if head else {}
    with pytest.raises(Rejected, match="the name of") as caught:
        migrate(engine, here, there, name)
    assert caught.value.side == "source"
    assert there.objects == {}


def test_an_object_that_stays_under_the_cut_name_is_named(engine: Engine) -> None:
    there = Shelf(folds=_cut_url, refused={b"DELETE": empty_answer(403)})
    with pytest.raises(KeyCollision) as caught:
        migrate(engine, Shelf(), there, "/to/a%3Fb")
    assert "may remain" in caught.value.hint


def test_an_object_that_vanishes_meanwhile_proves_nothing(patient_engine: Engine) -> None:
    """The transfer of another name that is cut so, which deletes what it sent."""

    @dataclass
    class Crowded(Shelf):
        deletes: bool = True

        def _other(self, talk: object, method: bytes, path: bytes, request: bytes) -> bool:
            if self.deletes and b"%3Fb " not in request and self.methods.count(b"PUT"):
                self.objects.clear()
                self.deletes = False
            return super()._other(talk, method, path, request)  # type: ignore[arg-type]

    there = Crowded(folds=_cut_url)
    with pytest.raises(KeyCollision):
        migrate(patient_engine, Shelf(), there, "/to/a%3Fb")
    assert there.methods.count(b"PUT") == 2
    assert there.objects == {}


@pytest.mark.parametrize("store", ["http", "webdav"])
def test_a_server_is_asked_once_for_each_folder_and_delimiter(engine: Engine, store: str) -> None:
    there = Shelf() if store == "http" else Dav()
    names = ["/to/a", "/to/a%3Fb", "/to/a%26b", "/to/q/a%3Fb"]
    counts = []
    with Peer([Shelf({name.encode(): DATA for name in names})] * 30) as here:
        with Peer([there] * 60) as peer:
            for name in [*names, *names]:
                there.asked.clear()
                place = peer.url(name)
                engine.migrate(
                    here.url(name), webdav_location(place) if store == "webdav" else place
                )
                counts.append(len(there.asked))
    plain = counts[4]  # all that relay learns of a server is known by then
    assert all(count > plain for count in counts[1:4])
    assert counts[5:] == [plain] * 3
    assert set(there.objects) == {name.encode() for name in names}


@pytest.mark.parametrize("name", ["/to/a%3Fb", "/to/a%26b"])
def test_a_server_that_does_not_show_names_gets_them(engine: Engine, name: str) -> None:
    there = Shelf(refused={b"HEAD": empty_answer(403), b"GET": empty_answer(403)})
    assert migrate(engine, Shelf(), there, name) is State.UNVERIFIED
    assert there.objects == {name.encode(): DATA}


def test_a_server_that_answers_for_any_name_gets_it(engine: Engine) -> None:
    there = Shelf(shown=lambda shelf, path: shelf.objects.get(path, b"a page"))
    assert migrate(engine, Shelf(), there, "/to/a%3Fb") is State.VERIFIED


def test_a_name_waits_while_it_may_be_the_cut_name_of_another(engine: Engine) -> None:
    """Both are sent in the same moment. The shorter name was proved, then replaced by the other
    one, and deleted with it."""
    arrived, go = threading.Event(), threading.Event()

    @dataclass
    class Held(Shelf):
        def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
            if b"%3Fb" in request:
                arrived.set()
                go.wait(20)
            return super()._put(talk, path, request)

    def move(name: str) -> State:
        return engine.migrate(source.url(name), destination.url(name)).state

    def collide(name: str) -> None:
        with pytest.raises(KeyCollision):
            move(name)

    there, here = Held(folds=_cut_url), Shelf({b"/to/a": b"another", b"/to/a%3Fb": DATA})
    with Peer([here] * 30) as source, Peer([there] * 30) as destination:
        longer = gevent.spawn(collide, "/to/a%3Fb")
        with gevent.Timeout(20):
            while not arrived.is_set():  # in the server's own thread
                gevent.sleep(0.01)
        shorter = gevent.spawn(move, "/to/a")
        shorter.join(0.3)  # it ends within that time, if it does not wait
        go.set()
        longer.get(timeout=20)
        assert shorter.get(timeout=20) is State.VERIFIED
    assert there.objects == {b"/to/a": b"another"}


def test_a_claim_that_waits_for_a_name_frees_its_slot(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots, and two names of which one may be cut to the other: a third object goes on."""
    monkeypatch.setattr(attempt, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(claim_runner, "RIVAL_SECONDS", 0.1)
    stored = threading.Event()
    starved: list[bytes] = []

    @dataclass
    class Long(Shelf):
        def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
            if path == b"/to/z":
                stored.set()
            elif not stored.wait(20):
                starved.append(path)
            return super()._put(talk, path, request)

    files = {"a": b"one", "a?b": b"two", "z": b"three"}
    with Peer([Long()] * 30) as there:
        found = run_to(there, ledger, tmp_path, files, slots=2)
    assert found == ({"verified": 3}, "succeeded")
    assert not starved


def test_names_that_are_cut_to_one_are_sent_in_turn() -> None:
    names, order = NamesUnderWay(), list[str]()
    place = {name: parse_location(f"http://h/{name}") for name in ("a", "a%3F1", "a%3F2", "b")}

    def enter(name: str, *rests: str) -> Sending:
        sending = names.enter(place[name], lambda: [place[one] for one in rests], lambda: None, 9.0)
        order.append(name)
        return sending

    first = enter("a%3F1", "a")
    waiting = [gevent.spawn(enter, "a%3F2", "a"), gevent.spawn(enter, "a")]
    gevent.sleep(0.01)
    enter("b")
    assert order == ["a%3F1", "b"]
    names.leave(first)
    second = waiting[0].get(timeout=10)
    assert order == ["a%3F1", "b", "a%3F2"]
    names.release_rests(second)
    third = waiting[1].get(timeout=10)
    names.leave(third)
    names.leave(second)
    assert enter("a").rests == ()
