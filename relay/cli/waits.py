"""Report retries of a command that prints nothing before a store has answered (`relay ls`, `relay
plan`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

from relay.cli.formatting import retry_line
from relay.cli.terminal import say
from relay.engine.retries import listing_trouble
from relay.wire.watchdog import Watchdog

LOOK_SECONDS = 0.25


@contextmanager
def reporting_retries(meter: Watchdog) -> Iterator[None]:
    """Report on stderr each retry of a listing, with its reason and its time."""
    job = gevent.spawn(_tell, meter)
    try:
        yield
    finally:
        job.kill()


def _tell(meter: Watchdog) -> None:
    seen = 0.0
    while True:
        gevent.sleep(LOOK_SECONDS)
        trouble = listing_trouble(meter)
        # Each retry has a time of its own, which identifies it.
        if trouble is not None and trouble.again != seen:
            seen = trouble.again
            say(f"relay: {retry_line(trouble.to_json())}", sys.stderr)
