"""The page while its server is killed, and after it is back."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from loadtests.bench.ports import free_ports
from tests.end_to_end.browser import visit
from tests.end_to_end.page_ledger import ledger_url
from tests.end_to_end.test_serve import SERVE, run_server

MANY_REFUSALS = 1000
"""Each attempt to connect again is an error on the console of the browser."""


@pytest.mark.campaign
def test_e14_the_server_is_killed_and_is_back(tmp_path: Path, chromium: Any) -> None:
    """The page says since when its values are old, and goes on by itself; so does the migration,
    and a plan that was left is there."""
    (port,) = free_ports(1)
    source = tmp_path / "from"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.bin").write_bytes(b"z" * 2_000_000)
    settings = {
        "RELAY_LEDGER": ledger_url(tmp_path),
        "RELAY_LOCAL_FOLDERS": str(tmp_path),
        "RELAY_BIND": f"127.0.0.1:{port}",
    }
    with visit(chromium, f"http://127.0.0.1:{port}") as visitor:
        visitor.refusals = MANY_REFUSALS
        with run_server(SERVE, **settings) as server:
            page = visitor.open("new")
            page.locator("#source_path").fill(f"file://{source}/")
            page.locator("#destination_path").fill(f"file://{tmp_path}/to/")
            page.locator("[name=rate]").fill("1")
            page.get_by_role("button", name="Plan first").last.click()
            page.get_by_text("3 objects, 6.00").wait_for()
            plan = page.url.rpartition("/")[2]
            page.get_by_role("button", name="Start", exact=True).click()
            page.wait_for_url(re.compile(r"/ui/migrations/1$"))
            page.locator(".facts .strong", has_text="MB/s").wait_for()
            server.process.send_signal(signal.SIGKILL)
            connection = page.locator("#connection")
            page.locator("body.stale").wait_for(timeout=30_000)
            text = connection.inner_text()
            pattern = r"Connection lost \d+ s ago\. Values are from .+\. Trying again\."
            assert re.fullmatch(pattern, text), text
        with run_server(SERVE, **settings) as server:
            page.locator("body:not(.stale)").wait_for(timeout=30_000)
            connection.wait_for(state="hidden")
            page.locator(".badge.succeeded").first.wait_for(timeout=40_000)
            assert len(list((tmp_path / "to").iterdir())) == 3
            page = visitor.open("plans")
            page.locator("tbody a").click()
            page.wait_for_url(f"**/plans/{plan}")
            page.get_by_role("link", name="migration #1").wait_for()


@pytest.mark.campaign
def test_a_plan_survives_a_killed_server(tmp_path: Path) -> None:
    """Another process makes it, from the beginning; here the source never answers."""
    settings = {"RELAY_LEDGER": ledger_url(tmp_path), "RELAY_LOCAL_FOLDERS": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as source:
        source.settimeout(60)
        form = {
            "do": "plan",
            "key": "page-1",
            "source_path": f"http://127.0.0.1:{source.getsockname()[1]}/from/",
            "destination_path": f"file://{tmp_path}/to/",
            "tree": "1",
            "if_exists": "changed",
            "verify": "auto",
        }
        with run_server(SERVE, **settings) as server:
            base = f"http://127.0.0.1:{server.port}/ui"
            with urlopen(f"{base}/new", urlencode(form).encode(), timeout=30) as page:
                path = page.url.removeprefix(base)
            first, _ = source.accept()
            server.process.send_signal(signal.SIGKILL)
        with closing(first), run_server(SERVE, **settings) as server:
            second, _ = source.accept()
            with closing(second), urlopen(f"http://127.0.0.1:{server.port}/ui{path}") as page:
                assert "Planning" in page.read().decode()
