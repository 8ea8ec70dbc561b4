"""The area of a local path: a mount, or a folder that a server's operator allowed.

Theory of operation. A call into a mount whose server is away (NFS, SMB, FUSE) does not return, and
nothing can stop its thread. So the calls of one area share a few threads of their own
(`process/native_threads.py`): a mount that hangs delays itself alone. The root's mount has no area
of its own; its calls run where relay's other blocking calls do. A path counts by its text, without
its links, since following them could hang too.

Decided here: which paths share threads. Never here: how many threads they have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Final

from relay.location import Location
from relay.process.mounts import Mount, read_mounts
from relay.stores.local_folders import AllowedFolders
from relay.stores.local_locations import folders_of, path_of

REFRESH_SECONDS: Final = 10.0
"""How long the list of mounts is kept."""
FOLDERS: Final = 1000
"""Maximum number of folders whose mount point is kept."""
_WITHOUT_FILES: Final = frozenset(
    [
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "overlay"),
        *("proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "squashfs", "sysfs"),
        *("tmpfs", "tracefs"),
    ]
)
"""Types of file systems that wait for no disk and no server."""


class Mounts:
    """The mount points of this process, read again after REFRESH_SECONDS."""

    def __init__(
        self,
        read: Callable[[], Iterable[Mount]] = read_mounts,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start without knowledge."""
        self._read, self._clock = read, clock
        self._points: dict[str, str] = {}
        """The mount points by their paths with a final '/', the longest first."""
        self._folders: dict[str, str] = {}
        """The mount point of the folder of each path, dropped with each refresh."""
        self._until = -1.0

    def point_of(self, path: str) -> str:
        """Return the mount point of an absolute path, or "" for the root's mount."""
        if self._clock() >= self._until:
            self._refresh()
        if f"{path}/" in self._points:
            return path
        folder = os.path.dirname(path)
        point = self._folders.get(folder)
        if point is None:
            point = self._point_above(f"{folder}/")
            if len(self._folders) >= FOLDERS:
                self._folders.clear()
            self._folders[folder] = point
        return point

    def _refresh(self) -> None:
        points = mount_points(self._read())
        self._points, self._folders = {f"{point}/": point for point in points}, {}
        self._until = self._clock() + REFRESH_SECONDS

    def _point_above(self, folder: str) -> str:
        """Return the innermost mount point of a folder, whose path ends in '/'."""
        return next((point for top, point in self._points.items() if folder.startswith(top)), "")


def mount_points(mounts: Iterable[Mount]) -> tuple[str, ...]:
    """Return the points of the mounts whose files may be slow, the longest first; without the
    root."""
    found = {mount.point for mount in mounts if mount.kind not in _WITHOUT_FILES}
    return tuple(sorted(found - {"/"}, key=len, reverse=True))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


MOUNTS = Mounts()


def area_of_path(path: Path, folders: AllowedFolders, mounts: Mounts = MOUNTS) -> str:
    """Return the area of a path: its mount point, or the allowed folder if that is longer."""
    text = os.path.abspath(path)
    allowed = [str(root) for root in folders.allowed or () if _is_below(text, str(root))]
    return max((mounts.point_of(text), *allowed), key=len)


def area_of(*locations: Location) -> str:
    """Return the area of local locations; a call about several of them may hang in any, so that
    their areas make one together."""
    areas = {area_of_path(path_of(one), folders_of(one)) for one in locations}
    return "\0".join(sorted(areas - {""}))
