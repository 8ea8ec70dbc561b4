"""`POST /migrate` in this process, over real sockets: answers, streams, problems, and their
documented shapes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import gevent
import pytest
from flask import Flask
from openapi_spec_validator import validate
from pydantic import BaseModel, TypeAdapter

from relay.api import openapi, schemas
from relay.api.app import create_app
from relay.api.migrate_route import _find_rivals, _sends
from relay.config import Settings
from relay.engine.plan import IfExists, Plan
from relay.engine.transfer_engine import TransferEngine
from relay.errors import Cancelled, Overloaded, RelayError, Throttled
from relay.ledger.prior_state_values import PriorState
from relay.location import Location, parse_location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.views.problems import PROBLEMS_URI, problem, retry_after
from tests.conftest import LOOPBACK
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.scripted import Peer, Talk

TOKEN = "planted-secret-0123456789"


@pytest.fixture
def runner() -> Iterator[TransferEngine]:
    """Return an engine to loopback with one slot and no queue; nothing may be left at its end."""
    made = TransferEngine(Settings(slots=1, waiters=0, retry_budget=0, wait_seconds=1), LOOPBACK)
    yield made
    _await(lambda: not made.running)
    assert made.slots.held == 0
    made.wire.pool.close()
    assert made.wire.pool.open == 0


@pytest.fixture
def app(runner: TransferEngine) -> Flask:
    """Return the application over it."""
    return create_app(runner)


def _await(done: Any, seconds: float = 5.0) -> None:
    with gevent.Timeout(seconds):
        while not done():
            gevent.sleep(0.01)


def _order(source: Peer, destination: Peer, **members: Any) -> dict[str, Any]:
    return {"source": source.url("/a"), "destination": destination.url("/b")} | members


def _gated_source(gate: threading.Event) -> Any:
    """A source that sends half, waits, and sends the rest."""

    def get(talk: Talk, _: bytes) -> None:
        half = len(DATA) // 2
        talk.send(GET_HEAD, DATA[:half])
        if gate.wait(20):
            talk.send(DATA[half:])

    return get


def test_one_object(app: Flask) -> None:
    """The answer has the documented shape and the level of proof, and the destination has the
    bytes."""
    cloud, kept = Cloud(), Cloud()
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        response = app.test_client().post("/migrate", json=_order(source, destination))
    assert response.status_code == 200, response.text
    assert response.mimetype == "application/json"
    migration = schemas.MigrationSchema.model_validate_json(response.data, strict=True)
    assert (migration.state, migration.bytes) == ("verified", len(DATA))
    assert migration.receipt is not None and migration.receipt.level == "read_back"
    assert kept.objects == {b"/b": DATA}


def test_method_headers_and_redaction(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A POST with headers; neither the query nor a header's value appears in the response or the
    log."""
    logging.getLogger("relay").propagate = True
    cloud, kept = Cloud(), Cloud()
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        order = {
            "source": {
                "url": source.url(f"/a?sig={TOKEN}"),
                "headers": {"Authorization": f"Bearer {TOKEN}"},
            },
            "destination": {
                "url": destination.url(f"/b?sig={TOKEN}"),
                "method": "POST",
                "headers": {"X-Key": TOKEN},
            },
            "verify": "size",
        }
        with caplog.at_level(logging.DEBUG):
            response = app.test_client().post("/migrate", json=order)
    assert response.status_code == 200, response.text
    assert response.json is not None and response.json["state"] == "unverified"
    assert b"POST" in kept.methods
    assert any(TOKEN.encode() in head for head in kept.heads)
    written = response.text + "".join(str(vars(record)) for record in caplog.records)
    assert TOKEN not in written
    finished = [record for record in caplog.records if record.getMessage() == "migration.ended"]
    assert len(finished) == 1
    assert vars(finished[0])["members"]["state"] == "unverified"


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
def test_one_object_within_limits(app: Flask, if_exists: str) -> None:
    """One request at a time to each store is enough for all requests of a transfer; it never waits
    for itself."""
    cloud, kept = Cloud(), Cloud()
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        limits = {"connections": 1, "bytes_per_second": 10**9, "slots": None}
        order = _order(source, destination, limits=limits, if_exists=if_exists)
        response = app.test_client().post("/migrate", json=order)
    assert (response.status_code, kept.objects) == (200, {b"/b": DATA}), response.text


def test_if_exists(app: Flask) -> None:
    """`skip` is a 200 with that state and no receipt; `fail` is a 409."""
    cloud, kept = Cloud(), Cloud(objects={b"/b": b"old"})
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        client = app.test_client()
        skipped = client.post("/migrate", json=_order(source, destination, if_exists="skip"))
        failed = client.post("/migrate", json=_order(source, destination, if_exists="fail"))
    assert skipped.json is not None and failed.json is not None
    assert (skipped.status_code, skipped.json["state"], skipped.json["receipt"]) == (
        200,
        "skipped",
        None,
    )
    assert (failed.status_code, failed.json["type"]) == (409, PROBLEMS_URI + "destination-exists")
    assert kept.objects == {b"/b": b"old"}


@pytest.mark.parametrize("name", ["/b", "/"])
def test_an_object_that_another_request_sends_is_not_skipped(name: str) -> None:
    """It is incomplete at the destination; the client is asked to try again."""
    gate, kept = threading.Event(), Cloud()
    runner = TransferEngine(Settings(retry_budget=0), LOOPBACK)
    app = create_app(runner)
    with (
        Peer(source_script(Cloud(), _gated_source(gate))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        order = {"source": source.url("/b"), "destination": destination.url("/b")}
        with _stream(app, order) as response:
            lines = (json.loads(line) for line in response.response)
            while not next(lines)["bytes"]:
                pass
            kept.objects[b"/b"] = DATA[:10]
            order |= {"if_exists": "skip", "destination": destination.url(name)}
            meanwhile = app.test_client().post("/migrate", json=order)
            gate.set()
            last = list(lines)[-1]
        afterwards = app.test_client().post("/migrate", json=order)
    runner.wire.pool.close()
    assert (meanwhile.status_code, meanwhile.headers["Retry-After"]) == (503, "5"), meanwhile.text
    assert meanwhile.json is not None and meanwhile.json["retryable"]
    assert last["state"] == "verified"
    assert afterwards.json is not None and afterwards.json["state"] == "skipped"


def test_a_failure_names_its_side(app: Flask) -> None:
    """The error names the destination as the refusing side, with a hint."""
    cloud = Cloud()
    refusing = destination_script(Cloud(), b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(refusing) as destination,
    ):
        response = app.test_client().post("/migrate", json=_order(source, destination))
    problem = schemas.ProblemSchema.model_validate_json(response.data, strict=True)
    assert (response.status_code, problem.side, problem.retryable) == (502, "destination", False)
    assert response.mimetype == "application/problem+json"


@pytest.mark.parametrize("scheme", ["http", "webdav", "list+http"])
@pytest.mark.parametrize("form", [str, lambda url: {"url": url}])
def test_a_source_with_a_fragment_is_refused(app: Flask, scheme: str, form: Any) -> None:
    """The text behind the '#' is never sent: the moved object would be another one."""
    order = {
        "source": form(f"{scheme}://127.0.0.1:9/a#1.jpg"),
        "destination": "http://127.0.0.1:9/b",
    }
    response = app.test_client().post("/migrate", json=order)
    problem = schemas.ProblemSchema.model_validate_json(response.data)
    assert (response.status_code, "%23" in problem.hint) == (422, True)
    assert problem.errors and problem.errors[0].pointer == (
        "/source" if form is str else "/source/url"
    )


# -- NDJSON


def _stream(app: Flask, order: dict[str, Any]) -> Any:
    return app.test_client().post(
        "/migrate", json=order, headers={"Accept": "application/x-ndjson"}, buffered=False
    )


def test_stream(app: Flask) -> None:
    """The first line comes at once, others while it runs, the result last; each has its documented
    shape."""
    gate, cloud, kept = threading.Event(), Cloud(), Cloud()
    with (
        Peer(source_script(cloud, _gated_source(gate))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        with _stream(app, _order(source, destination)) as response:
            assert response.mimetype == "application/x-ndjson"
            lines = []
            for line in response.response:
                lines.append(json.loads(line))
                if len(lines) == 3:
                    gate.set()
    for line in lines:
        TypeAdapter(schemas.ProgressSchema | schemas.ResultLineSchema).validate_python(
            line, strict=True
        )
    assert [line["event"] for line in lines[:3]] == ["progress"] * 3
    assert lines[2]["bytes"] == len(DATA) // 2
    assert lines[1]["rate"] > 0
    assert (lines[-1]["event"], lines[-1]["state"]) == ("result", "verified")
    assert kept.objects == {b"/b": DATA}


def test_stream_that_fails(app: Flask) -> None:
    """The last line is the problem."""
    cloud, kept = Cloud(), Cloud()
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA[:1000]))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        with _stream(app, _order(source, destination)) as response:
            lines = [json.loads(line) for line in response.response]
    last = schemas.ProblemLineSchema.model_validate(lines[-1], strict=True)
    assert last.type == PROBLEMS_URI + "source-truncated"
    assert last.instance == f"urn:uuid:{lines[0]['id']}"
    assert kept.objects == {}


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_client_that_leaves_a_stream_cancels(
    app: Flask, runner: TransferEngine, lines: int
) -> None:
    """T46: if the client leaves at any time, the transfer ends, the slot is released, and the
    destination stays empty."""
    gate, cloud, kept = threading.Event(), Cloud(), Cloud()
    with (
        Peer(source_script(cloud, _gated_source(gate))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        response = _stream(app, _order(source, destination))
        stream = iter(response.response)
        for _ in range(lines):
            next(stream)
        assert len(runner.running) == 1
        response.close()
        _await(lambda: not runner.running)
        gate.set()
    assert runner.slots.held == 0
    assert kept.objects == {}


def test_no_slot_is_503_even_for_a_stream(app: Flask, runner: TransferEngine) -> None:
    """B24: the status reports it, with Retry-After."""
    with runner.slots.slot():
        for accept in ("application/json", "application/x-ndjson"):
            order = {"source": "http://127.0.0.1:9/a", "destination": "http://127.0.0.1:9/b"}
            response = app.test_client().post("/migrate", json=order, headers={"Accept": accept})
            assert response.status_code == 503
            assert response.mimetype == "application/problem+json"
            assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        ("*/*", False),
        ("text/html", False),
        ("application/json", False),
        ("application/x-ndjson", True),
        ("application/json;q=0.5, application/x-ndjson", True),
        ("application/x-ndjson;q=0.1, application/json", False),
    ],
)
def test_accept(app: Flask, accept: str, streamed: bool) -> None:
    """Only a request that asks for a stream gets one."""
    cloud, kept = Cloud(), Cloud()
    with (
        Peer(source_script(cloud, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        response = app.test_client().post(
            "/migrate", json=_order(source, destination), headers={"Accept": accept}
        )
    assert response.status_code == 200
    assert (response.mimetype == "application/x-ndjson") == streamed


# -- the rest of the interface


def test_draining(app: Flask, runner: TransferEngine) -> None:
    """B24: not ready, no new transfer, and the connection closes."""
    runner.drain(0)
    client = app.test_client()
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert schemas.ReadySchema.model_validate_json(ready.data, strict=True).ready is False
    refused = client.post("/migrate", data=b"not even JSON")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.headers["Connection"] == "close"
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("existing", "other", "is_rival"),
    [
        ("skip", "/to/b", True),
        ("skip", "/to/", True),
        ("skip", "/to", True),
        ("skip", "/%74o/b", True),
        ("skip", "/to/c", False),
        ("skip", "/to/bc", False),
        ("overwrite", "/to/b", False),
    ],
)
def test_a_transfer_keeps_only_those_that_may_send_its_object(
    runner: TransferEngine, existing: str, other: str, is_rival: bool
) -> None:
    """Of thousands that run, each would keep all the others in memory."""
    host, source = "http://127.0.0.1:9", parse_location("http://127.0.0.1:9/a")
    ours = Plan(source, parse_location(host + "/to/b"), if_exists=IfExists(existing))
    running = runner.transfer(Plan(source, parse_location(host + other)))
    runner.running.add(running)
    assert _find_rivals(runner, runner.transfer(ours)) == ({running} if is_rival else set())
    runner.running.clear()


def at_endpoint(endpoint: str) -> Location:
    signer = Signer(lambda: AwsCredentials("KEY", "SECRET"), "x")
    return s3_location(S3Config(signer, endpoint), "photos", "a")


@pytest.mark.parametrize(
    ("place", "other", "named", "sends"),
    [
        (parse_location("http://h/to/b"), parse_location("http://h/%74o/b"), None, True),
        (parse_location("http://h/to/b"), parse_location("http://h/to/"), "http://h/to/b", True),
        (parse_location("http://h/to/b"), parse_location("http://h/to/"), "http://h/to/c", False),
        (parse_location("http://h/to/b"), parse_location("http://g/to/b"), None, False),
        (at_endpoint("https://old.example"), at_endpoint("https://old.example"), None, True),
        (at_endpoint("https://old.example"), at_endpoint("https://new.example"), None, False),
    ],
)
def test_a_transfer_is_known_by_its_place_and_not_by_its_text(
    runner: TransferEngine, place: Location, other: Location, named: str | None, sends: bool
) -> None:
    """Another request waits for it: 503 for another object, or a skip of a piece."""
    transfer = runner.transfer(Plan(parse_location("http://127.0.0.1:9/a"), other))
    assert not _sends(transfer, place)
    transfer._progress.sendings = 1
    transfer._progress.before = PriorState(known=False, place=named)
    assert _sends(transfer, place) is sends


def test_a_transfer_that_runs_after_the_drain_is_cancelled(runner: TransferEngine) -> None:
    """It was created before, and has sent nothing."""
    places = (parse_location("http://127.0.0.1:9/a"), parse_location("http://127.0.0.1:9/b"))
    transfer = runner.transfer(Plan(*places))
    runner.drain(0)
    with pytest.raises(Cancelled):
        runner.run(transfer)
    assert not transfer.has_sent


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/readyz", schemas.ReadySchema),
        ("/healthz", schemas.HealthSchema),
        ("/", schemas.RootSchema),
    ],
)
def test_small_answers(app: Flask, path: str, model: type[BaseModel]) -> None:
    """Each matches the document."""
    response = app.test_client().get(path)
    assert response.status_code == 200
    model.model_validate_json(response.data, strict=True)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/migrate", 405, {"POST"}),  # B01
        ("PUT", "/migrate", 405, {"POST"}),
        ("OPTIONS", "/migrate", 405, {"POST"}),
        ("TRACE", "/migrate", 405, {"POST"}),
        ("POST", "/healthz", 405, {"GET", "HEAD"}),
        ("GET", "/nowhere", 404, set()),
        ("GET", "/migrate/", 404, set()),
        ("GET", "/nowhere/%00", 404, set()),  # B21
    ],
)
def test_other_paths_and_methods(
    app: Flask, method: str, path: str, status: int, allow: set[str]
) -> None:
    """about:blank problems; a 405 names the methods."""
    response = app.test_client().open(path, method=method)
    assert response.status_code == status
    problem = schemas.ProblemSchema.model_validate_json(response.data, strict=True)
    assert (problem.type, problem.title, problem.status) == (
        "about:blank",
        HTTPStatus(status).phrase,
        status,
    )
    assert set(filter(None, response.headers.get("Allow", "").split(", "))) == allow


class Boom(Exception):
    """An unexpected error, with a secret in its text."""


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_bug_is_a_500_without_details(
    app: Flask, runner: TransferEngine, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """T41: the log gets the type and the place; the text is written nowhere."""
    logging.getLogger("relay").propagate = True

    class Broken:
        def source(self, location: object, meter: object) -> Any:
            raise Boom(TOKEN)

        destination = source

    runner.stores = Broken()
    order = {"source": "http://127.0.0.1:9/a", "destination": "http://127.0.0.1:9/b"}
    response = app.test_client().post("/migrate", json=order, headers={"Accept": accept})
    last = json.loads(response.text.splitlines()[-1])
    assert (last["status"], last["type"]) == (500, PROBLEMS_URI + "relay-error")
    assert TOKEN not in response.text + caplog.text
    (logged,) = [one for one in caplog.records if one.getMessage() == "error.unexpected"]
    written = str(vars(logged)["members"])
    assert "Boom" in written and "test_api_migrations" in written and TOKEN not in written


def test_problems_of_all_errors() -> None:
    """Every error renders to the documented shape, with a code of its own."""
    kinds = list(_kinds(RelayError))
    assert Throttled in kinds
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        schemas.ProblemSchema.model_validate(problem(kind("the fact")), strict=True)
        if kind is not RelayError:
            assert kind.status in openapi.PHRASES, kind


def _kinds(kind: type[RelayError]) -> Iterator[type[RelayError]]:
    for below in kind.__subclasses__():
        if below.__module__.startswith("relay.errors."):
            if below.__subclasses__() == [] or "code" in vars(below):
                yield below
            yield from _kinds(below)


def test_retry_after_is_rounded_up() -> None:
    """A client that returns a moment too early is refused again."""
    assert retry_after(Overloaded("x", retry_after=4.01)) == 5
    assert retry_after(Throttled("x", retry_after=0)) == 1
    assert retry_after(Throttled("x")) is None


def test_openapi(app: Flask) -> None:
    """The document is valid, complete, and names the media type of problems."""
    document = app.test_client().get("/openapi.json").json
    assert document is not None
    validate(document)
    routes = {
        (str(rule).replace("<", "{").replace(">", "}"), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD" and not str(rule).startswith("/ui")  # the page is not the API
    }
    documented = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item
    }
    assert routes == documented
    migrate = document["paths"]["/migrate"]["post"]
    for status, answer in migrate["responses"].items():
        kinds = set(answer["content"])
        good = {"200": {"application/json", "application/x-ndjson"}, "202": {"application/json"}}
        assert kinds == good.get(status, {"application/problem+json"})
    assert {
        "400",
        "401",
        "403",
        "404",
        "408",
        "409",
        "413",
        "415",
        "422",
        "502",
        "503",
        "504",
    } <= set(migrate["responses"])


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/migrations/7/transfers?stat=failed", "'stat'"),
        ("GET", "/migrations/7/transfers?state=failed&state=cancelled", "'state' is repeated"),
        ("HEAD", "/migrations/7/transfers?State=failed", ""),
        ("GET", "/migrations?limit=1&limit=2", "'limit' is repeated"),
        ("GET", "/migrations?after=3", "'after'"),
        ("GET", "/migrations/7/transfers?reason=%00", "'reason' has a NUL"),
        ("GET", "/migrations?search=a%00", "'search' has a NUL"),
        ("GET", "/migrations/7?state=failed", "'state'"),
        ("POST", "/migrate?if_exists=skip", "'if_exists'"),
        ("POST", "/migrations/7/cancel?wait", "'wait'"),
        ("PATCH", "/migrations/7?priority=5", "'priority'"),
    ],
)
def test_a_typo_in_a_query_is_refused(app: Flask, method: str, path: str, message: str) -> None:
    """Of `state=failed&state=cancelled` only the first would count: the answer would report no
    cancelled objects."""
    response = app.test_client().open(path, method=method, json={} if method != "HEAD" else None)
    assert response.status_code == 422
    assert message in response.text


@pytest.mark.parametrize("path", ["/healthz?x=1", "/readyz?t=5&t=6", "/?x", "/openapi.json?v=1"])
def test_probes_ignore_their_query(app: Flask, path: str) -> None:
    """Probes and browsers add a parameter to bypass caches."""
    assert app.test_client().get(path).status_code == 200
