"""Keys of buckets that are not paths: empty segments, and a slash at their beginning."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gevent
import pytest

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.worker.worker import Worker
from relay.errors import Rejected, UnsafeKey
from relay.ledger.ledger import Ledger
from relay.location import Location
from relay.receipt import State
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.transfer_limits import Limits
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import DATA, GET_HEAD, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import refusal
from tests.faults.scripted_s3_objects import Shelf
from tests.scripted import Peer

KEYS = ("a/b", "a//b", "a///b", "/a/b", "//a", "c//", "ü//日本", "a b//+")
"""Keys relative to the folder that is moved; one is a marker of a folder."""
MOVED = {key: key.encode() for key in KEYS if not key.endswith("/")}


def fold_key(key: str) -> str:
    return re.sub("/+", "/", key).removeprefix("/")


def location_of(peer: Peer, key: str, bucket: str = "bucket") -> Location:
    return s3_location(
        S3Config(Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"), peer.url("")),
        bucket,
        key,
    )


def remotes(source: Peer, destination: Peer) -> Remotes:
    keys = {"type": "s3", "access_key_id": "KEY", "secret_access_key": "SECRET"}
    named = {
        name: {**keys, "endpoint": peer.url("")}
        for name, peer in (("from", source), ("to", destination))
    }
    return Remotes(named, folders=())


def move_tree(
    ledger: Ledger, engine: Engine, order: MigrationRequest
) -> dict[str, tuple[str, str]]:
    """Move a tree; return the state of each object, and the errors."""
    id = ledger.create(order.spec(engine.runner.remotes))[0].id
    with gevent.Timeout(60):
        Worker(ledger, engine.runner, 4, id).run()
    return {
        row.name: (row.state, str((row.error or {}).get("detail", ""))) for row in ledger.page(id)
    }


@pytest.mark.parametrize("folder", ["", "in/", "in//", "/"])
def test_b58_keys_with_empty_segments_move_between_buckets(
    engine: Engine, ledger: Ledger, folder: str
) -> None:
    """From and to every such folder, two objects a page; no key turns into another."""
    source = Shelf(
        {folder + key: key.encode() for key in KEYS} | {"elsewhere": b""}
        if folder
        else dict(MOVED),
        page=2,
    )
    shelf = Shelf()
    for key in KEYS:
        if key.endswith("/"):
            source.objects[folder + key] = b""
    with Peer([source] * 60) as there, Peer([shelf] * 60) as here:
        engine.runner.remotes = remotes(there, here)
        found = move_tree(
            ledger,
            engine,
            MigrationRequest(
                Endpoint(f"from:bucket/{folder}"), Endpoint(f"to:bucket/{folder}"), recursive=True
            ),
        )
    assert found == {name: ("verified", "") for name in MOVED}
    assert shelf.objects == {folder + key: data for key, data in MOVED.items()}
    puts = {line for line in shelf.asked if line.startswith("PUT")}
    assert f"PUT /bucket/{folder}a//b" in puts
    assert f"PUT /bucket/{folder}//a" in puts


@pytest.mark.parametrize("key", ["a//b", "/a", "a///b//c"])
def test_b58_one_object_by_its_url(engine: Engine, key: str) -> None:
    shelf, source = Shelf(), source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with Peer(source) as there, Peer([shelf] * 9) as here:
        config = S3Config(
            Signer(lambda: AwsCredentials("KEY", "SECRET"), "us-east-1"), here.url("")
        )
        place = Remotes(aws=lambda profile: config).locate(f"s3://bucket/{key}", destination=True)
        assert str(place) == f"s3://bucket/{key}"
        assert engine.migrate(there.url(), place).state is State.VERIFIED
    assert shelf.objects == {key: DATA}


def test_b58_copies_within_a_store_too(engine: Engine) -> None:
    shelf = Shelf({"a//b": b"two", "a/b": b"one"})
    with Peer([shelf] * 9) as peer:
        from_, to = location_of(peer, "a//b"), location_of(peer, "c//d")
        assert engine.migrate(from_, replace(to, account=from_.account)).state is State.VERIFIED
    assert shelf.objects == {"a//b": b"two", "a/b": b"one", "c//d": b"two"}
    assert not any(line.startswith("GET /bucket/a") for line in shelf.asked)


def test_the_treatment_of_slashes_is_determined_once(engine: Engine) -> None:
    shelf = Shelf()
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as there,
        Peer([shelf] * 9) as here,
    ):
        for number in range(3):
            engine.migrate(there.url(), location_of(here, f"a//{number}"))
    assert sum("list-type" in line for line in shelf.asked) == 1
    assert (
        len(shelf.asked) == 6
    )  # an inspection before the first, its upload, an inspection after it, a list; and two uploads


def test_another_bucket_of_the_endpoint_may_fold_slashes(engine: Engine) -> None:
    def fold_other(key: str) -> str:
        return fold_key(key) if key.startswith("/other/") else key

    shelf = Shelf({"other/a/b": b"precious"}, folds=fold_other)
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as there,
        Peer([shelf] * 9) as here,
    ):
        assert engine.migrate(there.url(), location_of(here, "k//b")).state is State.VERIFIED
        other = location_of(here, "a//b", bucket="other")
        with pytest.raises(Rejected, match="treats '//' as '/'"):
            engine.migrate(there.url(), other)
    assert shelf.objects == {"k//b": DATA, "other/a/b": b"precious"}


@pytest.mark.parametrize("other", [{}, {"a/b": b"precious"}], ids=["alone", "beside another"])
def test_a_store_that_lists_later_folds_no_slashes(engine: Engine, other: dict[str, bytes]) -> None:
    """OpenStack Swift updates its listings after an upload."""

    class Later(Shelf):
        def _listing_page(self, query: dict[str, list[str]]) -> bytes:
            return Shelf()._listing_page(query)

    shelf = Later(dict(other))
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as there,
        Peer([shelf] * 9) as here,
    ):
        if other:
            with pytest.raises(Rejected, match="unknown if this store keeps such names"):
                engine.migrate(there.url(), location_of(here, "a//b"))
        else:
            engine.migrate(there.url(), location_of(here, "a//b"))
        engine.migrate(there.url(), location_of(here, "c//d"))
    assert shelf.objects == other | ({} if other else {"a//b": DATA}) | {"c//d": DATA}


@pytest.mark.parametrize("there_before", [True, False])
def test_b58_a_store_that_folds_slashes_loses_nothing(
    certificates: Certificates, there_before: bool
) -> None:
    """The next one is refused before any byte of it is sent."""
    engine = Engine(certificates.ca_file, Limits(settle_seconds=1))
    shelf = Shelf({"a/b": b"precious"} if there_before else {}, folds=fold_key)
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as there,
        Peer([shelf] * 9) as here,
    ):
        for key in ("a//b", "a//c"):
            with pytest.raises(Rejected) as caught:
                engine.migrate(there.url(), location_of(here, key))
            assert "treats '//' as '/'" in caught.value.message
            assert (caught.value.side, caught.value.retryable) == ("destination", False)
            assert "may remain" not in caught.value.hint
        assert sum(line.startswith("PUT") for line in shelf.asked) == (0 if there_before else 1)
        assert engine.migrate(there.url(), location_of(here, "c/d")).state is State.VERIFIED
    assert shelf.objects == ({"a/b": b"precious"} if there_before else {}) | {"c/d": DATA}
    engine.assert_nothing_left()


def test_b58_a_leftover_under_a_folded_name_is_named(
    engine: Engine,
) -> None:
    class Keeping(Shelf):
        def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
            return (
                refusal(405, "MethodNotAllowed")
                if method == "DELETE"
                else super()._done(method, key, request, body)
            )

    shelf = Keeping(folds=fold_key)
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as there,
        Peer([shelf] * 9) as here,
    ):
        with pytest.raises(Rejected, match="treats '//' as '/'") as caught:
            engine.migrate(there.url(), location_of(here, "a//b"))
    assert shelf.objects == {"a/b": DATA}
    assert "may remain at s3://bucket/a//b" in caught.value.hint


def test_b58_a_concurrent_writer_of_the_other_name_is_safe(
    certificates: Certificates,
) -> None:
    engine = Engine(certificates.ca_file, retry_budget=10)
    shelf = Shelf(folds=fold_key, meanwhile=[{"a/b": b"precious"}])
    with (
        Peer([source_script(Cloud(), fixed_answer(GET_HEAD, DATA))] * 9) as there,
        Peer([shelf] * 9) as here,
    ):
        with pytest.raises(Rejected, match="treats '//' as '/'"):
            engine.migrate(there.url(), location_of(here, "a//b"))
    assert shelf.objects == {"a/b": b"precious"}
    engine.assert_nothing_left()


@pytest.mark.parametrize("before", [{}, {"a/b": b"precious"}])
@pytest.mark.parametrize("folds", [str, fold_key])
def test_b58_a_denied_listing_says_names_are_unproved(
    engine: Engine, before: dict[str, bytes], folds: Callable[[str], str]
) -> None:
    shelf = Shelf(dict(before), lists=False, folds=folds)
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as there,
        Peer([shelf] * 9) as here,
    ):
        with pytest.raises(Rejected) as caught:
            engine.migrate(there.url(), location_of(here, "a//b"))
    assert "it is unknown if this store keeps such names" in caught.value.message
    assert shelf.objects == before


def test_b58_trees_of_folders_refuse_empty_segments_singly(
    engine: Engine, ledger: Ledger, tmp_path: Path
) -> None:
    source = Shelf(dict(MOVED))
    with Peer([source] * 60) as there, Peer([source] * 9) as here:
        engine.runner.remotes = Remotes(remotes(there, here)._own, folders=(tmp_path,))
        order = MigrationRequest(
            Endpoint("from:bucket/"), Endpoint(f"file://{tmp_path}/to/"), recursive=True
        )
        found = move_tree(ledger, engine, order)
    assert {name for name, (state, _) in found.items() if state == "verified"} == {"a/b"}
    assert all("empty" in why for name, (_, why) in found.items() if name != "a/b")
    assert [path.name for path in (tmp_path / "to").rglob("*")] == ["a", "b"]


@pytest.mark.parametrize("name", ["a/./b", "a/../b", "./a", ".."])
def test_b57_dot_segments_are_refused_at_s3_too(name: str) -> None:
    with Peer(Shelf()) as peer, pytest.raises(UnsafeKey, match="segment"):
        location_of(peer, "").below(name, destination=True)
