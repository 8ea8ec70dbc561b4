"""`/metrics` of a real server with two workers: its numbers, its readers, and the numbers after a kill
and a reload."""

from __future__ import annotations

import http.client
import shutil
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.ledger.ledger import Ledger
from relay.ledger.token_values import NO_LIMITS, Scope
from relay.metrics.metric_table import METRICS, MOST_SERIES
from simulators.destination import Destination
from simulators.source import Source
from tests.end_to_end.test_serve import SERVE, Server, await_workers, run_server

SECONDS = 30.0
"""How long a number may take to arrive at the worker that answers."""
TOKEN, SCRAPER = "a-token-0123456789", "a-scraper-0123456789"
NOT_MADE = frozenset({"relay_server_copied_bytes_total", "relay_ledger_errors_total"})
"""Metrics of what this test can't bring about in a second or two; the test of the table has them:
a copy by a store, and a ledger that fails."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: Server, **headers: str) -> tuple[int, str]:
    """Return the status and the text of an answer; of a new connection, so of any worker."""
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=30)) as connection:
        connection.request("GET", "/metrics", headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def series_of(text: str) -> Series:
    """Return the series of an answer."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


WANTED = {
    metric.full_name: {frozenset(metric.labels)}
    for metric in METRICS
    if metric.full_name not in NOT_MADE
}
"""The metrics of a run over all paths, each with its labels."""


def total(found: Series, name: str, **labels: str) -> float:
    """Return the sum of the series that have these labels."""
    return sum(
        value
        for (other, has), value in found.items()
        if other == name and set(labels.items()) <= has
    )


def labels_of(found: Series) -> dict[str, set[frozenset[str]]]:
    """Return the sets of labels of each metric."""
    labels: dict[str, set[frozenset[str]]] = {}
    for name, has in found:
        stem = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        labels.setdefault(stem, set()).add(frozenset(key for key, _ in has if key != "le"))
    return labels


def await_series(server: Server, is_good: Callable[[Series], object]) -> Series:
    """Return the first answer that passes a check: a worker writes its numbers once a second."""
    until = time.monotonic() + SECONDS
    while True:
        status, text = scrape(server)
        assert status == 200, text
        found = series_of(text)
        if is_good(found):
            return found
        assert time.monotonic() < until, text
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in which a server may read and write, with objects in it."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    for number in range(200):
        (tmp_path / "from" / f"object{number}").write_bytes(bytes(100))
    return tmp_path


@pytest.fixture
def stores() -> Iterator[tuple[Source, Destination]]:
    """Return two simulated stores."""
    with Source(seed="metrics") as source, Destination() as destination:
        yield source, destination


def tree(folder: Path, to: str) -> dict[str, Any]:
    """Return a request for the whole folder."""
    return {
        "source": f"file://{folder}/from/",
        "destination": f"file://{folder}/{to}/",
        "recursive": True,
    }


def test_each_metric_has_its_name_and_labels_and_no_more(
    folder: Path, stores: tuple[Source, Destination]
) -> None:
    """After a run over all paths: each metric of the table, with its labels, and nothing that a
    user has written."""
    source, destination = stores
    config = folder / "relay.toml"
    config.write_text(
        f'[remotes.old]\ntype = "http"\nurl = "{source.url("")}"\n'
        f'[remotes.new]\ntype = "webdav"\nurl = "{destination.url("")}"\nvendor = "other"\n'
    )
    settings = {
        "RELAY_CONFIG": str(config),
        "RELAY_WORKERS": "2",
        "RELAY_LOCAL_FOLDERS": str(folder),
        "RELAY_RETRY_BUDGET": "20",
        "RELAY_STALL_SECONDS": "1",
        "RELAY_SETTLE_SECONDS": "0",
    }
    faults = (
        "",
        "&fault=first(1,status(503))",
        "&fault=first(1,stall_after(1K))",
    )
    with run_server(SERVE, **settings) as server:
        await_workers(server.process.pid, 2)
        for number, fault in enumerate(faults):
            order = {
                "source": source.url(f"/secret-name{number}?size=100000{fault}"),
                "destination": destination.url(f"/secret-name{number}"),
                "verify": "read_back",
            }
            status, body = server.ask("POST", "/migrate", order)
            assert status == 200, body
        order["destination"] = destination.url("/wrong?fault=first(1,store_flip(5))")
        server.ask("POST", "/migrate", order)
        order = {"source": "old:named?size=1000", "destination": f"file://{folder}/to/named"}
        server.ask("POST", "/migrate", order)
        order = {"source": f"file://{folder}/none", "destination": f"file://{folder}/to/none"}
        assert server.ask("POST", "/migrate", order)[0] == 404
        status, _ = server.ask("POST", "/migrate", tree(folder, "to"), Prefer="wait=60")
        assert status == 200
        assert server.ask("GET", "/migrations", Host="example.org")[0] == 403
        found = await_series(
            server,
            lambda found: (
                total(found, "relay_transfers_total") >= 204
                and total(found, "relay_workers") == 2
                and labels_of(found).keys() >= WANTED.keys()
            ),
        )
        text = scrape(server)[1]
        folder_of_files = {
            Path(map_.path).parent
            for worker in psutil.Process(server.process.pid).children()
            for map_ in worker.memory_maps()
            if map_.path.endswith(".db") and "relay-metrics-" in map_.path
        }
        assert server.stop() == 0
    labels = labels_of(found)
    assert {name: labels.get(name) for name in WANTED} == WANTED
    assert set(labels) - NOT_MADE == set(WANTED)
    assert len(found) <= MOST_SERIES
    remotes = {dict(has).get("remote") for _, has in found} - {None}
    assert remotes <= {"local", "http", "old", "new", "webdav"}, remotes
    assert "old" in remotes
    for secret in ("secret-name", "127.0.0.1", str(folder), "example.org", "object1"):
        assert secret not in text
    (path,) = folder_of_files
    assert not path.exists()
    check_with_promtool(text)


def check_with_promtool(text: str) -> None:
    """Let Prometheus' own tool look at an answer, if it is installed."""
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout


def test_the_folder_of_the_numbers_is_private(folder: Path) -> None:
    """In memory, of mode 700, of one server; nothing is left of it at the end."""
    with run_server(SERVE, RELAY_LOCAL_FOLDERS=str(folder)) as server:
        await_workers(server.process.pid, 1)
        (worker,) = psutil.Process(server.process.pid).children()
        await_series(server, lambda found: total(found, "relay_workers") == 1)
        files = {Path(map_.path) for map_ in worker.memory_maps() if "relay-metrics-" in map_.path}
        (path,) = {file.parent for file in files}
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert server.stop() == 0
        assert not path.exists()


def states(server: Server) -> Counter[str]:
    """Return the number of objects in each state, of all migrations, by the ledger."""
    found: Counter[str] = Counter()
    for migration in server.ask("GET", "/migrations")[1]["migrations"]:
        found.update(migration["objects"])
    return found


def settled_objects(found: Series) -> Counter[str]:
    """Return the same by the metrics."""
    counts: Counter[str] = Counter()
    for (name, has), value in found.items():
        if name == "relay_transfers_total" and value:
            counts[dict(has)["state"]] += int(value)
    return counts


def test_counters_equal_the_ledger_after_a_kill_and_a_reload(folder: Path) -> None:
    """Two workers; one is killed, both are replaced. Nothing that was counted is lost."""
    with run_server(SERVE, RELAY_LOCAL_FOLDERS=str(folder), RELAY_WORKERS="2") as server:
        await_workers(server.process.pid, 2)

        def move(to: str) -> Series:
            (folder / to).mkdir()
            status, body = server.ask("POST", "/migrate", tree(folder, to), Prefer="wait=60")
            assert (status, body["state"]) == (200, "succeeded"), body
            wanted = states(server)
            return await_series(server, lambda found: settled_objects(found) == wanted)

        move("first")
        workers = {worker.pid for worker in psutil.Process(server.process.pid).children()}
        psutil.Process(min(workers)).kill()
        await_replaced(server, {min(workers)})
        found = move("second")
        assert total(found, "relay_workers") == 2
        workers = {worker.pid for worker in psutil.Process(server.process.pid).children()}
        server.process.send_signal(signal.SIGHUP)
        await_replaced(server, workers)
        found = move("third")
        assert settled_objects(found) == {"verified": 600}
        assert total(found, "relay_bytes_total", side="destination", use="payload") == 60_000
        # The gauges of the workers that are gone went with them.
        await_series(server, lambda found: total(found, "relay_workers") == 2)
        assert server.stop() == 0


def await_replaced(server: Server, gone: set[int]) -> None:
    """Wait until two workers run, and none of those."""
    until = time.monotonic() + SECONDS
    while True:
        found = {worker.pid for worker in psutil.Process(server.process.pid).children()}
        if len(found) == 2 and not found & gone:
            return
        assert time.monotonic() < until, (found, gone)
        time.sleep(0.05)


def test_a_token_of_its_own_reads_the_metrics_only(folder: Path) -> None:
    """RELAY_METRICS_TOKEN_FILE; a token of the server may read them too, and nobody without."""
    for name, token in (("tokens", TOKEN), ("scrapers", SCRAPER)):
        (folder / name).write_text(token)
        (folder / name).chmod(0o600)
    files = {
        "RELAY_TOKENS_FILE": str(folder / "tokens"),
        "RELAY_METRICS_TOKEN_FILE": str(folder / "scrapers"),
    }
    address = f"sqlite:///{folder}/ledger.db"
    with closing(Ledger.connect(address)) as ledger:
        made = {
            scope: ledger.tokens.create(scope, tenant="acme", scope=scope, limits=NO_LIMITS)[1]
            for scope in Scope
        }
    with run_server(SERVE, **files, RELAY_LEDGER=address) as server:
        for token, status in (
            (SCRAPER, 200),
            (TOKEN, 200),
            ("x" * 20, 401),
            (made[Scope.ADMIN], 200),
            (made[Scope.SUBMIT], 403),
            (made[Scope.READ], 403),
        ):
            assert scrape(server, Authorization=f"Bearer {token}")[0] == status
        assert scrape(server)[0] == 401
        for path in ("/migrations", "/", "/metrics/"):
            answer = server.ask("GET", path, Authorization=f"Bearer {SCRAPER}")
            assert answer[0] == 401, path
        assert server.stop() == 0
