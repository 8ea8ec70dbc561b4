"""Delete local files, but only the version that the caller names.

Theory of operation. No system call deletes a file only if it is unchanged, so its stat is compared
just before. What would delete something else is refused: a link (its target is another name's), a
path whose folder became a link, and a file that a program has open for writing, which may write its
next bytes into nothing (a lease on the file shows that, fcntl(2)).

Decided here: which file is deleted. Never here: the removal of relay's own temporary files
(`local_upload.py`). Every function here raises OSError."""

from __future__ import annotations

import errno
import os
import signal
import stat
from contextlib import suppress
from fcntl import F_RDLCK, F_SETLEASE, F_SETSIG, F_UNLCK, fcntl
from pathlib import Path
from typing import Final

from relay.process import own_files
from relay.receipt import Version
from relay.stores.local_files import fresh, require_regular, version_of
from relay.stores.local_folders import FOLDER, AllowedFolders, sync_folder

LINK: Final = "it is a link, or below one: its target is the file of another name"
WRITTEN: Final = "a program has it open for writing"


class RefusedFile(Exception):
    """The file is not one that may be deleted; the text says why."""


def require_deletable_folder(folders: AllowedFolders, folder: Path) -> None:
    """Raise OSError if the names in a folder can't be deleted: it is missing, on a read-only mount,
    or not writable for this user."""
    with folders.open_briefly(folder, FOLDER) as descriptor:
        if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, "the file system is mounted read-only")
        if not os.access(f"/proc/self/fd/{descriptor}", os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, "names in this folder may not be deleted")


def remove_version(folders: AllowedFolders, path: Path, known: Version) -> Version | None:
    """Delete a file if it is a known version, and return None; else return the version that it has
    now. Raises RefusedFile, and OSError; then nothing was deleted."""
    if os.path.realpath(path.parent) != os.fspath(path.parent):
        raise RefusedFile(LINK)
    with folders.open_briefly(path.parent, FOLDER | os.O_NOFOLLOW) as folder:
        if stat.S_ISLNK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise RefusedFile(LINK)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path.name, flags, dir_fd=folder)
        try:
            return _remove_opened(folder, path.name, descriptor, known)
        finally:
            os.close(descriptor)


def _remove_opened(folder: int, name: str, descriptor: int, known: Version) -> Version | None:
    opened = require_regular(fresh(descriptor))
    own_files.require_other(opened)
    own_files.require_not_in_use(descriptor, opened)
    own_files.require_name_not_in_use(folder, name)
    if _has_writer(descriptor):
        raise RefusedFile(WRITTEN)
    found = require_regular(fresh(folder, name))
    there = version_of(found)
    if not os.path.samestat(found, opened) or there.etag != known.etag:
        return there
    os.unlink(name, dir_fd=folder)
    sync_folder(folder)
    return None


def _has_writer(descriptor: int) -> bool:
    """Return whether a program has an open file open for writing; False if the file system, or the
    missing ownership of the file, does not show that."""
    try:
        # A program that opens it meanwhile would signal us; this signal is ignored by default.
        fcntl(descriptor, F_SETSIG, signal.SIGURG)
        fcntl(descriptor, F_SETLEASE, F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    with suppress(OSError):
        fcntl(descriptor, F_SETLEASE, F_UNLCK)
    return False
