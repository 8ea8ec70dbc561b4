"""The answer of `/metrics`: the sums over the files of all workers, and what the worker that
answers reads for the whole server.

Decided here: the readings at an answer, and how often the ledger is asked. Never here: which
callers may read it (`relay/api/access.py`)."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import gevent
from gevent.lock import BoundedSemaphore

from relay import __version__
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.worker import Worker
from relay.errors import LedgerFailed
from relay.errors.bugs import bug
from relay.ledger.ledger import Ledger
from relay.ledger.schema import HEAD
from relay.ledger.totals import Totals
from relay.metrics.publisher import Publisher
from relay.metrics.readings import READ_SECONDS, Readings
from relay.metrics.shared_sums import SharedSums
from relay.process.native_threads import in_native_thread
from relay.tallies import Labels, Tallies

LEDGER_SECONDS = 5.0
"""How long an answer of the ledger is kept."""


class TotalsCache:
    """The totals of the ledger, read at most once in `seconds`; None while the ledger does not
    answer."""

    def __init__(
        self,
        read: Callable[[], Totals],
        seconds: float = LEDGER_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Nothing is read yet."""
        self._read, self._seconds, self._clock = read, seconds, clock
        self._turn = BoundedSemaphore()
        self._found: tuple[float, Totals | None] | None = None

    def latest(self) -> Totals | None:
        """Return totals that are at most `seconds` old."""
        with self._turn:
            now = self._clock()
            if self._found is None or now - self._found[0] >= self._seconds:
                self._found = now, self._ask()
            return self._found[1]

    def _ask(self) -> Totals | None:
        try:
            return self._read()
        except LedgerFailed:
            return None  # counted by the ledger; the other metrics are needed now more than ever


@dataclass(frozen=True, kw_only=True)
class ProcessMetrics:
    """The metrics of one worker: it writes its numbers, and answers for all workers."""

    settings: Settings
    tallies: Tallies
    readings: Readings
    totals_cache: TotalsCache
    publisher: Publisher
    sums: SharedSums
    turn: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    """Held while `sums` reads the files."""

    def run(self) -> None:
        """Write the numbers once a second, until this greenlet is killed. If they can't be written,
        it ends: then `text` fails too, which Prometheus shows."""
        gevent.spawn(self.readings.watch_hub)
        try:
            while True:
                self.publish()
                gevent.sleep(READ_SECONDS)
        except Exception as error:  # noqa: BLE001 - logged with its traceback
            bug(error)

    def publish(self) -> None:
        """Write the numbers now."""
        self.publisher.write(self.tallies, self.readings.take())

    def text(self) -> bytes:
        """Return the answer, in Prometheus' text format. It has this worker's numbers as they are
        now, and those of the others as they were at most a second ago."""
        values = self._values(self.totals_cache.latest())
        self.publish()
        with self.turn:
            # The files of many workers take longer than the hub may stand still.
            return in_native_thread(lambda: self.sums.text(values))

    def _values(self, totals: Totals | None) -> dict[str, Mapping[Labels, float]]:
        """Return the readings for the whole server; those of the ledger only if it answers."""
        found: dict[str, Mapping[Labels, float]] = {
            "build_info": {(__version__, platform.python_version(), HEAD): 1},
            "memory_ceiling_bytes": {(): self.settings.memory_ceiling_bytes()},
        }
        if totals is None:
            return found
        found["migrations"] = {(state,): count for state, count in totals.states.items()}
        found["migrations_needing_attention"] = {
            (reason,): count for reason, count in totals.attention.items()
        }
        found["ledger_bytes"] = {(): totals.bytes}
        if totals.free_bytes is not None:
            found["ledger_free_bytes"] = {(): totals.free_bytes}
        return found


def process_metrics(
    folder: Path, engine: TransferEngine, ledger: Ledger, worker: Worker
) -> ProcessMetrics:
    """Return the metrics of a server's worker, which count nothing before they run."""
    return ProcessMetrics(
        settings=engine.settings,
        tallies=engine.tallies,
        readings=Readings(engine, lambda: [one.transfer for one in worker.active.values()]),
        totals_cache=TotalsCache(ledger.totals),
        publisher=Publisher(),
        sums=SharedSums(folder),
    )
