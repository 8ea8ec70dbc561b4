"""One `ssh` as a child process: how it is started, its pipes, and its end.

Theory of operation. `ssh` gets three pipes and a session of its own, so that a Ctrl-C in the
terminal does not reach it, and it finds no terminal to ask at. relay connects by itself, as for
every other store (`wire/dial.py`): the policy checks the very address. Then it hands the socket
over. If relay is killed, its ends of the pipes close, and `ssh` ends by itself.

Decided here: the life of the process. Never here: the protocol (`sftp_session.py`)."""

from __future__ import annotations

import array
import fcntl
import os
import secrets
import socket as _socket
import struct
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import gevent
import gevent.socket
from gevent import subprocess

from relay.errors import (
    ConfigError,
    ConnectFailed,
    EgressDenied,
    RelayError,
    Side,
    StoreTimeout,
    TooManyFiles,
)
from relay.location import Origin
from relay.stores.sftp.account import SCHEME, SftpAccount
from relay.stores.sftp.ssh_command import (
    SshSettings,
    child_environment,
    query_command,
    session_command,
    settings_of_output,
)
from relay.stores.sftp.ssh_errors import SshMessages, login_error
from relay.stores.sftp.ssh_secrets import LoginSecrets
from relay.wire.buffers import PIPE_BYTES
from relay.wire.dial import EXHAUSTED, Dialer
from relay.wire.stream import READ, Stream

QUERY_SECONDS: Final = 10.0
"""How long `ssh -G` may take: settings may run commands (`Match exec`)."""
SETTINGS_SECONDS: Final = 30.0
"""How long the settings of a host are kept: sessions of one account are opened together."""
END_SECONDS: Final = 2.0
"""How long a process may take to end after its pipe was closed, before it is killed."""
ERROR_SECONDS: Final = 1.0
"""How long the last words of a process are waited for."""
OUTPUT_BYTES: Final = 1 << 18
_CREDENTIALS: Final = struct.Struct("3i")
"""A peer's process, user and group (SO_PEERCRED, unix(7))."""


class SshChild:
    """A running `ssh`. `incoming` and `outgoing` are the descriptors of its pipes, non-blocking."""

    def __init__(self, process: Any, incoming: int, outgoing: int, errors: int) -> None:
        """Take over a process and our ends of its pipes."""
        self.incoming, self.outgoing = incoming, outgoing
        self.messages = SshMessages()
        self._process, self._errors = process, errors
        self._closed = False
        self._listener = gevent.spawn(self._listen)

    @property
    def pid(self) -> int:
        """The number of the process."""
        pid: int = self._process.pid
        return pid

    def last_words(self) -> SshMessages:
        """Return what the process has said, after its end or a moment."""
        self._listener.join(ERROR_SECONDS)
        return self.messages

    def terminate(self) -> None:
        """Ask the process to end now."""
        if self._process.poll() is None:
            with suppress(OSError):
                self._process.terminate()

    def close(self) -> None:
        """Close the pipes. The process ends by itself, or is killed a moment later. May be called
        twice. Nothing may wait for the pipes."""
        if self._closed:
            return
        self._closed = True
        os.close(self.outgoing)
        os.close(self.incoming)
        gevent.spawn(self._end)

    def wait(self, seconds: float) -> bool:
        """Wait until the process has ended; return whether it has."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def _end(self) -> None:
        if not self.wait(END_SECONDS):
            with suppress(OSError):
                self._process.kill()
        self._listener.join(ERROR_SECONDS)
        self._listener.kill()  # a process of its own may have inherited standard error

    def _listen(self) -> None:
        """Read standard error until its end."""
        try:
            while data := _read_ready(self._errors):
                self.messages.feed(data)
        finally:
            os.close(self._errors)


class SshProgram:
    """Starts `ssh` for one account."""

    def __init__(self, account: SftpAccount) -> None:
        self._account = account
        self._settings: SshSettings | None = None
        self._settings_until = 0.0

    def start(
        self, dialer: Dialer, side: Side, begin: Callable[[SshChild, float], None]
    ) -> SshChild:
        """Start a process, call `begin(child, deadline)`, and return the process once that has
        returned. From then on the pipes are those of `begin`.

        Raises ConfigError (no `ssh`, wrong settings), EgressDenied, ConnectFailed, StoreTimeout,
        TooManyFiles, and what `begin` raises; then no process is left."""
        limits = dialer.limits
        deadline = monotonic() + limits.connect_seconds + limits.head_seconds
        settings = self._require_settings(dialer, side)
        # Step 1: connect, unless the settings lead through another host.
        connection = None if settings.proxied else self._dial(dialer, settings, side)
        try:
            with LoginSecrets(self._account.options) as login, _Handover(connection) as handover:
                command = session_command(
                    self._account,
                    settings,
                    limits.connect_seconds,
                    handover=handover.name,
                    key=login.key_path,
                )
                # Step 2: start it, and hand the connection over.
                child = _spawn(command, {**child_environment(os.environ), **login.environment})
                try:
                    handover.give(child, deadline, side, self._account)
                except BaseException:
                    child.terminate()
                    child.close()
                    raise
                # Step 3: log in, for which the secrets must still be there.
                begin(child, deadline)
                return child
        finally:
            if connection is not None:
                connection.close()

    def _require_settings(self, dialer: Dialer, side: Side) -> SshSettings:
        """Return the settings of the host, as they were at most SETTINGS_SECONDS ago. Raises
        ConfigError, and EgressDenied."""
        account, policy = self._account, dialer.policy
        try:
            policy.check_name(account.host, account.port or 22)
            if self._settings is None or monotonic() > self._settings_until:
                self._settings = settings_of_output(_query(account), account)
                self._settings_until = monotonic() + SETTINGS_SECONDS
            if self._settings.proxied and not policy.has_allowed(account.host, account.port or 22):
                raise EgressDenied(
                    f"the settings of ssh lead to {account.host!r} by another host or a command,"
                    " which relay's policy can't check",
                    hint="The operator can add this host to RELAY_EGRESS_ALLOW.",
                )
        except EgressDenied as error:
            raise type(error)(error.message, side=side, hint=error.hint) from None
        return self._settings

    def _dial(self, dialer: Dialer, settings: SshSettings, side: Side) -> Stream:
        """Connect to the host that the settings name for the account's host. If that one is allowed
        by name, so is this one: the settings are those of the operator."""
        account = self._account
        if settings.host != account.host and dialer.policy.has_allowed(account.host, settings.port):
            dialer = dialer.allowing(settings.host)
        return dialer.dial(Origin(SCHEME, settings.host, settings.port), side)


class _Handover:
    """An abstract socket at which one program of this user takes relay's connection, as a context
    manager. Without a connection `name` is ''."""

    def __init__(self, connection: Stream | None) -> None:
        self._connection = connection
        self._socket: Any = None
        self.name = ""

    def __enter__(self) -> _Handover:
        if self._connection is not None:
            self.name = f"relay-ssh-{secrets.token_hex(16)}"
            self._socket = gevent.socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            self._socket.bind(b"\0" + self.name.encode())
            self._socket.listen(4)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def give(self, child: SshChild, deadline: float, side: Side, account: SftpAccount) -> None:
        """Wait until the program asks, and give it the connection. Raises as `login_error`, if
        `ssh` ends before, and StoreTimeout."""
        if self._connection is None:
            return
        while not self._give_once():
            if child.wait(0):
                raise login_error(child.last_words(), account, side)
            if monotonic() > deadline:
                raise StoreTimeout(f"ssh did not start for {account.server}", side=side)

    def _give_once(self) -> bool:
        """Serve one program, if one asks within a moment; return whether it got the connection.
        Other users' programs get nothing."""
        assert self._connection is not None
        self._socket.settimeout(0.1)
        try:
            peer, _ = self._socket.accept()
        except TimeoutError:
            return False
        with peer:
            found = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(found)[1] != os.geteuid():
                return False
            passed = array.array("i", [self._connection.fileno()])
            peer.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)])
            return True


def _query(account: SftpAccount) -> str:
    """Return the output of `ssh -G`. Raises ConfigError."""
    child = _spawn(query_command(account), child_environment(os.environ))
    data = bytearray()
    try:
        with gevent.Timeout(QUERY_SECONDS, _QueryLate):
            while piece := _read_ready(child.incoming):
                data += piece
                if len(data) > OUTPUT_BYTES:
                    break
    except _QueryLate:
        raise ConfigError(
            f"`ssh -G` did not end within {QUERY_SECONDS:g} s",
            hint="Look for `Match exec` in ~/.ssh/config.",
        ) from None
    finally:
        child.close()
    lines = child.last_words().lines
    if not data and lines:
        raise ConfigError(
            f"ssh refuses its settings: {lines[-1]}",
            hint="Correct ~/.ssh/config, or the remote's options.",
        )
    return data.decode("utf-8", "replace")


class _QueryLate(Exception):
    """`ssh -G` took too long."""


def _spawn(command: list[str], environment: dict[str, str]) -> SshChild:
    """Start a process with three pipes. Raises ConfigError without such a program, and
    TooManyFiles."""
    opened: list[int] = []
    try:
        for _ in range(3):
            opened += os.pipe2(os.O_CLOEXEC)
        theirs, outgoing, incoming, output, errors, messages = opened
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=output,
            stderr=messages,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        raise _spawn_error(command[0], error) from None
    for descriptor in (theirs, output, messages):
        os.close(descriptor)
    for descriptor in (incoming, outgoing, errors):
        os.set_blocking(descriptor, False)
    for descriptor in (incoming, outgoing):
        # The user's quota of pipe pages may be used up; a smaller pipe works, only slower.
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return SshChild(process, incoming, outgoing, errors)


def _spawn_error(program: str, error: OSError) -> RelayError:
    if error.errno in EXHAUSTED:
        return TooManyFiles(f"ssh can't be started ({error.strerror})", retry_after=5.0)
    if isinstance(error, FileNotFoundError | PermissionError):
        return ConfigError(
            f"the program {program!a} can't be run ({error.strerror})",
            hint="SFTP needs OpenSSH's client: install the package openssh-client.",
        )
    return ConnectFailed(f"ssh can't be started ({error.strerror})", retry_after=5.0)


def wait_ready(descriptor: int, event: int, seconds: float | None = None) -> bool:
    """Wait until a descriptor is ready; False if `seconds` passed first."""
    watcher = gevent.get_hub().loop.io(descriptor, event)
    try:
        gevent.socket.wait(watcher, seconds, _NotReady())
    except _NotReady:
        return False
    finally:
        watcher.close()
    return True


class _NotReady(Exception):
    """Nothing was ready in time."""


def _read_ready(descriptor: int) -> bytes:
    """Read what has come, after a wait; b"" at the end."""
    while True:
        try:
            return os.read(descriptor, OUTPUT_BYTES)
        except BlockingIOError:
            wait_ready(descriptor, READ)
        except OSError:
            return b""
