"""Connections: the only place in relay that opens an outbound socket for payload.

Theory of operation. A name is resolved once for each connection. Every address of the answer is
checked against the egress policy before the first is tried, and the one that is tried is checked
again right before its connect; the socket then is connected to exactly that address, so an answer
that changes later (DNS rebinding) changes nothing. The order of the addresses is that of
`address_race.py`. No proxies from the environment, no netrc.

Decided here: the policy's place, keep-alive pools by origin. Never here: HTTP.
"""

from __future__ import annotations

import errno
import socket as _socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import chain, islice
from time import monotonic
from typing import Any, NamedTuple

import gevent
import gevent.socket

from relay.egress import EgressPolicy
from relay.errors import ConnectFailed, EgressDenied, RelayError, Side, StoreTimeout, TooManyFiles
from relay.location import Origin
from relay.transfer_limits import Limits
from relay.wire.address_race import Address, AddressRace, SilentAddresses, interleave
from relay.wire.resolver import Names, Resolver
from relay.wire.stream import Stream
from relay.wire.tls.sessions import TlsContext
from relay.wire.tls.stream import TlsStream

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of the system when it has no more descriptors or memory, for any peer."""
UNSENT_BYTES = 1024 * 1024
"""Maximum number of bytes in the kernel that the peer's window does not admit yet
(TCP_NOTSENT_LOWAT, tcp(7)).

Bytes in flight don't count, so a long fat line stays full. But a slow destination holds less of our
memory, and we are woken when half of this is gone, in place of a third of a send buffer of 4 MiB:
the next piece comes sooner, and the bytes that the destination reads are still in the processor's
cache (a sixth less wall time between two nginx)."""


class Dialer:
    """Opens connections that the policy allows."""

    def __init__(
        self,
        policy: EgressPolicy,
        limits: Limits,
        context: TlsContext | Callable[[], TlsContext],
        resolver: Resolver | None = None,
        socket: Callable[..., Any] = gevent.socket.socket,
    ) -> None:
        """`context` is a TLS context, or a function that makes one at the first https: reading the
        system's authorities takes long.

        `resolver` and `socket` are arguments so that a test can record instead of connecting.
        """
        self.policy, self.limits = policy, limits
        self._context = context
        self._resolver = resolver or Names(limits.lookups)
        self._socket = socket
        self._silent = SilentAddresses()

    def allowing(self, host: str) -> Dialer:
        """Return a dialer that also connects to a host that its policy does not know."""
        policy = self.policy.allowing(host)
        return Dialer(policy, self.limits, self._context, self._resolver, self._socket)

    def dial(self, origin: Origin, side: Side) -> Stream:
        """Open a connection, with TLS where the scheme asks for it.

        Raises EgressDenied, ConnectFailed, StoreTimeout, CertificateRefused, ConnectionLost or
        TooManyFiles; no socket is left open then."""
        deadline = monotonic() + self.limits.connect_seconds
        try:
            self.policy.check_name(origin.host, origin.port)
            addresses = self._addresses(origin, side, deadline)
            return self._first(addresses, origin, side, deadline)
        except EgressDenied as error:
            # The policy does not know for which side it is asked.
            raise type(error)(error.message, side=side, hint=error.hint) from None

    def _addresses(self, origin: Origin, side: Side, deadline: float) -> list[Address]:
        try:
            with gevent.Timeout(max(deadline - monotonic(), 0.001), _Late):
                found = self._resolver(origin.host, origin.port)
        except _Late:
            raise StoreTimeout(
                f"the name {origin.host} did not resolve in time", side=side
            ) from None
        except (OSError, UnicodeError) as error:
            text = getattr(error, "strerror", None) or "no such name"
            raise ConnectFailed(
                f"the name {origin.host} does not resolve ({text})", side=side
            ) from None
        addresses = dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found)
        for _, sockaddr in addresses:
            self.policy.check_address(origin.host, str(sockaddr[0]), origin.port)
        return interleave(addresses)[: self.limits.addresses]

    def _first(
        self, addresses: list[Address], origin: Origin, side: Side, deadline: float
    ) -> Stream:
        """Connect to the first address that answers, with TLS where the scheme asks for it. After a
        handshake that fails, the others are tried."""
        failure: RelayError | None = None

        def connect(address: Address) -> Any:
            family, sockaddr = address
            return self._connect(family, sockaddr, origin, side, deadline - monotonic())

        race, left = AddressRace(connect, self._silent), self._silent.last(addresses)
        while left and monotonic() < deadline:
            try:
                address, sock = race.run(left)
            except (ConnectFailed, StoreTimeout) as error:
                # A handshake that failed says more.
                raise failure or error from None
            left.remove(address)
            # A handshake that stalls leaves some time for the next address.
            until = deadline if not left else (monotonic() + deadline) / 2
            try:
                return self._secure(sock, origin, side, until)
            except (ConnectFailed, StoreTimeout) as error:
                self._silent.note_silent(address)
                failure = error
        raise failure or ConnectFailed(f"the name {origin.host} has no address", side=side)

    def _connect(
        self, family: int, sockaddr: tuple[Any, ...], origin: Origin, side: Side, seconds: float
    ) -> Any:
        self.policy.check_address(origin.host, str(sockaddr[0]), origin.port)
        try:
            sock = self._socket(family, _socket.SOCK_STREAM)
        except OSError as error:
            if error.errno in EXHAUSTED:  # no peer is at fault
                raise TooManyFiles(
                    f"no connection can be opened ({error.strerror})", retry_after=5.0
                ) from None
            raise ConnectFailed(
                f"no connection to {origin} ({error.strerror})", side=side
            ) from None
        try:
            _tune(sock, self.limits)
            sock.settimeout(max(seconds, 0.001))
            sock.connect(sockaddr)
            local, remote = str(sock.getsockname()[0]), str(sock.getpeername()[0])
            self.policy.check_connected(origin.host, local, remote, origin.port)
        except BaseException as error:
            sock.close()
            if isinstance(error, TimeoutError):
                raise StoreTimeout(
                    f"no connection to {origin} within {seconds:.3g} s", side=side
                ) from None
            if isinstance(error, OSError):
                raise ConnectFailed(
                    f"no connection to {origin} ({error.strerror})", side=side
                ) from None
            raise
        return sock

    def _secure(self, sock: Any, origin: Origin, side: Side, deadline: float) -> Stream:
        if origin.scheme != "https":
            return Stream(sock, side)
        if callable(self._context):
            self._context = self._context()
        # A certificate and SNI have the name without the dot of an absolute one (RFC 6066 section
        # 3).
        session = self._context.session(origin.host.removesuffix("."), origin.port)
        stream = TlsStream(sock, side, session)

        def wait(ready: Callable[[float], bool]) -> None:
            left = deadline - monotonic()
            if left <= 0 or not ready(left):
                raise StoreTimeout(f"no TLS handshake with {origin} in time", side=side)

        try:
            stream.handshake(wait)
        except BaseException:
            stream.close()
            raise
        return stream


class _Late(Exception):
    """The resolver took too long."""


def _tune(sock: Any, limits: Limits) -> None:
    # Nagle's algorithm would hold a short last piece until the peer has acknowledged the one
    # before. The stream itself joins pieces that follow each other (`Stream.write_now`).
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    # Notice a peer that fell silent without a FIN, which Linux does after 15 minutes. The stall
    # rule acts earlier, because its error says more: the kernel also counts a peer that keeps its
    # window shut as silent.
    user_timeout = min(int((limits.stall_seconds + 30) * 1000), 2**31 - 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, user_timeout)


QUIET_SECONDS = 1.0
"""Seconds after which nothing more comes behind an answer."""
LATE_SECONDS = 4.0
"""Bytes that come within this time are a body behind HEAD; later bytes are a 408 of a server that
closes idle connections."""
ORIGINS = 1000
"""Maximum number of origins of which the pool remembers the bytes behind answers to HEAD."""
LOOKED_AT = 16
"""Number of idle connections of an origin that are examined for one that may be used."""


class _Idle(NamedTuple):
    origin: Origin
    since: float


class Pool:
    """Connections that may carry another exchange, by origin. A connection keeps nothing of a
    caller: no cookies, no credentials, no client certificate.

    At most `idle_connections` are kept, the most recently used, and none for longer than
    `idle_seconds`, even if its origin is never used again.

    Some origins send a body behind an answer to HEAD, and its bytes could be taken for the next
    answer. So a connection to an unknown origin that had an answer to HEAD carries only exchanges
    about the same target, until it was quiet for a moment. If an origin did send such a body, no
    exchange follows an answer to HEAD on its connections."""

    def __init__(self, dialer: Dialer, limits: Limits) -> None:
        self.dialer, self._limits = dialer, limits
        self._idle: OrderedDict[Stream, _Idle] = OrderedDict()
        """Every idle connection, the least recently used first ..."""
        self._by_origin: dict[Origin, list[Stream]] = {}
        """... and those of each origin, in the same order."""
        self._open: set[Stream] = set()
        self._quiet_origins: set[Origin] = set()
        self._chatty_origins: set[Origin] = set()
        self._timer: Any = None

    @property
    def open(self) -> int:
        """Number of open connections, idle ones included."""
        return len(self._open)

    def idle_counts(self) -> Counter[tuple[Origin, Side]]:
        """Return the number of idle connections of each origin, by the side that used them last."""
        return Counter((idle.origin, stream.side) for stream, idle in self._idle.items())

    def take(
        self, origin: Origin, side: Side, fresh: bool = False, target: str = ""
    ) -> tuple[Stream, bool]:
        """Return a connection for one exchange about `target`, and whether it was used before.
        `fresh` always dials.

        The newest idle connection is taken; one that has sent something already (a FIN, a 408) is
        closed instead. If the system has no more descriptors, the idle connections are closed to
        free some.
        """
        while not fresh and (stream := self._newest(origin, target)) is not None:
            age = monotonic() - self._idle[stream].since
            self._forget(stream)
            usable = (
                not stream.closed and age < self._limits.idle_seconds and not _has_spoken(stream)
            )
            if stream.doubt is not None:
                self._observe(origin, stream, usable, age)
            if usable:
                stream.side = side
                return stream, True
            self.discard(stream)
        try:
            stream = self.dialer.dial(origin, side)
        except TooManyFiles:
            if not self._idle:
                raise
            self.close()
            stream = self.dialer.dial(origin, side)
        self._open.add(stream)
        return stream, False

    def take_back(self, stream: Stream) -> bool:
        """Take this idle connection for another exchange about its target; return False if it may
        carry none."""
        if stream not in self._idle:
            return False
        origin, since = self._idle[stream]
        self._forget(stream)
        if not stream.closed and not _has_spoken(stream):
            return True
        self._observe(origin, stream, False, monotonic() - since)
        self.discard(stream)
        return False

    def give(self, origin: Origin, stream: Stream, reusable: bool) -> None:
        """Take a connection back after an exchange; kept if it is reusable."""
        if stream.doubt is not None:
            # The reader of this answer may have read the first bytes of a body behind it already.
            self._observe(origin, stream, not stream.leftover, 0.0)
            reusable = reusable and origin not in self._chatty_origins
        if not stream.closed:
            # Only now, not after the handshake: a server of TLS 1.3 sends its tickets with the
            # first answer (RFC 8446 section 4.6.1).
            stream.remember_session()
        if not reusable or stream.closed:
            return self.discard(stream)
        self._idle[stream] = _Idle(origin, monotonic())
        self._by_origin.setdefault(origin, []).append(stream)
        if len(self._idle) > self._limits.idle_connections:
            self._end(self._dispensable())
        if self._timer is None:
            self._wait(self._limits.idle_seconds)

    def knows(self, origin: Origin) -> bool:
        """Return whether it is known if this origin sends a body behind its answers to HEAD."""
        return origin in self._quiet_origins or origin in self._chatty_origins

    def trust(self, origin: Origin) -> None:
        """Remember that this origin sends no body behind its answers to HEAD."""
        self._learn(self._quiet_origins, origin)

    def _observe(self, origin: Origin, stream: Stream, quiet: bool, age: float) -> None:
        """Learn from a connection in doubt that was idle for `age` seconds whether its origin sends
        bytes behind its answers to HEAD.

        Bytes that come much later announce that the server closes the connection."""
        if not quiet and not stream.closed and age < LATE_SECONDS and _has_bytes(stream):
            self._learn(self._chatty_origins, origin)
        elif quiet and (age >= QUIET_SECONDS or origin in self._quiet_origins):
            self.trust(origin)
            stream.doubt = None

    def _learn(self, which: set[Origin], origin: Origin) -> None:
        if len(which) >= ORIGINS:
            which.clear()
        which.add(origin)

    def _newest(self, origin: Origin, target: str) -> Stream | None:
        """Return the newest idle connection that may carry an exchange about `target`.

        Only the newest ones are examined, and the oldest: it is the first to be quiet for a
        moment, however many others are opened meanwhile (`_is_witness`)."""
        idle = self._by_origin.get(origin)
        if idle is None:
            return None
        trusted = origin in self._quiet_origins and origin not in self._chatty_origins
        if trusted:
            return idle[-1]
        for stream in chain(islice(reversed(idle), LOOKED_AT), idle[:1]):
            doubt = stream.doubt
            if doubt is None or doubt.target == target:
                return stream
            if monotonic() - self._idle[stream].since >= QUIET_SECONDS:
                return stream
        return None

    def discard(self, stream: Stream) -> None:
        """Close a connection. May be called twice."""
        stream.close()
        self._open.discard(stream)

    def close(self) -> None:
        """Close every idle connection."""
        for stream in list(self._idle):
            self._end(stream)
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        """Check again after `seconds`. The timer alone does not keep the process alive."""
        self._timer = gevent.get_hub().loop.timer(seconds, ref=False)
        self._timer.start(self._expire)

    def _expire(self) -> None:
        """Close connections that have been idle for too long, in the hub; check again when the next
        one expires."""
        self._timer.close()
        self._timer = None
        now = monotonic()
        while self._idle:
            stream, idle = next(iter(self._idle.items()))
            left = idle.since + self._limits.idle_seconds - now
            if left > 0:
                return self._wait(left)
            self._end(stream)

    def _dispensable(self) -> Stream:
        """Return the oldest idle connection that is not a witness; the oldest one if all are."""
        for stream, idle in self._idle.items():
            if not self._is_witness(stream, idle):
                return stream
        return next(iter(self._idle))

    def _is_witness(self, stream: Stream, idle: _Idle) -> bool:
        """Return whether this connection is the first that will show whether its origin sends
        bytes behind its answers to HEAD.

        A busy process opens more connections than it keeps. If it closed this one, no connection
        would ever be quiet for a moment, and each target would get one of its own."""
        return (
            stream.doubt is not None
            and idle.origin not in self._quiet_origins
            and idle.origin not in self._chatty_origins
            and self._by_origin[idle.origin][0] is stream
        )

    def _end(self, stream: Stream) -> None:
        self._forget(stream)
        self.discard(stream)

    def _forget(self, stream: Stream) -> None:
        """Remove a connection from the idle ones. Mostly it is the newest of its origin, which
        takes no search."""
        origin = self._idle.pop(stream).origin
        streams = self._by_origin[origin]
        if streams[-1] is stream:
            streams.pop()
        else:
            streams.remove(stream)
        if not streams:
            del self._by_origin[origin]


def _has_bytes(stream: Stream) -> bool:
    """Return whether bytes came, not only the end."""
    try:
        return bool(stream.leftover) or bool(stream.fill())
    except RelayError:
        return False


def _has_spoken(stream: Stream) -> bool:
    try:
        return stream.has_arrived()
    except RelayError:
        return True
