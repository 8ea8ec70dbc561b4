"""The slots of `relay migrate -r` over a line with latency: shown, and more of them unless the user
gave a number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from simulators.liars.plain import PlainLiar
from simulators.liars.store_habits import StoreHabits
from simulators.proxy import Proxy
from tests.end_to_end.terminal import Terminal


@pytest.fixture
def distant_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of a web server 150 ms away each way; the parameter is the number of its small
    objects."""
    with PlainLiar("source", StoreHabits((), 1), {""}) as source:
        for index in range(request.param):
            source.shelf.put(f"tree/{index:04}", b"data" * 100, "source")
        with Proxy(f"127.0.0.1:{source.port}", latency=0.15) as proxy:
            yield proxy.url(urlsplit(source.url("tree/")).path)


@pytest.mark.parametrize(
    ("distant_url", "given"),
    [(400, {}), (150, {"RELAY_SLOTS": "10"})],
    indirect=["distant_url"],
    ids=["none", "RELAY_SLOTS"],
)
def test_slots_grow_over_a_distant_line_and_are_shown(
    tmp_path: Path, distant_url: str, given: dict[str, str]
) -> None:
    terminal = Terminal(tmp_path, **given)
    process = terminal.start("migrate", "-r", distant_url, str(tmp_path / "to"))
    terminal.wait_for(process, "SELECT count(*) FROM runners", bool)
    shown, text = set(), ""
    while process.poll() is None:
        text += terminal.run("status", "1")[1]
        code, out, _ = terminal.run("status", "1", "--json")
        shown.add(json.loads(out)["slots"] if code == 0 else None)
    _, err = process.communicate()
    assert process.returncode == 0, err
    numbers = shown - {None}
    assert "slots" in text
    assert numbers == {10} if given else max(numbers) > 10
