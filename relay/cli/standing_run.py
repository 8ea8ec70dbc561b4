"""Run the passes of a standing migration of this machine's ledger, one after the other.

Decided here: when a pass begins in a terminal, and when the command ends. Never here: what a pass
moves (`relay/engine/worker/`), and what the ledger keeps of it (`relay/ledger/passes.py`)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Final

from gevent.event import Event
from rich.filesize import decimal

from relay.cli.exits import Exit
from relay.cli.flags import in_flags
from relay.cli.formatting import count_of, duration, exit_of
from relay.cli.interrupt import Interrupt
from relay.cli.local_run import STOPPED, VERBS, limits_note, work
from relay.cli.terminal import confirm, plain, say
from relay.cli.tree import LOOK_SECONDS, Watch, display
from relay.engine.migration_request import MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.slot_growth import SlotGrowth
from relay.engine.worker.worker import Worker
from relay.errors import LedgerFailed
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.passes import require_standing
from relay.ledger.standing_values import Pass
from relay.ledger.states import MigrationState, PassKind, Phase, TransferState
from relay.views.migrations import brief, summary
from relay.views.pass_members import pass_members

FOLLOWED: Final = frozenset({Phase.FIRST, Phase.STEADY, Phase.DELTA})
"""The phases in which this command runs the passes; in the others `relay cutover` does."""
WAIT_SECONDS: Final = 1.0
"""Seconds between two looks at the ledger while no pass is due."""


@dataclass(eq=False)
class PassRunner:
    """Runs the pass under way of one migration in this process."""

    ledger: Ledger
    engine: TransferEngine
    _: KW_ONLY
    slots: int
    growth: Callable[[], SlotGrowth | None] = lambda: None
    """Makes what changes the number of slots, for each pass; None keeps the number."""
    quiet: bool = False

    def run(self, id: str) -> Exit | None:
        """Work until the migration is at rest, paused or ended; return the exit code of a signal,
        or None. Raises as `work`."""
        migration = self.ledger.migration(id)
        watch = Watch(self.ledger, id, shown=not self.quiet, _last=brief(migration))
        worker = Worker(
            self.ledger,
            self.engine,
            self.slots,
            id,
            ended=watch.note_end,
            moved=watch.note_moved,
            growth=self.growth(),
        )
        with display(self.quiet) as show:
            if self.quiet:
                return work(worker, lambda: None, LOOK_SECONDS)
            return work(worker, lambda: show(watch, worker), LOOK_SECONDS, watch.failures.append)


@dataclass(eq=False)
class Follower:
    """`relay follow`: begins a pass when it is due, and runs it. `passes` is the number after which
    it ends; None: never."""

    ledger: Ledger
    engine: TransferEngine
    _: KW_ONLY
    slots: int
    growth: Callable[[], SlotGrowth | None]
    quiet: bool
    as_json: bool
    passes: int | None = None
    _last_printed: int = 0
    """The number of the last pass that was printed."""

    def run(self, order: MigrationRequest, *, overwrite_changed: bool = False) -> int:
        """Find or accept the migration of a request, and follow it; return the exit code. Raises
        RelayError."""
        migration = self._adopt(order)
        if overwrite_changed:
            count = self.ledger.standing.accept_other_writers(migration.id)
            self._say(f"the next pass may replace {count_of(count, 'refused object')}")
        runner = PassRunner(
            self.ledger, self.engine, slots=self.slots, growth=self.growth, quiet=self.quiet
        )
        ran, self._last_printed = 0, self._last_settled(migration.id)
        while True:
            migration = self.ledger.migration(migration.id)
            phase = require_standing(migration).phase
            if migration.state != MigrationState.RUNNING or phase == Phase.FINISHED:
                return self._leave(migration)
            if ran == self.passes and migration.is_at_rest:
                return self._end_of_passes(migration)
            has_pass = phase in FOLLOWED and (not migration.is_at_rest or self._begin(migration))
            code = runner.run(migration.id) if has_pass else self._wait(migration)
            if code is not None:
                if not self.quiet:
                    say(STOPPED, sys.stderr)
                return code
            ran += self._print_ended(migration.id)

    def _adopt(self, order: MigrationRequest) -> Migration:
        """Return the standing migration of this request: a new one, or the one that the same
        command began earlier. What had arrived is not asked for again: a rehearsal does that."""
        found, is_new = self.ledger.create(order.spec(self.engine.remotes), go_on=True)
        if is_new:
            return found
        self.ledger.renew_secret(found.id, order.secret())
        self.ledger.reset_crash_counts(found.id)
        verb = VERBS.get(found.state)
        if verb is not None:
            self.ledger.act(found.id, verb, order.secret())
        if order.standing is not None:
            self.ledger.standing.change_times(found.id, order.standing)
        limits = order.bounds.set_limits()
        if limits:
            self.ledger.limit(found.id, limits)
        found = self.ledger.migration(found.id)
        phase = require_standing(found).phase
        self._say(f"continuing migration {found.name}, phase {phase}{limits_note(found)}")
        return found

    def _begin(self, migration: Migration) -> bool:
        """Begin the next pass if it is due. Another process may be first: its pass is run too."""
        standing = require_standing(migration)
        is_due = standing.is_due(time.time())
        if is_due:
            self.ledger.standing.begin_pass(migration.id, PassKind.DELTA)
        return is_due

    def _wait(self, migration: Migration) -> Exit | None:
        """Wait until a pass is due, or the migration has changed; return the exit code of a signal,
        or None."""
        over = Event()
        stopped = Interrupt(over.set, WAIT_SECONDS, "")
        with stopped.handle_signals():
            while not over.wait(WAIT_SECONDS):
                try:
                    now = self.ledger.migration(migration.id)
                except LedgerFailed:
                    continue  # it is asked again
                standing = require_standing(now)
                is_ready = standing.phase == Phase.STEADY and standing.is_due(time.time())
                if is_ready or (now.state, now.standing) != (migration.state, migration.standing):
                    return None
        return stopped.code

    def _last_settled(self, id: str) -> int:
        """Return the number of the last pass that has ended, or 0."""
        passes = self.ledger.standing.passes(id, limit=2)
        return next((one.number for one in passes if one.ended is not None), 0)

    def _print_ended(self, id: str) -> int:
        """Print the passes that have ended since the last time, and return their number."""
        newest = reversed(self.ledger.standing.passes(id, limit=100))
        fresh = [one for one in newest if one.number > self._last_printed and one.ended is not None]
        for one in fresh:
            self._last_printed = one.number
            if self.as_json:
                confirm(json.dumps(pass_members(one)))
            elif not self.quiet:
                confirm(pass_line(one))
        if fresh and not fresh[-1].complete:
            self._say_error(self.ledger.migration(id))
        return len(fresh)

    def _end_of_passes(self, migration: Migration) -> Exit:
        last = self.ledger.standing.passes(migration.id, limit=1)[0]
        if not last.complete or last.failed:
            return Exit.FAILED
        unproved = migration.count_in(TransferState.UNVERIFIED).objects
        return Exit.UNVERIFIED if unproved else Exit.VERIFIED

    def _leave(self, migration: Migration) -> Exit:
        """Say why a migration is followed no longer, and return the exit code."""
        members = summary(migration)
        self._say_error(migration)
        state = migration.state
        self._say(f"migration {migration.name} is {state}; the same command continues it")
        return exit_of(members)

    @staticmethod
    def _say_error(migration: Migration) -> None:
        """Print why a migration is paused, or its source could not be listed."""
        if migration.error is not None:
            say(f"relay: {plain(str(migration.error.get('detail')))}", sys.stderr)
            hint = migration.error.get("hint")
            if hint:
                say(f"hint: {in_flags(plain(str(hint)))}", sys.stderr)

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(f"relay: {text}", sys.stderr)


def pass_line(one: Pass) -> str:
    """Return the line of a pass that has ended."""
    return "   ".join(_parts(one))


def _parts(one: Pass) -> Iterator[str]:
    yield f"pass {one.number}"
    yield f"{count_of(one.copied, 'object')}, {decimal(one.bytes)} copied"
    if one.listed_at is not None:
        yield f"listing {count_of(one.listed, 'name')}, {duration(one.listed_at - one.begun)}"
    if one.gone > 0 and one.complete:
        yield f"{count_of(one.gone, 'name')} left the source"
    if one.ended is not None:
        yield f"took {duration(one.ended - one.begun)}"
    if one.failed:
        yield f"{one.failed:,} not there" + (f", {one.refused:,} refused" if one.refused else "")
    if not one.complete:
        yield "incomplete: the source could not be listed to its end"
