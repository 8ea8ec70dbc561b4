"""What is answered before Flask is answered as Flask would: over the whole URL map, with every kind
of sender, the answer, the counts and the log are the same."""

from __future__ import annotations

import gc
import logging
import re
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client, EnvironBuilder

from relay.api.app import CHECK, SESSIONS, create_app
from relay.api.early_answers import HEALTHY
from relay.api.ledger_context import ledger_context
from relay.api.lingering_close import with_lingering_close
from relay.api.proxies import DIRECT, ClientView, with_client
from relay.api.refusal_limit import RefusalLimit
from relay.api.request_check import DECISION, RequestCheck
from relay.api.sessions import Sessions
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.token_format import new_value
from relay.ledger.token_values import Scope, TokenLimits
from relay.logs.event_table import LOGGER
from relay.tallies import Tallies

METHODS = ("GET", "HEAD", "POST")
PATHS = (
    "/nothing",
    "//",
    "/migrations/",
    "/ui/nothing/at/all",
    "",
    "*",
    "/%ff",
    "/migrations/a%00",
)
"""Paths besides those of the URL map."""
FIELDS: dict[str, dict[str, str]] = {
    "nothing": {"Accept": "*/*"},
    "unknown": {"Authorization": f"Bearer {new_value('nosuch00')}"},
    "no token": {"Authorization": "Basic dXNlcjpwYXNz"},
    "long": {"Authorization": "Bearer " + "a" * 8000},
    "not UTF-8": {"Authorization": "Bearer \u00ff\u00fe"},
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "a socket": {"Connection": "Upgrade", "Upgrade": "websocket"},
}
TOKEN = "planted-token-of-the-file"
SCOPES: dict[str, dict[str, str]] = {
    "read": {},
    "submit": {},
    "admin": {"Content-Type": "text/plain"},
}
"""Further fields of a request with a token of each scope."""
SESSIONS_OF = {"session": "", "forged session": "~"}
"""What is appended to the cookie of a session, which has no CSRF token."""
PASSED = ("/healthz",)
"""What is answered before Flask without being refused."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that one request causes."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes
    counts: dict[str, Any]
    lines: list[dict[str, Any]]


@pytest.fixture
def tallies() -> Tallies:
    """Return the counts of the server."""
    return Tallies()


@pytest.fixture
def app(ledger: Ledger, tallies: Tallies) -> Flask:
    """Return a server's application."""
    engine = TransferEngine(Settings(slots=1), tallies=tallies)
    return create_app(engine, (), ledger_context(ledger, Worker(ledger, engine, 1), engine))


def by_flask(app: Flask) -> Any:
    """Return the application without the answers before Flask."""
    check: RequestCheck = app.extensions[CHECK]

    def flask(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[DECISION] = check.decide(environ)
        return Flask.wsgi_app(app, environ, start_response)

    return with_lingering_close(with_client(flask, DIRECT))


def counts(tallies: Tallies) -> dict[str, Any]:
    """Return the counts of requests."""
    return {
        "requests": dict(tallies.http_requests),
        "refusals": dict(tallies.auth_failures),
        "seconds": {name: sum(one.counts) for name, one in tallies.http_request_seconds.items()},
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what has been counted."""
    return {
        kind: {name: n - before[kind].get(name, 0) for name, n in now.items()}
        for kind, now in after.items()
    }


def ask(
    wsgi: Any, environ: dict[str, Any], tallies: Tallies, caplog: pytest.LogCaptureFixture
) -> Seen:
    """Return what a request causes, without its id."""
    caplog.clear()
    before = counts(tallies)
    body, status, headers = Client(wsgi).run_wsgi_app(environ, buffered=True)
    lines = [{**record.members, "event": record.event} for record in caplog.records]  # type: ignore[attr-defined]
    return Seen(
        status=status,
        headers=sorted(headers),
        body=re.sub(rb"urn:uuid:[0-9a-f-]{36}", b"", b"".join(body)),
        counts={
            kind: {name: number for name, number in one.items() if number}
            for kind, one in difference(before, counts(tallies)).items()
        },
        lines=[{k: v for k, v in line.items() if k != "request"} for line in lines],
    )


def environs(
    app: Flask, fields: dict[str, str], beginning: str = "/"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a request for each path with each method, and its name. Of the URL map, only paths with
    a `beginning`, and those that are not the page's."""
    rules = sorted({re.sub(r"<[^>]*>", "1", rule.rule) for rule in app.url_map.iter_rules()})
    asked = [one for one in rules if one.startswith(beginning) or not one.startswith("/ui")]
    for path in (*asked, *PATHS):
        for method in METHODS:
            made = EnvironBuilder("/", method=method, headers={"Host": "localhost", **fields})
            environ = made.get_environ()
            environ["PATH_INFO"] = path.replace("%ff", "\u00ff").replace("%00", "\0")
            environ["REMOTE_ADDR"] = "203.0.113.9"
            yield f"{method} {path}", environ


def fields_of(name: str, app: Flask, ledger: Ledger) -> dict[str, str]:
    """Return the fields of a kind of sender. The ledger has a token afterwards."""
    limits = TokenLimits(requests_per_second=10**6)
    scope = Scope(name) if name in SCOPES else Scope.READ
    _, value = ledger.tokens.create("tester", tenant="acme", scope=scope, limits=limits)
    if name in SCOPES:
        return {"Authorization": f"Bearer {value}", **SCOPES[name]}
    if name not in SESSIONS_OF:
        return FIELDS[name]
    sessions: Sessions = app.extensions[SESSIONS]
    client = ClientView(address="203.0.113.9", host="localhost", prefix="")
    cookie = sessions.start(value, client).cookie + SESSIONS_OF[name]
    return {"Cookie": f"{sessions.cookie_name}={cookie}", "Origin": "http://localhost"}


@pytest.mark.parametrize("name", [*FIELDS, *SCOPES, *SESSIONS_OF])
def test_flask_would_answer_the_same(
    app: Flask,
    ledger: Ledger,
    tallies: Tallies,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    fields = fields_of(name, app, ledger)
    alone = by_flask(app)
    early = 0
    # Flask answers the refusals of pages either way: all of them are compared once.
    beginning = "/" if name == "nothing" else "/ui/new"
    for what, environ in environs(app, fields, beginning):
        decision = check_of(app).decide(environ)
        is_refused = decision.admission is None or decision.route.error is not None
        if not is_refused and what.partition(" ")[2] not in PASSED:
            continue  # a view answers
        early += 1
        flask = ask(alone, dict(environ), tallies, caplog)
        assert ask(app.wsgi_app, dict(environ), tallies, caplog) == flask, what
        assert flask.status[:3] in ("200", "303", "401", "403", "404", "405", "415"), what
    assert early > 20


def check_of(app: Flask) -> RequestCheck:
    """Return the check of an application."""
    check: RequestCheck = app.extensions[CHECK]
    return check


def test_health_needs_no_flask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a refusal; a page of an error does."""
    app = create_app(TransferEngine(Settings(slots=1)), [TOKEN])

    def request_context(environ: dict[str, Any]) -> Any:
        raise AssertionError("Flask was asked")

    monkeypatch.setattr(app, "request_context", request_context)
    client = app.test_client()
    assert client.get("/healthz").data == HEALTHY.body
    assert client.get("/migrations").status_code == 401
    assert client.post("/nothing").status_code == 401
    with pytest.raises(AssertionError):
        client.get("/ui/")


def token_at(ledger: Ledger, rate: int) -> str:
    """Return a token that may read, with this number of requests a second."""
    limits = TokenLimits(requests_per_second=rate)
    return ledger.tokens.create(f"t{rate}", tenant="acme", scope=Scope.READ, limits=limits)[1]


def test_short_refusals_beyond_the_limit(ledger: Ledger, tallies: Tallies) -> None:
    """Of a page too, and of a sign-in; a caller at the same address is answered."""
    engine = TransferEngine(Settings(slots=1), tallies=tallies)
    works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
    app = create_app(engine, (), works, limit=RefusalLimit(1, lambda: 0.0))
    known = {"Authorization": f"Bearer {token_at(ledger, 10**6)}"}
    client = app.test_client()
    assert [client.get("/migrations").status_code for _ in range(3)] == [401, 401, 429]
    short = client.get("/ui/new")
    assert (short.status_code, short.mimetype) == (429, "application/problem+json")
    assert (short.headers["Retry-After"], short.headers["Connection"]) == ("1", "close")
    assert client.post("/ui/sign-in", data={"token": "x"}).status_code == 429
    assert client.get("/ui/sign-in").status_code == 200
    assert client.get("/ui/", headers=known).status_code == 200
    assert client.get("/nothing", headers=known).status_code == 404
    other = {"REMOTE_ADDR": "203.0.113.9"}
    assert client.get("/migrations", environ_base=other).status_code == 401


def test_a_valid_token_keeps_its_own_refusals(ledger: Ledger, tallies: Tallies) -> None:
    """They take no answer from others of the address, nor does a flood of others change them."""
    engine = TransferEngine(Settings(slots=1), tallies=tallies)
    works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
    app = create_app(engine, (), works, limit=RefusalLimit(1, lambda: 0.0))
    client = app.test_client()
    fast, slow = ({"Authorization": f"Bearer {token_at(ledger, rate)}"} for rate in (10**6, 1))

    def check_own_refusals() -> None:
        answers = [client.get("/migrations", headers=slow) for _ in range(9)]
        assert answers[-1].status_code == 429 and b"of this address" not in answers[-1].data
        for method, path in (("POST", "/migrations/1/cancel"), ("GET", "/ui/tokens")):
            assert client.open(path, method=method, headers=fast).status_code == 403

    check_own_refusals()
    assert [client.get("/migrations").status_code for _ in range(3)] == [401, 401, 429]
    check_own_refusals()


def test_refusals_by_flask_count(ledger: Ledger, tallies: Tallies) -> None:
    """A person who is led to the form, and a wrong token in it."""
    engine = TransferEngine(Settings(slots=1), tallies=tallies)
    works = ledger_context(ledger, Worker(ledger, engine, 1), engine)
    app = create_app(engine, [TOKEN], works, limit=RefusalLimit(1, lambda: 0.0))
    client = app.test_client()
    assert client.get("/ui/").status_code == 303
    assert client.post("/ui/sign-in", data={"token": "x"}).status_code == 401
    assert client.get("/migrations").status_code == 429


class Noticed:
    """A value in an environ, whose end is noticed."""


@pytest.mark.parametrize("path", ["/migrations", "/nothing", "/healthz"])
def test_a_refused_request_leaves_nothing_to_the_collector(path: str) -> None:
    """A flood would fill the memory until it runs."""
    app = create_app(TransferEngine(Settings(slots=1)), [TOKEN])
    environ = EnvironBuilder(path).get_environ()
    environ["noticed"] = Noticed()
    end = weakref.ref(environ["noticed"])
    gc.disable()
    try:
        assert b"".join(app.wsgi_app(environ, lambda *_: lambda _: None))
        del environ
        assert end() is None
    finally:
        gc.enable()


def test_no_path_is_redirected(app: Flask) -> None:
    """The check looks for routes under no host, so that a redirect would lead nowhere."""
    check = check_of(app)
    for what, environ in environs(app, {}):
        error = check.decide(environ).route.error
        assert error is None or error.code in (404, 405), what
