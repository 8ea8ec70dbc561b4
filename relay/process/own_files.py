"""The files of ledgers that are open: no object may replace them, and none is read from them.

Theory of operation. The default ledger lies in the user's home folder, so a home folder that is
restored has an object of its name. A rename over an open SQLite file loses every later commit, and
a log that belongs to another file destroys both. A copy of the open files would have the
credentials of all migrations, and half a commit. The ledgers of this process are known by their
paths. Those of other processes are recognized by their first bytes and by a lock: a connection to a
database with a write-ahead log holds one on the file as long as it is open.

Decided here: which files those are. Never here: which ledger is opened (`ledger/opening.py`), and
how a store refuses them (`stores/local.py`)."""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from fcntl import F_GETLK, F_UNLCK, F_WRLCK, fcntl
from typing import Final

SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite appends to the name of a database for its other files
(sqlite.org/tempfiles.html)."""
SMALLEST_PAGE: Final = 512
"""SQLite's smallest page: a database has a multiple of it in bytes (sqlite.org/fileformat.html)."""
_MAGIC: Final = b"SQLite format 3\0"
_MARK: Final = b"RELY"
"""SQLite's `application_id` of a ledger (`ledger/schema.py`)."""
_SHARED_LOCK: Final = (0x4000_0002, 510)
"""The offset and the length of the bytes that a connection locks (SQLite's os.h, SHARED_FIRST)."""
_OPENED: Final[dict[str, tuple[str, ...]]] = {}
"""The absolute paths of the open databases, each with its real path for each time that it is open.
Beside the target of a link lie SQLite's other files."""


def add(database: str) -> None:
    """Remember the path of a database that was opened. A link is resolved now: where it leads later
    is not the file that is open."""
    path = os.path.abspath(database)
    _OPENED[path] = (*_OPENED.get(path, ()), os.path.realpath(path))


def remove(database: str) -> None:
    """Forget a path once, after its database was closed."""
    path = os.path.abspath(database)
    _OPENED[path] = _OPENED.get(path, ())[:-1]


def numbers() -> frozenset[tuple[int, int]]:
    """Return the device and the inode of each of the files that exist."""
    return frozenset(filter(None, map(_number, _paths())))


def require_other(found: os.stat_result, own: frozenset[tuple[int, int]] | None = None) -> None:
    """Raise OSError (ETXTBSY) for the stat of one of the files; `own` are their `numbers`, if the
    caller has them."""
    if (found.st_dev, found.st_ino) in (numbers() if own is None else own):
        raise _refusal()


def require_other_name(folder: int, name: str) -> None:
    """Raise OSError (ETXTBSY) for the name of one of the files in an open folder, whether or not it
    exists. Upper and lower case count as the same, as in many file systems."""
    for path in _paths():
        above, last = os.path.split(path)
        if last.casefold() == name.casefold():
            found = os.fstat(folder)
            if (found.st_dev, found.st_ino) == _number(above):
                raise _refusal()


def require_not_in_use(descriptor: int, found: os.stat_result) -> None:
    """Raise OSError (ETXTBSY) for an open file, with its stat, that is a ledger which another
    process has open. It may not be one of this process: its end would release SQLite's locks."""
    if _may_be_database(found) and _is_ledger(descriptor) and _is_locked(descriptor):
        raise _refusal()


def require_name_not_in_use(folder: int, name: str) -> None:
    """Raise OSError (ETXTBSY) for a name in an open folder that is such a ledger, or the name of
    one of its other files."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            _require_file_not_in_use(folder, name[: len(name) - len(suffix)])


def _require_file_not_in_use(folder: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not _may_be_database(found):
            return
        require_other(found)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ETXTBSY:
            raise
        return
    try:
        require_not_in_use(descriptor, found)
    finally:
        os.close(descriptor)


def _may_be_database(found: os.stat_result) -> bool:
    pages, rest = divmod(found.st_size, SMALLEST_PAGE)
    return stat.S_ISREG(found.st_mode) and pages > 0 and not rest


def _is_ledger(descriptor: int) -> bool:
    with suppress(OSError):
        head = os.pread(descriptor, 72, 0)
        # A new ledger has its mark, and its tables, in its log alone at first.
        is_new = head[40:44] == bytes(4)
        return head.startswith(_MAGIC) and (head[68:72] == _MARK or is_new)
    return False


def _is_locked(descriptor: int) -> bool:
    """Return whether another process holds SQLite's shared lock on a file."""
    start, length = _SHARED_LOCK
    asked = struct.pack("hhqqhh", F_WRLCK, os.SEEK_SET, start, length, 0, 0)  # fcntl(2), `flock`
    with suppress(OSError):
        kind: int = struct.unpack_from("h", fcntl(descriptor, F_GETLK, asked))[0]
        return kind != F_UNLCK
    return False


def _paths() -> list[str]:
    # A copy, since native threads come here while another ledger is opened.
    opened = {one for path, real in list(_OPENED.items()) if real for one in (path, *real)}
    return [f"{path}{suffix}" for path in opened for suffix in SUFFIXES]


def _number(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _refusal() -> OSError:
    return OSError(errno.ETXTBSY, "it is a ledger that is open, or a part of one")
