"""The application as gunicorn loads it: `gunicorn -c deploy/gunicorn.conf.py relay.wsgi:app`.

First it checks gevent's monkey patching. Without that, each transfer would block all others,
silently."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from time import sleep
from typing import TypeVar

from gevent import monkey

T = TypeVar("T")

APP_LOAD_ERROR = 4
"""The exit code of a gunicorn worker that must not be started again."""


def _check_patched() -> None:
    late = [
        name
        for name in ("socket", "ssl", "time", "threading")
        if not monkey.is_module_patched(name)
    ]
    # urllib3 keeps the SSLContext that it saw when it was imported, and with an unpatched one it
    # blocks.
    tls = sys.modules.get("urllib3.util.ssl_")
    if not late and (
        tls is None or getattr(tls, "SSLContext", None) is sys.modules["ssl"].SSLContext
    ):
        return
    what = (
        f"{late[0]} is not patched" if late else "requests was imported before gevent patched ssl"
    )
    hint = "Run `relay serve`, or gunicorn with -c deploy/gunicorn.conf.py and without --preload."
    sys.stderr.write(f"relay: {what}; transfers would block one another. {hint}\n")
    raise SystemExit(APP_LOAD_ERROR)


_check_patched()

from relay.api.app import create_app  # noqa: E402
from relay.api.ledger_context import ledger_context  # noqa: E402
from relay.api.refusal_limit import RefusalLimit  # noqa: E402
from relay.api.server_settings import accepted_settings  # noqa: E402
from relay.engine.transfer_engine import TransferEngine  # noqa: E402
from relay.engine.worker.worker import Worker  # noqa: E402
from relay.errors import ConfigError  # noqa: E402
from relay.ledger.ledger import Ledger  # noqa: E402
from relay.ledger.workers import SERVER  # noqa: E402
from relay.logs.emitter import emit  # noqa: E402
from relay.logs.event_table import LogEvent  # noqa: E402
from relay.metrics.exposition import process_metrics  # noqa: E402
from relay.metrics.shared_folder import named_folder  # noqa: E402
from relay.stores.table import load_all  # noqa: E402
from relay.tallies import Tallies  # noqa: E402
from relay.views.log import start_logging  # noqa: E402

BACK_SECONDS = 1.0
"""Seconds between two attempts to reach an unavailable database, or to read an absent file."""
WAITS = {event: event for event in (LogEvent.SETTINGS_UNAVAILABLE, LogEvent.LEDGER_UNAVAILABLE)}
"""The events of a worker that waits before it starts, which have the same members."""


def _make_when_available(make: Callable[[], T], event: LogEvent, checked: bool) -> T:
    """Make what a worker needs. If gunicorn's master has checked it before (`checked`), wait for it
    after any failure: a worker that does not start ends the whole server, with the transfers of
    other workers."""
    said = ""
    while True:
        try:
            return make()
        except ConfigError as error:
            if not (error.retryable or checked):
                raise
            if error.message != said:
                said = error.message
                emit(WAITS[event], detail=said, hint=error.hint)
            sleep(BACK_SECONDS)


start_logging()
load_all()
_accepted = accepted_settings()
_settings = _accepted.settings
start_logging(_settings.log_level, _settings.log_format, _settings.workers)
# Only gunicorn's master keeps addresses, once it has checked them; its workers inherit that.
_checked = bool(_accepted.addresses)
_tallies = Tallies()
_engine = _make_when_available(
    partial(TransferEngine, _settings, tallies=_tallies), LogEvent.SETTINGS_UNAVAILABLE, _checked
)
_ledger = _make_when_available(
    partial(Ledger.connect, _settings.ledger_url(), SERVER, _tallies),
    LogEvent.LEDGER_UNAVAILABLE,
    _checked,
)
_worker = Worker(_ledger, _engine, _settings.slots, lease_seconds=_settings.lease_seconds)
_folder = named_folder()
_metrics = None if _folder is None else process_metrics(_folder, _engine, _ledger, _worker)
app = create_app(
    _engine,
    _accepted.tokens,
    ledger_context(_ledger, _worker, _engine),
    metrics=_metrics,
    metrics_tokens=_accepted.metrics_tokens,
    limit=RefusalLimit(_settings.refusals_per_second),
)
