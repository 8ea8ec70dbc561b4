"""The operations of the API: one table, from which the OpenAPI document is built.

Decided here: what each operation takes and answers. Never here: the members of the models
(`request_bodies.py`, `schemas.py`), and which code answers (`app.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel

from relay.api.request_bodies import (
    TEXT,
    Change,
    Credentials,
    MigrateRequest,
    PlanRequest,
    PlanStart,
    Retry,
)
from relay.api.request_parts import MOST_PLACE, MOST_ROWS, ROWS
from relay.api.schemas import (
    LINES,
    FeedRowSchema,
    FeedSchema,
    ForecastSchema,
    HealthSchema,
    MigrationSchema,
    MigrationsSchema,
    PassesSchema,
    PlanSchema,
    PlansSchema,
    ReadySchema,
    ReasonsSchema,
    RecordedSchema,
    ReportLineSchema,
    RootSchema,
    ServerEventSchema,
    TransfersSchema,
)
from relay.ledger.states import MigrationState, TransferState


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation: the schema of its text, and its description."""

    name: str
    schema: Mapping[str, Any]
    description: str
    _: KW_ONLY
    is_header: bool = False
    """Whether it is a field of the head; else it is in the query."""


def _states(states: type[StrEnum]) -> Mapping[str, Any]:
    """Return the schema of states that are separated by commas."""
    names = "|".join(states)
    return {"type": "string", "pattern": f"^(({names})?,)*({names})?$"}


_ANY: Final = {"type": "string"}
_TEXT: Final = {"type": "string", "pattern": TEXT}
_BOOLEAN: Final = {"type": "string", "enum": ["true", "false"]}
_PLACE: Final = {"type": "integer", "minimum": 1, "maximum": MOST_PLACE}
_KEY: Final = {"type": "string", "maxLength": 255, "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"}
"""The Idempotency-Key, as `relay.headers.is_idempotency_key`."""
_LIMIT: Final = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
    f"Maximum number of rows on a page; default {ROWS}.",
)

NDJSON, SSE, _CSV = "application/x-ndjson", "text/event-stream", "text/csv"


@dataclass(frozen=True)
class Route:
    """One operation: its path, its answers, and the statuses of its problems (those of `GUARDED`
    are added where the operation needs a token)."""

    path: str
    method: str
    _: KW_ONLY
    name: str
    summary: str
    answers: tuple[type[BaseModel], ...] | None
    """Models of the JSON answer. None means any JSON object; an empty tuple means no JSON."""
    takes: type[BaseModel] | None = None
    """Model of the request body."""
    problems: tuple[int, ...] = ()
    open: bool = False
    """Whether it needs no token."""
    optional: bool = False
    """Whether the request body may be left out."""
    done: str = "Done"
    """Description of its 200."""
    later: tuple[type[BaseModel], str] | None = None
    """Model and description of its 202, if it may answer so."""
    details: str | None = None
    """Description of the operation, beyond its summary."""
    leads: bool = False
    """Whether it leads a browser to the page."""
    lines: tuple[type[BaseModel], ...] = ()
    """Models of a line, if it can also answer with NDJSON."""
    texts: tuple[str, ...] = ()
    """Other media types that it can answer with."""
    streams: type[BaseModel] | None = None
    """Model of an event, if it answers with server-sent events."""
    parameters: tuple[Parameter, ...] = ()
    """Its parameters, except those in the path."""

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        """The models of its answers, lines and events."""
        events = () if self.streams is None else (self.streams,)
        return (*(self.answers or ()), *self.lines, *events)

    @property
    def is_empty(self) -> bool:
        """Whether its answer has no content."""
        return self.answers == () and not self.texts and self.streams is None


GUARDED = (400, 401, 403, 414, 429, 503)
"""Statuses of every operation that needs a token: its request may be no valid HTTP or have too long
a query, and the ledger, which has the tokens, may fail."""
_MIGRATE_PROBLEMS = (400, 404, 408, 409, 412, 413, 415, 422, 500, 501, 502, 503, 504)
_ACCEPT_PROBLEMS = (400, 408, 413, 415, 422, 500, 501, 502, 504)
"""Statuses of a request that is only recorded: both places are located before, with the
credentials of their remotes."""
_CONTROL_PROBLEMS = (400, 404, 408, 409, 413, 415, 422, 503)
_REFRESH_PROBLEMS = (412, 500, 501, 502, 504)
"""Statuses that reading a list of fresh URLs adds: it is read before the answer."""

_ACCEPTED = """The migration is recorded in the ledger, and runs even if this connection closes;
`Location` is its URL. Trees are always answered this way, and so are requests with an
`Idempotency-Key` or `Prefer: respond-async`. With `Prefer: wait=60` the server waits up to 60
seconds for the end before it answers."""

_MOVED = """The object was transferred, or was skipped. If the answer is a migration in the ledger
(`Prefer: wait=60`), that has ended; its `state` may be `failed`."""

_STREAMED = """With `Accept: application/x-ndjson` the answer has a line of JSON at least once a
second while the transfer runs; the last line is the result or the problem. A client that closes
such a stream cancels the transfer, but not a migration in the ledger: that continues. If the server
stops while a client follows a migration in the ledger, the last line is a line of progress whose
`trouble` says so. Without that media type the answer comes at the end, and the transfer continues
if the client disconnects."""

_PLANNED = """The plan is recorded in the ledger, and a worker of the server makes it; `Location` is
its URL. Ask for it until its `state` is no longer `planning`."""

_FED = """Keep the `seq` of the last row, and ask for the rows behind it: none is left out. 410 says
that rows behind it were deleted, 30 days after the migration has ended, or that the ledger is
another one: compare all objects then."""

_STARTED = """The migration is recorded in the ledger; `Location` is its URL. A repeated start
answers with the same migration."""

ROUTES = (
    Route(
        "/",
        "get",
        name="root",
        summary="Name and version of the server",
        answers=(RootSchema,),
        leads=True,
    ),
    Route(
        "/migrate",
        "post",
        name="migrate",
        summary="Migrate an object or a tree",
        answers=(MigrationSchema, RecordedSchema),
        takes=MigrateRequest,
        problems=_MIGRATE_PROBLEMS,
        done=_MOVED,
        later=(RecordedSchema, _ACCEPTED),
        details=_STREAMED,
        lines=LINES,
        parameters=(
            Parameter(
                "Idempotency-Key",
                _KEY,
                "A second request with the same key returns the first one's migration.",
                is_header=True,
            ),
            Parameter(
                "Prefer",
                _ANY,
                "`respond-async` answers 202 at once; `wait=60` waits up to 60 seconds for the end"
                " (RFC 7240).",
                is_header=True,
            ),
        ),
    ),
    Route(
        "/migrations",
        "get",
        name="migrations",
        summary="List migrations, the newest first",
        answers=(MigrationsSchema,),
        problems=(422, 503),
        parameters=(
            _LIMIT,
            Parameter("before", _PLACE, "Only migrations behind this place; see `next`."),
            Parameter(
                "state",
                _states(MigrationState),
                "Only migrations in this state, or in these states, separated by commas.",
            ),
            Parameter(
                "needs_attention", _BOOLEAN, "Only migrations that need a person, or only others."
            ),
            Parameter(
                "search",
                {"type": "string", "maxLength": 200, "pattern": TEXT},
                "Only migrations with this text in their source or destination, or this number.",
            ),
        ),
    ),
    Route(
        "/migrations/{id}",
        "get",
        name="migration",
        summary="Show a migration",
        answers=(RecordedSchema,),
        problems=(404, 422, 503),
    ),
    Route(
        "/migrations/{id}",
        "patch",
        name="change",
        summary="Change a migration's priority and limits",
        answers=(RecordedSchema,),
        takes=Change,
        problems=_CONTROL_PROBLEMS,
    ),
    Route(
        "/migrations/{id}/transfers",
        "get",
        name="transfers",
        summary="List the objects of a migration",
        answers=(TransfersSchema,),
        problems=(404, 422, 503),
        lines=(ReportLineSchema,),
        texts=(_CSV,),
        parameters=(
            Parameter(
                "state",
                _states(TransferState),
                "Only objects in this state, or in these states, separated by commas.",
            ),
            Parameter(
                "reason",
                _TEXT,
                "Only objects that failed for this reason, as in the migration's reasons.",
            ),
            _LIMIT,
            Parameter(
                "after",
                _PLACE,
                "Only objects with a greater id. NDJSON and CSV have all objects, without pages.",
            ),
        ),
    ),
    Route(
        "/migrations/{id}/reasons",
        "get",
        name="reasons",
        summary="Count the failed objects of a migration by their reasons",
        answers=(ReasonsSchema,),
        problems=(404, 422, 503),
    ),
    Route(
        "/migrations/{id}/passes",
        "get",
        name="passes",
        summary="List the passes of a standing migration, the newest first",
        answers=(PassesSchema,),
        problems=(404, 422, 503),
        parameters=(
            _LIMIT,
            Parameter("before", _PLACE, "Only passes with a smaller number; see `next`."),
        ),
    ),
    Route(
        "/migrations/{id}/feed",
        "get",
        name="feed",
        summary="List what has arrived in a standing migration, in its order",
        answers=(FeedSchema,),
        problems=(404, 410, 422, 503),
        details=_FED,
        lines=(FeedRowSchema,),
        parameters=(
            _LIMIT,
            Parameter("after", _PLACE, "Only rows behind this `seq`."),
            Parameter(
                "wait",
                {"type": "integer", "minimum": 1, "maximum": 30},
                "Seconds to wait for a row, if there is none yet.",
            ),
        ),
    ),
    Route(
        "/migrations/{id}/forecast",
        "get",
        name="forecast",
        summary="Say how long a cutover would take",
        answers=(ForecastSchema,),
        problems=(404, 422, 503),
    ),
    Route(
        "/migrations/{id}/events",
        "get",
        name="events",
        summary="Follow a migration as server-sent events",
        answers=(),
        problems=(404, 422, 503),
        streams=ServerEventSchema,
        parameters=(
            Parameter(
                "Last-Event-ID",
                _ANY,
                "Id of the last event that the client received; the answer begins after it.",
                is_header=True,
            ),
        ),
    ),
    *(
        Route(
            f"/migrations/{{id}}/{verb}",
            "post",
            name=verb,
            summary=text,
            answers=(RecordedSchema,),
            takes=takes,
            problems=(*_CONTROL_PROBLEMS, *(_REFRESH_PROBLEMS if takes else ())),
            optional=True,
        )
        for verb, text, takes in (
            ("pause", "Pause a migration; running transfers stop within about a second", None),
            ("resume", "Resume a migration, optionally with fresh credentials", Credentials),
            ("cancel", "Cancel a migration; objects that have arrived stay", None),
            ("abort", "Give up the cutover of a standing migration: its passes continue", None),
            ("reopen", "Continue a standing migration after its cutover", None),
            ("finish", "End a standing migration after its cutover", None),
            ("acknowledge", "Record that a person has seen the failures of a migration", None),
            (
                "retry",
                (
                    "Queue the failed objects again, or those of one reason, optionally with fresh"
                    " credentials"
                ),
                Retry,
            ),
        )
    ),
    Route(
        "/plans",
        "post",
        name="make_plan",
        summary="Find out what a migration would do, before anything moves",
        answers=(PlanSchema,),
        takes=PlanRequest,
        problems=_ACCEPT_PROBLEMS,
        done="The plan of an earlier request with the same key, which was made since",
        later=(PlanSchema, _PLANNED),
        parameters=(
            Parameter(
                "Idempotency-Key",
                _KEY,
                "A second, equal request with the same key returns the first one's plan.",
                is_header=True,
            ),
        ),
    ),
    Route(
        "/plans",
        "get",
        name="plans",
        summary="List plans, the newest first",
        answers=(PlansSchema,),
        problems=(404, 422),
        parameters=(
            _LIMIT,
            Parameter("before", _TEXT, "Only plans behind the one with this id; see `next`."),
        ),
    ),
    Route(
        "/plans/{plan}",
        "get",
        name="plan",
        summary="Show a plan",
        answers=(PlanSchema,),
        problems=(404, 422),
    ),
    Route(
        "/plans/{plan}",
        "delete",
        name="delete_plan",
        summary="Delete a plan; a migration that it has started stays",
        answers=(),
        problems=_CONTROL_PROBLEMS,
    ),
    *(
        Route(
            f"/plans/{{plan}}/{verb}",
            "post",
            name=f"{verb}_plan",
            summary=text,
            answers=(PlanSchema,),
            problems=_CONTROL_PROBLEMS,
        )
        for verb, text in (
            ("cancel", "Stop making a plan"),
            ("again", "Make a plan again, from the beginning"),
        )
    ),
    Route(
        "/plans/{plan}/start",
        "post",
        name="start_plan",
        summary="Start the migration of a plan, once",
        answers=(RecordedSchema,),
        takes=PlanStart,
        optional=True,
        problems=tuple(sorted({*_ACCEPT_PROBLEMS, *_CONTROL_PROBLEMS})),
        done="The migration, which was started before and has ended",
        later=(RecordedSchema, _STARTED),
    ),
    Route(
        "/healthz",
        "get",
        name="healthz",
        summary="Liveness probe",
        answers=(HealthSchema,),
        open=True,
    ),
    Route(
        "/readyz",
        "get",
        name="readyz",
        summary="Readiness probe; 503 while the server stops or its ledger is unavailable",
        answers=(ReadySchema,),
        open=True,
    ),
    Route(
        "/metrics",
        "get",
        name="metrics",
        summary="The metrics of all workers, for Prometheus; needs the scope admin",
        answers=(),
        problems=(503,),
        texts=("text/plain",),
    ),
    Route("/openapi.json", "get", name="openapi", summary="The OpenAPI document", answers=None),
)
