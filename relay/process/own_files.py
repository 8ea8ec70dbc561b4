"""The files of the ledgers that this process has open: no object may replace them, and none is read
from them.

Theory of operation. The default ledger lies in the user's home folder, so a home folder that is
restored has an object of its name. A rename over an open SQLite file loses every later commit, and
a log that belongs to another file destroys both. A copy of the open files would have the
credentials of all migrations, and half a commit.

Decided here: which files those are. Never here: which ledger is opened (`ledger/opening.py`), and
how a store refuses them (`stores/local.py`)."""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import suppress
from typing import Final

SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite appends to the name of a database for its other files
(sqlite.org/tempfiles.html)."""
_OPENED: Final[Counter[str]] = Counter()
"""The absolute paths of the open databases, and how often each is open."""


def add(database: str) -> None:
    """Remember the path of a database that was opened."""
    _OPENED[os.path.abspath(database)] += 1


def remove(database: str) -> None:
    """Forget a path once, after its database was closed."""
    _OPENED.subtract([os.path.abspath(database)])


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


def _paths() -> list[str]:
    opened = [path for path, count in _OPENED.items() if count > 0]
    # A ledger that is a link: SQLite's other files lie beside its target.
    opened = list(dict.fromkeys([*opened, *map(os.path.realpath, opened)]))
    return [f"{path}{suffix}" for path in opened for suffix in SUFFIXES]


def _number(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _refusal() -> OSError:
    return OSError(errno.ETXTBSY, "it is the ledger of this relay, or a part of it")
