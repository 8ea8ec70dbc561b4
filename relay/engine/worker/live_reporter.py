"""Write the moving objects of one process into the ledger: each second, while somebody
watches; and a sample of each migration every ten seconds.

Decided here: the written values, and when. Never here: who watches (`relay/ledger/live_rows.py`),
and how samples are kept (`relay/ledger/samples.py`)."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from gevent.event import Event

from relay.engine.transfer.transfer import Transfer
from relay.engine.worker.active_transfers import ActiveTransfer, ActiveTransfers
from relay.engine.worker.traffic import TrafficCounter
from relay.errors import LedgerFailed
from relay.ledger.live_ledger import LiveLedger
from relay.ledger.migration_values import MigrationView
from relay.ledger.sample_values import SAMPLE_SECONDS, MovingObject, Traffic

REPORT_SECONDS: Final = 1.0
"""How often transfers are counted, and what moves is written."""
MOST_OBJECTS: Final = 64
"""Maximum number of moving objects that one process names."""
MOST_BYTES: Final = 32 << 10
"""Maximum size of the text that names them."""
RATE_TURNS: Final = 6
"""Number of the last turns over which the rate of an object is taken."""
PATIENT_TURNS: Final = 6
"""How many more samples are tried of a migration that rests: when it ends, its samples are
merged."""


@dataclass(eq=False)
class LiveReporter:
    """Writes the live state of one process; `failed` is called with each error of the ledger."""

    ledger: LiveLedger
    active: ActiveTransfers
    traffic: TrafficCounter
    failed: Callable[[LedgerFailed], None]
    _: KW_ONLY
    clock: Callable[[], float]
    wall_clock: Callable[[], float] = time.time
    _watched: frozenset[str] = frozenset()
    _moved: dict[ActiveTransfer, deque[tuple[float, int]]] = field(default_factory=dict)
    """The bytes of the watched transfers at the last turns."""
    _resting: dict[str, int] = field(default_factory=dict)
    """The migrations that were sampled and may not have ended, with the tries that are left."""

    def __post_init__(self) -> None:
        """Start with the present time."""
        self._counted_at = self.clock()
        self._bucket = self._bucket_now()

    def apply(self, views: Mapping[str, MigrationView]) -> None:
        """Learn which migrations are watched, from the views of a poll."""
        self._watched = frozenset(id for id, view in views.items() if view.watched)

    def run(self, stopped: Event) -> None:
        """Write until `stopped` is set; then the last sample."""
        while not stopped.wait(REPORT_SECONDS):
            self.turn()
        self._guard(self._write_samples)

    def turn(self) -> None:
        """Count the running transfers, and write what is due. Raises nothing of the ledger."""
        running = tuple(self.active.by_claim.values())
        now = self.clock()
        self.traffic.note_time(running, now - self._counted_at)
        self._counted_at = now
        watched = [one for one in running if one.claim.migration_id in self._watched]
        self._moved = {one: self._moved.get(one, deque(maxlen=RATE_TURNS)) for one in watched}
        if watched:
            self._guard(lambda: self.ledger.write_live(self._text(watched, now)))
        if self._bucket_now() != self._bucket:
            self._bucket = self._bucket_now()
            self._guard(self._write_samples)

    def _guard(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LedgerFailed as error:
            self.failed(error)

    def _bucket_now(self) -> int:
        return int(self.wall_clock()) // SAMPLE_SECONDS

    def _write_samples(self) -> None:
        done = self.traffic.take()
        self._resting = {id: left - 1 for id, left in self._resting.items() if left > 0}
        self._resting |= dict.fromkeys(done, PATIENT_TURNS)
        if not self._resting:
            return
        try:
            ended = self.ledger.write_samples(
                {id: done.get(id, Traffic()) for id in self._resting}, self.wall_clock()
            )
        except LedgerFailed:
            self.traffic.put_back(done)
            raise
        self._resting = {id: left for id, left in self._resting.items() if id not in ended}

    # -- the moving objects

    def _text(self, watched: Iterable[ActiveTransfer], now: float) -> str:
        """Return the watched objects as JSON, the longest-running first, as many as there is room
        for."""
        owned = [one for one in watched if isinstance(one.transfer, Transfer)]
        counts = Counter(one.claim.migration_id for one in owned)
        texts: list[str] = []
        room = MOST_BYTES - 200 - 60 * len(counts)
        for one in sorted(owned, key=lambda active: active.began)[:MOST_OBJECTS]:
            text = json.dumps(self._object(one, now).to_json())
            room -= len(text) + 2
            if room < 0:
                break
            texts.append(text)
        return f'{{"moving": {json.dumps(counts)}, "objects": [{", ".join(texts)}]}}'

    def _object(self, active: ActiveTransfer, now: float) -> MovingObject:
        transfer = active.transfer
        assert isinstance(transfer, Transfer)
        seen = self._moved[active]
        seen.append((now, transfer.bytes))
        (since, before), (_, after) = seen[0], seen[-1]
        rate = max(0, after - before) / (now - since) if now > since else 0.0
        part, parts = transfer.part_counts or (None, None)
        return MovingObject(
            migration_id=active.claim.migration_id,
            name=active.claim.name,
            phase=transfer.phase,
            bytes=transfer.bytes,
            total=transfer.total,
            rate=round(rate),
            attempt=transfer.attempt,
            part=part,
            parts=parts,
        )
