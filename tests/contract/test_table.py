"""A store is one file and one line in a table: no other module of relay needs to know of a new
one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relay.errors import InvalidURL, RequestError
from relay.location import Location
from relay.receipt import State
from relay.stores.kinds import StoreType
from relay.stores.remotes import Remotes
from relay.stores.table import KINDS
from tests.conftest import Engine
from tests.contract.conftest import CAN, Place
from tests.contract.moves import DATA, put
from tests.faults.scripted_peers import Cloud, destination_script
from tests.scripted import Peer

ROOT = Path(__file__).resolve().parents[2]


def test_the_worked_example_is_the_code_that_the_suite_runs() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = (ROOT / "tests/contract/memory.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in page


def test_the_worked_example_is_typed_as_the_stores_are() -> None:
    """It has the form of a new file in relay/stores, and mypy --strict checks those."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "tests/contract/memory.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_kind_brings_its_own_scheme(memory: StoreType) -> None:
    remotes = Remotes(kinds=(*KINDS, memory))
    found = remotes.locate("memory://a/b c", destination=True)
    assert (found.store, str(found), found.path) == ("memory", "memory://a/b c", "/a/b%20c")
    with pytest.raises(RequestError) as caught:
        remotes.locate("memory://a/../b", destination=True, pointer="/destination")
    assert caught.value.pointer == "/destination"
    with pytest.raises(InvalidURL):
        Remotes(folders=None).locate("memory:a/b")


def test_a_kind_brings_its_own_types_of_remotes(memory: StoreType) -> None:
    made: list[str] = []

    def make(remote: object, path: str, asked: object) -> Location:
        made.append(path)
        return memory.schemes["memory"](f"memory://{path}", asked)  # type: ignore[arg-type]

    kind = StoreType("memory", memory.opens, types={"shelf": make})
    remotes = Remotes({"mine": {"type": "shelf"}}, kinds=(*KINDS, kind), profiles=list)
    assert remotes.locate("mine:a/b").path == "/a/b"
    assert made == ["a/b"]
    assert remotes.speaks(next(iter(remotes)))


def test_from_a_new_kind_to_an_old_one(engine: Engine, memory: StoreType) -> None:
    remotes, cloud = Remotes(kinds=(*KINDS, memory)), Cloud()
    put(engine, remotes.locate("memory://from/a", destination=True))
    with Peer(destination_script(cloud)) as peer:
        assert (
            engine.migrate(remotes.locate("memory://from/a"), peer.url("/b")).state
            is State.VERIFIED
        )
    assert cloud.objects == {b"/b": DATA}


def test_every_kind_has_its_own_name_and_a_row_in_the_suite(kind: str, place: Place) -> None:
    names = [one.name for one in KINDS]
    assert len(set(names)) == len(names)
    assert place("a").store in {*names, "memory"}
    rows = {
        "simulator": "http",
        "nginx": "http",
        "seaweed": "s3",
        "local": "local",
        "nextcloud": "nextcloud",
        "openssh": "sftp",
    }
    assert set(rows.values()) | {"webdav"} == set(names) - {
        "list"
    }  # a list of URLs is never a destination
    assert {*rows, "webdav+nginx"} <= set(CAN)
