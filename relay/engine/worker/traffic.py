"""What one process has done for each migration: bytes by use, and the seconds of its slots.

Theory of operation. The engine counts what each transfer carries, in all attempts, for the metrics
(`TransferEngine.count`); here what was counted since the last time is added to the transfer's
migration. Nothing is added for each byte, and once for each object, when it ends. How long slots
are in each phase is sampled, once a second.

Never here: the bytes of a transfer (`relay/engine/transfer/progress.py`), and when samples are
written (`live_reporter.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from relay.engine.transfer_engine import ByteMover
from relay.engine.worker.active_transfers import ActiveTransfer
from relay.ledger.sample_values import Traffic
from relay.tallies import Carried


@dataclass(eq=False)
class TrafficCounter:
    """Adds up what the transfers of one process move; `count` is TransferEngine.count."""

    count: Callable[[ByteMover], None]
    _done: dict[str, Traffic] = field(default_factory=dict)
    """By migration."""
    _added: dict[ActiveTransfer, Carried] = field(default_factory=dict)
    """What of running transfers was added."""

    def note_end(self, active: ActiveTransfer) -> None:
        """Add the rest of a transfer that has ended."""
        self._add(active)
        del self._added[active]

    def note_time(self, running: Iterable[ActiveTransfer], seconds: float) -> None:
        """Add what running transfers have moved, and `seconds` of the slot of each."""
        for active in running:
            spent = self._add(active).slot_seconds
            phase = _phase(active)
            spent[phase] = spent.get(phase, 0.0) + seconds

    def take(self) -> dict[str, Traffic]:
        """Return what was done since the last call, by migration."""
        done, self._done = self._done, {}
        return done

    def put_back(self, done: Mapping[str, Traffic]) -> None:
        """Add once more what was taken and could not be stored."""
        for id, traffic in done.items():
            self._done.setdefault(id, Traffic()).add(traffic)

    def _add(self, active: ActiveTransfer) -> Traffic:
        """Count a transfer now, add what is new to its migration's traffic, and return that."""
        transfer = active.transfer
        self.count(transfer)
        # The counted bytes never fall, also where another attempt has begun.
        before, now = self._added.get(active, Carried()), transfer.counted
        self._added[active] = now
        traffic = self._done.get(active.claim.migration_id)
        if traffic is None:
            traffic = self._done[active.claim.migration_id] = Traffic()
        traffic.moved += now.moved - before.moved + now.copied - before.copied
        traffic.read_back += now.read_back - before.read_back
        return traffic


def _phase(active: ActiveTransfer) -> str:
    trouble = active.transfer.trouble
    return "retry" if trouble is not None else active.transfer.phase
