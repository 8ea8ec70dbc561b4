"""The files of relay's own ledger in a tree: never read as objects, and never replaced by one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay.cli.local_run import work
from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import LedgerFailed
from relay.ledger.ledger import Ledger
from relay.ledger.states import MigrationVerb
from relay.process.own_files import SUFFIXES, require_other
from tests.faults.test_claims import accept_object, run_worker

NAMES = [f"ledger.db{suffix}" for suffix in SUFFIXES]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "top" / "home").mkdir(parents=True)
    return tmp_path / "top" / "home"


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """Return an empty ledger in the home folder."""
    made = Ledger.connect(f"sqlite:///{home}/ledger.db")
    yield made
    made.close()


def move_tree(
    ledger: Ledger, source: Path, destination: Path, if_exists: IfExists = IfExists.CHANGED
) -> dict[str, str]:
    """Move a tree; return the state, or the error's code, of each object."""
    destination.mkdir(exist_ok=True)
    engine = TransferEngine(Settings(local_folders=f"{source}:{destination}"))
    places = Endpoint(f"file://{source}/"), Endpoint(f"file://{destination}/")
    order = MigrationRequest(*places, recursive=True, if_exists=if_exists)
    id = ledger.create(order.spec(engine.remotes))[0].id
    run_worker(ledger, engine, id)
    return {row.name: (row.error or {}).get("code", row.state) for row in ledger.page(id)}


def test_an_object_never_replaces_the_open_ledger(
    ledger: Ledger, home: Path, tmp_path: Path
) -> None:
    """A home folder that holds the default ledger is restored from a backup of it."""
    (tmp_path / "backup" / "home").mkdir(parents=True)
    for name in (*NAMES, "a.txt", "LEDGER.DB-JOURNAL"):
        (tmp_path / "backup" / "home" / name).write_bytes(b"an older one")
    before = os.stat(home / "ledger.db").st_ino
    ends = move_tree(ledger, tmp_path / "backup", home.parent, IfExists.OVERWRITE)
    refused = {f"home/{name}" for name in (*NAMES, "LEDGER.DB-JOURNAL")}
    assert {name for name, end in ends.items() if end == "reserved-key"} == refused
    assert ends["home/a.txt"] == "verified"
    assert os.stat(home / "ledger.db").st_ino == before
    ledger.check_file()


@pytest.mark.parametrize("if_exists", [IfExists.OVERWRITE, IfExists.FAIL])
def test_no_other_path_to_the_ledger_helps(
    ledger: Ledger, home: Path, tmp_path: Path, if_exists: IfExists
) -> None:
    (tmp_path / "from").mkdir()
    for name in ("to ledger.db", "to ledger.db-journal"):
        (tmp_path / "from" / name).write_bytes(b"x")
        (home / name).symlink_to(name.removeprefix("to "))
    ends = move_tree(ledger, tmp_path / "from", home, if_exists)
    assert set(ends.values()) <= {"reserved-key", "destination-exists", "key-collision"}, ends
    assert not (home / "ledger.db-journal").exists()
    ledger.check_file()


def test_a_listed_ledger_is_an_entry_that_fails(ledger: Ledger, home: Path, tmp_path: Path) -> None:
    """Its copy would have the credentials of every migration."""
    (home / "a.txt").write_bytes(b"a")
    (home / "link").symlink_to("ledger.db")
    ends = move_tree(ledger, home, tmp_path / "copy")
    refused = {"ledger.db", "ledger.db-wal", "ledger.db-shm", "link"}
    assert ends == {"a.txt": "verified", **dict.fromkeys(refused, "reserved-key")}


def test_another_ledger_is_an_object_once_it_is_closed(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger.connect(f"sqlite:///{tmp_path}/other.db")
    engine = TransferEngine(Settings(local_folders=str(tmp_path)))
    places = Endpoint(f"file://{tmp_path}/other.db"), Endpoint(f"file://{tmp_path}/copy")
    id = ledger.create(MigrationRequest(*places).spec(engine.remotes))[0].id
    run_worker(ledger, engine, id)
    assert [(row.error or {})["code"] for row in ledger.page(id)] == ["reserved-key"]
    assert not (tmp_path / "copy").exists()
    other.close()
    ledger.act(id, MigrationVerb.RETRY)
    run_worker(ledger, engine, id)
    assert [row.state for row in ledger.page(id)] == ["verified"]


@pytest.fixture
def other_home(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a ledger that another process has open."""
    home = tmp_path / "other"
    home.mkdir()
    program = (
        "import sys; from relay.ledger.ledger import Ledger;"
        " ledger = Ledger.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{home}/ledger.db"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline()
        yield home
        process.stdin.close()


@pytest.mark.parametrize("is_new", [True, False])
def test_no_object_replaces_a_ledger_of_another_process(
    ledger: Ledger, other_home: Path, tmp_path: Path, is_new: bool
) -> None:
    (tmp_path / "backup").mkdir()
    for name in (*NAMES, "a.txt"):
        (tmp_path / "backup" / name).write_bytes(b"an older one")
    if not is_new:
        with closing(sqlite3.connect(other_home / "ledger.db")) as there:
            there.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = {name: os.stat(other_home / name).st_ino for name in NAMES[:3]}
    ends = move_tree(ledger, tmp_path / "backup", other_home, IfExists.OVERWRITE)
    assert ends == {"a.txt": "verified", **dict.fromkeys(NAMES, "reserved-key")}
    assert {name: os.stat(other_home / name).st_ino for name in before} == before


def test_no_ledger_of_another_process_is_copied(
    ledger: Ledger, other_home: Path, tmp_path: Path
) -> None:
    """Its log would miss the commits of that moment, or have half of one."""
    (other_home / "a.txt").write_bytes(b"a")
    ends = move_tree(ledger, other_home, tmp_path / "copy")
    assert ends == {"a.txt": "verified", **dict.fromkeys(NAMES[:3], "reserved-key")}


@pytest.mark.parametrize("is_replaced", [False, True], ids=["removed", "replaced"])
def test_a_command_without_its_ledger_does_not_succeed(
    ledger: Ledger, home: Path, tmp_path: Path, is_replaced: bool
) -> None:
    engine = TransferEngine(Settings(local_folders=str(tmp_path)))
    id = accept_object(ledger, tmp_path, engine)

    def lose_file(*_: object) -> None:
        (home / "ledger.db").rename(home / "lost")
        if is_replaced:
            (home / "ledger.db").write_bytes((home / "lost").read_bytes())

    worker = Worker(ledger, engine, 1, id, ended=lose_file)
    with pytest.raises(LedgerFailed, match="removed or replaced"):
        work(worker, lambda: None, 0.05)


def test_a_link_to_the_ledger_that_leads_elsewhere_now(home: Path, tmp_path: Path) -> None:
    """The file that is open is the one to which the link led when the ledger was opened."""
    real, link = tmp_path / "real.db", home / "ledger.db"
    link.symlink_to(real)
    with closing(Ledger.connect(f"sqlite:///{link}")):
        link.unlink()
        link.symlink_to(tmp_path / "other.db")
        with pytest.raises(OSError, match="is a ledger"):
            require_other(real.stat())
    require_other(real.stat())
