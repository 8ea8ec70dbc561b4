"""Large files on SFTP servers: parts in one temporary file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from relay.engine.scratch import body_from_bytes
from relay.errors import AlreadyExists, NotFound, PreconditionFailed, UploadGone
from relay.location import Location
from relay.receipt import State
from relay.stores.interfaces import Part
from relay.stores.local_locations import local_location
from relay.stores.metadata import MTIME
from relay.stores.sftp.remote_parts import PART_BYTES
from relay.stores.sftp.store import SftpStore
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog
from tests.conftest import Certificates, Engine, close_kept
from tests.contract.test_sftp import PeerPlace, left_in, peer
from tests.sshd import Sshd, find_proftpd, proftpd

__all__ = ["peer"]
SIZE = 2 * PART_BYTES + 12_345


@pytest.fixture
def engine(certificates: Certificates) -> Iterator[Engine]:
    limits = Limits(parted_bytes=PART_BYTES, part_bytes=PART_BYTES)
    made = Engine(certificates.ca_file, limits, retry_budget=5)
    yield made
    made.assert_nothing_left()


@pytest.fixture
def large_file(tmp_path: Path) -> Location:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20) + os.urandom(SIZE & 0xFFFFF))
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return local_location(path, destination=False)


def test_a_large_file_arrives_in_parts(
    engine: Engine, openssh: Sshd, large_file: Location, tmp_path: Path
) -> None:
    folder = openssh.root / "parts/new"
    assert engine.migrate(large_file, openssh.place("parts/new/a")).state is State.VERIFIED
    assert engine.last is not None
    assert (folder / "a").read_bytes() == (tmp_path / "large").read_bytes()
    assert int((folder / "a").stat().st_mtime) == 1_600_000_000
    assert left_in(folder) == []


@pytest.mark.parametrize(
    "habit",
    [
        "die-on:6:90",
        *(
            pytest.param(habit, marks=pytest.mark.campaign)
            for habit in ("reorder", "die-on:6:1", "die-after:3:2", "die-on:200:1", "plain")
        ),
    ],
)
def test_a_session_that_dies_costs_its_part(
    engine: Engine, peer: PeerPlace, large_file: Location, tmp_path: Path, habit: str
) -> None:
    outcome = engine.migrate(large_file, peer("a", "once", habit))
    assert outcome.state is State.VERIFIED
    assert (tmp_path / "root/a").read_bytes() == (tmp_path / "large").read_bytes()
    assert left_in(tmp_path / "root") == []


@pytest.mark.parametrize("habit", ["in-order", "no-reopen"])
def test_a_server_that_writes_in_order_gets_one_piece(
    engine: Engine, peer: PeerPlace, large_file: Location, tmp_path: Path, habit: str
) -> None:
    outcome = engine.migrate(large_file, peer("a", habit))
    assert outcome.state is State.VERIFIED
    assert (tmp_path / "root/a").read_bytes() == (tmp_path / "large").read_bytes()
    assert left_in(tmp_path / "root") == []
    store = engine.runner.stores.destination(peer("a", habit), Watchdog(Limits()))
    assert store.part_limits(peer("a", habit)) is None


@pytest.mark.campaign
def test_proftpd_keeps_the_contract(engine: Engine, large_file: Location, tmp_path: Path) -> None:
    if find_proftpd() is None:
        pytest.skip("ProFTPD with mod_sftp is not installed (Debian: proftpd-mod-crypto)")
    (tmp_path / "pro").mkdir()
    with proftpd(tmp_path / "pro") as server:
        folder = server.root / "new"
        assert engine.migrate(large_file, server.place("new/a")).state is State.VERIFIED
        assert (folder / "a").read_bytes() == (tmp_path / "large").read_bytes()
        assert int((folder / "a").stat().st_mtime) == 1_600_000_000
        (folder / "b").write_bytes(b"theirs")
        with pytest.raises(AlreadyExists):
            engine.migrate(server.place("new/a"), server.place("new/b"), if_exists="fail")
        assert (folder / "b").read_bytes() == b"theirs"
        assert engine.migrate(server.place("new/a"), server.place("new/b")).state is State.VERIFIED
        assert (folder / "b").read_bytes() == (tmp_path / "large").read_bytes()
        store = engine.runner.stores.source(server.place("new/"), Watchdog(Limits()))
        assert sorted(entry.name for entry in store.list(server.place("new/"))) == ["a", "b"]
        close_kept(engine.runner.wire)
        gevent.sleep(0.2)


def test_what_the_file_is_too_short_for_is_not_stored(engine: Engine, openssh: Sshd) -> None:
    store = engine.runner.stores.destination(openssh.place("p/a"), Watchdog(Limits()))
    assert isinstance(store, SftpStore)
    upload = store.begin(openssh.place("p/a"), ((MTIME, "1600000000"),))
    with pytest.raises(NotFound):
        store.stored_parts(upload)
    store.abort(upload)

    def put(number: int, data: bytes) -> None:
        with body_from_bytes(data, Watchdog(Limits())) as body:
            done.append(store.put_part(upload, number, body))

    done: list[Part] = []
    put(2, b"tail")
    assert [part.size for part in store.stored_parts(upload)] == [PART_BYTES, 4]
    with pytest.raises(UploadGone):
        store.complete(upload, tuple(done), {})
    (openssh.root / "p/a").write_bytes(b"theirs")
    with pytest.raises(PreconditionFailed):
        store.complete(upload, tuple(done), {}, if_absent=True)
    assert (openssh.root / "p/a").read_bytes() == b"theirs"
    store.abort(upload)
    assert os.listdir(openssh.root / "p") == ["a"]
