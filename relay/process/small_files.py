"""Read small files that a user names (settings, tokens, headers), up to a maximum size.

Decided here: how much is read, and that other users can't read a secret. Never here: the content of
a file."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from relay.errors import ConfigError

SMALL_BYTES = 1024 * 1024


def read_small(path: Path, what: str = "", most: int = SMALL_BYTES) -> str:
    """Return the text of a file. Raises ConfigError for a file that can't be read, has more than
    `most` bytes, or is not UTF-8; the error names the setting or flag `what`."""
    return _read(path, what, most, partial(_open_now, path), secret=False)


def read_argument(path: Path, what: str) -> str:
    """As `read_small`, for a file that a command names: '-' is stdin, and the writer of a named
    pipe is waited for."""
    if str(path) == "-":
        # /dev/stdin can't be opened if it is a socket, or the pipe of another user.
        return _read(Path("stdin"), what, SMALL_BYTES, _open_stdin, secret=False)
    return _read(path, what, SMALL_BYTES, partial(_open_waiting, path), secret=False)


def read_secret(path: Path, what: str = "", *, waits: bool = False) -> str:
    """Return the text of a file that only its owner may read or change; a command `waits` for the
    writer of a named pipe. Raises ConfigError as `read_small`, and for a file that other users may
    read or change."""
    opens = partial(_open_waiting if waits else _open_now, path)
    return _read(path, what, SMALL_BYTES, opens, secret=True)


def _open_now(path: Path) -> io.BufferedReader:
    """Open a file. A named pipe without a writer would block a server at a reload, even against
    SIGTERM: it counts as empty."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def _open_waiting(path: Path) -> io.BufferedReader:
    return open(path, "rb")


def _open_stdin() -> io.BufferedReader:
    return open(os.dup(0), "rb")


def _read(
    path: Path, what: str, most: int, opens: Callable[[], io.BufferedReader], *, secret: bool
) -> str:
    named = f"{what} {path}".lstrip()
    try:
        with opens() as file:
            os.set_blocking(file.fileno(), True)
            # The mode of the open file: the path may name another one by now.
            found = os.fstat(file.fileno())
            # A device or a pipe has no size to compare; a byte beyond the limit shows the excess.
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(
            f"{named} can't be read ({error.strerror})", hint="Name a file that can be read."
        ) from None
    except ValueError:
        raise ConfigError(
            f"{named!a} is not a path", hint="Name a file that can be read."
        ) from None
    if secret and _is_open_to_others(found):
        raise ConfigError(f"{named} is open to others", hint=f"Run: chmod 600 {path}")
    if len(data) > most:
        raise ConfigError(
            f"{named} has more than {most:,} bytes", hint="Name the right file: it is a small one."
        )
    try:
        return data.decode("utf-8-sig")  # some editors begin a text with a byte order mark
    except UnicodeDecodeError:  # the exception's text has a byte, and the file may be a secret
        raise ConfigError(f"{named} is not UTF-8", hint="Save the file as UTF-8 text.") from None


def _is_open_to_others(found: os.stat_result) -> bool:
    """Return whether other users may read or change a file. A file of root may be readable by a
    group of this user, as Kubernetes and systemd provide secrets: the user can't change that."""
    is_given = found.st_uid == 0 != os.geteuid()
    group = stat.S_IWGRP | stat.S_IXGRP if is_given else stat.S_IRWXG
    return bool(found.st_mode & (group | stat.S_IRWXO))
