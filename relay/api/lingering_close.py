"""Close a connection whose request was not read to its end, so that the client still gets the
answer.

A close right after the answer would lose the answer: the kernel resets a connection that is closed
with unread bytes, and the reset overtakes the answer. gunicorn alone would read as long as bytes
arrive, without yielding to the hub. So the answer says `Connection: close`, then relay reads and
discards bytes for up to a second, then it closes the connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

import gevent
from werkzeug.wsgi import ClosingIterator

from relay.api.strict_json import BODY_READ
from relay.errors import RelayError

LINGER_SECONDS = 1.0
STEP_BYTES = 64 * 1024

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def with_lingering_close(app: WsgiApp) -> WsgiApp:
    """Return a WSGI application that closes connections like this after `app` has answered."""

    def lingering_app(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if _closes(headers) or _is_unread(environ):
                # gunicorn drops a Connection header, as WSGI requires (PEP 3333), so it has to be
                # asked this way.
                force_close = getattr(
                    getattr(start_response, "__self__", None), "force_close", None
                )
                if force_close is not None:
                    force_close()
            return start_response(status, headers, exc_info)

        # gunicorn closes the iterator when it has sent the whole answer.
        return ClosingIterator(app(environ, start), [lambda: _linger_if_unread(environ)])

    return lingering_app


def _closes(headers: list[tuple[str, str]]) -> bool:
    return any(name.lower() == "connection" and value.lower() == "close" for name, value in headers)


def _is_unread(environ: dict[str, Any]) -> bool:
    has_body = environ.get("HTTP_TRANSFER_ENCODING") or environ.get("CONTENT_LENGTH", "0") not in (
        "",
        "0",
    )
    return bool(has_body) and not environ.get(BODY_READ)


class _Enough(RelayError):
    """The time to linger is over."""


def _linger_if_unread(environ: dict[str, Any]) -> None:
    sock = environ.get("gunicorn.socket")
    if _is_unread(environ) and sock is not None:
        with suppress(OSError):
            # The whole answer was sent: the client need not wait for more.
            sock.shutdown(socket.SHUT_WR)
        # Read the socket, not the body: a body with wrong framing, or in chunks of one byte, could
        # not be read to its end in time.
        linger(sock.recv)


def linger(read: Callable[[int], bytes], seconds: float = LINGER_SECONDS) -> None:
    """Read and discard bytes until the client closes, or `seconds` are over. Raises nothing."""
    until = monotonic() + seconds
    try:
        with gevent.Timeout(seconds, _Enough("")):
            while monotonic() < until and read(STEP_BYTES):
                gevent.sleep(0)
    except (_Enough, OSError):
        return
