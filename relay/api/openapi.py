"""The OpenAPI 3.1 document, built from the pydantic models and from the table of operations.

Decided here: the form of the document. Never here: the operations (`operations.py`), and the
members of the models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from relay import __version__
from relay.api.operations import GUARDED, NDJSON, ROUTES, SSE, Route
from relay.api.schemas import PlanSchema, ProblemSchema, ReadySchema, RecordedSchema

_REF = "#/components/schemas/{model}"
_PROBLEM_TYPE = "application/problem+json"
_LED = "A browser, whose request prefers `text/html`, is led to the page at `ui/`"

_LINKS: Mapping[type[BaseModel], tuple[str, ...]] = {
    RecordedSchema: (
        *("migration", "change", "transfers", "reasons", "events", "passes", "feed", "forecast"),
        *("pause", "resume", "cancel", "acknowledge", "retry", "abort", "reopen", "finish"),
    ),
    PlanSchema: ("plan", "cancel_plan", "again_plan", "start_plan", "delete_plan"),
}
"""The operations that take the id of an answer, by the model of the answer."""

PHRASES: Mapping[int, str] = {
    400: "The request is not valid HTTP, or its body is not JSON, or is ambiguous",
    401: "A token is required",
    403: "The client is not allowed, or the address policy denied a location",
    404: "The source, the migration or the plan does not exist",
    408: "The body did not arrive in time",
    409: (
        "The destination exists and `if_exists` is `fail`, or the state of the migration or of the"
        " plan does not allow this"
    ),
    410: "The feed does not continue there",
    412: "The destination was changed during the transfer",
    413: "The body is too large",
    414: "The path with its query is too long",
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


def parameters() -> dict[tuple[str, str], frozenset[str]]:
    """Return the query parameters of each operation that can answer 422, by path and method."""
    return {
        (route.path, route.method.upper()): frozenset(
            one.name for one in route.parameters if not one.is_header
        )
        for route in ROUTES
        if 422 in route.problems
    }


@cache
def document_text() -> str:
    """Return the OpenAPI document as JSON. Nothing of a server is in it, so a process makes it
    once."""
    return json.dumps(document()) + "\n"


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
            "links": _every_link(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # A server without tokens answers requests from its own machine without one.
        "security": [{"token": []}, {}],
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {**_success(route), **_problems(route)},
    }
    names = _names_in(route.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    parameters += [
        {
            "name": one.name,
            "in": "header" if one.is_header else "query",
            "schema": one.schema,
            "description": one.description,
        }
        for one in route.parameters
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
    if route.later is not None:
        model, text = route.later
        content = {"application/json": {"schema": _ref(model)}}
        operation["responses"]["202"] = {
            "description": text,
            "headers": {"Location": {"description": "Its URL", "schema": {"type": "string"}}},
            "content": content,
            **_links(model),
        }
    if route.details is not None:
        operation["description"] = route.details
    return operation


def _success(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.is_empty:
        return {"204": {"description": "Done"}}
    if route.answers is None:
        content["application/json"] = {"schema": {"type": "object"}}
    elif route.answers:
        content["application/json"] = {"schema": _any_of(route.answers)}
    if route.lines:
        content[NDJSON] = {"schema": _any_of(route.lines)}
    for kind in route.texts:
        content[kind] = {"schema": {"type": "string"}}
    if route.streams is not None:
        content[SSE] = {"schema": _ref(route.streams)}
    links = _links(route.answers[0]) if route.answers and len(route.answers) == 1 else {}
    return {"200": {"description": route.done, "content": content, **links}}


def _links(model: type[BaseModel]) -> dict[str, Any]:
    """Return the links of an answer to the operations that take its id, {} without any."""
    links = {name: {"$ref": f"#/components/links/{name}"} for name in _LINKS.get(model, ())}
    return {"links": links} if links else {}


def _every_link() -> dict[str, Any]:
    """Return the links to each operation that takes the id of an answer."""
    paths = {route.name: route.path for route in ROUTES}
    return {
        name: {
            "operationId": name,
            "parameters": dict.fromkeys(_names_in(paths[name]), "$response.body#/id"),
        }
        for names in _LINKS.values()
        for name in names
    }


def _names_in(path: str) -> list[str]:
    """Return the names of the parameters in a path."""
    return re.findall(r"{(\w+)}", path)


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
    statuses = () if route.open else sorted({*GUARDED, *route.problems})
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
    taken = dict.fromkeys(route.takes for route in ROUTES if route.takes is not None)
    answers = [model for route in ROUTES for model in route.models]
    answered: dict[type[BaseModel], None] = dict.fromkeys([*answers, ProblemSchema])
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in taken]
    modes += [(model, "serialization") for model in answered]
    _, schemas = models_json_schema(modes, ref_template=_REF, schema_generator=_Components)
    return {name: {**schema, "title": name} for name, schema in schemas["$defs"].items()}
