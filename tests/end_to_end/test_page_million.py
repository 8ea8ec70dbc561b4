"""The pages of a migration of a million objects, in a real browser. `make bench-page` measures the
time that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtests.bench.large_ledger import LedgerSize, fill_ledger
from tests.end_to_end.browser import visit
from tests.end_to_end.page_ledger import ledger_url, open_ledger
from tests.end_to_end.test_serve import SERVE, run_server

SIZE = LedgerSize(migrations=10_000, objects=1_000_000)
FAILED = SIZE.objects * 4 // 5 // 100


@pytest.mark.campaign
@pytest.mark.timeout(300)
def test_e13_a_million_objects(tmp_path: Path, chromium: Any) -> None:
    """Each page has a hundred of them, and says how many there are."""
    open_ledger(tmp_path).close()
    fill_ledger(ledger_url(tmp_path), SIZE)
    with (
        run_server(SERVE, RELAY_LEDGER=ledger_url(tmp_path)) as server,
        visit(chromium, f"http://{server.host}:{server.port}") as visitor,
    ):
        page = visitor.open(f"migrations/{SIZE.large}")
        assert f"of {SIZE.objects:,} objects" in page.locator(".facts").inner_text()
        page.get_by_role("link", name="See all").first.click()
        page.wait_for_url("**/objects?state=failed&reason=*")
        names = page.locator("tbody th").all_inner_texts()
        assert len(names) == 100
        page.goto(f"{page.url.partition('?')[0]}?after={SIZE.objects // 2}")
        middle = page.locator("tbody th").all_inner_texts()
        assert len(middle) == 100 and not set(middle) & set(names)
        page.get_by_role("link", name="Next").click()
        page.wait_for_url("**after=*")
        assert not set(page.locator("tbody th").all_inner_texts()) & set(middle)
        page.locator("tbody th a").first.click()
        page.wait_for_url(f"**/migrations/{SIZE.large}/objects/*")
        assert visitor.heading()
