"""Turn requests away by their first bytes, once their address has sent too many wrong ones.

Theory of operation. The first bytes of a connection are looked at without taking them from it
(recv(2), MSG_PEEK), before gunicorn parses them. Only what is surely refused is turned away: on a
server with tokens, a request that shows neither a token which this process knows, nor a cookie of
relay's, and asks for none of the paths that are open to strangers. All others take their usual way.
So programs that share an address with a flood, at one proxy or on one machine, are
answered as ever.

Decided here: what first bytes show. Never here: which token is valid (`known_tokens.py`), and which
address has sent too many (`refusal_limit.py`)."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable
from time import monotonic
from typing import Final

from relay.api.head_limits import is_too_large
from relay.api.proxies import ClientView
from relay.api.refusal_limit import RefusalLimit
from relay.api.refusal_log import log_refusal
from relay.api.render import answer_to
from relay.api.request_tally import count_request
from relay.tallies import Tallies

PEEK_BYTES: Final = 16 * 1024
"""A longer head goes to the parser."""
TAKE_BYTES: Final = 64 * 1024
"""What has arrived is read before the answer, since a close with unread bytes resets the
connection."""
_FIELD, _COOKIE, _OURS = b"\r\nauthorization:", b"\r\ncookie:", b"relay-"
_PREFIX: Final = b"\r\nx-forwarded-prefix:"
_LINE: Final = re.compile(rb"(?:\r\n)?[^a-z# ]{3,20} ([^ ?]*)[^ \r\n]* HTTP/1\.[0-9]\r\n")
"""A request line that gunicorn's parser may take, and its path."""
_BEARER: Final = re.compile(rb"[ \t]*bearer +(\S+)", re.I)
_OPEN: Final = (b"/healthz", b"/readyz", b"/")
"""Ends of the paths that are open to strangers, besides those of the page."""


class FirstBytes:
    """The look at the first bytes of the connections of one process."""

    def __init__(
        self,
        limit: RefusalLimit,
        may_be_valid: Callable[[str | None], bool],
        tallies: Tallies,
        prefix: str = "",
    ) -> None:
        """`may_be_valid` tells whether a request with a token may be answered, or one without; it
        does not wait. `prefix` is the path at which the server is mounted."""
        self._limit, self._may_be_valid, self._tallies = limit, may_be_valid, tallies
        self._root = prefix.encode()

    def note(self, address: str) -> None:
        """Count a request that was refused in full."""
        self._limit.note(address)

    def turn_away(self, client: socket.socket, address: str, seconds: float) -> bool:
        """Answer a connection 429 if that is due, and return whether it has ended. Waits at most
        `seconds` for the first bytes. Raises nothing."""
        if not self._limit.is_over(address):
            return False
        began = monotonic()
        try:
            client.settimeout(seconds)
            if self.may_be_answered(client.recv(PEEK_BYTES, socket.MSG_PEEK)):
                return False
            client.recv(TAKE_BYTES)
            client.sendall(self._refuse(address, began))
        except OSError:
            return True  # it sent nothing, or has gone
        return True

    def may_be_answered(self, first: bytes) -> bool:
        """Return whether a request that begins with these bytes may get another answer than a
        refusal, as far as they show."""
        line = _LINE.match(first)
        if line is None:  # the parser refuses it, unless more of it comes
            return b"\n" not in first[2:]
        head, is_whole, _ = first.partition(b"\r\n\r\n")
        if not is_whole:
            return True
        if is_too_large(head):
            return False
        lower = head.lower() + b"\r\n"
        # A proxy may name the path at which the server is mounted, which is that of the root.
        if _is_open(line[1]) or line[1] == self._root or _PREFIX in lower:
            return True
        at = lower.find(_COOKIE)
        if at >= 0 and _OURS in lower[at : lower.index(b"\r\n", at + 2)]:
            return True
        at = lower.find(_FIELD)
        given = None if at < 0 else _BEARER.match(head, at + len(_FIELD))
        return self._may_be_valid(None if given is None else given[1].decode("latin-1"))

    def _refuse(self, address: str, began: float) -> bytes:
        """Count and log a refusal, and return its answer, after which the connection closes."""
        error, id = self._limit.error(), str(uuid.uuid4())
        count_request(
            self._tallies, None, error.status, seconds=monotonic() - began, refusal=error.code
        )
        client = ClientView(address=address, host="", prefix="")
        log_refusal(
            error.status,
            error,
            side=error.side,
            route=None,
            client=client,
            caller=None,
            request=id,
        )
        return answer_to(error, id).as_bytes()


def _is_open(path: bytes) -> bool:
    """Return whether strangers may ask for a path, perhaps below a proxy's prefix. An escape may
    stand for anything."""
    return path.endswith(_OPEN) or any(mark in path for mark in (b"/ui", b"%", b"://"))
