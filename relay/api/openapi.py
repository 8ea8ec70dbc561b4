"""The OpenAPI 3.1 document, built from the pydantic models and from one table of routes.

Decided here: the table. Never here: the members of the models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from relay import __version__
from relay.api.request_bodies import Change, Credentials, MigrateRequest, Retry
from relay.api.schemas import (
    LINES,
    HealthSchema,
    MigrationSchema,
    MigrationsSchema,
    ProblemSchema,
    ReadySchema,
    ReasonsSchema,
    RecordedSchema,
    ReportLineSchema,
    RootSchema,
    TransfersSchema,
)

_REF = "#/components/schemas/{model}"
_PROBLEM_TYPE = "application/problem+json"


Asked = tuple[str, str, dict[str, Any], str]
"""A parameter: its place (`query` or `header`), its name, its schema, its description."""

_PAGE: Asked = (
    "query",
    "limit",
    {"type": "integer", "minimum": 1, "maximum": 1000},
    "Maximum number of rows on a page; default 100.",
)
_PLACE = {"type": "integer", "minimum": 1}
_NDJSON, _CSV, _SSE = "application/x-ndjson", "text/csv", "text/event-stream"


@dataclass(frozen=True)
class Route:
    """One operation: its path, its answers, and the statuses of its problems (those of `_GUARDED`
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
    moves: bool = False
    """Whether it may also answer 202."""
    leads: bool = False
    """Whether it leads a browser to the page."""
    lines: tuple[type[BaseModel], ...] = ()
    """Models of a line, if it can also answer with NDJSON."""
    texts: tuple[str, ...] = ()
    """Other media types that it can answer with."""
    asked: tuple[Asked, ...] = ()
    """Its parameters, except those in the path."""


_GUARDED = (401, 403, 429, 503)
"""Statuses of every operation that needs a token: the ledger, which has the tokens, may fail."""
_MIGRATE_PROBLEMS = (400, 404, 408, 409, 412, 413, 415, 422, 500, 501, 502, 503, 504)
_CONTROL_PROBLEMS = (400, 404, 408, 409, 413, 415, 422, 503)
_REFRESH_PROBLEMS = (412, 500, 501, 502, 504)
"""Statuses that reading a list of fresh URLs adds: it is read before the answer."""

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
        moves=True,
        lines=LINES,
        asked=(
            (
                "header",
                "Idempotency-Key",
                {"type": "string", "maxLength": 255},
                "A second request with the same key returns the first one's migration.",
            ),
            (
                "header",
                "Prefer",
                {"type": "string"},
                "`respond-async` answers 202 at once; `wait=60` waits up to 60 seconds for the end"
                " (RFC 7240).",
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
        asked=(
            _PAGE,
            ("query", "before", _PLACE, "Only migrations behind this place; see `next`."),
            (
                "query",
                "state",
                {"type": "string"},
                "Only migrations in this state, or in these states, separated by commas.",
            ),
            (
                "query",
                "needs_attention",
                {"type": "string", "enum": ["true", "false"]},
                "Only migrations that need a person, or only others.",
            ),
            (
                "query",
                "search",
                {"type": "string", "maxLength": 200},
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
        asked=(
            (
                "query",
                "state",
                {"type": "string"},
                "Only objects in this state, or in these states, separated by commas.",
            ),
            (
                "query",
                "reason",
                {"type": "string"},
                "Only objects that failed for this reason, as in the migration's reasons.",
            ),
            _PAGE,
            (
                "query",
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
        "/migrations/{id}/events",
        "get",
        name="events",
        summary="Follow a migration as server-sent events",
        answers=(),
        problems=(404, 422, 503),
        texts=(_SSE,),
        asked=(
            (
                "header",
                "Last-Event-ID",
                {"type": "string"},
                "Id of the last event that the client received; the answer begins after it.",
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

PHRASES: Mapping[int, str] = {
    400: "The body is not JSON, or is ambiguous",
    401: "A token is required",
    403: "The client is not allowed, or the address policy denied a location",
    404: "The source or the migration does not exist",
    408: "The body did not arrive in time",
    409: (
        "The destination exists and `if_exists` is `fail`, or the migration's state does not allow"
        " this"
    ),
    412: "The destination was changed during the transfer",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A member or a parameter is invalid; `errors` points at the member",
    429: "A limit of the token is reached; Retry-After says when to retry",
    500: "A bug in relay",
    501: "The stores do not support this",
    502: "A store failed, refused the request, or sent unexpected bytes; `side` names the store",
    503: (
        "No slot is free, a store asks to slow down, the ledger is unavailable, or the server is"
        " stopping; a Retry-After, if it is known, says when to retry"
    ),
    504: "A store did not answer in time, or the transfer stalled",
}

_ACCEPTED = """The migration is recorded in the ledger, and runs even if this connection closes;
`Location` is its URL. Trees are always answered this way, and so are requests with an
`Idempotency-Key` or `Prefer: respond-async`. With `Prefer: wait=60` the server waits up to 60
seconds for the end before it answers."""

_LED = "A browser, whose request prefers `text/html`, is led to the page at `ui/`"

_MOVED = """The object was transferred, or was skipped. If the answer is a migration in the ledger
(`Prefer: wait=60`), that has ended; its `state` may be `failed`."""

_STREAMED = """With `Accept: application/x-ndjson` the answer has a line of JSON at least once a
second while the transfer runs; the last line is the result or the problem. A client that closes
such a stream cancels the transfer, but not a migration in the ledger: that continues. If the server
stops while a client follows a migration in the ledger, the last line is a line of progress whose
`trouble` says so. Without that media type the answer comes at the end, and the transfer continues
if the client disconnects."""


def parameters() -> dict[tuple[str, str], frozenset[str]]:
    """Return the query parameters of each operation that can answer 422, by path and method."""
    return {
        (route.path, route.method.upper()): frozenset(
            name for place, name, *_ in route.asked if place == "query"
        )
        for route in ROUTES
        if 422 in route.problems
    }


def document() -> dict[str, Any]:
    """Return the OpenAPI document as plain values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "relay",
            "version": __version__,
            "summary": (
                "Moves objects from one cloud to another through memory, and verifies each copy."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": {
            path: {route.method: _operation(route) for route in ROUTES if route.path == path}
            for path in dict.fromkeys(route.path for route in ROUTES)
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # A server without tokens answers requests from its own machine without one.
        "security": [{"token": []}, {}],
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {"200": _success(route), **_problems(route)},
    }
    names = re.findall(r"{(\w+)}", route.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    parameters += [
        {"name": name, "in": place, "schema": schema, "description": text}
        for place, name, schema, text in route.asked
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.open:
        operation["security"] = []
    if route.takes is not None:
        content = {"application/json": {"schema": _ref(route.takes)}}
        operation["requestBody"] = {"required": not route.optional, "content": content}
    if route.leads:
        operation["responses"]["302"] = {"description": _LED}
    if route.moves:
        accepted = {
            "description": _ACCEPTED,
            "content": {"application/json": {"schema": _ref(RecordedSchema)}},
        }
        operation["responses"]["202"] = accepted
        operation["description"] = _STREAMED
    return operation


def _success(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answers is None:
        content["application/json"] = {"schema": {"type": "object"}}
    elif route.answers:
        content["application/json"] = {"schema": _any_of(route.answers)}
    if route.lines:
        content[_NDJSON] = {"schema": _any_of(route.lines)}
    for kind in route.texts:
        content[kind] = {"schema": {"type": "string"}}
    return {"description": _MOVED if route.moves else "Done", "content": content}


def _any_of(models: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    return _ref(models[0]) if len(models) == 1 else {"oneOf": [_ref(model) for model in models]}


def _problems(route: Route) -> dict[str, Any]:
    # /readyz sends no problem document: its 503 has the members of its 200.
    if route.answers == (ReadySchema,):
        return {
            "503": {
                "description": "The server is stopping, or its ledger is unavailable",
                "content": {"application/json": {"schema": _ref(ReadySchema)}},
            }
        }
    statuses = () if route.open else sorted({*_GUARDED, *route.problems})
    return {str(status): _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": PHRASES[status],
        "content": {_PROBLEM_TYPE: {"schema": _ref(ProblemSchema)}},
    }
    if status in (429, 503):
        seconds = {
            "description": "Seconds to wait before a retry",
            "schema": {"type": "integer", "minimum": 1},
        }
        answer["headers"] = {"Retry-After": seconds}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return answer


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=_component(model.__name__))}


def _component(name: str) -> str:
    """Return the name of a model's component: that of its class, without "Schema"."""
    return name.removesuffix("Schema")


class _Components(GenerateJsonSchema):
    """Names the components."""

    def normalize_name(self, name: str) -> str:
        """As GenerateJsonSchema.normalize_name."""
        return _component(super().normalize_name(name))


def _schemas() -> dict[str, Any]:
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in (MigrateRequest, Credentials, Retry, Change)
    ]
    answers: tuple[type[BaseModel], ...] = (
        MigrationSchema,
        MigrationsSchema,
        RecordedSchema,
        TransfersSchema,
        ReasonsSchema,
        ProblemSchema,
        ReadySchema,
        HealthSchema,
        RootSchema,
        ReportLineSchema,
        *LINES,
    )
    modes += [(model, "serialization") for model in answers]
    _, schemas = models_json_schema(modes, ref_template=_REF, schema_generator=_Components)
    return {name: {**schema, "title": name} for name, schema in schemas["$defs"].items()}
