"""The interface of a TLS library: contexts that trust some authorities, and sessions over memory.

A session never touches a socket: cipher text is fed into it and taken from it.

Decided here: what both libraries must do alike. Never here: how."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

MOST_RECORDS: Final = 32
"""Maximum number of records, of any length, that one `read` decrypts: twice what one piece of
cipher text holds if they are full."""
MOST_ORIGINS: Final = 256
"""Maximum number of hosts whose last session is remembered."""


class EndedEarly(Exception):
    """The peer closed the connection without close_notify (RFC 8446 section 6.1: truncation)."""


class Broken(Exception):
    """The TLS session failed. The argument is the library's reason."""


class Untrusted(Exception):
    """The peer's certificate is refused. The argument is the library's reason."""


class TlsSession(Protocol):
    """One side of one TLS connection. After Broken and Untrusted it can't be used any longer."""

    def shake_hands(self) -> bool:
        """Continue the handshake. Return whether it is done; otherwise it needs more cipher text.
        Raises EndedEarly, Broken, Untrusted."""

    def read(self, view: memoryview) -> int | None:
        """Decrypt up to MOST_RECORDS records into `view`; return the number of bytes, 0 after
        close_notify, None if that needs more cipher text. Raises EndedEarly and Broken if nothing
        was decrypted."""

    def write(self, view: memoryview) -> int:
        """Encrypt `view`, and return how many of its bytes were taken. Raises Broken."""

    def feed(self, piece: memoryview, count: int) -> None:
        """Take the first `count` bytes of a whole buffer of `BUFFERS`: cipher text from the peer.
        Called only after `read` or `shake_hands` needed more. The session gives the buffer back
        once it has read them."""

    def feed_end(self) -> None:
        """Note that the peer's bytes have ended."""

    def has_unread(self) -> bool:
        """Say if bytes of the peer wait, decrypted or not, or a failure that followed them."""

    def unsent(self) -> int:
        """Return the number of bytes of cipher text to send."""

    def take(self) -> memoryview:
        """Return cipher text to send, in order; empty if there is none. It is valid until
        `give_back`."""

    def give_back(self) -> None:
        """Free the cipher text that `take` returned."""

    def close(self) -> None:
        """Give every buffer back. Only `close` may be called afterwards."""

    def remember(self) -> None:
        """Let the next session with this host and port resume this one, which saves the exchange of
        certificates (RFC 8446 section 2.2)."""


class TlsContext(Protocol):
    """The trusted authorities, and how to make sessions that trust them alone."""

    def __init__(self, ca_bundle: Path | None = None) -> None:
        """Trust the system's authorities, and those of a bundle (PEM). Raises ConfigError for a
        bundle that can't be read."""

    @staticmethod
    def library() -> str:
        """Return the name and the version of the library, for people."""

    def session(self, host: str, port: int) -> TlsSession:
        """Return a new session, whose certificate must carry `host`, a name or an address. It
        resumes the last remembered session with this host and port."""


class Resumable:
    """The last session with each host and port, at most MOST_ORIGINS of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def find(self, host: str, port: int) -> tuple[Any, Callable[[Any], None]]:
        """Return the session with this host and port to resume, or None; and a function that keeps
        a newer one."""
        origin = host, port

        def keep(session: Any) -> None:
            self._kept[origin] = session
            self._kept.move_to_end(origin)
            while len(self._kept) > MOST_ORIGINS:
                self._kept.popitem(last=False)

        return self._kept.get(origin), keep
