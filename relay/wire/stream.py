"""One connected TCP socket, non-blocking, waiting on gevent's hub.

Decided here: how a socket is read, written and waited for, and that its failures become ours. Never
here: HTTP.

`gevent.socket.socket` would do, but its methods are Python; the hot path calls the C socket's own
methods and waits only when those would block."""

from __future__ import annotations

import socket as _socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gevent import get_hub, getcurrent
from gevent.exceptions import ConcurrentObjectUseError
from gevent.monkey import get_original

from relay.errors import ConnectionLost, Side
from relay.wire.buffers import BUFFERS

_poll: Any = get_original("select", "poll")
_plain_socket: Any = get_original("socket", "socket")
READ, WRITE = 1, 2
_ABORT, _ORDERLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
RECEIVE_BYTES = 128 * 1024
"""Number of bytes to read where the length is unknown: a head, with the small object behind it."""
SHORTEST_SECONDS = 0.0001
"""Shortest wait; a timer that repeats after no time would never fire."""
HELD_BYTES = 4096
"""Maximum number of bytes of a write that are kept for the next one, if that follows at once: a
head, a chunk's line."""


@dataclass(frozen=True, slots=True)
class ReuseDoubt:
    """An answer to HEAD that announced a body of `length` bytes, or of an unknown length (None).
    Some servers send that body, against RFC 9110 section 9.3.2, and it would look like the next
    answer."""

    target: str
    length: int | None


class Stream:
    """A connected socket that belongs to one greenlet at a time.

    `side` is the side that its errors name. `leftover` holds bytes that were read beyond the
    requested ones; every read takes them first. After any error only `close` may be called.
    """

    secure = False
    splices = True
    """Whether its bytes may move inside the kernel."""

    def __init__(self, sock: _socket.socket, side: Side) -> None:
        """Take over `sock` (its descriptor moves; `sock` itself is empty afterwards)."""
        self.side: Side = side
        self._sock: _socket.socket = _plain_socket(
            sock.family, sock.type, sock.proto, sock.detach()
        )
        self._sock.setblocking(False)
        loop = get_hub().loop
        descriptor = self._sock.fileno()
        self._reading = loop.io(descriptor, READ)
        self._either = loop.io(descriptor, READ | WRITE)
        self._timer, self._timer_seconds = loop.timer(1.0, 1.0), 1.0
        self._arrivals = _poll()
        self._arrivals.register(descriptor, 1)
        self.leftover: bytes | memoryview = b""
        self.pushed = 0
        """Number of bytes that the socket has taken in all."""
        self._held = b""
        self._aborts = self._lingers = False
        """Whether `close` is to be a reset, and whether the kernel makes it one."""
        self.doubt: ReuseDoubt | None = None
        """Set after an answer to HEAD behind which a body may still come, until the stream was
        quiet for a moment."""
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor, for splice."""
        return self._sock.fileno()

    # -- reading

    def read_now(self, view: memoryview) -> int | None:
        """Read the bytes that have come into `view`: the count, 0 at the end of the stream, None if
        nothing has come yet.

        Raises ConnectionLost.
        """
        if self.leftover:
            return self._take_leftover(view)
        try:
            return self._sock.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self.lost_error(error) from None

    def _take_leftover(self, view: memoryview) -> int:
        count = min(len(view), len(self.leftover))
        view[:count] = self.leftover[:count]
        self.leftover = self.leftover[count:] or b""  # an empty view would keep what it is part of
        return count

    def fill(self) -> bool | None:
        """Append the bytes that have come to `leftover`: True if something came, False at the end,
        None if nothing yet."""
        # `read_now` takes `leftover` first, and here the socket is to be read.
        kept, self.leftover = self.leftover, b""
        with BUFFERS.lend(RECEIVE_BYTES) as piece:
            try:
                count = self.read_now(piece)
            finally:
                self.leftover = kept
            if count:
                self.leftover = b"".join((kept, piece[:count]))
        return None if count is None else count > 0

    def has_arrived(self) -> bool:
        """Return whether something unread came: bytes, an end or a failure. Costs half a
        microsecond."""
        return bool(self.leftover) or bool(self._arrivals.poll(0))

    def wait_readable(self, seconds: float) -> bool:
        """Wait until a read may give something; False if `seconds` passed first."""
        return bool(self.leftover) or self.wait_for_more(seconds)

    def wait_for_more(self, seconds: float) -> bool:
        """As `wait_readable`, but for bytes beyond those in `leftover`."""
        return self._wait(self._reading, seconds)

    # -- writing

    def write_now(self, view: memoryview, more: bool = False) -> int:
        """Write as much of `view` as the socket accepts now; return that number of bytes. Raises
        ConnectionLost.

        `more` announces that the next write follows at once, so that both may go together: a short
        piece is kept here until then, behind a longer one the kernel waits (MSG_MORE, send(2)) at
        most a fifth of a second. A caller that has to wait for the next bytes calls `flush_now`
        first."""
        if more and len(view) + len(self._held) <= HELD_BYTES:
            self._held += view
            return len(view)
        flags = _socket.MSG_MORE if more else 0
        if not self._held:
            return self._push((view,), flags)
        return self._push_behind((view,), flags)

    def write_both(self, view: memoryview, tail: bytes) -> int:
        """As `write_now`, of two pieces that follow each other; returns how many bytes of both were
        taken."""
        return self._push_behind((view, tail))

    def _push_behind(self, pieces: tuple[bytes | memoryview, ...], flags: int = 0) -> int:
        """Hand the held bytes to the socket, then pieces; return how many bytes of the pieces it
        took now."""
        sent = self._push((self._held, *pieces), flags)
        taken = max(0, sent - len(self._held))
        self._held = self._held[sent:]
        return taken

    def _push(self, pieces: tuple[bytes | memoryview, ...], flags: int = 0) -> int:
        """Hand pieces to the socket, and return how many bytes it took now. Raises
        ConnectionLost."""
        try:
            sent = self._sock.sendmsg(pieces, (), flags)
            self.pushed += sent
            return sent
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self.lost_error(error) from None

    @property
    def unsent(self) -> bool:
        """Return whether bytes that `write_now` took wait here, not yet in the socket."""
        return bool(self._held)

    def flush_now(self) -> bool:
        """Push `unsent` bytes into the socket; True when none are left. Raises ConnectionLost."""
        while self._held:
            sent = self._push((self._held,))
            if not sent:
                return False
            self._held = self._held[sent:]
        return True

    def wait_writable(self, seconds: float) -> bool:
        """Wait until a write may be taken, or something arrived; False if `seconds` passed
        first."""
        return self._wait(self._either, seconds)

    def _wait(self, watcher: Any, seconds: float) -> bool:
        """Wait until a watcher fires, at most `seconds`; False if it did not.

        As `gevent.socket.wait` with a timeout, at a quarter of its cost: it prepares no exception,
        which would nearly never be raised, and the timer is kept. Another switch to this greenlet
        ends the wait early, which its caller can't tell from a part of the awaited bytes."""
        if watcher.callback is not None:
            raise ConcurrentObjectUseError("a stream belongs to one greenlet at a time")
        hub, wake = get_hub(), getcurrent().switch
        if seconds != self._timer_seconds:  # mostly both are that of a tick
            self._timer.close()
            self._timer_seconds = seconds
            self._timer = hub.loop.timer(seconds, max(seconds, SHORTEST_SECONDS))
        watcher.start(wake, True)
        self._timer.again(wake, False)
        try:
            return bool(hub.switch())
        finally:
            watcher.stop()
            self._timer.stop()

    # -- the end

    def remember_session(self) -> None:
        """Let the next connection to the same host resume what this one has negotiated. Without TLS
        that is nothing."""

    def abort_on_close(self, aborts: bool) -> None:
        """Let this connection end, even with the process, by a reset (RST) in place of an orderly
        end (FIN); or let `close` be orderly again.

        Set while an upload is under way: some servers take the end of the stream for the end of a
        body that is shorter than its Content-Length, and store the piece; none takes a reset for
        one (socket(7), SO_LINGER of 0 seconds). The option is set once a connection, and again by
        an orderly `close`: each time costs a system call, for each small object. If the process is
        killed in between, connections that have nothing to send are reset too."""
        self._aborts = aborts
        if aborts and not self._lingers:
            self._linger(_ABORT)
            self._lingers = True

    def _linger(self, option: bytes) -> None:
        with suppress(OSError):
            self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, option)

    def close(self) -> None:
        """Close the socket at once, in any state. May be called twice."""
        if self.closed:
            return
        self.closed = True
        if self._lingers and not self._aborts:
            self._linger(_ORDERLY)
        for watcher in (self._reading, self._either, self._timer):
            watcher.stop()
            watcher.close()
        self._sock.close()

    def lost_error(self, error: BaseException) -> ConnectionLost:
        """Return our own error for a foreign one. The text is the system's, never an address."""
        text = getattr(error, "strerror", None) or type(error).__name__
        return ConnectionLost(f"the connection broke ({text})", side=self.side)
