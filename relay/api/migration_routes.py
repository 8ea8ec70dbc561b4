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
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import monotonic
from typing import Final, TypeVar
from urllib.parse import urlencode

from flask import Response, request

from relay.api.answers import CSV, JSON, NDJSON, UNCACHED, json_answer
from relay.api.caller import current_caller
from relay.api.hub_pauses import HubPauses
from relay.api.ledger_context import LedgerContext, visible_migration, with_trouble
from relay.api.migration_queries import (
    NARROWING,
    WAIT_SECONDS,
    accepts_stream,
    filter_in_query,
    prefers,
    read_refresh,
    states_in_query,
    wait_seconds,
)
from relay.api.migration_streams import (
    await_end,
    follow_events,
    follow_lines,
    has_hung_up,
    is_at_rest,
    require_stream_place,
)
from relay.api.object_answer import object_end
from relay.api.object_reports import json_lines, rows_behind, sheet
from relay.api.render import problem_answer
from relay.api.request_bodies import check_empty, parse_change
from relay.api.request_parts import (
    idempotency_key,
    members_of_body,
    optional_members,
    place_in_list,
    rows_of_page,
    wait_in_query,
)
from relay.api.token_limits import (
    change_within_limits,
    locate_within,
    within_limits,
)
from relay.engine.migration_request import MigrationRequest
from relay.engine.refresh import apply_refresh
from relay.engine.transfer_engine import TransferEngine
from relay.errors import LedgerFailed
from relay.ledger.event_values import EventCursor
from relay.ledger.ledger import Ledger
from relay.ledger.migration_lists import MigrationFilter
from relay.ledger.migration_values import Migration
from relay.ledger.pages import TransferRow
from relay.ledger.standing_values import FeedRow
from relay.ledger.states import ENDED, MigrationVerb, PhaseEvent, TransferState
from relay.ledger.viewer import Viewer
from relay.views.migrations import brief, report_line, summary
from relay.views.pass_members import feed_members, pass_members

VERBS = (MigrationVerb.PAUSE, MigrationVerb.RESUME, MigrationVerb.CANCEL, MigrationVerb.RETRY)
EVENTS = (PhaseEvent.ABORT, PhaseEvent.REOPEN, PhaseEvent.FINISH)
MIGRATIONS_READ: Final = 100
"""Number of migrations that are read at a time: PostgreSQL's become objects in one piece."""
View = Callable[..., Response]
T = TypeVar("T")


def wants_ledger(order: MigrationRequest) -> bool:
    """Return whether this migration must outlive the connection of its request."""
    asks_for_it = "Idempotency-Key" in request.headers or prefers("respond-async")
    return order.recursive or order.paused or asks_for_it


def accept(works: LedgerContext, engine: TransferEngine, order: MigrationRequest) -> Response:
    """Write a migration to the ledger and answer 202, or wait for its end if the client prefers
    that."""
    migration = create_migration(works, engine, order, idempotency_key())
    # The ledger moves one object only because its token is counted, and the client waits for its
    # end.
    is_waited_for = not wants_ledger(order)
    if accepts_stream(NDJSON):
        response = follow_lines(works, engine, migration, is_object=is_waited_for)
    elif is_waited_for:
        response = _answer_object(works, await_end(works, engine, migration, WAIT_SECONDS))
    else:
        ended = await_end(works, engine, migration, wait_seconds())
        response = json_answer(summary(ended), 200 if ended.state in ENDED else 202)
    response.headers["Location"] = f"{request.script_root}/migrations/{migration.id}"
    return response


def _answer_object(works: LedgerContext, migration: Migration) -> Response:
    """Return the answer with the end of the one object of a migration, or 202 without one."""
    # The migration is accepted: after an error of the ledger the client would send it again.
    end = None
    if is_at_rest(migration):
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


@dataclass(frozen=True)
class MigrationViews:
    """The views of the operations on migrations in the ledger. `works` returns this process's
    access to the ledger, for the request's caller, and raises LedgerFailed without a ledger."""

    works: Callable[[], LedgerContext]
    engine: TransferEngine

    def list_migrations(self) -> Response:
        """Answer a page of the migrations."""
        viewer, limit, wanted = current_caller().viewer, rows_of_page(), filter_in_query()
        found = _newest(self.works().ledger, limit, wanted, viewer)
        more = None
        if len(found) == limit:  # a full page may be the last one; the next is empty then
            place = {"before": found[-1].cursor_for(viewer), "limit": limit}
            asked = {name: request.args[name] for name in NARROWING if request.args.get(name)}
            more = f"{request.script_root}/migrations?{urlencode({**place, **asked})}"
        return _list_answer("migrations", found, lambda one: json.dumps(brief(one)), more)

    def show(self, id: str) -> Response:
        """Answer one migration."""
        works = self.works()
        return json_answer(with_trouble(works, summary(visible_migration(works, id))))

    def change(self, id: str) -> Response:
        """Change the priority and the limits of a migration."""
        works = self.works()
        # `id` may be the number that people use; the ledger's other methods take only the id.
        migration = visible_migration(works, id)
        asked = parse_change(members_of_body(self.engine))
        change = change_within_limits(current_caller().limits, asked)
        changed = works.ledger.limit(migration.id, change)
        works.worker.wake()
        return json_answer(summary(changed))

    def act(self, id: str, *, verb: MigrationVerb) -> Response:
        """Apply one of VERBS."""
        works = self.works()
        migration = visible_migration(works, id)
        fresh = read_refresh(self.engine, migration, verb)
        acted = apply_refresh(works.ledger, self.engine, migration, verb, fresh)
        works.worker.wake()
        return json_answer(summary(acted))

    def acknowledge(self, id: str) -> Response:
        """Record that a person has seen the failures of a migration."""
        works = self.works()
        migration = visible_migration(works, id)
        check_empty(optional_members(self.engine))
        return json_answer(summary(works.ledger.acknowledge(migration.id)))

    def passes(self, id: str) -> Response:
        """Answer a page of the passes of a standing migration."""
        works, limit, before = self.works(), rows_of_page(), place_in_list("before")
        migration = visible_migration(works, id)
        found = works.ledger.standing.passes(migration.id, limit, before or None)
        more = None
        if len(found) == limit:
            query = urlencode({"before": found[-1].number, "limit": limit})
            more = f"{request.script_root}/migrations/{id}/passes?{query}"
        return _list_answer("passes", found, lambda one: json.dumps(pass_members(one)), more)

    def feed(self, id: str) -> Response:
        """Answer a page of the feed of a standing migration, and wait for its first row."""
        works, limit = self.works(), rows_of_page()
        after, seconds = place_in_list("after"), wait_in_query()
        migration = visible_migration(works, id)
        rows = works.ledger.standing.feed(migration.id, after, limit)
        if not rows and seconds:
            rows = self._await_feed(works, migration.id, after, limit, seconds=seconds)
        lines = [json.dumps(feed_members(row, migration)) for row in HubPauses().between(rows)]
        if accepts_stream(NDJSON):
            text = "".join(f"{line}\n" for line in lines)
            return Response(text, headers=UNCACHED, mimetype=NDJSON)
        query = urlencode({"after": rows[-1].seq if rows else after or 1, "limit": limit})
        query = query if rows or after else urlencode({"limit": limit})
        next_page = json.dumps(f"{request.script_root}/migrations/{id}/feed?{query}")
        text = f'{{"rows": [{", ".join(lines)}], "next": {next_page}}}\n'
        return Response(text, headers=UNCACHED, mimetype=JSON)

    def _await_feed(
        self, works: LedgerContext, id: str, after: int, limit: int, *, seconds: float
    ) -> list[FeedRow]:
        """Return the first rows that come within some seconds; none if too many clients wait, the
        server stops or the client goes."""
        until = monotonic() + seconds
        with works.waiters.place() as has_place:
            while has_place and not self.engine.draining:
                left = until - monotonic()
                if left <= 0 or has_hung_up(request.environ, min(1.0, left)):
                    break
                rows = works.ledger.standing.feed(id, after, limit)
                if rows:
                    return rows
        return []

    def forecast(self, id: str) -> Response:
        """Answer how long a cutover would take."""
        works = self.works()
        found = works.ledger.standing.forecast(visible_migration(works, id).id)
        return json_answer(
            {
                "p50": None if found is None else found.p50,
                "p90": None if found is None else found.p90,
            }
        )

    def change_phase(self, id: str, *, event: PhaseEvent) -> Response:
        """Apply one of EVENTS to a standing migration."""
        works = self.works()
        migration = visible_migration(works, id)
        check_empty(optional_members(self.engine))
        changed = works.ledger.standing.change_phase(migration.id, event)
        works.worker.wake()
        return json_answer(summary(changed))

    def transfers(self, id: str) -> Response:
        """Answer the objects of a migration: a page of them as JSON, all as NDJSON or CSV."""
        works = self.works()
        # An unknown migration raises here: once a stream has begun, its status can't be 404.
        return _transfers(works.ledger, visible_migration(works, id).id)

    def reasons(self, id: str) -> Response:
        """Answer the reasons of the failures of a migration."""
        works = self.works()
        found = works.ledger.reasons(visible_migration(works, id).id)
        return json_answer({"reasons": [asdict(one) for one in found]})

    def events(self, id: str) -> Response:
        """Answer the events of a migration, as server-sent events."""
        works = self.works()
        require_stream_place(works)
        # A browser's EventSource gives up at any status but 200 (WHATWG HTML). So a wrong id is
        # ignored, and all events are sent.
        last = EventCursor.from_text(request.headers.get("Last-Event-ID", ""))
        return follow_events(works, visible_migration(works, id), last or EventCursor())


def ledger_routes(
    works: Callable[[], LedgerContext], engine: TransferEngine
) -> tuple[tuple[str, str, View], ...]:
    """Return the paths, methods and views of the operations on migrations."""
    views = MigrationViews(works, engine)
    return (
        ("/migrations", "GET", views.list_migrations),
        ("/migrations/<id>", "GET", views.show),
        ("/migrations/<id>", "PATCH", views.change),
        *((f"/migrations/<id>/{verb}", "POST", partial(views.act, verb=verb)) for verb in VERBS),
        *(
            (f"/migrations/<id>/{event}", "POST", partial(views.change_phase, event=event))
            for event in EVENTS
        ),
        ("/migrations/<id>/passes", "GET", views.passes),
        ("/migrations/<id>/feed", "GET", views.feed),
        ("/migrations/<id>/forecast", "GET", views.forecast),
        ("/migrations/<id>/acknowledge", "POST", views.acknowledge),
        ("/migrations/<id>/transfers", "GET", views.transfers),
        ("/migrations/<id>/reasons", "GET", views.reasons),
        ("/migrations/<id>/events", "GET", views.events),
    )


def _transfers(ledger: Ledger, id: str) -> Response:
    states, reason = states_in_query(TransferState), request.args.get("reason") or None
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
    return _list_answer("transfers", found, _row_text, more)


def _newest(ledger: Ledger, limit: int, wanted: MigrationFilter, viewer: Viewer) -> list[Migration]:
    """Return up to `limit` migrations, as Ledger.migrations does. Raises LedgerFailed."""
    found: list[Migration] = []
    while len(found) < limit:
        asked = min(MIGRATIONS_READ, limit - len(found))
        more = ledger.migrations(asked, wanted, viewer)
        found += more
        if len(more) < asked:
            break
        wanted = replace(wanted, before=more[-1].cursor_for(viewer))
    return found


def _list_answer(
    name: str, found: Iterable[T], text_of: Callable[[T], str], more: str | None
) -> Response:
    """Return a page of a list as JSON that no cache keeps, and the address of the next page. Other
    greenlets run between its members."""
    texts = ", ".join(map(text_of, HubPauses().between(found)))
    text = f'{{"{name}": [{texts}], "next": {json.dumps(more)}}}\n'
    return Response(text, headers=UNCACHED, mimetype=JSON)


def _row_text(row: TransferRow) -> str:
    members = {"id": row.id, **report_line(row), "reason": row.reason, "receipt": row.receipt}
    return json.dumps(members)
