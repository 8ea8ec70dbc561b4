"""Run the deletions that follow a migration, so that a signal ends them between two objects.

Decided here: how deletions are stopped, and the lines while they run. Never here: what they delete
(`engine/removal/`), and the lines about their end (`move_step.py`,
`mirror_step.py`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol, TypeVar

import gevent

from relay.cli.exits import Exit
from relay.cli.interrupt import Interrupt
from relay.cli.local_run import STOP_SECONDS
from relay.cli.terminal import LINE_SECONDS, say
from relay.errors import RelayError
from relay.ledger.migration_values import Migration

LOOK_SECONDS = 0.25
T = TypeVar("T")


class RemovalEnd(Protocol):
    """What the deletions of one command came to."""

    def members(self) -> dict[str, Any]:
        """Return the end as members of the command's JSON."""

    def print(self, as_json: bool, quiet: bool) -> None:
        """Print the end as a result of its own."""

    def exit_after(self, code: int) -> int:
        """Return the exit code of the command, whose first half has this one."""


class RemovalStep(Protocol):
    """The deletions that follow a migration."""

    def begin(self, migration: Migration) -> None:
        """Record that a migration deletes, before it moves anything."""

    def run(self, migration: Migration) -> RemovalEnd:
        """Delete after a migration, unless it was stopped before its end."""


def run_interruptibly(
    run: Callable[[Callable[[int], None]], T], stop: Callable[[], None], side: str, quiet: bool
) -> tuple[T | RelayError | None, Exit | None]:
    """Run deletions; a signal ends them after the objects under way. Return the result or the
    error, None if they did not stop in time, and the exit code of a signal."""
    job = gevent.spawn(_result_of, run, _progress(side, quiet))
    stopped = Interrupt(stop, STOP_SECONDS)
    with stopped.handle_signals():
        while not job.ready() and not stopped.is_late():
            job.join(LOOK_SECONDS)
    return (job.get() if job.ready() else None), stopped.code


def _result_of(
    run: Callable[[Callable[[int], None]], T], tell: Callable[[int], None]
) -> T | RelayError:
    try:
        return run(tell)
    except RelayError as error:
        return error


def _progress(side: str, quiet: bool) -> Callable[[int], None]:
    last = monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if not quiet and monotonic() - last >= LINE_SECONDS:
            last = monotonic()
            say(f"relay: deleting at the {side}: {done:,} objects looked at", sys.stderr)

    return tell
