"""A Stream whose bytes are encrypted.

`ssl.SSLSocket` makes two reads and one write of the socket for each record of 16 KiB. Here the
socket is read and written in pieces of up to 256 KiB, and the TLS library works on memory in
between.

Decided here: how much is read and written at once, and that failures become ours. Never here: which
certificates are trusted (`trust.py`)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from relay.errors import CertificateRefused, ConnectFailed, ConnectionLost, Side
from relay.wire.buffers import BUFFERS
from relay.wire.stream import HELD_BYTES, RECEIVE_BYTES, Stream
from relay.wire.tls.sessions import Broken, EndedEarly, TlsSession, Untrusted

PIECE_BYTES = 256 * 1024
"""How much cipher text is read from the socket at once, and how much plain text goes into one
write."""
MOST_PULLS: Final = 16
"""Maximum number of pieces of cipher text that one read takes: pieces without data must not delay
other transfers."""


class TlsStream(Stream):
    """A Stream whose bytes are encrypted. Call `handshake` before anything else.

    At most one piece of cipher text waits to be sent; `write_now` takes nothing more until it is
    gone."""

    secure = True

    def __init__(self, sock: socket.socket, side: Side, session: TlsSession) -> None:
        """Take over `sock`; `session` is a new one."""
        super().__init__(sock, side)
        self._tls = session
        self._cipher = memoryview(b"")
        self._is_drained = False
        """Whether the last piece of cipher text was all that the socket had."""
        self._is_remembered = False

    def handshake(self, wait: Callable[[Callable[[float], bool]], None]) -> None:
        """Shake hands. `wait` is called with a function that waits, and raises when time is up.

        Raises CertificateRefused if the peer can't be trusted or offers no acceptable TLS version,
        ConnectFailed for an internal error of the peer, ConnectionLost if it hangs up."""
        while True:
            try:
                is_done = self._tls.shake_hands()
            except Untrusted as error:
                raise CertificateRefused(
                    f"the certificate is refused: {error}", side=self.side
                ) from None
            except EndedEarly:
                raise ConnectionLost(
                    "the connection was closed during the TLS handshake", side=self.side
                ) from None
            except Broken as error:
                # An "internal error" of the peer is unrelated to us (RFC 8446 section 6.2).
                passes = "alert internal error" in str(error)
                failure = ConnectFailed if passes else CertificateRefused
                raise failure(f"the TLS handshake failed ({error})", side=self.side) from None
            self._flush_all(wait)
            if is_done:
                return
            while self._pull() is None:
                wait(self.wait_readable)

    def _flush_all(self, wait: Callable[[Callable[[float], bool]], None]) -> None:
        while not self.flush_now():
            wait(self.wait_writable)

    # -- reading

    def read_now(self, view: memoryview) -> int | None:
        """As Stream's. An end without close_notify raises ConnectionLost (RFC 8446 section 6.1:
        truncation)."""
        if self.leftover:
            return self._take_leftover(view)
        done = 0
        for _ in range(MOST_PULLS):
            try:
                count = self._tls.read(view[done:])
            except EndedEarly:
                if done:
                    break
                raise ConnectionLost("TLS ended without close_notify", side=self.side) from None
            except Broken as error:
                raise ConnectionLost(f"the connection broke ({error})", side=self.side) from None
            if count is None:
                if not self._pull_for(done):
                    break
                continue
            if not count:
                return done
            done += count
            # A socket that gave less than it was asked for is empty now: another `recv` would only
            # cost a system call.
            if done == len(view) or self._is_drained:
                break
        return done or None

    def _pull_for(self, done: int) -> bool:
        """Pull, and return whether reading may continue. A broken connection can wait while `done`
        bytes are in hand.

        So can what TLS itself has to say, such as the answer to a key update (RFC 8446 section
        4.6.3). But if nothing has come, the peer may be waiting for it: for our part of another
        handshake of TLS 1.2."""
        try:
            if self._pull() is not None:
                return True
            if not done and self._tls.unsent():
                self.flush_now()
        except ConnectionLost:
            if not done:
                raise
        return False

    def _pull(self) -> bool | None:
        """Move cipher text from the socket into OpenSSL: False at the end, None if nothing has come
        yet."""
        piece, count = BUFFERS.take(PIECE_BYTES), 0
        try:
            count = self._sock.recv_into(piece, PIECE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self.lost_error(error) from None
        finally:
            if not count:
                BUFFERS.give(piece)
        if not count:
            self._tls.feed_end()
            return False
        self._is_drained = count < PIECE_BYTES
        self._tls.feed(piece, count)
        return True

    def has_arrived(self) -> bool:
        """As Stream's, but session tickets and other messages of TLS itself don't count."""
        if self.leftover:
            return True
        if not self._arrivals.poll(0) and not self._tls.has_unread():
            return False
        with BUFFERS.lend(RECEIVE_BYTES) as piece:
            count = self.read_now(piece)
            if count:
                self.leftover = bytes(piece[:count])
        return count is not None

    def wait_for_more(self, seconds: float) -> bool:
        """As Stream's; bytes that OpenSSL holds already count. (Its BIO keeps nothing of half a
        record.)"""
        return self._tls.has_unread() or super().wait_for_more(seconds)

    # -- writing

    def write_now(self, view: memoryview, more: bool = False) -> int:
        """As Stream's. Takes at most one piece, and nothing while an earlier one waits; with
        `more`, a short piece is encrypted now and sent with the next."""
        if not self._has_room():
            return 0
        count = self._encrypt(view[:PIECE_BYTES])
        if not (more and self._tls.unsent() <= HELD_BYTES):
            self.flush_now()
        return count

    def write_both(self, view: memoryview, tail: bytes) -> int:
        """As Stream's. If the first piece is encrypted whole, both are sent with one call."""
        if not self._has_room():
            return 0
        # For OpenSSL a write of 0 bytes is an error (SSL_write(3)).
        count = self._encrypt(view[:PIECE_BYTES]) if view else 0
        if tail and count == len(view):
            count += self._encrypt(memoryview(tail))
        self.flush_now()
        return count

    def _has_room(self) -> bool:
        """Return whether more may be encrypted: no cipher text waits but a short piece."""
        return not (self._cipher or self._tls.unsent() > HELD_BYTES) or self.flush_now()

    def _encrypt(self, view: memoryview) -> int:
        """Encrypt a piece, and return how many of its bytes were taken. Raises ConnectionLost."""
        try:
            return self._tls.write(view)
        except Broken as error:
            raise ConnectionLost(f"the connection broke ({error})", side=self.side) from None

    @property
    def unsent(self) -> bool:
        """Say if cipher text waits to be sent."""
        return bool(self._cipher) or self._tls.unsent() > 0

    def flush_now(self) -> bool:
        """As Stream's. Raises ConnectionLost."""
        while self._cipher or self._take_cipher():
            sent = self._push((self._cipher,))
            if not sent:
                return False
            self._cipher = self._cipher[sent:]
            if not self._cipher:
                self._tls.give_back()
        return True

    def _take_cipher(self) -> bool:
        """Take cipher text to send; return whether there was some."""
        self._cipher = self._tls.take()
        return bool(self._cipher)

    # -- the end

    def remember_session(self) -> None:
        """Let the next connection to this host and port resume this TLS session."""
        if not self._is_remembered:
            self._is_remembered = True
            self._tls.remember()

    def close(self) -> None:
        """As Stream's."""
        if not self.closed:
            self._cipher = memoryview(b"")
            self._tls.close()
        super().close()
