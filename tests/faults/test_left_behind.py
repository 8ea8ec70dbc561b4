"""Leftovers of a killed process at a destination are removed or reported in every case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.stores.interfaces import is_temporary_name
from tests.end_to_end.terminal import Terminal, bucket_terminal
from tests.faults.scripted_s3 import PARTED, SIZE, Bucket, document, refusal, repeat_script, reply
from tests.faults.test_webdav import EMPTY, Dav
from tests.scripted import Peer, Talk

KILL = "before-publish:1:kill9"


@dataclass
class Keeping(Dav):
    """A WebDAV server that refuses every DELETE while it `keeps`."""

    keeps: bool = False
    folders: set[bytes] = field(default_factory=lambda: {b"/", b"/to/"})

    def _done(self, method: bytes, path: bytes, request: bytes, body: bytes) -> bytes:
        if method == b"DELETE" and self.keeps and path in self.objects:
            return EMPTY % 403
        return super()._done(method, path, request, body)

    @property
    def unpublished_names(self) -> list[str]:
        """The unpublished names."""
        return [
            name
            for path in self.objects
            if is_temporary_name(name := path.decode().rpartition("/")[2])
        ]


@dataclass
class Killed:
    """A tree of one object to a server, whose process was killed before the object was
    published."""

    dav: Keeping
    terminal: Terminal
    folder: Path
    to: str

    def run_again(self) -> tuple[int, str]:
        """Repeat the command; return its exit code, and its whole output with that of a report."""
        code, out, err = self.terminal.run("migrate", "-r", str(self.folder), self.to)
        return code, out + err + self.terminal.run("report", "1", "--format", "jsonl")[1]


@pytest.fixture
def killed_move(tmp_path: Path) -> Iterator[Killed]:
    folder, dav = tmp_path / "from", Keeping()
    folder.mkdir()
    (folder / "a").write_bytes(b"bytes")
    with Peer(dav) as server:
        made = Killed(
            dav, Terminal(tmp_path, RELAY_RETRY_BUDGET="2"), folder, f"webdav+{server.url('/to/')}"
        )
        code, *_ = made.terminal.run("migrate", "-r", str(folder), made.to, RELAY_FAILPOINT=KILL)
        assert code == -9
        assert len(dav.unpublished_names) == 1
        yield made


def test_a_cancel_names_leftovers_and_can_be_repeated(killed_move: Killed) -> None:
    killed_move.dav.keeps = True
    for _ in range(2):
        code, _, err = killed_move.terminal.run("cancel", "1")
        assert code == 1
        assert "may remain at webdav+" in err and "nothing unfinished is left" not in err
    killed_move.dav.keeps = False
    code, _, err = killed_move.terminal.run("cancel", "1")
    assert (code, "nothing unfinished is left" in err) == (0, True)
    assert killed_move.dav.unpublished_names == []


def test_the_receipt_notes_leftovers_of_the_next_attempt(killed_move: Killed) -> None:
    killed_move.dav.keeps = True
    code, output = killed_move.run_again()
    assert code == 0
    assert f"may remain at {killed_move.to}{killed_move.dav.unpublished_names[0]}" in output


@pytest.mark.parametrize("source", ["there", "gone"])
def test_a_cancel_removes_a_leftover_named_by_its_source(tmp_path: Path, source: str) -> None:
    file, dav = tmp_path / "a", Keeping()
    file.write_bytes(b"bytes")
    with Peer(dav) as server:
        terminal = Terminal(tmp_path, RELAY_RETRY_BUDGET="2")
        to = f"webdav+{server.url('/to/')}"
        assert terminal.run("migrate", str(file), to, RELAY_FAILPOINT=KILL)[0] == -9
        assert len(dav.unpublished_names) == 1
        if source == "gone":
            file.unlink()
        assert "nothing unfinished is left" in terminal.run("cancel", "1")[2]
    assert dav.unpublished_names == []


@pytest.mark.parametrize("verb", ["retry", None])
def test_an_object_gone_from_the_source_leaves_nothing(
    killed_move: Killed, verb: str | None
) -> None:
    (killed_move.folder / "a").unlink()
    (killed_move.folder / "b").write_bytes(b"other")
    code, output = killed_move.run_again()
    assert (code in (0, 1), killed_move.dav.unpublished_names) == (True, []), output
    if code == 1:  # it failed after the source was listed again: the next listing forgets it
        if verb is not None:
            assert killed_move.terminal.run(verb, "1")[0] == 0
            killed_move.run_again()
        assert killed_move.run_again()[0] == 0
    assert set(killed_move.dav.objects) == {b"/to/b"}


@pytest.mark.parametrize("verb", ["retry", None])
def test_nothing_is_forgotten_while_something_is_left(
    killed_move: Killed, verb: str | None
) -> None:
    killed_move.dav.keeps = True
    (killed_move.folder / "a").unlink()
    for _ in range(3):
        code, output = killed_move.run_again()
        assert code == 1
        assert f"may remain at {killed_move.to}{killed_move.dav.unpublished_names[0]}" in output
        if verb is not None:
            assert killed_move.terminal.run(verb, "1")[0] == 0


def test_an_unfinished_upload_in_a_versioned_store_is_noted(
    tmp_path: Path,
) -> None:
    """The bucket denies aborting an upload (s3:AbortMultipartUpload)."""
    bucket = Bucket({"abort": [refusal(403, "AccessDenied")] * 9}, order=list)
    (tmp_path / "from").write_bytes(b"a" * SIZE)
    with Peer(repeat_script(bucket)) as server:
        config = tmp_path / "relay.toml"
        config.write_text(
            f'[remotes.far]\ntype = "s3"\nendpoint = "{server.url("")}"\nregion = "eu-1"\n'
            'access_key_id = "key"\nsecret_access_key = "secret"\n'
        )
        terminal = Terminal(tmp_path, RELAY_CONFIG=str(config), RELAY_RETRY_BUDGET="2", **PARTED)
        words = ("migrate", str(tmp_path / "from"), "far:bucket/a", "--json")
        assert terminal.run(*words, RELAY_FAILPOINT="after-part-row:1:kill9")[0] == -9
        (tmp_path / "from").write_bytes(b"b" * SIZE)
        os.utime(tmp_path / "from", (2e9, 2e9))
        code, out, err = terminal.run(*words)
    assert (code, bucket.whole) == (0, b"b" * SIZE), err
    assert "abort" in bucket.asked
    assert any(
        "An unfinished upload may remain at s3://bucket/a" in note
        for note in json.loads(out)["receipt"]["notes"]
    )


@dataclass
class Fickle(Bucket):
    """A bucket that permits a copy of its object only from some moment on."""

    copies: bool = False

    def _answer(self, operation: str, request: bytes, body: bytes) -> bytes:
        if operation != "put" or b"x-amz-copy-source" not in request:
            return super()._answer(operation, request, body)
        copied = reply(200, document("CopyObjectResult", ("ETag", '"whole-2"')))
        return copied if self.copies else refusal(403, "AccessDenied")


def test_an_unfinished_upload_of_a_copied_object_is_aborted(tmp_path: Path) -> None:
    bucket = Fickle(sums=True, fields=("Accept-Ranges: bytes",), whole=b"a" * SIZE)
    with Peer(repeat_script(bucket)) as server:
        terminal = bucket_terminal(tmp_path, server.url(""), **PARTED)
        words = ("migrate", "s3://bucket/old", "s3://bucket/new")
        assert terminal.run(*words, RELAY_FAILPOINT="after-part-row:1:kill9")[0] == -9
        bucket.copies = True
        code, _, err = terminal.run(*words)
    assert code == 0, err
    assert "complete" not in bucket.asked and "abort" in bucket.asked


def test_an_unfinished_upload_without_source_ranges_is_noted(tmp_path: Path) -> None:
    """The source announces ranges and sends the whole object; the bucket refuses each abort."""
    bucket = Bucket({"abort": [refusal(403, "AccessDenied")] * 9}, sums=True)
    data = b"a" * SIZE

    def source(talk: Talk) -> None:
        while request := talk.head():
            head = f'Content-Length: {SIZE}\r\nETag: "e"\r\nAccept-Ranges: bytes\r\n\r\n'
            talk.send(b"HTTP/1.1 200 X\r\n", head.encode())
            talk.send(b"" if request.startswith(b"HEAD") else data)

    with Peer([source] * 20) as here, Peer(repeat_script(bucket)) as server:
        terminal = bucket_terminal(tmp_path, server.url(""), **PARTED)
        code, out, err = terminal.run("migrate", here.url("/a"), "s3://bucket/a", "--json")
    assert (code, bucket.whole) == (0, data), err
    assert any("An unfinished upload" in note for note in json.loads(out)["receipt"]["notes"])
