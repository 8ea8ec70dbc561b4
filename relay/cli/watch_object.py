"""Show the progress of one object in the terminal while it moves.

The first Ctrl-C stops it cleanly, within a limited time; the second ends at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic

from rich.filesize import decimal

from relay.cli.formatting import retry_line
from relay.cli.terminal import LINE_SECONDS, has_bars, say
from relay.engine.transfer.transfer import Transfer
from relay.engine.worker.part_helper import PartHelper
from relay.views.progress import Rate

LOOK_SECONDS = 0.1

Show = Callable[[Transfer | PartHelper], None]


def display(quiet: bool) -> AbstractContextManager[Show]:
    """Return the display of a transfer: a bar on a terminal, otherwise a line every few
    seconds."""
    if quiet:
        return nullcontext(lambda _: None)
    return _bar() if has_bars() else nullcontext(_ObjectLines().show)


def _retry_lines(transfer: Transfer | PartHelper) -> Iterator[str]:
    """Yield a line for the retry of the transfer, if one is pending."""
    if transfer.trouble is not None:
        yield retry_line(transfer.trouble.to_json())


@contextmanager
def _bar() -> Iterator[Show]:
    # Here and not above: rich's console takes some hundredths of a second, needed only where a bar
    # is shown.
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from relay.cli.progress_bars import bars

    with bars(DownloadColumn, TimeRemainingColumn, wide=(TransferSpeedColumn,)) as progress:
        task = progress.add_task("waiting", total=None)

        def show(transfer: Transfer | PartHelper) -> None:
            progress.head = tuple(_retry_lines(transfer))
            progress.update(
                task,
                description=f"{transfer.phase:<9}",
                completed=transfer.bytes,
                total=transfer.total,
            )
            progress.refresh()

        yield show


class _ObjectLines:
    """A plain line every few seconds, for logs."""

    def __init__(self) -> None:
        self._rate, self._next = Rate(), monotonic() + LINE_SECONDS

    def show(self, transfer: Transfer | PartHelper) -> None:
        rate = self._rate.add(transfer.meter.moved)
        if monotonic() < self._next:
            return
        self._next = monotonic() + LINE_SECONDS
        total = f" of {decimal(transfer.total)}" if transfer.total is not None else ""
        text = f"relay: {transfer.phase} {decimal(transfer.bytes)}{total}, {decimal(round(rate))}/s"
        say("; ".join((text, *_retry_lines(transfer))), sys.stderr)
