"""Answers that follow a migration: a wait for its end, lines of progress, server-sent events.

Decided here: when such an answer ends. Never here: when the ledger is read for it
(`watcher.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from select import POLLRDHUP
from time import monotonic
from typing import Any

import gevent
from flask import Response, request
from gevent.monkey import get_original
from gevent.socket import wait_read

from relay.api.answers import NDJSON, SSE, stream_answer, while_admitted
from relay.api.caller import current_caller
from relay.api.event_stream import (
    COMMENT_SECONDS,
    PastEvents,
    event_pieces,
    hang_up_of,
    note_sending,
    shrink_send_buffer,
)
from relay.api.following import PollAgain
from relay.api.ledger_context import LedgerContext, trouble_of
from relay.api.object_answer import object_end
from relay.api.watcher import Notice, Subscription
from relay.engine.transfer_engine import TransferEngine
from relay.errors import LedgerFailed, Overloaded
from relay.ledger.event_values import EventCursor
from relay.ledger.migration_values import Migration
from relay.ledger.states import ENDED, MigrationState
from relay.views.migrations import brief, is_over, summary

LOOK_SECONDS = 0.25
"""How often a request that waits looks whether its client is still there."""
PAST_EVENTS = 500
"""Maximum number of past events that a stream begins with."""
STOPPING = {
    "code": Overloaded.code,
    "detail": "The server is stopping; the migration resumes when it is back",
}
# gevent's own poll knows only POLLIN and POLLOUT. The original one blocks the hub, but never waits
# here: its timeout is 0.
_poll: Any = get_original("select", "poll")


def await_end(
    works: LedgerContext, engine: TransferEngine, migration: Migration, seconds: float
) -> Migration:
    """Wait until a migration has ended or is paused, `seconds` are over, the server stops or the
    client disconnects; return the migration as it is then.

    If too many clients wait already, return it at once: RFC 7240 section 2 lets a server ignore a
    preference."""
    until = monotonic() + seconds
    with works.waiters.place() as has_place:
        if not has_place or not _is_active(migration):
            return migration
        with works.watcher.follow([migration]) as following:
            latest = migration
            while not engine.draining and _is_active(latest):
                left = until - monotonic()
                if left <= 0 or has_hung_up(request.environ, min(LOOK_SECONDS, left)):
                    break
                latest = following.migrations.get(migration.id, latest)
    # The migration is accepted: after an error the client would send it again.
    with suppress(LedgerFailed):
        return works.ledger.migration(migration.id)
    return migration


def _is_active(migration: Migration) -> bool:
    """Return whether a migration still runs: it is running, or some of its transfers are still
    stopping."""
    if migration.state == MigrationState.RUNNING:
        return True
    return migration.state not in ENDED and migration.under_way > 0


def has_hung_up(environ: Mapping[str, Any], seconds: float) -> bool:
    """Wait up to `seconds`, and return whether the client of a request closed its connection;
    returns at once then."""
    sock = environ.get("gunicorn.socket")
    until = monotonic() + seconds
    if sock is not None:
        try:
            wait_read(sock.fileno(), seconds, PollAgain())
            if _is_closed(sock.fileno()):
                return True
        except PollAgain:
            return False
        except (OSError, ValueError):
            return True
    gevent.sleep(max(until - monotonic(), 0.0))  # bytes that arrived are the client's next request
    return False


def _is_closed(descriptor: int) -> bool:
    """Return whether the peer has closed a connection, or its writing side (poll(2), POLLRDHUP).
    Reads nothing, because bytes of TLS can't be peeked at."""
    looking = _poll()
    looking.register(descriptor, POLLRDHUP)
    return bool(looking.poll(0))


def follow_lines(
    works: LedgerContext, engine: TransferEngine, migration: Migration, *, is_object: bool
) -> Response:
    """Return the answer with a line of progress after each look at the ledger, until the migration
    has ended or is paused and its transfers have stopped; then the result, which is that of its
    object with `is_object`. If the server stops before that, the last line is one of progress whose
    `trouble` says so."""
    following = works.watcher.subscribe([migration], hang_up=hang_up_of(request.environ))
    lines = while_admitted(_lines(works, engine, following, migration.id, is_object=is_object))
    response = stream_answer(note_sending(following, lines), NDJSON)
    response.call_on_close(lambda: works.watcher.unsubscribe(following))
    return response


def _lines(
    works: LedgerContext,
    engine: TransferEngine,
    following: Subscription,
    id: str,
    *,
    is_object: bool,
) -> Iterator[str]:
    migration = following.migrations[id]
    while not engine.draining:
        if is_at_rest(migration):
            with suppress(LedgerFailed):  # the next line reports it as `trouble`
                migration = works.ledger.migration(migration.id)
                if is_at_rest(migration):
                    end = object_end(works.ledger, migration) if is_object else None
                    event, members = end or ("result", summary(migration))
                    yield json.dumps({"event": event, **members}) + "\n"
                    return
        yield _progress_line({**brief(migration), **trouble_of(works)})
        following.wait(COMMENT_SECONDS)
        migration = following.take().migrations.get(id, migration)
    yield _progress_line({**brief(migration), "trouble": STOPPING})


def _progress_line(members: Mapping[str, Any]) -> str:
    return json.dumps({"event": "progress", **members}) + "\n"


def is_at_rest(migration: Migration) -> bool:
    """Return whether a migration has ended or is paused, and none of its transfers runs."""
    return migration.state != MigrationState.RUNNING and not migration.under_way


def follow_events(works: LedgerContext, migration: Migration, last: EventCursor) -> Response:
    """Return the answer with the events of a migration behind the `last` one that the client has
    seen, as server-sent events. Raises TooManyStreams, LedgerFailed."""

    def pieces(following: Subscription) -> Iterator[str]:
        until, found, has_gap = works.ledger.events.past(
            migration.id, last, PAST_EVENTS, ended=is_over(migration)
        )
        past = PastEvents(
            notices=[Notice.of(event) for event in found], until=until, has_gap=has_gap
        )
        return while_admitted(event_pieces(following, migration.id, past))

    return follow(works, [migration], pieces, events=True)


def require_stream_place(works: LedgerContext) -> None:
    """Raise TooManyStreams if this request can't get a stream."""
    works.places.require(current_caller().token_id)


def follow(
    works: LedgerContext,
    migrations: Sequence[Migration],
    pieces: Callable[[Subscription], Iterator[str]],
    *,
    events: bool = False,
    moving: bool = False,
) -> Response:
    """Return an answer of server-sent events about some migrations. `pieces` returns them for the
    subscription, which has a place among the streams of this process and of the caller's token
    until the answer ends. Raises TooManyStreams, LedgerFailed, and as `pieces`."""
    release = works.places.take(current_caller().token_id)
    try:
        following = works.watcher.subscribe(
            migrations, events=events, moving=moving, hang_up=hang_up_of(request.environ)
        )
    except BaseException:
        release()
        raise

    def end() -> None:
        works.watcher.unsubscribe(following)
        release()

    try:
        response = stream_answer(note_sending(following, pieces(following)), SSE)
    except BaseException:
        end()
        raise
    response.call_on_close(end)
    # Its buffer stays small: no other answer should go over this connection.
    shrink_send_buffer(request.environ)
    response.headers["Connection"] = "close"
    return response
