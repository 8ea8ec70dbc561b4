"""`changed` leaves equal objects alone, whatever either side reports of them: HEAD is a hint."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path

import pytest

from relay.engine.transfer.context import ObjectHints
from relay.errors import IntegrityMismatch, SourceChanged
from relay.receipt import State, Version
from simulators.liars.dav import DavLiar
from simulators.liars.plain import PlainLiar
from simulators.liars.store_habits import StoreHabits
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import DATA, Cloud, fixed_answer, source_script
from tests.faults.scripted_s3 import Bucket, place, repeat_script
from tests.faults.test_ours import hurried_terminal
from tests.pairs import in_pairs
from tests.scripted import Peer, Talk

OLD, NEW = 1e9, 1.2e9
SECRET = "a-secret"


@dataclass
class Dated(Shelf):
    """Reports the modification times of its objects; with `ranges` it supports ranges, and answers
    416 to one beyond the end."""

    modified: float = NEW
    ranges: bool = True

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        data = self.objects.get(path)
        if method != b"GET" or data is None or b"\r\nRange: " not in request or not self.ranges:
            return super()._other(talk, method, path, request)
        if not data:
            talk.send(empty_answer(416))
        else:
            fields = b"Content-Range: bytes 0-0/%d\r\nContent-Length: 1\r\n" % len(data)
            talk.send(b"HTTP/1.1 206 X\r\n" + fields + self._tag(data) + b"\r\n", data[:1])
        return True

    def _tag(self, data: bytes) -> bytes:  # type: ignore[override]
        return (
            Shelf._tag(data)
            + f"Last-Modified: {formatdate(self.modified, usegmt=True)}\r\n".encode()
        )


@in_pairs(
    data={"bytes": DATA, "empty": b""},
    ranges={"ranges": True, "no ranges": False},
    head=[401, 404, 405],
)
def test_a_destination_without_head_is_compared_by_get(
    tmp_path: Path, head: int, ranges: bool, data: bytes
) -> None:
    (tmp_path / "a").write_bytes(data)
    os.utime(tmp_path / "a", (OLD, OLD))
    there = Dated(objects={b"/b": data}, refused={b"HEAD": empty_answer(head)}, ranges=ranges)
    with Peer(there) as peer:
        words = "migrate", str(tmp_path / "a"), peer.url("/b"), "--if-exists", "changed"
        code, out, _ = hurried_terminal(tmp_path).run(*words)
    assert code == 0, out
    assert b"PUT" not in there.methods


@pytest.mark.parametrize("size", [len(DATA), len(DATA) + 1], ids=["equal", "longer"])
@pytest.mark.parametrize("head", [401, 405])
def test_a_source_without_head_is_compared_by_get(tmp_path: Path, head: int, size: int) -> None:
    here = Dated(
        objects={b"/a": DATA.ljust(size, b" ")}, refused={b"HEAD": empty_answer(head)}, modified=OLD
    )
    there = Dated(objects={b"/b": DATA})
    with Peer(here) as source, Peer(there) as destination:
        words = "migrate", source.url("/a"), destination.url("/b"), "--if-exists", "changed"
        code, out, _ = hurried_terminal(tmp_path).run(*words)
    assert code == 0, out
    assert (b"PUT" in there.methods) is (size != len(DATA))
    assert there.objects[b"/b"] == DATA.ljust(size, b" ")


@pytest.mark.parametrize("kind", [PlainLiar, DavLiar])
@pytest.mark.parametrize("habit", ["head-403", "head-405"])
def test_a_tree_of_a_source_without_head_is_compared_by_get(
    tmp_path: Path, kind: type[PlainLiar], habit: str
) -> None:
    """Whether its listing has entity tags, like WebDAV's, or none, like a page of links."""
    terminal, headers, there = hurried_terminal(tmp_path), tmp_path / "headers", Dated()
    headers.write_text(f"Authorization: Bearer {SECRET}\n")
    headers.chmod(0o600)
    with kind("source", StoreHabits([habit], 1), [SECRET]) as source, Peer(there) as destination:
        for name in ("a", "empty", "below/b"):
            data = b"" if name == "empty" else DATA
            source.shelf.put(name, data, "source", modified=OLD)
            there.objects[f"/to/{name}".encode()] = data
        url = source.url() if kind is PlainLiar else f"webdav+{source.url()}"
        code, report = terminal.tree(
            url, destination.url("/to/"), "--source-headers-file", str(headers)
        )
    assert (code, report["objects"]) == (0, {"skipped": 3})
    assert b"PUT" not in there.methods


@pytest.mark.parametrize("head", [401, 405])
def test_a_damaged_object_of_ours_is_not_a_prior_object(tmp_path: Path, head: int) -> None:
    """It has the length and a newer time; relay sent it, so those do not count as equality with the
    source."""
    here = Dated(objects={b"/a": DATA}, refused={b"HEAD": empty_answer(head)}, modified=OLD)
    there = Dated(refused={b"DELETE": empty_answer(405)}, damages=lambda data: data[::-1])
    with Peer(here) as source, Peer(there) as destination:
        words = "migrate", source.url("/a"), destination.url("/b"), "--if-exists", "changed"
        for _ in range(2):
            code, out, _ = hurried_terminal(tmp_path).run(*words)
            assert code == 1, out


@pytest.mark.parametrize(
    ("data", "state"), [(DATA, State.VERIFIED), (b"", State.SKIPPED)], ids=["bytes", "empty"]
)
def test_a_head_of_no_length_does_not_make_an_object_empty(
    engine: Engine, data: bytes, state: State
) -> None:
    """Some servers answer HEAD with `Content-Length: 0` for a page that they compute."""
    dated = f"Last-Modified: {formatdate(OLD, usegmt=True)}\r\n\r\n".encode()
    head, got = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % length + dated for length in (0, len(data))
    )
    there = Dated(objects={b"/b": b""})
    with Peer(source_script(Cloud(), fixed_answer(got, data), head)) as source, Peer(there) as peer:
        outcome = engine.migrate(source.url("/a"), peer.url("/b"), if_exists="changed")
    assert (outcome.state, there.objects) == (state, {b"/b": data})


@pytest.mark.parametrize(
    ("promised", "size", "error"),
    [
        (Version(len(DATA) + 1), len(DATA), SourceChanged),
        (Version(len(DATA), digests={"crc64nvme": bytes(8)}), len(DATA), IntegrityMismatch),
        (Version(len(DATA)), len(DATA), None),
        (Version(len(DATA)), 0, None),
    ],
    ids=["size", "digest", "equal", "no length"],
)
def test_a_small_object_that_contradicts_its_list_has_changed(
    engine: Engine, promised: Version, size: int, error: type[Exception] | None
) -> None:
    """Source and destination agree, and both differ from the list."""
    dated = f"Last-Modified: {formatdate(OLD, usegmt=True)}\r\n\r\n".encode()
    head, got = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % length + dated
        for length in (size, len(DATA))
    )
    dates = (f"Last-Modified: {formatdate(NEW, usegmt=True)}",)
    bucket = Bucket(whole=DATA, sums=True, fields=dates)
    source = source_script(Cloud(), fixed_answer(got, DATA), head)
    with Peer([source] * 9) as peer, Peer(repeat_script(bucket)) as there:
        plan = engine.plan(peer.url("/a"), place(there), if_exists="changed")
        transfer = replace(
            engine.runner.transfer(plan), known=ObjectHints(listed=promised, promised=promised)
        )
        if error is None:
            assert engine.runner.run(transfer).state is State.SKIPPED
            return
        with pytest.raises(error):
            engine.runner.run(transfer)


@pytest.mark.parametrize("if_exists", ["changed", "skip", "fail", "overwrite"])
def test_an_equally_long_change_is_moved_at_level_size(tmp_path: Path, if_exists: str) -> None:
    """The unproved object of the first run is ours, but of an older version of the source."""
    terminal, here, there = hurried_terminal(tmp_path), tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for text, modified in (("old", OLD), ("new", NEW)):
        (here / "a").write_text(text)
        os.utime(here / "a", (modified, modified))
        words = str(here), str(there), "--verify", "size", "--if-exists", if_exists
        code, report = terminal.tree(*words)
        assert (code, report["objects"]) == (3, {"unverified": 1})
        assert (there / "a").read_text() == text
