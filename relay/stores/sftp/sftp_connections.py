"""The sessions of each account: how many there are, which one is used, and when they end.

Theory of operation. A session is one process and one connection. One fills a line, but its server
handles one request at a time, and an fsync takes it some milliseconds: so a busy account gets up to
MOST sessions. Each is opened in a greenlet of its own, since many transfers may wait for it. A
server that allows fewer is believed for a while. A login that was refused is not tried again for a
moment: with many slots, it would be a burst that servers answer by blocking the address. A session
without a transfer ends after `idle_seconds`.

Decided here: how many sessions. Never here: how one is opened (`ssh_child.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.pool import Group

from relay.errors import ConfigError, EgressDenied, RelayError, Side
from relay.stores.sftp.account import SCHEME, SftpAccount
from relay.stores.sftp.sftp_session import SftpSession
from relay.stores.sftp.ssh_child import SshProgram
from relay.transfer_limits import Limits
from relay.wire.dial import Dialer
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog

MOST: Final = 4
"""Maximum number of sessions of one account in a process."""
FEWER_SECONDS: Final = 60.0
"""How long a server that refused a further session is not asked for one."""
REFUSED_SECONDS: Final = 3.0
"""How long a refused login stands for those that would follow it."""
END_SECONDS: Final = 2.0
"""How long the end of a login is waited for when all sessions end."""
ACCOUNTS: Final = 1000
"""Maximum number of accounts that are remembered."""


class SftpConnections:
    """The sessions of all accounts of a process."""

    def __init__(
        self, dialer: Callable[[], Dialer], clock: Callable[[], float] = monotonic
    ) -> None:
        """`dialer` returns the one by which sessions connect."""
        self._dialer, self._clock = dialer, clock
        self._accounts: dict[SftpAccount, _AccountSessions] = {}

    @contextmanager
    def session(self, account: SftpAccount, side: Side, meter: Watchdog) -> Iterator[SftpSession]:
        """Lend a session for the time of a block. Raises as `take`."""
        session = self.take(account, side, meter)
        try:
            yield session
        finally:
            self.give(session)

    def take(self, account: SftpAccount, side: Side, meter: Watchdog) -> SftpSession:
        """Return an open session for one transfer; `give` returns it.

        Raises ConfigError, EgressDenied, HostKeyRefused, Unauthenticated and other errors of a
        login, and what the meter raises."""
        found = self._accounts.get(account)
        if found is None:
            self._forget_unused()
            found = _AccountSessions(account, self._dialer, self._clock)
            self._accounts[account] = found
        session = found.choose(side, meter)
        session.transfers += 1
        return session

    def give(self, session: SftpSession) -> None:
        """Take a session back."""
        session.transfers -= 1
        session.idle_since = self._clock()
        sessions = self._accounts.get(session.account)
        if sessions is not None:
            sessions.watch_idle()

    def close(self) -> None:
        """End every session."""
        for one in self._accounts.values():
            one.close()
        self._accounts.clear()

    def _forget_unused(self) -> None:
        if len(self._accounts) >= ACCOUNTS:
            unused = [account for account, one in self._accounts.items() if one.is_unused]
            for account in unused:
                del self._accounts[account]


class _AccountSessions:
    """The sessions of one account."""

    def __init__(
        self, account: SftpAccount, dialer: Callable[[], Dialer], clock: Callable[[], float]
    ) -> None:
        self._account, self._dialer, self._clock = account, dialer, clock
        self._program = SshProgram(account)
        self._open: list[SftpSession] = []
        self._opening = 0
        self._logins = Group()
        self._changed = Event()
        self._fewer_until = 0.0
        self._failure: Exception | None = None
        self._failures = 0
        self._refused_until = 0.0
        self._timer: Any = None

    @property
    def is_unused(self) -> bool:
        """Whether there is no session."""
        return not self._open and not self._opening

    def choose(self, side: Side, meter: Watchdog) -> SftpSession:
        """Return the session with the fewest transfers, or a new one. Raises as
        `SftpConnections.take`."""
        failures = self._failures
        while True:
            self._drop_ended()
            usable = [one for one in self._open if not one.is_late]
            if len(self._open) >= MOST:
                usable = usable or self._open
            best = min(usable, key=lambda one: one.transfers, default=None)
            if best is not None:
                if best.transfers and self._may_open_more():
                    self._opening += 1
                    self._logins.spawn(self._open_beside, side, meter.limits)
                return best
            if not self._opening:
                self._raise_refusal(side)
                self._opening += 1
                self._logins.spawn(self._open_beside, side, meter.limits)
            self._changed.clear()
            self._changed.wait(meter.tick_seconds)
            meter.check()
            if self._failures != failures and self._failure is not None:
                # One after the other, all of them would wait for a server that is away.
                raise _copy_of(self._failure, side)

    def watch_idle(self) -> None:
        """End the sessions without a transfer when their time is up."""
        if self._timer is None and any(not session.transfers for session in self._open):
            self._timer = gevent.spawn_later(self._dialer().limits.idle_seconds, self._end_idle)

    def close(self) -> None:
        """End every session."""
        if self._timer is not None:
            self._timer.kill(block=False)
            self._timer = None
        # A login removes its secrets as it ends.
        self._logins.kill(timeout=END_SECONDS)
        while self._open:
            self._open.pop().close()

    def _drop_ended(self) -> None:
        """Forget the sessions that have ended, and end those that no object uses and that do not
        answer."""
        for session in self._open:
            if session.is_late and not session.transfers:
                session.close()
        self._open = [session for session in self._open if session.is_open]

    def _may_open_more(self) -> bool:
        if self._opening or len(self._open) >= MOST:
            return False
        return self._clock() >= self._fewer_until

    def _open_beside(self, side: Side, limits: Limits) -> None:
        """Open a session in a greenlet of its own; `_opening` counts it already. The end of the
        transfer that asked for it does not end the login: others may wait for it too."""
        try:
            session = self._open_one(side, Watchdog.of_listing(limits))
            session.idle_since = self._clock()
            self._open.append(session)
            self.watch_idle()
        except Exception as error:
            self._note_failure(error)
            if not isinstance(error, RelayError):
                raise
        finally:
            self._opening -= 1
            self._changed.set()

    def _open_one(self, side: Side, meter: Watchdog) -> SftpSession:
        """Open a session. Raises as `SftpConnections.take`."""
        session = SftpSession(self._account, self._clock)
        self._program.start(
            self._dialer(),
            side,
            lambda child, deadline: session.begin(child, side, meter, deadline),
        )
        return session

    def _note_failure(self, error: Exception) -> None:
        self._failure, self._failures = error, self._failures + 1
        if any(session.is_open for session in self._open):
            self._fewer_until = self._clock() + FEWER_SECONDS
        if (
            isinstance(error, RelayError)
            and not error.retryable
            and not isinstance(error, EgressDenied | ConfigError)
        ):
            self._refused_until = self._clock() + REFUSED_SECONDS

    def _raise_refusal(self, side: Side) -> None:
        """Raise the error of a login that was refused just now."""
        if self._failure is not None and self._clock() < self._refused_until:
            raise _copy_of(self._failure, side)

    def _end_idle(self) -> None:
        self._timer = None
        limit = self._clock() - self._dialer().limits.idle_seconds + 0.001
        for session in tuple(self._open):
            if not session.transfers and session.idle_since <= limit:
                self._open.remove(session)
                session.close()
        self.watch_idle()


def _copy_of(error: Exception, side: Side) -> Exception:
    """Return the error of a login for a transfer that waited for it. A failure of relay itself
    keeps its side."""
    if not isinstance(error, RelayError):
        return error
    return type(error)(
        error.message,
        side=error.side if error.side == "relay" else side,
        retryable=error.retryable,
        retry_after=error.retry_after,
        hint=error.hint,
    )


def connections_of(wire: Wire) -> SftpConnections:
    """Return the sessions of a process, made at the first call."""
    found: SftpConnections | None = wire.kept.get(SCHEME)
    if found is None:
        found = wire.kept[SCHEME] = SftpConnections(lambda: wire.pool.dialer)
    return found
