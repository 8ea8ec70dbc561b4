"""List the trees of the ledger's migrations in one process, one after the other.

Decided here: when a tree is listed, and what becomes of a listing that fails. Never here: what a
listing writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gevent.event import Event

from relay.engine.listing import error_members, write_listing
from relay.engine.migration_request import MigrationJob
from relay.engine.retries import PendingRetry, listing_trouble
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.errors import LeaseLost, LedgerFailed, LedgerRefused, RelayError, Unauthenticated
from relay.errors.bugs import bug
from relay.ledger.claims import SUSPECT
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Listing
from relay.stores.interfaces import Entry
from relay.wire.watchdog import Watchdog

LOOK_SECONDS = 0.25
"""How often the ledger is looked at for trees to list."""


@dataclass(eq=False)
class Lister:
    """One process's share of the listings. `found` is called when there is something new to claim,
    `failed` with what the ledger said where it did not answer."""

    ledger: Ledger
    runner: TransferEngine
    jobs: MigrationCache
    over: Event
    """Set when no more is to be listed."""
    found: Callable[[], None]
    failed: Callable[[LedgerFailed], None]
    only: str | None = None
    is_alone: Callable[[], bool] = lambda: True
    """Says if this process has nothing in hand that a listing which kills it would take along."""
    is_suspect: bool = False
    """Whether what is listed may do so: nothing else is to be claimed meanwhile."""

    def __post_init__(self) -> None:
        """Nothing is listed yet."""
        self._meters: dict[Listing, Watchdog] = {}

    def troubles(self) -> dict[Listing, PendingRetry | None]:
        """Return what of each listing that is made here is tried again at the moment, None where
        nothing is."""
        return {listing: listing_trouble(meter) for listing, meter in self._meters.items()}

    def run(self) -> None:
        """List trees until it is over; what is not listed to its end is handed back."""
        doubtful = False
        while not self.over.is_set():
            try:
                if doubtful:  # a claim may have been made, or a page written, and we were not told
                    self.ledger.release_unknown_listings()
                    doubtful = False
                listing = self.ledger.claim_listing(self.only, self.is_alone())
                if listing is not None:
                    self.is_suspect = listing.lapses >= SUSPECT
                    self._list(listing.migration_id, listing)
                    continue
            except LeaseLost:
                continue
            except LedgerFailed as error:
                self.failed(error)
                doubtful = True
            finally:
                self.is_suspect = False
            self.over.wait(LOOK_SECONDS)

    def _list(self, id: str, listing: Listing) -> None:
        meter = self._meters[listing] = Watchdog(self.runner.limits)

        def stop(_: object) -> None:
            meter.cancel()

        self.over.rawlink(stop)
        try:
            job = self._job(listing)
            if job is None:
                return
            if listing.cursor is None:
                self.ledger.learn_empty(listing, self.jobs.finds_nothing(job, meter))
            meter.throttle = self.jobs.throttle(id)
            source = self.runner.stores.source(job.source, meter)
            entries = self._entries(source.list(job.source, True, listing.cursor))
            write_listing(
                self.ledger, listing, entries, lambda: not self.over.is_set(), job.fail_on_empty
            )
        except LedgerRefused as error:  # it would refuse the same page each time
            self.ledger.end_listing(listing, error_members(error))
        except (LedgerFailed, LeaseLost):
            raise
        except Unauthenticated as error:
            self.jobs.pause(id, error)
            self.ledger.hand_back_listing(listing)
        except RelayError as error:
            if (
                self.over.is_set()
            ):  # it was broken off, as where it waits before it asks for a page again
                self.ledger.hand_back_listing(listing)
            else:
                self.ledger.end_listing(listing, error_members(error))
        except Exception as error:  # noqa: BLE001 - a bug: this listing fails with it
            self.ledger.end_listing(listing, error_members(bug(error)))
        finally:
            self._meters.pop(listing, None)
            self.over.unlink(stop)
        self.found()

    def _job(self, listing: Listing) -> MigrationJob | None:
        """Return the listing's job; None where this process can't locate it, and has handed it
        back."""
        try:
            return self.jobs.job(listing.migration_id, listing.renewed)
        except LedgerFailed:
            raise
        except RelayError as error:
            if self.ledger.migration(listing.migration_id).runner is None:
                self.over.wait(LOOK_SECONDS)  # another kind of runner has its turn
            else:
                self.jobs.pause(listing.migration_id, error)
            self.ledger.hand_back_listing(listing)
            return None

    def _entries(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for count, entry in enumerate(entries):
            if count % 1000 == 1:
                self.found()
            yield entry
