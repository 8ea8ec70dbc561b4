"""What a browser sees of a page: its first paint, and what it loads. Chromium, cold each time."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

SETTLE_MS = 500
"""How long after its load event a page may still ask for something."""
WAIT_FOR_PAINT = """() => new Promise((done) => {
  const look = () => {
    const found = performance.getEntriesByName('first-contentful-paint')[0];
    if (found) done(found.startTime); else setTimeout(look, 20);
  };
  look();
})"""


@dataclass(eq=False)
class Load:
    """One load of a page, by a browser that has nothing of it."""

    paint_ms: float = 0.0
    urls: set[str] = field(default_factory=set)
    """What was asked of the server: the second time a browser takes an asset from its cache."""
    html: int = 0
    assets: dict[str, int] = field(default_factory=dict)
    """The size of each asset, compressed by gzip."""


@dataclass(frozen=True, kw_only=True)
class Paint:
    """A page in the median of its loads."""

    paint_ms: float
    requests: int
    html: int
    assets: int


def has_chromium() -> bool:
    """Return whether Chromium and playwright are installed."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return False
    return shutil.which("chromium") is not None


@contextmanager
def chromium() -> Iterator[Any]:
    """Run the browser for the time of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def measure_paints(base: str, paths: Sequence[str], rounds: int) -> list[Paint]:
    """Load each path `rounds` times, in turn, and return the costs of each."""
    with chromium() as browser:
        _load(browser, base + paths[0])  # the browser's own first page costs more
        loads = [[_load(browser, base + path) for path in paths] for _ in range(rounds)]
    return [_median([turn[number] for turn in loads]) for number in range(len(paths))]


def _median(loads: Sequence[Load]) -> Paint:
    return Paint(
        paint_ms=median(one.paint_ms for one in loads),
        requests=max(len(one.urls) for one in loads),
        html=max(one.html for one in loads),
        assets=max(sum(one.assets.values()) for one in loads),
    )


def _load(browser: Any, url: str) -> Load:
    context, load = browser.new_context(), Load()
    try:
        page = context.new_page()
        page.on("request", lambda request: load.urls.add(request.url))
        page.on("response", lambda response: found.append(response))
        found: list[Any] = []
        page.goto(url, wait_until="load")
        load.paint_ms = page.evaluate(WAIT_FOR_PAINT)
        page.wait_for_timeout(SETTLE_MS)
        for response in found:
            if response.url == url:
                load.html = len(response.body())
            elif "/assets/" in response.url:
                load.assets[response.url] = len(gzip.compress(response.body()))
        return load
    finally:
        context.close()
