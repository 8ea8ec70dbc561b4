"""The server and the command line under faults of their own process, its ledger and its
clients."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from simulators.proxy import Proxy
from simulators.source import Source
from tests.end_to_end.terminal import Terminal, eventually
from tests.end_to_end.test_migrations import digests, has_ended, wait_for
from tests.end_to_end.test_serve import GUNICORN, SERVE, Server, exchange, gated_source, run_server
from tests.end_to_end.test_serve import order as one_object
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    inspected_script,
    source_script,
)
from tests.looks import looks
from tests.postgres import Postgres, postgresql, programs
from tests.scripted import Peer, Talk
from tests.seaweed import KEY, REGION, SECRET, Seaweed

MIB = 1 << 20
SMALL = 40


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder in which servers may read and write, with a small tree in it."""
    plant(tmp_path / "from", SMALL)
    (tmp_path / "to").mkdir()
    return tmp_path


@pytest.fixture
def settings(folders: Path) -> dict[str, str]:
    """Return the settings of servers that share a ledger and often check for expired leases."""
    return {
        "RELAY_LOCAL_FOLDERS": str(folders),
        "RELAY_LEDGER": f"sqlite:///{folders}/ledger.db",
        "RELAY_LEASE_SECONDS": "1",
    }


def plant(folder: Path, count: int) -> None:
    """Write `count` small objects."""
    chance = random.Random(count)
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"object {index:05}").write_bytes(chance.randbytes(chance.randrange(1, 2000)))


def order(folders: Path, **more: Any) -> dict[str, Any]:
    """Return a request for the tree."""
    return {
        "source": f"file://{folders}/from",
        "destination": f"file://{folders}/to",
        "recursive": True,
        **more,
    }


def worker_of(server: Server) -> psutil.Process:
    """Return the server's only worker."""
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def ledger_value(folders: Path, query: str) -> Any:
    """Return one value of the ledger."""
    with closing(
        sqlite3.connect(f"file:{folders}/ledger.db?mode=ro", uri=True, timeout=10)
    ) as connection:
        row = connection.execute(query).fetchone()
    return row and row[0]


def inodes(folder: Path) -> dict[str, int]:
    """Return a value that changes when an object is committed again."""
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}


@contextmanager
def bucket(
    server: Seaweed, folders: Path, data: bytes, rate: float
) -> Iterator[tuple[Seaweed, Proxy, dict[str, str]]]:
    """Yield a new bucket behind a slow line, the settings with which it is `far:`, and an object to
    move there."""
    (folders / "large").mkdir()
    (folders / "large" / "object").write_bytes(data)
    store = server.with_new_bucket()
    with Proxy(store.endpoint.partition("//")[2], rate=rate) as slow:
        (folders / "relay.toml").write_text(
            f'[remotes.far]\ntype = "s3"\nendpoint = "{slow.url()}"\naccess_key_id = "{KEY}"\n'
            f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
        )
        yield (
            store,
            slow,
            {
                "RELAY_CONFIG": str(folders / "relay.toml"),
                "RELAY_PART_BYTES": str(5 * MIB),
                "RELAY_PARTED_BYTES": str(10 * MIB),
                "RELAY_PARTS_IN_FLIGHT": "2",
                "RELAY_GRACEFUL_TIMEOUT": "8",
            },
        )


# -- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_f61_a_stopping_worker_hands_back_and_keeps_parts(
    settings: dict[str, str], folders: Path, seaweed_server: Seaweed, number: signal.Signals
) -> None:
    data = random.Random(1).randbytes(MIB) * 31
    with bucket(seaweed_server, folders, data, rate=5e6) as (store, slow, more):
        request = order(
            folders, source=f"file://{folders}/large", destination=f"far:{store.bucket}/to"
        )
        with run_server(SERVE, **settings, **more) as server:
            status, body = server.ask("POST", "/migrate", request)
            assert status == 202, body
            eventually(
                lambda: ledger_value(folders, "SELECT count(*) FROM parts WHERE etag != ''") >= 2
            )
            worker = worker_of(server)
            server.process.send_signal(number)
            if number == signal.SIGTERM:
                assert server.finish() == 0
                assert (
                    ledger_value(folders, "SELECT state || ' ' || lapses FROM transfers")
                    == "queued 0"
                )
                assert ledger_value(folders, "SELECT count(*) FROM parts WHERE etag != ''") >= 2
                assert ledger_value(folders, "SELECT count(*) FROM runners") == 0
            else:
                eventually(
                    lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
                )
                wait_for(server, body["id"], has_ended)
        with run_server(SERVE, **settings, **more) as server:
            done = wait_for(server, body["id"], has_ended)
            assert (done["state"], done["objects"]) == ("succeeded", {"verified": 1})
            _, page = server.ask("GET", f"/migrations/{body['id']}/transfers")
        assert page["transfers"][0]["attempts"] == 2
        assert ledger_value(folders, "SELECT lapses FROM transfers") == 0
        assert slow.bytes_carried("up") <= len(data) + 2 * 5 * MIB + 512 * 1024
        client = store.client()
        assert client.get_object(Bucket=store.bucket, Key="to/object")["Body"].read() == data
        assert "Uploads" not in client.list_multipart_uploads(Bucket=store.bucket)


def test_f51_a_server_removes_parts_of_a_cancelled_migration(
    settings: dict[str, str], folders: Path, seaweed_server: Seaweed
) -> None:
    with bucket(seaweed_server, folders, bytes(31 * MIB), rate=5e6) as (store, _, more):
        request = order(
            folders, source=f"file://{folders}/large", destination=f"far:{store.bucket}/to"
        )
        with run_server(SERVE, **settings, **more) as server:
            id = server.ask("POST", "/migrate", request)[1]["id"]
            eventually(
                lambda: ledger_value(folders, "SELECT count(*) FROM parts WHERE etag != ''") >= 1
            )
            server.ask("POST", f"/migrations/{id}/pause")
            wait_for(server, id, lambda migration: not migration["objects"].get("running"))
            assert len(store.client().list_multipart_uploads(Bucket=store.bucket)["Uploads"]) == 1
            assert server.ask("POST", f"/migrations/{id}/cancel")[1]["state"] == "cancelled"
            eventually(lambda: ledger_value(folders, "SELECT count(*) FROM uploads") == 0)
            assert "Uploads" not in store.client().list_multipart_uploads(Bucket=store.bucket)
            assert "Contents" not in list_bucket(store)


def test_f62_a_worker_past_its_lease_publishes_nothing(
    settings: dict[str, str], folders: Path
) -> None:
    """It holds all but the last half of the bytes, which arrive while it sleeps; another worker
    finishes before it wakes."""
    gate, begun = threading.Event(), threading.Event()
    fast = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    with (
        Peer([gated_source(Cloud(), gate, begun), fast]) as source,
        run_server(SERVE, **settings) as sleeper,
    ):
        request = {"source": source.url("/a"), "destination": f"file://{folders}/to/b"}
        id = sleeper.ask("POST", "/migrate", request, Prefer="respond-async")[1]["id"]
        assert begun.wait(20)
        worker = worker_of(sleeper)
        worker.suspend()
        try:
            with run_server(SERVE, **settings) as other:
                migration = wait_for(other, id, has_ended)
                assert migration["objects"] == {"verified": 1}
                seen = inodes(folders / "to")
                gate.set()
                worker.resume()
                eventually(lambda: sleeper.ask("GET", "/readyz")[1]["running"] == 0)
                assert inodes(folders / "to") == seen
                assert wait_for(other, id, has_ended)["objects"] == {"verified": 1}
        finally:
            gate.set()
            worker.resume()
        assert sleeper.stop() == 0
    assert list(seen) == ["b"]
    assert (folders / "to" / "b").read_bytes() == DATA
    # A verified object no longer counts the worker that was lost.
    assert ledger_value(folders, "SELECT attempts || ' ' || lapses FROM transfers") == "2 0"


@pytest.mark.timeout(120)
def test_f63_a_hung_worker_is_replaced_and_its_work_resumed(
    settings: dict[str, str], folders: Path
) -> None:
    """gunicorn misses its heartbeat, as it does for a worker whose loop is blocked."""
    gate, begun = threading.Event(), threading.Event()
    fast = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    watched = (*GUNICORN[:-1], "--timeout", "8", GUNICORN[-1])
    with (
        Peer([gated_source(Cloud(), gate, begun), fast]) as source,
        run_server(watched, **settings) as server,
    ):
        request = {"source": source.url("/a"), "destination": f"file://{folders}/to/b"}
        id = server.ask("POST", "/migrate", request, Prefer="respond-async")[1]["id"]
        assert begun.wait(20)
        blocked = worker_of(server)
        blocked.suspend()
        eventually(lambda: not blocked.is_running() or blocked.status() == psutil.STATUS_ZOMBIE)
        assert wait_for(server, id, has_ended)["objects"] == {"verified": 1}
        gate.set()
        assert worker_of(server).pid != blocked.pid
    assert [(path.name, path.read_bytes() == DATA) for path in (folders / "to").iterdir()] == [
        ("b", True)
    ]
    # A verified object no longer counts the worker that was lost.
    assert ledger_value(folders, "SELECT attempts || ' ' || lapses FROM transfers") == "2 0"


# -- limits of the process


FIXED_BYTES = 8 * MIB
"""Memory of the modules, the metrics and the caches that the first migrations need."""


@pytest.mark.timeout(120)
def test_f64_a_destination_that_does_not_read_costs_one_buffer(
    settings: dict[str, str],
) -> None:
    """Memory holds only the bytes that the source sent and the destination has not accepted; the
    source itself waits."""
    many, each, buffer = 100, 8 * MIB, 128 * 1024
    arrived, gate = threading.Semaphore(0), threading.Event()

    def stay_deaf(talk: Talk) -> None:
        if not talk.head():
            return  # other requests used another connection
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        arrived.release()
        gate.wait(100)

    with (
        Source(seed="f64") as source,
        Peer([inspected_script(stay_deaf)] * 2 * many) as destination,
        run_server(
            SERVE, **settings, RELAY_SLOTS=str(many), RELAY_BUFFER_BYTES=str(buffer)
        ) as server,
    ):
        assert server.ask("GET", "/healthz")[0] == 200
        worker = worker_of(server)
        before = worker.memory_info().rss
        for number in range(many):
            request = {
                "source": source.url(f"/{number}?size={each}"),
                "destination": destination.url(f"/{number}"),
            }
            assert server.ask("POST", "/migrate", request, Prefer="respond-async")[0] == 202
        for _ in range(many):
            assert arrived.acquire(timeout=60)
        grown = worker.memory_info().rss - before
        gate.set()
    assert grown < many * 2 * buffer + FIXED_BYTES


def test_f65_without_descriptors_new_work_is_refused(
    settings: dict[str, str],
) -> None:
    gate, begun, kept, answers = threading.Event(), threading.Event(), Cloud(), []
    with (
        Peer(
            [
                gated_source(Cloud(), gate, begun),
                source_script(Cloud(), fixed_answer(GET_HEAD, DATA)),
            ]
        ) as source,
        Peer(destination_script(kept)) as destination,
        run_server(SERVE, **settings) as server,
        closing(server.connect()) as connection,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", one_object(source, destination))
            )
        )
        asked.start()
        assert begun.wait(10)
        assert exchange(connection, "GET", "/readyz")[0] == 200
        worker = worker_of(server)
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (worker.num_fds(), hard))
        status, problem, response = exchange(
            connection, "POST", "/migrate", one_object(source, destination)
        )
        assert (status, problem["side"], problem["retryable"]) == (503, "relay", True)
        assert response.getheader("Retry-After")
        assert exchange(connection, "GET", "/healthz")[0] == 200
        gate.set()
        asked.join(20)
        assert answers[0][1]["state"] == "verified", answers
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert (
            server.ask("POST", "/migrate", one_object(source, destination))[1]["state"]
            == "verified"
        )
        assert server.stop() == 0


def test_f81_an_object_that_kills_workers_is_quarantined(
    settings: dict[str, str], folders: Path
) -> None:
    """Only the large one reaches the place at which the worker dies."""
    (folders / "from" / "a large one").write_bytes(bytes(3 * MIB))
    with run_server(SERVE, **settings, RELAY_FAILPOINT="mid-part:1:kill9") as server:
        id = server.ask("POST", "/migrate", order(folders))[1]["id"]
        eventually(lambda: ledger_value(folders, "SELECT state FROM migrations") == "partial")
        migration = wait_for(server, id, has_ended)
        assert migration["objects"] == {"failed": 1, "verified": SMALL}
        _, page = server.ask("GET", f"/migrations/{id}/transfers?state=failed")
    assert [(row["name"], row["error"]) for row in page["transfers"]] == [
        ("a large one", "quarantined")
    ]
    (folders / "from" / "a large one").unlink()
    assert {
        name: found for name, found in digests(folders / "to").items() if not name.startswith(".")
    } == digests(folders / "from")


# -- the ledger


@contextmanager
def lock_ledger(file: Path) -> Iterator[None]:
    """Lock the ledger against every other process."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_f72_a_locked_ledger_is_a_503_and_delays_no_other(
    settings: dict[str, str], folders: Path
) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []
    settings |= {"RELAY_LEASE_SECONDS": "60"}
    with run_server(SERVE, **settings) as server:
        assert server.ask("GET", "/readyz")[0] == 200
        with lock_ledger(folders / "ledger.db"):
            asked = threading.Thread(
                target=lambda: answers.append(server.ask("POST", "/migrate", order(folders)))
            )
            asked.start()
            probes = 0
            for _ in looks():
                assert server.ask("GET", "/healthz")[0] == 200
                probes += 1
                if not asked.is_alive():
                    break
            asked.join()
        assert probes > 10, server.stderr
        ((status, problem),) = answers
        assert (status, problem["type"].rpartition("/")[2], problem["retryable"]) == (
            503,
            "ledger-busy",
            True,
        )
        assert server.ask("GET", "/migrations")[1]["migrations"] == []
        eventually(lambda: server.ask("GET", "/readyz")[0] == 200)
        status, body = server.ask("POST", "/migrate", order(folders), Prefer="wait=60")
        assert (status, body["state"]) == (200, "succeeded")


def test_f73_a_full_disk_refuses_work_and_loses_nothing(
    settings: dict[str, str], folders: Path
) -> None:
    with run_server(SERVE, **settings) as server:
        first = server.ask("POST", "/migrate", order(folders), Prefer="wait=60")[1]
        assert first["state"] == "succeeded"
        worker = worker_of(server)
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (1024, hard))
        status, problem = server.ask("POST", "/migrate", order(folders))
        assert (status, problem["type"].rpartition("/")[2]) == (503, "ledger-failed"), problem
        assert "ledger.db" in problem["detail"]
        eventually(lambda: server.ask("GET", "/readyz")[0] == 503)
        assert server.ask("GET", "/readyz")[1]["ledger"] == "ledger-failed"
        assert server.ask("GET", "/healthz")[0] == 200
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (soft, hard))
        eventually(lambda: server.ask("GET", "/readyz")[0] == 200)
        assert [one["id"] for one in server.ask("GET", "/migrations")[1]["migrations"]] == [
            first["id"]
        ]
        second = server.ask("POST", "/migrate", order(folders), Prefer="wait=60")[1]
        assert (second["number"], second["state"], second["objects"]) == (
            2,
            "succeeded",
            {"skipped": SMALL},
        )
        assert server.stop() == 0


FRAME = 24 + 4096
"""A frame of SQLite's log: its header, and a page (sqlite.org, "WAL-mode File Format")."""


@pytest.mark.parametrize("lost", [1, 5, 20, 45])
def test_f74_a_ledger_without_its_last_commits_converges(tmp_path: Path, lost: int) -> None:
    """The machine failed with a disk that had acknowledged more than it wrote. Nothing is committed
    a second time.

    At first the last claims are lost, in the end the whole listing."""
    plant(tmp_path / "from", SMALL)
    (tmp_path / "from" / "z large").write_bytes(random.Random(3).randbytes(MIB) * 3)
    terminal = Terminal(tmp_path)
    words = ("migrate", "-r", f"{tmp_path}/from", f"{tmp_path}/to", "--slots", "2")
    process = terminal.start(*words, RELAY_FAILPOINT="mid-part:1:kill9")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    seen = inodes(tmp_path / "to")
    log = terminal.ledger.with_name("ledger.db-wal")
    frames = (log.stat().st_size - 32) // FRAME
    os.truncate(log, 32 + max(frames - lost, 0) * FRAME)
    terminal.ledger.with_name("ledger.db-shm").unlink()
    with closing(sqlite3.connect(terminal.ledger)) as found:
        found.execute("UPDATE runners SET boot = 'the one before'")
        found.commit()
    code, out, err = terminal.run(*words, "--json")
    assert code == 0, out + err
    report = json.loads(out)
    assert set(report["objects"]) <= {"verified", "skipped"}
    assert sum(report["objects"].values()) == SMALL + 1
    assert digests(tmp_path / "to") == digests(tmp_path / "from")
    after = inodes(tmp_path / "to")
    assert {name: after[name] for name in seen if not name.startswith(".")} == {
        name: inode for name, inode in seen.items() if not name.startswith(".")
    }


def test_f75_a_ledger_that_was_removed_accepts_nothing(
    settings: dict[str, str], folders: Path
) -> None:
    with run_server(SERVE, **settings) as server:
        assert server.ask("GET", "/readyz")[0] == 200
        (folders / "ledger.db").rename(folders / "kept.db")
        status, problem = server.ask("POST", "/migrate", order(folders))
        assert (status, problem["type"].rpartition("/")[2]) == (503, "ledger-failed")
        assert "removed or replaced" in problem["detail"]
        eventually(lambda: server.ask("GET", "/readyz")[0] == 503)
        (folders / "kept.db").rename(folders / "ledger.db")
        eventually(lambda: server.ask("GET", "/readyz")[0] == 200)
        assert (
            server.ask("POST", "/migrate", order(folders), Prefer="wait=60")[1]["state"]
            == "succeeded"
        )


# -- PostgreSQL


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """Return a server that this test may stop and start."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as server:
        yield server


MANY = 600


def test_f76_a_database_restart_loses_nothing(
    postgres: Postgres, settings: dict[str, str], folders: Path
) -> None:
    plant(folders / "many", MANY)
    request = order(folders, source=f"file://{folders}/many")
    with run_server(SERVE, **settings | {"RELAY_LEDGER": postgres.database()}) as server:
        id = server.ask("POST", "/migrate", request)[1]["id"]
        for least in (1, MANY // 2):
            wait_for(
                server,
                id,
                lambda migration, least=least: migration["objects"].get("verified", 0) >= least,
            )
            postgres.control("restart", "-m", "immediate")
            eventually(lambda: server.ask("GET", f"/migrations/{id}")[0] == 200)
        migration = wait_for(server, id, has_ended)
        assert migration["state"] == "succeeded"
        assert sum(migration["objects"].values()) == MANY
    assert digests(folders / "to") == digests(folders / "many")


def test_f76_a_worker_waits_for_the_database_at_its_start(
    postgres: Postgres, settings: dict[str, str], folders: Path
) -> None:
    with run_server(SERVE, **settings | {"RELAY_LEDGER": postgres.database()}) as server:
        eventually(lambda: len(psutil.Process(server.process.pid).children()) == 1)
        worker = worker_of(server)
        postgres.control("stop", "-m", "immediate")
        worker.kill()
        eventually(
            lambda: (
                [one.pid for one in psutil.Process(server.process.pid).children()]
                not in ([], [worker.pid])
            )
        )
        postgres.restart()
        status, body = server.ask("POST", "/migrate", order(folders), Prefer="wait=60")
        assert (status, body["objects"]) == (200, {"verified": SMALL})
        assert server.stop() == 0


def test_f77_a_database_restored_to_an_older_state_converges(
    postgres: Postgres,
    settings: dict[str, str],
    folders: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """As after a failover to a copy that lagged behind: objects settled meanwhile exist, and are
    not sent again."""
    plant(folders / "many", MANY)
    request = order(folders, source=f"file://{folders}/many")
    older = postgres.folder.with_name(f"{postgres.folder.name}-older")
    with run_server(SERVE, **settings | {"RELAY_LEDGER": postgres.database()}) as server:
        id = server.ask("POST", "/migrate", request)[1]["id"]
        wait_for(server, id, lambda migration: migration["objects"].get("verified", 0) >= 50)
        postgres.control("stop", "-m", "fast")
        shutil.copytree(postgres.folder, older)
        postgres.restart()
        eventually(lambda: server.ask("GET", f"/migrations/{id}")[0] == 200)
        wait_for(server, id, lambda migration: migration["objects"].get("verified", 0) >= MANY // 3)
        postgres.control("stop", "-m", "immediate")
        eventually(lambda: server.ask("GET", "/readyz")[0] == 503)
        eventually(lambda: server.ask("GET", "/readyz")[1]["running"] == 0)
        seen = inodes(folders / "to")
        postgres.replace_folder(older)
        postgres.restart()
        eventually(lambda: server.ask("GET", f"/migrations/{id}")[0] == 200)
        migration = wait_for(server, id, has_ended)
        assert migration["state"] == "succeeded"
        assert sum(migration["objects"].values()) == MANY
    assert digests(folders / "to") == digests(folders / "many")
    after = inodes(folders / "to")
    assert {name: after.get(name) for name in seen} == seen


# -- clients


def test_f92_the_request_of_a_vanished_client_counts(
    settings: dict[str, str], folders: Path
) -> None:
    body = json.dumps(order(folders)).encode()
    head = (
        f"POST /migrate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n"
        f"Idempotency-Key: once\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with run_server(SERVE, **settings) as server:
        with socket.create_connection((server.host, server.port), timeout=20) as gone:
            gone.sendall(head.encode() + body)
            eventually(lambda: bool(server.ask("GET", "/migrations")[1]["migrations"]))
        (found,) = server.ask("GET", "/migrations")[1]["migrations"]
        assert wait_for(server, found["id"], has_ended)["objects"] == {"verified": SMALL}
        headers = {"Idempotency-Key": "once", "Prefer": "wait=60"}
        status, again = server.ask("POST", "/migrate", order(folders), **headers)
        assert (status, again["id"]) == (200, found["id"])


@pytest.mark.parametrize(
    ("place", "state"),
    [
        ("after-pin", "cancelled"),
        ("before-verify", "cancelled"),
        ("before-publish", "cancelled"),
        ("mid-publish", "verified"),
        ("after-publish", "verified"),
    ],
)
def test_f95_a_cancel_at_the_commit_is_in_time_or_too_late(
    settings: dict[str, str], folders: Path, place: str, state: str
) -> None:
    """The final answer of the API matches the destination."""
    request = {
        "source": f"file://{folders}/from/object 00001",
        "destination": f"file://{folders}/to/b",
    }
    request |= {"if_exists": "fail"} if place == "mid-publish" else {}
    with run_server(SERVE, **settings, RELAY_FAILPOINT=f"{place}:1:sleep:2") as server:
        id = server.ask("POST", "/migrate", request, Prefer="respond-async")[1]["id"]
        wait_for(server, id, lambda migration: migration["objects"].get("running") == 1)
        if place in ("mid-publish", "after-publish"):
            eventually((folders / "to" / "b").exists)
        elif place != "after-pin":
            eventually(lambda: any((folders / "to").iterdir()))
        assert server.ask("POST", f"/migrations/{id}/cancel")[1]["state"] == "cancelled"
        migration = wait_for(server, id, lambda migration: not migration["objects"].get("running"))
        assert migration["objects"] == {state: 1}
    assert [path.name for path in (folders / "to").iterdir()] == (
        ["b"] if state == "verified" else []
    )


@pytest.mark.parametrize(
    ("place", "size", "state"),
    [
        ("after-begin-sent", 11 * MIB, "cancelled"),
        ("after-begin", 11 * MIB, "cancelled"),
        ("after-part-row", 11 * MIB, "cancelled"),
        ("before-complete", 11 * MIB, "cancelled"),
        ("after-complete-sent", 11 * MIB, "verified"),
        ("after-complete", 11 * MIB, "verified"),
        ("after-put-sent", 1000, "verified"),
    ],
)
def test_f95_a_cancelled_bucket_upload_leaves_all_or_nothing(
    settings: dict[str, str],
    folders: Path,
    seaweed_server: Seaweed,
    place: str,
    size: int,
    state: str,
) -> None:
    with bucket(seaweed_server, folders, bytes(size), rate=1e9) as (store, _, more):
        request = {
            "source": f"file://{folders}/large/object",
            "destination": f"far:{store.bucket}/to/b",
        }
        with run_server(SERVE, **settings, **more, RELAY_FAILPOINT=f"{place}:1:sleep:4") as server:
            id = server.ask("POST", "/migrate", request, Prefer="respond-async")[1]["id"]
            eventually(lambda: bool(server.ask("GET", "/readyz")[1]["running"]))
            eventually(lambda: place != "after-put-sent" or "Contents" in list_bucket(store))
            eventually(
                lambda: place == "after-put-sent" or ledger_value(folders, BEGUN[place]) is not None
            )
            assert server.ask("POST", f"/migrations/{id}/cancel")[1]["state"] == "cancelled"
            migration = wait_for(
                server, id, lambda migration: not migration["objects"].get("running")
            )
            assert migration["objects"] == {state: 1}
        found = {row["Key"]: row["Size"] for row in list_bucket(store).get("Contents", ())}
        assert found == ({"to/b": size} if state == "verified" else {})
        assert "Uploads" not in store.client().list_multipart_uploads(Bucket=store.bucket)


BEGUN = {
    "after-begin-sent": "SELECT 1 FROM uploads WHERE upload_id = ''",
    "after-begin": "SELECT 1 FROM uploads WHERE upload_id = ''",
    "after-part-row": "SELECT 1 FROM parts WHERE etag != ''",
    "before-complete": "SELECT 1 FROM uploads WHERE digest <> ''",
    "after-complete-sent": "SELECT 1 FROM uploads WHERE digest <> ''",
    "after-complete": "SELECT 1 FROM uploads WHERE digest <> ''",
}
"""The state of the ledger shortly before a place."""


def list_bucket(store: Seaweed) -> Any:
    """Return the requested objects that the bucket holds."""
    return store.client().list_objects_v2(Bucket=store.bucket, Prefix="to/")
