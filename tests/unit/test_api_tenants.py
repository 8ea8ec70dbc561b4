"""Tenants over HTTP (A9): on every operation a foreign migration is answered as one that does not
exist, in every member but `instance`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import update

import relay.api
import relay.ui
from relay.api.app import create_app
from relay.api.caller import FILE, LOCAL
from relay.api.ledger_context import ledger_context
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import LedgerFailed
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.schema import migrations
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.workers import SERVER
from tests.conftest import LOOPBACK
from tests.ledgers import tokens_of_tenants

TOKEN_OF_FILE = "planted-token-of-the-file"
NEITHER = re.compile(r"urn:uuid:[0-9a-f-]{36}")
"""The one member in which two answers may differ."""
FOREIGN_NUMBER, UNKNOWN_NUMBER = 424242, 535353


@dataclass(frozen=True)
class Server:
    """The application with tokens of two tenants, by tenant and scope, and one of a file."""

    app: Flask
    ledger: Ledger
    tokens: dict[str, str]

    def ask(
        self, caller: str, method: str, path: str, id: str = "\0", **more: Any
    ) -> tuple[int, dict[str, str], str]:
        """Return the status, the fields and the text of an answer, without the `id` that was
        sent."""
        headers = {
            "Authorization": f"Bearer {self.tokens[caller]}",
            "Accept": "text/html" if path.startswith("/ui/") else "*/*",
            **more.pop("headers", {}),
        }
        response = self.app.test_client().open(path, method=method, headers=headers, **more)
        fields = {name: value for name, value in response.headers if name != "Content-Length"}
        return response.status_code, fields, NEITHER.sub("", response.text).replace(id, "ID")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return the server."""
    ledger = Ledger.connect(f"sqlite:///{tmp_path}/relay.db", SERVER)
    ledger.leases.renew()
    limits = TokenLimits(requests_per_second=100_000)
    tokens = tokens_of_tenants(ledger, limits)
    engine = TransferEngine(Settings(), LOOPBACK)
    works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
    app = create_app(engine, [TOKEN_OF_FILE], works)
    yield Server(app, ledger, {**tokens, "file": TOKEN_OF_FILE})
    engine.wire.pool.close()
    ledger.close()


def accept(ledger: Ledger, tenant: str, where: str) -> Migration:
    """Accept a tree of a tenant, of which one object has failed, and end it."""
    spec = Spec(
        f"https://{where}/from/",
        f"https://{where}/to/",
        options={"recursive": True, "verify": "auto", "if_exists": "changed"},
        secret={"source": {"url": "x"}},
    )
    made, _ = ledger.create(spec, tenant=tenant)
    listing = ledger.listings.claim(made.id)
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a", size=1)], "a")
    ledger.listings.end(listing)
    error = {"code": "not-found", "side": "source", "detail": f"{where} has none"}
    ends = [Settlement(claim, "failed", error=error) for claim in ledger.claims.claim(1, made.id)]
    ledger.claims.settle(ends)
    ledger.finish()
    return ledger.migration(made.id)


def operations(app: Flask) -> list[tuple[str, str]]:
    """Return the methods and paths of the operations on one migration."""
    return sorted(
        (method, re.sub("<(?!id>)[^>]+>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if "<id>" in rule.rule and method != "HEAD"
    )


@pytest.mark.parametrize("scope", Scope)
def test_a_foreign_migration_is_answered_as_an_unknown_one(server: Server, scope: Scope) -> None:
    own = accept(server.ledger, "acme", "ours")
    foreign = accept(server.ledger, "other", "theirs")
    ordinal = update(migrations).where(migrations.c.id == foreign.id)
    server.ledger.database.run(lambda c: c.execute(ordinal.values(ordinal=FOREIGN_NUMBER)))
    foreign = server.ledger.migration(foreign.id)
    sees_all = scope is Scope.ADMIN
    forms = {
        "id": (own.id, foreign.id, str(uuid4())),
        "number": (str(own.number), str(FOREIGN_NUMBER), str(UNKNOWN_NUMBER)),
        "name": (own.name, foreign.name, f"other:{UNKNOWN_NUMBER}"),
    }
    bodies: list[dict[str, Any]] = [{}, {"json": {"unknown": 1}}, {"data": "{"}]
    assert len(operations(server.app)) >= 20
    for method, rule in operations(server.app):
        for form, ids in forms.items():
            for body in bodies if method != "GET" else bodies[:1]:
                ours, theirs, unknown = (
                    server.ask(f"acme {scope}", method, rule.replace("<id>", id), id, **body)
                    for id in ids
                )
                where = (method, rule, form, body)
                assert 400 <= unknown[0] < 500, where
                # A number without a tenant is one of the caller's, even if it sees all tenants.
                if sees_all and form != "number":
                    assert theirs[0] != 404 or rule.endswith("/objects/1"), where
                else:
                    assert theirs == unknown, where
                    assert "theirs" not in str(theirs), where
                if method == "GET":
                    assert ours[0] in (200, 403, 404), where
    assert sees_all or server.ledger.migration(foreign.id) == foreign


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "text/csv"])
def test_a_report_without_a_ledger_is_a_problem(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer must not begin before the first rows are read."""
    path = f"/migrations/{accept(server.ledger, 'acme', 'ours').id}/transfers"

    def fail(*_: object) -> None:
        raise LedgerFailed("away")

    monkeypatch.setattr(Ledger, "page", fail)
    status, fields, text = server.ask("acme read", "GET", path, headers={"Accept": kind})
    assert (status, fields["Content-Type"]) == (503, "application/problem+json"), text


@pytest.mark.parametrize("path", ["/migrations", "/ui/"])
def test_lists_and_searches_have_no_foreign_migration(server: Server, path: str) -> None:
    accept(server.ledger, "acme", "ours")
    accept(server.ledger, "other", "theirs")
    queries = ["", "?search=HTTPS", "?search=ours", "?state=failed,partial", "?limit=1"]
    if path == "/ui/":
        queries = ["", "?q=HTTPS", "?q=ours", "?group=needs_you", "?group=ended"]
    for query in queries:
        status, _, text = server.ask("acme read", "GET", path + query)
        assert status == 200 and "ours" in text and "theirs" not in text, query
    name = "q" if path == "/ui/" else "search"
    found = [
        server.ask("acme read", "GET", f"{path}?{name}={text}", text)
        for text in ("theirs", "nothing")
    ]
    assert found[0] == found[1]
    _, _, text = server.ask("acme admin", "GET", path)
    assert "ours" in text and "theirs" in text


def test_pages_of_all_tenants_follow_one_another(server: Server) -> None:
    for tenant in ("acme", "other", "acme", "default"):
        accept(server.ledger, tenant, "any")
    for caller, expected in (("acme read", 2), ("file", 4), ("other admin", 4)):
        path, found = "/migrations?limit=1&search=any&needs_attention=true", []
        while path:
            answer = json.loads(server.ask(caller, "GET", path)[2])
            found += [row["id"] for row in answer["migrations"]]
            path = answer["next"]
        assert len(found) == len(set(found)) == expected, caller


def test_tenants_do_not_share_idempotency_keys(server: Server) -> None:
    made: dict[str, str] = {}
    for name in ("acme submit", "other submit", "file"):
        order = {"source": "http://127.0.0.1:9/a", "destination": f"http://127.0.0.1:9/{name[:4]}"}
        for _ in range(2):
            key = {"Idempotency-Key": "k"}
            status, _, text = server.ask(name, "POST", "/migrate", json=order, headers=key)
            assert status == 202, text
            found = json.loads(text)
            assert (found["number"], made.setdefault(name, found["id"])) == (1, found["id"])
    assert len(set(made.values())) == 3
    tenants = [server.ledger.migration(id).tenant for id in made.values()]
    assert tenants == ["acme", "other", "default"]


@pytest.mark.parametrize("caller", [LOCAL, FILE])
def test_a_caller_of_no_tenant_creates_for_the_default_one(caller: Any) -> None:
    assert caller.viewer == replace(caller.viewer, tenant="default", sees_all=True)


READS = frozenset(
    {
        *("migration", "migrations", "stage_counts"),
        *("find_migrations", "migrations_by_name", "group_counts"),
    }
)
"""The methods of Ledger that find migrations for a caller."""
READS_OF_PLANS = frozenset({"one", "newest"})
"""The same of PlanLedger."""


@pytest.mark.parametrize("package", [relay.api, relay.ui])
def test_every_read_for_a_caller_names_its_viewer(package: Any) -> None:
    """Everything else takes the id of a migration that such a read has returned."""
    for path in sorted(Path(package.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            of = ast.unparse(node.func.value)
            if node.func.attr in READS_OF_PLANS and of.endswith("plans"):
                assert "viewer" in ast.unparse(node), (path.name, node.lineno)
            if node.func.attr in READS and ast.unparse(node.func.value).endswith("ledger"):
                is_known = ast.unparse(node).endswith("ledger.migration(migration.id)")
                assert is_known or "viewer" in ast.unparse(node), (path.name, node.lineno)
