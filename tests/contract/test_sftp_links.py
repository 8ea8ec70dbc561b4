"""Links below the tree at an SFTP destination: none makes two objects one."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from relay.engine.outcome import Outcome
from relay.errors import KeyCollision, SameObject
from relay.location import Location
from relay.receipt import State
from relay.stores.local_locations import local_location
from tests.conftest import Engine
from tests.sshd import Sshd


@pytest.fixture
def folder(openssh: Sshd, tmp_path: Path) -> Path:
    """Return a folder of this test below the server's root, with a tree `new` in it."""
    path = openssh.root / tmp_path.name
    (path / "new").mkdir(parents=True)
    return path


def move(
    engine: Engine, source: Location, destination: Location, name: str, **more: str
) -> Outcome:
    """Move one object of a tree."""
    tree = (source, destination)
    plan = engine.plan(source.below(name), destination.below(name, destination=True), **more)
    return engine.runner.run(engine.runner.transfer(replace(plan, tree=tree)))


def test_an_object_of_a_tree_goes_through_no_link(
    engine: Engine, openssh: Sshd, folder: Path
) -> None:
    files = [folder / "ours/x", folder / "ours/y", folder / "new/other", folder / "outside"]
    (folder / "ours").mkdir()
    for file in files:
        file.write_bytes(file.name.encode())
    ours, new = openssh.place(f"{folder.name}/ours/"), openssh.place(f"{folder.name}/new/")
    links = ("other", "missing", "../outside", "../ours/y")
    for link, if_exists in product(links, ("overwrite", "skip", "changed")):
        (folder / "new/x").symlink_to(link)
        with pytest.raises(KeyCollision, match="link"):
            move(engine, ours, new, "x", if_exists=if_exists)
        (folder / "new/x").unlink()
    assert [file.read_bytes() for file in files] == [file.name.encode() for file in files]
    assert os.listdir(folder / "new") == ["other"]


def test_an_object_below_a_link_to_a_folder_is_refused(
    engine: Engine, openssh: Sshd, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "current").mkdir()
    (tmp_path / "current/app").write_bytes(b"2")
    (folder / "new/v1").mkdir()
    (folder / "new/v1/app").write_bytes(b"1")
    (folder / "new/current").symlink_to("v1")
    ours = local_location(tmp_path, destination=False).folder()
    with pytest.raises(KeyCollision, match="link"):
        move(engine, ours, openssh.place(f"{folder.name}/new/"), "current/app")
    assert (folder / "new/v1/app").read_bytes() == b"1"


def test_a_link_above_the_tree_is_followed(
    engine: Engine, openssh: Sshd, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (folder / "alias").symlink_to("new")
    ours = local_location(tmp_path, destination=False).folder()
    outcome = move(engine, ours, openssh.place(f"{folder.name}/alias/"), "x")
    assert outcome.state is State.VERIFIED
    assert (folder / "new/x").read_bytes() == b"x"


def test_a_tree_is_not_moved_into_itself(engine: Engine, openssh: Sshd, folder: Path) -> None:
    (folder / "new/x").write_bytes(b"x")
    (folder / "alias").symlink_to("new")
    ours = openssh.place(f"{folder.name}/new/")
    for name in ("alias/", "alias/deeper/still/", ""):
        with pytest.raises(SameObject):
            move(engine, ours, openssh.place(f"{folder.name}/{name}"), "x")
    assert (folder / "new/x").read_bytes() == b"x"


def test_a_link_to_the_source_is_the_source(engine: Engine, openssh: Sshd, folder: Path) -> None:
    (folder / "new/x").write_bytes(b"x")
    (folder / "link").symlink_to("new/x")
    with pytest.raises(SameObject):
        engine.migrate(openssh.place(f"{folder.name}/new/x"), openssh.place(f"{folder.name}/link"))
