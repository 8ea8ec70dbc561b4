"""What clients that follow a migration are sent: server-sent events (WHATWG HTML, "Server-sent
events"), and lines of NDJSON.

A stream of events begins with the past events behind the client's last one, and continues with
those that the watcher puts into its subscription. A client that disconnects comes back by itself,
and names its last event.

Decided here: the pieces of a stream, and when it ends. Never here: which events there are
(`relay/ledger/event_log.py`), and when the ledger is read (`watcher.py`)."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from relay.api.watcher import Notice, Subscription
from relay.ledger.event_values import EventCursor
from relay.views.migrations import PATIENCE, is_over

COMMENT_SECONDS = 15.0
"""Time without a piece after which a comment is sent: a server notices that a client is gone only
when it sends something."""
COMMENT = ":\n"
"""Without an empty line, which would end an event: relay's own older clients expect none here."""
RETRY_MS, SOON_MS = 2000, 500
"""How long a client waits before it connects again; and where the server has said goodbye."""
JITTER = (0.75, 1.25)
"""So that clients of a server that restarts do not all come at one moment."""
SEND_BUFFER_BYTES = 32 << 10
"""The most that the system keeps for a client that reads slowly; by default it grows to
megabytes."""


@dataclass(frozen=True, kw_only=True)
class PastEvents:
    """The events of a migration that a client has not seen."""

    notices: Sequence[Notice]
    until: EventCursor
    """The place up to which these are all, or the client's own place."""
    has_gap: bool
    """Whether older ones were left out."""


def piece(kind: str, data: str, cursor: EventCursor | None = None) -> str:
    """Return one server-sent event; `data` is JSON."""
    named = "" if cursor is None else f"id: {cursor}\n"
    return f"{named}event: {kind}\ndata: {data}\n\n"


RESYNC = piece("resync", "{}")
"""Some events are left out here: the client reads the state again."""


def retry_field(milliseconds: float) -> str:
    """Return the field that names how long a client waits before it connects again. As a comment,
    it stands without an empty line."""
    return f"retry: {round(milliseconds)}\n"


def event_pieces(
    subscription: Subscription,
    id: str,
    past: PastEvents,
    chance: Callable[[float, float], float] = random.uniform,
) -> Iterator[str]:
    """Yield the pieces of a stream of one migration's events, with a `progress` after each look at
    the ledger, until it has ended, was deleted, or the server stops. Raises LedgerFailed if the
    ledger does not answer for PATIENCE seconds."""
    yield retry_field(RETRY_MS * chance(*JITTER))
    subscription.skip(id, past.until)
    if past.has_gap:
        yield RESYNC
    yield from (piece(one.kind, one.text, one.cursor) for one in past.notices)
    while True:
        update = subscription.take()
        if update.stopping:
            yield retry_field(SOON_MS) + piece("bye", "{}")
            return
        if update.failure is not None and update.failing_seconds > PATIENCE:
            raise update.failure
        if id not in update.migrations:
            return
        if update.has_gap:
            yield RESYNC
        # The state comes last: an ended migration has its last event before it.
        yield from (piece(one.kind, one.text, one.cursor) for one in update.notices)
        yield piece("progress", update.progress[id])
        if is_over(update.migrations[id]):
            return
        while not subscription.wait(COMMENT_SECONDS):
            yield COMMENT


def note_sending(
    subscription: Subscription, pieces: Iterator[str], clock: Callable[[], float] = monotonic
) -> Iterator[str]:
    """Yield the pieces, and note since when the client's socket takes one: the generator continues
    once it is sent."""
    for one in pieces:
        subscription.sending_since = clock()
        yield one
        subscription.sending_since = None


def hang_up_of(environ: Mapping[str, Any]) -> Callable[[], None]:
    """Return a function that closes a request's connection under a send that waits."""
    sock: Any = environ.get("gunicorn.socket")

    def hang_up() -> None:
        # Not by the socket itself: one of TLS would forget its state under the waiting send.
        with (
            suppress(OSError, ValueError),
            closing(socket.socket(fileno=os.dup(sock.fileno()))) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)

    return hang_up if sock is not None else lambda: None


def shrink_send_buffer(environ: Mapping[str, Any]) -> None:
    """Bound what the system keeps of a stream for a client that reads slowly."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
