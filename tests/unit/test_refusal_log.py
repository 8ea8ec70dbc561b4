"""Which line of the log each refused request has, by a real application."""

from __future__ import annotations

import logging

import pytest
from flask import Flask

from relay.api.app import create_app
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine

TOKEN = "a-token-of-the-tests-0123"
EVIL = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}


@pytest.fixture
def app() -> Flask:
    """Return an application with a token."""
    return create_app(TransferEngine(Settings()), [TOKEN])


@pytest.mark.parametrize(
    ("method", "path", "fields", "expected"),
    [
        ("GET", "/migrations", {}, ("auth.failed", 401, "unauthorized", "/migrations")),
        ("GET", "/migrations", {"Authorization": "Bearer guess"}, ("auth.failed", 401, "unauthorized", "/migrations")),
        ("POST", "/migrate", EVIL, ("csrf.refused", 403, "forbidden", "/migrate")),
        ("GET", "/no/such", {"Authorization": f"Bearer {TOKEN}"}, ("request.refused", 404, None, None)),
        ("GET", "/migrations?no=1", {"Authorization": f"Bearer {TOKEN}"}, ("request.refused", 422, "unknown-member", "/migrations")),
        ("GET", "/healthz", {}, None),
        ("GET", "/migrations", {"Authorization": f"Bearer {TOKEN}"}, None),
    ],
)  # fmt: skip
def test_a_refusal_has_its_line(
    app: Flask,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    fields: dict[str, str],
    expected: tuple[str, int, str | None, str | None] | None,
) -> None:
    """The last one needs the ledger, which is relay's fault and not the request's."""
    with caplog.at_level(logging.INFO, "relay"):
        answer = app.test_client().open(path, method=method, headers=fields)
    found = [(one.getMessage(), one.members) for one in caplog.records]  # type: ignore[attr-defined]
    if expected is None:
        assert found == []
        return
    ((event, members),) = found
    assert (event, members["status"], members["code"], members["route"]) == expected
    assert answer.json is not None
    assert answer.json["instance"] == f"urn:uuid:{members['request']}"
