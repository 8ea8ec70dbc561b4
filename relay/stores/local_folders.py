"""Open local paths; on a server only below the folders that its operator allowed.

Theory of operation. A check of a path does not protect a later open: a link may be made in between.
So a path is opened below an allowed folder by openat2(2), which refuses every link on the way
(RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS). If there is a link, the path is resolved, the result must be
below an allowed folder too, and is opened in the same way. Without openat2 (Linux before 5.6,
seccomp) each folder of the path is opened in turn, with O_NOFOLLOW.

Decided here: which path may be opened. Never here: which folders are allowed (`stores/remotes.py`),
what is done with a file. Every function here raises OSError; a path that leads out of the allowed
folders raises EXDEV, as openat2 does."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from relay.process.native_threads import close_descriptor

FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags of a folder that is opened only to name its files: it needs no permission to list them."""
_OPENAT2: Final = 437
"""The number of the system call, on every architecture (openat2(2))."""
_BENEATH: Final = 0x08 | 0x04
"""RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, which implies RESOLVE_NO_MAGICLINKS
(linux/openat2.h)."""
_ABSENT: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.E2BIG})
"""Errors of openat2 if it is not available: an old kernel, or a filter of system calls."""
UNSYNCED: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES}
)
"""Errors of fsync if the file system does not support it, or if the folder may not be read."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@dataclass(frozen=True)
class AllowedFolders:
    """The local folders that may be opened, with everything below them; None allows all."""

    allowed: tuple[Path, ...] | None = None

    def open(self, path: Path, flags: int) -> int:
        """Open a path and return the descriptor. Links are followed if they stay in the allowed
        folders."""
        flags |= os.O_CLOEXEC
        if self.allowed is None:
            return os.open(path, flags)
        root = self._root(path)
        if root is not None:
            try:
                return _open_below(root, path, flags)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
        path = self.resolve(path)
        root = self._root(path)
        assert root is not None, "resolve() only returns paths below an allowed folder"
        return _open_below(root, path, flags)

    @contextmanager
    def open_briefly(self, path: Path, flags: int) -> Iterator[int]:
        """As `open`, for the time of a `with` block."""
        descriptor = self.open(path, flags)
        try:
            yield descriptor
        finally:
            close_descriptor(descriptor)

    def stat(self, path: Path) -> os.stat_result:
        """Return the stat of a file or folder; links are followed."""
        if self.allowed is None:
            return path.stat()
        with self.open_briefly(path, os.O_PATH) as descriptor:
            return os.fstat(descriptor)

    def resolve(self, path: Path) -> Path:
        """Return the path with all links resolved; it need not exist."""
        found = Path(os.path.realpath(path))
        if self.allowed is not None and self._root(found) is None:
            raise OSError(errno.EXDEV, "it leads out of the folders that are allowed")
        return found

    def target(self, path: Path) -> Path:
        """Return the path to write to: the target of a link, which need not exist, otherwise `path`
        itself."""
        return self.resolve(path) if path.is_symlink() else path

    def make(self, path: Path) -> int:
        """Open a folder with FOLDER; make it and the folders above it if they are missing, and sync
        each."""
        missing: list[str] = []
        while True:
            try:
                folder = self.open(path, FOLDER)
                break
            except FileNotFoundError:
                missing.append(path.name)
                path = path.parent
        for name in reversed(missing):
            with _closing(folder):
                # Another process may have made it meanwhile: a folder is as good, a link is not
                # (O_NOFOLLOW).
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                    sync_folder(folder)
                folder = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        return folder

    def _root(self, path: Path) -> Path | None:
        return next((root for root in self.allowed or () if path.is_relative_to(root)), None)


def sync_folder(folder: int) -> None:
    """Sync a folder's names to the disk, if its file system supports that."""
    try:
        with _closing(
            os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        ) as readable:
            os.fsync(readable)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        close_descriptor(descriptor)


# -- below one folder


def _open_below(root: Path, path: Path, flags: int) -> int:
    """Open a path below `root`. Raises OSError, ELOOP for any link on the way."""
    below = path.relative_to(root)
    with _closing(os.open(root, FOLDER)) as top:
        try:
            return _openat2(top, os.fsencode(below), flags)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        return _walk(top, below.parts, flags)


def _openat2(folder: int, path: bytes, flags: int) -> int:
    how = _How(flags, 0, _BENEATH)
    descriptor = _syscall()(
        _OPENAT2, folder, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(descriptor)


@lru_cache(maxsize=1)
def _syscall() -> Callable[..., int]:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    found: Callable[..., int] = call
    return found


def _walk(top: int, parts: tuple[str, ...], flags: int) -> int:
    """Open a path folder by folder. Raises OSError, ELOOP for a link."""
    folder = os.dup(top)
    for name in parts[:-1]:
        with _closing(folder):
            folder = _open_plain(folder, name, FOLDER)
    with _closing(folder):
        return _open_plain(folder, parts[-1] if parts else ".", flags)


def _open_plain(folder: int, name: str, flags: int) -> int:
    """Open a name in a folder. Raises OSError, ELOOP for a link: with O_PATH open() would return
    the link itself, and with O_DIRECTORY it fails with ENOTDIR."""
    try:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise
    if flags & os.O_PATH and stat.S_ISLNK(os.fstat(descriptor).st_mode):
        close_descriptor(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return descriptor
