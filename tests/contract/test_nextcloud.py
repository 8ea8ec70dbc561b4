"""Nextcloud's chunked upload, on a real WebDAV server (WsgiDAV) that assembles chunks as Nextcloud
does.

Nextcloud adds one thing to WebDAV: a MOVE of an upload's `.file`. A small layer before WsgiDAV
implements that; the rest (folders, parts, listings, the move to the final name) is the real
server's."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.errors import (
    AlreadyExists,
    ConnectionLost,
    Locked,
    SourceTruncated,
    StoreError,
    StoreTimeout,
    Unavailable,
)
from relay.location import Location
from relay.receipt import Level, State
from relay.stores.http_client import HttpClient
from relay.stores.interfaces import is_temporary_name
from relay.stores.local_locations import local_location
from relay.stores.nextcloud import NextcloudStore
from relay.stores.remotes import Remotes
from relay.stores.webdav.objects import oc_checksum
from relay.transfer_limits import Limits
from simulators.content import Content
from simulators.spawn import Spawned
from tests.conftest import SEED, Certificates, Engine
from tests.contract.conftest import FILES, Nextcloud
from tests.contract.nextcloud import HIDDEN
from tests.end_to_end.terminal import Terminal

PART = 5 << 20
SIZE = 2 * PART + 12_345


@pytest.fixture
def engine(certificates: Certificates) -> Iterator[Engine]:
    made = Engine(certificates.ca_file, Limits(parted_bytes=PART, part_bytes=PART), retry_budget=3)
    yield made
    made.assert_nothing_left()


@pytest.mark.parametrize("size", [0, 1000, PART, SIZE])
def test_an_object_is_proved_before_it_has_its_name(
    engine: Engine, source: Spawned, nextcloud: Nextcloud, size: int
) -> None:
    name = f"new/er/{size}.bin"
    outcome = engine.migrate(
        source.url(f"/objects/a?size={size}"), nextcloud.place(name, destination=True)
    )
    assert outcome.receipt is not None
    assert outcome.receipt.level is Level.READ_BACK
    assert (nextcloud.root / FILES / name).read_bytes() == Content(SEED).read("/objects/a", 0, size)
    assert os.listdir((nextcloud.root / FILES / name).parent).count(f"{size}.bin") == 1
    assert not [path for path in (nextcloud.root / FILES).rglob(".relay-*")]
    assert not nextcloud.uploads


@pytest.mark.parametrize("size", [1000, SIZE])
def test_a_file_of_1970_arrives(
    engine: Engine, nextcloud: Nextcloud, tmp_path: Path, size: int
) -> None:
    """As those of Nix, whose time Nextcloud refuses with a server error."""
    (tmp_path / "a").write_bytes(Content(SEED).read("/objects/a", 0, size))
    os.utime(tmp_path / "a", (1, 1))
    place = nextcloud.place(f"1970-{size}", destination=True)
    outcome = engine.migrate(local_location(tmp_path / "a", destination=False), place)
    assert outcome.state is State.VERIFIED


def test_a_server_without_a_place_for_parts_takes_one_request(
    engine: Engine, source: Spawned, nextcloud: Nextcloud
) -> None:
    """Like ownCloud Infinite Scale, which has the same file paths."""
    files = FILES.replace("ann", "bob")
    (nextcloud.root / files).mkdir()
    place = Remotes().locate(
        f"webdav+{nextcloud.base}/{files}/large.bin".replace("+http:", ":"), destination=True
    )
    outcome = engine.migrate(source.url(f"/objects/a?size={SIZE}"), place)
    assert outcome.state is State.VERIFIED
    assert os.listdir(nextcloud.root / files) == ["large.bin"]


def test_a_source_that_always_ends_early_leaves_nothing(
    engine: Engine, source: Spawned, nextcloud: Nextcloud
) -> None:
    with pytest.raises(SourceTruncated):
        engine.migrate(
            source.url(f"/objects/a?size={SIZE}&fault=at({PART},on(GET,close_after(-1)))"),
            nextcloud.place("never.bin", destination=True),
        )
    assert not (nextcloud.root / FILES / "never.bin").exists()
    assert not [path for path in (nextcloud.root / FILES).rglob(".relay-*")]
    assert not nextcloud.uploads


def test_an_existing_object_is_left_alone(
    engine: Engine, source: Spawned, nextcloud: Nextcloud
) -> None:
    (nextcloud.root / FILES / "old.bin").write_bytes(b"old")
    place, url = nextcloud.place("old.bin", destination=True), source.url(f"/objects/a?size={SIZE}")
    assert engine.migrate(url, place, if_exists="skip").state is State.SKIPPED
    with pytest.raises(AlreadyExists):
        engine.migrate(url, place, if_exists="fail")
    assert (nextcloud.root / FILES / "old.bin").read_bytes() == b"old"


@pytest.mark.parametrize("moment", ["a part", "the end"])
def test_f43_an_upload_that_the_server_removed_restarts(
    engine: Engine,
    source: Spawned,
    nextcloud: Nextcloud,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does after a day."""
    method, lost = "put_part" if moment == "a part" else "complete", []
    asked = getattr(NextcloudStore, method)

    def throw_away(store: NextcloudStore, *rest: Any, **named: Any) -> Any:
        if not lost:
            lost.append(nextcloud.uploads)
            shutil.rmtree(nextcloud.root / "remote.php/dav/uploads/ann" / nextcloud.uploads[0])
        return asked(store, *rest, **named)

    monkeypatch.setattr(NextcloudStore, method, throw_away)
    name = f"restarted-{method}.bin"
    outcome = engine.migrate(
        source.url(f"/objects/a?size={SIZE}"), nextcloud.place(name, destination=True)
    )
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    assert len(lost[0]) == 1 and not nextcloud.uploads
    assert (nextcloud.root / FILES / name).read_bytes() == Content(SEED).read("/objects/a", 0, SIZE)


def test_f38_the_outcome_of_a_lost_assembly_is_determined(
    engine: Engine, source: Spawned, nextcloud: Nextcloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = HttpClient.send, []

    def losing(
        client: HttpClient, method: str, location: Location, *rest: Any, **named: Any
    ) -> Any:
        response = send(client, method, location, *rest, **named)
        if method == "MOVE" and location.path.endswith("/.file") and not lost:
            lost.append(response.head.status)
            response.body.close()
            raise ConnectionLost("the answer is lost", side="destination")
        return response

    monkeypatch.setattr(HttpClient, "send", losing)
    outcome = engine.migrate(
        source.url(f"/objects/a?size={SIZE}"), nextcloud.place("lost.bin", destination=True)
    )
    assert outcome.receipt is not None
    assert (lost, outcome.receipt.attempts, outcome.receipt.bytes_resent) == ([201], 1, 0)
    assert (nextcloud.root / FILES / "lost.bin").stat().st_size == SIZE


def test_a_removed_folder_of_a_large_object_is_made_again(
    engine: Engine, source: Spawned, nextcloud: Nextcloud
) -> None:
    """The process remembers that the folder existed."""
    url, place = (
        source.url(f"/objects/a?size={SIZE}"),
        nextcloud.place("gone/by/a", destination=True),
    )
    for _ in range(2):
        outcome = engine.migrate(url, place)
        assert outcome.receipt is not None
        assert (outcome.receipt.attempts, outcome.receipt.bytes_resent) == (1, 0)
        assert (nextcloud.root / FILES / "gone/by/a").stat().st_size == SIZE
        shutil.rmtree(nextcloud.root / FILES / "gone")
    assert not nextcloud.uploads


@pytest.mark.parametrize(
    "lost",
    [
        StoreTimeout("no answer", side="destination"),
        Unavailable("a proxy stopped to wait", side="destination", store_status=504),
        Unavailable("Cloudflare stopped to wait", side="destination", store_status=524),
        Locked("an earlier request still assembles", side="destination", store_status=423),
    ],
    ids=["timeout", "504", "524", "423"],
)
def test_f38_an_assembly_that_takes_long_is_requested_once(
    engine: Engine,
    source: Spawned,
    nextcloud: Nextcloud,
    monkeypatch: pytest.MonkeyPatch,
    lost: StoreError,
) -> None:
    """A second request would assemble the object again beside the first. The server ends once relay
    has asked twice for the object."""
    send, moves, looks = HttpClient.send, [], []

    def slow(client: HttpClient, method: str, location: Location, *rest: Any, **named: Any) -> Any:
        if method == "MOVE" and location.path.endswith("/.file"):
            moves.append(partial(send, client, method, location, *rest, **named))
            raise lost
        if method == "HEAD" and moves and is_temporary_name(location.name):
            looks.append(location)
            if len(looks) == 2:
                moves[0]().body.close()
        return send(client, method, location, *rest, **named)

    monkeypatch.setattr(HttpClient, "send", slow)
    name = f"slow-{getattr(lost, 'store_status', None)}.bin"
    outcome = engine.migrate(
        source.url(f"/objects/a?size={SIZE}"), nextcloud.place(name, destination=True)
    )
    assert outcome.receipt is not None
    assert (len(moves), outcome.receipt.attempts) == (1, 1)
    assert (nextcloud.root / FILES / name).stat().st_size == SIZE
    assert not nextcloud.uploads


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal that sends parts, one at a time, and a folder with one object of 16
    parts."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from/big.bin").write_bytes(os.urandom(16 * PART))
    settings = {
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
        "RELAY_PARTED_BYTES": str(PART),
        "RELAY_PART_BYTES": str(PART),
        "RELAY_PARTS_IN_FLIGHT": "1",
    }
    return Terminal(tmp_path, **settings)


@pytest.mark.parametrize(
    "place", ["before-complete", "after-complete", "before-verify", "before-publish"]
)
def test_f59_a_kill_after_assembly_resends_nothing(
    terminal: Terminal, nextcloud: Nextcloud, tmp_path: Path, place: str
) -> None:
    to = nextcloud.root / FILES / place
    words = (
        "migrate",
        "-r",
        f"{tmp_path}/from",
        f"webdav{nextcloud.base[4:]}/{FILES}/{place}",
        "--json",
    )
    assert terminal.run(*words, RELAY_FAILPOINT=f"{place}:1:kill9")[0] == -signal.SIGKILL
    assert not (to / "big.bin").exists()
    code, out, err = terminal.run(*words)
    assert code == 0, err
    report = json.loads(out)
    assert (report["bytes_resent"], report["levels"]) == (0, {"read_back": 1})
    assert os.listdir(to) == ["big.bin"]
    assert (to / "big.bin").read_bytes() == (tmp_path / "from/big.bin").read_bytes()
    assert not nextcloud.uploads


def test_a_replaced_object_stays_until_the_new_one_is_proved(
    terminal: Terminal, nextcloud: Nextcloud, tmp_path: Path
) -> None:
    to = nextcloud.root / FILES / "replaced"
    to.mkdir()
    (to / "big.bin").write_bytes(b"old")
    os.utime(to / "big.bin", (1e9, 1e9))
    place = f"webdav{nextcloud.base[4:]}/{FILES}/replaced"
    words = ("migrate", "-r", f"{tmp_path}/from", place, "--json")
    assert terminal.run(*words, RELAY_FAILPOINT="before-publish:1:kill9")[0] == -signal.SIGKILL
    assert (to / "big.bin").read_bytes() == b"old"
    assert terminal.run(*words)[0] == 0
    assert os.listdir(to) == ["big.bin"]
    assert (to / "big.bin").stat().st_size == 16 * PART


def test_each_part_without_a_tag_is_sent_once(
    terminal: Terminal, nextcloud: Nextcloud, tmp_path: Path
) -> None:
    """A server that keeps the parts in a bucket gives them no tag, and shows none of them."""
    files = FILES.replace("ann", HIDDEN)
    for folder in (files, f"remote.php/dav/uploads/{HIDDEN}"):
        (nextcloud.root / folder).mkdir(parents=True)
    place = f"webdav{nextcloud.base[4:]}/{files}/tree"
    words = ("migrate", "-r", f"{tmp_path}/from", place, "--json")
    code, out, err = terminal.run(*words)
    assert code == 0, err
    assert json.loads(out)["levels"] == {"read_back": 1}
    assert (nextcloud.root / files / "tree/big.bin").stat().st_size == 16 * PART


def test_an_assembly_of_another_version_is_removed(
    terminal: Terminal, nextcloud: Nextcloud, tmp_path: Path
) -> None:
    to = nextcloud.root / FILES / "other"
    words = (
        "migrate",
        "-r",
        f"{tmp_path}/from",
        f"webdav{nextcloud.base[4:]}/{FILES}/other",
        "--json",
    )
    assert terminal.run(*words, RELAY_FAILPOINT="before-publish:1:kill9")[0] == -signal.SIGKILL
    assert len(os.listdir(to)) == 1
    (tmp_path / "from/big.bin").write_bytes(os.urandom(3 * PART))
    code, _, err = terminal.run(*words)
    assert code == 0, err
    assert os.listdir(to) == ["big.bin"]
    assert (to / "big.bin").read_bytes() == (tmp_path / "from/big.bin").read_bytes()


def test_after_a_kill_only_missing_parts_are_sent(
    terminal: Terminal, nextcloud: Nextcloud, tmp_path: Path
) -> None:
    words = (
        "migrate",
        "-r",
        f"{tmp_path}/from",
        f"webdav{nextcloud.base[4:]}/{FILES}/tree",
        "--json",
    )
    process = terminal.start(*words)
    terminal.wait_for(
        process, "SELECT count(*) FROM parts WHERE etag != ''", lambda count: count >= 4
    )
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    code, out, err = terminal.run(*words)
    assert code == 0, err
    # The part in flight at the kill, and one that had arrived and was not recorded yet.
    assert json.loads(out)["bytes_resent"] <= 2 * PART
    assert (nextcloud.root / FILES / "tree/big.bin").read_bytes() == (
        tmp_path / "from/big.bin"
    ).read_bytes()
    assert not nextcloud.uploads


def test_the_checksum_of_a_source() -> None:
    sha, md5 = "a" * 40, "b" * 32
    assert oc_checksum(f"SHA1:{sha} md5:{md5} ADLER32:12345678 SHA256:short") == {
        "sha": bytes.fromhex(sha),
        "md5": bytes.fromhex(md5),
    }
    assert not oc_checksum("")
