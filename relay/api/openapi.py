"""The OpenAPI 3.1 document, made from the models that check requests and from one table of routes.

Decided here: the table. Never here: the models' members.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from relay import __version__
from relay.api.request import Change, Credentials, MigrateRequest
from relay.api.schemas import (
    LINES,
    Health,
    Migration,
    Migrations,
    Problem,
    Ready,
    Recorded,
    Root,
    Told,
    Transfers,
)

_REF = "#/components/schemas/{model}"
_PROBLEM_TYPE = "application/problem+json"


Asked = tuple[str, str, dict[str, Any], str]
"""A parameter: where it stands, its name, its schema, what it does."""

_PAGE: Asked = (
    "query",
    "limit",
    {"type": "integer", "minimum": 1, "maximum": 1000},
    "So many of them; 100 without.",
)
_PLACE = {"type": "integer", "minimum": 1}
_NDJSON, _CSV, _SSE = "application/x-ndjson", "text/csv", "text/event-stream"


@dataclass(frozen=True)
class Route:
    """One call: what it answers with, and the statuses of its problems (401 and 403 come by
    themselves)."""

    path: str
    method: str
    name: str
    summary: str
    answers: tuple[type[BaseModel], ...] | None
    """What its JSON may be; None is any object, and nothing another form than JSON."""
    takes: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()
    open: bool = False
    optional: bool = False
    """It may come without a body."""
    moves: bool = False
    """It answers 202 too."""
    lines: tuple[type[BaseModel], ...] = ()
    """What a line may be, where it answers with lines too."""
    texts: tuple[str, ...] = ()
    """Other forms."""
    asked: tuple[Asked, ...] = ()
    """Its parameters, but for those in its path."""


_MIGRATE_PROBLEMS = (400, 404, 408, 409, 412, 413, 415, 422, 500, 501, 502, 503, 504)
_TOLD_PROBLEMS = (400, 404, 408, 409, 413, 415, 422, 503)
_FRESH_PROBLEMS = (412, 500, 501, 502, 504)
"""Of a list of fresh URLs, which is read before the answer."""

ROUTES = (
    Route("/", "get", "root", "Where to read on", (Root,)),
    Route(
        "/migrate",
        "post",
        "migrate",
        "Move an object, or a tree",
        (Migration, Recorded),
        MigrateRequest,
        _MIGRATE_PROBLEMS,
        moves=True,
        lines=LINES,
        asked=(
            (
                "header",
                "Idempotency-Key",
                {"type": "string", "maxLength": 255},
                "The same key makes no second one.",
            ),
            ("header", "Prefer", {"type": "string"}, "`respond-async`, or `wait=60`."),
        ),
    ),
    Route(
        "/migrations",
        "get",
        "migrations",
        "The newest first",
        (Migrations,),
        problems=(422, 503),
        asked=(_PAGE, ("query", "before", _PLACE, "Those with a smaller number.")),
    ),
    Route(
        "/migrations/{id}", "get", "migration", "One of them", (Recorded,), problems=(404, 422, 503)
    ),
    Route(
        "/migrations/{id}",
        "patch",
        "change",
        "Limit it while it runs",
        (Recorded,),
        Change,
        _TOLD_PROBLEMS,
    ),
    Route(
        "/migrations/{id}/transfers",
        "get",
        "transfers",
        "Its objects",
        (Transfers,),
        problems=(404, 422, 503),
        lines=(Told,),
        texts=(_CSV,),
        asked=(
            (
                "query",
                "state",
                {"type": "string"},
                "Only those in this state; several, with commas between.",
            ),
            _PAGE,
            ("query", "after", _PLACE, "Those with a greater id. Lines and CSV have all."),
        ),
    ),
    Route(
        "/migrations/{id}/events",
        "get",
        "events",
        "What happens, as server-sent events",
        (),
        problems=(404, 503),
        texts=(_SSE,),
        asked=(
            (
                "header",
                "Last-Event-ID",
                {"type": "string"},
                "The last event that is known already.",
            ),
        ),
    ),
    *(
        Route(
            f"/migrations/{{id}}/{verb}",
            "post",
            verb,
            text,
            (Recorded,),
            takes,
            tuple({*_TOLD_PROBLEMS, *(_FRESH_PROBLEMS if takes else ())}),
            optional=True,
        )
        for verb, text, takes in (
            ("pause", "Let nothing more of it begin", None),
            ("resume", "Let it go on, also with fresh credentials", Credentials),
            ("cancel", "End it; what has arrived stays", None),
            ("retry", "Queue what failed, also with fresh credentials", Credentials),
        )
    ),
    Route("/healthz", "get", "healthz", "The process lives", (Health,), open=True),
    Route(
        "/readyz",
        "get",
        "readyz",
        "It takes new transfers; 503 while it stops",
        (Ready,),
        open=True,
    ),
    Route("/openapi.json", "get", "openapi", "This document", None),
)

PHRASES: Mapping[int, str] = {
    400: "The body is not JSON, or could be read in two ways",
    401: "A token is needed",
    403: "Not allowed from here, or the address policy refused a location",
    404: "The source is not there",
    408: "The body did not arrive in time",
    409: (
        "The destination exists, and if_exists is fail; or a migration is in a state where this"
        " can't happen"
    ),
    412: "The destination became another version meanwhile",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A member is not acceptable; `errors` points at it",
    500: "A bug in relay",
    501: "These two stores can't do that",
    502: "A store failed, refused, or sent other bytes than it promised; `side` says which one",
    503: (
        "No slot is free, a store asks to slow down, or the server is stopping; Retry-After says"
        " when to come back"
    ),
    504: "A store did not answer in time, or moved no bytes",
}

_ACCEPTED = """The migration stands in the ledger, and runs whatever happens to this connection;
`Location` says where to look. Trees are answered in this way, and so are requests with an
`Idempotency-Key` or `Prefer: respond-async`. `Prefer: wait=60` waits up to 60 seconds for the
end."""

_MOVED = """The object was moved, or needed no move. Of a migration in the ledger (`Prefer:
wait=60`): it has ended, and its `state` says how, also where that is `failed`."""

_STREAMED = """With `Accept: application/x-ndjson` the answer is a line of JSON at least once a
second while the transfer runs, and the result or the problem as the last line. A client that
hangs up on a stream cancels the transfer. Of a migration in the ledger the last line has no
result where the server stops: its `trouble` says so. Without that media type the answer comes
at the end, and the transfer continues if the client leaves."""


def parameters() -> dict[tuple[str, str], frozenset[str]]:
    """Return the names that a query may have, by the path and the method of each call that looks at
    its request."""
    return {
        (route.path, route.method.upper()): frozenset(
            name for place, name, *_ in route.asked if place == "query"
        )
        for route in ROUTES
        if 422 in route.problems
    }


def document() -> dict[str, Any]:
    """Return the whole document as plain values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "relay",
            "version": __version__,
            "summary": "Moves one object from one cloud to another through memory, and proves it.",
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
        # A token, or nothing where the server has no tokens and answers this machine alone.
        "security": [{"token": []}, {}],
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {"200": _answer(route), **_problems(route)},
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
    if route.moves:
        accepted = {
            "description": _ACCEPTED,
            "content": {"application/json": {"schema": _ref(Recorded)}},
        }
        operation["responses"]["202"] = accepted
        operation["description"] = _STREAMED
    return operation


def _answer(route: Route) -> dict[str, Any]:
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
    if route.answers == (Ready,):
        return {
            "503": {
                "description": "It is stopping",
                "content": {"application/json": {"schema": _ref(Ready)}},
            }
        }
    statuses = () if route.open else sorted({401, 403, *route.problems})
    return {str(status): _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": PHRASES[status],
        "content": {_PROBLEM_TYPE: {"schema": _ref(Problem)}},
    }
    if status == 503:
        seconds = {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}}
        answer["headers"] = {"Retry-After": seconds}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return answer


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas() -> dict[str, Any]:
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in (MigrateRequest, Credentials, Change)
    ]
    answers: tuple[type[BaseModel], ...] = (
        Migration,
        Migrations,
        Recorded,
        Transfers,
        Problem,
        Ready,
        Health,
        Root,
        Told,
        *LINES,
    )
    modes += [(model, "serialization") for model in answers]
    _, schemas = models_json_schema(modes, ref_template=_REF)
    return dict(schemas["$defs"])
