"""One accepted connection, blocking: heads in, payload in and out, and every way it can end.

Decided here: how bytes are read ahead, discarded and sent fast, and what each kind of closing puts
on the wire. Never here: what a request means."""

from __future__ import annotations

import mmap
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Final

HEAD_BYTES: Final = 64 * 1024
_AHEAD_BYTES: Final = 64 * 1024
_DISCARD_BYTES: Final = 16 * 1024 * 1024
_TLS_BYTES: Final = 256 * 1024
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 64 * 1024 * 1024
# SO_LINGER with a time of 0: close(2) sends an RST (socket(7)).
_RESET: Final = struct.pack("ii", 1, 0)

# With MSG_TRUNC the kernel writes nothing here, so these pages are never touched and cost nothing.
_NOWHERE: Final = memoryview(mmap.mmap(-1, _DISCARD_BYTES))


class Gone(Exception):
    """The other side closed, reset or broke off before the message was whole."""


class TooLarge(Exception):
    """A head, or a line of one, longer than the limit."""


class Connection:
    """One connection and its counts: `received` and `sent` are bytes of this socket, heads
    included."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ahead = b""
        self.received = 0
        self.sent = 0
        self.tls = isinstance(sock, ssl.SSLSocket)

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for callers that need no HTTP."""
        return self._sock

    def read_head(self) -> bytes | None:
        """Return one head up to and without its empty line; None when the peer closed between
        messages.

        Raises Gone inside a head, TooLarge beyond HEAD_BYTES.
        """
        while True:
            if self._ahead.startswith(
                (b"\r\n", b"\n")
            ):  # RFC 9112 §2.2: ignore empty lines before a request
                self._ahead = self._ahead.lstrip(b"\r\n")
            end = self._ahead.find(b"\r\n\r\n")
            if end >= 0:
                head, self._ahead = self._ahead[:end], self._ahead[end + 4 :]
                return head
            if len(self._ahead) > HEAD_BYTES:
                raise TooLarge
            if not self._fill():
                if self._ahead:
                    raise Gone
                return None

    def read_line(self, limit: int = HEAD_BYTES) -> bytes:
        """Return one line without its CRLF. Raises Gone, TooLarge beyond `limit`."""
        while True:
            end = self._ahead.find(b"\r\n")
            if end >= 0:
                line, self._ahead = self._ahead[:end], self._ahead[end + 2 :]
                return line
            if len(self._ahead) > limit:
                raise TooLarge
            if not self._fill():
                raise Gone

    def receive_into(self, view: memoryview) -> int:
        """Fill `view` with the available bytes, at least one; bytes read ahead come first. Return
        their number. Raises Gone."""
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            return count
        try:
            count = self._sock.recv_into(view)
        except OSError as error:
            raise Gone from error
        if count == 0:
            raise Gone
        self.received += count
        return count

    def discard(self, limit: int) -> int:
        """Discard up to `limit` bytes from the socket unread; at least one. Raises Gone."""
        if self._ahead:
            count = min(limit, len(self._ahead))
            self._ahead = self._ahead[count:]
            return count
        try:
            if self.tls:
                count = len(self._sock.recv(min(limit, _TLS_BYTES)))
            else:
                # tcp(7): MSG_TRUNC discards in the kernel, without the cost of a copy.
                wanted = min(limit, _DISCARD_BYTES)
                count = self._sock.recv_into(_NOWHERE, wanted, socket.MSG_TRUNC)
        except OSError as error:
            raise Gone from error
        if count == 0:
            raise Gone
        self.received += count
        return count

    def send(self, block: bytes | memoryview) -> None:
        """Send all of `block`. Raises Gone."""
        try:
            self._sock.sendall(block)
        except OSError as error:
            raise Gone from error
        self.sent += len(block)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of a file by sendfile(2); plain connections only. Raises Gone."""
        out = self._sock.fileno()
        end = offset + count
        while offset < end:
            try:
                moved = os.sendfile(out, fd, offset, end - offset)
            except OSError as error:
                raise Gone from error
            if moved == 0:
                raise Gone
            offset += moved
            self.sent += moved

    def wait(self, seconds: float | None) -> None:
        """Wait for `seconds` (None: forever). Raises Gone as soon as the peer has closed."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        if poll.poll(None if seconds is None else seconds * 1000):
            raise Gone

    def await_next(self, seconds: float) -> bool:
        """Wait for the next request, at most `seconds`; return False if none came."""
        if self._ahead:
            return True
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def shrink(self) -> None:
        """Request the smallest possible receive buffer, so that a peer soon meets a zero window."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    def reset(self) -> None:
        """End with an RST."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()

    def close(self) -> None:
        """End at once: a FIN, or an RST if unread bytes remain; in TLS without close_notify
        (ragged)."""
        self._sock.close()

    def finish(self) -> None:
        """End properly: close_notify in TLS, a FIN, and read on a while so that no RST overtakes
        our answer.

        RFC 9112 §9.6: a server that closes with unread bytes may destroy its own last answer."""
        try:
            self._sock.settimeout(_LINGER_SECONDS)
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock = self._sock.unwrap()
            self._sock.shutdown(socket.SHUT_WR)
            for _ in self._remains():
                pass
        except (OSError, ValueError):
            pass
        finally:
            self._sock.close()

    def _remains(self) -> Iterator[int]:
        taken, deadline = 0, time.monotonic() + _LINGER_SECONDS
        while taken < _LINGER_BYTES and time.monotonic() < deadline:
            count = self._sock.recv_into(_NOWHERE, _DISCARD_BYTES, socket.MSG_TRUNC)
            if count == 0:
                return
            taken += count
            yield count

    def _fill(self) -> bool:
        try:
            block = self._sock.recv(_AHEAD_BYTES)
        except OSError as error:
            raise Gone from error
        self.received += len(block)
        self._ahead += block
        return bool(block)
