"""What a page says where its values are not live: no stream is free, or the ledger is away."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.ledger.ledger import Ledger
from relay.ledger.workers import SERVER
from tests.end_to_end.browser import visit
from tests.end_to_end.page_ledger import ledger_url, open_ledger, pause_tree
from tests.end_to_end.test_serve import SERVE, run_server
from tests.postgres import postgresql, programs

AWAY = re.compile(
    r"The ledger does not answer since \d\d:\d\d UTC \([a-z-]+\)\. Transfers under way go on;"
    r" nothing new starts\."
)


def test_a_page_without_a_stream_polls(tmp_path: Path, chromium: Any) -> None:
    """Its values are as fresh as it says, and its buttons work."""
    with closing(open_ledger(tmp_path)) as ledger:
        number = pause_tree(ledger, tmp_path, "tree", 3).number
        ledger.leases.leave()
    settings = {"RELAY_LEDGER": ledger_url(tmp_path), "RELAY_LOCAL_FOLDERS": str(tmp_path)}
    with run_server(SERVE, RELAY_STREAMS="1", **settings) as server:
        base = f"http://{server.host}:{server.port}"
        with visit(chromium, base) as first, visit(chromium, base) as second:
            with first.page.expect_response("**/ui/stream?*"):
                first.open(f"migrations/{number}")
            # There is one stream, and the first page has it. The second page may load itself while
            # the migration runs, and asks again.
            second.refusals = 2
            page = second.open(f"migrations/{number}")
            page.get_by_text(
                "Live updates are not available here. Refreshing every 10 s."
            ).wait_for()
            assert server.ask("POST", f"/migrations/{number}/resume")[0] == 200
            page.locator(".badge.succeeded").first.wait_for(timeout=30_000)
            first.page.locator(".badge.succeeded").first.wait_for()


@pytest.mark.timeout(180)
@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed (Debian: postgresql)")
def test_e24_a_ledger_that_is_away(tmp_path: Path, chromium: Any) -> None:
    """An open page says so and keeps its values; another one is an error page. Both come back."""
    with postgresql() as database:
        url = database.database()
        with closing(Ledger.connect(url, SERVER)) as ledger:
            ledger.leases.renew()
            number = pause_tree(ledger, tmp_path, "tree", 3).number
            ledger.leases.leave()
        settings = {"RELAY_LEDGER": url, "RELAY_LOCAL_FOLDERS": str(tmp_path)}
        with run_server(SERVE, **settings) as server:
            base = f"http://{server.host}:{server.port}"
            with visit(chromium, base) as watcher, visit(chromium, base) as visitor:
                page = watcher.open(f"migrations/{number}")
                page.get_by_text("Paused. Nothing is under way.").wait_for()
                watcher.refusals = 1  # its stream, if that was not open yet
                database.control("stop", "-m", "fast")
                page.locator("#connection", has_text=AWAY).wait_for(timeout=30_000)
                assert page.locator(".badge.paused").count() == 1
                visitor.refusals = 1
                other = visitor.open()
                assert AWAY.search(other.get_by_role("alert").inner_text())
                assert "Something needs a look" in other.locator("footer").inner_text()
                database.restart()
                page.locator("#connection").wait_for(state="hidden", timeout=30_000)
                visitor.open()
                assert visitor.heading() == "Migrations"
                page.get_by_role("button", name="Resume").click()
                page.locator(".badge.succeeded").first.wait_for(timeout=30_000)
