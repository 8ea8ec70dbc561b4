"""The limits of a migration, changed while it runs: refused if invalid, obeyed by every worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.api.schemas import ProblemSchema, RecordedSchema
from simulators.destination import Destination
from simulators.proxy import Proxy
from tests.end_to_end.test_migrations import has_ended, wait_for
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.looks import looks

WINDOW_SECONDS = 1.5
"""The interval in which bytes are counted; longer on a busy machine, which only lets more pass."""
SLACK_BYTES = 200_000
"""Tolerance in bytes: the sockets' buffers when a rate is lowered, heads, and the content of a
token bucket."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that the server may read."""
    (tmp_path / "from").mkdir()
    return tmp_path


@pytest.fixture
def destination() -> Iterator[Destination]:
    """Return a cloud that accepts everything."""
    with Destination() as made:
        yield made


@pytest.fixture
def way(destination: Destination) -> Iterator[Proxy]:
    """Return the route to it, which counts."""
    with Proxy(f"127.0.0.1:{destination.port}", rate=6e6) as made:
        yield made


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Return a server with two workers."""
    with run_server(
        SERVE, RELAY_LOCAL_FOLDERS=str(folder), RELAY_WORKERS="2", RELAY_STALL_SECONDS="2"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def paused_migration(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, dict[str, Any], str]]:
    """Return a server, a request to it, and its migration, which is paused."""
    home = tmp_path_factory.mktemp("paused")
    (home / "from").mkdir()
    request = {
        "source": f"file://{home}/from",
        "destination": f"file://{home}/to",
        "recursive": True,
    }
    with run_server(SERVE, RELAY_LOCAL_FOLDERS=str(home)) as made:
        id = made.ask("POST", "/migrate", {**request, "limits": {"slots": 2}})[1]["id"]
        assert made.ask("POST", f"/migrations/{id}/pause")[0] == 200
        yield made, request, id


def patch(server: Server, id: str, **members: Any) -> dict[str, Any]:
    """Change a migration's limits, twice, since repetition must not matter; return its state."""
    answers = [server.ask("PATCH", f"/migrations/{id}", members) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 200], answers
    assert answers[0][1]["limits"] == answers[1][1]["limits"]
    RecordedSchema.model_validate(answers[1][1], strict=True)
    return answers[1][1]


def until(good: Callable[[], bool]) -> None:
    """Poll until a condition holds; another process's work can only be polled."""
    for _ in looks():
        if good():
            return
    raise TimeoutError


def measure_rate(way: Proxy) -> tuple[int, float]:
    """Return the number of bytes that pass in a while, and its duration."""
    before, since = way.bytes_carried("up"), time.monotonic()
    until(lambda: time.monotonic() - since >= WINDOW_SECONDS)
    return way.bytes_carried("up") - before, time.monotonic() - since


def test_a_rate_is_lowered_and_lifted_during_a_transfer(
    server: Server, folder: Path, way: Proxy
) -> None:
    """The stall rule requires ten times the permitted rate, and must not punish it."""
    with (folder / "from" / "large").open("wb") as file:
        file.truncate(60_000_000)
    request = {"source": f"file://{folder}/from/large", "destination": way.url("/large")}
    status, body = server.ask("POST", "/migrate", request, Prefer="respond-async")
    assert status == 202
    assert body["limits"] == {"slots": None, "bytes_per_second": None, "connections": None}
    id, rate = body["id"], 100
    until(lambda: way.bytes_carried("up") > 1_000_000)
    assert (
        patch(server, id, limits={"bytes_per_second": rate})["limits"]["bytes_per_second"] == rate
    )

    def is_slow() -> bool:
        count, seconds = measure_rate(way)
        return count <= rate * seconds + SLACK_BYTES / 100

    until(is_slow)
    before, since = way.bytes_carried("up"), time.monotonic()
    until(lambda: time.monotonic() - since >= 3 * WINDOW_SECONDS)
    count = way.bytes_carried("up") - before
    assert 0 < count <= rate * (time.monotonic() - since) + SLACK_BYTES / 100
    assert server.ask("GET", f"/migrations/{id}")[1]["state"] == "running"
    patch(server, id, limits={"bytes_per_second": None})
    done = wait_for(server, id, has_ended)
    assert (done["state"], done["objects"], done["retries"]) == ("succeeded", {"verified": 1}, 0)


def test_two_workers_share_the_limits_of_a_tree(server: Server, folder: Path, way: Proxy) -> None:
    for i in range(40):
        (folder / "from" / f"{i:02}").write_bytes(bytes(100_000))
    request = {
        "source": f"file://{folder}/from",
        "destination": way.url("/tree/"),
        "recursive": True,
    }
    limits = {"slots": 3, "bytes_per_second": 400_000, "connections": 2}
    status, body = server.ask("POST", "/migrate", {**request, "limits": limits, "priority": 7})
    assert (status, body["limits"], body["priority"]) == (202, limits, 7)
    since, most = time.monotonic(), 0
    until(
        lambda: server.ask("GET", f"/migrations/{body['id']}")[1]["objects"].get("running", 0) > 0
    )
    while way.bytes_carried("up") < 1_500_000:
        seen = server.ask("GET", f"/migrations/{body['id']}")[1]
        most = max(most, seen["objects"].get("running", 0))
        assert way.bytes_carried("up") <= 400_000 * (time.monotonic() - since) + SLACK_BYTES
        time.sleep(0.02)
    assert most == 2  # the number of objects that may have a request each
    patch(
        server,
        body["id"],
        limits={"slots": None, "bytes_per_second": None, "connections": None},
        priority=0,
    )
    done = wait_for(server, body["id"], has_ended)
    assert (done["state"], done["objects"], done["priority"]) == ("succeeded", {"verified": 40}, 0)


@pytest.mark.parametrize(
    ("members", "status", "pointer"),
    [
        ({"limits": {"slots": 0}}, 422, "/limits/slots"),
        ({"limits": {"slots": True}}, 422, "/limits/slots"),
        ({"limits": {"slots": 1.5}}, 422, "/limits/slots"),
        ({"limits": {"bytes_per_second": -1}}, 422, "/limits/bytes_per_second"),
        ({"limits": {"bytes_per_second": "10MB"}}, 422, "/limits/bytes_per_second"),
        ({"limits": {"connections": 10**9}}, 422, "/limits/connections"),
        ({"limits": {"speed": 1}}, 422, "/limits/speed"),
        ({"limits": None}, 422, "/limits"),
        ({"limits": []}, 422, "/limits"),
        ({"priority": None}, 422, "/priority"),
        ({"priority": 101}, 422, "/priority"),
        ({"slots": 1}, 422, "/slots"),
        ([], 422, ""),
        (None, 400, None),
    ],
)
def test_invalid_limits_are_refused_by_name(
    paused_migration: tuple[Server, dict[str, Any], str],
    members: Any,
    status: int,
    pointer: str | None,
) -> None:
    server, request, id = paused_migration
    code, body = server.ask("PATCH", f"/migrations/{id}", members)
    assert code == status, body
    ProblemSchema.model_validate(body, strict=True)
    assert [error["pointer"] for error in body.get("errors", [])] == (
        [] if pointer is None else [pointer]
    )
    assert server.ask("GET", f"/migrations/{id}")[1]["limits"]["slots"] == 2
    if isinstance(members, dict) and "limits" in members and members["limits"]:
        code, body = server.ask("POST", "/migrate", {**request, **members})
        assert (code, body["errors"][0]["pointer"]) == (422, pointer)


def test_only_an_unended_migration_can_be_limited(server: Server, folder: Path) -> None:
    assert server.ask("PATCH", "/migrations/none", {"priority": 1})[0] == 404
    request = {
        "source": f"file://{folder}/from",
        "destination": f"file://{folder}/to",
        "recursive": True,
    }
    id = server.ask("POST", "/migrate", request, Prefer="wait=60")[1]["id"]
    status, body = server.ask("PATCH", f"/migrations/{id}", {"priority": 1})
    assert (status, "succeeded" in body["detail"]) == (409, True)
    assert body["type"].endswith("illegal-transition")
