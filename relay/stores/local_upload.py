"""A local file as a destination: written under a temporary name, then renamed.

Theory of operation. The bytes go to a `.relay-….part` in the folder of the final file, which is
synced to the disk. It is then renamed or, with `if_absent`, hard-linked to its final name. A file
system without hard links may have RENAME_NOREPLACE (renameat2(2)), or at least O_EXCL: then an
empty placeholder reserves the name for a moment, and a note beside it says so, for cleanup after a
crash. A crash at any moment leaves the old file or the new one. A symbolic link at the final name
is followed: its target is replaced, and the new file keeps the target's owner, mode and access
list.

Decided here: how a file is written, and which metadata may be missing with a note. Never here:
which paths may be opened (`local_folders.py`), what the system's errors mean (`local.py`). Every
function raises OSError, and must be called in a native thread."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from relay.file_names import NAME_BYTES
from relay.process import own_files
from relay.process.native_threads import close_descriptor
from relay.stores.interfaces import PREFIX, SUFFIX
from relay.stores.local_files import fresh, require_regular
from relay.stores.local_folders import FOLDER, UNSYNCED, AllowedFolders, sync_folder
from relay.stores.metadata import DATED_SECONDS

T = TypeVar("T")
UNDATED: Final = "the file system did not accept the file's time of modification"
UNOWNED: Final = (
    "the replaced file had a different owner or group, which could not be set on the new one"
)
UNSAFE: Final = "the file system does not support fsync: a power loss may still destroy the file"
UNLINKED: Final = frozenset(
    {
        errno.EPERM,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EMLINK,
        errno.EXDEV,
        errno.EINVAL,
        errno.EACCES,
    }
)
"""Errors of link(2) on file systems without hard links, or without one to this file."""
_SECONDS: Final = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,19})?")
_NOTE: Final = f"-name{SUFFIX}"
_NO_REPLACE: Final = 1
"""RENAME_NOREPLACE (linux/fs.h)."""
_ACCESS_LIST: Final = "system.posix_acl_access"


@dataclass(kw_only=True)
class TemporaryFile:
    """A file that is being written under a temporary `name`. `folder` and `descriptor` are open
    descriptors of its folder and of the file."""

    folder: int
    descriptor: int
    name: str
    path: Path
    notes: tuple[str, ...] = ()

    def close_file(self) -> None:
        """Close the file. Raises OSError: a mount may send the bytes to its server only now
        (close(2))."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            close_descriptor(descriptor)

    def close(self) -> None:
        """Close both descriptors."""
        with suppress(OSError):
            self.close_file()
        close_descriptor(self.folder)


def begin(folders: AllowedFolders, place: Path, name: str, *, if_absent: bool) -> TemporaryFile:
    """Create the temporary file for `place`; make missing folders.

    Raises IsADirectoryError, ENXIO if `place` is not a regular file, FileExistsError (with
    `if_absent`: the file exists)."""
    path = folders.target(place)
    folder = folders.make(path.parent)
    try:
        old = _stat_name(folder, path.name)
        if if_absent and old is not None:
            raise FileExistsError(errno.EEXIST, "it exists")
        # Until it gets the mode of the file that it replaces, no other user may read it.
        descriptor = _create(folder, name, 0o666 if old is None else 0o600)
        notes = () if old is None or _copy_owner(descriptor, old) else (UNOWNED,)
        return TemporaryFile(
            folder=folder, descriptor=descriptor, name=name, path=path.with_name(name), notes=notes
        )
    except BaseException:
        close_descriptor(folder)
        raise


def _create(folder: int, name: str, mode: int) -> int:
    """Create a temporary file and return its descriptor. An earlier attempt may have left one of
    that name, which it could not delete: it is ours."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, mode, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        return os.open(name, flags, mode, dir_fd=folder)


def write(part: TemporaryFile, data: memoryview) -> None:
    """Append data."""
    done = 0
    while done < len(data):
        done += os.write(part.descriptor, data[done:])


def finish(
    part: TemporaryFile, data: memoryview, changed: str | None
) -> tuple[os.stat_result, tuple[str, ...]]:
    """Append the last data, set the time of modification (`changed`, in seconds since 1970), sync
    and close the file. Return its stat, and notes on what could not be done."""
    notes = part.notes
    write(part, data)
    # The time is set before the sync, so that both are on the disk.
    dated = changed is not None and _set_modified(part.descriptor, changed)
    if not _sync(part.descriptor):
        notes += (UNSAFE,)
    part.close_file()
    # The stat comes after the close, at which a mount may upload the file and date it.
    found = fresh(part.folder, part.name)
    # A mount may give the file the time of its upload instead.
    if changed is not None and not (
        dated and abs(found.st_mtime - float(changed)) <= DATED_SECONDS
    ):
        notes += (UNDATED,)
    return found, notes


def abandon(part: TemporaryFile) -> None:
    """Delete the temporary file and close it."""
    with suppress(OSError):
        os.unlink(part.name, dir_fd=part.folder)
    part.close()


def _sync(descriptor: int) -> bool:
    """Sync a file to the disk; return False if its file system does not support that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
        return False
    return True


def retry_unnamed(
    publish: Callable[[AllowedFolders, Path, Path], T],
    folders: AllowedFolders,
    part: Path,
    place: Path,
) -> T:
    """Do `replace` or `link`. Raises EINVAL if it fails with ENOENT although the temporary file
    exists: some file systems answer that to a name that they don't allow (exfat-fuse)."""
    try:
        return publish(folders, part, place)
    except FileNotFoundError:
        folders.stat(part)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def replace(
    folders: AllowedFolders, part: Path, place: Path, *, fresh: bool = False
) -> os.stat_result:
    """Rename the temporary file to `place`, replacing a file there and keeping its mode; return the
    stat of `place`. Raises FileExistsError if a file is at a `fresh` place."""
    with folders.open_briefly(part.parent, FOLDER) as folder:
        path = _target(folders, part, place)
        old = _stat_name(folder, path.name)
        if old is not None and fresh:
            raise FileExistsError(errno.EEXIST, "it exists")
        if old is not None:
            # Before the rename: at no moment may more users read the new file than the old one.
            _copy_mode(folder, part.name, path.name, old)
        ours = os.stat(part.name, dir_fd=folder, follow_symlinks=False)
        try:
            os.rename(part.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            if not _is_placed(folder, path.name, ours):
                raise  # else an NFS server renamed it, but its first answer was lost
        return _stat_placed(folder, path.name)


def link(folders: AllowedFolders, part: Path, place: Path) -> bool:
    """Give the temporary file the name `place`. Return whether it still has its temporary name too,
    for `settle`.

    Raises FileExistsError if `place` exists."""
    with folders.open_briefly(part.parent, FOLDER) as folder:
        path = _target(folders, part, place)
        # It raises for a folder, a pipe or a device, of which link(2) only says that it exists.
        _stat_name(folder, path.name)
        try:
            os.link(
                part.name, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False
            )
            return True
        except FileExistsError:
            if _is_one_file(folder, part.name, path.name):
                return True  # an NFS server linked it, but its first answer was lost (link(2))
            raise
        except OSError as error:
            if error.errno == errno.EIO:  # rclone's mount, and an NFS server that answered late
                with suppress(FileNotFoundError):
                    if _is_one_file(folder, part.name, path.name):
                        return True
            elif error.errno not in UNLINKED:
                raise
        _rename_if_absent(folder, part.name, path.name)
        return False


def settle(folders: AllowedFolders, part: Path, place: Path, *, linked: bool) -> os.stat_result:
    """Remove the temporary name after `link`, if it is still there (`linked`); return the stat of
    `place`."""
    with folders.open_briefly(part.parent, FOLDER) as folder:
        if linked:
            os.unlink(part.name, dir_fd=folder)
        return _stat_placed(folder, _target(folders, part, place).name)


def remove(folders: AllowedFolders, place: Path, is_ours: Callable[[os.stat_result], bool]) -> bool:
    """Delete the file at `place` if `is_ours` accepts its stat; return whether it was deleted.
    Raises FileNotFoundError."""
    path = folders.target(place)
    with folders.open_briefly(path.parent, FOLDER) as folder:
        if not is_ours(os.stat(path.name, dir_fd=folder, follow_symlinks=False)):
            return False
        if path.name.startswith(PREFIX) and path.name.endswith(_NOTE):
            _remove_placeholder(folder, path.name)
        os.unlink(path.name, dir_fd=folder)
        return True


def remove_folder(folders: AllowedFolders, path: Path) -> None:
    """Delete an empty folder."""
    with folders.open_briefly(path.parent, FOLDER) as folder:
        os.rmdir(path.name, dir_fd=folder)


# -- the final name


def _stat_name(folder: int, name: str) -> os.stat_result | None:
    """Return the stat of a name, or None. Raises IsADirectoryError, ENXIO if it is not a regular
    file, and ETXTBSY for the ledger."""
    own_files.require_other_name(folder, name)
    own_files.require_name_not_in_use(folder, name)
    try:
        found = require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None
    own_files.require_other(found)
    return found


def _target(folders: AllowedFolders, part: Path, place: Path) -> Path:
    path = folders.target(place)
    if path.parent != part.parent:
        raise OSError(errno.ESTALE, "since the upload began, its link leads to a different folder")
    return path


def _is_one_file(folder: int, *names: str) -> bool:
    first, second = (os.stat(name, dir_fd=folder, follow_symlinks=False) for name in names)
    return os.path.samestat(first, second)


def _is_placed(folder: int, name: str, ours: os.stat_result) -> bool:
    """Return whether a name is that of our file. Another file may have the number of a deleted one,
    but not its time too."""
    with suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return os.path.samestat(found, ours) and found.st_mtime_ns == ours.st_mtime_ns
    return False


def _stat_placed(folder: int, name: str) -> os.stat_result:
    sync_folder(folder)
    return fresh(folder, name)


def _rename_if_absent(folder: int, old: str, new: str) -> None:
    """Rename, unless the new name exists. Raises FileExistsError."""
    try:
        return _renameat2(folder, old, new)
    except OSError as error:
        if error.errno not in UNLINKED:
            raise
    # The placeholder reserves the name; until the rename, other programs see an empty file there.
    note = note_of(old)
    try:
        # The note is on the disk before the placeholder exists: after a crash between the two, an
        # empty file without a note would look like the user's own.
        _note_placeholder(folder, note, new)
        close_descriptor(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        )
        try:
            os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            _remove_empty(folder, new, 0)
            raise
    finally:
        with suppress(OSError):
            os.unlink(note, dir_fd=folder)


def note_of(part: str) -> str:
    """Return the name of the note of a temporary file; the note holds the name of its
    placeholder."""
    return f"{part.removesuffix(SUFFIX)}{_NOTE}"


def _note_placeholder(folder: int, note: str, name: str) -> None:
    """Write the note that an empty file of this name is a placeholder: relay may be killed before
    the placeholder is replaced."""
    descriptor = os.open(
        note,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o600,
        dir_fd=folder,
    )
    try:
        os.write(descriptor, os.fsencode(name))
        _sync(descriptor)
    finally:
        close_descriptor(descriptor)
    sync_folder(folder)


def _remove_placeholder(folder: int, note: str) -> None:
    """Delete the placeholder that a note names. An empty file that is older than the note is not a
    placeholder."""
    with suppress(OSError):
        descriptor = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            name = os.fsdecode(os.read(descriptor, NAME_BYTES))
            since = os.fstat(descriptor).st_mtime_ns
        finally:
            close_descriptor(descriptor)
        # A crash may have left the note empty or cut: only a plain name in this folder counts.
        if name not in ("", ".", "..") and "/" not in name and "\0" not in name:
            _remove_empty(folder, name, since)


def _remove_empty(folder: int, name: str, since: int) -> None:
    """Delete a regular file if it is empty and was written at `since` or later (nanoseconds since
    1970)."""
    with suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and not found.st_size and found.st_mtime_ns >= since:
            os.unlink(name, dir_fd=folder)


def _renameat2(folder: int, old: str, new: str) -> None:
    call = _libc_renameat2()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = [ctypes.c_char_p(os.fsencode(name)) for name in (old, new)]
    if call(folder, names[0], folder, names[1], ctypes.c_uint(_NO_REPLACE)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@lru_cache(maxsize=1)
def _libc_renameat2() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


# -- owner, mode and time of the final file


def _copy_owner(descriptor: int, old: os.stat_result) -> bool:
    """Set the owner and the group of another file; return whether both were set."""
    ours = os.fstat(descriptor)
    if (ours.st_uid, ours.st_gid) == (old.st_uid, old.st_gid):
        return True
    # Only root may change the owner (-1 keeps it); the group alone may still be possible.
    for owner in (old.st_uid, -1):
        with suppress(OSError):
            os.fchown(descriptor, owner, old.st_gid)
            return owner != -1
    return False


def _copy_mode(folder: int, name: str, replaced: str, old: os.stat_result) -> None:
    """Copy the mode and the access list of the replaced file, as far as the file system has them. A
    list that the new file has of its folder's default one is removed: it may permit more. The
    set-uid, set-gid and sticky bits are not copied: they were granted to the old content."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    access, inherited = (_access_list(folder, one) for one in (replaced, name))
    if (
        access is inherited is None
        and stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode) == mode
    ):
        return
    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if access is None and inherited is not None:
            os.removexattr(descriptor, _ACCESS_LIST)
        with suppress(OSError):  # the mount has one mode for all its files
            os.fchmod(descriptor, mode)
        if access is not None:
            with suppress(OSError):
                os.setxattr(descriptor, _ACCESS_LIST, access)
    finally:
        close_descriptor(descriptor)


def _access_list(folder: int, name: str) -> bytes | None:
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.getxattr(f"/proc/self/fd/{descriptor}", _ACCESS_LIST)
    except OSError:  # the file has no access list
        return None
    finally:
        close_descriptor(descriptor)


def _set_modified(descriptor: int, changed: str) -> bool:
    """Set a file's time of modification to that of its source; return whether it was set."""
    if not _SECONDS.fullmatch(changed):
        return False
    moment = int(Decimal(changed) * 10**9)
    try:
        os.utime(descriptor, ns=(moment, moment))
    except (OverflowError, OSError):
        return False
    return True
