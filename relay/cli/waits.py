"""Report retries of a command that prints nothing before a store has answered (`relay ls`, `relay plan`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

from relay.cli.formatting import trying
from relay.cli.terminal import say
from relay.engine.retries import listing_trouble
from relay.wire.watchdog import Meter

LOOK_SECONDS = 0.25


@contextmanager
def telling(meter: Meter) -> Iterator[None]:
    """Say on stderr, each time that a listing fails meanwhile, that it is tried again, why, and when next."""
    job = gevent.spawn(_tell, meter)
    try:
        yield
    finally:
        job.kill()


def _tell(meter: Meter) -> None:
    seen = 0.0
    while True:
        gevent.sleep(LOOK_SECONDS)
        trouble = listing_trouble(meter)
        if trouble is not None and trouble.again != seen:
            seen = trouble.again
            say(f"relay: {trying(trouble.to_json())}", sys.stderr)
