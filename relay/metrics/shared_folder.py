"""The folder in memory through which the workers of a server share their numbers.

Theory of operation. gunicorn's master makes a private folder before it forks, and names it in
PROMETHEUS_MULTIPROC_DIR, which prometheus_client reads when a worker imports it. Each worker has
files of its own there, and `/metrics` adds them up in whichever worker answers. When a worker ends,
the files of its gauges are removed; those of its counters stay, so that no counter falls. The
master holds a lock on the folder: a folder without one belonged to a master that was killed.

Decided here: where the folder is, and when its files are removed. Never here: prometheus_client,
which the master must not import (it would fix its values before the folder is named)."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
MEMORY: Final = Path("/dev/shm")
MANY_FILES: Final = 50
"""Number of files above which a log line says that answers become slow: each takes about half a
millisecond, and a server whose workers have ended often has many."""
YOUNG_SECONDS: Final = 60.0
"""Age up to which a folder without a lock may be that of a master that starts now."""


class SharedFolder:
    """The folder of one server, from its start to its end."""

    def __init__(self, path: Path, lock: int) -> None:
        """Use `make`."""
        self.path, self._lock = path, lock

    @classmethod
    def make(cls, parents: tuple[Path, ...] | None = None) -> SharedFolder | None:
        """Make an empty folder of mode 700 in the first of `parents` that takes one (by default
        memory, else the folder of temporary files), and remove those that killed servers have left
        there. Returns None if no parent takes one: there are no metrics then."""
        prefix = f"relay-metrics-{os.geteuid()}-"
        for parent in parents or _usual_parents():
            with suppress(OSError):
                for left in _left_behind(parent, prefix):
                    shutil.rmtree(left, ignore_errors=True)
                path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                return cls(path, _lock(path))
        return None

    def forget_worker(self, pid: int) -> int:
        """Remove the gauges of a worker that has ended; return the number of files that are
        left."""
        for file in self.path.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)
        return sum(1 for _ in self.path.glob("*.db"))

    def remove(self) -> None:
        """Remove the folder, at the server's end. Raises nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)


def _usual_parents() -> Iterator[Path]:
    yield MEMORY
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:  # a container whose root is read-only has none
        return
    yield temporary


def announce(folder: SharedFolder | None) -> None:
    """Name the folder in the environment, which the workers inherit. Without one, they have no
    metrics."""
    os.environ.pop(VARIABLE, None)
    if folder is not None:
        os.environ[VARIABLE] = str(folder.path)


def named_folder() -> Path | None:
    """Return the folder that the master has named, or None."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named and os.path.isdir(named) else None


def _lock(path: Path) -> int:
    """Lock a folder until every process that inherits the descriptor has ended. Raises
    OSError."""
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        raise
    return found


def _left_behind(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield the folders of this user that no server has any longer."""
    for path in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < YOUNG_SECONDS:
                continue
            os.close(_lock(path))
            yield path
