"""`relay migrate -r`: move a tree through the ledger and show its progress; the same command
resumes it."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from relay.cli.filter_flags import say_missing_names
from relay.cli.formatting import (
    Members,
    bytes_done,
    bytes_in,
    bytes_moved,
    exit_of,
    failed_line,
    progress_lines,
    table,
)
from relay.cli.local_run import STOPPED, accept, failures, limits_note, work
from relay.cli.terminal import LINE_SECONDS, confirm, confirm_table, has_bars, plain, say
from relay.engine.migration_request import MigrationRequest, filters_of_options
from relay.engine.outcome import Outcome
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import listed_object
from relay.engine.worker.active_transfers import ActiveTransfer
from relay.engine.worker.part_helper import PartHelper
from relay.engine.worker.slot_growth import SlotGrowth
from relay.engine.worker.worker import Worker
from relay.errors import LedgerFailed, RelayError
from relay.filters.selection import folders_above
from relay.ledger.claim_values import Claim
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.states import COMPLETED
from relay.ledger.states import STOPPED as STOPPED_STATES
from relay.stores.interfaces import Entry
from relay.views.migrations import brief, summary
from relay.views.progress import Rate

if TYPE_CHECKING:
    from rich.progress import Progress

    from relay.cli.removal_run import RemovalEnd, RemovalStep

LOOK_SECONDS = 0.25
SHOWN = 5
"""Maximum number of active transfers that have a bar of their own."""


def migrate_tree(
    ledger: Ledger,
    order: MigrationRequest,
    engine: TransferEngine,
    *,
    slots: int,
    growth: SlotGrowth | None,
    quiet: bool,
    as_json: bool,
    step: RemovalStep | None = None,
) -> int:
    """Run the migration to its end, or to Ctrl-C; return the exit code. `growth` changes the number
    of slots; None keeps it. `step` is what deletes afterwards. Raises RelayError."""
    began = time()
    migration, new = accept(ledger, order, engine, quiet)
    if step is not None:
        step.begin(migration)
    if not new and not quiet and migration.state not in STOPPED_STATES:
        done = migration.count_in(*COMPLETED).objects
        say(
            f"relay: resuming migration {migration.name}: {done:,} objects are there"
            f" already{limits_note(migration)}",
            sys.stderr,
        )
    watch = Watch(ledger, migration.id, shown=not quiet, _last=brief(migration))
    worker = Worker(
        ledger,
        engine,
        slots,
        migration.id,
        ended=watch.note_end,
        moved=watch.note_moved,
        growth=growth,
    )
    with display(quiet) as show:
        if quiet:
            code = work(worker, lambda: None, LOOK_SECONDS)
        else:
            code = work(worker, lambda: show(watch, worker), LOOK_SECONDS, watch.failures.append)
    ended = ledger.migration(migration.id)
    moved = None if step is None or code is not None else step.run(ended)
    report(ledger, ended, watch, as_json, quiet, moved=moved)
    gone = 0 if new or quiet else ledger.events.gone_since(ended.id, began)
    if gone:
        say(
            f"relay: {gone:,} objects that had failed or were cancelled are no longer in the"
            " source's listing; they no longer count",
            sys.stderr,
        )
    if not quiet and ended.listing == "done":
        _say_missing_names(ledger, ended)
    if code is not None:
        if not quiet:
            say(STOPPED, sys.stderr)
        return code
    ended_with = exit_of(summary(ended))
    return ended_with if moved is None else moved.exit_after(ended_with)


def _say_missing_names(ledger: Ledger, migration: Migration) -> None:
    filters = filters_of_options(migration.options)
    names = () if filters is None else filters.files_from or ()
    listed = {listed_object(Entry(name)).name: name for name in names}
    unknown = ledger.listings.unknown_names(migration.id, list(listed))
    # An entry that has a folder's name is a folder that could not be listed.
    above = {name: {one[:-1] for one in folders_above(name)} for name in unknown}
    forms = {form for some in above.values() for one in some for form in (one, f"{one}/")}
    known = forms - ledger.listings.unknown_names(migration.id, list(forms))
    failed = {form.removesuffix("/") for form in known}
    missing = [listed[name] for name, some in above.items() if failed.isdisjoint(some)]
    say_missing_names(filters, missing)


# -- the state of the migration


@dataclass(eq=False)
class Watch:
    """The state of a migration that runs in this process, as a terminal shows it."""

    ledger: Ledger
    id: str
    _: KW_ONLY
    shown: bool = True
    """Failures are kept to be printed as they come; otherwise none is kept."""
    failures: deque[str] = field(default_factory=deque)
    """A line for each failure that is not printed yet. The error itself would keep its traceback,
    and every object that the traceback refers to."""
    bytes_here: int = 0
    """Bytes that this process has moved, of objects whose transfers have ended here."""
    started: float = field(default_factory=monotonic)
    rate: Rate = field(default_factory=Rate)
    _seen: int = 0
    _last: Members | None = None

    def note_end(self, claim: Claim, end: Outcome | RelayError) -> None:
        """Note the end of a transfer."""
        if self.shown and isinstance(end, RelayError):
            self.failures.append(failed_line(claim.name, end.side, end.message))

    def note_moved(self, count: int) -> None:
        """Note the bytes of a transfer that has ended here."""
        self.bytes_here += count

    def fresh_failures(self) -> Iterator[str]:
        """Yield a line for each failure that was not yielded yet."""
        while self.failures:
            yield self.failures.popleft()

    def poll(self, under_way: int) -> tuple[Members, float]:
        """Return the state of the migration, and its rate (bytes a second of all processes that
        work on it). `under_way` are bytes of this process that the ledger does not know yet. While
        the ledger does not answer, the state is the last one known."""
        try:
            self._last = brief(self.ledger.migration(self.id))
        except LedgerFailed:
            if self._last is None:
                raise
        found = self._last
        # A transfer that has ended here is settled a moment later; until then its bytes are neither
        # under way nor in the ledger.
        self._seen = max(self._seen, bytes_moved(found) + under_way)
        return found, self.rate.add(self._seen)


# -- the display

Show = Callable[[Watch, Worker], None]


def display(quiet: bool) -> AbstractContextManager[Show]:
    """Show a watch while a worker runs: by bars, or by a line every few seconds."""
    if quiet:
        return nullcontext(lambda *_: None)
    return _bars() if has_bars() else nullcontext(_TreeLines().show)


def _failures(watch: Watch, tell: Callable[[str], None]) -> None:
    for line in watch.fresh_failures():
        tell(line)


def _heads(watch: Watch, worker: Worker) -> tuple[Members, int, tuple[str, ...]]:
    """Return the state of the migration, the bytes that need no further transfer, and both in
    words."""
    here = sum(active.transfer.under_way for active in worker.active.values())
    found, rate = watch.poll(here)
    shown: Members = {**found, "slots": worker.slots}
    if worker.trouble is not None:
        trouble = {"code": worker.trouble.code, "detail": worker.trouble.message}
        shown = {**shown, "trouble": trouble}
    return shown, bytes_done(shown) + here, progress_lines(shown, rate, here)


@contextmanager
def _bars() -> Iterator[Show]:
    # Here and not above: rich's console takes some hundredths of a second, needed only where bars
    # are shown.
    from rich.progress import TimeElapsedColumn

    from relay.cli.progress_bars import bars

    with bars(TimeElapsedColumn) as progress:
        whole = progress.add_task("", total=None)
        rows: dict[int, Any] = {}

        def show(watch: Watch, worker: Worker) -> None:
            _failures(watch, progress.tell)
            found, done, progress.head = _heads(watch, worker)
            progress.update(whole, total=bytes_in(found) or None, completed=done)
            largest = sorted(
                worker.active.values(), key=lambda a: a.transfer.total or 0, reverse=True
            )[:SHOWN]
            _rows(progress, rows, largest)
            progress.refresh()

        yield show


def _rows(progress: Progress, rows: dict[int, Any], shown: list[ActiveTransfer]) -> None:
    wanted = {active.claim.id: active for active in shown}
    for id in [id for id in rows if id not in wanted]:
        progress.remove_task(rows.pop(id))
    for id, active in wanted.items():
        if id not in rows:
            rows[id] = progress.add_task("", total=None)
        transfer = active.transfer
        progress.update(
            rows[id],
            description=transfer_label(active),
            total=transfer.total,
            completed=transfer.bytes,
        )


def transfer_label(active: ActiveTransfer) -> str:
    """Return the line of a transfer of this process. Of an object that several processes move, the
    bar shows the whole object, so the line has the bytes of this process."""
    name, transfer = plain(active.claim.name)[-48:], active.transfer
    shared = isinstance(transfer, PartHelper) or transfer.moved_bytes != transfer.bytes
    return f"  {name}, {decimal(transfer.moved_bytes)} of it here" if shared else f"  {name}"


class _TreeLines:
    """A plain line every few seconds, for logs."""

    def __init__(self) -> None:
        self._next: float | None = None

    def show(self, watch: Watch, worker: Worker) -> None:
        _failures(watch, lambda line: say(line, sys.stderr))
        if self._next is not None and monotonic() < self._next:
            return
        _, _, lines = _heads(watch, worker)
        if self._next is not None:  # the first time is where the rate begins
            say(f"relay: {'; '.join(lines)}", sys.stderr)
        self._next = monotonic() + LINE_SECONDS


# -- the end


def report(
    ledger: Ledger,
    migration: Migration,
    watch: Watch,
    as_json: bool,
    quiet: bool,
    *,
    moved: RemovalEnd[Any] | None = None,
) -> None:
    """Print the result of the migration, and of the deletions of a move: one JSON object, or a
    table of two columns, of which a `quiet` command prints the errors only."""
    members = summary(migration)
    if as_json:
        seconds = round(monotonic() - watch.started, 3)
        members = {**members, "seconds_here": seconds, "bytes_here": watch.bytes_here}
        confirm(json.dumps(members if moved is None else {**members, **moved.members()}))
        return
    seconds = monotonic() - watch.started
    took = f"{seconds:.1f} s here, {decimal(round(watch.bytes_here / max(seconds, 0.001)))}/s"
    confirm_table(table(members, failures(ledger, migration), took), quiet)
    if moved is not None:
        moved.print(as_json, quiet)
