"""After our first byte `if_exists` concerns the prior object; and relay deletes, replaces or
believes only an object that it knows to be its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.api.app import create_app
from relay.api.ledger_context import ledger_context
from relay.engine.inspection import is_piece
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists, Verify
from relay.engine.transfer.source_reader import SourceReader
from relay.engine.worker import claim_runner
from relay.engine.worker.claim_journal import ClaimJournal
from relay.engine.worker.worker import Worker
from relay.errors import (
    AlreadyExists,
    Cancelled,
    ConnectFailed,
    IntegrityMismatch,
    KeyCollision,
    LedgerFailed,
    RelayError,
    Unavailable,
)
from relay.ledger.ledger import Ledger
from relay.ledger.prior_state_values import PriorState
from relay.location import parse_location
from relay.receipt import State, Version
from relay.stores.http import HttpStore
from relay.stores.local import LocalStore
from relay.stores.remotes import Remotes
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.end_to_end.terminal import Terminal, bucket_terminal, eventually
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import DATA, GET_HEAD, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3_objects import Shelf as Bucket
from tests.pairs import in_pairs
from tests.scripted import Peer

THEIRS = b"a newer object of somebody else"


def migrate(engine: Engine, shelf: Shelf, **options: object) -> State:
    with Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source, Peer(shelf) as there:
        return engine.migrate(source.url("/a"), there.url("/a"), **options).state


def flip_byte(data: bytes) -> bytes:
    return bytes([data[0] ^ 255]) + data[1:]


def hurried_terminal(tmp_path: Path) -> Terminal:
    """A terminal with a short retry budget: failures that repeat are the rule here."""
    return Terminal(tmp_path, RELAY_SETTLE_SECONDS="0.2", RELAY_RETRY_BUDGET="3")


def plant(tmp_path: Path, data: bytes = DATA) -> Path:
    """Write a tree of one file that is older than every later write."""
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "a").write_bytes(data)
    os.utime(folder / "a", (1e9, 1e9))
    return folder


@pytest.mark.parametrize(
    ("if_exists", "tags_uploads"),
    [("skip", False), ("fail", True), ("changed", True), ("changed", False)],
)
def test_a_damaged_object_of_ours_is_never_a_prior_object(
    tmp_path: Path, if_exists: str, tags_uploads: bool
) -> None:
    """The destination damages the object, and refuses DELETE: the same command, repeated, fails
    twice."""
    shelf = Shelf(
        refused={b"DELETE": empty_answer(405)}, damages=flip_byte, tags_uploads=tags_uploads
    )
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        for _ in range(2):
            code, report = terminal.tree(folder, there.url("/to/"), "--if-exists", if_exists)
            assert (code, report["objects"]) == (1, {"failed": 1})
    shelf.damages = lambda data: data
    assert shelf.objects == {b"/to/a": flip_byte(DATA)}


@pytest.mark.parametrize(
    ("if_exists", "kept", "deletes"),
    [
        ("skip", 0, False),
        ("skip", 1000, False),
        ("fail", 1000, True),
        ("changed", len(DATA) - 1, False),
    ],
)
def test_a_piece_of_ours_is_resumed(
    tmp_path: Path, if_exists: str, kept: int, deletes: bool
) -> None:
    """A connection breaks, and the server keeps the bytes received."""
    shelf = Shelf(refused={} if deletes else {b"DELETE": empty_answer(405)}, cut=kept)
    with Peer(shelf) as there:
        code, report = hurried_terminal(tmp_path).tree(
            plant(tmp_path), there.url("/to/"), "--if-exists", if_exists
        )
    assert (code, report["objects"]) == (0, {"verified": 1})
    assert shelf.objects == {b"/to/a": DATA}


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_an_object_of_another_writer_is_left_untrusted(tmp_path: Path, if_exists: str) -> None:
    shelf = Shelf(cut=1000)

    def before(one: Shelf, method: bytes, _: bytes) -> None:
        if one.cut is None and method == b"HEAD":
            one.objects[b"/to/a"] = THEIRS

    shelf.before = before
    with Peer(shelf) as there:
        code, report = hurried_terminal(tmp_path).tree(
            plant(tmp_path), there.url("/to/"), "--if-exists", if_exists
        )
    assert (code, report["objects"]) == (1, {"failed": 1})
    assert shelf.objects == {b"/to/a": THEIRS}
    assert b"DELETE" not in shelf.methods


def test_unverified_stays_unverified_on_repeat(tmp_path: Path) -> None:
    shelf, folder, terminal = Shelf(), plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        words = (folder, there.url("/to/"), "--if-exists", "skip", "--verify", "size")
        for _ in range(3):
            code, report = terminal.tree(*words)
            assert (code, report["objects"]) == (3, {"unverified": 1})
    assert shelf.methods.count(b"PUT") == 1


def test_a_prior_object_is_skipped_each_time(tmp_path: Path) -> None:
    """An object that is left alone has no note."""
    shelf, folder, terminal = Shelf({b"/to/a": THEIRS}), plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        for _ in range(2):
            code, report = terminal.tree(folder, there.url("/to/"), "--if-exists", "skip")
            assert (code, report["objects"]) == (0, {"skipped": 1})
    assert terminal.query("SELECT count(*) FROM transfers WHERE before LIKE '%known%'") == 0


@in_pairs(
    ends=["an answer", "a kill"],
    unproved=["size", "denied"],
    words={"object": (), "tree": ("-r", "--if-exists", "overwrite")},
)
def test_a_prior_object_of_our_size_is_not_ours(
    tmp_path: Path, ends: str, unproved: str, words: tuple[str, ...]
) -> None:
    """Nothing but its size can be proved, and an earlier attempt ended before anything was
    stored."""
    old = bytes(len(DATA))
    shelf = Shelf(
        {b"/to/a": old}, refused={b"GET": empty_answer(403)} if unproved == "denied" else {}
    )

    def before(one: Shelf, method: bytes, _: bytes) -> None:
        one.refused.pop(b"PUT", None)
        if method == b"PUT" and one.methods.count(b"PUT") == 1 and ends == "an answer":
            one.refused[b"PUT"] = empty_answer(503)

    shelf.before = before
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        ways = (folder, there.url("/to/")) if words else (folder / "a", there.url("/to/a"))
        command = (
            "migrate",
            *words,
            *map(str, ways),
            "--verify",
            "size" if unproved == "size" else "auto",
        )
        if ends == "a kill":
            assert terminal.run(*command, RELAY_FAILPOINT="after-pin:1:kill9")[0] == -9
            assert shelf.objects == {b"/to/a": old}
        assert terminal.run(*command)[0] == 3
    assert shelf.objects == {b"/to/a": DATA}


# -- deleting


@pytest.mark.parametrize("tags_uploads", [False, True], ids=["no tag", "tag"])
def test_f45_an_object_over_ours_before_the_proof_is_kept(
    engine: Engine, tags_uploads: bool
) -> None:
    shelf = Shelf(tags_uploads=tags_uploads, heeds=True)

    def before(one: Shelf, method: bytes, path: bytes) -> None:
        if method == b"HEAD" and one.objects:
            one.objects[path] = THEIRS

    shelf.before = before
    with pytest.raises(RelayError):
        migrate(engine, shelf)
    assert shelf.objects == {b"/a": THEIRS}


def test_f45_a_small_object_of_another_writer_is_kept(engine: Engine) -> None:
    shelf = Shelf(cut=200_000)

    def before(one: Shelf, method: bytes, path: bytes) -> None:
        if method == b"HEAD" and one.cut is None:
            one.objects[path] = THEIRS

    shelf.before = before
    with pytest.raises(RelayError) as caught:
        migrate(engine, shelf)
    assert shelf.objects == {b"/a": THEIRS}
    assert b"DELETE" not in shelf.methods
    assert "may remain" not in (caught.value.hint or "")


@pytest.mark.parametrize("tagged", [False, True], ids=["no tag", "tag"])
def test_a_piece_is_deleted_under_its_tag_and_else_named(engine: Engine, tagged: bool) -> None:
    shelf = Shelf(cut=200_000, tagged=tagged)
    with pytest.raises(RelayError) as caught:
        migrate(engine, shelf)
    assert shelf.objects == ({} if tagged else {b"/a": DATA[:200_000]})
    assert ("A partial object may remain" in (caught.value.hint or "")) is not tagged


# -- stale answers


@pytest.mark.parametrize("tags_uploads", [False, True], ids=["no tag", "tag"])
@pytest.mark.parametrize("tagged", [False, True], ids=["without a tag", "with a tag"])
def test_a_prior_object_that_shows_is_not_a_mismatch(
    engine: Engine, tags_uploads: bool, tagged: bool
) -> None:
    """A cache shows the old object to some further requests."""
    old = bytes(len(DATA))
    shelf, looks = Shelf({b"/a": old}, tags_uploads=tags_uploads, tagged=tagged), [4]

    def show_old(one: Shelf, path: bytes) -> bytes | None:
        if one.methods[-1] in (b"HEAD", b"GET") and b"PUT" in one.methods and looks[0]:
            looks[0] -= 1
            return old
        return one.objects.get(path)

    shelf.shown = show_old
    assert migrate(engine, shelf) is State.VERIFIED
    assert shelf.objects == {b"/a": DATA}
    assert b"DELETE" not in shelf.methods
    assert all(
        b"Cache-Control: no-cache" in head
        for method, _, head in shelf.asked
        if method in (b"HEAD", b"GET")
    )


def test_a_store_that_shows_the_old_object_deletes_nothing(
    engine: Engine,
) -> None:
    old = bytes(len(DATA))
    shelf = Shelf({b"/a": old}, tags_uploads=True)
    shelf.shown = lambda one, path: old if b"DELETE" not in one.methods else None
    with pytest.raises(RelayError) as caught:
        migrate(engine, shelf)
    assert not isinstance(caught.value, IntegrityMismatch)
    assert shelf.objects == {b"/a": DATA}
    assert b"DELETE" not in shelf.methods


# -- before the first byte


def bucket(tmp_path: Path, peer: Peer) -> Terminal:
    """A terminal that knows the scripted bucket."""
    return bucket_terminal(tmp_path, peer.url(""), RELAY_RETRY_BUDGET="3")


@pytest.mark.parametrize("end", ["exit", "kill9"])
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_an_object_before_our_first_byte_is_not_ours(
    tmp_path: Path, if_exists: str, end: str
) -> None:
    """Every object was claimed, and none sent: existing objects are left alone, and damage nothing
    of ours."""
    shelf, folder = Bucket(), plant(tmp_path)
    (folder / "b").write_bytes(DATA)
    with Peer(shelf) as peer:
        terminal, words = (
            bucket(tmp_path, peer),
            (folder, "s3://bucket/to/", "--if-exists", if_exists),
        )
        terminal.run("migrate", "-r", *map(str, words), RELAY_FAILPOINT=f"after-claim:1:{end}")
        assert terminal.query("SELECT max(fence) FROM transfers") == 1
        shelf.objects["to/a"] = THEIRS
        code, report = terminal.tree(*words)
    assert (code, report["objects"]) == (
        (0, {"skipped": 1, "verified": 1})
        if if_exists == "skip"
        else (1, {"failed": 1, "verified": 1})
    )
    assert shelf.objects == {"to/a": THEIRS, "to/b": DATA}
    if if_exists == "fail":
        assert "exists" in terminal.query("SELECT error FROM transfers WHERE state = 'failed'")


def test_a_prior_object_fails_each_time_under_fail(tmp_path: Path) -> None:
    """Also where its bytes equal the source's, in a store that records no prior state."""
    folder, to = plant(tmp_path), tmp_path / "to"
    to.mkdir()
    (to / "a").write_bytes(DATA)
    terminal = hurried_terminal(tmp_path)
    for _ in range(3):
        code, report = terminal.tree(folder, f"{to}/", "--if-exists", "fail")
        assert (code, report["objects"]) == (1, {"failed": 1})
    (to / "a").unlink()
    terminal.run(
        "migrate",
        "-r",
        f"{folder}",
        f"{to}/",
        "--if-exists",
        "fail",
        RELAY_FAILPOINT="before-settle:1:kill9",
    )
    assert (to / "a").read_bytes() == DATA
    assert terminal.tree(folder, f"{to}/", "--if-exists", "fail")[1]["objects"] == {"verified": 1}


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_leftover_in_an_empty_bucket_is_proved(tmp_path: Path, if_exists: str) -> None:
    """It was sent, and not recorded: it is ours, and not a prior object."""
    shelf, folder = Bucket(), plant(tmp_path)
    with Peer(shelf) as peer:
        terminal, words = (
            bucket(tmp_path, peer),
            (folder, "s3://bucket/to/", "--if-exists", if_exists),
        )
        terminal.run("migrate", "-r", *map(str, words), RELAY_FAILPOINT="after-put-sent:1:kill9")
        shelf.objects["to/a"] = DATA  # the server received all of it
        code, report = terminal.tree(*words)
    assert (code, report["objects"]) == (0, {"verified": 1})


@pytest.mark.parametrize("then", ["cancelled", "failed again"])
@pytest.mark.parametrize("if_exists", ["overwrite", "changed"])
def test_a_leftover_of_an_ended_command_is_not_skipped(
    tmp_path: Path, if_exists: str, then: str
) -> None:
    """It was sent completely, and its process was killed before it proved the bytes. Then the
    command is cancelled, or its retry fails at the source."""
    shelf, folder = Bucket(), plant(tmp_path)
    with Peer(shelf) as peer:
        terminal, words = bucket(tmp_path, peer), (str(folder), "s3://bucket/to/", "--if-exists")
        terminal.run("migrate", "-r", *words, if_exists, RELAY_FAILPOINT="before-verify:1:kill9")
        shelf.objects["to/a"] = flip_byte(shelf.objects["to/a"])
        if then == "cancelled":
            assert terminal.run("cancel", "1")[0] == 0
            assert terminal.query("SELECT max(lapses) FROM transfers") == 0
        else:
            (folder / "a").rename(tmp_path / "away")
            assert terminal.tree(*words, if_exists)[0] == 1
            (tmp_path / "away").rename(folder / "a")
        code, reported = terminal.tree(*words, "skip")
    assert (code, reported["objects"]) == (1, {"failed": 1})


class Dated(Bucket):
    """A bucket that dates each object by the time that its upload gave it, as `rclone serve s3`."""

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        answer = super()._done(method, key, request, body)
        dated = b"\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\nContent-Length"
        return answer.replace(b"\r\nContent-Length", dated, 1) if method == "HEAD" else answer


def test_a_leftover_with_the_date_of_its_source_is_not_skipped(tmp_path: Path) -> None:
    """The date does not show that the object was there before."""
    shelf, folder = Dated(), plant(tmp_path)
    with Peer(shelf) as peer:
        terminal, words = bucket(tmp_path, peer), (str(folder), "s3://bucket/to/", "--if-exists")
        terminal.run("migrate", "-r", *words, "overwrite", RELAY_FAILPOINT="before-verify:1:kill9")
        shelf.objects["to/a"] = flip_byte(shelf.objects["to/a"])
        code, reported = terminal.tree(*words, "skip")
    assert (code, reported["objects"]) == (1, {"failed": 1})


class Stale(Bucket):
    """A bucket whose listing is always empty."""

    def _listing_page(self, query: dict[str, list[str]]) -> bytes:
        return Bucket()._listing_page(query)


@pytest.mark.parametrize(
    ("if_exists", "there"),
    [("skip", "ours"), ("fail", "ours"), ("fail", "another's"), ("fail", "nothing")],
)
def test_an_arrived_object_that_is_unlisted_is_still_ours(
    tmp_path: Path, if_exists: str, there: str
) -> None:
    """An object failed, so the same command lists again; the destination's listing is stale."""
    shelf, folder = Stale(), plant(tmp_path)
    (folder / "dangling").symlink_to("nowhere")
    with Peer(shelf) as peer:
        terminal, words = (
            bucket(tmp_path, peer),
            (folder, "s3://bucket/to/", "--if-exists", if_exists),
        )
        assert terminal.tree(*words)[1]["objects"] == {"failed": 1, "verified": 1}
        (folder / "dangling").unlink()
        (folder / "more").write_bytes(DATA)
        if there == "nothing":
            shelf.objects.clear()
        elif there == "another's":
            shelf.objects["to/a"] = THEIRS
        code, report = terminal.tree(*words)
    assert shelf.objects["to/a"] == (THEIRS if there == "another's" else DATA)
    if there == "another's":
        assert (code, report["objects"]) == (1, {"failed": 1, "verified": 1})
    else:
        assert (code, sum(report["objects"].values())) == (0, 2)


class Broken(ClaimJournal):
    """A ledger that does not answer when the prior state is recorded."""

    def note(self, before: PriorState) -> None:
        """As Journal.note: the event has happened, and is not recorded."""
        super().note(before)
        raise LedgerFailed("the ledger does not answer")


class Away(ClaimJournal):
    """A ledger that records nothing."""

    def note(self, before: PriorState) -> None:
        """As Journal.note."""
        raise LedgerFailed("the ledger does not answer")


def test_an_unrecorded_damaged_object_is_known_later(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is unreachable when the damage shows, and answers when the object is handed
    back."""
    with (
        Peer(Shelf(damages=flip_byte)) as there,
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
    ):
        order = MigrationRequest(Endpoint(source.url("/a")), Endpoint(there.url("/a")))
        id = ledger.create(order.spec(engine.runner.remotes))[0].id
        monkeypatch.setattr(claim_runner, "ClaimJournal", Away)
        work_until(ledger, engine, id, attempts=1)
        other = ledger.create(replace(order, if_exists=IfExists.SKIP).spec(engine.runner.remotes))[
            0
        ].id
    (claim,) = ledger.claims.claim(1, only=other)
    assert claim.before is not None


STOPS = ["ledger", "source", "destination"]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_an_object_after_an_empty_attempt_is_not_ours(
    engine: Engine,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    if_exists: str,
    stop: str,
) -> None:
    """The ledger failed, the source could not be opened, or the destination could not be
    reached."""
    shelf = Shelf()
    with Peer(shelf) as there, Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source:
        order = MigrationRequest(
            Endpoint(source.url("/a")), Endpoint(there.url("/a")), if_exists=IfExists(if_exists)
        )
        id = ledger.create(order.spec(engine.runner.remotes))[0].id
        with monkeypatch.context() as patched:
            if stop == "ledger":
                patched.setattr(claim_runner, "ClaimJournal", Broken)
            elif stop == "source":
                patched.setattr(SourceReader, "open_body", refusing_request("source"))
            else:
                patched.setattr(HttpStore, "put", refusing_request("destination"))
            work_until(ledger, engine, id, attempts=1)
        shelf.objects[b"/a"] = THEIRS
        if ledger.migration(id).state != "running":
            ledger.act(id, "retry")
        work_until(ledger, engine, id)
    (row,) = ledger.page(id)
    assert (row.state, (row.error or {}).get("code")) == (
        ("skipped", None) if if_exists == "skip" else ("failed", "destination-exists")
    )
    assert shelf.objects == {b"/a": THEIRS}


def refusing_request(side: str) -> Callable[..., Any]:
    """Return a request that fails before anything was sent."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectFailed("nobody is there", side=side)  # type: ignore[arg-type]

    return refuse


def work_until(ledger: Ledger, engine: Engine, id: str, attempts: int = 9) -> None:
    """Work on a migration to its end, or until an object had `attempts` attempts."""
    work = Worker(ledger, engine.runner, 1, id)
    failed = work._failures.settle

    def stopping(*words: Any, stopped: bool) -> Any:
        nonlocal attempts
        attempts -= 1
        if not attempts:
            work.stop()
        return failed(*words, stopped=stopped or work.stopping)

    work._failures.settle = stopping  # type: ignore[method-assign]
    with gevent.Timeout(30):
        work.run()


# -- notes


def test_a_prior_state_survives_its_text_form() -> None:
    for before in (
        PriorState(known=True),
        PriorState(known=False),
        PriorState(
            known=True, version=Version(3, 'W/"x"', "then"), sent=Version(etag='"y"', id="z")
        ),
    ):
        assert PriorState.from_text(before.to_text()) == before
    assert PriorState.from_text(None) is None


def test_a_refusal_of_the_first_attempt_is_not_ours(engine: Engine) -> None:
    """Nothing of ours was sent before: an object that appeared in between is left alone."""
    shelf = Shelf(heeds=True)

    def before(one: Shelf, method: bytes, path: bytes) -> None:
        if method == b"PUT":
            one.objects[path] = THEIRS

    shelf.before = before
    assert migrate(engine, shelf, if_exists="skip") is State.SKIPPED
    with pytest.raises(AlreadyExists):
        migrate(engine, Shelf(heeds=True, before=before), if_exists="fail")
    assert shelf.objects == {b"/a": THEIRS}


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_a_412_at_an_absent_name_is_not_an_existing_object(engine: Engine, if_exists: str) -> None:
    """A server has other reasons for a 412: an absent object is neither skipped nor an
    obstacle."""
    shelf = Shelf(refused={b"PUT": empty_answer(412)})
    with pytest.raises(Unavailable) as caught:
        migrate(engine, shelf, if_exists=if_exists)
    assert "but it does not" in caught.value.message
    assert (shelf.objects, b"DELETE" in shelf.methods) == ({}, False)


@pytest.mark.parametrize("answer", [403, 405, 501])
def test_a_412_is_believed_where_reading_is_denied(engine: Engine, answer: int) -> None:
    shelf = Shelf(refused={b"PUT": empty_answer(412)})

    def before(one: Shelf, method: bytes, _: bytes) -> None:
        if method == b"PUT":
            one.refused = {
                b"PUT": empty_answer(412),
                b"HEAD": empty_answer(answer),
                b"GET": empty_answer(answer),
            }

    shelf.before = before
    assert migrate(engine, shelf, if_exists="skip") is State.SKIPPED


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
@pytest.mark.parametrize("answer", [429, 500, 503, None], ids=str)
def test_a_412_is_not_believed_where_reading_fails_for_a_while(
    engine: Engine, answer: int | None, if_exists: str
) -> None:
    """The destination does not show then whether the object exists."""
    failure = b"" if answer is None else empty_answer(answer)

    def before(one: Shelf, method: bytes, _: bytes) -> None:
        if method == b"PUT":
            one.refused |= {b"HEAD": failure, b"GET": failure}

    shelf = Shelf(refused={b"PUT": empty_answer(412)}, before=before)
    with pytest.raises(Unavailable, match="does not show"):
        migrate(engine, shelf, if_exists=if_exists)
    assert shelf.objects == {}


class Nodes(Shelf):
    """A server of two nodes, with other entity tags."""

    node = b"1"

    def _tag(self, data: bytes) -> bytes:  # type: ignore[override]
        return b'ETag: "%s"\r\n' % self.node


def test_a_prior_beginning_that_another_node_shows_is_kept(engine: Engine) -> None:
    """It is an older version of a growing file, and the upload was refused."""

    def before(shelf: Shelf, method: bytes, path: bytes) -> None:
        assert isinstance(shelf, Nodes)
        shelf.node = b"2" if method == b"PUT" else shelf.node

    shelf = Nodes({b"/a": DATA[:1000]}, refused={b"PUT": empty_answer(503)}, before=before)
    with pytest.raises(RelayError):
        migrate(engine, shelf)
    assert shelf.objects == {b"/a": DATA[:1000]}


def test_an_object_stored_before_a_503_is_not_skipped(tmp_path: Path) -> None:
    """A gateway answers 503 where the server's answer was lost, and no retry inspects the place."""

    def before(shelf: Shelf, method: bytes, path: bytes) -> None:
        if method == b"PUT":
            shelf.objects[path] = flip_byte(DATA)

    refused = {b"PUT": empty_answer(503), b"DELETE": empty_answer(405)}
    shelf = Shelf(refused=refused, before=before)
    folder, terminal = plant(tmp_path), Terminal(tmp_path, RELAY_RETRY_BUDGET="0")
    with Peer(shelf) as there:
        assert terminal.tree(folder, there.url("/to/"), "--if-exists", "overwrite")[0] == 1
        code, reported = terminal.tree(folder, there.url("/to/"), "--if-exists", "skip")
    assert (code, reported["objects"]) == (1, {"failed": 1})


def test_an_object_that_another_name_answers_for_is_not_skipped(engine: Engine) -> None:
    """The server chooses a file by content negotiation (MultiViews) once `a.txt` is there."""

    def before(shelf: Shelf, method: bytes, path: bytes) -> None:
        if method == b"PUT":
            chosen = b"HTTP/1.1 200 X\r\nContent-Length: 3\r\nContent-Location: /a.txt\r\n\r\n"
            shelf.refused |= {b"HEAD": chosen, b"GET": chosen + b"old"}

    with pytest.raises(KeyCollision):
        migrate(engine, Shelf(refused={b"PUT": empty_answer(412)}, before=before), if_exists="skip")


@pytest.mark.parametrize("deletes", [False, True], ids=["killed", "broken"])
def test_a_piece_over_an_unverified_object_of_ours_is_ours(tmp_path: Path, deletes: bool) -> None:
    """The source has changed, and the second upload breaks."""
    dates = [b"Sat, 07 Nov 2020 10:00:00 GMT", b"Sun, 08 Nov 2020 10:00:00 GMT"]
    shelf = Shelf(tags_uploads=True, refused={b"DELETE": empty_answer(405)})

    def before(one: Shelf, method: bytes, path: bytes) -> None:
        if method == b"PUT":
            one.dated = dates.pop(0) if dates else one.dated

    shelf.before = before
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        words = (str(folder), there.url("/to/"), "--if-exists", "skip", "--verify", "size")
        assert terminal.tree(*words)[0] == 3
        data = DATA[::-1] * 3
        (folder / "a").write_bytes(data)
        if deletes:
            shelf.cut = 1000
            terminal.run("migrate", "-r", *words, RELAY_RETRY_BUDGET="0")
        else:
            terminal.run("migrate", "-r", *words, RELAY_FAILPOINT="mid-part:1:kill9")
        eventually(lambda: shelf.objects[b"/to/a"] not in (data, DATA))
        code, reported = terminal.tree(*words)
    assert (code, reported["objects"]) in ((3, {"unverified": 1}), (1, {"failed": 1}))


@pytest.mark.parametrize("if_exists", ["changed", "skip"])
def test_an_object_published_during_a_cancel_stays_unverified(
    engine: Engine,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    if_exists: str,
) -> None:
    """Only its size is proved, and the command is interrupted during the rename or the MOVE."""
    remotes, file = Remotes(folders=None), plant(tmp_path) / "a"
    order = MigrationRequest(
        Endpoint(str(file)),
        Endpoint(str(tmp_path / "to")),
        if_exists=IfExists(if_exists),
        verify=Verify.SIZE,
    )
    id = ledger.create(order.spec(remotes))[0].id
    monkeypatch.setattr(engine.runner, "remotes", remotes)
    publish = LocalStore.publish

    def publish_and_cancel(*words: Any, **options: Any) -> Version:
        publish(*words, **options)
        raise Cancelled("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "publish", publish_and_cancel)
        work_until(ledger, engine, id, attempts=1)
    assert (tmp_path / "to").read_bytes() == DATA
    work_until(ledger, engine, id)
    assert [row.state for row in ledger.page(id)] == ["unverified"]


@pytest.mark.parametrize("if_exists", ["skip", "changed"])
@pytest.mark.parametrize("place", ["/a", "/"])
def test_a_server_does_not_skip_an_object_that_its_ledger_knows(
    engine: Engine, ledger: Ledger, if_exists: str, place: str
) -> None:
    """The object is moved in its request, without a record. Others are skipped. In a folder the
    object has a name only when its source was asked."""
    shelf = Shelf(damages=flip_byte, dated=b"Thu, 07 Nov 2199 10:00:00 GMT")
    shelf.refused[b"DELETE"] = empty_answer(405)
    dated = GET_HEAD[:-2] + b"Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n\r\n"
    with (
        Peer(shelf) as there,
        Peer(source_script(Cloud(), fixed_answer(dated, DATA), dated)) as source,
    ):
        order = MigrationRequest(Endpoint(source.url("/a")), Endpoint(there.url("/a")))
        work_until(ledger, engine, ledger.create(order.spec(engine.runner.remotes))[0].id)
        works = ledger_context(ledger, Worker(ledger, engine.runner, 1), engine.runner)
        client, shelf.damages = create_app(engine.runner, (), works).test_client(), bytes
        answers = []
        for name in (place, "/b"):
            shelf.objects[b"/b"] = DATA
            members = {"source": source.url("/a"), "destination": there.url(name)}
            answers.append(client.post("/migrate", json={**members, "if_exists": if_exists}).json)
    assert [one.get("state") for one in answers] == [
        "verified" if if_exists == "changed" else None,
        "skipped",
    ]
    assert if_exists == "changed" or "other bytes than were sent" in answers[0]["detail"]


def test_a_comparison_opens_the_source_first(engine: Engine) -> None:
    """As an upload does: in another order the two could wait for each other's connection."""
    asked = []

    def before(name: str) -> Callable[[Shelf, bytes, bytes], None]:
        return lambda shelf, method, path: asked.append(name)

    source, there = (Shelf({b"/a": DATA}, before=before(name)) for name in ("source", "there"))
    with Peer(source) as here, Peer(there) as far:
        meter = Watchdog(Limits())
        places = (parse_location(here.url("/a")), parse_location(far.url("/a")))
        ours = engine.runner.stores.source(places[0], meter)
        theirs = engine.runner.stores.destination(places[1], meter)
        piece = Version(len(DATA))
        assert is_piece(theirs, places[1], piece, source=ours, origin=places[0], pinned=None)
    assert list(dict.fromkeys(asked)) == ["source", "there"]  # without ranges it is asked twice
