"""Who may read `/metrics`, and what requests to relay count as."""

from __future__ import annotations

import pytest

from relay.api.access import access_of
from relay.api.app import METRICS_TYPE, create_app
from relay.api.caller import SCRAPER
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.ledger.token_values import Scope
from relay.ledger.totals import REASONS, Totals
from relay.metrics.exposition import TotalsCache

TOKEN = "a-scraper-0123456789"


class Numbers:
    """The metrics of a process, of which only the text is asked."""

    def run(self) -> None:
        """Do nothing."""

    def publish(self) -> None:
        """Do nothing."""

    def text(self) -> bytes:
        """Return an answer."""
        return b"relay_workers 1\n"


@pytest.fixture
def engine() -> TransferEngine:
    """Return an engine that moves nothing."""
    return TransferEngine(Settings())


def test_this_machine_reads_them_without_tokens(engine: TransferEngine) -> None:
    """As every other path of a server without tokens."""
    client = create_app(engine, metrics=Numbers()).test_client()
    found = client.get("/metrics", headers={"Host": "localhost"})
    assert (found.status_code, found.data) == (200, b"relay_workers 1\n")
    assert found.headers["Content-Type"] == METRICS_TYPE
    assert client.get("/metrics", headers={"Host": "example.org"}).status_code == 403
    forwarded = {"Host": "localhost", "X-Forwarded-For": "203.0.113.1"}
    assert client.get("/metrics", headers=forwarded).status_code == 403


def test_the_scope_admin_is_needed() -> None:
    """The numbers are of all tenants; a token of the ledger is in the test of a real server."""
    access = access_of("GET", "/metrics")
    assert (access.scope, access.is_page, access.is_probe) == (Scope.ADMIN, False, False)
    assert not SCRAPER.scopes


def test_a_process_without_metrics_says_so(engine: TransferEngine) -> None:
    """A 503 with the reason, not an empty answer that looks like an idle server."""
    found = create_app(engine).test_client().get("/metrics", headers={"Host": "localhost"})
    assert (found.status_code, found.json and found.json["detail"]) == (
        503,
        "this server keeps no metrics",
    )


def test_requests_count_by_route_and_class(engine: TransferEngine) -> None:
    """Never by the path that was asked for."""
    client = create_app(engine, metrics_tokens=[TOKEN]).test_client()
    for path, host in (
        ("/healthz", "localhost"),
        ("/migrations/7", "localhost"),
        ("/secret/path", "localhost"),
        ("/migrations", "example.org"),
    ):
        client.get(path, headers={"Host": host})
    assert dict(engine.tallies.http_requests) == {
        ("/healthz", "2xx"): 1,
        ("/migrations/<id>", "5xx"): 1,
        ("other", "4xx"): 1,
        ("/migrations", "4xx"): 1,
    }
    assert set(engine.tallies.http_request_seconds) == {
        (route,) for route, _ in engine.tallies.http_requests
    }
    assert dict(engine.tallies.auth_failures) == {("forbidden",): 1}


def test_the_ledger_is_asked_once_in_a_while() -> None:
    """However often Prometheus asks; a ledger that fails is asked again then, and hides no other
    number."""
    now, asked = [100.0], []

    def read() -> Totals:
        asked.append(now[0])
        zero = dict.fromkeys(REASONS, 0)
        return Totals(states={"running": len(asked)}, attention=zero, bytes=1, free_bytes=None)

    totals_cache = TotalsCache(read, 5.0, lambda: now[0])
    for moment in (100.0, 101.0, 104.9, 105.0, 105.1):
        now[0] = moment
        assert totals_cache.latest() is not None
    assert asked == [100.0, 105.0]
