"""`relay watch` and `relay submit --wait`: show a migration that other processes run, until it
ends.

Ctrl-C ends the watching and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic

from rich.filesize import decimal

from relay.cli.backend_interface import Members, MigrationBackend
from relay.cli.formatting import (
    NAMED,
    bytes_done,
    bytes_in,
    bytes_moved,
    exit_of,
    failed_line,
    headline,
    objects_in,
    progress_lines,
    table,
    under_way,
    waiting_line,
)
from relay.cli.interrupt import Interrupted, interrupt_as_exception
from relay.cli.terminal import LINE_SECONDS, confirm, confirm_table, has_bars, plain, say
from relay.ledger.states import PRESENT, EventKind, MigrationState, TransferState
from relay.views.progress import Rate

_STARTS = (EventKind.RETRY, EventKind.LIST_AGAIN)
"""The events after which failed objects are moved again."""
_WAITS = (EventKind.PAUSED, *_STARTS, EventKind.RESUME, EventKind.CANCEL)
"""The events after which a migration waits for its user, or no longer does."""

Tell = Callable[[str], None]
Show = Callable[[Members], None]


@dataclass(eq=False)
class Seen:
    """The events of a migration that is being watched."""

    failures: list[Members] = field(default_factory=list)
    """The first NAMED failures that were not printed yet, since the migration last started or was
    retried."""
    failed: int = 0
    """Number of failures that were not printed yet."""
    waits: bool = False
    """Whether the last event that says so is a pause of relay."""

    def note_event(self, kind: str, members: Members) -> None:
        """Note an event."""
        if kind == EventKind.FAILED:
            self.failed += 1
            if len(self.failures) < NAMED:
                self.failures.append(members)
        elif kind in _STARTS:
            self.take_failures()
        if kind in _WAITS:
            self.waits = kind == EventKind.PAUSED

    def take_failures(self) -> tuple[list[Members], int]:
        """Return the failures that were not printed, and the number of those beyond NAMED; forget
        all."""
        found, more = self.failures, self.failed - len(self.failures)
        self.failures, self.failed = [], 0
        return found, more


def watch(migrations: MigrationBackend, id: str, quiet: bool, as_json: bool) -> int:
    """Show a migration until it ends, or waits for credentials; return the exit code."""
    if not quiet and migrations.needs_command(id):
        found = migrations.migration(id)
        if "waits_for" in found:
            say(f"relay: {waiting_line(found)}", sys.stderr)
    try:
        with interrupt_as_exception(), _display(quiet) as (show, tell):
            _show_events(migrations, id, show, tell)
    except Interrupted as error:
        if not quiet:
            say(
                f"relay: only the display has ended; `relay watch {plain(id)}` shows it again",
                sys.stderr,
            )
        return error.code
    ended = migrations.end(id)
    if as_json:
        confirm(json.dumps(ended))
    else:
        confirm_table(table(ended, _failures(migrations, ended), _duration(ended)), quiet)
    return exit_of(ended)


def _show_events(migrations: MigrationBackend, id: str, show: Show, tell: Tell) -> None:
    seen = Seen()
    for kind, members in migrations.follow(id):
        if kind != "progress":
            seen.note_event(kind, members)
            continue
        fresh, more = seen.take_failures()
        for failure in fresh:
            tell(
                failed_line(
                    str(failure.get("name") or ""), failure.get("side"), str(failure.get("detail"))
                )
            )
        if more:
            tell(f"relay: and {more:,} more failed")
        show(members)
        # Relay paused it: nothing happens before its user supplies other credentials. The event of
        # that may come much later: an older transaction of the same PostgreSQL server hides it.
        # An older server sends its event alone.
        is_waiting = members.get("needs_attention", seen.waits)
        is_paused = members["state"] == MigrationState.PAUSED
        if is_paused and is_waiting and not under_way(members):
            return


def _failures(migrations: MigrationBackend, ended: Members) -> list[Members]:
    if not objects_in(ended, TransferState.FAILED):
        return []
    return list(islice(migrations.rows(ended["id"], (TransferState.FAILED,)), NAMED))


def _duration(ended: Members) -> str:
    if ended["ended"] is None:
        return "not ended"
    seconds = max(ended["ended"] - ended["created"], 0.001)
    return f"{seconds:.1f} s, {decimal(round(bytes_in(ended, *PRESENT) / seconds))}/s"


# -- the display


def _display(quiet: bool) -> AbstractContextManager[tuple[Show, Tell]]:
    if quiet:
        return nullcontext((lambda _: None, lambda _: None))
    return (
        _bar()
        if has_bars()
        else nullcontext((_MigrationLines().show, lambda text: say(text, sys.stderr)))
    )


@contextmanager
def _bar() -> Iterator[tuple[Show, Tell]]:
    # Here and not above: rich's console takes some hundredths of a second, needed only where a bar
    # is shown.
    from rich.progress import TimeElapsedColumn

    from relay.cli.progress_bars import bars

    rate = Rate()
    with bars(TimeElapsedColumn) as progress:
        whole = progress.add_task("", total=None)

        def show(migration: Members) -> None:
            progress.head = progress_lines(migration, rate.add(bytes_moved(migration)))
            progress.update(
                whole, total=bytes_in(migration) or None, completed=bytes_done(migration)
            )
            progress.refresh()

        yield show, progress.tell


class _MigrationLines:
    """A plain line every few seconds, for logs."""

    def __init__(self) -> None:
        self._rate, self._next = Rate(), monotonic() + LINE_SECONDS

    def show(self, migration: Members) -> None:
        rate = self._rate.add(bytes_moved(migration))
        if monotonic() < self._next:
            return
        self._next = monotonic() + LINE_SECONDS
        say(f"relay: {headline(migration, rate)}", sys.stderr)
