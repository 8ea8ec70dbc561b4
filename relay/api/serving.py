"""How gunicorn runs the application: one set of settings and hooks, for `relay serve` and for
`gunicorn -c`.

Theory of operation. The master checks everything that could be wrong before it forks
(`relay/api/server_settings.py`). Each worker has a transfer engine of its own. When a worker has to
stop (its `alive` turns False at SIGTERM), a greenlet starts the drain: not ready, no new transfer,
and running transfers are cancelled a few seconds before gunicorn would kill them, so that their
clients get an answer (at `graceful_timeout` the master sends SIGKILL, and no `finally` runs).

Decided here: the settings and hooks of gunicorn. Never here: the routes.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication

from relay import __version__
from relay.api.app import ENGINE, FIRST_BYTES, LEDGER, METRICS, ServerMetrics
from relay.api.gunicorn_worker import ENDING
from relay.api.head_limits import FIELD_BYTES, FIELDS, LINE_BYTES
from relay.api.ledger_context import LedgerContext
from relay.api.server_settings import (
    Refused,
    accept_again,
    accept_or_exit,
    accepted_settings,
    check_listening,
    check_start,
    has_tokens,
    inherited_sockets,
    refuse,
    unsafe_settings,
    url_of,
)
from relay.config import Settings
from relay.descriptors import require_descriptors
from relay.engine.transfer_engine import TransferEngine
from relay.errors import LedgerFailed
from relay.errors.bugs import bug
from relay.ledger.schema import HEAD
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.metrics.shared_folder import MANY_FILES, SharedFolder, announce
from relay.process.cooperative import collect_rarely
from relay.process.core_dumps import forbid_dumps
from relay.views.log import current_handler, start_logging, write_counts

DRAIN_MARGIN_SECONDS = 3.0
"""Seconds before gunicorn's own timeout at which the last transfers are cancelled."""
WATCH_SECONDS = 0.1
WORKER_CLASS = "relay.api.gunicorn_worker.GunicornWorker"
"""gevent's worker, with relay's answer to requests that are not HTTP."""


def gunicorn_settings(settings: Settings) -> dict[str, Any]:
    """Return all settings of gunicorn, hooks included."""
    return {
        "bind": [settings.bind],
        "workers": settings.workers,
        "worker_class": WORKER_CLASS,
        # Greenlets for connections. Transfers are limited by slots; a low number here would make
        # /healthz wait.
        "worker_connections": 10_000,
        "graceful_timeout": settings.graceful_timeout,
        "timeout": 60,  # the heartbeat of a worker, not of a request: it catches a blocked hub
        "keepalive": 5,
        # In memory, so that a heartbeat never waits for a disk.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,
        "max_requests": 0,  # a recycled worker would take its long transfers with it
        "preload_app": False,  # each worker patches first, then imports
        # gunicorn would make a socket in XDG_RUNTIME_DIR or in the user's home; nothing here uses
        # it.
        "control_socket_disable": True,
        # A unix socket without tokens is its owner's; with tokens others may connect, and send one.
        "umask": 0o111 if _is_open_by_tokens(settings) else 0o177,
        "http_protocols": "h1",
        # A request's field never decides where the application is mounted (SCRIPT_NAME).
        "forwarder_headers": "",
        "limit_request_line": LINE_BYTES,
        "limit_request_fields": FIELDS,
        "limit_request_field_size": FIELD_BYTES,
        "accesslog": None,
        "loglevel": "warning",
        "logger_class": "relay.api.gunicorn_worker.GunicornLog",
        "proc_name": "relay",
        "on_starting": on_starting,
        "when_ready": when_ready,
        "post_worker_init": post_worker_init,
        "child_exit": child_exit,
        "on_exit": on_exit,
    }


def _is_open_by_tokens(settings: Settings) -> bool:
    """Return whether other users may connect to a unix socket. The ledger's tokens are only read
    where there is one; a ledger that can't be read is reported later (`check_start`)."""
    if settings.tokens_file is not None or not settings.bind.startswith("unix:"):
        return settings.tokens_file is not None
    with suppress(Refused):
        return has_tokens(settings)
    return False


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn in this process, configured by our settings alone."""

    def load_config(self) -> None:
        """Configure gunicorn; called again at SIGHUP."""
        for name, value in gunicorn_settings(accept_or_exit()).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application, in a worker."""
        from relay.wsgi import app

        return app


# -- hooks


def on_starting(server: Any) -> None:
    """In the master, before it listens: check gunicorn's other settings, the ledger and the
    addresses, and set the limits of open files and of core files, which its workers inherit."""
    forbid_dumps()
    _start_logging(server)
    require_descriptors()
    _check_other_settings(server.cfg)
    # The sockets of a service manager are checked as descriptors. At SIGUSR2 gunicorn hands its own
    # listening sockets to a new master in GUNICORN_FD: their addresses are bound already.
    inherited = inherited_sockets()
    check_start(inherited or server.cfg.address, inherited="GUNICORN_FD" in os.environ)
    server.metrics_folder = SharedFolder.make()
    announce(server.metrics_folder)


def _start_logging(server: Any) -> None:
    """In the master: log as the settings say, gunicorn's own messages too."""
    settings = accepted_settings().settings
    start_logging(settings.log_level, settings.log_format, settings.workers)
    server.log.setup(server.cfg)


def _check_other_settings(cfg: Any) -> None:
    """Refuse settings of gunicorn's own command line or environment with which relay can't run.

    An application that is loaded before the fork gives all workers one connection to the ledger and
    one worker id, and a connection of SQLite may not be used across a fork
    (sqlite.org/howtocorrupt.html, 2.6)."""
    if cfg.preload_app:
        refuse(
            Refused(
                "relay can't be loaded before its workers are", "Leave gunicorn's --preload out."
            )
        )
    if cfg.worker_class_str != WORKER_CLASS:
        hint = "Leave gunicorn's --worker-class out."
        refuse(
            Refused(
                f"relay is served by workers of its own kind, not by {cfg.worker_class_str}", hint
            )
        )
    if cfg.workers < 1:
        refuse(
            Refused(
                "there must be a worker", "Leave gunicorn's --workers out, or give it a number."
            )
        )


def when_ready(server: Any) -> None:
    """In the master, when it listens: check the real addresses, print them, and let a reload check
    its settings."""
    # gunicorn's hook `on_reload` comes too late for a refusal: it has replaced the settings before.
    server.reload = partial(_reload, server, server.reload)
    server.spawn_worker = partial(_spawn_worker, server.spawn_worker)
    addresses = [listener.sock.getsockname() for listener in server.LISTENERS]
    check_listening(addresses)
    server.has_listened = True
    _log_start(addresses, server.cfg.workers)
    urls = " ".join(url_of(address) for address in addresses)
    workers = server.cfg.workers
    try:
        sys.stdout.write(
            f"relay listens on {urls} with {workers} worker{'s' if workers > 1 else ''}\n"
        )
        sys.stdout.flush()
    except (OSError, AttributeError):
        return  # stdout has no reader


def _log_start(addresses: Iterable[Any], workers: int) -> None:
    settings = accepted_settings().settings
    emit(
        LogEvent.SERVER_STARTED,
        version=__version__,
        workers=workers,
        bind=[url_of(address) for address in addresses],
        schema=HEAD,
    )
    for setting, why in unsafe_settings(settings):
        emit(LogEvent.SETTINGS_UNSAFE, setting=setting, why=why)


class _WaitsForWorkers(Exception):
    """gunicorn's reload has only to wait for the old workers."""


def _reload(server: Any, reload: Callable[[], None]) -> None:
    """At SIGHUP: start new workers if the new settings are right; otherwise the old workers
    stay.

    At the end of its reload gunicorn 27 waits for the old workers, up to the graceful timeout, and
    meanwhile obeys no signal (`Arbiter.reload`). That wait is left out: the main loop reaps
    them too."""
    if not accept_again():
        return
    _start_logging(server)

    def end_wait() -> None:
        raise _WaitsForWorkers

    server.reap_workers = end_wait
    try:
        with suppress(_WaitsForWorkers):
            reload()
    finally:
        del server.reap_workers


def _spawn_worker(spawn: Callable[[], int]) -> int:
    """In the master: fork a worker, and return its process id.

    Until a new worker has set handlers of its own, it has those of the master, which would drop a
    SIGTERM: the worker would live on until the graceful timeout. So signals wait, in the worker
    until `GunicornWorker.init_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        return spawn()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def post_worker_init(worker: Any) -> None:
    """In a worker, when the application is loaded: forbid connections to itself, claim transfers,
    and drain at the end.

    Loaded modules stay as long as the worker. The collector need not scan them again, which would
    stop every transfer for some hundredths of a second."""
    collect_rarely()
    gc.collect()
    gc.freeze()
    engine: TransferEngine = worker.wsgi.extensions[ENGINE]
    worker.first_bytes = worker.wsgi.extensions[FIRST_BYTES]
    names = (sock.getsockname() for sock in worker.sockets)
    engine.refuse_own_addresses(name[:2] for name in names if isinstance(name, tuple))
    works: LedgerContext | None = worker.wsgi.extensions[LEDGER]
    claiming = gevent.spawn(_run_worker, works) if works is not None else None
    worker.claiming = claiming
    if works is not None:
        gevent.spawn(works.planner.run)
    metrics: ServerMetrics | None = worker.wsgi.extensions[METRICS]
    if metrics is not None:
        worker.at_end = metrics.publish
        gevent.spawn(metrics.run)
    gevent.spawn(write_counts)
    gevent.spawn(_watch, worker, engine, drain_seconds(worker.cfg.graceful_timeout), works)


def child_exit(server: Any, worker: Any) -> None:
    """In the master, when a worker has ended: what it held counts no longer."""
    folder: SharedFolder | None = server.metrics_folder
    count = 0 if folder is None else folder.forget_worker(worker.pid)
    if count > MANY_FILES:
        emit(LogEvent.METRICS_MANY_FILES, files=count)


def on_exit(server: Any) -> None:
    """In the master, at its end: remove the folder of the metrics."""
    folder: SharedFolder | None = getattr(server, "metrics_folder", None)
    if folder is not None:
        folder.remove()
    current_handler().bounds.write_counts(everything=True)
    if getattr(server, "has_listened", False):
        emit(LogEvent.SERVER_STOPPED)


def drain_seconds(graceful_timeout: float) -> float:
    """Return the seconds that running transfers get: a few less than gunicorn's timeout, at least
    half of it."""
    return max(graceful_timeout - DRAIN_MARGIN_SECONDS, graceful_timeout / 2)


def _run_worker(works: LedgerContext) -> None:
    """Claim transfers from the ledger as long as this worker lives, also after an outage of the
    ledger. An unexpected exception ends the work, or it is retried a second later: meanwhile
    /readyz and the clients that follow a migration show it."""
    while not works.worker.stopping:
        try:
            works.worker.run()
        except LedgerFailed as error:
            # `run` raises this only before its first poll; it waits out later outages by itself.
            works.worker.trouble = error
            gevent.sleep(1.0)
        except Exception as error:  # noqa: BLE001 - logged with its traceback
            # From its first poll on, `run` stops the worker at an exception, which ends this loop.
            works.worker.trouble = bug(error)
            gevent.sleep(1.0)  # one that comes before the worker's own end must not fill the log


def _watch(
    worker: Any, engine: TransferEngine, seconds: float, works: LedgerContext | None
) -> None:
    while worker.alive:
        gevent.sleep(WATCH_SECONDS)
    emit(LogEvent.SERVER_DRAINING, seconds=seconds)
    if works is not None:
        # Its transfers are recorded in the ledger: other workers resume them, or this one after a
        # restart.
        works.worker.stop()
        gevent.spawn(works.planner.stop)  # beside the drain: it may wait for seconds
    engine.drain(seconds)
