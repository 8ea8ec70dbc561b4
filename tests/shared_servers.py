"""One server of a kind for all processes of a run (`tests/sharing.py`): each costs CPU by its start,
and while it waits.

Theory of operation. The first process that needs a server starts it, and writes a file with what the
others have to know of it. Each of these holds a shared lock on the file `NAME.users` until its end.
The process that started the server removes the file at its own end, so that a later one starts
another, waits for the others' locks, and stops the server. That is after its last test, whose limit
of time the others' tests may pass.

Decided here: which process starts and stops a server. Never here: how that is done."""

from __future__ import annotations

import fcntl
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

FOLDER = pytest.StashKey[Path]()
"""The folder of a run whose files several processes share: `pytestconfig.stash[FOLDER]`."""
ENDS = pytest.StashKey[ExitStack]()
"""What a process of such a run closes after its last test."""

T = TypeVar("T")


@contextmanager
def shared_server(
    config: pytest.Config, name: str, run: Callable[[], AbstractContextManager[T]]
) -> Iterator[T]:
    """Yield a server, which `run` runs: its own in a run of one process, else one for all. What is
    known of it must be the same in each process. Raises the errors of `run`."""
    folder = config.stash.get(FOLDER, None)
    if folder is None:
        with run() as server:
            yield server
        return
    yield _one_for_all(config.stash[ENDS], folder, name, run)


def _one_for_all(
    stack: ExitStack, folder: Path, name: str, run: Callable[[], AbstractContextManager[T]]
) -> T:
    """Return the server, whose end is left to `stack`."""
    file = folder / f"{name}.server"
    users = stack.enter_context((folder / f"{name}.users").open("ab"))
    with _turn(folder, name):
        if file.exists():
            fcntl.flock(users, fcntl.LOCK_SH)
            server: T = pickle.loads(file.read_bytes())  # noqa: S301 - written below
            return server
        server = stack.enter_context(run())
        stack.callback(_await_users, folder, name, users.fileno())
        file.write_bytes(pickle.dumps(server))
        return server


def _await_users(folder: Path, name: str, users: int) -> None:
    with _turn(folder, name):
        (folder / f"{name}.server").unlink()
    fcntl.flock(users, fcntl.LOCK_EX)


@contextmanager
def _turn(folder: Path, name: str) -> Iterator[None]:
    """Be the only process that looks at a server's file."""
    with (folder / f"{name}.turn").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
