"""What tabs that stay open take of a browser: Chromium's heap and its nodes of documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.bench.paints import chromium

WARM_SECONDS = 40.0
"""After that time the chart of a migration is drawn, which needs two samples, ten seconds apart."""
TELL_SECONDS = 300.0
"""How often the present figures are printed."""


@dataclass(frozen=True, kw_only=True)
class Tab:
    """What one tab takes, after a collection of garbage."""

    heap: int
    """Bytes of its scripts' objects."""
    nodes: int
    """Number of nodes of its document, and of those that a script holds."""


def measure_tabs(
    base: str, paths: Sequence[str], seconds: float, say: Callable[[str], None]
) -> list[tuple[Tab, Tab]]:
    """Keep a tab of each path open for some seconds, with a first measure after a tenth of them, or
    after WARM_SECONDS; return what each took at first and at last."""
    with chromium() as browser:
        # A window for each: a browser slows the scripts of a tab that is hidden down.
        pages = [browser.new_context().new_page() for _ in paths]
        for page, path in zip(pages, paths, strict=True):
            page.goto(base + path, wait_until="load")
        _wait(pages, min(WARM_SECONDS, seconds / 10))
        first, until = [_measure(page) for page in pages], time.monotonic() + seconds
        while time.monotonic() < until:
            _wait(pages, min(until - time.monotonic(), TELL_SECONDS))
            left = max(0.0, until - time.monotonic()) / 60
            say(f"tabs, {left:.0f} minutes to go: {[_measure(page) for page in pages]}")
        return list(zip(first, [_measure(page) for page in pages], strict=True))


def _wait(pages: Sequence[Any], seconds: float) -> None:
    pages[0].wait_for_timeout(seconds * 1000)


def _measure(page: Any) -> Tab:
    """Return what a page takes now (Chrome DevTools Protocol, domains HeapProfiler and
    Performance)."""
    session = page.context.new_cdp_session(page)
    try:
        session.send("Performance.enable")
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        found = {one["name"]: one["value"] for one in metrics}
        return Tab(heap=int(found["JSHeapUsedSize"]), nodes=int(found["Nodes"]))
    finally:
        session.detach()
