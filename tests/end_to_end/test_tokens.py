"""Tokens of the ledger, from `relay token create` to a server that refuses a revoked one."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_serve import GUNICORN, SERVE, Server, exchange, run_server, start

FILE_TOKEN = "of-a-file-0123456789abcdef"
PATIENCE_SECONDS = 30.0


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a terminal with an empty ledger."""
    return Terminal(tmp_path)


@contextmanager
def run_with(terminal: Terminal, **settings: str) -> Iterator[Server]:
    """Run a server with the terminal's ledger, which may use its folder."""
    known = {
        "RELAY_LEDGER": f"sqlite:///{terminal.ledger}",
        "RELAY_LOCAL_FOLDERS": str(terminal.home),
    }
    with run_server(SERVE, **{**known, **settings}) as server:
        yield server


def make(terminal: Terminal, name: str, *flags: str) -> dict[str, str]:
    """Create a token; return the header that sends it."""
    code, out, err = terminal.run("token", "create", name, *flags)
    assert code == 0, err
    value = out.strip()
    assert value not in err
    return {"Authorization": f"Bearer {value}"}


def status_of(
    server: Server, method: str = "GET", path: str = "/migrations", **headers: str
) -> int:
    """Return the status of one answer."""
    return server.ask(method, path, **headers)[0]


def await_(done: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def order(terminal: Terminal, **members: Any) -> dict[str, Any]:
    """Return a request for a tree of the terminal's folder."""
    (terminal.home / "from").mkdir(exist_ok=True)
    (terminal.home / "from" / "one").write_text("one")
    return {
        "source": f"file://{terminal.home}/from/",
        "destination": f"file://{terminal.home}/to/",
        "recursive": True,
    } | members


def test_a_token_from_its_creation_to_its_end(terminal: Terminal) -> None:
    """On every worker of a running server, which first has no tokens."""
    with run_with(terminal, RELAY_WORKERS="2") as server:
        assert status_of(server) == 200
        reader = make(terminal, "reader", "--scope", "read", "--expires", "90d")
        await_(lambda: [status_of(server) for _ in range(8)] == [401] * 8)
        assert status_of(server, **reader) == 200
        refused = "the scope of the token does not contain submit"
        # A worker that still knows no token permits everything, for seconds.
        await_(
            lambda: (
                server.ask("POST", "/migrate", order(terminal), **reader)[1].get("detail")
                == refused
            )
        )
        code, out, _ = terminal.run("token", "list")
        assert (code, out.split()[0], "valid" in out, "never used" in out) == (
            0,
            "reader",
            True,
            False,
        )
        code, out, _ = terminal.run("token", "rotate", "reader", "--overlap", "0s")
        rotated = {"Authorization": f"Bearer {out.strip()}"}
        await_(lambda: [status_of(server, **reader) for _ in range(8)] == [401] * 8)
        assert status_of(server, **rotated) == 200
        assert terminal.run("token", "revoke", "reader")[0] == 0
        await_(lambda: [status_of(server, **rotated) for _ in range(8)] == [401] * 8)
        assert status_of(server) == 401  # it once had a token
        assert terminal.run("token", "revoke", "reader", "--forget")[0] == 0
        await_(lambda: [status_of(server) for _ in range(8)] == [200] * 8)


def test_a_public_address_needs_a_token(terminal: Terminal) -> None:
    settings = {"RELAY_BIND": "0.0.0.0:0", "RELAY_LEDGER": f"sqlite:///{terminal.ledger}"}
    code, stderr = start(GUNICORN, **settings)
    assert (code, "Run `relay token create NAME --scope admin`" in stderr) == (2, True)
    made = make(terminal, "ops", "--scope", "admin")
    with run_server(SERVE, **settings) as server:
        server.host = "127.0.0.1"
        assert (status_of(server), status_of(server, **made)) == (401, 200)
        assert status_of(server, path="/healthz") == 200
    # A restart after the last token has ended must not stop the migrations.
    terminal.run("token", "revoke", "ops")
    with run_server(SERVE, **settings) as server:
        server.host = "127.0.0.1"
        assert status_of(server, **made) == 401
        assert server.stop() == 0
    assert "every token has expired or was revoked" in server.stderr


def test_a_tokens_file_still_works_and_is_deprecated(terminal: Terminal) -> None:
    file = terminal.home / "tokens"
    file.write_text(f"{FILE_TOKEN}\n")
    file.chmod(0o600)
    with run_with(terminal, RELAY_TOKENS_FILE=str(file)) as server:
        assert status_of(server, Authorization=f"Bearer {FILE_TOKEN}") == 200
        made = make(terminal, "ops")
        await_(lambda: status_of(server, **made) == 200)
        assert server.stop() == 0
    assert "RELAY_TOKENS_FILE is deprecated" in server.stderr
    assert FILE_TOKEN not in server.stderr


def test_a_token_names_only_what_it_may(terminal: Terminal) -> None:
    plain = make(terminal, "plain")
    new = make(terminal, "new", "--remote", "new:*")
    narrow = make(terminal, "narrow", "--local", "--host", "*.example.com", "--remote", "new:*")
    with run_with(terminal) as server:
        for headers, source, what in (
            (plain, f"file://{terminal.home}/from/", "folders of the server"),
            (narrow, "old:photos/", "the remote old: with this path"),
            (narrow, "s3://bucket/", "the remote s3: with this path"),
            (narrow, "https://example.org/", "the host example.org"),
            (narrow, "list+https://a.example.com/l", "a list, whose URLs may have any host"),
        ):
            wanted = order(terminal, source=source)
            for recursive in (True, False):
                wanted |= {"recursive": recursive}
                status, problem = server.ask("POST", "/migrate", wanted, **headers)
                assert (status, problem["detail"]) == (403, f"the token may not name {what}")
                assert problem["errors"][0]["pointer"] == "/source"
        list_of_server = f"list+file://{terminal.home}/from/one"
        wanted = order(terminal, source=list_of_server)
        status, problem = server.ask("POST", "/migrate", wanted, **plain)
        assert (status, problem["detail"]) == (403, "the token may not name folders of the server")
        status, made = server.ask("POST", "/migrate", order(terminal), **narrow)
        assert status == 202
        for headers, fresh, what in (
            (plain, list_of_server, "folders of the server"),
            (new, "old:l", "the remote old: with this path"),
            (narrow, "https://a.example.com/l", "a list, whose URLs may have any host"),
        ):
            path = f"/migrations/{made['id']}/retry"
            status, problem = server.ask("POST", path, {"list": fresh}, **headers)
            assert (status, problem["detail"]) == (403, f"the token may not name {what}")


@contextmanager
def silent_source() -> Iterator[str]:
    """Run a server that takes connections and never answers: a migration from it does not end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/tree/"


def test_a_token_has_its_limits(terminal: Terminal) -> None:
    flags = ("--local", "--migrations", "1", "--slots", "2", "--bytes-per-second", "10M")
    made = make(terminal, "ops", *flags, "--requests-per-second", "5")
    with silent_source() as source, run_with(terminal) as server:
        wanted = order(terminal, source=source)
        status, first = server.ask("POST", "/migrate", wanted, **made)
        assert status == 202
        assert (first["limits"]["slots"], first["limits"]["bytes_per_second"]) == (2, 10_000_000)
        higher = {"limits": {"slots": 9, "bytes_per_second": None, "connections": 3}}
        changed = server.ask("PATCH", f"/migrations/{first['id']}", higher, **made)[1]["limits"]
        assert changed == {"slots": 2, "bytes_per_second": 10_000_000, "connections": 3}
        with closing(server.connect()) as connection:
            status, problem, response = exchange(connection, "POST", "/migrate", wanted, **made)
        assert (status, response.headers["Retry-After"]) == (429, "30"), problem
        assert 429 in [status_of(server, **made) for _ in range(30)]
        await_(lambda: status_of(server, **made) == 200)


def test_a_counted_token_moves_one_object_by_the_ledger(terminal: Terminal) -> None:
    """Nothing else would count it. The client waits for the end, as for any object."""
    made = make(terminal, "ops", "--local", "--bytes-per-day", "3")
    home = terminal.home
    wanted = order(terminal, source=f"file://{home}/from/one", destination=f"file://{home}/to/one")
    wanted |= {"recursive": False}
    with run_with(terminal) as server:
        status, moved = server.ask("POST", "/migrate", wanted, **made)
        assert (status, moved["state"], moved["bytes"]) == (200, "verified", 3), moved
        assert moved["receipt"]["bytes"] == 3
        assert (home / "to" / "one").read_text() == "one"
        status, problem = server.ask("POST", "/migrate", wanted, **made)
        assert (status, problem["type"].rpartition("/")[2]) == (429, "too-many-requests")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_counted_object_fails_as_any_other(terminal: Terminal, accept: str) -> None:
    """An answer of success says that the object arrived, whatever the limits of the token."""
    order(terminal)
    home = terminal.home
    (home / "to").mkdir()
    (home / "to" / "one").write_text("another")
    one, none = (f"file://{home}/from/{name}" for name in ("one", "nothing"))
    there = {"destination": f"file://{home}/to/one", "if_exists": "fail"}
    plain = make(terminal, "plain", "--local")
    counted = make(terminal, "counted", "--local", "--migrations", "9")
    with run_with(terminal) as server:
        for source in (one, none):
            wanted = {"source": source, **there}
            ends = [
                problem_of(server, wanted, {**headers, "Accept": accept})
                for headers in (plain, counted)
            ]
            assert ends[0] == ends[1]
            assert accept != "application/json" or ends[0][0] in (404, 409)


def problem_of(
    server: Server, wanted: dict[str, Any], headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """Return the status and the problem of an answer, or of its last line, without its instance."""
    with closing(server.connect()) as connection:
        connection.request(
            "POST",
            "/migrate",
            json.dumps(wanted),
            {"Content-Type": "application/json", **headers},
        )
        response = connection.getresponse()
        last = json.loads(response.read().splitlines()[-1])
    last.pop("instance")
    last.pop("event", None)
    return response.status, last


def test_a_stream_ends_with_its_token(terminal: Terminal) -> None:
    made = make(terminal, "ops", "--local")
    with silent_source() as source, run_with(terminal) as server:
        _, first = server.ask("POST", "/migrate", order(terminal, source=source), **made)
        with closing(server.connect()) as connection:
            connection.request("GET", f"/migrations/{first['id']}/events", headers=made)
            response = connection.getresponse()
            assert response.status == 200
            assert response.readline()
            terminal.run("token", "revoke", "ops")
            response.read()  # to its end


def test_the_audit_log_says_who_did_what(terminal: Terminal) -> None:
    made = make(terminal, "ops", "--local", "--tenant", "acme")
    with run_with(terminal) as server:
        _, first = server.ask("POST", "/migrate", order(terminal, priority=1), **made)
    code, out, _ = terminal.run("audit", "log", "--json")
    newest, oldest = (json.loads(line) for line in out.splitlines())
    assert (newest["verb"], newest["actor"], newest["tenant"]) == ("migrate", "ops", "acme")
    assert newest["address"] == "127.0.0.1"
    assert first["id"] in newest["object"]
    assert (oldest["verb"], "in a terminal" in oldest["actor"]) == ("token create", True)
    assert made["Authorization"].split("_")[2] not in out
    assert "ops" in terminal.run("audit", "log")[1]
    code, out, _ = terminal.run("audit", "log", "--verify")
    assert (code, newest["hash"] in out) == (0, True)
    with sqlite3.connect(terminal.ledger) as file:
        file.execute("UPDATE audit SET actor = 'eve' WHERE id = 1")
    code, out, _ = terminal.run("audit", "log", "--verify")
    assert (code, out) == (1, "the audit log was changed by hand: row 1 was changed\n")


def test_a_flood_hides_no_caller_of_its_address(terminal: Terminal, tmp_path: Path) -> None:
    """A caller with a token is answered, also with one that is new. Wrong requests are turned
    away, with the whole answer."""
    file = tmp_path / "tokens"
    file.write_text(f"{FILE_TOKEN}\n")
    file.chmod(0o600)
    settings = {"RELAY_TOKENS_FILE": str(file), "RELAY_REFUSALS_PER_SECOND": "1"}
    known = {"Authorization": f"Bearer {FILE_TOKEN}"}
    with run_with(terminal, **settings) as server:
        assert [status_of(server) for _ in range(2)] == [401, 401]
        await_(lambda: status_of(server) == 429)
        await_(lambda: b" 429 " in server.raw(b"\0\r\n\r\n"))
        head = b"POST /migrate HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        await_(lambda: b"too-many-requests" in server.raw(head, b"[" * 50_000))
        made = make(terminal, "reader", "--scope", "read")
        await_(lambda: status_of(server) == 429 and status_of(server, **made) == 200)
        assert status_of(server, **known) == 200
        assert status_of(server, path="/healthz") == 200
        assert server.raw(b"GET /mig", b"rations HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.")
