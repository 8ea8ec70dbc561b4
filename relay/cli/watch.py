"""A transfer in the terminal: its progress while it runs, and Ctrl-C.

The first Ctrl-C cancels the transfer and waits a moment for it to break off cleanly; the second ends at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic

import gevent
from rich.filesize import decimal

from relay.api.progress import Rate
from relay.cli.exits import Exit
from relay.cli.interrupt import Interrupt
from relay.cli.terminal import say
from relay.engine.outcome import Outcome
from relay.engine.transfer import Transfer
from relay.errors import Cancelled, RelayError

LOOK_SECONDS = 0.1
LINE_SECONDS = 5.0
STOP_SECONDS = 3.0

Show = Callable[[Transfer], None]


class Interrupted(Exception):
    """A signal came; `code` is what the command ends with."""

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


def watched(transfer: Transfer, run: Callable[[Transfer], Outcome], quiet: bool) -> Outcome:
    """Run a transfer while its progress is shown. Raises its RelayError, or Interrupted."""
    signals = Interrupt(lambda: transfer.cancel(Cancelled("interrupted")), STOP_SECONDS)
    job = gevent.spawn(_ended, run, transfer)
    with signals.caught(), _display(quiet) as show:
        while not job.ready() and not signals.late():
            job.join(LOOK_SECONDS)
            show(transfer)
    end = job.value
    if isinstance(end, Outcome):
        return end
    if signals.code is not None:
        raise Interrupted(signals.code)
    raise end or RelayError("the transfer ended without a result")


def _ended(run: Callable[[Transfer], Outcome], transfer: Transfer) -> Outcome | RelayError:
    try:
        return run(transfer)
    except RelayError as error:
        return error


# -- what is shown


def _display(quiet: bool) -> AbstractContextManager[Show]:
    if quiet:
        return nullcontext(lambda _: None)
    return _bar() if sys.stderr.isatty() else nullcontext(_Lines().show)


@contextmanager
def _bar() -> Iterator[Show]:
    # Here and not above: rich's console takes some hundredths of a second that only who sees the bar need wait.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        task = progress.add_task("waiting", total=None)

        def show(transfer: Transfer) -> None:
            progress.update(task, description=transfer.phase, completed=transfer.bytes, total=transfer.total)
            progress.refresh()

        yield show


class _Lines:
    """A plain line every few seconds, for logs."""

    def __init__(self) -> None:
        self._rate, self._next = Rate(), monotonic() + LINE_SECONDS

    def show(self, transfer: Transfer) -> None:
        rate = self._rate.add(transfer.meter.moved)
        if monotonic() < self._next:
            return
        self._next = monotonic() + LINE_SECONDS
        total = f" of {decimal(transfer.total)}" if transfer.total is not None else ""
        say(f"relay: {transfer.phase} {decimal(transfer.bytes)}{total}, {decimal(round(rate))}/s", sys.stderr)
