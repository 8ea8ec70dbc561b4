"""A tree that is moved into itself, without a name that shows it: links, mounts, and two names of
one store."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from urllib.parse import quote, unquote

import gevent
import pytest

from relay.caseless import caseless_form
from relay.config import Settings
from relay.engine import tree_listing
from relay.engine.migration_request import TURNS, Endpoint, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import InvalidURL, SameObject
from relay.ledger.ledger import Ledger
from relay.location import parse_location
from relay.stores import local_aliases
from relay.stores.remotes import Remotes
from tests.end_to_end.test_cli import ROOT, environment
from tests.faults.scripted_s3_objects import Shelf
from tests.scripted import Peer
from tests.values import claim_of, tree_job

# -- folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a place with a tree, and names of it that lead elsewhere."""
    (tmp_path / "from/inside").mkdir(parents=True)
    (tmp_path / "from/a").write_bytes(b"bytes")
    (tmp_path / "apart").mkdir()
    (tmp_path / "link").symlink_to("from")
    (tmp_path / "deep").symlink_to("from/inside")
    (tmp_path / "far").symlink_to("apart")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "from/out").symlink_to(tmp_path / "apart")
    return tmp_path


def locate_tree(folder: Path, source: str, destination: str) -> tuple[str, str]:
    """Return the two places of a tree, below `folder`."""
    order = MigrationRequest(
        Endpoint(f"{folder}/{source}"), Endpoint(f"{folder}/{destination}"), recursive=True
    )
    here, there = order.locate(Remotes(folders=None))
    return here.path.removeprefix(f"{folder}/"), there.path.removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("from", "link"),
        ("from", "link/new/er"),
        ("from", "deep"),
        ("from", "deep/new"),
        ("link", "from/new"),
        ("deep", "from"),
        ("link", "deep"),
        ("from/inside", "link"),
    ],
)
def test_a_folder_in_itself_by_a_link_is_refused(
    folders: Path, source: str, destination: str
) -> None:
    with pytest.raises(SameObject, match="one contains the other"):
        locate_tree(folders, source, destination)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("http://h/d/", "webdav+http://h/d/copy/"),
        ("webdav+https://h/d/copy/", "https://h/d/"),
    ],
)
def test_a_folder_in_itself_by_another_scheme_is_refused(source: str, destination: str) -> None:
    """Each further run would copy the copies."""
    order = MigrationRequest(Endpoint(source), Endpoint(destination), recursive=True)
    with pytest.raises(SameObject, match="one contains the other"):
        order.locate(Remotes({}, {}, profiles=list))


@pytest.mark.parametrize(
    ("source", "destination", "there"),
    [
        ("from", "apart", "apart/"),
        ("from", "far/new", "apart/new/"),
        ("from", "nowhere/yet", "nowhere/yet/"),
        ("nowhere", "apart", "apart/"),
        ("from", "loop", "loop/"),
    ],
)
def test_a_sibling_folder_is_not_refused(
    folders: Path, source: str, destination: str, there: str
) -> None:
    """Also through a link in the source, which is not followed."""
    assert locate_tree(folders, source, destination) == (f"{source}/", there)


@pytest.mark.parametrize(
    ("source", "destination", "folds"),
    [
        ("from", "FROM", True),
        ("from", "From/new", True),
        ("from/inside", "From", True),
        ("from", "fr\u00adom", True),
        ("from", "FROM", False),
    ],
)
@pytest.mark.parametrize("twice", [True, False])
def test_a_folder_in_itself_by_a_name_that_is_folded_is_refused(
    folders: Path,
    source: str,
    destination: str,
    folds: bool,
    twice: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FUSE assigns an inode number to each name under which it was asked for a file; only the
    listing of a folder shows the identity."""

    def there(path: Path) -> bool:
        form = caseless_form(path.name)
        return any(caseless_form(one.name) == form for one in path.parent.iterdir())

    monkeypatch.setattr(local_aliases, "_identity", lambda path: (1, hash(path)))
    if folds:
        monkeypatch.setattr(local_aliases.os.path, "lexists", there)
    if twice:
        (folders / destination.partition("/")[0]).mkdir()
    if folds and not twice:
        with pytest.raises(SameObject, match="one contains the other"):
            locate_tree(folders, source, destination)
        with pytest.raises(SameObject, match="the same file"):
            order = MigrationRequest(Endpoint(f"{folders}/from/a"), Endpoint(f"{folders}/from/A"))
            order.locate(Remotes(folders=None))
    else:
        assert locate_tree(folders, source, destination) == (f"{source}/", f"{quote(destination)}/")


@pytest.mark.parametrize(
    "destination", ["from/inside/..", "from/inside/../", "link/..", "apart/up"]
)
def test_an_object_may_go_to_a_folder_above_its_own(folders: Path, destination: str) -> None:
    """As in `relay migrate b ..`: the folder is named as it is, and is not the object itself."""
    (folders / "from/inside/b").write_bytes(b"bytes")
    (folders / "apart/up").symlink_to(folders / "from")
    order = MigrationRequest(
        Endpoint(f"{folders}/from/inside/b"), Endpoint(f"{folders}/{destination}")
    )
    there = order.locate(Remotes(folders=None))[1]
    assert (there.path[-1], ".." in there.path) == ("/", False)


@pytest.mark.parametrize("ends", [("loop", "apart"), ("from", "loop/new")])
def test_a_loop_of_links_is_refused(folders: Path, ends: tuple[str, str]) -> None:
    with pytest.raises(InvalidURL, match="loop"):
        locate_tree(folders, *ends)


MOUNTED = """
set -e
mount --bind {folder}/from {folder}/apart
exec {python} -m relay migrate -r {folder}/from {folder}/apart/new --json
"""


def test_a_folder_in_itself_by_a_mount_is_refused(folders: Path) -> None:
    script = MOUNTED.format(folder=folders, python=sys.executable)
    able = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=20).returncode == 0
    )
    if not able:
        pytest.skip("this user may mount nothing")
    env = environment(RELAY_LEDGER=f"sqlite:///{folders}/relay.db")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "one contains the other" in done.stderr + done.stdout) == (2, True), (
        done.stderr
    )
    assert not (folders / "from/new").exists()


# -- two names of one store


@dataclass
class Growing(Shelf):
    """A bucket whose listing waits until the listed objects were handled before it continues."""

    page: int = 2
    written: Condition = field(default_factory=Condition)

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        done = super()._done(method, key, request, body)
        with self.written:
            self.written.notify_all()
        return done

    def _listing_page(self, query: dict[str, list[str]]) -> bytes:
        after = unquote(query.get("continuation-token", [""])[0]).removeprefix("in/")
        if after and after.count("copy/") < TURNS:
            copies = {f"in/copy/{after[:-1]}{name}" for name in "ab"}
            with self.written:
                assert self.written.wait_for(lambda: copies <= self.objects.keys(), 30), after
        return super()._listing_page(query)


def test_a_listing_that_meets_its_own_output_ends_and_says_why(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_listing, "PAGE", 2)
    bucket = Growing({"in/a": b"one", "in/b": b"two", "in/z": b"three"})
    keys = {"type": "s3", "access_key_id": "KEY", "secret_access_key": "SECRET"}
    runner = TransferEngine(Settings(egress_allow="127.0.0.1", retry_budget=0))
    with Peer([bucket] * 99) as one, Peer([bucket] * 99) as other:
        named = {
            "one": {**keys, "endpoint": one.url("")},
            "other": {**keys, "endpoint": other.url("")},
        }
        runner.remotes = Remotes(named, folders=())
        order = MigrationRequest(
            Endpoint("one:bucket/in/"),
            Endpoint("other:bucket/in/copy/"),
            recursive=True,
            server_copy=False,
        )
        id = ledger.create(order.spec(runner.remotes))[0].id
        with gevent.Timeout(90):
            Worker(ledger, runner, 4, id).run()
        runner.wire.pool.close()
    rows = {row.name: row for row in ledger.page(id)}
    refused = {f"{'copy/' * TURNS}{name}" for name in "ab"}
    assert {name for name, row in rows.items() if row.state != "verified"} == refused
    for name in refused:
        error = rows[name].error or {}
        assert (error["code"], "under another name of the same" in error["detail"]) == (
            "same-object",
            True,
        )
    assert len(rows) == 2 * (TURNS + 1) + 1
    assert ledger.migration(id).state == "partial"


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("copy/copy/copy/copy/a", True),
        ("to/copy/to/copy/to/copy/to/copy/x/y", True),
        ("c%o/ü/" * 4 + "a", False),
        ("copy/copy/copy/a", False),
        ("copy/copy/copy/copy", False),
        ("0/0/0/0/1", False),
        ("a/copy/copy/copy/copy/b", False),
        ("copy", False),
    ],
)
def test_a_repetition_of_the_destinations_name_is_refused(name: str, refused: bool) -> None:
    job = tree_job(
        parse_location("https://a.example/in/"), parse_location("https://b.example/to/copy/")
    )
    claim = claim_of(name)
    if refused:
        with pytest.raises(SameObject):
            job.plan(claim)
    else:
        assert job.plan(claim).destination.path.startswith("/to/copy/")


def test_a_destination_at_the_root_cannot_repeat_a_name() -> None:
    job = tree_job(parse_location("https://a.example/in/"), parse_location("https://b.example/"))
    name = "a/a/a/a/a/a/a/a/b"
    assert job.plan(claim_of(name)).destination.path == f"/{name}"
