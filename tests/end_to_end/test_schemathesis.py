"""Acceptance A6: requests that schemathesis makes of the OpenAPI document, valid and invalid ones,
alone and in sequences along its links, with a token of each scope. No answer is a 5xx, none is
undocumented, and bad data is refused.

The server is a real one: some of the answers to bad requests are gunicorn's, and it has a core of
its own while schemathesis makes the next request."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema
from schemathesis.hooks import unregister

from relay.api.openapi import document
from relay.ledger.ledger import Ledger
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.workers import SERVER
from tests.end_to_end.test_serve import SERVE, run_server
from tests.postgres import postgresql, programs

CASES = 5000
"""The number of requests that A6 asks for, of all scopes together."""
TAKES_PLACES = ("migrate", "make_plan", "start_plan", "resume", "retry")
"""Operations whose text is a URL, or a header: not every text that the document permits is one."""
ENDS = ("source", "destination", "list")


@dataclass(frozen=True)
class Server:
    """A running server: its URL, its folder, and a token of each scope."""

    url: str
    home: Path
    tokens: Mapping[Scope, str]


@dataclass
class Findings:
    """What a run of schemathesis has found."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """The number of answers by operation and status."""
    faults: dict[str, str] = field(default_factory=dict)
    """One example of each kind of fault."""

    def note(self, event: Any) -> None:
        """Add what an event of the run tells."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.faults[f"error: {vars_of(event)}"] = ""
        if isinstance(event, events.EngineFinished):
            self.faults |= {f"{one.title}: {one.message}": "" for one in event.failures}
        if not isinstance(event, events.ScenarioFinished):
            return
        recorder = event.recorder
        for id, interaction in recorder.interactions.items():
            if interaction.response is not None:
                label = recorder.cases[id].value.operation.label
                self.statuses[label, interaction.response.status_code] += 1
        for id, checks in recorder.checks.items():
            label = recorder.cases[id].value.operation.label
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    kind = f"{label}: {failure.title}: {failure.message}"
                    self.faults.setdefault(kind, check.failure_info.code_sample)


def vars_of(event: Any) -> str:
    """Return an error of schemathesis itself."""
    return repr(getattr(event, "value", None) or getattr(event, "exception", None))


@contextmanager
def run_with_tokens(home: Path, ledger_url: str) -> Iterator[Server]:
    """Run a server whose folder has some empty objects: a limit of one byte a second, which the
    document permits, delays none of them."""
    (home / "to").mkdir()
    for name in ("a", "b", "c/d"):
        path = home / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    limits = TokenLimits(local=True, requests_per_second=100_000)
    with closing(Ledger.connect(ledger_url, SERVER)) as ledger:
        made = {
            scope: ledger.tokens.create(scope, tenant="acme", scope=scope, limits=limits)[1]
            for scope in Scope
        }
    # A stream that the client has left keeps its place until a write fails.
    settings = {"RELAY_STREAMS": "10000", "RELAY_TOKEN_STREAMS": "10000"}
    settings |= {"RELAY_LEDGER": ledger_url, "RELAY_LOCAL_FOLDERS": str(home)}
    with run_server(SERVE, **settings) as running:
        yield Server(f"http://{running.host}:{running.port}", home, made)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server whose ledger is a file."""
    home = tmp_path_factory.mktemp("home")
    with run_with_tokens(home, f"sqlite:///{home}/relay.db") as running:
        yield running


@pytest.fixture(scope="module")
def server_on_postgres(
    tmp_path_factory: pytest.TempPathFactory, server: Server
) -> Iterator[Server]:
    """Return a server whose ledger is in PostgreSQL, which takes fewer texts than SQLite; the other
    one where that is not installed."""
    if programs() is None:
        yield server
        return
    home = tmp_path_factory.mktemp("home")
    with postgresql() as database, run_with_tokens(home, database.database()) as running:
        yield running


def run(
    server: Server, scope: Scope, described: dict[str, Any], seed: int, **phases: Any
) -> Findings:
    """Run schemathesis with a token of a scope."""
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "base-url": server.url,
            "headers": {"Authorization": f"Bearer {server.tokens[scope]}"},
            "continue-on-failure": True,
            "request-timeout": 30,
            "max-stream-events": 1,
            "cache": {"enabled": False},
            "generation": {
                "database": "none",
                "no-shrink": True,
                "with-security-parameters": False,
            },
            "phases": {"examples": {"enabled": False}, **phases},
            "operations": [
                {
                    "include-operation-id": list(TAKES_PLACES),
                    "checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}},
                },
                {
                    # A feed says 410 for a row that it never had.
                    "include-operation-id": "feed",
                    "checks": {
                        "positive_data_acceptance": {"expected-statuses": [*ACCEPTED, "410"]}
                    },
                },
            ],
        }
    )
    schema = schemathesis.openapi.from_dict(described, config=config)
    chooser = random.Random(seed)

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        """Name places that exist, mostly, and ask for each kind of answer."""
        if isinstance(case.body, dict):
            for end in ENDS:
                case.body = with_place(server.home, case.body, end, chooser)
        kinds = [
            kind
            for answer in case.operation.definition.raw["responses"].values()
            for kind in answer.get("content", ())
        ]
        case.headers["Accept"] = chooser.choice(["*/*", *kinds])
        if case.operation.definition.raw["operationId"] == "migrate" and chooser.random() < 0.5:
            case.headers["Prefer"] = "respond-async"
            # Its state then allows the calls that follow.
            if isinstance(case.body, dict) and isinstance(case.body.get("paused", False), bool):
                case.body = {**case.body, "paused": True}

    found = Findings()
    schemathesis.hook(before_call)
    try:
        for event in from_schema(schema).execute():
            found.note(event)
    finally:
        unregister(before_call)
    return found


ACCEPTED = ["2xx", "401", "403", "404", "409", "422", "429"]


def with_place(
    home: Path, body: dict[str, Any], end: str, chooser: random.Random
) -> dict[str, Any]:
    """Return a body whose text of one end names a place, in seven of eight cases."""
    given = body.get(end)
    is_tree = body.get("recursive") is True
    if end == "destination":
        text = f"file://{home}/to/{'' if is_tree else chooser.randrange(100)}"
    else:
        names = ("from/", "from/c/") if is_tree else ("from/a", "from/b", "from/c/d", "nothing")
        text = f"file://{home}/{chooser.choice(names)}"
    if chooser.random() < 1 / 8:
        return body
    if isinstance(given, str):
        return {**body, end: text}
    if isinstance(given, dict) and isinstance(given.get("url"), str):
        return {**body, end: {**given, "url": text}}
    return body


def test_some_requests_of_each_operation(server: Server) -> None:
    few = {"generation": {"max-examples": 2}}
    found = run(
        server,
        Scope.ADMIN,
        document(),
        1,
        coverage={"enabled": False},
        fuzzing=few,
        stateful={"max-steps": 8, **few},
    )
    assert not found.faults
    assert {label for label, _ in found.statuses} == labels(document())


def test_an_undocumented_answer_is_found(server: Server) -> None:
    described = document()
    described["paths"] = {path: described["paths"][path] for path in ("/migrations/{id}/reasons",)}
    del described["paths"]["/migrations/{id}/reasons"]["get"]["responses"]["404"]
    del described["components"]["links"]
    few = {"generation": {"max-examples": 2}}
    off = {"enabled": False}
    found = run(server, Scope.READ, described, 1, coverage=off, fuzzing=few, stateful=off)
    assert [one for one in found.faults if "Received: 404" in one]


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_thousands_of_requests_with_each_scope(server: Server, server_on_postgres: Server) -> None:
    statuses: Counter[tuple[str, int]] = Counter()
    many = {"generation": {"max-examples": 32}}
    for scope in Scope:
        one = server_on_postgres if scope is Scope.ADMIN else server
        found = run(one, scope, document(), 2, fuzzing=many, stateful=many)
        assert not found.faults, scope
        assert {label for label, _ in found.statuses} == labels(document())
        statuses += found.statuses
    assert sum(statuses.values()) >= CASES
    # A 409 is of a migration or a plan that is there, whose state a worker has changed meanwhile.
    reached = {label for label, status in statuses if status < 400 or status == 409}
    assert reached == labels(document())


def labels(described: Mapping[str, Any]) -> set[str]:
    """Return each operation as schemathesis names it."""
    return {
        f"{method.upper()} {path}"
        for path, operations in described["paths"].items()
        for method in operations
    }
