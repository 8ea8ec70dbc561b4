"""Shared fixtures: a real store as destination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulators.proxy import Proxy
from tests.end_to_end.browser import run_chromium
from tests.end_to_end.terminal import Terminal
from tests.seaweed import KEY, REGION, SECRET, Seaweed

MIB = 1 << 20
PARTS = {
    "RELAY_PARTED_BYTES": str(12 * MIB),
    "RELAY_PART_BYTES": str(5 * MIB),
    "RELAY_PARTS_IN_FLIGHT": "2",
}


@pytest.fixture(scope="module")
def seaweed(seaweed_server: Seaweed) -> Seaweed:
    """Return the server with a bucket of a module's own."""
    return seaweed_server.with_new_bucket()


@pytest.fixture(scope="package")
def chromium(pytestconfig: pytest.Config) -> Iterator[Any]:
    """Return a browser, for all files that follow one another here (`TOGETHER` in sharing.py); the
    whole one where campaigns run."""
    with run_chromium(is_whole="campaign" not in pytestconfig.option.markexpr) as browser:
        yield browser


@pytest.fixture
def slow_route(seaweed: Seaweed, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """Return a slow route to the server; a parameter is the rate of each connection in bytes per
    second."""
    with Proxy(
        seaweed.endpoint.removeprefix("http://"), rate=getattr(request, "param", 8e6)
    ) as proxy:
        yield proxy


@pytest.fixture
def clouds(tmp_path: Path, seaweed: Seaweed, slow_route: Proxy) -> Terminal:
    """Return a terminal with two remotes: the server, and the same server by the slow route."""
    rows = [("near", seaweed.endpoint), ("far", slow_route.url())]
    (tmp_path / "relay.toml").write_text(
        "".join(
            f'[remotes.{name}]\ntype = "s3"\nendpoint = "{endpoint}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
            for name, endpoint in rows
        )
    )
    return Terminal(tmp_path, RELAY_CONFIG=str(tmp_path / "relay.toml"), **PARTS)
