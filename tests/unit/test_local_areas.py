"""A mount that hangs holds threads of its own, and delays no other folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gevent
import pytest

from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.location import Location
from relay.process.mounts import parse_mounts
from relay.process.native_threads import AREA_THREADS, POOLS, AreaPools, in_native_thread
from relay.stores import local
from relay.stores.local import LocalStore
from relay.stores.local_areas import (
    FOLDERS,
    REFRESH_SECONDS,
    Mounts,
    area_of,
    area_of_path,
    mount_points,
)
from relay.stores.local_folders import AllowedFolders
from relay.stores.local_locations import local_location
from relay.wire.watchdog import Watchdog

MOUNTED = parse_mounts(r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:25 / /mnt/nas rw,relatime shared:7 - nfs4 nas:/ rw
29 27 0:26 / /mnt/my\040files rw - fuse.sshfs host: rw
30 28 8:1 / /mnt/nas/disk rw - xfs /dev/sdb1 rw
""")


@pytest.fixture
def gate() -> Iterator[Callable[[], object]]:
    """Return a call that hangs until the test ends."""
    go = threading.Event()
    yield partial(go.wait, 60)
    go.set()


def await_calls(pools: AreaPools, area: str, number: int) -> None:
    """Wait until calls of an area have begun."""
    while len(pools.pool_of(gevent.get_hub(), area)) < number:
        gevent.sleep(0.001)


def test_mounts_with_files_are_areas() -> None:
    assert set(mount_points(MOUNTED)) == {"/mnt/nas", "/mnt/nas/disk", "/mnt/my files"}


@pytest.mark.parametrize(
    ("path", "area"),
    [
        ("/home/a", ""),
        ("/mnt/nas", "/mnt/nas"),
        ("/mnt/nas2/a", ""),
        ("/mnt/nas/disk/a", "/mnt/nas/disk"),
        ("/mnt/my files/a", "/mnt/my files"),
        ("/srv/data/a", "/srv/data"),
        ("/mnt/nas/own/a", "/mnt/nas/own"),
    ],
)
def test_a_path_is_in_the_innermost_area(path: str, area: str) -> None:
    folders = AllowedFolders((Path("/srv/data"), Path("/mnt/nas/own")))
    assert area_of_path(Path(path), folders, Mounts(lambda: MOUNTED)) == area


def test_a_later_mount_is_found() -> None:
    now, found = [0.0], [()]
    mounts = Mounts(lambda: found[0], lambda: now[0])
    assert mounts.point_of("/mnt/nas/a") == ""
    found[0] = MOUNTED
    assert mounts.point_of("/mnt/nas/a") == ""
    now[0] += REFRESH_SECONDS
    assert mounts.point_of("/mnt/nas/a") == "/mnt/nas"


def test_a_known_folder_hides_no_mount_below_it() -> None:
    mounts = Mounts(lambda: MOUNTED)
    for path, point in [
        ("/mnt/nas/a", "/mnt/nas"),
        ("/mnt/nas/disk", "/mnt/nas/disk"),
        ("/mnt/nas/disk/a", "/mnt/nas/disk"),
        ("/mnt/nas/b", "/mnt/nas"),
        ("/mnt/a", ""),
        ("/", ""),
    ]:
        assert mounts.point_of(path) == point


def test_the_memory_of_folders_is_bounded() -> None:
    mounts = Mounts(lambda: MOUNTED)
    for number in range(FOLDERS + 1):
        assert mounts.point_of(f"/mnt/nas/{number}/a") == "/mnt/nas"
    assert len(mounts._folders) <= FOLDERS


def test_calls_that_hang_delay_no_other_area(gate: Callable[[], object]) -> None:
    pools = AreaPools()
    hung = [
        gevent.spawn(in_native_thread, gate, f"far{area}", pools)
        for area in range(3)
        for _ in range(AREA_THREADS + 2)
    ]
    with gevent.Timeout(10):
        for area in range(3):
            await_calls(pools, f"far{area}", AREA_THREADS)
        for other in ("near", ""):
            assert in_native_thread(lambda: "done", other, pools) == "done"
    gevent.killall(hung, block=False)


def test_areas_beyond_the_limit_share_threads(gate: Callable[[], object]) -> None:
    pools, hub = AreaPools(most=2, threads=1), gevent.get_hub()
    hung = [gevent.spawn(in_native_thread, gate, area, pools) for area in "ab"]
    with gevent.Timeout(10):
        for area in "ab":
            await_calls(pools, area, 1)
    assert pools.pool_of(hub, "c") is pools.pool_of(hub, "d") is not pools.pool_of(hub, "a")
    with gevent.Timeout(10):
        assert in_native_thread(lambda: "done", "c", pools) == "done"
    gevent.killall(hung, block=False)


def test_an_area_without_calls_makes_room() -> None:
    pools, hub = AreaPools(most=2), gevent.get_hub()
    first = pools.pool_of(hub, "a")
    for area in "bc":
        assert in_native_thread(lambda area=area: area, area, pools) == area  # type: ignore[misc]
    assert pools.pool_of(hub, "a") is not first


def test_a_folder_that_hangs_delays_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Callable[[], object]
) -> None:
    """As behind an NFS server that is away: more calls than there are threads."""
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"1")
    folders = AllowedFolders((tmp_path / "near", tmp_path / "far"))
    look = local.stat_regular

    def hang(allowed: AllowedFolders, path: Path) -> object:
        if path.parent.name == "far":
            gate()
        return look(allowed, path)

    monkeypatch.setattr(local, "stat_regular", hang)
    engine = TransferEngine(Settings(local_folders=f"{tmp_path}/near:{tmp_path}/far"))
    store = LocalStore(engine.wire, "source", Watchdog(engine.limits))

    def place(name: str) -> Location:
        return local_location(tmp_path / name / "x", destination=False, folders=folders)

    far = place("far")
    hung = [gevent.spawn(store.head, far) for _ in range(2 * AREA_THREADS)]
    with gevent.Timeout(10):
        await_calls(POOLS, area_of(far), AREA_THREADS)
        assert store.head(place("near")).version.size == 1
        assert in_native_thread(lambda: "done") == "done"
    gevent.killall(hung, block=False)
