"""TLS by Python's `ssl` module, over two memory BIOs.

Decided here: nothing; `trust.py` says which certificates are trusted."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any, Final

from relay.wire.buffers import BUFFERS
from relay.wire.tls.sessions import (
    MOST_RECORDS,
    Broken,
    EndedEarly,
    Resumable,
    Untrusted,
)
from relay.wire.tls.trust import standard_context

KEPT_SECONDS: Final = 60
"""How long a session is kept although the server did not resume it."""


class StandardContext:
    """A TlsContext by the `ssl` module. Raises ConfigError for a bundle that can't be read."""

    def __init__(self, ca_bundle: Path | None = None) -> None:
        self._context = standard_context(ca_bundle)
        self._resumable = Resumable()

    @staticmethod
    def library() -> str:
        """As TlsContext.library."""
        return f"{ssl.OPENSSL_VERSION} (Python's ssl module)"

    def session(self, host: str, port: int) -> StandardSession:
        """As TlsContext.session."""
        return StandardSession(self._context, host, *self._resumable.find(host, port))


class StandardSession:
    """A TlsSession by the `ssl` module."""

    def __init__(
        self, context: ssl.SSLContext, host: str, resumed: Any, keep: Callable[[Any], None]
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        if resumed is not None:
            self._tls.session = resumed
        self._resumed, self._keep = resumed, keep

    def shake_hands(self) -> bool:
        """As TlsSession.shake_hands."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(error.verify_message) from None
        except ssl.SSLEOFError:
            raise EndedEarly from None
        except ssl.SSLError as error:
            raise Broken(_reason(error)) from None
        return True

    def read(self, view: memoryview) -> int | None:
        """As TlsSession.read."""
        read, done, size = self._tls.read, 0, len(view)
        try:
            for _ in range(MOST_RECORDS):
                count = read(size - done, view[done:])
                if not count:
                    break
                done += int(count)
                if done == size:
                    break
        except ssl.SSLWantReadError:
            return done or None
        except ssl.SSLEOFError:
            # The next read raises it again; the bytes in hand come first.
            if not done:
                raise EndedEarly from None
        except ssl.SSLError as error:
            raise Broken(_reason(error)) from None
        return done

    def write(self, view: memoryview) -> int:
        """As TlsSession.write."""
        try:
            return self._tls.write(view)
        except ssl.SSLError as error:
            raise Broken(_reason(error)) from None

    def feed(self, piece: memoryview, count: int) -> None:
        """As TlsSession.feed."""
        self._incoming.write(piece[:count])
        BUFFERS.give(piece)

    def feed_end(self) -> None:
        """As TlsSession.feed_end."""
        self._incoming.write_eof()

    def has_unread(self) -> bool:
        """As TlsSession.has_unread."""
        return bool(self._incoming.pending or self._tls.pending())

    def unsent(self) -> int:
        """As TlsSession.unsent."""
        return self._outgoing.pending

    def take(self) -> memoryview:
        """As TlsSession.take."""
        return memoryview(self._outgoing.read())

    def give_back(self) -> None:
        """As TlsSession.give_back: the bytes free themselves."""

    def close(self) -> None:
        """As TlsSession.close."""

    def remember(self) -> None:
        """As TlsSession.remember.

        Some versions of Python lose 6 KB of memory with each session that is read, so a session
        that was resumed, or replaces a newer one than `KEPT_SECONDS`, is not read."""
        if self._resumed is not None and (
            self._tls.session_reused or time() < self._resumed.time + KEPT_SECONDS
        ):
            return
        session = self._tls.session
        if session is not None:
            self._keep(session)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unknown reason").replace("_", " ").lower()
