"""Acceptance A8: every route of the URL map, by every method, from every kind of page, with every
credential. A route without a row fails.

The expected answers are computed here from the specification's six rules, not from the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from flask import Flask, Response
from werkzeug.test import create_environ, run_wsgi_app

from relay.api.access import ACCESS
from relay.api.app import SESSIONS, create_app
from relay.api.ledger_context import ledger_context
from relay.api.proxies import ClientView
from relay.api.sessions import Sessions
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.ledger.ledger import Ledger
from relay.ledger.token_format import new_value
from relay.ledger.token_values import Scope, TokenLimits

HOST = "localhost:8080"
OURS, EVIL = f"http://{HOST}", "https://evil.example"
METHODS = ("GET", "POST", "PATCH", "DELETE")
RARE = ("HEAD", "OPTIONS")
"""Methods that are tried without tokens only: they are treated as GET."""
SAFE = ("GET", "HEAD", "OPTIONS")

PROBE, ANY = "probe", "any token"
ROWS = {
    ("GET", "/"): "open page",
    ("GET", "/healthz"): PROBE,
    ("GET", "/readyz"): PROBE,
    ("GET", "/openapi.json"): "read",
    ("GET", "/metrics"): "admin",
    ("POST", "/migrate"): "submit",
    ("GET", "/migrations"): "read",
    ("GET", "/migrations/<id>"): "read",
    ("PATCH", "/migrations/<id>"): "submit",
    ("GET", "/migrations/<id>/transfers"): "read",
    ("GET", "/migrations/<id>/reasons"): "read",
    ("GET", "/migrations/<id>/events"): "read",
    ("POST", "/migrations/<id>/pause"): "submit",
    ("POST", "/migrations/<id>/resume"): "submit",
    ("POST", "/migrations/<id>/cancel"): "submit",
    ("POST", "/migrations/<id>/retry"): "submit",
    ("POST", "/migrations/<id>/acknowledge"): "submit",
    ("GET", "/migrations/<id>/passes"): "read",
    ("GET", "/migrations/<id>/feed"): "read",
    ("GET", "/migrations/<id>/forecast"): "read",
    ("POST", "/migrations/<id>/abort"): "submit",
    ("POST", "/migrations/<id>/reopen"): "submit",
    ("POST", "/migrations/<id>/finish"): "submit",
    ("POST", "/plans"): "submit",
    ("GET", "/plans"): "read",
    ("GET", "/plans/<plan>"): "read",
    ("DELETE", "/plans/<plan>"): "submit",
    ("POST", "/plans/<plan>/cancel"): "submit",
    ("POST", "/plans/<plan>/again"): "submit",
    ("POST", "/plans/<plan>/start"): "submit",
    ("GET", "/ui"): "read page",
    ("GET", "/ui/"): "read page",
    ("GET", "/ui/new"): "submit page",
    ("POST", "/ui/new"): "submit page",
    ("GET", "/ui/plans"): "read page",
    ("GET", "/ui/plans/<plan>"): "read page",
    ("GET", "/ui/stream/plans/<plan>"): "read",
    ("GET", "/ui/values/plans/<plan>"): "read",
    ("POST", "/ui/plans/<plan>/cancel"): "submit page",
    ("POST", "/ui/plans/<plan>/again"): "submit page",
    ("POST", "/ui/plans/<plan>/start"): "submit page",
    ("POST", "/ui/plans/<plan>/delete"): "submit page",
    ("GET", "/ui/migrations/<id>"): "read page",
    ("GET", "/ui/migrations/<id>/cancel"): "submit page",
    ("POST", "/ui/migrations/<id>/pause"): "submit page",
    ("POST", "/ui/migrations/<id>/resume"): "submit page",
    ("POST", "/ui/migrations/<id>/cancel"): "submit page",
    ("POST", "/ui/migrations/<id>/retry"): "submit page",
    ("POST", "/ui/migrations/<id>/acknowledge"): "submit page",
    ("GET", "/ui/migrations/<id>/credentials"): "submit page",
    ("POST", "/ui/migrations/<id>/credentials"): "submit page",
    ("GET", "/ui/migrations/<id>/objects"): "read page",
    ("GET", "/ui/migrations/<id>/objects/<transfer>"): "read page",
    ("GET", "/ui/migrations/<id>/report.html"): "read",
    ("GET", "/ui/migrations/<id>/report.csv"): "read",
    ("GET", "/ui/migrations/<id>/report.jsonl"): "read",
    ("GET", "/ui/remotes"): "read page",
    ("POST", "/ui/remotes/test"): "submit page",
    ("GET", "/ui/tokens"): "admin page",
    ("POST", "/ui/tokens"): "admin page",
    ("POST", "/ui/tokens/<token>/rotate"): "admin page",
    ("GET", "/ui/tokens/<token>/revoke"): "admin page",
    ("POST", "/ui/tokens/<token>/revoke"): "admin page",
    ("GET", "/ui/settings"): "admin page",
    ("GET", "/ui/health"): "read page",
    ("GET", "/ui/stream"): "read",
    ("GET", "/ui/values"): "read",
    ("GET", "/ui/assets/<name>"): "open",
    ("GET", "/ui/sign-in"): "open page",
    ("POST", "/ui/sign-in"): "open page",
    ("POST", "/ui/sign-out"): "open page",
    ("GET", "/ui/<path:rest>"): "read page",
}
"""The scope that each operation needs, `open` without one; `page` where it answers a browser's
window and takes forms."""


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Where a request comes from, by the fields that a browser adds."""

    fields: dict[str, str]
    changes: bool = False
    """Whether a change from there may pass."""
    reads: bool = True
    """Whether data may be read from there."""
    opens: bool = False
    """Whether it opens a page in a window."""
    names_origin: bool = True


def _metadata(site: str, origin: str | None = None, **more: str) -> dict[str, str]:
    named = {} if origin is None else {"Origin": origin}
    return {"Sec-Fetch-Site": site, **named, **more}


SENDERS = {
    "program": Sender(fields={}, changes=True, names_origin=False),
    "our page": Sender(fields=_metadata("same-origin", OURS), changes=True),
    "our page in an old browser": Sender(fields={"Origin": OURS}, changes=True),
    "another port": Sender(fields=_metadata("same-site", "http://localhost:3000"), reads=False),
    "another site": Sender(fields=_metadata("cross-site", EVIL), reads=False),
    "a link elsewhere": Sender(
        fields=_metadata(
            "cross-site", **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        ),
        reads=False,
        opens=True,
    ),
    "a frame elsewhere": Sender(
        fields=_metadata(
            "cross-site", **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        ),
        reads=False,
    ),
    "a sandbox": Sender(fields=_metadata("cross-site", "null"), reads=False),
    "a site on plain HTTP": Sender(fields={"Origin": "http://evil.example"}),
    "no origin on plain HTTP": Sender(fields={"Origin": "null"}),
    "the address bar": Sender(fields=_metadata("none")),
    "a name that leads here": Sender(
        fields={"Host": "evil.example", **_metadata("same-origin", "http://evil.example")},
        changes=True,
    ),
}

CREDENTIALS = (
    *("nothing", "unknown token", "read token", "submit token", "admin token"),
    *("session", "session without csrf", "session with a wrong csrf", "forged session"),
    "session behind a password",
)
SCOPES = {"read": 1, "submit": 2, "admin": 3}
STRENGTH = {"read token": 1, "submit token": 2, "admin token": 3}


def expected_status(row: str, method: str, name: str, credential: str) -> int:
    """Return 200 for a request that passes, else the status of its refusal."""
    if row == PROBE:
        return 200
    sender, is_session = SENDERS[name], "session" in credential
    if name == "a name that leads here" and (is_session or credential == "no tokens"):
        return 403
    if method in SAFE:
        if not sender.reads and not (sender.opens and "page" in row):
            return 403
    elif not sender.changes or (is_session and not sender.names_origin):
        return 403
    is_open = row.startswith("open")
    if credential in ("nothing", "unknown token", "forged session"):
        return 200 if is_open else 401
    if row != ANY and not is_open and STRENGTH.get(credential, 3) < SCOPES[row.split()[0]]:
        return 403
    if method not in SAFE and credential in ("session without csrf", "session with a wrong csrf"):
        return 403
    return 200


def pass_through(**_: str) -> Response:
    """Answer in place of every view, after the checks that are tested."""
    return Response("passed")


def _empty_page(template: str, status: int = 200, **values: object) -> Response:
    return Response(status=status)


@pytest.fixture
def app(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """Return a server's application whose views all answer 200, with empty pages of errors."""
    monkeypatch.setattr("relay.ui.frame.page", _empty_page)
    engine = TransferEngine(Settings(slots=1))
    made = create_app(engine, (), ledger_context(ledger, Worker(ledger, engine, 1), engine))
    made.view_functions = {name: pass_through for name in made.view_functions}
    return made


def address(path: str) -> str:
    """Return a path that a rule of the URL map fits."""
    return re.sub(r"<[^>]*>", "1", path)


def operations(app: Flask, names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield each path of the URL map with each of some methods, and the need of that."""
    rules: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        rules.setdefault(rule.rule, set()).update(rule.methods or ())
    for path, methods in sorted(rules.items()):
        for method in names:
            known = "GET" if method == "HEAD" else method
            if method in methods:
                yield path, method, ROWS[known, path]
            elif known == "GET" and path.startswith("/ui/"):
                yield path, method, ROWS["GET", "/ui/<path:rest>"]  # "no page has this address"
            else:
                yield path, method, ANY


def headers_for(credential: str, ledger: Ledger, app: Flask) -> dict[str, str]:
    """Return the fields of a credential."""
    if credential in ("no tokens", "nothing"):
        return {}
    if credential == "unknown token":
        return {"Authorization": f"Bearer {new_value('nosuch00')}"}
    scope = credential.split()[0] if credential in STRENGTH else "admin"
    _, value = ledger.tokens.create(
        "tester", tenant="acme", scope=Scope(scope), limits=TokenLimits(requests_per_second=10**6)
    )
    if credential in STRENGTH:
        return {"Authorization": f"Bearer {value}"}
    sessions: Sessions = app.extensions[SESSIONS]
    session = sessions.start(value, ClientView(address="127.0.0.1", host=HOST, prefix=""))
    cookie = session.cookie if credential != "forged session" else f"{session.cookie[:-1]}~"
    csrf = {
        "session": {"X-Relay-CSRF": session.csrf},
        "session behind a password": {"X-Relay-CSRF": session.csrf},
        "session with a wrong csrf": {"X-Relay-CSRF": f"{session.csrf}x"},
    }.get(credential, {})
    basic = {"Authorization": "Basic dXNlcjpwYXNz"} if credential.endswith("password") else {}
    return {"Cookie": f"{sessions.cookie_name}={cookie}; other=1", **csrf, **basic}


def mistakes(
    app: Flask, credential: str, known: dict[str, str], methods: tuple[str, ...] = METHODS
) -> list[str]:
    """Return the requests that are answered otherwise than expected."""
    found = []
    for path, method, row in operations(app, methods):
        # Flask's client would make all of the environment for each of 35,000 requests.
        environ = create_environ(address(path), OURS, method=method)
        for name, sender in SENDERS.items():
            fields = {"Host": HOST, **known, **sender.fields}
            sent = {f"HTTP_{field.upper().replace('-', '_')}": fields[field] for field in fields}
            _, status, headers = run_wsgi_app(app, environ | sent)
            # A path that lacks the method is answered 405 to a sender who passes.
            got = 200 if status.startswith("405") else int(status.split()[0])
            # A page leads a person without a session to the form, in place of a 401.
            if got == 303 and headers["Location"].startswith("/ui/sign-in"):
                got = 401
            wanted = expected_status(row, method, name, credential)
            if got != wanted:
                found.append(f"{method} {path} from {name}: {got}, not {wanted}")
            assert not [f for f, _ in headers if f.lower().startswith("access-control")]
    return found


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_no_foreign_page_acts_or_reads(ledger: Ledger, app: Flask, credential: str) -> None:
    known = headers_for(credential, ledger, app)
    ledger.tokens.create("another", tenant="acme", scope=Scope.READ, limits=TokenLimits())
    assert mistakes(app, credential, known) == []


def test_no_foreign_page_acts_without_tokens(app: Flask) -> None:
    assert mistakes(app, "no tokens", {}, METHODS + RARE) == []


def test_each_route_has_a_row(app: Flask) -> None:
    """In the tables of the code, and in the table of this test."""
    rules = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or ()) - {"HEAD", "OPTIONS"}
    }
    assert rules == set(ROWS)
    assert set(ACCESS) == {row for row in ROWS if not row[1].startswith("/ui")}


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "json"])
def test_the_api_takes_json_only(app: Flask, kind: str) -> None:
    """A form is sent without a preflight; JSON is not."""
    client = app.test_client()
    for method, path in ROWS:
        if method not in SAFE and not path.startswith("/ui"):
            answer = client.open(
                address(path),
                method=method,
                data="a=1",
                headers={"Host": HOST, "Content-Type": kind},
            )
            assert answer.status_code == 415, path
