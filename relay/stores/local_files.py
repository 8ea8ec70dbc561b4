"""A local file as a source: its version, its bytes, and the listing of a folder.

Theory of operation. A file is read like a socket. Bytes in the page cache are read at once
(RWF_NOWAIT, preadv2(2)). Bytes that a disk, or the server behind a mount, must fetch are read in a
native thread, so that no other transfer waits. Before the last piece is returned, the file is
checked for changes: by its times, including st_ctime, which can't be set back, and by its end.

Decided here: how two versions of a file are distinguished, and which entries of a folder can be
moved. Never here: which paths may be opened (`local_folders.py`), what the system's errors mean
(`local.py`)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from heapq import merge
from pathlib import Path
from typing import Final

from gevent.monkey import get_original

from relay.errors import ConnectionLost, RelayError, Side, SourceChanged, Unsupported
from relay.parsing import http_text, moment
from relay.process import own_files
from relay.process.mounts import read_mounts
from relay.process.native_threads import close_descriptor, in_native_thread
from relay.receipt import Version
from relay.stores.file_bodies import CheckedStream
from relay.stores.interfaces import PREFIX, SUFFIX, Entry, reject_temporary_name
from relay.stores.local_folders import FOLDER, AllowedFolders
from relay.stores.metadata import MTIME

UTF_8: Final = ("utf-8", "surrogateescape")
"""Encoding of file names. It does not depend on the locale, and so neither do object names."""
_NOT_NOW: Final = frozenset(
    {errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE}
)
"""Errors of preadv2 if the bytes are not in memory, or if the file system does not support
RWF_NOWAIT."""
_UNNUMBERED: Final = ("vfat", "msdos", "exfat", "vboxsf")
"""Types of file systems whose inode numbers are not permanent, besides those of FUSE."""
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_FORCE_SYNC: Final = 0x2000
_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BYTES: Final = 256
"""Flags of statx(2), and the size of its answer (linux/fcntl.h, linux/stat.h)."""
TICK_NS: Final = 20_000_000
"""Maximum step of the clock that stamps files, in nanoseconds: CONFIG_HZ of 100, with a margin."""
MOUNTS_SECONDS: Final = 60
"""How long the mounts of the system are remembered."""
SORTED: Final = 10_000
"""Number of names that are sorted at a time, which takes some milliseconds."""
Failed = Callable[[OSError, str], RelayError]
"""Turns an error of the operating system into relay's, about the object of this name."""


def require_regular(found: os.stat_result) -> os.stat_result:
    """Return `found` if it is a regular file. Raises IsADirectoryError, ELOOP for a link, and ENXIO
    for a pipe, a socket or a device."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.ENXIO, f"it is {_special_kind(found.st_mode)}, not a regular file")
    return found


def fresh(folder: int, name: str = "") -> os.stat_result:
    """Stat a name in a folder, or an open file, without the attribute cache of a mount: cached
    attributes may be older than the last write (FUSE a second, NFS up to a minute). Raises
    OSError."""
    statx = _libc_statx()
    if statx is not None:  # it refreshes the cache, which the stat below then reads
        flags = _AT_STATX_FORCE_SYNC | (_AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH)
        statx(
            folder,
            os.fsencode(name),
            flags,
            _STATX_BASIC_STATS,
            ctypes.create_string_buffer(_STATX_BYTES),
        )
    return os.stat(name, dir_fd=folder, follow_symlinks=False) if name else os.fstat(folder)


def _stat_reopened(file: int) -> os.stat_result:
    """Stat an open file as another open finds it. sshfs keeps attributes for 20 seconds, whatever
    the kernel asks, but asks its server at each open (`dcache_stat_timeout`). Raises OSError."""
    with suppress(OSError):  # without /proc, or without the permission to open it again
        again = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return fresh(again)
        finally:
            close_descriptor(again)
    return fresh(file)


@lru_cache(maxsize=1)
def _libc_statx() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "statx", None)


def version_of(found: os.stat_result, *, sized: bool = True) -> Version:
    """Return the version of a file, with an ETag that relay makes of its inode, times and size.
    `sized` is False if the system does not report the size."""
    # No device number: NFS, btrfs, ZFS and others get another one each time they are mounted.
    number = found.st_ino if _is_numbered(found.st_dev) else 0
    tag = (number, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    etag = f'"{"-".join(f"{number:x}" for number in tag)}"'
    return Version(
        size=found.st_size if sized else None, etag=etag, last_modified=http_text(found.st_mtime)
    )


def changed_ns(version: Version) -> int | None:
    """Return the time of the last change in the ETag that `version_of` makes, in nanoseconds since
    1970; None for another ETag."""
    parts = (version.etag or "").strip('"').split("-")
    return int(parts[2], 16) if len(parts) == 4 else None


def _is_numbered(device: int) -> bool:
    """Return whether inode numbers are permanent on a device. Linux may give the number of an
    unmounted device to the next mount, so the mounts are read again after a while."""
    return _is_mount_numbered(device, int(time.monotonic() // MOUNTS_SECONDS))


@lru_cache(maxsize=256)
def _is_mount_numbered(device: int, _: int) -> bool:
    """As `_is_numbered`; cached until the last argument changes. FUSE, FAT and exFAT assign a new
    number after the kernel dropped the inode from its cache (fuse(8), `use_ino`; Linux,
    fs/fat/inode.c and fs/exfat/inode.c, iunique). So do VirtualBox's shared folders
    (fs/vboxsf/super.c), and SMB without the server's numbers (mount.cifs(8), `noserverino`)."""
    mounted = f"{os.major(device)}:{os.minor(device)}"
    return not any(
        mount.kind.startswith("fuse") or mount.kind in _UNNUMBERED or "noserverino" in mount.options
        for mount in read_mounts()
        if mount.device == mounted
    )


def metadata_of(found: os.stat_result) -> tuple[tuple[str, str], ...]:
    """Return a file's metadata: its time of modification."""
    if found.st_mtime_ns < 0:
        return ()
    return ((MTIME, f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09}"),)


def stat_regular(folders: AllowedFolders, path: Path) -> tuple[os.stat_result, Version]:
    """Return the stat and the version of a regular file, past the caches of a mount, which may show
    a deleted file (NFS for a minute, sshfs for 20 seconds). NFS asks its server for a fresh stat, a
    FUSE file system at an open. Raises OSError."""
    found = require_regular(folders.stat(path))
    own_files.require_other(found)
    # A file in /proc has size 0 and bytes: one byte is read to see that. O_NONBLOCK, since a lease
    # on the file, or a pipe that replaced it, would block this thread (open(2)).
    opens = not found.st_size or not _is_numbered(found.st_dev)
    flags = os.O_RDONLY | os.O_NONBLOCK if opens else os.O_PATH
    try:
        with folders.open_briefly(path, flags) as descriptor:
            found = require_regular(fresh(descriptor))
            sized = bool(found.st_size) or not opens or not os.pread(descriptor, 1, 0)
            return found, version_of(found, sized=sized)
    except (PermissionError, BlockingIOError):  # it may not be read, or has a lease (open(2))
        if not found.st_size:
            raise
        return found, version_of(found)


def open_settled(
    folders: AllowedFolders, path: Path, *, settled: bool
) -> tuple[int, os.stat_result, Version]:
    """Open a regular file; return its descriptor, stat and version. Raises OSError, also for a pipe
    or a device, which may have no end. A file of size 0 that has bytes (in /proc) gets a version
    without a size, and is read to its end.

    With `settled`, waits if the file was changed just now: another change in the same tick of the
    clock would leave its times as they are, and not be detected."""
    descriptor = folders.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = require_regular(fresh(descriptor))
        own_files.require_other(found)
        own_files.require_not_in_use(descriptor, found)
        if path.name.lower().endswith(own_files.SUFFIXES[1:]):
            with folders.open_briefly(path.parent, FOLDER) as folder:
                own_files.require_name_not_in_use(folder, path.name)
        # A time in the future is that of another machine's clock, for which no wait helps.
        if settled and 0 <= time.time_ns() - found.st_ctime_ns < TICK_NS:
            # This is a native thread: gevent's sleep would need a hub here.
            get_original("time", "sleep")(TICK_NS / 1e9)
            found = os.fstat(descriptor)
        sized = bool(found.st_size) or not os.pread(descriptor, 1, 0)
        return descriptor, found, version_of(found, sized=sized)
    except BaseException:
        close_descriptor(descriptor)
        raise


class FileStream(CheckedStream):
    """A regular file with the interface of a socket stream."""

    splices = False

    def __init__(
        self,
        descriptor: int,
        side: Side,
        version: Version,
        first: int,
        *,
        whole: bool,
        area: str = "",
    ) -> None:
        """Take over an open descriptor and read from byte `first` on. `whole`: the file is read to
        its end. `area` is that of its path (`local_areas.py`)."""
        self.side, self.leftover, self.closed = side, b"", False
        self._descriptor = descriptor
        self._version = version
        self._at = first
        self._whole = whole
        self._area = area
        self._slow = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def read_now(self, view: memoryview) -> int | None:
        """As Stream's."""
        try:
            count = None if self._slow else self._read_cached(view)
            if count is None:
                read = partial(os.preadv, self._descriptor, [view], self._at)
                count = in_native_thread(read, self._area)
        except OSError as error:
            raise self.lost_error(error) from None
        self._at += count
        return count

    def _read_cached(self, view: memoryview) -> int | None:
        """Read from the page cache; None if a disk must be read, or if the file system does not
        support RWF_NOWAIT."""
        try:
            return os.preadv(self._descriptor, [view], self._at, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise
            # EAGAIN is about these bytes; any other error about the file system, for all reads.
            self._slow = error.errno != errno.EAGAIN
            return None

    def wait_for_more(self, seconds: float) -> bool:
        """Return at once: a file is always ready."""
        return True

    def check(self) -> None:
        """Raise SourceChanged if the file was changed since it was opened, or is longer than its
        size."""
        try:
            if self._slow:
                changed = in_native_thread(self._has_changed, self._area)
            else:
                changed = self._has_changed()
        except OSError as error:
            raise self.lost_error(error) from None
        if changed:
            raise SourceChanged("the file was changed while it was read", side=self.side)

    def _has_changed(self) -> bool:
        longer = (
            self._whole
            and self._version.size is not None
            and bool(os.pread(self._descriptor, 1, self._at))
        )
        found = _stat_reopened(self._descriptor) if self._slow else os.fstat(self._descriptor)
        return longer or version_of(found).etag != self._version.etag

    def close(self) -> None:
        """As Stream's."""
        if not self.closed:
            self.closed = True
            with suppress(OSError):
                close_descriptor(self._descriptor)

    def finish(self) -> None:
        """Close the file after its last byte was read. Raises ConnectionLost: a mount may compare
        the digest of the bytes only now (`rclone mount`)."""
        self.closed = True
        close = partial(close_descriptor, self._descriptor)
        try:
            in_native_thread(close, self._area) if self._slow else close()
        except OSError as error:
            raise self.lost_error(error) from None

    def lost_error(self, error: BaseException) -> ConnectionLost:
        """As Stream's."""
        return ConnectionLost(
            f"the file can't be read ({getattr(error, 'strerror', error)})", side=self.side
        )


# -- listing a folder


def names_in(folders: AllowedFolders, folder: Path) -> tuple[int, Iterator[str]]:
    """Open a folder; return its descriptor and its names in order. Raises OSError.

    Names are returned instead of entries, since a folder may have millions, and a name takes a
    fifth of an Entry's memory. They are sorted in pieces: no other thread runs while Python sorts
    (law 10)."""
    descriptor = folders.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = os.listdir(descriptor)
    except BaseException:
        close_descriptor(descriptor)
        raise
    return descriptor, merge(
        *(sorted(names[first : first + SORTED]) for first in range(0, len(names), SORTED))
    )


def scan_folder(
    folders: AllowedFolders,
    folder: Path,
    descriptor: int,
    names: Iterable[str],
    *,
    failed: Failed,
    side: Side,
    missing: list[str] | None = None,
) -> list[Entry]:
    """Return the entries for some names of an open folder. A name that can't be moved becomes an
    entry with an error. At a destination temporary names are left out. Names that don't exist are
    appended to `missing`; without it they are entries with an error."""
    found: list[Entry | None] = []
    own = own_files.numbers() if side == "source" else frozenset()
    for name in names:
        try:
            found.append(
                _entry(folders, folder, descriptor, name, failed=failed, side=side, own=own)
            )
        except FileNotFoundError as error:
            if missing is not None:
                missing.append(name)
            else:
                unknown = _name_of(name)
                found.append(_unknown_entry(unknown, failed(error, unknown)))
    return [entry for entry in found if entry is not None]


def still_listed(descriptor: int, names: Iterable[str]) -> list[str]:
    """Return those of some names that an open folder still lists, in order: they were not removed.
    SMB lists names that Linux can't open, as those that end in a dot or a blank. Raises OSError."""
    try:
        return sorted(set(names).intersection(os.listdir(descriptor)))
    except FileNotFoundError:  # the folder itself was removed
        return []


def _name_of(raw: str) -> str:
    return os.fsencode(raw).decode(*UTF_8)


def _entry(
    folders: AllowedFolders,
    folder: Path,
    descriptor: int,
    raw: str,
    *,
    failed: Failed,
    side: Side,
    own: frozenset[tuple[int, int]],
) -> Entry | None:
    """Return the entry of a name, or None for a temporary name at a destination. The ledger (its
    numbers are `own`) is one with an error. Raises FileNotFoundError if there is nothing of that
    name."""
    name, linked, is_file = _name_of(raw), False, False
    try:
        found = os.stat(raw, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return Entry(f"{name}/")
        linked = stat.S_ISLNK(found.st_mode)
        if linked:
            found = folders.stat(folder / raw)
            if stat.S_ISDIR(found.st_mode):
                return Entry(
                    name,
                    error=_left_out_error(
                        "relay does not follow a link to a folder", "Move that folder by itself."
                    ),
                    judged_as=(f"{name}/",),
                )
        if not stat.S_ISREG(found.st_mode):
            return Entry(
                name,
                error=_left_out_error(
                    f"{_special_kind(found.st_mode)} is not a file", "Only files can be moved."
                ),
            )
        is_file = True
        own_files.require_other(found, own)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not linked:
            raise
        why = failed(error, name)
        if is_file:
            return Entry(name, error=why)
        if not linked and error.errno in _DEAD_MOUNT:
            return Entry(name, error=why, judged_as=(f"{name}/",))
        return _unknown_entry(name, why)
    entry = Entry(name, found.st_size, version_of(found).etag, moment(found.st_mtime))
    if name.startswith(PREFIX) and name.endswith(SUFFIX):
        return reject_temporary_name(entry, side)
    return entry


def _unknown_entry(name: str, why: RelayError) -> Entry:
    """Return the entry of a name that may be a folder or a file."""
    return Entry(name, error=why, judged_as=(f"{name}/", name))


_DEAD_MOUNT: Final = (errno.ENOTCONN, errno.ESTALE)
"""What a folder answers whose FUSE process or NFS server has left it."""


def _left_out_error(why: str, hint: str) -> RelayError:
    return Unsupported(why, side="source", hint=hint)


def _special_kind(mode: int) -> str:
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a disk"),
        (stat.S_ISCHR, "a device"),
    )
    return next((kind for test, kind in kinds if test(mode)), "something special")
