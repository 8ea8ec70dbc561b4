"""`relay move`: an object is verified at the destination, or untouched at the source, whatever
happens in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.terminal import Terminal
from tests.seaweed import Seaweed

NAMES = ("one", "sub/two", "sub/three", "empty", "sub-4", "é/f")
OLD = 1_700_000_000
POINTS = (
    *("after-accept", "after-pin", "before-verify", "before-publish", "before-settle"),
    *("after-settle", "after-delete-intent", "before-delete", "after-delete", "before-delete-row"),
)
"""Places at which a move is killed."""


def plant(folder: Path) -> dict[str, bytes]:
    """Write the tree, and return its content by names."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else name.encode() * 1000)
        os.utime(path, (OLD, OLD))
    return read(folder)


def read(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by their names."""
    left = re.compile(r"\.relay-|-relay-probe-[0-9a-f]{16}")  # of a run that was killed
    paths = (path for path in folder.rglob("*") if path.is_file() and not left.search(path.name))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def remove_parts(folder: Path) -> None:
    """Remove what a killed run may leave of a probe at the source, which relay does not move."""
    for path in folder.rglob(".relay-*.part"):
        path.unlink()


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")


def move(terminal: Terminal, *words: object, **more: str) -> tuple[int, dict[str, Any]]:
    """Move a tree; return the exit code and the command's JSON."""
    code, out, err = terminal.run("move", "-r", "--json", *map(str, words), **more)
    assert out, err
    return code, json.loads(out)


def test_a_tree_is_moved(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    code, end = move(terminal, tmp_path / "from", tmp_path / "to")
    assert code == 0, end
    assert end["move"]["deleted"] == len(NAMES) and not end["move"]["kept"]
    assert read(tmp_path / "to") == objects
    assert read(tmp_path / "from") == {}
    assert not [path for path in (tmp_path / "to").rglob("*") if "relay" in path.name]
    code, out, _ = terminal.run("undo", "1", "--list")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, {row["name"]: row["state"] for row in rows}) == (
        0,
        dict.fromkeys(NAMES, "deleted"),
    )
    assert {(row["basis"], row["note"], row["marker"]) for row in rows} == {
        ("receipt", "window", None)
    }
    code, out, _ = terminal.run("undo", "1")
    assert (code, f"{len(NAMES)} can't be undone" in out) == (3, True)


@pytest.mark.parametrize("visit", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_nothing_is_lost(
    terminal: Terminal, tmp_path: Path, point: str, visit: int
) -> None:
    source, destination = tmp_path / "from", tmp_path / "to"
    objects = plant(source)
    words = ("move", "-r", "-q", "--slots", "2", str(source), str(destination))
    code, _, err = terminal.run(*words, RELAY_FAILPOINT=f"{point}:{visit}:kill9")
    here, there = read(source), read(destination)
    for name, content in objects.items():
        assert there.get(name) == content or here.get(name) == content, name
        assert here.get(name, content) == content
    if code != 0:  # some places are visited once
        assert code == -signal.SIGKILL, err
        remove_parts(source)
        assert terminal.run(*words)[0] == 0
    assert read(destination) == objects
    assert read(source) == {}


def test_what_was_there_without_a_proof_is_kept(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    shutil.copytree(tmp_path / "from", tmp_path / "to")
    code, end = move(terminal, tmp_path / "from", tmp_path / "to")
    assert code == 3
    assert end["move"]["reasons"] == {"no-digest": len(NAMES)}
    assert read(tmp_path / "from") == objects
    code, end = move(terminal, tmp_path / "from", tmp_path / "to", "--if-exists", "overwrite")
    assert (code, end["move"]["deleted"]) == (0, len(NAMES))
    assert read(tmp_path / "to") == objects


def test_sizes_alone_delete_nothing(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    code, end = move(terminal, tmp_path / "from", tmp_path / "to", "--verify", "size")
    assert code == 3
    assert end["move"]["reasons"] == {"unproved": len(NAMES)}
    assert read(tmp_path / "from") == objects


def test_a_delay_keeps_the_sources_until_then(terminal: Terminal, tmp_path: Path) -> None:
    source, destination = tmp_path / "from", tmp_path / "to"
    objects = plant(source)
    code, end = move(terminal, source, destination, "--delete-after", "7d")
    assert code == 0
    assert (end["move"]["waiting"], end["move"]["deleted"]) == (len(NAMES), 0)
    assert read(source) == read(destination) == objects
    code, end = move(terminal, source, destination, "--delete-after", "7d")
    assert (code, end["move"]["waiting"]) == (0, len(NAMES)), end
    code, end = move(terminal, source, destination)
    assert (code, end["move"]["deleted"], read(source)) == (0, len(NAMES), {}), end
    assert read(destination) == objects


def test_what_changed_before_its_deletion_is_kept(terminal: Terminal, tmp_path: Path) -> None:
    source, destination = tmp_path / "from", tmp_path / "to"
    objects = plant(source)
    words = ("move", "-r", str(source), str(destination))
    code, _, err = terminal.run(*words, RELAY_FAILPOINT="after-delete-intent:1:kill9")
    assert code == -signal.SIGKILL, err
    (source / "one").write_bytes(b"changed since")
    (destination / "sub" / "two").write_bytes(b"changed there")
    (destination / "sub-4").unlink()
    code, out, err = terminal.run(*words)
    assert code == 3, err
    assert "3 kept at the source: " in out, out
    assert "1 source-changed" in out and "2 destination-changed" in out, out
    changed = {"one": b"changed since", "sub/two": objects["sub/two"], "sub-4": objects["sub-4"]}
    assert read(source) == changed
    code, end = move(terminal, source, destination)  # the next run copies them
    assert (code, read(source)) == (0, {}), end
    assert read(destination) == objects | {"one": b"changed since"}


def test_a_move_to_a_store_without_versions_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "from")
    before = read(tmp_path / "from")
    code, _, err = terminal.run("move", "-r", str(tmp_path / "from"), "sftp://127.0.0.1:1/to/")
    assert (code, "nothing can be moved to sftp://" in err) == (2, True), err
    assert "relay verify" in err
    assert read(tmp_path / "from") == before


def test_a_source_that_can_not_be_deleted_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    code, _, err = terminal.run("move", "-r", "http://127.0.0.1:1/x/", str(tmp_path / "to"))
    assert (code, "can't be moved" in err) == (2, True), err
    plant(tmp_path / "from")
    code, _, err = terminal.run(
        "move", "-r", "--strict", str(tmp_path / "from"), str(tmp_path / "to")
    )
    assert (code, "a strict move" in err) == (2, True), err
    (tmp_path / "link").symlink_to(tmp_path / "from" / "one")
    code, _, err = terminal.run("move", str(tmp_path / "link"), str(tmp_path / "to"))
    assert (code, "is a link" in err) == (2, True), err
    code, _, err = terminal.run("move", str(tmp_path / "from" / "one"), f"{tmp_path}/to/")
    assert (code, "is a folder" in err) == (2, True), err
    assert not (tmp_path / "to").exists()


def test_one_object_is_moved(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    one, there = tmp_path / "from" / "one", tmp_path / "to" / "first"
    words = ("move", str(one), str(there))
    code, _, err = terminal.run(*words, RELAY_FAILPOINT="after-delete:1:kill9")
    assert code == -signal.SIGKILL, err
    assert there.read_bytes() == objects["one"] and not one.exists()
    code, out, err = terminal.run(*words)
    assert (code, "1 objects deleted" in out) == (0, True), err
    shutil.copy(there, one)
    assert terminal.run("move", str(one), str(one.with_name("renamed")))[0] == 0
    assert not one.exists()


def test_links_and_their_targets_are_kept(terminal: Terminal, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    (tmp_path / "outside").write_bytes(b"the only one")
    (tmp_path / "from" / "link").symlink_to(tmp_path / "outside")
    code, end = move(terminal, tmp_path / "from", tmp_path / "to")
    assert (code, end["move"]["reasons"]) == (3, {"refused": 1})
    assert (tmp_path / "outside").read_bytes() == b"the only one"
    assert (tmp_path / "from" / "link").is_symlink()
    assert read(tmp_path / "to") == objects | {"link": b"the only one"}


# -- buckets


def keys(seaweed: Seaweed, prefix: str) -> set[str]:
    rows = seaweed.client().list_objects_v2(Bucket=seaweed.bucket, Prefix=prefix)
    return {row["Key"].removeprefix(prefix) for row in rows.get("Contents", ())}


def test_between_folders_and_buckets(clouds: Terminal, seaweed: Seaweed, tmp_path: Path) -> None:
    objects = plant(tmp_path / "from")
    bucket = f"near:{seaweed.bucket}"
    code, end = move(clouds, tmp_path / "from", f"{bucket}/a/")
    assert (code, end["move"]["deleted"]) == (0, len(NAMES)), end
    # Within one bucket, by the store's own copies.
    code, end = move(clouds, f"{bucket}/a/", f"{bucket}/b/")
    assert (code, end["move"]["deleted"], keys(seaweed, "a/")) == (0, len(NAMES), set()), end
    # What is there already is deleted, since both report the same digest.
    assert clouds.tree(f"{bucket}/b/", f"{bucket}/c/")[0] == 0
    code, end = move(clouds, f"{bucket}/b/", f"{bucket}/c/")
    assert (code, end["move"]["deleted"], keys(seaweed, "b/")) == (0, len(NAMES), set()), end
    code, end = move(clouds, f"{bucket}/c/", tmp_path / "to")
    assert (code, keys(seaweed, "c/")) == (0, set()), end
    assert read(tmp_path / "to") == objects


def test_one_bucket_by_two_names_is_not_moved(
    clouds: Terminal, seaweed: Seaweed, tmp_path: Path
) -> None:
    plant(tmp_path / "from")
    near, far = (f"{name}:{seaweed.bucket}/one-place" for name in ("near", "far"))
    assert clouds.tree(tmp_path / "from", f"{near}/")[0] == 0
    for source, destination in ((f"{near}/", f"{far}/"), (f"{near}/", f"{far}/inside/")):
        code, end = move(clouds, source, destination)
        assert code != 0, end
        assert keys(seaweed, "one-place/") >= set(NAMES), (source, destination)
