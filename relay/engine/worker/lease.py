"""The lease of one worker: renewed every few seconds, and lost when the ledger no longer has it.

Theory of operation. The claims of a worker hold until its lease expires. The worker measures that
time from the moment before each renewal, by its own clock: until then no other worker can have
taken its claims, so the ledger need not be asked. If the ledger had removed the worker as lost, the
renewal registers it again. Claims of an earlier registration may belong to other workers by then.

Decided here: when the lease is renewed, and when it certainly holds. Never here: what a lost lease
means for a transfer (`worker.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from gevent.event import Event

from relay.errors import LedgerFailed
from relay.ledger.ledger import Ledger

RENEW_SECONDS = 5.0
"""Longest time between two renewals of the lease; claims of lost workers are reclaimed as often."""
CHECK_SECONDS = 0.1
"""How often the renewal checks if it is due, or if the worker has stopped."""


def boottime() -> float:
    """Return the seconds since this machine started, including those in suspend: leases expire
    during suspend, and another worker may have claimed our transfers (clock_gettime(2),
    CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The lease of one worker. `seconds` is the time for which a renewal lasts."""

    def __init__(
        self,
        ledger: Ledger,
        seconds: float,
        clock: Callable[[], float],
        slots: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`slots` returns the present number of the worker's slots. A renewal notes it, for other
        processes to show, and comes early if the number has changed."""
        self._ledger, self._seconds, self._clock, self._slots = ledger, seconds, clock, slots
        self._renewed, self._noted = -inf, slots()
        self.registration = 0
        """The number of the worker's current registration: one more after each lost lease."""

    def renew(self) -> bool:
        """Renew the lease. Returns False if the worker had been removed as lost. Raises
        LedgerFailed."""
        asked, self._noted = self._clock(), self._slots()
        held = self._ledger.leases.renew(self._seconds, self._noted)
        self._renewed = asked
        if not held:
            self.registration += 1
        return held

    def holds(self, registration: int) -> bool:
        """Return whether the claims made during that registration are certainly still ours."""
        fresh = self._clock() - self._renewed < self._seconds
        return registration == self.registration and fresh

    def keep(
        self,
        stopped: Event,
        *,
        lost: Callable[[], None],
        reclaimed: Callable[[], None],
        failed: Callable[[LedgerFailed], None],
    ) -> None:
        """Renew the lease, and reclaim the claims of lost workers, until `stopped` is set.

        Calls `lost` when a renewal found the worker removed, `reclaimed` when there are claims to
        take over, and `failed` with each error of the ledger."""
        # A lease of any length must outlast a renewal that fails.
        every = min(RENEW_SECONDS, self._seconds / 4)
        due = self._clock() + every
        while not stopped.wait(CHECK_SECONDS):
            if self._clock() < due and self._slots() == self._noted:
                continue
            due = self._clock() + every
            try:
                if not self.renew():
                    lost()
                if self._ledger.leases.reclaim():
                    reclaimed()
            except LedgerFailed as error:
                failed(error)
