"""`relay migrate --mirror`: only names that the source certainly lacks are deleted, and never more
than the limit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_move import keys, plant, read, remove_parts
from tests.seaweed import Seaweed

EXTRA = {"extra one": b"1", "sub/extra two": b"22", "new/extra": b"333"}


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")


@pytest.fixture
def objects(tmp_path: Path) -> dict[str, bytes]:
    """Return the source's tree; the destination has other objects."""
    for name, content in EXTRA.items():
        path = tmp_path / "to" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return plant(tmp_path / "from")


def mirror(
    terminal: Terminal, source: object, destination: object, *words: str, **more: str
) -> tuple[int, dict[str, Any]]:
    """Mirror a tree; return the exit code and what the deletions came to."""
    code, end = terminal.tree(source, destination, "--mirror", "--empty-folders", *words, **more)
    return code, end["mirror"]


def test_a_mirror_has_the_names_of_its_source(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    source, destination = tmp_path / "from", tmp_path / "to"
    code, end = mirror(terminal, source, destination)
    assert (code, end["refusal"], end["extra"], end["limit"]) == (3, "too-many-deletes", 3, 0)
    assert read(destination) == objects | EXTRA
    code, end = mirror(terminal, source, destination, "--max-delete", "2")
    assert (code, end["refusal"]) == (3, "too-many-deletes")
    assert read(destination) == objects | EXTRA
    code, end = mirror(terminal, source, destination, "--max-delete", "34%")
    assert (code, end["deleted"], end["kept"]) == (0, 3, 0), end
    assert read(destination) == read(source) == objects
    assert mirror(terminal, source, destination)[0] == 0


@pytest.mark.parametrize(
    "point", ["after-delete-intent", "before-delete", "after-delete", "before-delete-row"]
)
def test_killed_anywhere_only_extra_objects_go(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes], point: str
) -> None:
    source, destination = tmp_path / "from", tmp_path / "to"
    words = ("migrate", "-r", str(source), str(destination), "--mirror", "--empty-folders")
    words = (*words, "--max-delete", "9")  # a killed run leaves a probe on each side
    code, _, err = terminal.run(*words, RELAY_FAILPOINT=f"{point}:1:kill9")
    assert code == -signal.SIGKILL, err
    assert read(source) == objects
    assert objects.items() <= read(destination).items() <= (objects | EXTRA).items()
    remove_parts(source)
    assert terminal.run(*words)[0] == 0
    assert read(destination) == read(source) == objects
    rows = [terminal.run("undo", id, "--list")[1].splitlines() for id in ("1", "2")]
    deleted = [json.loads(row) for some in rows for row in some]
    names = {row["name"] for row in deleted if row["state"] == "deleted"}
    assert {name for name in names if "-relay-probe-" not in name} == set(EXTRA)


def test_an_empty_source_deletes_nothing(terminal: Terminal, tmp_path: Path) -> None:
    plant(tmp_path / "to")
    (tmp_path / "from").mkdir()
    words = ("--max-delete", "100%")
    code, end = mirror(terminal, tmp_path / "from", tmp_path / "to", *words)
    assert (code, end["refusal"]) == (3, "source-empty")
    code, end = mirror(terminal, tmp_path / "from", tmp_path / "to", *words, "--empty-source")
    assert (code, end["deleted"], read(tmp_path / "to")) == (0, end["extra"], {})


def test_a_folder_that_is_not_listed_forbids_deletions(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    (tmp_path / "from" / "linked").symlink_to(tmp_path / "to")
    code, end = mirror(terminal, tmp_path / "from", tmp_path / "to", "--max-delete", "100%")
    assert (code != 0, end["refusal"]) == (True, "incomplete"), end
    assert read(tmp_path / "to") == objects | EXTRA


def test_what_filters_leave_out_is_not_deleted(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    words = ("--max-delete", "100%", "--exclude", "sub/**", "--exclude", "/new/")
    code, end = mirror(terminal, tmp_path / "from", tmp_path / "to", *words)
    assert (code, end["deleted"]) == (0, 1)
    assert set(EXTRA) - set(read(tmp_path / "to")) == {"extra one"}


def test_a_folder_that_the_source_marks_is_kept(terminal: Terminal, tmp_path: Path) -> None:
    """The marker is not at the destination: the copies there are older than it."""
    source, destination = tmp_path / "from", tmp_path / "to"
    objects = {"cache/a": b"1", "cache/b": b"2", "c": b"3"}
    for folder in (source, destination):
        for name, content in objects.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    (source / "cache/.nobackup").touch()
    (source / "cache/a").unlink()
    words = ("--max-delete", "100%", "--exclude-if-present", ".nobackup")
    code, end = mirror(terminal, source, destination, *words)
    assert (code, end["extra"], end["deleted"]) == (0, 0, 0)
    assert read(destination) == objects


def test_links_at_the_destination_are_kept(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    (tmp_path / "outside").write_bytes(b"the only one")
    (tmp_path / "to" / "a link").symlink_to(tmp_path / "outside")
    code, end = mirror(terminal, tmp_path / "from", tmp_path / "to", "--max-delete", "100%")
    assert (code, end["reasons"], end["deleted"]) == (3, {"refused": 1}, 3)
    assert (tmp_path / "outside").read_bytes() == b"the only one"


def test_flags_that_need_others_are_refused(terminal: Terminal, tmp_path: Path) -> None:
    alone = (("--max-delete", "5"), ("--empty-source",), ("--empty-folders",))
    for words in (("--mirror",), *(("-r", *flags) for flags in alone)):
        assert terminal.run("migrate", str(tmp_path), f"{tmp_path}-to", *words)[0] == 2
    code, _, err = terminal.run("migrate", "-r", "http://127.0.0.1:1/x/", "a/", "--mirror")
    assert (code, "can't be mirrored" in err) == (2, True), err


def test_a_bucket_becomes_a_mirror(
    clouds: Terminal, seaweed: Seaweed, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    bucket = f"near:{seaweed.bucket}/mirror/"
    assert clouds.tree(tmp_path / "to", bucket)[0] == 0
    code, end = mirror(clouds, tmp_path / "from", bucket, "--max-delete", "3")
    assert (code, end["deleted"]) == (0, 3), end
    assert keys(seaweed, "mirror/") == set(objects)
    # The other way round, by another name of the same bucket.
    far = f"far:{seaweed.bucket}/mirror/"
    code, end = mirror(clouds, bucket, far, "--max-delete", "100%")
    assert (code, end["deleted"], keys(seaweed, "mirror/")) == (0, 0, set(objects)), end


def test_a_source_inside_its_destination_by_another_name(
    clouds: Terminal, seaweed: Seaweed, tmp_path: Path
) -> None:
    """The source's own objects are extra names of the destination, one folder up."""
    objects = plant(tmp_path / "from")
    near, far = (f"{name}:{seaweed.bucket}/above/" for name in ("near", "far"))
    assert clouds.tree(tmp_path / "from", f"{near}data/")[0] == 0
    code, end = mirror(clouds, f"{near}data/", far, "--max-delete", "100%")
    assert (code != 0, "deleted" in end, "one place" in str(end)) == (True, False, True), end
    assert keys(seaweed, "above/data/") == set(objects)
    code, out, err = clouds.run("move", "-r", f"{near}data/", far)
    assert (code, "one-place" in out) == (3, True), out + err
    assert keys(seaweed, "above/data/") == set(objects)


def test_names_that_relay_does_not_take_are_kept(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    odd = os.path.join(os.fsencode(tmp_path / "to"), b"odd \xff\n name")
    with open(odd, "wb") as file:
        file.write(b"kept")
    code, end = mirror(terminal, tmp_path / "from", tmp_path / "to", "--max-delete", "100%")
    assert (code, end["deleted"], end["reasons"]) == (3, 3, {"refused": 1}), end
    assert os.path.exists(odd)


def in_trash(trash: Path) -> dict[str, bytes]:
    """Return the objects in a trash of one migration by the names that they had."""
    return {name.partition("/")[2].rpartition("~")[0]: data for name, data in read(trash).items()}


def test_nothing_in_a_trash_is_replaced(terminal: Terminal, tmp_path: Path) -> None:
    """The same command continues a migration of which an object fails."""
    source, destination, trash = (tmp_path / name for name in ("from", "to", "trash"))
    plant(source)
    os.mkfifo(source / "fails")
    destination.mkdir()
    words = ("--max-delete", "100%", "--trash", str(trash))
    for version in (b"version 1", b"version 2"):
        for name in ("x", "X"):
            (destination / name).write_bytes(version)
        assert mirror(terminal, source, destination, *words)[1]["deleted"] == 2
    assert sorted(read(trash).values()) == [b"version 1"] * 2 + [b"version 2"] * 2
    assert len({name.casefold() for name in read(trash)}) == 4
    assert terminal.query("SELECT count(*) FROM migrations") == 1
    code, out, _ = terminal.run("undo", "1")
    assert (code, read(destination)["x"]) == (3, b"version 2")
    assert "2 deletions undone" in out and "deleted once more later" in out


def test_undo_restores_the_deleted_object_only(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    source, destination, trash = (tmp_path / name for name in ("from", "to", "trash"))
    words = ("--max-delete", "3", "--trash", str(trash))
    assert mirror(terminal, source, destination, *words)[0] == 0
    (changed,) = trash.glob("*/extra one~*")
    changed.write_bytes(b"2")
    code, out, _ = terminal.run("undo", "1")
    assert (code, "the trash has another object" in out) == (3, True)
    assert "extra one" not in read(destination)


def test_a_trash_gives_deleted_objects_back(
    terminal: Terminal, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    source, destination, trash = (tmp_path / name for name in ("from", "to", "trash"))
    words = ("--max-delete", "3", "--trash", str(trash))
    code, end = mirror(terminal, source, destination, *words)
    assert (code, end["deleted"], read(destination)) == (0, 3, objects), end
    assert in_trash(trash) == EXTRA
    (destination / "extra one").write_bytes(b"another")
    code, out, err = terminal.run("undo", "1")
    assert (code, "2 deletions undone" in out) == (3, True), out + err
    assert read(destination) == objects | EXTRA | {"extra one": b"another"}
    for inside in (destination / "trash", source / "trash"):
        words = ("-r", str(source), str(destination), "--mirror", "--trash", str(inside))
        code, _, err = terminal.run("migrate", *words)
        assert (code, "overlap" in err) == (2, True), err


def test_a_trash_in_the_same_bucket(
    clouds: Terminal, seaweed: Seaweed, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    bucket = f"near:{seaweed.bucket}"
    assert clouds.tree(tmp_path / "to", f"{bucket}/kept/")[0] == 0
    words = ("--max-delete", "3", "--trash", f"{bucket}/trash/")
    code, end = mirror(clouds, tmp_path / "from", f"{bucket}/kept/", *words)
    assert (code, end["deleted"]) == (0, 3), end
    assert keys(seaweed, "kept/") == set(objects)
    code, out, err = clouds.run("undo", "2")
    assert (code, "3 deletions undone" in out) == (0, True), out + err
    assert keys(seaweed, "kept/") == {*objects, *EXTRA}
