"""What removes, in one process, what attempts left at destinations that nobody will make again.

Theory of operation. The ledger tells of transfers that are cancelled, or failed a while ago, and have an upload that
was begun, or runners that were lost with them. Their uploads are thrown away, and the names that only they can have
had are looked for and deleted; then the ledger forgets them. What can't be removed now is tried again later.

Decided here: how one is removed, and when it is tried again. Never here: what is an orphan
(`relay/ledger/orphans.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from gevent.event import Event

from relay.engine.jobs import Jobs
from relay.engine.leftovers import lost_tokens, remove_lost, throw_away, uploads_of
from relay.engine.runner import Runner
from relay.engine.unfinished import place_of
from relay.errors import ConfigError, LedgerFailed, RelayError
from relay.errors.bugs import bug
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Orphan
from relay.wire.meter import Meter

log = logging.getLogger("relay.orphans")

SWEEP_SECONDS: Final = 5.0
"""How often the ledger is looked at for orphans."""
AGAIN_SECONDS: Final = 600.0
"""How soon one that could not be removed is tried again."""

Left = tuple[Orphan, RelayError]
"""One that could not be removed, and why."""


@dataclass(eq=False)
class Sweeper:
    """One process's share of it. `only` what is left of one migration."""

    ledger: Ledger
    runner: Runner
    jobs: Jobs
    over: Event
    """Set when it is to end, within about a second."""
    only: str | None = None
    clock: Callable[[], float] = monotonic
    _later: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        """Remove orphans until it is over."""
        while not self.over.is_set():
            try:
                for orphan, error in self.sweep()[1]:
                    members = {"code": error.code, "detail": error.message, "transfer": orphan.claim.id}
                    log.warning("orphan", extra={"members": members})
            except LedgerFailed:
                pass  # whoever claims says so
            except Exception as error:  # noqa: BLE001 - a bug: nothing else may stop because of it
                bug(error)
            self.over.wait(SWEEP_SECONDS)

    def sweep(self) -> tuple[int, list[Left]]:
        """Remove some of what there is now; return how many were, and what could not be. Raises LedgerFailed."""
        count, left = 0, []
        now = self.clock()
        self._later = {id: until for id, until in self._later.items() if until > now}
        for orphan in self.ledger.orphans(self.only, tuple(self._later)):
            if self.over.is_set():
                break
            try:
                self._remove(orphan)
                count += 1
            except LedgerFailed:
                raise
            except RelayError as error:
                self._later[orphan.claim.id] = self.clock() + AGAIN_SECONDS
                left.append((orphan, error))
        return count, left

    def _remove(self, orphan: Orphan) -> None:
        """Remove one, and let the ledger forget it. Raises RelayError."""
        claim, begun = orphan.claim, orphan.upload
        plan = self.jobs.job(claim.migration_id, claim.renewed).plan(claim)
        with self._meter() as meter:
            destination = self.runner.stores.destination(plan.destination, meter)
            if begun is not None:
                place = place_of(plan, begun)
                if place is None:
                    raise ConfigError(f"an upload to {begun.place} was begun, and its remote leads elsewhere by now")
                for upload in uploads_of(destination, place, begun, self.runner.limits):
                    throw_away(destination, upload)
            if not plan.destination.path.endswith("/"):
                left = remove_lost(destination, plan.destination, lost_tokens(claim, claim.fence + 1))
                if left is not None:
                    raise left
        self.ledger.removed(orphan)

    @contextmanager
    def _meter(self) -> Iterator[Meter]:
        """Give what lets a request end when this is over."""
        meter = Meter(self.runner.limits)

        def cancel(_: Event) -> None:
            meter.cancel()

        self.over.rawlink(cancel)
        try:
            yield meter
        finally:
            self.over.unlink(cancel)
