"""TLS over two memory BIOs, in large pieces.

`ssl.SSLSocket` makes two reads and one write of the socket for each record of 16 KiB. Here the
socket is read and written in pieces of up to 256 KiB, and OpenSSL works on memory in between.

Decided here: which certificates are trusted. Certificates and names are always checked; no setting
switches that off."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from relay.errors import CertificateRefused, ConfigError, ConnectionLost, Side
from relay.process.small_files import read_small
from relay.wire.buffers import BUFFERS
from relay.wire.stream import HELD_BYTES, RECEIVE_BYTES, Stream

PIECE_BYTES = 256 * 1024
"""How much cipher text is read from the socket at once, and how much plain text goes into one
write."""

MOST_RECORDS: Final = 512
"""Maximum number of records, of any length, that one read decrypts; 64 full ones are 1 MiB."""
MOST_PULLS: Final = 16
"""Maximum number of pieces of cipher text that one read takes: pieces without data must not delay
other transfers."""
MOST_CA_BYTES: Final = 16 * 1024 * 1024
_PEM: Final = "Name a PEM file of certificates: blocks that begin with -----BEGIN CERTIFICATE-----."


def client_context(ca_bundle: Path | None = None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and those in `ca_bundle` (PEM)
    besides.

    TLS 1.2 or newer. Raises ConfigError for a bundle that cannot be read.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _prefer_aes_128(context)
    if ca_bundle is not None:
        text = read_small(ca_bundle, "RELAY_CA_BUNDLE", MOST_CA_BYTES)
        try:
            context.load_verify_locations(
                cadata=text.encode("ascii", "ignore").decode()
            )  # comments may have any words
        except (OSError, ValueError) as error:  # also ssl.SSLError, with nothing in it
            why = getattr(error, "reason", None) or type(error).__name__
            raise ConfigError(
                f"RELAY_CA_BUNDLE {ca_bundle} holds no certificates ({why})", hint=_PEM
            ) from None
    return context


def _prefer_aes_128(context: ssl.SSLContext) -> None:
    """Put AES-128-GCM first among the ciphers of TLS 1.2, as Go and the browsers do; no cipher is
    added or removed. It costs a tenth less CPU than AES-256, and neither is broken. (The order of
    TLS 1.3 can't be set from Python 3.11.)"""
    names = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    context.set_ciphers(":".join(sorted(names, key=lambda name: "AES128-GCM" not in name)))


class TlsStream(Stream):
    """A Stream whose bytes are encrypted. Call `handshake` before anything else.

    At most one piece of cipher text waits to be sent; `write_now` takes nothing more until it is
    gone."""

    secure = True

    def __init__(self, sock: socket.socket, side: Side, context: ssl.SSLContext, host: str) -> None:
        """Take over `sock`; `host` is the name (or address) that the certificate must carry."""
        super().__init__(sock, side)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._cipher = memoryview(b"")

    def handshake(self, wait: Callable[[Callable[[float], bool]], None]) -> None:
        """Shake hands. `wait` is called with a function that waits, and raises when time is up.

        Raises CertificateRefused if the peer can't be trusted or offers no acceptable TLS version,
        ConnectionLost if it hangs up."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush_all(wait)
                while self._pull() is None:
                    wait(self.wait_readable)
            except ssl.SSLError as error:
                raise self._handshake_error(error) from None
            else:
                return self._flush_all(wait)

    def _flush_all(self, wait: Callable[[Callable[[float], bool]], None]) -> None:
        while not self.flush_now():
            wait(self.wait_writable)

    def _handshake_error(self, error: ssl.SSLError) -> CertificateRefused | ConnectionLost:
        if isinstance(error, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"the certificate is refused: {error.verify_message}", side=self.side
            )
        if isinstance(error, ssl.SSLEOFError):
            return ConnectionLost(
                "the connection was closed during the TLS handshake", side=self.side
            )
        return CertificateRefused(
            f"the TLS handshake failed ({error.reason or 'unknown reason'})", side=self.side
        )

    # -- reading

    def read_now(self, view: memoryview) -> int | None:
        """As Stream's. An end without close_notify raises ConnectionLost (RFC 8446 section 6.1:
        truncation)."""
        if self.leftover:
            return self._take_leftover(view)
        done = pulls = 0
        for _ in range(MOST_RECORDS):
            if done == len(view):
                break
            try:
                count = self._tls.read(len(view) - done, view[done:])
            except ssl.SSLWantReadError:
                pulls += 1
                if pulls > MOST_PULLS or not self._pull_for(done):
                    break
                continue
            except ssl.SSLEOFError:
                if done:
                    break
                raise ConnectionLost("TLS ended without close_notify", side=self.side) from None
            except ssl.SSLError as error:
                raise self.lost_error(error) from None
            if not count:
                return done
            done += int(count)
        # Our answer to a key update may wait for our next write (RFC 8446 section 4.6.3), so
        # nothing is sent here: a read must return the bytes that came even if nothing can be sent.
        return done or None

    def _pull_for(self, done: int) -> bool:
        """Pull, and return whether reading may continue. A broken connection can wait while `done`
        bytes are in hand."""
        try:
            return self._pull() is not None
        except ConnectionLost:
            if not done:
                raise
            return False

    def _pull(self) -> bool | None:
        """Move cipher text from the socket into OpenSSL: False at the end, None if nothing has come
        yet."""
        with BUFFERS.lend(PIECE_BYTES) as piece:
            try:
                count = self._sock.recv_into(piece)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                raise self.lost_error(error) from None
            if count:
                self._incoming.write(piece[:count])
            else:
                self._incoming.write_eof()
        return count > 0

    def has_arrived(self) -> bool:
        """As Stream's, but session tickets and other messages of TLS itself don't count."""
        if self.leftover:
            return True
        if not self._arrivals.poll(0) and not self._incoming.pending:
            return False
        with BUFFERS.lend(RECEIVE_BYTES) as piece:
            count = self.read_now(piece)
            if count:
                self.leftover = bytes(piece[:count])
        return count is not None

    def wait_for_more(self, seconds: float) -> bool:
        """As Stream's; bytes that OpenSSL holds already count. (Its BIO keeps nothing of half a
        record.)"""
        return bool(self._tls.pending() or self._incoming.pending) or super().wait_for_more(seconds)

    # -- writing

    def write_now(self, view: memoryview, more: bool = False) -> int:
        """As Stream's. Takes at most one piece, and nothing while an earlier one waits; with
        `more`, a short piece is encrypted now and sent with the next."""
        if (self._cipher or self._outgoing.pending > HELD_BYTES) and not self.flush_now():
            return 0
        try:
            count = self._tls.write(view[:PIECE_BYTES])
        except ssl.SSLError as error:
            raise self.lost_error(error) from None
        if not (more and self._outgoing.pending <= HELD_BYTES):
            self.flush_now()
        return count

    def write_both(self, view: memoryview, tail: bytes) -> int:
        """As Stream's. Takes bytes of the first piece only; once that is encrypted, the second is
        sent along."""
        return self.write_now(view, more=True) if view else 0

    @property
    def unsent(self) -> bool:
        """Return whether cipher text waits to be sent."""
        return bool(self._cipher) or bool(self._outgoing.pending)

    def flush_now(self) -> bool:
        """As Stream's. Raises ConnectionLost."""
        while self.unsent:
            if not self._cipher:
                self._cipher = memoryview(self._outgoing.read())
            sent = self._push((self._cipher,))
            if not sent:
                return False
            self._cipher = self._cipher[sent:]
        return True
