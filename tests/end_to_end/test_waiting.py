"""Clients that wait for a migration: a bounded number, noticed when they leave, and answered when
the server stops."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from relay.api.schemas import RecordedSchema
from tests.end_to_end.test_serve import GUNICORN, SERVE, Server, await_workers, run_server
from tests.faults.scripted_peers import Cloud, destination_script
from tests.scripted import Peer, Talk

HEADERS = {"Content-Type": "application/json", "Idempotency-Key": "one", "Prefer": "wait=3600"}


@contextmanager
def run_endless(
    command: tuple[str, ...] = SERVE, **settings: str
) -> Iterator[tuple[Server, dict[str, Any]]]:
    """Run a server and a store that never answers; yield the server, and the request for an object
    of that store."""

    def stay_silent(talk: Talk) -> None:
        talk.head()
        talk.linger()

    with Peer(stay_silent) as peer, run_server(command, **settings) as server:
        await_workers(server.process.pid, 1)
        yield server, {"source": peer.url("/a"), "destination": peer.url("/b")}


def wait_for(server: Server, wanted: dict[str, Any], **headers: str) -> socket.socket:
    """Send a request that waits, and return its connection."""
    sock = socket.create_connection((server.host, server.port), timeout=60)
    sock.sendall(request_of(wanted, **headers))
    return sock


def request_of(wanted: dict[str, Any], **headers: str) -> bytes:
    """Return a request that waits."""
    body = json.dumps(wanted).encode()
    fields = HEADERS | headers | {"Host": "localhost", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /migrate HTTP/1.1\r\n{head}\r\n".encode() + body


def count_connections(worker: psutil.Process, port: int) -> int:
    """Return the number of client connections that a worker holds."""
    return sum(c.laddr.port == port for c in worker.net_connections("tcp") if c.raddr)


def await_requests(worker: psutil.Process, port: int, count: int) -> None:
    """Wait until a worker holds `count` requests."""
    until = time.monotonic() + 20
    while count_connections(worker, port) != count and time.monotonic() < until:
        time.sleep(0.05)
    assert count_connections(worker, port) == count


def await_migration(server: Server) -> None:
    """Wait until the ledger has the migration."""
    until = time.monotonic() + 20
    while server.ask("GET", "/migrations/1")[0] != 200 and time.monotonic() < until:
        time.sleep(0.05)


def status_of(sock: socket.socket) -> int:
    """Read the status of a response."""
    return int(sock.makefile("rb").readline().split()[1])


def test_clients_that_leave_are_noticed() -> None:
    """They close, break the connection or close their half: nothing continues for them, and others
    wait on."""
    with run_endless() as (server, wanted), closing(wait_for(server, wanted)) as stays:
        (worker,) = psutil.Process(server.process.pid).children()
        gone = [wait_for(server, wanted) for _ in range(60)]
        await_requests(worker, server.port, 61)
        for number, sock in enumerate(gone):
            if number % 3 == 0:
                sock.shutdown(socket.SHUT_WR)
                assert status_of(sock) == 202
            elif number % 3 == 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        await_requests(worker, server.port, 1)
        stays.setblocking(False)
        with pytest.raises(BlockingIOError):
            stays.recv(1)


def test_surplus_waiters_are_answered_at_once() -> None:
    """A preference may be ignored (RFC 7240); a released place goes to another client."""
    with run_endless(RELAY_WAITERS="2") as (server, wanted), ExitStack() as open_:
        (worker,) = psutil.Process(server.process.pid).children()
        first, second = (open_.enter_context(closing(wait_for(server, wanted))) for _ in range(2))
        await_requests(worker, server.port, 2)
        with closing(wait_for(server, wanted)) as third:
            assert status_of(third) == 202
        first.close()
        await_requests(worker, server.port, 1)
        fourth = open_.enter_context(closing(wait_for(server, wanted)))
        await_requests(worker, server.port, 2)
        for sock in (second, fourth):
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_does_not_wait_for_waiters(number: signal.Signals) -> None:
    """At SIGTERM and at a reload: 202, a last line, the end of the events; and the old worker ends
    at once."""
    with run_endless(RELAY_GRACEFUL_TIMEOUT="60") as (server, wanted), ExitStack() as open_:
        (worker,) = psutil.Process(server.process.pid).children()
        waits = open_.enter_context(closing(wait_for(server, wanted)))
        await_migration(server)
        lines = open_.enter_context(
            closing(wait_for(server, wanted, Accept="application/x-ndjson"))
        )
        events = open_.enter_context(closing(server.connect()))
        events.request("GET", "/migrations/1/events")
        # The response owns the connection, which ends with the object.
        answer = open_.enter_context(closing(events.getresponse()))
        assert answer.readline()
        await_requests(worker, server.port, 3)
        server.process.send_signal(number)
        assert status_of(waits) == 202
        last = json.loads(
            lines.makefile("rb").read().splitlines()[-4]
        )  # the last chunk, and its end, follow it
        assert (last["event"], last["state"]) == ("progress", "running"), "there is no result yet"
        assert last["trouble"]["code"] == "overloaded" and "stopping" in last["trouble"]["detail"]
        worker.wait(20)  # and not after sixty
        if number == signal.SIGTERM:
            assert server.finish() == 0


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a file with a key and a certificate of its own."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "pem")
    )
    return tmp_path / "pem"


def test_a_client_over_gunicorns_tls_is_noticed(certificate: Path) -> None:
    """Also after it has sent bytes behind its request, where no byte can be peeked at."""
    flags = f"--certfile {certificate} --keyfile {certificate}"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def waiting(more: bytes = b"") -> ssl.SSLSocket:
        sock = context.wrap_socket(socket.create_connection((server.host, server.port), timeout=60))
        sock.sendall(request_of(wanted) + more)
        return sock

    with (
        run_endless(command=GUNICORN, GUNICORN_CMD_ARGS=flags) as (server, wanted),
        ExitStack() as open_,
    ):
        (worker,) = psutil.Process(server.process.pid).children()
        stays, talks, *gone = (
            open_.enter_context(closing(waiting(b"G" * (n == 1)))) for n in range(10)
        )
        await_requests(worker, server.port, 10)
        for number, sock in enumerate(gone):
            if number % 2:
                sock.settimeout(0)
                with suppress(OSError):  # it announces the close, and waits for no reply
                    sock.unwrap()
            sock.close()
        await_requests(worker, server.port, 2)
        server.process.send_signal(signal.SIGTERM)
        assert status_of(stays) == status_of(talks) == 202
        assert server.finish(60) == 0
    assert "Error" not in server.stderr


def test_a_paused_migration_at_rest_is_not_waited_for() -> None:
    """It does not resume by itself."""
    with run_endless() as (server, wanted):
        with closing(wait_for(server, wanted)) as waits:
            await_migration(server)
            assert server.ask("POST", "/migrations/1/pause")[1]["state"] == "paused"
            assert status_of(waits) == 202
        with closing(wait_for(server, wanted)) as again:
            assert status_of(again) == 202


@pytest.mark.parametrize("alone", [False, True], ids=["in the ledger", "a stream of one object"])
def test_a_retry_is_reported(alone: bool) -> None:
    """The reason, the cause and the next attempt: of a migration, and of an object that is
    streamed; nothing once bytes move."""
    well = threading.Event()

    def source(talk: Talk) -> None:
        while talk.head():
            talk.send(
                b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "1"\r\n\r\n'
                if well.is_set()
                else b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
            )

    with (
        Peer(source) as peer,
        Peer(destination_script(Cloud())) as there,
        run_server(SERVE, RELAY_RETRY_BUDGET="60") as server,
        closing(server.connect()) as connection,
    ):
        wanted = {"source": peer.url("/a"), "destination": there.url("/b")}
        if alone:
            headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
            connection.request("POST", "/migrate", json.dumps(wanted), headers)
            lines = (json.loads(line) for line in connection.getresponse())
            trouble = next(line["trouble"] for line in lines if line["trouble"] is not None)
            well.set()
            last = list(lines)[-1]
            assert (last["event"], last["state"]) == ("result", "verified")
        else:
            assert server.ask("POST", "/migrate", wanted, Prefer="respond-async")[0] == 202
            trouble = next(rows[0] for rows in iter(lambda: look(server)["retried"], None) if rows)
            well.set()
            migration = next(
                one for one in iter(lambda: look(server), None) if one["state"] != "running"
            )
            assert (migration["state"], migration["retried"]) == ("succeeded", [])
    assert (trouble["side"], trouble["what"]) == ("source", "the object")
    assert trouble["failures"] >= 1 and trouble["since"] <= trouble["again"]


def test_a_retried_listing_is_reported() -> None:
    """In every answer that reports its progress."""

    def busy(talk: Talk) -> None:
        while talk.head():
            talk.send(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")

    settings = {
        "RELAY_RETRY_BUDGET": "60",
        "RELAY_WORKERS": "2",
    }  # each worker lists one tree at a time
    with Peer([busy] * 40) as peer, run_server(SERVE, **settings) as server, ExitStack() as stack:
        wanted = {"source": peer.url("/f/"), "destination": peer.url("/t/"), "recursive": True}
        assert server.ask("POST", "/migrate", wanted, Prefer="respond-async")[0] == 202
        retries = [next(rows[0] for rows in iter(lambda: look(server)["retried"], None) if rows)]
        follow, post = (stack.enter_context(closing(server.connect())) for _ in range(2))
        follow.request("GET", "/migrations/1/events")
        data = (
            line.partition(b"data: ")[2]
            for line in follow.getresponse()
            if line.startswith(b"data: ")
        )
        retries.append(first_retry(data))
        headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        post.request(
            "POST", "/migrate", json.dumps(wanted | {"destination": peer.url("/u/")}), headers
        )
        retries.append(first_retry(post.getresponse()))
    for one in retries:
        assert (one["what"], one["side"], one["error"]) == (
            "the listing",
            "source",
            "store-unavailable",
        ), retries
        assert "503" in one["detail"] and one["since"] <= one["again"]


def first_retry(lines: Iterable[bytes]) -> dict[str, Any]:
    """Return the name of the first reported retry."""
    found: dict[str, Any] = next(
        rows[0] for line in lines if (rows := json.loads(line).get("retried"))
    )
    return found


def look(server: Server) -> dict[str, Any]:
    """Return the one migration, in the form that the API promises."""
    time.sleep(0.05)  # another process's work can only be polled
    status, body = server.ask("GET", "/migrations/1")
    assert status == 200
    RecordedSchema.model_validate(body, strict=True)
    return body
