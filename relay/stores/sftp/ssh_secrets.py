"""A password or a key for `ssh`, by a folder that only this user can enter, for the moments of a
login.

Theory of operation. `ssh` runs a program for each secret that it asks for (ssh(1), SSH_ASKPASS),
and closes all descriptors but the first three before. So the program reads the secret from a named
pipe, whose bytes never reach a disk. Nothing has the secret in its arguments or in its environment.
The folder is removed once the session is open. Its process holds a lock on it: a folder that a
killed process left is removed at the next login. A key in a remote's options must be a file for
`ssh`: it is in memory (/dev/shm) where the system has that.

Decided here: how a secret travels. Never here: which ones there are (`account.py`)."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from relay.errors import ConfigError
from relay.stores.sftp.account import SshOptions

_ANSWERS: Final = 3
"""How often a secret may be asked for; a further question waits until the login's time is up."""
_ASKPASS: Final = """#!/bin/sh
case "$1" in
"Enter passphrase for "*) from=key ;;
*) from=password ;;
esac
IFS= read -r secret <"${0%/*}/$from" && printf '%s\\n' "$secret"
"""
_PREFIX: Final = "relay-ssh-"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_YOUNG_SECONDS: Final = 60.0
"""Age from which a folder that no process has locked is abandoned."""
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the folders in it are made by mkdtemp


class LoginSecrets:
    """The secrets of one login, as a context manager: `environment` names the program for `ssh`,
    and `key_path` a file with the key. Both are empty without secrets."""

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        self._folders: list[str] = []
        # Also at the end of the program, whose other greenlets end without their last steps.
        weakref.finalize(self, _remove_folders, self._folders)
        self._pipes: list[int] = []
        """The descriptors of the pipes, and of the locked folders."""
        self.environment: dict[str, str] = {}
        self.key_path = ""

    def __enter__(self) -> LoginSecrets:
        """Make the folder. Raises ConfigError if that is not possible."""
        try:
            if self._options.has_secret or self._options.key_pem:
                _remove_abandoned()
            if self._options.has_secret:
                self._make_answers()
            if self._options.key_pem:
                self._make_key()
        except OSError as error:
            self.remove()
            raise ConfigError(
                f"no folder for the login's secrets can be made ({error.strerror})",
                hint="Set TMPDIR to a folder in which programs may run.",
            ) from None
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder."""
        self.remove()

    def remove(self) -> None:
        """Close the pipes and remove the folders. May be called twice."""
        while self._pipes:
            os.close(self._pipes.pop())
        _remove_folders(self._folders)

    def _make_answers(self) -> None:
        folder = Path(self._new_folder(None))
        program = folder / "askpass"
        program.write_text(_ASKPASS)
        program.chmod(0o700)
        for name, secret in (
            ("password", self._options.password),
            ("key", self._options.key_password),
        ):
            os.mkfifo(folder / name, 0o600)
            # Open for both, so that nothing waits for a reader.
            pipe = os.open(folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._pipes.append(pipe)
            # An empty line where there is no secret: `ssh` then tries its next method.
            os.write(pipe, (secret + "\n").encode() * _ANSWERS)
        self.environment = {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}

    def _make_key(self) -> None:
        path = os.path.join(self._new_folder(_memory()), "key")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.key_path = path
        try:
            os.write(file, (self._options.key_pem.rstrip("\n") + "\n").encode())
        finally:
            os.close(file)

    def _new_folder(self, parent: str | None) -> str:
        self._folders.append(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        folder = self._folders[-1]
        self._pipes.append(os.open(folder, _FOLDER))
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._pipes[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder


def _remove_folders(folders: list[str]) -> None:
    while folders:
        with suppress(OSError):
            shutil.rmtree(folders.pop())


def _memory() -> str | None:
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed during a login."""
    for parent in {_memory() or tempfile.gettempdir(), tempfile.gettempdir()}:
        with suppress(OSError):
            names = os.listdir(parent)
            for name in names:
                if name.startswith(_PREFIX):
                    _remove_if_abandoned(os.path.join(parent, name))


def _remove_if_abandoned(path: str) -> None:
    """Remove a folder of this user, unless a process has locked it, or may be about to."""
    with suppress(OSError):
        folder = os.open(path, _FOLDER)
        try:
            found = os.fstat(folder)
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _YOUNG_SECONDS:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
        finally:
            os.close(folder)
