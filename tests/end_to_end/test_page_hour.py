"""An hour of live values in one tab: the browser keeps no more of them than of a minute.

The events of an hour come at once, as the page's own stream brings them: one a second with texts, a
bar and the moving objects, each tenth with a point of the chart. `make bench-page` keeps a tab open
for as long as its `--tab-seconds` say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.browser import visit
from tests.end_to_end.test_serve import SERVE, Server, run_server

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(180)]

MINUTE, HOUR = 60, 3600
MOST_HEAP = 5_000_000
"""The most that an hour adds to the heap, in bytes."""
KEEP_STREAMS = """
const Source = window.EventSource;
window.streams = [];
window.EventSource = class extends Source {
  constructor(...words) { super(...words); window.streams.push(this); }
};
"""
SEND = """async ([from, until]) => {
  const names = [...document.querySelectorAll('[data-live]')].map((one) => one.dataset.live);
  const began = Math.floor(Date.now() / 1000);
  for (let second = from; second < until; second += 1) {
    const rows = [];
    for (let one = 0; one < second % 33; one += 1)
      rows.push([`photos/${second}/${one}.jpg`, second % 100, 'copying', `${second} MB/s`, '']);
    const news = { texts: {}, bars: { bar: [second % 100, `${second} per cent`] }, rows };
    for (const name of names) news.texts[name] = `${name} ${second}`;
    if (second % 10 === 0) news.points = [[began + second, second * 1e6, second * 1e5]];
    streams.at(-1).dispatchEvent(new MessageEvent('set', { data: JSON.stringify(news) }));
    if (second % 30 === 0) await new Promise(requestAnimationFrame);
  }
}"""


@pytest.mark.parametrize("has_table", [False, True])
def test_an_hour_of_events_is_not_kept(tmp_path: Path, chromium: Any, has_table: bool) -> None:
    """Where a person opened the chart's table, it has a row for each point of an hour."""
    source = tmp_path / "from"
    source.mkdir()
    with (source / "large").open("wb") as file:
        file.truncate(1 << 30)
    settings = {"RELAY_LOCAL_FOLDERS": str(tmp_path)}
    with (
        run_server(SERVE, **settings) as server,
        visit(chromium, f"http://{server.host}:{server.port}") as visitor,
    ):
        number = start_slowly(server, tmp_path)
        page = visitor.page
        page.add_init_script(KEEP_STREAMS)
        visitor.open(f"migrations/{number}")
        page.wait_for_function("streams.length > 0")
        page.evaluate(SEND, [0, MINUTE])
        if has_table:
            page.get_by_text("The chart as a table").click()
        before = measure(page)
        page.evaluate(SEND, [MINUTE, HOUR])
        page.evaluate(SEND, [HOUR - 1, HOUR])
        after = measure(page)
        assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < MOST_HEAP, (before, after)
        rows = page.locator("#chart-rows tr").count()
        assert rows == (HOUR // 10 if has_table else 0)
        most = 7 * rows + 600  # seven nodes a row; the moving objects differ
        assert abs(after["Nodes"] - before["Nodes"]) < most, json.dumps([before, after])


def start_slowly(server: Server, home: Path) -> int:
    """Start a migration that moves one object for hours, and return its number."""
    order = {
        "source": f"file://{home}/from/",
        "destination": f"file://{home}/to/",
        "recursive": True,
        "limits": {"bytes_per_second": 10_000},
    }
    (home / "to").mkdir()
    number: int = server.ask("POST", "/migrate", order)[1]["number"]
    while not server.ask("GET", f"/migrations/{number}")[1]["objects"].get("running"):
        time.sleep(0.05)
    return number


def measure(page: Any) -> dict[str, float]:
    """Return what the browser keeps of a page, after a collection of garbage (Chrome DevTools
    Protocol, domains HeapProfiler and Performance)."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found = session.send("Performance.getMetrics")["metrics"]
    return {one["name"]: one["value"] for one in found}
