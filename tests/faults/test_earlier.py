"""An unproved object that an earlier migration between the same places sent is never a prior
object."""

from __future__ import annotations

import os
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists, Verify
from relay.engine.transfer_engine import TransferEngine
from relay.ledger.ledger import Ledger
from tests.conftest import Engine
from tests.end_to_end.terminal import bucket_terminal
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.scripted_peers import DATA
from tests.faults.scripted_s3 import GONE, PARTED, SIZE, crc64nvme, repeat_script, reply
from tests.faults.scripted_s3 import Bucket as Parts
from tests.faults.scripted_s3_objects import Shelf as Bucket
from tests.faults.scripted_s3_objects import _tag
from tests.faults.test_ours import THEIRS, bucket, flip_byte, hurried_terminal, plant, work_until
from tests.pairs import in_pairs
from tests.scripted import Peer

WRITTEN, LATER = (formatdate(time.time() + more, usegmt=True).encode() for more in (0, 3600))
"""The time at which the destination wrote, by its own report: after the source's files."""
BAD = flip_byte(DATA)


class Commands:
    """Migrations of one file, or of its tree, one after the other, in one ledger."""

    def __init__(self, engine: Engine, ledger: Ledger, folder: Path, there: str) -> None:
        self._engine, self._ledger, self._folder, self._there = engine, ledger, folder, there
        self.states: list[str] = []

    def migrate(self, verify: str, wish: str, tree: bool = True, **options: Any) -> str:
        """Accept a migration, and work it to its end; return the end of its object."""
        name = "" if tree else "a"
        places = f"file://{self._folder}/{name}", f"{self._there}/{name}"
        order = MigrationRequest(
            Endpoint(places[0]),
            Endpoint(places[1]),
            recursive=tree,
            verify=Verify(verify),
            if_exists=IfExists(wish),
            **options,
        )
        id = self._ledger.create(order.spec(self._engine.runner.remotes))[0].id
        work_until(self._ledger, self._engine, id, attempts=1000)
        (row,) = self._ledger.page(id)
        self.states.append(row.state)
        return row.state


@pytest.fixture
def commands(engine: Engine, ledger: Ledger, tmp_path: Path) -> Any:
    """Return the factory of Commands for each kind of destination."""
    folder = plant(tmp_path)
    engine.runner.remotes = TransferEngine(Settings(local_folders=str(tmp_path))).remotes
    return lambda there: Commands(engine, ledger, folder, there)


@in_pairs(wish=["changed", "skip"], tells=["tags", "dates", "both"], tree=[True, False])
def test_the_next_migration_judges_an_unverified_object(
    commands: Any, wish: str, tells: str, tree: bool
) -> None:
    """The object there is equally long, newer, and damaged."""
    shelf = Shelf(
        damages=flip_byte, tagged=tells != "dates", dated=b"" if tells == "tags" else WRITTEN
    )
    with Peer(shelf) as there:
        made = commands(there.url("/to"))
        assert made.migrate("size", "overwrite", tree) == "unverified"
        assert shelf.objects == {b"/to/a": BAD}
        shelf.damages = lambda data: data
        assert made.migrate("size", wish, tree) == "unverified"
        assert shelf.methods.count(b"PUT") == 1
        made.migrate("auto", wish, tree)
    replaced = wish == "changed" or tells != "dates"  # otherwise its origin is unknown
    assert made.states[-1] == ("verified" if replaced else "failed")
    assert shelf.objects == {b"/to/a": DATA if replaced else BAD}


@pytest.mark.parametrize("wish", ["changed", "skip", "fail"])
def test_an_unverified_object_is_proved_and_not_resent(commands: Any, wish: str) -> None:
    shelf = Shelf(dated=WRITTEN)
    with Peer(shelf) as there:
        made = commands(there.url("/to"))
        assert [made.migrate("size", "changed"), made.migrate("auto", wish)] == [
            "unverified",
            "verified",
        ]
    assert shelf.methods.count(b"PUT") == 1


@pytest.mark.parametrize("wish", ["changed", "skip"])
def test_a_repeated_unverified_request_stays_unverified(commands: Any, wish: str) -> None:
    """Each command is another migration."""
    shelf = Shelf(damages=flip_byte, dated=WRITTEN)
    with Peer(shelf) as there:
        made = commands(there.url("/to"))
        assert {made.migrate("size", wish) for _ in range(3)} == {"unverified"}
    assert shelf.methods.count(b"PUT") == 1


@pytest.mark.parametrize("wish", ["changed", "skip"])
def test_a_damaged_leftover_is_not_a_prior_object(commands: Any, wish: str) -> None:
    shelf = Shelf(refused={b"DELETE": empty_answer(405)}, damages=flip_byte, dated=WRITTEN)
    with Peer(shelf) as there:
        made = commands(there.url("/to"))
        assert [made.migrate("auto", wish) for _ in range(3)] == ["failed"] * 3


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("wish", ["changed", "skip"])
def test_a_file_that_was_left_unverified_is_not_skipped(
    commands: Any, tmp_path: Path, verify: str, wish: str
) -> None:
    """A file gets its name only once it is whole: only an unverified one may be damaged there."""
    made, there = commands(f"file://{tmp_path}/to"), tmp_path / "to" / "a"
    assert made.migrate("size", "changed") == "unverified"
    written = there.stat()
    there.write_bytes(BAD)
    os.utime(there, ns=(written.st_atime_ns, written.st_mtime_ns))
    made.migrate(verify, wish)
    if verify == "size":
        assert (made.states[-1], there.read_bytes()) == ("unverified", BAD)
    elif wish == "changed":
        assert (made.states[-1], there.read_bytes()) == ("verified", DATA)
    else:  # its new tag shows that another writer has replaced it
        assert (made.states[-1], there.read_bytes()) == ("failed", BAD)


def test_an_unverified_file_stays_unverified_on_repeat(
    tmp_path: Path,
) -> None:
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    for _ in range(2):
        assert terminal.tree(folder, tmp_path / "to", "--verify", "size")[0] == 3


def test_an_unverified_object_in_parts_stays_unverified_on_repeat(tmp_path: Path) -> None:
    """It is neither read nor sent again."""
    there, folder = Parts(), plant(tmp_path, bytes(SIZE))
    with Peer(repeat_script(there)) as peer:
        terminal = bucket_terminal(tmp_path, peer.url(""), **PARTED)
        for _ in range(2):
            code, report = terminal.tree(folder, "s3://bucket/to/", "--verify", "size")
            assert (code, report["objects"]) == (3, {"unverified": 1})
    assert (there.asked.count("part"), there.asked.count("complete")) == (2, 1)


@pytest.mark.parametrize(
    ("before", "wish"),
    [("changed", "changed"), ("skip", "skip"), ("overwrite", "skip"), ("overwrite", "changed")],
)
def test_a_leftover_of_a_killed_process_is_not_a_prior_object(
    tmp_path: Path, before: str, wish: str
) -> None:
    shelf = Shelf(damages=flip_byte, dated=WRITTEN, tags_uploads=True)
    folder, terminal = plant(tmp_path), hurried_terminal(tmp_path)
    with Peer(shelf) as there:
        words = ("migrate", "-r", str(folder), there.url("/to/"), "--if-exists")
        assert terminal.run(*words, before, RELAY_FAILPOINT="before-verify:1:kill9")[0] == -9
        assert shelf.objects == {b"/to/a": BAD}
        shelf.damages = lambda data: data
        code = terminal.run(*words, wish, "--verify", "read_back")[0]
    assert code == (1 if wish == "skip" else 0)
    assert shelf.objects == {b"/to/a": BAD if wish == "skip" else DATA}


class Late(Bucket):
    """A bucket that damages uploads, reports the digest of the damaged bytes, and shows a new
    object only at the third inspection."""

    looks = 0

    def _done(self, method: str, key: str, request: bytes, body: bytes) -> bytes:
        if method != "PUT":
            self.looks += bool(self.objects)
            return GONE if self.looks < 3 else super()._done(method, key, request, body)
        self.objects[key] = BAD
        return reply(200, b"", f"ETag: {_tag(BAD)}", f"x-amz-checksum-crc64nvme: {crc64nvme(BAD)}")


def test_a_damaged_object_that_shows_late_is_removed(tmp_path: Path) -> None:
    shelf = Late()
    with Peer(shelf) as peer:
        words = ("migrate", str(plant(tmp_path) / "a"), "s3://bucket/a", "--if-exists", "changed")
        code, *output = bucket(tmp_path, peer).run(*words, RELAY_RETRY_BUDGET="0")
    assert code == 1, (output, shelf.asked)
    assert shelf.objects == {}


# -- objects of other writers


def test_an_object_that_arrived_since_is_a_prior_object(commands: Any) -> None:
    shelf = Shelf(dated=WRITTEN)
    with Peer(shelf) as there:
        made = commands(there.url("/to"))
        assert [made.migrate("size", "changed"), made.migrate("auto", "changed")] == [
            "unverified",
            "verified",
        ]
        shelf.objects[b"/to/a"] = bytes(len(DATA))
        assert made.migrate("auto", "skip") == "skipped"
    assert shelf.objects == {b"/to/a": bytes(len(DATA))}


@pytest.mark.parametrize("tagged", [True, False])
def test_an_object_over_an_unverified_one_is_left_alone(commands: Any, tagged: bool) -> None:
    """It is skipped if the destination distinguishes it from our leftover."""
    shelf = Shelf(dated=WRITTEN, tagged=tagged)
    with Peer(shelf) as there:
        made = commands(there.url("/to"))
        assert made.migrate("size", "overwrite") == "unverified"
        shelf.objects[b"/to/a"], shelf.dated = bytes(len(DATA)), LATER
        assert made.migrate("auto", "skip") == ("skipped" if tagged else "failed")
    assert shelf.objects == {b"/to/a": bytes(len(DATA))}


def test_a_killed_process_that_sent_nothing_owns_nothing(
    tmp_path: Path,
) -> None:
    shelf, folder, terminal = (
        Shelf({b"/to/a": THEIRS}, dated=WRITTEN),
        plant(tmp_path),
        hurried_terminal(tmp_path),
    )
    with Peer(shelf) as there:
        words = ("migrate", "-r", str(folder), there.url("/to/"), "--if-exists", "skip")
        assert terminal.run(*words, RELAY_FAILPOINT="after-claim:1:kill9")[0] == -9
        assert terminal.run(*words, "--verify", "read_back")[0] == 0
    assert shelf.objects == {b"/to/a": THEIRS}
