"""List the trees of the ledger's migrations in one process, one after the other.

Decided here: when a tree is listed, and how a failed listing ends. Never here: what a listing
writes (`relay/engine/tree_listing.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass

from gevent.event import Event

from relay.engine.listing_filter import list_chosen
from relay.engine.migration_request import MigrationJob, filter_of
from relay.engine.plan_file import PlanFile, PlanReference
from relay.engine.retries import PendingRetry, listing_trouble
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import error_members, write_listing, write_planned
from relay.engine.worker.migration_cache import MigrationCache
from relay.errors import (
    LeaseLost,
    LedgerBusy,
    LedgerFailed,
    LedgerRefused,
    RelayError,
    Unauthenticated,
)
from relay.errors.bugs import bug
from relay.ledger.claims import SUSPECT
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListingClaim
from relay.ledger.migration_values import MigrationView
from relay.ledger.states import STOPPED
from relay.stores.interfaces import Entry
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import yield_to_hub

LOOK_SECONDS = 0.25
"""How often the ledger is polled for trees to list."""


@dataclass(eq=False)
class Lister:
    """Lists trees in one process. `found` is called when there are new transfers to claim, `failed`
    with each error of the ledger."""

    ledger: Ledger
    engine: TransferEngine
    _: KW_ONLY
    jobs: MigrationCache
    over: Event
    """Set when listing must stop."""
    found: Callable[[], None]
    failed: Callable[[LedgerFailed], None]
    only: str | None = None
    is_alone: Callable[[], bool] = lambda: True
    """Says if this process has no claims: a listing that crashes it would affect no transfer."""
    is_suspect: bool = False
    """Whether workers were lost with the running listing: nothing else is claimed meanwhile."""

    def __post_init__(self) -> None:
        """Start without listings."""
        self._meters: dict[ListingClaim, Watchdog] = {}

    def troubles(self) -> dict[ListingClaim, PendingRetry | None]:
        """Return the pending retry of each running listing, or None for a listing without one."""
        return {listing: listing_trouble(meter) for listing, meter in self._meters.items()}

    def migrations(self) -> set[str]:
        """Return the ids of the migrations that are listed now."""
        return {listing.migration_id for listing in self._meters}

    def apply(self, views: Mapping[str, MigrationView]) -> None:
        """Stop the listings of paused and cancelled migrations, also during a wait before a
        retry."""
        for listing, meter in tuple(self._meters.items()):
            current = views.get(listing.migration_id)
            if current is not None and current.state in STOPPED:
                meter.cancel()

    def run(self) -> None:
        """List trees until `over` is set; a listing that is not complete then is handed back."""
        failure: RelayError | None = None
        while not self.over.is_set():
            try:
                if failure is not None:
                    # The ledger may have committed a claim or a page before it failed, and may have
                    # lost a page since. LedgerBusy changed nothing.
                    self.ledger.listings.release_unknown(not isinstance(failure, LedgerBusy))
                    failure = None
                listing = self.ledger.listings.claim(
                    self.only, self.is_alone(), self.jobs.waiting()
                )
                if listing is not None:
                    self.is_suspect = listing.crash_count >= SUSPECT
                    self._list(listing)
                    continue
            except LeaseLost as error:
                failure = error
                continue
            except LedgerFailed as error:
                self.failed(error)
                failure = error
            finally:
                self.is_suspect = False
            self.over.wait(LOOK_SECONDS)

    def _list(self, listing: ListingClaim) -> None:
        meter = self._meters[listing] = Watchdog.of_listing(self.engine.limits)

        def stop(_: object) -> None:
            meter.cancel()

        # The listing may wait for an answer, or for a retry: only its watchdog ends that at once.
        self.over.rawlink(stop)
        try:
            job = self._job(listing)
            if job is None:
                return
            # A resumed listing has named objects before: they may be at the destination now.
            # A later pass of a standing migration does not ask the destination.
            if listing.cursor is None and listing.base is None:
                self.ledger.listings.learn_empty(listing, self.jobs.finds_nothing(job, meter))
            self._write_objects(job, listing, meter)
        except LedgerRefused as error:  # the same page would be refused again
            self.ledger.listings.end(listing, error_members(error))
        except (LedgerFailed, LeaseLost):
            raise
        except Unauthenticated as error:
            self.jobs.pause(listing, error)
            self.ledger.listings.hand_back(listing)
        except RelayError as error:
            if meter.is_cancelled:  # perhaps during the wait before a retry
                self.ledger.listings.hand_back(listing)
            else:
                self.ledger.listings.end(listing, error_members(error))
        except Exception as error:  # noqa: BLE001 - a bug: this listing fails with it
            self.ledger.listings.end(listing, error_members(bug(error)))
        finally:
            self._meters.pop(listing, None)
            self.over.unlink(stop)
        self.found()

    def _write_objects(self, job: MigrationJob, listing: ListingClaim, meter: Watchdog) -> None:
        """List the source, or take the objects of a saved plan in its place. Raises as
        `write_listing` and `write_planned`."""
        if job.follows is not None:
            self._write_plan(job.follows, listing)
            return
        id = listing.migration_id
        meter.throttle = self.jobs.throttle(id)
        meter.tally = self.engine.route(job.remotes, job.source, job.destination)
        source = self.engine.stores.source(job.source, meter)
        origins = self.ledger.listings.age_origins(id) if job.filters is not None else None
        chosen = filter_of(job, source, meter, origins)
        listed = list_chosen(source, job.source, chosen, after=listing.cursor)
        write_listing(
            self.ledger,
            listing,
            self._entries(listed),
            lambda: not self.over.is_set(),
            fail_on_empty=job.fail_on_empty,
            chooses=chosen,
        )

    def _write_plan(self, follows: PlanReference, listing: ListingClaim) -> None:
        """Write the objects of a saved plan: only what it decided is done. Raises as
        `write_planned`."""
        with PlanFile(follows.path, yield_to_hub) as plan:
            plan.require(follows.sha256)
            write_planned(self.ledger, listing, plan, lambda: not self.over.is_set())

    def _job(self, listing: ListingClaim) -> MigrationJob | None:
        """Return the listing's job, or None if this process can't locate it; the listing is then
        handed back."""
        try:
            return self.jobs.job(listing.migration_id, listing.renewed)
        except LedgerFailed:
            raise
        except RelayError as error:
            if self.ledger.migration(listing.migration_id).runner is None:
                self.over.wait(LOOK_SECONDS)  # so that another kind of worker can claim it
            else:
                self.jobs.pause_or_wait(listing, error)
            self.ledger.listings.hand_back(listing)
            return None

    def _entries(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for count, entry in enumerate(entries):
            # `write_listing` has written another page by now: its objects can be claimed.
            if count % 1000 == 1:
                self.found()
            yield entry
