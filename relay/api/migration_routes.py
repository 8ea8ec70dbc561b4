"""Migrations in the ledger over HTTP: accept, show, control, follow.

Theory of operation. A request for a tree, one with an Idempotency-Key, or one that prefers an
answer at once (`Prefer: respond-async`, RFC 7240) is written to the ledger before it is answered
202. From then on it survives the end of any process, and any worker may run it. A client that wants
to wait for the end sends `Prefer: wait=60`, or reads NDJSON or server-sent events. These only
watch: a disconnect does not stop the migration. All of them are fed by the process's one watcher
(`watcher.py`).

Decided here: the operations and their answers. Never here: what a state means
(`relay/ledger/states.py`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from select import POLLRDHUP
from time import monotonic
from typing import Any
from urllib.parse import urlencode

import gevent
from flask import Response, g, request
from gevent.monkey import get_original
from gevent.socket import wait_read

from relay.api.caller import current_caller
from relay.api.event_stream import (
    COMMENT_SECONDS,
    PastEvents,
    event_pieces,
    hang_up_of,
    note_sending,
    shrink_send_buffer,
)
from relay.api.following import PollAgain, StreamPlaces, Waiters
from relay.api.hub_pauses import HubPauses
from relay.api.object_answer import object_end
from relay.api.object_reports import json_lines, rows_behind, sheet
from relay.api.planner import Planner
from relay.api.render import problem_answer
from relay.api.request_bodies import check_empty, parse_change, parse_fresh, parse_retry
from relay.api.request_parts import (
    idempotency_key,
    members_of_body,
    optional_members,
    place_in_list,
    rows_of_page,
)
from relay.api.token_limits import (
    change_within_limits,
    check_list_place,
    check_list_text,
    locate_within,
    within_limits,
)
from relay.api.watcher import Notice, Subscription, Watcher
from relay.engine.migration_request import MigrationRequest
from relay.engine.refresh import Refresh, apply_refresh
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import InvalidType, LedgerFailed, Overloaded
from relay.ledger.event_values import EventCursor
from relay.ledger.ledger import Ledger
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_values import Migration
from relay.ledger.pages import TransferRow
from relay.ledger.states import ENDED, MigrationState, MigrationVerb, TransferState
from relay.views.migrations import brief, is_over, report_line, summary

JSON, NDJSON, CSV, SSE = "application/json", "application/x-ndjson", "text/csv", "text/event-stream"
LOOK_SECONDS = 0.25
"""How often a request that waits looks whether its client is still there."""
WAIT_SECONDS = 3600.0
"""Maximum time that a request with `Prefer: wait` waits."""
PAST_EVENTS = 500
"""Maximum number of past events that a stream begins with."""
STOPPING = {
    "code": Overloaded.code,
    "detail": "The server is stopping; the migration resumes when it is back",
}
VERBS = (MigrationVerb.PAUSE, MigrationVerb.RESUME, MigrationVerb.CANCEL, MigrationVerb.RETRY)
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6})\"?", re.I)
_UNCACHED = {"Cache-Control": "no-store"}
# gevent's own poll knows only POLLIN and POLLOUT. The original one blocks the hub, but never waits
# here: its timeout is 0.
_poll: Any = get_original("select", "poll")

View = Callable[..., Response]


@dataclass(frozen=True, kw_only=True)
class LedgerContext:
    """One process's access to the ledger; `waiters`, `places` and `watcher` serve its clients that
    follow a migration, `planner` those that plan one."""

    ledger: Ledger
    worker: Worker
    waiters: Waiters
    places: StreamPlaces
    watcher: Watcher
    planner: Planner


def ledger_context(ledger: Ledger, worker: Worker, engine: TransferEngine) -> LedgerContext:
    """Return a process's access to the ledger, with the limits of the engine's settings."""
    settings = engine.settings
    watcher = Watcher(
        ledger.live, trouble=lambda: worker.trouble, is_stopping=lambda: engine.draining
    )
    places = StreamPlaces(settings.streams, settings.token_streams)
    return LedgerContext(
        ledger=ledger,
        worker=worker,
        waiters=Waiters(settings.waiters),
        places=places,
        watcher=watcher,
        planner=Planner(ledger, engine),
    )


def wants_ledger(order: MigrationRequest) -> bool:
    """Return whether this migration must outlive the connection of its request."""
    asks_for_it = "Idempotency-Key" in request.headers or _prefers("respond-async")
    return order.recursive or order.paused or asks_for_it


def accept(works: LedgerContext, engine: TransferEngine, order: MigrationRequest) -> Response:
    """Write a migration to the ledger and answer 202, or wait for its end if the client prefers
    that."""
    migration = create_migration(works, engine, order, idempotency_key())
    # The ledger moves one object only because its token is counted, and the client waits for its
    # end.
    is_waited_for = not wants_ledger(order)
    if _streams(NDJSON):
        response = _follow_lines(works, engine, migration, is_object=is_waited_for)
    elif is_waited_for:
        response = _answer_object(works, _await_end(works, engine, migration, WAIT_SECONDS))
    else:
        ended = _await_end(works, engine, migration, _wait_seconds())
        response = json_answer(summary(ended), 200 if ended.state in ENDED else 202)
    response.headers["Location"] = f"{request.script_root}/migrations/{migration.id}"
    return response


def _answer_object(works: LedgerContext, migration: Migration) -> Response:
    """Return the answer with the end of the one object of a migration, or 202 without one."""
    # The migration is accepted: after an error of the ledger the client would send it again.
    end = None
    if _is_at_rest(migration):
        with suppress(LedgerFailed):
            end = object_end(works.ledger, migration)
    if end is None:
        return json_answer(summary(migration), 202)
    kind, members = end
    return problem_answer(members) if kind == "problem" else json_answer(members)


def create_migration(
    works: LedgerContext, engine: TransferEngine, order: MigrationRequest, key: str | None
) -> Migration:
    """Write a migration of this request's caller to the ledger, and wake the worker.

    Raises as request_within_limits."""
    caller = current_caller()
    order = request_within_limits(engine, order)
    migration, _ = works.ledger.create(
        order.spec(engine.remotes), key, holder=caller.holder, tenant=caller.viewer.tenant
    )
    works.worker.wake()
    return migration


def request_within_limits(engine: TransferEngine, order: MigrationRequest) -> MigrationRequest:
    """Return a request of this request's caller, with bounds within those of its token.

    Raises as locate_within, and EgressDenied: a store that the token may not name, and a denied
    host, are refused here, since a worker could only fail the migration later."""
    limits = current_caller().limits
    for location in locate_within(limits, order, engine.remotes):
        if location.host:
            engine.policy.check_name(location.host, location.port)
    return replace(order, bounds=within_limits(limits, order.bounds))


def ledger_routes(
    works: Callable[[], LedgerContext], engine: TransferEngine
) -> tuple[tuple[str, str, View], ...]:
    """Return the paths, methods and views of the operations on migrations."""

    def list_migrations() -> Response:
        viewer, limit, wanted = current_caller().viewer, rows_of_page(), _filter()
        found = works().ledger.migrations(limit, wanted, viewer)
        more = None
        if len(found) == limit:  # a full page may be the last one; the next is empty then
            place = {"before": found[-1].cursor_for(viewer), "limit": limit}
            asked = {name: request.args[name] for name in _NARROWING if request.args.get(name)}
            more = f"{request.script_root}/migrations?{urlencode({**place, **asked})}"
        return json_answer({"migrations": [brief(migration) for migration in found], "next": more})

    def one(id: str) -> Response:
        work = works()
        return json_answer(_with_trouble(work, summary(visible_migration(work, id))))

    def transfers(id: str) -> Response:
        work = works()
        # An unknown migration raises here: once a stream has begun, its status can't be 404.
        return _transfers(work.ledger, visible_migration(work, id).id)

    def events(id: str) -> Response:
        work = works()
        require_stream_place(work)
        # A browser's EventSource gives up at any status but 200 (WHATWG HTML). So a wrong id is
        # ignored, and all events are sent.
        last = EventCursor.from_text(request.headers.get("Last-Event-ID", ""))
        return _follow_events(work, visible_migration(work, id), last or EventCursor())

    def change(id: str) -> Response:
        work = works()
        # `id` may be the number that people use; the ledger's other methods take only the id.
        migration = visible_migration(work, id)
        asked = parse_change(members_of_body(engine))
        change = change_within_limits(current_caller().limits, asked)
        changed = work.ledger.limit(migration.id, change)
        work.worker.wake()
        return json_answer(summary(changed))

    def act(verb: str) -> View:
        def view(id: str) -> Response:
            work = works()
            migration = visible_migration(work, id)
            fresh = _fresh(engine, migration, verb)
            acted = apply_refresh(work.ledger, engine, migration, verb, fresh)
            work.worker.wake()
            return json_answer(summary(acted))

        return view

    return (
        ("/migrations", "GET", list_migrations),
        ("/migrations/<id>", "GET", one),
        ("/migrations/<id>", "PATCH", change),
        ("/migrations/<id>/transfers", "GET", transfers),
        ("/migrations/<id>/events", "GET", events),
        *((f"/migrations/<id>/{verb}", "POST", act(verb)) for verb in VERBS),
        *_failure_routes(works, engine),
    )


def _failure_routes(
    works: Callable[[], LedgerContext], engine: TransferEngine
) -> tuple[tuple[str, str, View], ...]:
    def reasons(id: str) -> Response:
        work = works()
        found = work.ledger.reasons(visible_migration(work, id).id)
        return json_answer({"reasons": [asdict(one) for one in found]})

    def acknowledge(id: str) -> Response:
        work = works()
        migration = visible_migration(work, id)
        check_empty(optional_members(engine))
        return json_answer(summary(work.ledger.acknowledge(migration.id)))

    return (
        ("/migrations/<id>/reasons", "GET", reasons),
        ("/migrations/<id>/acknowledge", "POST", acknowledge),
    )


# -- reading requests


def visible_migration(works: LedgerContext, id: str) -> Migration:
    """Return a migration that the caller of this request sees. Raises MigrationUnknown for any
    other: a foreign migration is answered as one that does not exist."""
    return works.ledger.migration(id, current_caller().viewer)


_NARROWING = ("state", "needs_attention", "search")
"""The query parameters that narrow a list of migrations."""
SEARCH_LETTERS = 200
"""Maximum length of the text of a search."""


def _filter() -> MigrationFilter:
    """Return the filter in a request's query. Raises InvalidType."""
    needy, search = request.args.get("needs_attention"), request.args.get("search", "")
    if needy not in (None, "true", "false"):
        raise InvalidType("needs_attention is neither true nor false", hint="Correct the query.")
    if len(search) > SEARCH_LETTERS:
        raise InvalidType(
            f"search is longer than {SEARCH_LETTERS} characters", hint="Correct the query."
        )
    return MigrationFilter(
        states=frozenset(_states(MigrationState)),
        needs_attention=None if needy is None else needy == "true",
        search=search,
        before=place_in_list("before") or None,
    )


def _states(known: type[MigrationState] | type[TransferState]) -> tuple[str, ...]:
    """Return the states in a request's query. Raises InvalidType for one that is not `known`."""
    states = tuple(filter(None, request.args.get("state", "").split(",")))
    wrong = [state for state in states if state not in list(known)]
    if wrong:
        raise InvalidType(
            f"{wrong[0][:40]!a} is not a state", hint=f"Use one of {', '.join(sorted(known))}."
        )
    return states


def _prefers(word: str) -> bool:
    found = ",".join(request.headers.getlist("Prefer")).lower()
    # A preference may have parameters after a ';' (RFC 7240 section 2).
    return any(part.strip() == word for part in re.split("[,;]", found))


def _wait_seconds() -> float:
    found = _WAIT.search(",".join(request.headers.getlist("Prefer")))
    return 0.0 if found is None or _prefers("respond-async") else min(float(found[1]), WAIT_SECONDS)


def _streams(media: str) -> bool:
    return request.accept_mimetypes.best_match((JSON, media), default=JSON) == media


def _fresh(engine: TransferEngine, migration: Migration, verb: str) -> Refresh:
    """Return the fresh credentials and URLs in a request, and what it retries; an empty Refresh
    without a body."""
    members = optional_members(engine)
    if not members:
        return Refresh()
    parse = parse_retry if verb == MigrationVerb.RETRY else parse_fresh
    limits = current_caller().limits
    fresh = parse(members, migration, engine.remotes, partial(check_list_text, limits))
    if fresh.urls is not None:
        check_list_place(limits, fresh.urls)
    if fresh.urls is not None and fresh.urls.host:
        engine.policy.check_name(fresh.urls.host, fresh.urls.port)
    return fresh


# -- writing answers


def json_answer(members: Mapping[str, Any], status: int = 200) -> Response:
    """Return members as JSON that no cache keeps."""
    return Response(json.dumps(members) + "\n", status=status, headers=_UNCACHED, mimetype=JSON)


def stream_answer(lines: Iterator[str], kind: str) -> Response:
    """Return lines of a media type, each of which reaches the client at once: proxies pass them on
    without buffering or compressing them, and no cache keeps them."""
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    return Response(lines, headers=headers, mimetype=kind)


def while_admitted(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines until the token or the session of this request ends. Call it in the request."""
    still_admitted: Callable[[], bool] = g.still_admitted

    def yield_lines() -> Iterator[str]:
        for line in lines:
            if not still_admitted():
                return
            yield line

    return yield_lines()


def _await_end(
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


def _follow_lines(
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
        if _is_at_rest(migration):
            with suppress(LedgerFailed):  # the next line reports it as `trouble`
                migration = works.ledger.migration(migration.id)
                if _is_at_rest(migration):
                    end = object_end(works.ledger, migration) if is_object else None
                    event, members = end or ("result", summary(migration))
                    yield json.dumps({"event": event, **members}) + "\n"
                    return
        yield _progress_line({**brief(migration), **_trouble(works)})
        following.wait(COMMENT_SECONDS)
        migration = following.take().migrations.get(id, migration)
    yield _progress_line({**brief(migration), "trouble": STOPPING})


def _progress_line(members: Mapping[str, Any]) -> str:
    return json.dumps({"event": "progress", **members}) + "\n"


def _is_at_rest(migration: Migration) -> bool:
    """Return whether a migration has ended or is paused, and none of its transfers runs."""
    return migration.state != MigrationState.RUNNING and not migration.under_way


def _with_trouble(works: LedgerContext, members: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a migration with the `trouble` of this process's ledger, if any."""
    return {**members, **_trouble(works)}


def _trouble(works: LedgerContext) -> dict[str, Any]:
    """Return the `trouble` of this process while its ledger is unavailable, else {}."""
    error = works.worker.trouble
    return {} if error is None else {"trouble": {"code": error.code, "detail": error.title}}


def _follow_events(works: LedgerContext, migration: Migration, last: EventCursor) -> Response:
    """Return the answer with the events of a migration behind the `last` one that the client has
    seen, as server-sent events. Raises TooManyStreams, LedgerFailed."""

    def pieces(following: Subscription) -> Iterator[str]:
        until, found, has_gap = works.ledger.past_events(
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


def _transfers(ledger: Ledger, id: str) -> Response:
    states, reason = _states(TransferState), request.args.get("reason") or None
    limit, after = rows_of_page(), place_in_list("after")
    kind = request.accept_mimetypes.best_match((JSON, NDJSON, CSV), default=JSON)
    if kind == NDJSON:
        return Response(json_lines(ledger, id, states, reason), mimetype=NDJSON)
    if kind == CSV:
        return Response(sheet(ledger, id, states, reason), mimetype=CSV)
    found = rows_behind(ledger, id, states, after=after, limit=limit, reason=reason)
    more = None
    if len(found) == limit:
        query: dict[str, str | int] = {"after": found[-1].id, "limit": limit}
        if states:
            query["state"] = ",".join(states)
        if reason:
            query["reason"] = reason
        more = f"{request.script_root}/migrations/{id}/transfers?{urlencode(query)}"
    rows = ", ".join(map(_row_text, HubPauses().between(found)))
    text = f'{{"transfers": [{rows}], "next": {json.dumps(more)}}}\n'
    return Response(text, headers=_UNCACHED, mimetype=JSON)


def _row_text(row: TransferRow) -> str:
    members = {"id": row.id, **report_line(row), "reason": row.reason, "receipt": row.receipt}
    return json.dumps(members)
