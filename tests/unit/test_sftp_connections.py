"""Who waits for a login, and what its failure means for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from relay.errors import Cancelled, RelayError, Side, StoreTimeout, TooManyFiles, Unauthenticated
from relay.stores.sftp import sftp_connections
from relay.stores.sftp.account import SftpAccount
from relay.stores.sftp.sftp_connections import SftpConnections
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog

ACCOUNT = SftpAccount("nas.example")
LIMITS = replace(Limits(), tick_seconds=0.01)


class Logins:
    """Logins that last until `gate` is set, and fail with `error`."""

    def __init__(self) -> None:
        self.gate, self.count, self.running = Event(), 0, 0
        self.error: RelayError | None = None

    def start(self, dialer: Any, side: Any, begin: Callable[[Any, float], None]) -> None:
        self.count += 1
        self.running += 1
        try:
            begin(self, 0.0)
        finally:
            self.running -= 1


class Session:
    """A session that only logs in."""

    is_open, is_late, transfers, idle_since = True, False, 0, 0.0

    def __init__(self, account: SftpAccount, clock: Callable[[], float]) -> None:
        self.account = account

    def begin(self, child: Any, side: Any, meter: Watchdog, deadline: float) -> None:
        while not child.gate.wait(0.001):
            meter.check()
        if child.error is not None:
            raise child.error

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> Logins:
    made = Logins()
    monkeypatch.setattr(sftp_connections, "SshProgram", lambda account: made)
    monkeypatch.setattr(sftp_connections, "SftpSession", Session)
    return made


@pytest.fixture
def connections() -> SftpConnections:
    dialer: Any = SimpleNamespace(limits=LIMITS)
    return SftpConnections(lambda: dialer)


def taking(connections: SftpConnections, side: Side, meter: Watchdog) -> Any:
    """Begin to take a session; return a greenlet whose value is the session, or the error."""

    def take() -> object:
        try:
            return connections.take(ACCOUNT, side, meter)
        except RelayError as error:
            return error

    waiting = gevent.spawn(take)
    gevent.sleep(0)
    return waiting


@pytest.mark.parametrize("why", ["cancelled", "late"])
def test_the_end_of_one_transfer_is_not_that_of_a_login(
    logins: Logins, connections: SftpConnections, why: str
) -> None:
    seconds = 0.0 if why == "late" else 60.0
    ended = Watchdog(replace(LIMITS, total_seconds=seconds))
    first = taking(connections, "destination", ended)
    second = taking(connections, "source", Watchdog(LIMITS))
    if why == "cancelled":
        ended.cancel(Cancelled("the migration was cancelled", retryable=False))
    assert isinstance(first.get(timeout=10), Cancelled if why == "cancelled" else StoreTimeout)
    logins.gate.set()
    assert isinstance(second.get(timeout=10), Session)
    assert logins.count == 1


def test_the_end_of_all_sessions_ends_logins_too(
    logins: Logins, connections: SftpConnections
) -> None:
    first = taking(connections, "destination", Watchdog(LIMITS))
    gevent.sleep(0)
    assert logins.running == 1
    first.kill()
    connections.close()
    assert logins.running == 0


def test_a_refused_login_stands_for_all_that_wait(
    logins: Logins, connections: SftpConnections
) -> None:
    logins.error = Unauthenticated("refused", side="destination")
    sides: tuple[Side, ...] = ("destination", "source", "source")
    waiting = [taking(connections, side, Watchdog(LIMITS)) for side in sides]
    logins.gate.set()
    assert tuple(one.get(timeout=10).side for one in waiting) == sides
    with pytest.raises(Unauthenticated):
        connections.take(ACCOUNT, "source", Watchdog(LIMITS))
    assert logins.count == 1


def test_a_failure_of_relay_is_not_one_of_the_server(
    logins: Logins, connections: SftpConnections
) -> None:
    logins.error = TooManyFiles("no descriptor is free", retry_after=5.0)
    logins.gate.set()
    with pytest.raises(TooManyFiles) as caught:
        connections.take(ACCOUNT, "source", Watchdog(LIMITS))
    assert (caught.value.side, caught.value.retry_after) == ("relay", 5.0)
