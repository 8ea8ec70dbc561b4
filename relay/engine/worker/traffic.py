"""What one process has done for each migration: bytes by use, and the seconds of its slots.

Theory of operation. A transfer counts its own bytes while it runs; here the difference since the
last count is added to its migration. Nothing is added for each byte, and once for each object, when
it ends. A later attempt counts from zero again: what the last second of a failed one moved may be
left out. How long slots are in each phase is sampled, once a second.

Never here: when samples are written (`live_reporter.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from relay.engine.transfer.transfer import Transfer
from relay.engine.worker.active_transfers import ActiveTransfer
from relay.engine.worker.part_helper import PartHelper
from relay.ledger.sample_values import Traffic


@dataclass(eq=False)
class TrafficCounter:
    """Counts what the transfers of one process move."""

    _done: dict[str, Traffic] = field(default_factory=dict)
    """By migration."""
    _counted: dict[ActiveTransfer, tuple[int, int]] = field(default_factory=dict)
    """What of running transfers was counted: the bytes of the object, and those of its watchdog,
    which counts read-backs too."""

    def note_end(self, active: ActiveTransfer) -> None:
        """Count the rest of a transfer that has ended."""
        self._add(active, self._counted.pop(active, _NOTHING))

    def note_time(self, running: Iterable[ActiveTransfer], seconds: float) -> None:
        """Count what running transfers have moved, and `seconds` of the slot of each."""
        for active in running:
            counts = self._add(active, self._counted.get(active, _NOTHING))
            self._counted[active] = counts
            spent = self._done[active.claim.migration_id].slot_seconds
            phase = _phase(active)
            spent[phase] = spent.get(phase, 0.0) + seconds

    def take(self) -> dict[str, Traffic]:
        """Return what was done since the last call, by migration."""
        done, self._done = self._done, {}
        return done

    def put_back(self, done: Mapping[str, Traffic]) -> None:
        """Count once more what was taken and could not be stored."""
        for id, traffic in done.items():
            self._done.setdefault(id, Traffic()).add(traffic)

    def _add(self, active: ActiveTransfer, before: tuple[int, int]) -> tuple[int, int]:
        """Add what a transfer has done since its counts were `before`; return them as they are."""
        transfer = active.transfer
        counts = transfer.moved_bytes, transfer.meter.moved
        moved, metered = counts[0] - before[0], counts[1] - before[1]
        if moved < 0:  # another attempt has begun
            moved = max(counts[0], metered)
        traffic = self._done.get(active.claim.migration_id)
        if traffic is None:
            traffic = self._done[active.claim.migration_id] = Traffic()
        traffic.moved += moved
        # Each part of an object has a watchdog of its own: the whole's counts other bytes only.
        traffic.read_back += metered if _is_in_parts(transfer) else max(0, metered - moved)
        return counts


_NOTHING = (0, 0)


def _is_in_parts(transfer: Transfer | PartHelper) -> bool:
    return not isinstance(transfer, Transfer) or transfer.part_counts is not None


def _phase(active: ActiveTransfer) -> str:
    trouble = active.transfer.trouble
    return "retry" if trouble is not None else active.transfer.phase
