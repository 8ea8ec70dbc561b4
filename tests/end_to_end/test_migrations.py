"""Migrations in the ledger as clients of a real server see them: accepted, followed, reported, and
never lost."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.test_serve import SERVE, Server, exchange, run_server
from tests.looks import looks
from tests.postgres import postgresql, programs

MANY = 300
MORE_THAN_A_PAGE = 1100
"""Number of objects whose rows are read from the ledger in two pieces (`Ledger.page`)."""
TOKEN = "a-token-0123456789"


@pytest.fixture
def folders(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder in which the server may read and write, with a tree in it; a parameter is its
    number of objects."""
    chance = random.Random(1)
    for i in range(getattr(request, "param", MANY)):
        path = tmp_path / "from" / f"{i % 10}" / f"object {i:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(2000)))
    (tmp_path / "to").mkdir()
    return tmp_path


@pytest.fixture
def settings(folders: Path) -> dict[str, str]:
    """Return the settings of servers that share a ledger."""
    return {"RELAY_LOCAL_FOLDERS": str(folders), "RELAY_LEDGER": f"sqlite:///{folders}/ledger.db"}


@pytest.fixture
def server(settings: dict[str, str]) -> Iterator[Server]:
    """Return a running server."""
    with run_server(SERVE, **settings) as made:
        yield made


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Return a server that moves nothing, and the folder in which it may read and write."""
    folder = tmp_path_factory.mktemp("idle")
    (folder / "from").mkdir()
    settings = {"RELAY_LOCAL_FOLDERS": str(folder), "RELAY_LEDGER": f"sqlite:///{folder}/ledger.db"}
    with run_server(SERVE, **settings) as made:
        yield made, folder


def order(folders: Path, **more: Any) -> dict[str, Any]:
    """Return a request for the tree."""
    return {
        "source": f"file://{folders}/from",
        "destination": f"file://{folders}/to",
        "recursive": True,
        **more,
    }


def wait_for(server: Server, id: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Poll a migration until it passes a check."""
    for _ in looks():
        status, body = server.ask("GET", f"/migrations/{id}")
        assert status == 200, body
        if good(body):
            return body
    raise TimeoutError(body)


def has_ended(migration: dict[str, Any]) -> bool:
    return migration["state"] in ("succeeded", "partial", "failed", "cancelled")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_tree_is_accepted_at_once_and_followed_to_its_end(server: Server, folders: Path) -> None:
    with closing(server.connect()) as connection:
        status, accepted, response = exchange(connection, "POST", "/migrate", order(folders))
    assert (status, accepted["state"]) == (202, "running")
    assert response.headers["Location"] == f"/migrations/{accepted['id']}"
    done = wait_for(server, accepted["id"], has_ended)
    assert (done["state"], done["objects"], done["listing"]) == (
        "succeeded",
        {"verified": MANY},
        "done",
    )
    assert done["levels"] == {"read_back": MANY}
    assert digests(folders / "to") == digests(folders / "from")
    assert server.ask("GET", "/migrations")[1]["migrations"][0]["id"] == accepted["id"]


PREFIXES = {
    "/relay": "/relay",
    "/a/b-1/%20c/": "/a/b-1/%20c",
    "": "",
    "relay": "",
    "//evil.example": "",
    "/relay?x=": "",
    "https://evil.example": "",
    "/a, /b": "",
}


def test_links_lead_through_a_proxy_that_takes_a_prefix_away(tmp_path: Path) -> None:
    """A redirect names the next one. A text that is not a path is ignored."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "object").touch()
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    (tmp_path / "tokens").chmod(0o600)
    settings = {
        "RELAY_LOCAL_FOLDERS": str(tmp_path),
        "RELAY_TOKENS_FILE": str(tmp_path / "tokens"),
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    with run_server(SERVE, **settings) as server:
        for number, (field, prefix) in enumerate(PREFIXES.items()):
            headers = {
                "X-Forwarded-Prefix": field,
                "Prefer": "wait=60",
                "Authorization": f"Bearer {TOKEN}",
            }
            wanted = order(tmp_path) | {"destination": f"file://{tmp_path}/{number}"}
            with closing(server.connect()) as connection:
                _, made, response = exchange(connection, "POST", "/migrate", wanted, **headers)
            assert (made["state"], response.headers["Location"]) == (
                "succeeded",
                f"{prefix}/migrations/{made['id']}",
            )
            for path in ("/migrations", f"/migrations/{made['id']}/transfers"):
                _, page = server.ask("GET", f"{path}?limit=1", **headers)
                assert page["next"].startswith(f"{prefix}{path}?"), field


def test_prefer_wait_returns_the_end(server: Server, folders: Path) -> None:
    status, body = server.ask("POST", "/migrate", order(folders), Prefer="wait=60")
    assert (status, body["state"]) == (200, "succeeded")


def test_one_object_may_be_accepted_at_once_too(server: Server, folders: Path) -> None:
    request = order(folders) | {"recursive": False}
    request["source"] += "/1/object 00001"
    request["destination"] += "/alone"
    status, body = server.ask("POST", "/migrate", request, Prefer="respond-async")
    assert status == 202
    assert wait_for(server, body["id"], has_ended)["objects"] == {"verified": 1}
    assert (folders / "to" / "alone").read_bytes() == (folders / "from/1/object 00001").read_bytes()


def test_the_lines_of_a_stream_end_with_the_whole(server: Server, folders: Path) -> None:
    with closing(server.connect()) as connection:
        headers = {"Accept": "application/x-ndjson", "Content-Type": "application/json"}
        connection.request("POST", "/migrate", json.dumps(order(folders)), headers)
        lines = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    assert [line["event"] for line in lines[:-1]] == ["progress"] * (len(lines) - 1)
    assert (lines[-1]["event"], lines[-1]["state"]) == ("result", "succeeded")


@pytest.mark.parametrize("folders", [MORE_THAN_A_PAGE], indirect=True, ids=["two pages"])
def test_each_object_as_json_ndjson_and_csv(server: Server, folders: Path) -> None:
    (folders / "to" / "1" / "object 00001").mkdir(parents=True)
    (folders / "to" / "1" / "object 00001" / "x").touch()
    id = server.ask("POST", "/migrate", order(folders), Prefer="wait=60")[1]["id"]
    status, failed = server.ask("GET", f"/migrations/{id}/transfers?state=failed")
    assert status == 200
    (row,) = failed["transfers"]
    assert (row["name"], row["state"], failed["next"]) == ("1/object 00001", "failed", None)
    assert row["detail"].startswith("destination: ")
    names, path = set(), f"/migrations/{id}/transfers?limit=500&state=verified"
    while path:
        _, page = server.ask("GET", path)
        names |= {row["name"] for row in page["transfers"]}
        assert all(row["receipt"]["level"] == "read_back" for row in page["transfers"])
        path = page["next"]
    assert len(names) == MORE_THAN_A_PAGE - 1
    for media, read in (("application/x-ndjson", _ndjson), ("text/csv", _csv)):
        with closing(server.connect()) as connection:
            connection.request("GET", f"/migrations/{id}/transfers", headers={"Accept": media})
            rows = read(connection.getresponse().read().decode())
        assert {row["name"] for row in rows} == names | {"1/object 00001"}


def _ndjson(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _csv(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_events_report_each_change_and_end_with_it(server: Server, folders: Path) -> None:
    id = server.ask("POST", "/migrate", order(folders))[1]["id"]
    assert server.ask("GET", f"/migrations/{id}/events?after=1")[0] == 422
    with closing(server.connect()) as connection:
        connection.request("GET", f"/migrations/{id}/events")
        text = connection.getresponse().read().decode()
    kinds = [
        line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")
    ]
    assert kinds[0] == "accepted"
    assert {"listing_done", "ended", "progress"} <= set(kinds)


def test_twenty_requests_with_one_key_make_one_migration(server: Server, folders: Path) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []
    headers = {"Idempotency-Key": "photos-2026"}

    def ask() -> None:
        answers.append(server.ask("POST", "/migrate", order(folders), **headers))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} <= {200, 202}
    assert len({body["id"] for _, body in answers}) == 1
    assert len(server.ask("GET", "/migrations")[1]["migrations"]) == 1
    status, body = server.ask("POST", "/migrate", order(folders, verify="size"), **headers)
    assert (status, body["type"].rpartition("/")[2]) == (422, "idempotency-key-reused")


def test_pause_resume_and_cancel(server: Server, folders: Path) -> None:
    id = server.ask("POST", "/migrate", order(folders))[1]["id"]
    assert server.ask("POST", f"/migrations/{id}/pause")[1]["state"] == "paused"
    assert server.ask("POST", f"/migrations/{id}/pause")[0] == 200
    document = wait_for(server, id, lambda document: not document["objects"].get("running"))
    assert document["state"] == "paused"
    status, document = server.ask("POST", f"/migrations/{id}/retry")
    assert (status, "paused" in document["detail"]) == (409, True)
    assert server.ask("POST", f"/migrations/{id}/resume")[1]["state"] == "running"
    wait_for(server, id, lambda document: document["objects"].get("verified", 0) > 0)
    assert server.ask("POST", f"/migrations/{id}/cancel")[1]["state"] == "cancelled"
    document = wait_for(server, id, lambda document: not document["objects"].get("running"))
    assert set(document["objects"]) <= {"verified", "cancelled"}
    assert server.ask("POST", f"/migrations/{id}/retry")[0] == 200
    assert wait_for(server, id, has_ended)["objects"] == {"verified": MANY}


@pytest.mark.parametrize(
    ("method", "path", "members", "status", "says"),
    [
        ("GET", "/migrations/none", None, 404, "no migration"),
        ("POST", "/migrations/none/cancel", None, 404, "no migration"),
        ("GET", "/migrations/%00", None, 404, "no migration"),
        ("GET", "/migrations?limit=0", None, 422, "limit"),
        ("GET", "/migrations?before=x", None, 422, "before"),
        ("POST", "/migrate", {"recursive": "yes"}, 422, "recursive"),
        ("POST", "/migrate", {"recursive": True, "if_exists": "maybe"}, 422, "if_exists"),
        ("POST", "/migrate", {"destination": "file:///etc/x"}, 403, "not allowed"),
        ("POST", "/migrate", {"destination": "SELF/inside"}, 422, "one contains the other"),
        ("POST", "/migrate", {"priority": 1000}, 422, "priority"),
    ],
)
def test_bad_requests_are_refused(
    idle: tuple[Server, Path],
    method: str,
    path: str,
    members: dict[str, Any] | None,
    status: int,
    says: str,
) -> None:
    server, folder = idle
    if members is not None:
        members = order(folder) | members
        members["destination"] = members["destination"].replace("SELF", members["source"])
    code, body = server.ask(method, path, members)
    assert (code, says in body["detail"]) == (status, True), body
    assert server.ask("GET", "/migrations")[1]["migrations"] == []


def test_a_tree_by_post_is_refused(idle: tuple[Server, Path]) -> None:
    server, folder = idle
    there = {"url": f"file://{folder}/to", "method": "POST"}
    code, body = server.ask("POST", "/migrate", order(folder) | {"destination": there})
    assert (code, body["detail"]) == (422, "a tree is uploaded by PUT")
    assert body["errors"][0]["pointer"] == "/destination/method"
    assert server.ask("GET", "/migrations")[1]["migrations"] == []


def test_fresh_credentials_must_be_for_the_same_places(server: Server, folders: Path) -> None:
    id = server.ask("POST", "/migrate", order(folders))[1]["id"]
    places = {name: order(folders)[name] for name in ("source", "destination")}
    assert server.ask("POST", f"/migrations/{id}/pause")[0] == 200
    status, body = server.ask(
        "POST", f"/migrations/{id}/resume", places | {"source": f"file://{folders}/other"}
    )
    assert (status, "is not that of the migration" in body["detail"]) == (422, True)
    assert server.ask("POST", f"/migrations/{id}/resume", places)[0] == 200
    assert wait_for(server, id, has_ended)["state"] == "succeeded"


# -- an accepted migration is never lost


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_server_resumes(
    settings: dict[str, str], folders: Path, end: signal.Signals
) -> None:
    with run_server(SERVE, **settings) as first:
        id = first.ask("POST", "/migrate", order(folders))[1]["id"]
        wait_for(first, id, lambda migration: migration["objects"].get("verified", 0) > 50)
        workers = psutil.Process(first.process.pid).children()
        first.process.send_signal(end)
        for worker in workers if end is signal.SIGKILL else ():
            worker.kill()
        first.finish()
    with run_server(SERVE, **settings) as second:
        migration = wait_for(second, id, has_ended)
        assert (migration["state"], migration["objects"]) == ("succeeded", {"verified": MANY})
        _, page = second.ask("GET", f"/migrations/{id}/transfers?limit=1000")
        most = max(row["attempts"] for row in page["transfers"])
        assert most <= 2
    assert digests(folders / "to") == digests(folders / "from")
    assert not [path for path in (folders / "to").rglob(".relay-*") if end is signal.SIGTERM]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_workers_share_a_tree_and_one_may_be_killed(
    settings: dict[str, str], folders: Path, kind: str
) -> None:
    if kind == "sqlite":
        return _check_two_workers(settings, folders)
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as database:
        _check_two_workers(
            settings | {"RELAY_LEDGER": database.database(), "RELAY_LEASE_SECONDS": "3"}, folders
        )


def _check_two_workers(settings: dict[str, str], folders: Path) -> None:
    with run_server(SERVE, **settings, RELAY_WORKERS="2") as server:
        id = server.ask("POST", "/migrate", order(folders))[1]["id"]
        wait_for(server, id, lambda migration: migration["objects"].get("verified", 0) > 50)
        workers = psutil.Process(server.process.pid).children()
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        migration = wait_for(server, id, has_ended)
    assert (migration["state"], migration["objects"]) == ("succeeded", {"verified": MANY})
    assert digests(folders / "to") == digests(folders / "from")


def test_a_ledger_that_can_not_be_opened_refuses_the_start(folders: Path) -> None:
    (folders / "notes.db").write_bytes(b"somebody's notes " * 300)
    with (
        pytest.raises(AssertionError, match=r"notes\.db"),
        run_server(SERVE, RELAY_LEDGER=f"sqlite:///{folders}/notes.db"),
    ):
        pass


def test_a_page_in_a_browser_cannot_act_on_a_migration(server: Server, folders: Path) -> None:
    """A form of another site needs no preflight and knows the small numbers: nothing changes (CSRF,
    rebinding)."""
    server.ask("POST", "/migrate", order(folders, limits={"bytes_per_second": 1}))
    form = "application/x-www-form-urlencoded"
    pages = [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": form},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": f"evil.example:{server.port}", "Origin": f"http://evil.example:{server.port}"},
    ]
    for fields in pages:
        for verb in ("pause", "resume", "cancel", "retry"):
            assert server.ask("POST", f"/migrations/1/{verb}", **fields)[0] == 403, fields
        assert server.ask("PATCH", "/migrations/1", {"priority": 9}, **fields)[0] == 403, fields
    assert server.ask("POST", "/migrations/1/cancel", **{"Content-Type": form})[0] == 415
    assert server.ask("GET", "/migrations/1")[1]["state"] == "running"
    own = f"http://{server.host}:{server.port}"
    status, body = server.ask(
        "POST", "/migrations/1/cancel", **{"Origin": own, "Sec-Fetch-Site": "same-origin"}
    )
    assert (status, body["state"]) == (200, "cancelled")
