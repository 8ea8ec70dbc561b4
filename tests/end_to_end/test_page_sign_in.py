"""Sign in and out in a real browser, and what a session may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Spec
from relay.ledger.token_values import NO_LIMITS, Scope
from relay.ledger.viewer import DEFAULT_TENANT, Viewer
from tests.end_to_end.browser import Visitor, visit
from tests.end_to_end.page_ledger import ledger_url, open_ledger, pause_tree
from tests.end_to_end.test_serve import SERVE, run_server

UNKNOWN = "This token is not known, has expired or was revoked."


@dataclass(frozen=True)
class Guarded:
    """A server with two tokens, and a migration."""

    base: str
    ledger: Ledger
    tokens: dict[str, str]
    number: int


@pytest.fixture
def token_server(tmp_path: Path, chromium: Any) -> Iterator[Guarded]:
    """Return a server whose ledger has a token that may look and one that may steer."""
    with closing(open_ledger(tmp_path)) as ledger:
        tokens = {
            name: ledger.tokens.create(name, tenant=DEFAULT_TENANT, scope=scope, limits=NO_LIMITS)[
                1
            ]
            for name, scope in (("looker", Scope.READ), ("pilot", Scope.SUBMIT))
        }
        number = pause_tree(ledger, tmp_path, "tree", 3).number
        settings = {"RELAY_LEDGER": ledger_url(tmp_path), "RELAY_LOCAL_FOLDERS": str(tmp_path)}
        with run_server(SERVE, **settings) as server:
            yield Guarded(f"http://{server.host}:{server.port}", ledger, tokens, number)


def sign_in(visitor: Visitor, token: str) -> None:
    """Fill in the form of the page that is open."""
    visitor.page.get_by_label("Token").fill(token)
    visitor.page.get_by_role("button", name="Sign in").click()


def test_e1_sign_in_and_out(token_server: Guarded, chromium: Any) -> None:
    with visit(chromium, token_server.base) as visitor:
        page = visitor.open(f"migrations/{token_server.number}")
        assert visitor.heading() == "Sign in"
        assert page.get_by_role("navigation").count() == 0
        visitor.refusals = 1
        sign_in(visitor, "relay_wrong")
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert alert.inner_text() == UNKNOWN
        sign_in(visitor, token_server.tokens["pilot"])
        # It leads back to the page that the browser asked for first.
        page.wait_for_url(f"**/ui/migrations/{token_server.number}")
        page.get_by_role("button", name="Resume").click()
        page.locator(".badge.succeeded").first.wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/ui/sign-in")
        visitor.open("")
        assert visitor.heading() == "Sign in"


def test_a_looker_sees_no_buttons(token_server: Guarded, chromium: Any) -> None:
    with visit(chromium, token_server.base) as visitor:
        page = visitor.open()
        sign_in(visitor, token_server.tokens["looker"])
        page.wait_for_url("**/ui/")
        assert page.get_by_role("link", name="New").count() == 0
        assert page.get_by_role("link", name="Settings").count() == 0
        visitor.open(f"migrations/{token_server.number}")
        assert page.locator("main").get_by_role("button").count() == 0
        visitor.refusals = 1
        visitor.open("new")
        assert "Your token may look, not change." in page.get_by_role("alert").inner_text()


def test_e19_a_revoked_token_ends_its_session(token_server: Guarded, chromium: Any) -> None:
    with visit(chromium, token_server.base) as visitor:
        page = visitor.open(f"migrations/{token_server.number}")
        sign_in(visitor, token_server.tokens["looker"])
        page.wait_for_url(f"**/ui/migrations/{token_server.number}")
        token_server.ledger.tokens.revoke("looker")
        visitor.refusals = 5  # the script's requests, until the page has noticed
        # The stream of the open page ends, and the page leads to the sign-in by itself.
        page.get_by_role("heading", name="Sign in").wait_for(timeout=40_000)


def test_e19_a_token_is_shown_once_and_revoked(token_server: Guarded, chromium: Any) -> None:
    """An administrator creates it, replaces its value and revokes it; its holder is signed out."""
    _, admin = token_server.ledger.tokens.create(
        "admin", tenant="acme", scope=Scope.ADMIN, limits=NO_LIMITS
    )
    with (
        visit(chromium, token_server.base) as visitor,
        visit(chromium, token_server.base) as holder,
    ):
        page = visitor.open("tokens")
        sign_in(visitor, admin)
        page.wait_for_url("**/ui/tokens")
        page.get_by_label("Name").fill("<b>ci</b>")
        visitor.refusals = 1
        page.get_by_role("button", name="Create").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("Name").fill("ci")
        page.get_by_label("Scope").select_option("read")
        page.get_by_label("Days until it expires").fill("90")
        page.get_by_role("button", name="Create").click()
        page.get_by_text("Copy it now: relay keeps only its hash.").wait_for()
        value = page.locator("#value").inner_text()
        visitor.open("tokens")
        assert value not in page.content()
        assert page.get_by_role("button", name="New value for ci", exact=True).count() == 1
        other = holder.open()
        sign_in(holder, value)
        other.wait_for_url("**/ui/")
        page.get_by_role("button", name="New value for ci").click()
        page.locator("#value").wait_for()
        assert page.locator("#value").inner_text() != value
        page.get_by_role("link", name="Revoke... ci").click()
        page.get_by_role("button", name="Revoke ci").click()
        page.wait_for_url("**/ui/tokens")
        holder.refusals = 5
        other.get_by_role("heading", name="Sign in").wait_for(timeout=40_000)


PROBE = """async ([path, form]) => {
    const csrf = document.querySelector('[name=csrf]').value;
    const post = {method: 'POST', body: new URLSearchParams({csrf})};
    const answer = await fetch(path, form ? post : {});
    return [answer.status, await answer.text()];
}"""


def test_e20_a_tenant_never_sees_another(token_server: Guarded, chromium: Any) -> None:
    """Not in the list, its counts and its search, by no path, by no stream, and by no form."""
    ledger = token_server.ledger
    options = {"recursive": True, "verify": "auto", "if_exists": "changed"}
    for tenant in ("acme", "beta", "beta"):
        ends = (f"old:planted-{tenant}", f"new:planted-{tenant}")
        ledger.create(Spec(*ends, options=options, secret={}, paused=True), tenant=tenant)
    _, value = ledger.tokens.create("a", tenant="acme", scope=Scope.SUBMIT, limits=NO_LIMITS)
    with visit(chromium, token_server.base) as visitor:
        page = visitor.open()
        sign_in(visitor, value)
        page.wait_for_url("**/ui/")
        assert page.locator(".row .num").all_inner_texts() == ["#acme:1"]
        assert page.locator(".tabs .number").all_inner_texts() == ["1", "0", "1", "0", "0"]
        for path in ("", "?group=paused", "remotes", "health", "new", "migrations/acme:1"):
            assert "planted-beta" not in visitor.open(path).content(), path
        assert visitor.open("?q=planted-beta").locator(".row").count() == 0
        theirs = ("beta:1", "beta:2", "default:1")
        paths = ("", "/objects", "/objects/1", "/cancel", "/credentials")
        visitor.refusals = len(theirs) * len(paths)
        for path in (f"migrations/{name}{rest}" for name in theirs for rest in paths):
            visitor.open(path)
            assert visitor.heading() == "There is no such migration", path
        page = visitor.open("migrations/acme:1")
        refused = [
            ("stream?m=beta:1", False),
            ("values?m=beta:1", False),
            ("migrations/beta:1/report.csv", False),
            ("migrations/beta:1/resume", True),
            ("migrations/beta:1/acknowledge", True),
        ]
        visitor.refusals = len(refused)
        for path, is_form in refused:
            status, text = page.evaluate(PROBE, [f"/ui/{path}", is_form])
            assert (status, "planted-beta" in text) == (404, False), path
        status, text = page.evaluate(PROBE, ["/ui/values?list=beta:1,acme:1", False])
        assert status == 200 and "beta" not in text
    assert {one.state for one in ledger.migrations(9, viewer=Viewer(tenant="beta"))} == {"paused"}
