"""Plans over HTTP, in process: accepted, made by a worker, listed, stopped, started once. Every
answer keeps to the OpenAPI document."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask
from openapi_schema_validator import OAS31Validator

from relay.api.app import create_app
from relay.api.ledger_context import LedgerContext, ledger_context
from relay.api.openapi import document
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.workers import SERVER
from tests.conftest import LOOPBACK
from tests.ledgers import tokens_of_tenants

SECONDS = 20.0
DOCUMENT = document()
UNKNOWN = "0" * 36


@dataclass(frozen=True)
class Server:
    """The application, without a planner that runs, with tokens of two tenants."""

    app: Flask
    works: LedgerContext
    home: Path
    tokens: dict[str, str]

    def ask(
        self,
        method: str,
        path: str,
        members: Any = None,
        *,
        caller: str = "acme submit",
        **headers: str,
    ) -> tuple[int, Any]:
        """Return the status and the members of an answer that keeps to the document."""
        sent = {"Authorization": f"Bearer {self.tokens[caller]}", **headers}
        body = {} if members is None else {"json": members}
        answer = self.app.test_client().open(path, method=method, headers=sent, **body)
        template = re.sub("/plans/[^/?]+", "/plans/{plan}", path).partition("?")[0]
        described = DOCUMENT["paths"][template][method.lower()]["responses"][
            str(answer.status_code)
        ]
        if answer.status_code == 204:
            assert not answer.data and "content" not in described
            return 204, None
        schema = described["content"][answer.mimetype]["schema"]
        OAS31Validator({**schema, "components": DOCUMENT["components"]}).validate(answer.json)
        for name in described.get("headers", ()):
            assert name in answer.headers, name
        return answer.status_code, answer.json

    def order(self, **members: Any) -> dict[str, Any]:
        """Return the request of a tree."""
        ends = {"source": f"file://{self.home}/from/", "destination": f"file://{self.home}/to/"}
        return {**ends, "recursive": True, **members}

    def make(self, **members: Any) -> Any:
        """Accept a plan, and return it once a worker has made it."""
        status, plan = self.ask("POST", "/plans", self.order(**members))
        assert (status, plan["state"], plan["findings"]) == (202, "planning", None)
        running = gevent.spawn(self.works.planner.run)
        until = time.monotonic() + SECONDS
        while plan["state"] == "planning":
            assert time.monotonic() < until
            gevent.sleep(0.02)
            _, plan = self.ask("GET", f"/plans/{plan['id']}", caller="acme read")
        running.kill()
        return plan


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return the application."""
    settings = Settings(ledger=f"sqlite:///{tmp_path}/l.db", local_folders=str(tmp_path))
    for number, size in enumerate((5, 7)):
        path = tmp_path / "from" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    engine = TransferEngine(settings, LOOPBACK)
    ledger = Ledger.connect(settings.ledger_url(), SERVER)
    ledger.leases.renew()
    limits = TokenLimits(local=True, requests_per_second=10_000)
    tokens = tokens_of_tenants(ledger, limits)
    works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
    yield Server(create_app(engine, (), works), works, tmp_path, tokens)
    engine.wire.pool.close()
    ledger.close()


def test_a_plan_is_made_and_started_once(server: Server) -> None:
    plan = server.make()
    found = plan["findings"]
    assert (plan["state"], plan["tenant"], found["objects"], found["bytes"]) == (
        "ready",
        "acme",
        2,
        12,
    )
    assert found["decisions"] == {"copy": {"objects": 2, "bytes": 12}}
    assert (found["level"], found["time"], found["retry"]) == ("read_back", None, None)
    for paused in (True, False):  # the second start changes nothing
        status, started = server.ask("POST", f"/plans/{plan['id']}/start", {"paused": paused})
        assert (status, started["state"], started["tenant"]) == (202, "paused", "acme")
    _, plan = server.ask("GET", f"/plans/{plan['id']}")
    assert (plan["state"], plan["migration"]) == ("started", started["id"])
    assert server.ask("DELETE", f"/plans/{plan['id']}")[0] == 204
    assert server.ask("GET", f"/plans/{plan['id']}")[0] == 404
    assert server.works.ledger.migration(started["id"]).number == 1


def test_a_plan_with_filters_starts_a_migration_with_them(server: Server) -> None:
    filters = {"include_from": ["# large", "1.*"], "min_size": 7, "max_age": "1h"}
    kept = {"include": ["1.*"], "min_size": 7, "max_age": "1h"}
    plan = server.make(filters=filters)
    assert (plan["findings"]["objects"], plan["findings"]["excluded"]) == (1, 1)
    assert plan["options"]["filters"] == kept
    status, started = server.ask("POST", f"/plans/{plan['id']}/start", {"paused": True})
    assert (status, started["options"]["filters"], started["excluded"]) == (202, kept, None)
    status, problem = server.ask("POST", "/plans", server.order(filters={"hash_filter": "@/2"}))
    assert (status, problem["errors"][0]["pointer"]) == (422, "/filters/hash_filter")


def test_a_key_is_one_plan(server: Server) -> None:
    key = {"Idempotency-Key": "k"}
    plans = [server.ask("POST", "/plans", server.order(), **key)[1]["id"] for _ in range(2)]
    other = server.ask("POST", "/plans", server.order(verify="size"), **key)[1]["id"]
    assert plans[0] == plans[1] != other
    assert server.ask("POST", "/plans", server.order(), **{"Idempotency-Key": "\t"})[0] == 422


def test_a_plan_is_stopped_and_made_again(server: Server) -> None:
    _, plan = server.ask("POST", "/plans", server.order())
    path = f"/plans/{plan['id']}"
    assert server.ask("POST", f"{path}/start")[0] == 409
    for verb, state in (("cancel", "cancelled"), ("cancel", "cancelled"), ("again", "planning")):
        status, plan = server.ask("POST", f"{path}/{verb}")
        assert (status, plan["state"]) == (200, state)
    server.ask("POST", f"{path}/cancel")
    assert server.ask("POST", f"{path}/start")[1]["state"] == "running"
    assert server.ask("POST", f"{path}/again")[0] == 409


def test_pages_of_plans_follow_one_another(server: Server) -> None:
    made = [server.ask("POST", "/plans", server.order())[1]["id"] for _ in range(5)]
    server.ask("POST", "/plans", server.order(), caller="other submit")
    path, found = "/plans?limit=2", []
    while path:
        _, page = server.ask("GET", path, caller="acme read")
        found += [plan["id"] for plan in page["plans"]]
        path = page["next"]
    assert found == made[::-1]
    assert len(server.ask("GET", "/plans", caller="other admin")[1]["plans"]) == 6
    server.ask("DELETE", f"/plans/{made[3]}")
    assert server.ask("GET", f"/plans?before={made[3]}")[0] == 404
    assert server.ask("GET", "/plans?limit=0")[0] == 422


@pytest.mark.parametrize(
    ("path", "members", "pointer"),
    [
        ("/plans", {"paused": True}, "/paused"),
        ("/plans", {"source": 1}, "/source"),
        ("/plans", {"verify": "hope"}, "/verify"),
        ("/plans", {"limits": {"slots": 0}}, "/limits/slots"),
        (f"/plans/{UNKNOWN}/cancel", {"paused": True}, "/paused"),
        (f"/plans/{UNKNOWN}/start", {"paused": 1}, "/paused"),
    ],
)
def test_a_wrong_member_is_named(server: Server, path: str, members: Any, pointer: str) -> None:
    body = server.order(**members) if path == "/plans" else members
    status, problem = server.ask("POST", path, body)
    assert (status, problem["errors"][0]["pointer"]) == (422, pointer)


OPERATIONS = (
    ("GET", "/plans/{}"),
    ("DELETE", "/plans/{}"),
    ("POST", "/plans/{}/cancel"),
    ("POST", "/plans/{}/again"),
    ("POST", "/plans/{}/start"),
)


def test_a_foreign_plan_is_answered_as_an_unknown_one(server: Server) -> None:
    rules = {
        rule.rule for rule in server.app.url_map.iter_rules() if rule.rule.startswith("/plans/")
    }
    assert rules == {path.format("<plan>") for _, path in OPERATIONS}
    id = server.ask("POST", "/plans", server.order())[1]["id"]
    for method, path in OPERATIONS:
        answers = []
        for name in (id, UNKNOWN, "1"):
            status, problem = server.ask(method, path.format(name), caller="other submit")
            members = {**problem, "instance": ""}
            answers.append((status, json.dumps(members).replace(name, "")))
        assert answers[0] == answers[1] == answers[2] and answers[0][0] == 404, path
        if method != "GET":
            assert server.ask(method, path.format(id), caller="acme read")[0] == 403, path
    assert server.ask("POST", "/plans", server.order(), caller="acme read")[0] == 403
    assert server.ask("GET", f"/plans/{id}", caller="other admin")[0] == 200


def test_a_token_plans_only_what_it_may_name(server: Server) -> None:
    _, server.tokens["narrow"] = server.works.ledger.tokens.create(
        "narrow", tenant="acme", scope=Scope.SUBMIT, limits=TokenLimits()
    )
    status, problem = server.ask("POST", "/plans", server.order(), caller="narrow")
    assert status == 403 and "may not name folders" in problem["detail"]
