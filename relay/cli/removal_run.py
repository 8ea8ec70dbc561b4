"""Run the deletions that follow a migration, so that a signal ends them between two objects.

Decided here: how deletions are stopped, the lines while they run, what each end of them prints, and
its exit code. Never here: what they delete (`engine/removal/`), and the lines of a move or a mirror
alone (`move_step.py`, `mirror_step.py`)."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from time import monotonic
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import gevent

from relay.cli.exits import Exit
from relay.cli.interrupt import Interrupt
from relay.cli.local_run import STOP_SECONDS
from relay.cli.terminal import LINE_SECONDS, confirm, plain, say, say_error
from relay.engine.removal.deletion_run import RemovalResult
from relay.errors import RelayError
from relay.ledger.migration_values import Migration
from relay.views.problems import problem

LOOK_SECONDS = 0.25
NAMED = 10
"""Number of kept objects that are printed with their reason."""
T = TypeVar("T")
R = TypeVar("R", bound=RemovalResult)


@dataclass(frozen=True)
class RemovalEnd(ABC, Generic[R]):
    """What the deletions of one command came to; `error` ended them early, and `code` is that of a
    signal."""

    kind: ClassVar[str]
    """The name of the end in JSON, and of the deletions in the ledger."""
    side: ClassVar[str]
    """Where objects are deleted."""
    result: R | None
    _: KW_ONLY
    error: RelayError | None = None
    code: Exit | None = None

    @abstractmethod
    def figures(self, found: R) -> dict[str, Any]:
        """Return the numbers of a result as members of JSON."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield the end in lines for a person."""

    def members(self) -> dict[str, Any]:
        """Return the end as members of the command's JSON."""
        found = self.result
        if found is None:
            return {self.kind: {} if self.error is None else {"error": problem(self.error)}}
        samples = [
            {"name": one.name, "reason": one.reason, "detail": one.detail} for one in found.samples
        ]
        members = {**self.figures(found), "reasons": found.reasons, "samples": samples}
        return {self.kind: members}

    def kept_lines(self, found: R) -> Iterator[str]:
        """Yield the lines about objects that may be deleted, and about those that were kept."""
        if found.unknown:
            yield f"{found.unknown:,} may be deleted, the answer was lost: run the same command"
        if found.kept:
            reasons = ", ".join(f"{count:,} {name}" for name, count in found.reasons.items())
            yield f"{found.kept:,} kept at the {self.side}: {reasons}"
        for one in found.samples[:NAMED]:
            yield f"  kept {plain(one.name) or 'it'}: {plain(one.detail or '')}"

    def print(self, as_json: bool, quiet: bool) -> None:
        """Print the end as a result of its own."""
        if as_json:
            confirm(json.dumps(self.members()))
            return
        if not quiet:
            for line in self.lines():
                confirm(line)
        if self.error is not None:
            say_error(self.error)

    def exit_after(self, code: int) -> int:
        """Return the exit code of the command, whose first half has this one."""
        if self.code is not None:
            return self.code
        if self.error is not None:
            return code or Exit.of(self.error)
        found = self.result
        if code or found is None:
            return code
        return Exit.UNVERIFIED if self.leaves_some(found) else code

    def leaves_some(self, found: R) -> bool:
        """Return whether an object is left that the command was to delete."""
        return bool(found.kept or found.unknown)


class RemovalStep(Protocol):
    """The deletions that follow a migration."""

    def begin(self, migration: Migration) -> None:
        """Record that a migration deletes, before it moves anything."""

    def finish_earlier(self) -> RemovalEnd[Any] | None:
        """Delete what an earlier run of the same command has left. Return the end of the command,
        if that is all it does."""

    def run(self, migration: Migration) -> RemovalEnd[Any]:
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
