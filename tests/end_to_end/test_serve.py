"""relay under real gunicorn: raw requests, the drain, start-up, and the equivalence of both ways to
start it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from tests import forked
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.log_lines import strange_lines
from tests.looks import looks
from tests.scripted import Peer, Script, Talk

ROOT = Path(__file__).resolve().parent.parent.parent
GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "relay.wsgi:app")
SERVE = (sys.executable, "-m", "relay", "serve")
WHOLE = (GUNICORN, SERVE)
FORKED = tuple(command[:3] for command in WHOLE)
WAYS = pytest.mark.parametrize("command", [GUNICORN, SERVE], ids=["gunicorn -c", "relay serve"])
SECRET = "planted-secret-0123456789"


@dataclass
class Server:
    """A running relay, and its whole output after its end."""

    process: Any
    """As `subprocess.Popen`."""
    host: str
    port: int
    stderr: str = ""

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, to be closed."""
        return http.client.HTTPConnection(self.host, self.port, timeout=70)

    def ask(
        self, method: str, path: str, members: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Make one request."""
        with closing(self.connect()) as connection:
            return exchange(connection, method, path, members, **headers)[:2]

    def raw(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send bytes unchanged, and return the whole response until the server closes."""
        with socket.create_connection((self.host, self.port), timeout=20) as sock:
            for piece in pieces:
                sock.sendall(piece)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            received = b""
            while piece := sock.recv(65536):
                received += piece
            return received

    def stop(self, seconds: float = 30) -> int:
        """Stop it and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.finish(seconds)

    def finish(self, seconds: float = 30) -> int:
        """Wait for its end; a server that does not end fails the test."""
        self.stderr += self.process.communicate(timeout=seconds)[1]
        assert strange_lines(self.stderr) == []
        return self.process.returncode


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    members: Any = None,
    **headers: str,
) -> tuple[int, dict[str, Any], http.client.HTTPResponse]:
    """Make one request on a connection; return the status, the JSON and the response."""
    body = None if members is None else json.dumps(members)
    connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read()), response


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a server on a free port that may reach loopback, without our own
    RELAY_*."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    return (
        clean
        | {
            "RELAY_BIND": "127.0.0.1:0",
            "RELAY_EGRESS_ALLOW": "127.0.0.1",
            "RELAY_RETRY_BUDGET": "0",
        }
        | settings
    )


@contextmanager
def run_server(
    command: tuple[str, ...] = GUNICORN, started: bool = False, **settings: str
) -> Iterator[Server]:
    """Run a server; its first line names its address. It is forked, unless it has to be
    `started`."""
    home = tempfile.mkdtemp(
        prefix="relay-ledger-"
    )  # every server has its own, unless a test sets one
    # A test reads its log only at the end: a full pipe would stop it.
    quiet = {"RELAY_LEDGER": f"sqlite:///{home}/ledger.db", "RELAY_LOG_LEVEL": "warning"}
    process = begin(command, environment(**(quiet | settings)), started)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        if found is None:
            process.kill()
            raise AssertionError(f"not started: {line!r} {process.communicate()[1]}")
        yield Server(process, found[1], int(found[2]))
    finally:
        if process.poll() is None:
            workers = []
            with suppress(psutil.NoSuchProcess):  # killed, and not yet known to have ended
                workers = psutil.Process(process.pid).children()
            process.kill()
            for worker in workers:  # it would notice a second later, and hold stderr as long
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
        if process.stdout is not None and not process.stdout.closed:
            process.communicate()


def begin(command: tuple[str, ...], settings: dict[str, str], started: bool = False) -> Any:
    """Fork a server, or start it, and return its process."""
    if command[1] == "-c" and not started:
        return forked.start(command[2:], settings, program="-c")
    if command[:3] in FORKED and not started:
        return forked.start(command[3:], settings, program=command[2])
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server for the tests that do not change it; it waits one second for a body."""
    with run_server(RELAY_REQUEST_SECONDS="1") as made:
        yield made


def order(source: Peer, destination: Peer, **members: Any) -> dict[str, Any]:
    """Return a request."""
    return {"source": source.url("/a"), "destination": destination.url("/b")} | members


def gated_source(cloud: Cloud, gate: threading.Event, begun: threading.Event) -> Script:
    """A source that sends half, signals that it has `begun`, waits, and sends the rest."""

    def get(talk: Talk, _: bytes) -> None:
        half = len(DATA) // 2
        talk.send(GET_HEAD, DATA[:half])
        begun.set()
        if gate.wait(30):
            talk.send(DATA[half:])

    return source_script(cloud, get)


# -- start


def await_workers(master: int, count: int) -> None:
    """Wait until the master has `count` workers, which start one by one, and assert that no more
    follow."""
    until = time.monotonic() + 10
    while len(psutil.Process(master).children()) < count and time.monotonic() < until:
        time.sleep(0.02)
    assert len(psutil.Process(master).children()) == count


def test_a_worker_is_replaced_while_a_folder_or_bundle_is_away(tmp_path: Path) -> None:
    """An exit of the new worker would end the whole server, with the transfers of the others."""
    folder, bundle = tmp_path / "nas", tmp_path / "ca.pem"
    folder.mkdir()
    trustme.CA().cert_pem.write_to_path(str(bundle))
    with run_server(
        SERVE,
        RELAY_WORKERS="2",
        RELAY_LOCAL_FOLDERS=str(folder),
        RELAY_CA_BUNDLE=str(bundle),
    ) as server:
        for away in (folder, bundle):
            await_workers(server.process.pid, 2)
            away.rename(tmp_path / "away")
            killed = psutil.Process(server.process.pid).children()[0]
            killed.kill()
            killed.wait(10)
            until = time.monotonic() + 10
            while len(psutil.Process(server.process.pid).children()) < 2:
                assert time.monotonic() < until, server.process.poll()
                time.sleep(0.02)
            time.sleep(3)  # the new worker reads its settings
            assert server.ask("GET", "/healthz")[0] == 200
            (tmp_path / "away").rename(away)
        await_workers(server.process.pid, 2)
        assert server.stop() == 0


@WAYS
def test_both_ways_do_the_same(command: tuple[str, ...]) -> None:
    """The same answers, the same log, the same end; and no secret in any of it (T41)."""
    kept = Cloud()
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
        run_server(command, True, RELAY_WORKERS="2", RELAY_LOG_LEVEL="info") as server,
    ):
        wanted = {
            "source": {"url": source.url(f"/a?sig={SECRET}"), "headers": {"Authorization": SECRET}},
            "destination": destination.url(f"/b?sig={SECRET}"),
        }
        status, migration = server.ask("POST", "/migrate", wanted)
        assert (status, migration["state"]) == (200, "verified")
        status, problem = server.ask("POST", "/migrate", wanted | {"if_exists": "fail"})
        assert (status, problem["side"]) == (409, "destination")
        await_workers(server.process.pid, 2)
        assert server.stop() == 0
    assert list(kept.objects.values()) == [DATA]
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    events = [line["event"] for line in lines if line["event"] != "server.draining"]
    assert events == ["server.started", "migration.ended", "migration.ended", "server.stopped"]
    assert [line["state"] for line in lines if "state" in line] == ["verified", "failed"]
    assert all({"time", "level", "pid"} <= line.keys() for line in lines)
    assert SECRET not in server.stderr


def test_the_log_for_people_names_a_killed_worker() -> None:
    """gunicorn's own message about it is one of our events."""
    with run_server(SERVE, RELAY_LOG_FORMAT="text", RELAY_LOG_LEVEL="info") as server:
        assert server.ask("GET", "/no-such-path")[0] == 404
        (worker,) = psutil.Process(server.process.pid).children()
        worker.kill()
        worker.wait(10)
        await_workers(server.process.pid, 1)
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.stop() == 0
    words = [line.split(" ") for line in server.stderr.splitlines()]
    events = [line[2] for line in words]
    assert (events[0], events[-1]) == ("server.started", "server.stopped")
    assert {"request.refused", "worker.ended"} <= set(events)
    (ended,) = (line for line in words if line[2] == "worker.ended")
    assert {f"worker={worker.pid}", "why=SIGKILL"} <= set(ended)


def start(command: tuple[str, ...], *flags: str, **settings: str) -> tuple[int, str]:
    """Run a server that must not start; return its exit code and stderr."""
    if command in WHOLE:
        words = [*command[3:], *flags]
        code, _, stderr = forked.run(words, environment(**settings), 30, program=command[2])
        return code, stderr
    done = subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr


@WAYS
@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", ":0"])
def test_open_to_others_without_tokens_is_refused(command: tuple[str, ...], bind: str) -> None:
    """B88: one line, with the remedy."""
    code, stderr = start(command, RELAY_BIND=bind)
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert "Run `relay token create NAME --scope admin`" in stderr


def test_gunicorns_own_bind_flag_is_looked_at_too() -> None:
    """The effective addresses are checked, from any setting."""
    code, stderr = start(GUNICORN, "-b", "0.0.0.0:0")
    assert (code, stderr.count("\n")) == (2, 1), stderr


@WAYS
def test_a_taken_port_is_one_line(command: tuple[str, ...]) -> None:
    """And not ten, after five seconds."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, stderr = start(command, RELAY_BIND=f"127.0.0.1:{taken.getsockname()[1]}")
    assert (code, stderr.count("\n")) == (1, 1), stderr
    assert "in use" in stderr


@WAYS
@pytest.mark.parametrize("descriptor", ["77", "0"])
def test_a_descriptor_that_is_not_a_socket_is_one_line(
    command: tuple[str, ...], descriptor: str
) -> None:
    """A closed one, and one that is not a socket."""
    code, stderr = start(command, RELAY_BIND=f"fd://{descriptor}")
    assert (code, stderr.count("\n")) == (1, 1), stderr
    assert f"cannot listen on fd://{descriptor} (" in stderr


@WAYS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_SLOTS", "many"),
        ("RELAY_EGRESS_ALLOW", "10.0.0.0/99"),
        ("RELAY_TOKENS_FILE", "/nonexistent"),
        ("RELAY_CA_BUNDLE", "/nonexistent"),
        ("RELAY_BIND", "127.0.0.1:99999"),
        ("RELAY_BIND", "127.0.0.1:http"),
        ("RELAY_BIND", "8080"),
        ("RELAY_BIND", "::1:0"),
        ("RELAY_BIND", "fd://x"),
        ("RELAY_SLTOS", "1"),
        ("RELAY_CONFIG", "a" * 300),
        ("RELAY_LEDGER", "sqlite:///:memory:"),
    ],
)
def test_a_wrong_setting_is_one_line(command: tuple[str, ...], name: str, value: str) -> None:
    """It names the setting, and nothing was started."""
    code, stderr = start(command, **{name: value})
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert name in stderr or value in stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--preload",),
        ("-k", "sync"),
        ("-k", "gevent"),
        ("--threads", "2", "-k", "sync"),
        ("-w", "0"),
    ],
)
def test_other_settings_of_gunicorn_are_checked(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Workers that share one connection to the ledger, others than relay's, or none: it does not
    start."""
    code, stderr = start(
        GUNICORN, *flags, RELAY_BIND="127.0.0.1:0", RELAY_LEDGER=f"sqlite:///{tmp_path}/l.db"
    )
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert "Leave gunicorn's --" in stderr


@pytest.mark.parametrize("flags", [("-k", "sync"), ("-k", "gevent", "--preload")])
def test_without_patching_it_does_not_start(flags: tuple[str, ...]) -> None:
    """F71: the self-check reports it and ends the server."""
    command = (
        sys.executable,
        "-m",
        "gunicorn",
        "--no-control-socket",
        "-b",
        "127.0.0.1:0",
        *flags,
        "relay.wsgi:app",
    )
    code, stderr = start(command)
    assert code == 4
    assert "would block one another" in stderr


def test_requests_before_patching_is_seen() -> None:
    """F71: urllib3 would keep the SSLContext that blocks."""
    text = "import requests; from gevent import monkey; monkey.patch_all(); import relay.wsgi"
    code, stderr = start((sys.executable, "-W", "ignore", "-c", text))
    assert (code, stderr.count("\n")) == (4, 1), stderr
    assert "requests was imported before" in stderr


def test_a_server_imports_every_store_when_it_starts() -> None:
    """Its modules may be those of a newer version when the first object moves."""
    text = """
from gevent import monkey; monkey.patch_all()
import os, sys
import relay.wsgi
loaded = {"awscrt.checksums", "relay.stores.s3.store", "relay.stores.local"} <= set(sys.modules)
os._exit(5 if loaded else 6)
"""
    assert start((sys.executable, "-W", "ignore", "-c", text)) == (5, "")


def test_flags_win(tmp_path: Path) -> None:
    """Flags over the environment over the file, also in the workers."""
    config = tmp_path / "relay.toml"
    config.write_text('slots = 3\nwaiters = 4\negress_allow = "127.0.0.1"\nworkers = 2\n')
    flags = ("--config", str(config), "--slots", "5", "--egress-allow", "")
    with run_server((*SERVE, *flags), RELAY_SLOTS="4", RELAY_WORKERS="1") as server:
        assert server.ask("GET", "/readyz")[1]["slots"]["free"] == 5
        await_workers(server.process.pid, 1)
        closed = {"source": "http://127.0.0.1:9/a", "destination": "http://127.0.0.1:9/b"}
        assert server.ask("POST", "/migrate", closed)[0] == 403
        assert server.stop() == 0


def test_tokens(tmp_path: Path) -> None:
    """With tokens it listens on any address, and answers only requests with one; probes need
    none."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# ours\n{SECRET}\n")
    tokens.chmod(0o600)
    with run_server(RELAY_BIND="0.0.0.0:0", RELAY_TOKENS_FILE=str(tokens)) as server:
        server.host = "127.0.0.1"
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.ask("GET", "/openapi.json")[0] == 401
        assert (
            server.ask(
                "GET", "/openapi.json", Authorization=f"Bearer {SECRET}", Host="any.example"
            )[0]
            == 200
        )
        assert (
            server.ask("POST", "/migrate", {}, Authorization="Bearer wrong-token-0123456")[0] == 401
        )
        own = {"source": f"http://127.0.0.1:{server.port}/", "destination": "http://127.0.0.1:9/b"}
        status, problem = server.ask("POST", "/migrate", own, Authorization=f"Bearer {SECRET}")
        assert (status, problem["type"].rpartition("/")[2]) == (403, "egress-denied")
        assert server.stop() == 0
    assert SECRET not in server.stderr


# -- raw requests


def head(*lines: str) -> bytes:
    """Return the head of a POST /migrate."""
    given = "".join(line + "\r\n" for line in lines)
    return f"POST /migrate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{given}\r\n".encode(
        "latin-1"
    )


PREFIX = b'{"source":"http://127.0.0.1:9/a","destination":"http://127.0.0.1:9/b"}'


@pytest.mark.parametrize(
    ("pieces", "half_close", "statuses"),
    [
        ([head("Content-Length: 0", "Connection: close")], False, {400}),  # B03
        ([head("Content-Length: 100"), PREFIX], True, {400}),  # B04, F94
        ([head("Content-Length: 10737418240"), b"x" * 100_000], False, {413}),  # B05
        ([head("Content-Length: 10485760"), b" " * 10_485_760], False, {413}),
        (
            [
                head("Transfer-Encoding: chunked"),
                b"100000\r\n" + b" " * 0x100000 + b"\r\n",
                b"2000\r\n" + b" " * 0x2000,
            ],
            False,
            {413},
        ),
        ([head("Transfer-Encoding: chunked"), b"1\r\n \r\n" * 400_000], False, {408, 413}),  # B06
        ([head("Transfer-Encoding: chunked"), b"5\r\n{\r\n"], False, {408}),
        ([head("Transfer-Encoding: chunked"), b"zz\r\n"], False, {400}),
        ([head("Transfer-Encoding: chunked"), b"zz\r\n" + b"x" * 2_000_000], False, {400}),
        (
            [head("Transfer-Encoding: chunked"), b"2;" + b"x" * 2_000_000 + b"\r\n{}\r\n"],
            False,
            {400},
        ),
        ([head("Transfer-Encoding: chunked"), b"46\r\n" + PREFIX], True, {400}),
        ([head("Content-Length: 100"), PREFIX], False, {408}),  # F93
        (
            [head("Content-Encoding: gzip", "Content-Length: 1000000000"), b"x" * 1000],
            False,
            {415},
        ),  # B17
        ([head("Expect: 200-ok", "Content-Length: 2"), b"{}"], False, {417}),  # B18
        ([head("Transfer-Encoding: gzip, chunked"), b"0\r\n\r\n"], False, {400, 501}),
        ([head("Transfer-Encoding: chunked", "Content-Length: 5"), b"0\r\n\r\n"], False, {400}),
        ([head("Content-Length: 1,1"), b"1"], False, {400}),
        ([head("Content-Length: 1", "Content-Length: 2"), b"1"], False, {400}),
        ([head("Content-Length: -1")], False, {400}),
        ([head("Host: other.example", "Content-Length: 2"), b"{}"], False, {400}),
        ([head("X: a\x00b", "Content-Length: 2"), b"{}"], False, {400}),
        ([b"POST /migrate HTTP/1.1\nHost: localhost\n\n"], True, {400}),
        ([head(f"X: {'a' * 9000}")], False, {431}),  # B19
        ([head(*(f"X-{n}: 1" for n in range(101)))], False, {431}),
        ([b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"], False, {414}),
        (
            [f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization {SECRET}\r\n\r\n".encode()],
            False,
            {400},
        ),
        ([b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"], False, {400, 505}),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], False, {400}),
    ],
)
def test_raw_requests(
    server: Server, pieces: list[bytes], half_close: bool, statuses: set[int]
) -> None:
    """One problem, then the connection closes: the bytes that follow are not treated as another
    request (F95)."""
    received = server.raw(*pieces, half_close=half_close)
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    top, _, body = received.partition(b"\r\n\r\n")
    assert int(top.split()[1]) in statuses, received
    assert b"application/problem+json" in top
    assert b"connection: close" in top.lower()
    problem = json.loads(body)
    assert problem["status"] == int(top.split()[1])
    assert SECRET.encode() not in received
    assert server.ask("GET", "/healthz")[0] == 200


def test_pipelined_after_a_short_body_is_not_smuggled(server: Server) -> None:
    """F95: bytes after a refused body are dropped with the connection."""
    smuggled = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = server.raw(head("Content-Length: 100", "Content-Encoding: br"), smuggled * 3)
    assert received.count(b"HTTP/1.1 ") == 1


def test_many_slow_bodies_delay_no_request(server: Server) -> None:
    """F93: two hundred bodies that never arrive; the probe is answered meanwhile, and each request
    gets its 408."""
    socks = [socket.create_connection((server.host, server.port), timeout=20) for _ in range(200)]
    try:
        for sock in socks:
            sock.sendall(head("Content-Length: 100") + b"{")
        assert server.ask("GET", "/healthz")[0] == 200
        assert all(b" 408 " in sock.recv(65536) for sock in socks)
    finally:
        for sock in socks:
            sock.close()


def test_keep_alive(server: Server) -> None:
    """A refused request whose body was read leaves the connection usable."""
    with closing(server.connect()) as connection:
        for _ in range(3):
            status, _, response = exchange(connection, "POST", "/migrate", {})
            assert (status, response.will_close) == (422, False)


def test_never_itself(server: Server) -> None:
    """B42: our own port is not dialled, allowed or not."""
    for host in ("127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1"):
        own = {
            "source": f"http://{host}:{server.port}/healthz",
            "destination": "http://127.0.0.1:9/b",
        }
        status, problem = server.ask("POST", "/migrate", own)
        assert (status, problem["type"].rpartition("/")[2]) == (403, "egress-denied"), host


def test_dns_rebinding(server: Server) -> None:
    """Without tokens a Host that is not loopback is not answered."""
    status, problem = server.ask("GET", "/openapi.json", Host="evil.example")
    assert (status, problem["type"].rpartition("/")[2]) == (403, "forbidden")


def test_a_client_that_hangs_up_on_a_stream(server: Server) -> None:
    """The transfer is cancelled within seconds, and the destination stays empty."""
    gate, begun, kept = threading.Event(), threading.Event(), Cloud()
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
    ):
        with closing(server.connect()) as connection:
            wanted = json.dumps(order(source, destination))
            headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
            connection.request("POST", "/migrate", wanted, headers)
            response = connection.getresponse()
            assert json.loads(response.readline())["event"] == "progress"
            assert begun.wait(10)
            response.close()
        assert any(not server.ask("GET", "/readyz")[1]["running"] for _ in looks())
        gate.set()
    assert kept.objects == {}


# -- the drain


@WAYS
def test_drain(command: tuple[str, ...]) -> None:
    """SIGTERM: not ready, no new transfer, the running one succeeds, and the exit code is 0
    (F61)."""
    gate, begun, kept, answers = threading.Event(), threading.Event(), Cloud(), []
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(command, RELAY_GRACEFUL_TIMEOUT="20") as server,
        closing(server.connect()) as connection,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", order(source, destination))
            )
        )
        asked.start()
        assert begun.wait(10)
        # One request keeps the connection in gunicorn's hands, another one follows on it after the
        # signal.
        assert exchange(connection, "GET", "/readyz")[0] == 200
        (worker,) = psutil.Process(server.process.pid).children()
        server.process.send_signal(signal.SIGTERM)
        status, ready = await_drain(server, connection, order(source, destination))
        assert (status, ready) == (503, True)
        gate.set()
        asked.join(20)
        assert server.finish() == 0
        assert not worker.is_running()
    (status, migration) = answers[0]
    assert (status, migration["state"]) == (200, "verified")
    assert kept.objects == {b"/b": DATA}
    assert "ERROR" not in server.stderr and "WARNING" not in server.stderr, server.stderr


def await_drain(
    server: Server, connection: http.client.HTTPConnection, wanted: dict[str, Any]
) -> tuple[int, bool]:
    """Make requests on a kept connection until the drain shows; then a POST: its status, and
    whether the response was complete."""
    for _ in looks():
        status, members, response = exchange(connection, "GET", "/readyz")
        if status == 503:
            break
    assert status == 503
    assert members["ready"] is False
    assert response.will_close
    # Its listener is closed, or about to be; a connection that was accepted before still gets a
    # response.
    with closing(server.connect()) as late:
        try:
            status, problem, response = exchange(late, "POST", "/migrate", wanted)
        except OSError:
            return 503, True
    return status, problem["retryable"] and response.getheader(
        "Retry-After"
    ) is not None and response.will_close


@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param(SERVE, signal.SIGINT, id="relay serve-2"),
        pytest.param(GUNICORN, signal.SIGTERM, id="gunicorn -c-15"),
        pytest.param(SERVE, signal.SIGTERM, id="relay serve-15", marks=pytest.mark.campaign),
        pytest.param(GUNICORN, signal.SIGINT, id="gunicorn -c-2", marks=pytest.mark.campaign),
    ],
)
def test_a_stopped_server_prints_nothing(command: tuple[str, ...], number: signal.Signals) -> None:
    """Ctrl-C is not a bug. Each way and each signal once, and all four as campaigns: these servers
    are started, since what Python prints at its end counts."""
    with run_server(command, True) as server:
        assert server.ask("GET", "/healthz")[0] == 200
        master = psutil.Process(server.process.pid)
        for process in (
            *master.children(),
            master,
        ):  # like a terminal, which signals the whole foreground group
            process.send_signal(number)
        assert (server.finish(), server.stderr) == (0, "")


@WAYS
def test_ctrl_c_lets_transfers_end(command: tuple[str, ...]) -> None:
    """As SIGTERM does; and a terminal that is closed (SIGHUP) kills no worker."""
    gate, begun, kept, answers = threading.Event(), threading.Event(), Cloud(), []
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(command, RELAY_GRACEFUL_TIMEOUT="20") as server,
        closing(server.connect()) as probe,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", order(source, destination))
            )
        )
        asked.start()
        assert begun.wait(10)
        assert exchange(probe, "GET", "/healthz")[0] == 200
        master = psutil.Process(server.process.pid)
        workers = master.children()
        for process in workers:
            process.send_signal(signal.SIGHUP)
        for process in (*workers, master):
            process.send_signal(signal.SIGINT)
        assert any(exchange(probe, "GET", "/readyz")[0] != 200 for _ in looks())
        gate.set()
        asked.join(20)
        assert server.finish() == 0
    assert answers and (answers[0][0], answers[0][1]["state"]) == (200, "verified")
    assert kept.objects == {b"/b": DATA}


def test_a_second_ctrl_c_stops_a_server_at_once() -> None:
    gate, begun = threading.Event(), threading.Event()
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(Cloud())) as destination,
        run_server(RELAY_GRACEFUL_TIMEOUT="60") as server,
        closing(server.connect()) as client,
        closing(server.connect()) as probe,
    ):
        assert exchange(probe, "GET", "/healthz")[0] == 200
        client.request(
            "POST",
            "/migrate",
            json.dumps(order(source, destination)),
            {"Content-Type": "application/json"},
        )
        assert begun.wait(10)
        master = psutil.Process(server.process.pid)
        workers = master.children()
        for process in (*workers, master):
            process.send_signal(signal.SIGINT)
        assert any(exchange(probe, "GET", "/readyz")[0] != 200 for _ in looks())
        for process in workers:
            process.send_signal(signal.SIGINT)
        assert server.finish() == 0
        gate.set()


def test_new_posts_on_a_kept_connection_while_draining() -> None:
    """The other order: the first thing after the signal on a kept connection is a POST."""
    gate, begun, kept = threading.Event(), threading.Event(), Cloud()
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(RELAY_GRACEFUL_TIMEOUT="20") as server,
        closing(server.connect()) as probe,
        closing(server.connect()) as poster,
    ):
        asked = threading.Thread(
            target=server.ask, args=("POST", "/migrate", order(source, destination))
        )
        asked.start()
        assert begun.wait(10)
        assert (
            exchange(probe, "GET", "/healthz")[0] == exchange(poster, "GET", "/healthz")[0] == 200
        )
        server.process.send_signal(signal.SIGTERM)
        assert any(exchange(probe, "GET", "/readyz")[0] != 200 for _ in looks())
        status, problem, response = exchange(poster, "POST", "/migrate", order(source, destination))
        assert (status, problem["type"].rpartition("/")[2]) == (503, "overloaded")
        assert response.getheader("Retry-After") == "5"
        assert response.will_close
        gate.set()
        asked.join(20)
        assert server.finish() == 0


def test_a_late_transfer_is_cancelled_with_an_answer() -> None:
    """Seconds before gunicorn's SIGKILL the client is informed, and the destination stays empty."""
    gate, begun, kept, answers = threading.Event(), threading.Event(), Cloud(), []
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(RELAY_GRACEFUL_TIMEOUT="5") as server,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", order(source, destination))
            )
        )
        asked.start()
        assert begun.wait(10)
        assert server.stop() == 0
        asked.join(10)
        gate.set()
    (status, problem) = answers[0]
    assert (status, problem["type"].rpartition("/")[2], problem["retryable"]) == (
        503,
        "cancelled",
        True,
    )
    assert kept.objects == {}


@pytest.mark.parametrize(
    "head",
    [
        b"GET //healthz HTTP/1.1\r\n",
        b"GET /healthz/ HTTP/1.1\r\n",
        b"GET /migrations// HTTP/1.1\r\n",
        b"GET /./healthz HTTP/1.1\r\n",
        b"GET /%2fhealthz HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\nSCRIPT_NAME: /healthz\r\n",
        b"GET /x/migrations HTTP/1.1\r\nSCRIPT_NAME: /x\r\n",
        b"GET /healthz HTTP/1.1\r\nSCRIPT-NAME: /x\r\nPATH_INFO: /readyz\r\n",
        b"GET /healthz HTTP/1.1\r\nSCRIPT_NAME: /nowhere\r\n",
        b"POST //migrate HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n",
    ],
)
def test_no_answer_is_html_or_a_redirect(server: Server, head: bytes) -> None:
    answered = server.raw(
        head + b"Host: 127.0.0.1\r\nConnection: close\r\n\r\n" + (b"{}" if b"POST" in head else b"")
    )
    first, _, rest = answered.partition(b"\r\n")
    status = int(first.split()[1])
    assert status in (200, 404, 405, 422), answered
    fields, _, body = rest.partition(b"\r\n\r\n")
    assert re.search(rb"(?im)^Content-Type: application/(problem\+)?json", fields), answered
    assert json.loads(body)


@contextmanager
def allow_core_dumps() -> Iterator[None]:
    """Let processes started meanwhile write core files of any length, as far as this process
    may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("no process here may write a core file")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@WAYS
def test_no_process_of_a_server_leaves_an_image_of_its_memory(command: tuple[str, ...]) -> None:
    """It contains credentials, and pieces of objects, which are never written to a disk. A limit of
    one byte also stops an image that the system would pipe to a program."""
    with allow_core_dumps(), run_server(command, True, RELAY_WORKERS="2") as server:
        assert server.ask("GET", "/healthz")[0] == 200
        master = psutil.Process(server.process.pid)
        processes = [master, *master.children(recursive=True)]
        assert len(processes) >= 2
        assert {process.rlimit(psutil.RLIMIT_CORE)[0] for process in processes} == {1}


def test_no_command_leaves_an_image_of_its_memory() -> None:
    asked = "import resource\nfrom relay.cli.__main__ import main\nmain(['remotes'])\n"
    asked += "print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    with allow_core_dumps():
        done = subprocess.run(
            [sys.executable, "-c", asked],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert done.stdout.splitlines()[-1] == "1", done.stderr
