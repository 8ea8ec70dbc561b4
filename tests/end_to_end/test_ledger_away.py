"""An unreachable or full ledger: clients that wait for it learn the reason, and nothing ends
because of it."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from relay.api.app import create_app
from relay.api.ledger_context import ledger_context
from relay.api.schemas import RecordedSchema
from relay.api.serving import _run_worker
from relay.cli.local_run import work
from relay.cli.tree import Watch
from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import LedgerFailed
from relay.ledger.claim_ledger import ClaimLedger
from relay.ledger.database import Database
from relay.ledger.lease_ledger import LeaseLedger
from relay.ledger.ledger import Ledger
from relay.views.migrations import PATIENCE, progress_events
from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_reload import line_about
from tests.end_to_end.test_serve import SERVE, await_workers, gated_source, order, run_server
from tests.faults.scripted_peers import DATA, Cloud, destination_script
from tests.postgres import Postgres, postgresql
from tests.scripted import Peer

FULL = LedgerFailed("database or disk is full")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """Return a server that this test may stop."""
    with postgresql() as server:
        yield server


@pytest.mark.timeout(180)
def test_a_terminal_waits_for_an_unreachable_database(tmp_path: Path, postgres: Postgres) -> None:
    source = tmp_path / "from"
    source.mkdir()
    for number in range(120):
        (source / f"{number:03}").write_bytes(b"x" * 20_000)
    terminal = Terminal(tmp_path, RELAY_LEDGER=postgres.database())
    words = (
        "migrate",
        "-r",
        str(source),
        str(tmp_path / "to"),
        "--json",
        "--slots",
        "2",
        "--bytes-per-second",
        "600K",
    )
    command = terminal.start(*words)
    until = time.monotonic() + 60
    while not (tmp_path / "to" / "005").exists() and time.monotonic() < until:
        assert command.poll() is None, command.communicate()
        time.sleep(0.02)
    postgres.control("stop", "-m", "fast")
    time.sleep(2)  # its display must survive an outage that the worker survives
    assert command.poll() is None, command.communicate()
    postgres.restart()
    out, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    assert json.loads(out)["objects"] == {"verified": 120}
    assert "waiting for the ledger" in err


def test_a_worker_without_a_ledger_stops_no_other(tmp_path: Path) -> None:
    """One of two workers is killed while the ledger is unreachable: the other serves on, and both
    do when it is back."""
    ledger, away = tmp_path / "ledger.db", tmp_path / "away.db"
    kept, gate, begun, answers = Cloud(), threading.Event(), threading.Event(), []
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(SERVE, RELAY_WORKERS="2", RELAY_LEDGER=f"sqlite:///{ledger}") as server,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", order(source, destination))
            )
        )
        asked.start()
        assert begun.wait(20)
        await_workers(server.process.pid, 2)
        (busy,) = {
            c.pid
            for c in psutil.net_connections("tcp")
            if c.raddr and c.raddr[1] == source.port and c.pid
        } & {child.pid for child in psutil.Process(server.process.pid).children()}
        ledger.rename(away)
        (idle,) = (
            child for child in psutil.Process(server.process.pid).children() if child.pid != busy
        )
        idle.kill()
        line = line_about(server, "ledger.unavailable")
        assert "was removed" in line
        assert server.process.poll() is None
        gate.set()
        asked.join(30)
        assert answers[0][0] == 200
        away.rename(ledger)
        await_workers(server.process.pid, 2)
        assert server.ask("GET", "/readyz")[1]["ledger"] == "ok"
        assert server.stop() == 0
    assert list(kept.objects.values()) == [DATA]


def test_a_server_stops_at_once_while_a_worker_waits(tmp_path: Path) -> None:
    """It has no transfers to finish: the drain time does not apply to it."""
    ledger = tmp_path / "ledger.db"
    with run_server(
        SERVE, RELAY_LEDGER=f"sqlite:///{ledger}", RELAY_GRACEFUL_TIMEOUT="300"
    ) as server:
        await_workers(server.process.pid, 1)
        assert server.ask("GET", "/readyz")[1]["ledger"] == "ok"  # the worker has opened it
        (worker,) = psutil.Process(server.process.pid).children()
        ledger.rename(tmp_path / "away.db")
        worker.kill()
        line_about(server, "ledger.unavailable")
        server.process.terminate()
        assert server.process.wait(20) == 0


def test_a_worker_that_is_stopped_while_loading_ends() -> None:
    """The signal may come where Python drops an exception, as in a finalizer."""
    code = """
import os, signal
from relay.api.gunicorn_worker import GunicornWorker
worker = GunicornWorker.__new__(GunicornWorker)
worker.booted = False
signal.signal(signal.SIGTERM, worker.handle_exit)
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
del_me = Finalized()
del del_me
os._exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reload_while_the_ledger_is_away_changes_nothing(tmp_path: Path) -> None:
    """New workers would only wait for it: the old ones answer, and continue their transfers."""
    ledger, away = tmp_path / "ledger.db", tmp_path / "away.db"
    with run_server(SERVE, RELAY_LEDGER=f"sqlite:///{ledger}") as server:
        await_workers(server.process.pid, 1)
        assert server.ask("GET", "/readyz")[1]["ledger"] == "ok"  # the worker has opened it
        before = psutil.Process(server.process.pid).children()
        ledger.rename(away)
        server.process.send_signal(signal.SIGHUP)
        assert "was removed" in line_about(server, "not reloaded")
        assert server.ask("GET", "/healthz")[0] == 200
        assert psutil.Process(server.process.pid).children() == before
        away.rename(ledger)
        server.process.send_signal(signal.SIGHUP)
        psutil.wait_procs(before, timeout=20)
        await_workers(server.process.pid, 1)
        assert server.ask("GET", "/readyz")[1]["ledger"] == "ok"
        assert psutil.Process(server.process.pid).children() != before
        assert server.stop() == 0


def test_a_worker_ended_by_a_bug_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker would run accepted migrations then: readyz and the log say so, without possible
    secrets."""
    ledger, runner, _ = accept_tree(tmp_path)
    worker = Worker(ledger, runner, 1)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted-secret")

    monkeypatch.setattr(ClaimLedger, "settle_and_claim", broken)
    _run_worker(ledger_context(ledger, worker, runner))
    assert worker.trouble is not None and worker.trouble.status == 500
    assert "RuntimeError" in worker.trouble.message and "planted" not in worker.trouble.message
    ready = (
        create_app(runner, (), ledger_context(ledger, worker, runner)).test_client().get("/readyz")
    )
    assert (ready.status_code, ready.get_json()["ready"]) == (503, False)
    ledger.close()


# -- a read-only ledger


def accept_tree(tmp_path: Path) -> tuple[Ledger, TransferEngine, str]:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_text("a")
    ledger, runner = (
        Ledger.connect(f"sqlite:///{tmp_path}/l.db"),
        TransferEngine(Settings(local_folders=str(tmp_path))),
    )
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from"), Endpoint(f"file://{tmp_path}/to"), recursive=True
    )
    return ledger, runner, ledger.create(order.spec(runner.remotes))[0].id


def test_the_log_names_a_migration_that_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also for a migration of one object: its objects send no request that could fail."""
    ledger, runner, id = accept_tree(tmp_path)
    with caplog.at_level(logging.INFO, "relay"):
        Worker(ledger, runner, 1, id).run()
    ledger.close()
    (members,) = [
        record.members for record in caplog.records if record.message == "migration.ended"
    ]  # type: ignore[attr-defined]
    assert (members["id"], members["state"], members["objects"]) == (
        id,
        "succeeded",
        {"verified": 1},
    )
    json.dumps(members)


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every write, as a full disk does; reads work."""
    run = Database.run

    def full(self: Database, do: Any, write: bool = True, **more: Any) -> Any:
        if write:
            raise FULL
        return run(self, do, write, **more)

    monkeypatch.setattr(Database, "run", full)


def test_a_wait_for_a_full_ledger_names_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, runner, id = accept_tree(tmp_path)
    worker = Worker(ledger, runner, 1, id)
    worker._lease.renew()
    monkeypatch.setattr(worker._lease, "renew", lambda: True)
    monkeypatch.setattr(LeaseLedger, "reclaim", lambda self: 0)
    fill(monkeypatch)
    lines: list[str] = []
    looks: list[str | None] = []

    def look() -> None:
        looks.append(worker.trouble and worker.trouble.message)
        if lines and len(looks) > 20:
            worker.stop()

    work(worker, look, 0.05, lines.append)
    ledger.close()
    assert len(lines) == 1 and "database or disk is full" in lines[0] and "RELAY_LEDGER" in lines[0]
    assert set(looks[-10:]) == {"database or disk is full"}  # also between two attempts to write


def test_its_progress_display_outlasts_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _, id = accept_tree(tmp_path)
    watch = Watch(ledger, id)
    before = watch.poll(0)[0]
    away = [True]
    migration = Ledger.migration

    def sometimes(self: Ledger, id: str) -> Any:
        if away[0]:
            raise LedgerFailed("the server closed the connection")
        return migration(self, id)

    monkeypatch.setattr(Ledger, "migration", sometimes)
    assert watch.poll(0)[0] == before
    with pytest.raises(LedgerFailed):
        Watch(ledger, id).poll(0)  # which has nothing to display
    away[0] = False
    events = progress_events(ledger, id, lambda seconds: None)
    assert [next(events)[0] for _ in range(2)] == ["accepted", "progress"]
    away[0] = True
    assert [next(events)[1]["trouble"]["code"] for _ in range(PATIENCE)] == [
        "ledger-failed"
    ] * PATIENCE
    with pytest.raises(LedgerFailed):
        next(events)
    ledger.close()


def test_a_server_reports_an_unwritable_ledger(tmp_path: Path) -> None:
    """`GET /migrations/{id}` and NDJSON, in a process of its own that can no longer write."""
    code = """
import json
from gevent import monkey; monkey.patch_all()
from pathlib import Path
import sys
from relay.api.app import create_app
from relay.api.ledger_context import ledger_context
from relay.config import Settings
from relay.engine.worker.worker import Worker
from relay.engine.transfer_engine import TransferEngine
from relay.errors import LedgerFailed
from relay.ledger.ledger import Ledger
from relay.ledger.live_ledger import LiveLedger
from relay.ledger.workers import SERVER
folder = sys.argv[1]
Path(folder, "from").mkdir()
runner = TransferEngine(Settings(local_folders=folder))
ledger = Ledger.connect(f"sqlite:///{folder}/l.db", SERVER)
worker = Worker(ledger, runner, 1)
works = ledger_context(ledger, worker, runner)
client = create_app(runner, (), works).test_client()
order = {"source": f"file://{folder}/from", "destination": f"file://{folder}/to", "recursive": True}
made = client.post("/migrate", json=order, environ_base={"REMOTE_ADDR": "127.0.0.1"})
id = made.get_json()["id"]
worker.trouble = LedgerFailed("database or disk is full")
print(json.dumps(client.get(f"/migrations/{id}").get_json()))
worker.trouble = None
print(json.dumps(client.get(f"/migrations/{id}").get_json()))
def away(*_):
    raise LedgerFailed("database or disk is full")
LiveLedger.look = away
waited = client.post("/migrate", json=order, headers={"Prefer": "wait=1"})
lines = client.post("/migrate", json=order, headers={"Accept": "application/x-ndjson"})
print(json.dumps([waited.status_code, waited.headers["Location"].startswith("/migrations/"), lines.status_code]))
print(next(iter(lines.response)).decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    troubled, well, accepted, first = map(json.loads, filter(None, done.stdout.splitlines()))
    assert accepted == [202, True, 200]  # it was written before the ledger became unwritable
    assert (first["event"], first["number"]) == ("progress", 3)
    assert troubled["trouble"] == {"code": "ledger-failed", "detail": LedgerFailed.title}
    assert well["trouble"] is None
    RecordedSchema.model_validate(troubled, strict=True)
    RecordedSchema.model_validate(well, strict=True)
