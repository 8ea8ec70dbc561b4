"""The real answers of a server follow its OpenAPI document: statuses, media types, members, and
requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

import pytest
from openapi_schema_validator import OAS31Validator

from relay.engine.transfer.progress import Phase
from relay.engine.tree_listing import error_members
from relay.errors import StoreFull
from tests.end_to_end.test_serve import SERVE, Server, run_server

NDJSON = {"Accept": "application/x-ndjson"}
ASYNC = {"Prefer": "respond-async"}
WAIT = {"Prefer": "wait=60"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the server may read and write, with objects in it."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "to").mkdir()
    for name in ("a", "b", "c/d"):
        path = folder / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Return a running server."""
    with run_server(SERVE, RELAY_LOCAL_FOLDERS=str(folder), RELAY_REQUEST_SECONDS="1") as made:
        yield made


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    """Return the server's own description."""
    return server.ask("GET", "/openapi.json")[1]


class CheckedServer:
    """Compares responses with the document."""

    def __init__(self, server: Server, document: dict[str, Any]) -> None:
        self.server, self.document = server, document

    def ask(self, method: str, path: str, members: Any = None, **headers: str) -> tuple[int, str]:
        """Make a request that the document describes, compare its response; return the status and
        the text."""
        operation = self._operation(method, urlsplit(path).path)
        given = {(p["in"], p["name"].lower()) for p in operation.get("parameters", ())}
        assert {("query", name) for name, _ in parse_qsl(urlsplit(path).query)} <= given
        assert {
            ("header", name.lower()) for name in headers if name not in ("Accept", "Content-Type")
        } <= given
        with closing(self.server.connect()) as connection:
            body = members if isinstance(members, bytes | None) else json.dumps(members)
            connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
            response = connection.getresponse()
            text = response.read().decode()
        answer = operation["responses"][str(response.status)]
        kind = str(response.getheader("Content-Type")).partition(";")[0]
        schema = answer["content"][kind]["schema"]
        for value in values_in(text, kind):
            OAS31Validator({**schema, "components": self.document["components"]}).validate(value)
        for name in answer.get("headers", ()):
            assert response.getheader(name), name
        return response.status, text

    def _operation(self, method: str, path: str) -> dict[str, Any]:
        for template, item in self.document["paths"].items():
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
                found: dict[str, Any] = item[method.lower()]
                return found
        raise AssertionError(path)


def values_in(text: str, kind: str) -> list[Any]:
    """Return what the schema of a media type describes: a document, lines, or the fields of
    events."""
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in text.splitlines()]
    if kind != "text/event-stream":
        return [json.loads(text) if kind.endswith("json") else text]
    events = [
        dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
        for event in text.split("\n\n")
    ]
    numbers = (
        {name: int(value) for name, value in one.items() if name == "retry"} for one in events
    )
    return [one | more for one, more in zip(events, numbers, strict=True) if "data" in one]


def test_rare_values_match_the_openapi_document(document: dict[str, Any]) -> None:
    """Each phase of a transfer, and the error of a migration that leaves something behind."""
    full = StoreFull("full", side="destination")
    full.leave("An unfinished upload", "s3://bucket/key", "denied")
    schemas = document["components"]["schemas"]
    for name, member, values in (
        ("Progress", "phase", get_args(Phase)),
        ("Recorded", "error", [dict(error_members(full))]),
    ):
        for value in values:
            assert OAS31Validator(schemas[name]["properties"][member]).is_valid(value), value


def test_every_response_matches_the_openapi_document(
    server: Server, document: dict[str, Any], folder: Path
) -> None:
    """One object and a tree, at once and later, as JSON, lines, CSV and events; and refusals of
    each kind."""
    checked = CheckedServer(server, document)
    one = {"source": f"file://{folder}/from/a", "destination": f"file://{folder}/to/a"}
    tree = {
        "source": f"file://{folder}/from/",
        "destination": f"file://{folder}/to/",
        "recursive": True,
    }
    bad = {"source": f"file://{folder}/nothing", "destination": f"file://{folder}/to/x"}
    tell: list[tuple[str, str, Any, dict[str, str], int]] = [
        ("GET", "/", None, {}, 200),
        ("GET", "/healthz", None, {}, 200),
        ("GET", "/readyz", None, {}, 200),
        ("GET", "/metrics", None, {}, 200),
        ("POST", "/migrate", one, {}, 200),
        ("POST", "/migrate", one, NDJSON, 200),
        ("POST", "/migrate", bad, {}, 404),
        ("POST", "/migrate", bad, NDJSON, 200),
        ("POST", "/migrate", tree, {}, 202),
        ("POST", "/migrate", tree, NDJSON, 200),
        ("POST", "/migrate", tree, WAIT, 200),
        ("POST", "/migrate", one, ASYNC, 202),
        ("POST", "/migrate", one, {"Idempotency-Key": "k", **WAIT}, 200),
        ("POST", "/migrate", {**one, "verify": "size"}, {"Idempotency-Key": "k"}, 422),
        ("POST", "/migrate", bad, {**ASYNC, **NDJSON}, 200),
        ("POST", "/migrate", [], {}, 422),
        ("POST", "/migrate", b"{", {}, 400),
        ("POST", "/migrate", one, {"Content-Type": "text/plain"}, 415),
        ("POST", "/migrate", b" " * (1 << 20) + b"{}", {}, 413),
        ("GET", "/migrations", None, {}, 200),
        ("GET", "/migrations?limit=1&before=3", None, {}, 200),
        ("GET", "/migrations?limit=0", None, {}, 422),
        ("GET", "/migrations?state=failed,running&needs_attention=true&search=to", None, {}, 200),
        ("GET", "/migrations?needs_attention=1", None, {}, 422),
        ("GET", "/migrations?state=lost", None, {}, 422),
        ("GET", "/migrations/1", None, {}, 200),
        ("GET", "/migrations/77", None, {}, 404),
        ("GET", "/migrations/1/transfers", None, {}, 200),
        ("GET", "/migrations/1/transfers?state=verified,failed&limit=1&after=1", None, {}, 200),
        ("GET", "/migrations/1/transfers?state=lost", None, {}, 422),
        ("GET", "/migrations/1/transfers", None, NDJSON, 200),
        ("GET", "/migrations/1/transfers", None, {"Accept": "text/csv"}, 200),
        ("GET", "/migrations/1/transfers?reason=source:not-found", None, {}, 200),
        ("GET", "/migrations/1/reasons", None, {}, 200),
        ("GET", "/migrations/77/reasons", None, {}, 404),
        ("GET", "/migrations/1/events", None, {"Last-Event-ID": "1"}, 200),
        ("GET", "/migrations/77/events", None, {}, 404),
        ("PATCH", "/migrations/1", {"limits": {"slots": 1}}, {}, 409),
        ("PATCH", "/migrations/1", {"limits": {"slots": 0}}, {}, 422),
        ("POST", "/migrations/1/pause", None, {}, 409),
        ("POST", "/migrations/1/retry", b" " * (1 << 20) + b"{}", {}, 413),
        ("POST", "/migrations/1/retry", {"list": f"file://{folder}/nothing"}, {}, 409),
        ("POST", "/migrations/1/retry", {"reason": "source:not-found"}, {}, 409),
        ("POST", "/migrations/1/retry", {"reason": 1}, {}, 422),
        ("GET", "/migrations/1/passes?limit=1&before=3", None, {}, 200),
        ("GET", "/migrations/1/passes?before=0", None, {}, 422),
        ("GET", "/migrations/77/passes", None, {}, 404),
        ("GET", "/migrations/1/feed?limit=1", None, {}, 200),
        ("GET", "/migrations/1/feed?wait=1", None, NDJSON, 200),
        ("GET", "/migrations/1/feed?after=9", None, {}, 410),
        ("GET", "/migrations/1/feed?wait=31", None, {}, 422),
        ("GET", "/migrations/1/forecast", None, {}, 200),
        ("POST", "/migrations/1/finish", None, {}, 409),
        ("POST", "/migrations/1/abort", {"x": 1}, {}, 422),
        ("POST", "/migrate", {**tree, "standing": {"window": "22:00-22:00"}}, {}, 422),
        ("POST", "/migrate", {**tree, "standing": {"every": -1}}, {}, 422),
        ("POST", "/migrations/1/acknowledge", None, {}, 409),
        ("POST", "/migrations/1/acknowledge", {"x": 1}, {}, 422),
        ("POST", "/migrations/77/cancel", None, {}, 404),
    ]
    for method, path, members, headers, status in tell:
        found, text = checked.ask(method, path, members, **headers)
        assert found == status, (method, path, members, headers, text)
