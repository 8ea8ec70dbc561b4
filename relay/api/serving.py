"""How gunicorn runs the application: one set of settings and hooks, for `relay serve` and for `gunicorn -c`.

Theory of operation. The master checks everything that could be wrong before it forks: the settings, the tokens, the
addresses. Each worker has a runner of its own. When a worker is told to go (its `alive` turns False at SIGTERM) a
greenlet starts the drain: not ready, no new transfer, and those that run are cancelled a few seconds before gunicorn
would kill them, so that their clients get an answer (at `graceful_timeout` the master sends SIGKILL, and
no `finally` runs).

Decided here: what gunicorn is told. Never here: what is served.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import gevent
from gunicorn.app.base import BaseApplication

from relay.api.app import RUNNER, WORKS
from relay.api.ledgered import Works
from relay.config import Settings, is_loopback, load_settings, load_tokens
from relay.cooperative import collect_rarely
from relay.engine.runner import Runner
from relay.errors import ConfigError, LedgerFailed
from relay.ledger.database import open_database
from relay.wire.tls import client_context

EXIT_CONFIG = 2
EXIT_BIND = 1
DRAIN_MARGIN_SECONDS = 3.0
"""How long before gunicorn's own end the last transfers are cancelled."""
WATCH_SECONDS = 0.1


def gunicorn_settings(settings: Settings) -> dict[str, Any]:
    """Return everything that gunicorn is told, hooks included."""
    return {
        "bind": [settings.bind],
        "workers": settings.workers,
        "worker_class": "relay.api.worker.Worker",  # gevent's
        # Greenlets for connections. Transfers are limited by slots; a low number here would make /healthz wait.
        "worker_connections": 10_000,
        "graceful_timeout": settings.graceful_timeout,
        "timeout": 60,  # the heartbeat of a worker, not of a request: it catches a blocked hub
        "keepalive": 5,
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # a heartbeat never waits for a disk
        "max_requests": 0,  # a recycled worker would take its long transfers with it
        "preload_app": False,  # each worker patches first, then imports
        "control_socket_disable": True,
        "http_protocols": "h1",
        "limit_request_line": 4094,
        "limit_request_fields": 100,
        "limit_request_field_size": 8190,
        "accesslog": None,
        "loglevel": "warning",
        "proc_name": "relay",
        "on_starting": on_starting,
        "when_ready": when_ready,
        "post_worker_init": post_worker_init,
    }


def settings_or_exit(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read and check the settings before anything is started; a mistake is one line and exit code 2."""
    try:
        settings = load_settings(flags)
        load_tokens(settings.tokens_file)
        client_context(settings.ca_bundle)
    except ConfigError as error:
        refuse(error.message, error.hint, EXIT_CONFIG)
    return settings


def refuse(message: str, hint: str, code: int) -> NoReturn:
    """Say in one line why the server does not start, and end the process."""
    sys.stderr.write(f"relay: {message}. {hint}\n")
    raise SystemExit(code)


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn in this process, told by our settings and by nothing else."""

    def load_config(self) -> None:
        """Tell gunicorn; called again at SIGHUP."""
        for name, value in gunicorn_settings(settings_or_exit()).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application, in a worker."""
        from relay.wsgi import app

        return app


# -- hooks


def on_starting(server: Any) -> None:
    """In the master, before it listens: the settings, the ledger, the addresses, the limit of open files."""
    settings = settings_or_exit()
    _check_ledger(settings)
    inherited = any(name in os.environ for name in ("GUNICORN_FD", "LISTEN_FDS"))
    if not inherited:
        _check_addresses(server.cfg.address, settings)
        _check_free(server.cfg.address)
    _raise_open_files()


def when_ready(server: Any) -> None:
    """In the master, when it listens: look at the real addresses, and say where."""
    addresses = [listener.sock.getsockname() for listener in server.LISTENERS]
    _check_addresses(addresses, settings_or_exit())
    urls = " ".join(_url(address) for address in addresses)
    workers = server.cfg.workers
    try:
        sys.stdout.write(f"relay listens on {urls} with {workers} worker{'s' if workers > 1 else ''}\n")
        sys.stdout.flush()
    except (OSError, AttributeError):
        return  # nobody reads stdout


def post_worker_init(worker: Any) -> None:
    """In a worker, when the application is loaded: never dial ourselves, and drain when told to go.

    What was loaded stays as long as the worker, so the collector need not look at it again, which would stop every
    transfer for some hundredths of a second.
    """
    collect_rarely()
    gc.collect()
    gc.freeze()
    runner: Runner = worker.wsgi.extensions[RUNNER]
    names = (sock.getsockname() for sock in worker.sockets)
    runner.listens(name[:2] for name in names if isinstance(name, tuple))
    works: Works | None = worker.wsgi.extensions[WORKS]
    claiming = gevent.spawn(_claim, works) if works is not None else None
    worker.claiming = claiming
    gevent.spawn(_watch, worker, runner, drain_seconds(worker.cfg.graceful_timeout), works)


def drain_seconds(graceful_timeout: float) -> float:
    """Return how long running transfers get: a few seconds less than gunicorn gives, at least half."""
    return max(graceful_timeout - DRAIN_MARGIN_SECONDS, graceful_timeout / 2)


def _claim(works: Works) -> None:
    """Work through the ledger as long as this worker lives, also after a ledger that did not answer for a while."""
    while not works.claimer.stopping:
        try:
            works.claimer.run()
        except LedgerFailed as error:
            works.claimer.trouble = error
            gevent.sleep(1.0)


def _watch(worker: Any, runner: Runner, seconds: float, works: Works | None) -> None:
    while worker.alive:
        gevent.sleep(WATCH_SECONDS)
    if works is not None:
        works.claimer.stop()  # what it does stands in the ledger: others go on with it, or we when we are back
    runner.drain(seconds)


# -- addresses


def _check_addresses(addresses: Iterable[Any], settings: Settings) -> None:
    """Refuse to be open to others without tokens: relay fetches whatever it is asked to."""
    if settings.tokens_file is not None:
        return
    for address in addresses:
        if isinstance(address, tuple) and not is_loopback(str(address[0])):
            hint = "Write tokens to a file and name it in RELAY_TOKENS_FILE, or listen on 127.0.0.1."
            refuse(f"{_url(address)} is open to others, and there are no tokens", hint, EXIT_CONFIG)


def _check_ledger(settings: Settings) -> None:
    """Open the ledger once, which makes it, or brings it up to date, before any worker needs it."""
    try:
        open_database(settings.ledger_url()).close()
    except ConfigError as error:
        refuse(error.message, error.hint, EXIT_CONFIG)


def _check_free(addresses: Iterable[Any]) -> None:
    """Look if the addresses can be had; gunicorn would try for five seconds, and print ten lines."""
    for address in addresses:
        if not isinstance(address, tuple):
            continue
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address[:2])
            except OSError as error:
                hint = "Choose another address with --bind or RELAY_BIND."
                refuse(f"cannot listen on {_url(address)} ({error.strerror})", hint, EXIT_BIND)


def _url(address: Any) -> str:
    if not isinstance(address, tuple):
        return f"unix:{address if isinstance(address, str) else os.fsdecode(address)}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _raise_open_files() -> None:
    """Take as many open files as we may: a transfer holds five, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
