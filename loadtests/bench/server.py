"""relay under gunicorn, as its users see it: started, asked over HTTP, watched through /proc,
stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from loadtests.bench.measures import BenchError, Cost
from loadtests.bench.ports import free_ports
from loadtests.bench.processes import children, clean_environment, cpu_seconds, last_line, stop
from loadtests.bench.sections import Job
from loadtests.bench.tools import ROOT


class Relay:
    """A running relay, with one worker unless the settings say more."""

    def __init__(
        self,
        folder: Path,
        ca: Path | None,
        seconds: float,
        settings: Mapping[str, str] | None = None,
        config: str = "deploy/gunicorn.conf.py",
    ) -> None:
        """Start it; `settings` are further RELAY_* variables, `seconds` is the time one migration
        may take, `config` the file that gunicorn reads.

        Raises BenchError if it does not get ready.
        """
        self.port, self._seconds = free_ports(1)[0], seconds
        self.log = folder / f"relay-{self.port}.log"
        home = folder / f"relay-{self.port}"
        home.mkdir()
        own = {
            "RELAY_BIND": f"127.0.0.1:{self.port}",
            "RELAY_WORKERS": "1",
            "RELAY_EGRESS_ALLOW": "127.0.0.1",
            "RELAY_CONFIG": os.devnull,
        }
        if ca is not None:
            own["RELAY_CA_BUNDLE"] = str(ca)
        command = [sys.executable, "-m", "gunicorn", "-c", config, "relay.wsgi:app"]
        # In a session of its own: Ctrl-C in the terminal stops the benchmark, which then stops
        # relay.
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=clean_environment(home) | own | dict(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._await_ready(int((own | dict(settings or {}))["RELAY_WORKERS"]))
            self.workers = children(self._process.pid)
        except BaseException:
            self.close()
            raise

    def _await_ready(self, workers: int, seconds: float = 30.0) -> None:
        until = monotonic() + seconds
        while monotonic() < until and self._process.poll() is None:
            try:
                # One worker answers for all, so their processes are counted too.
                if (
                    self.ask("GET", "/readyz", seconds=5)[0] == 200
                    and len(children(self._process.pid)) >= workers
                ):
                    return
            except OSError:
                pass
            sleep(0.1)
        raise BenchError(f"relay did not get ready: {last_line(self.log)}")

    def ask(
        self, method: str, path: str, body: Any = None, seconds: float | None = None
    ) -> tuple[int, bytes]:
        """Make one request on a connection of its own."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=seconds or self._seconds
        )
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise BenchError(f"relay answered {method} {path} with {error!r}") from None
        finally:
            connection.close()

    def migrate(self, source: str, destination: str, verify: str = "size") -> None:
        """Move one object. Raises BenchError unless relay reports it as arrived."""
        self.migrate_all([(source, destination)], verify)

    def migrate_all(
        self, pairs: Sequence[tuple[str, str]], verify: str = "size", at_once: int = 1
    ) -> None:
        """Move every object, over `at_once` connections. Raises BenchError unless relay reports all
        as arrived."""
        waiting = iter(pairs)  # a list's iterator may be shared by threads
        with ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(self._line, waiting, verify) for _ in range(at_once)]:
                done.result()

    def _line(self, waiting: Iterator[tuple[str, str]], verify: str) -> None:
        """Request one object after another on one connection, until none is left."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._seconds)
        try:
            for source, destination in waiting:
                order = {"source": source, "destination": destination, "verify": verify}
                connection.request(
                    "POST", "/migrate", json.dumps(order), {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    raise BenchError(
                        f"POST /migrate answered {answer.status}:"
                        f" {text[:300].decode(errors='replace')}"
                    )
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"POST /migrate: {error!r}") from None
        finally:
            connection.close()

    def measure_job(self, job: Job, verify: str) -> Cost:
        """Move a job's objects, and return the cost; CPU is that of the workers."""
        spent, began = cpu_seconds(self.workers), monotonic()
        self.migrate_all(job.pairs, verify, job.section.at_once)
        wall = monotonic() - began
        return Cost(wall, cpu_seconds(self.workers) - spent)

    def is_alive(self) -> bool:
        """Return whether the worker that was started is still the one that runs."""
        return self._process.poll() is None and children(self._process.pid) == self.workers

    def close(self) -> None:
        """Stop it at once."""
        # gunicorn stops quickly at SIGINT; at SIGTERM it waits for running transfers.
        stop(self._process, signal.SIGINT)
