"""Record the pending retries of one process in the ledger, so that other processes can show them.

Decided here: which retries are recorded, and how often. Never here: whether anything is retried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gevent.event import Event

from relay.engine.retries import PendingRetry
from relay.engine.transfer.transfer import Transfer
from relay.engine.worker.active_transfers import ActiveTransfers
from relay.engine.worker.lister import Lister
from relay.errors import LedgerFailed
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListingClaim

REPORT_SECONDS = 1.0
"""How often the pending retries are compared with those in the ledger."""


@dataclass(eq=False)
class RetryReporter:
    """Records the pending retries of one process; `failed` is called with each error of the
    ledger."""

    ledger: Ledger
    active: ActiveTransfers
    lister: Lister
    failed: Callable[[LedgerFailed], None]

    def __post_init__(self) -> None:
        """Start with nothing recorded."""
        self._transfers: dict[int, PendingRetry] = {}
        self._listings: dict[ListingClaim, PendingRetry] = {}

    def run(self, stopped: Event) -> None:
        """Record changes until `stopped` is set."""
        while not stopped.wait(REPORT_SECONDS):
            try:
                self._report_transfers()
                self._report_listings()
            except LedgerFailed as error:
                self.failed(error)

    def _report_transfers(self) -> None:
        changed, now = [], {}
        for id, active in tuple(self.active.by_claim.items()):
            if not isinstance(active.transfer, Transfer):
                continue  # a helper's parts: their owner reports those
            trouble = active.transfer.trouble
            if trouble != self._transfers.get(id):
                changed.append((active.claim, trouble.to_json() if trouble else None))
            if trouble is not None:
                now[id] = trouble
        if changed:
            self.ledger.claims.note_retried(changed)
        self._transfers = now

    def _report_listings(self) -> None:
        now = self.lister.troubles()
        for listing, trouble in now.items():
            if trouble != self._listings.get(listing):
                self.ledger.listings.note_retried(listing, trouble.to_json() if trouble else None)
        self._listings = {listing: one for listing, one in now.items() if one is not None}
