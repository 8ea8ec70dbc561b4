"""gunicorn's gevent worker, with relay's own answer to requests that are not HTTP.

gunicorn answers with HTML that repeats the request, and its log repeats it too. A header line
without its colon may be a password, so relay repeats nothing of the request."""

from __future__ import annotations

import json
import os
import signal
import socket
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any, Final

from gunicorn.glogging import Logger
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from relay.api.first_bytes import FirstBytes
from relay.api.head_limits import FIELD_BYTES, FIELDS, LINE_BYTES
from relay.api.lingering_close import linger
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.views.log import current_handler
from relay.views.problems import MEDIA_TYPE

REFUSALS: Mapping[type[Exception], tuple[int, str]] = {
    errors.LimitRequestLine: (414, f"the request line is longer than {LINE_BYTES:,} bytes"),
    errors.LimitRequestHeaders: (
        431,
        f"there are more than {FIELDS} header fields, or one is longer than {FIELD_BYTES:,} bytes",
    ),
    errors.ExpectationFailed: (417, "the expectation is not 100-continue"),
    errors.UnsupportedTransferCoding: (501, "the transfer coding is not chunked"),
    errors.InvalidHTTPVersion: (505, "the version is not HTTP/1.1 or HTTP/1.0"),
}
ENDING: Final = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)
"""The signals that end or reload a server. The master blocks them while it forks a worker."""
_MALFORMED = (400, "the request is not well-formed HTTP/1.1, or could be read in two ways")


class GunicornLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log as lines of ours: its messages about workers are events, and of the others a
    line has the place, never the text."""

    def setup(self, cfg: Any) -> None:
        """Set gunicorn's log up with relay's formatter."""
        super().setup(cfg)
        ours = current_handler()
        for handler in self.error_log.handlers:
            handler.setFormatter(ours.lines)
            handler.filters = [ours.bounds]


class GunicornWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gevent worker. `claiming` is the greenlet that works through the ledger; the process ends
    when that has released its claims."""

    claiming: Any = None
    at_end: Callable[[], None] = staticmethod(lambda: None)
    """Called when the last request was answered and `claiming` has ended."""
    has_interrupt = False
    first_bytes: FirstBytes | None = None
    """None until the application is loaded."""

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection, unless it is turned away."""
        address = addr[0] if isinstance(addr, tuple) else ""
        first = None if self.cfg.is_ssl else self.first_bytes  # TLS hides them
        if first is not None and first.turn_away(client, address, self.cfg.keepalive):
            client.close()
            return
        super().handle(listener, client, addr)

    def init_signals(self) -> None:
        """Set the handlers, and ignore SIGHUP: a terminal that is closed sends it to the whole
        group, and the master alone acts on it. Then let in the signals that the master sent since
        the fork."""
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def run(self) -> None:
        """Serve until the master stops this worker. gunicorn waits only for requests, so this also
        waits for `claiming`, until the graceful timeout."""
        super().run()
        if self.claiming is not None:
            # The master aborts a worker that is silent for its timeout.
            until = monotonic() + self.cfg.graceful_timeout
            while not self.claiming.ready() and monotonic() < until:
                self.notify()
                self.claiming.join(1.0)
        self.at_end()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop at SIGTERM. A worker that does not serve yet, for example because it waits for its
        ledger, exits at once."""
        if not self.booted:
            # Not by an exception: it could be raised in code that suppresses it.
            os._exit(0)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at the first Ctrl-C as at SIGTERM, and at the second at once. The SIGQUIT with which
        the master passes Ctrl-C on is part of the first; one after a SIGTERM is an order to hurry.
        """
        if sig == signal.SIGINT:
            hurries = self.has_interrupt
        else:
            hurries = not self.alive and not self.has_interrupt
        if hurries:
            super().handle_quit(sig, frame)
            return
        self.has_interrupt = self.has_interrupt or sig == signal.SIGINT
        self.handle_exit(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that the parser refused; leave other errors to gunicorn."""
        if not isinstance(exc, errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, detail = REFUSALS.get(type(exc), _MALFORMED)
        emit(
            LogEvent.REQUEST_REFUSED,
            status=status,
            error=type(exc).__name__,
            address=addr[0] if isinstance(addr, tuple) else None,
        )
        if self.first_bytes is not None and isinstance(addr, tuple):
            self.first_bytes.note(addr[0])
        with suppress(OSError):
            client.sendall(refusal(status, detail))
            # The rest of the request is unread: a close now would reset the connection, and the
            # reset overtakes the answer (lingering_close.py).
            client.shutdown(socket.SHUT_WR)
            linger(client.recv)


def refusal(status: int, detail: str) -> bytes:
    """Return the bytes of a problem response, after which the connection closes."""
    phrase = HTTPStatus(status).phrase
    members = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": detail,
        "side": "request",
        "retryable": False,
        "hint": "Send well-formed HTTP/1.1; long values belong in the JSON body.",
        "instance": f"urn:uuid:{uuid.uuid4()}",
    }
    body = json.dumps(members).encode() + b"\n"
    head = f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: {MEDIA_TYPE}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
