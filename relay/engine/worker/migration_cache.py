"""The migrations that one process works on: their jobs, credentials and limits, cached.

Decided here: how long an answer of the ledger is cached. Never here: what happens to a
migration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import islice
from time import monotonic

from gevent.lock import BoundedSemaphore

from relay.engine.inspection import is_empty_folder
from relay.engine.migration_request import MigrationJob
from relay.engine.retries import PendingRetry
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import error_members
from relay.engine.worker.conversions import hand_back_unrun
from relay.engine.worker.locate_retries import LocateRetries
from relay.errors import (
    ConfigError,
    LedgerFailed,
    PermissionDenied,
    RelayError,
    Unauthenticated,
)
from relay.ledger.acceptance import WITHDRAWN
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListingClaim
from relay.ledger.states import STOPPED
from relay.location import Location
from relay.throttle import Throttle
from relay.wire.watchdog import Watchdog

JOBS = 64
"""Maximum number of cached migrations."""
ELSEWHERE_SECONDS = 60.0
"""How long a transfer that this process can't locate is left to other kinds of workers."""


class MigrationCache:
    """The cached migrations of one process."""

    def __init__(
        self,
        ledger: Ledger,
        engine: TransferEngine,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start with an empty cache."""
        self._ledger, self._engine = ledger, engine
        self._jobs: dict[str, tuple[int, MigrationJob]] = {}
        self._throttles: dict[str, Throttle] = {}
        self._passed: dict[str, int] = {}
        self._reading: dict[str, BoundedSemaphore] = {}
        self._retries = LocateRetries(engine.settings.retry_budget, clock)
        self.in_use: Callable[[], Collection[str]] = tuple
        """Returns the ids of the migrations that this process works on: their throttles stay."""

    def job(self, id: str, renewed: int) -> MigrationJob:
        """Return a migration's job, with credentials at least as new as `renewed`. Raises
        ConfigError if its credentials were deleted or its locations have changed, and the errors of
        MigrationRequest.locate. After one that may pass, further calls raise it too, until the next
        attempt is due."""
        found = self._cached_job(id, renewed)
        if found is None:
            # Many claims need the same job at once: the first one reads it. Another migration does
            # not wait: the program that gives its credentials may hang.
            with self._reading.setdefault(id, BoundedSemaphore(1)):
                found = self._cached_job(id, renewed) or self._read_in_turn(id, renewed)
            self._reading.pop(id, None)
        return found

    def locations_of(self, claim: Claim, names: Iterable[str]) -> tuple[Location, ...]:
        """Return the destinations of other objects of a claim's tree. Raises as `job`."""
        destination = self.job(claim.migration_id, claim.renewed).destination
        return tuple(destination.below(name, destination=True) for name in names)

    def settle_unlocated(self, claim: Claim) -> Settlement | None:
        """Return the settlement of a claim whose migration this process can't locate, or None if it
        can. Such a claim is handed back and never fails. Raises LedgerFailed.

        An error that may pass is tried again within the retry budget. After any other, or then, a
        migration of this kind of worker is paused until its user has corrected the settings. A
        migration of unknown kind, which an older relay accepted, is left to other workers for
        ELSEWHERE_SECONDS."""
        try:
            self.job(claim.migration_id, claim.renewed)
        except LedgerFailed:
            raise
        except RelayError as error:
            if self._ledger.migration(claim.migration_id).runner is None:
                return hand_back_unrun(claim, wait=ELSEWHERE_SECONDS)
            wait = self.pause_or_wait(claim, error)
            return hand_back_unrun(claim, wait=wait)
        return None

    def pause_or_wait(self, held: Claim | ListingClaim, error: RelayError) -> float:
        """Pause a migration that this process could not locate because of `error`, unless another
        attempt follows. Return the seconds until then, or 0."""
        wait = self._retries.seconds_left(held.migration_id)
        if wait is None:
            self.pause(held, error)
        return wait or 0.0

    def waiting(self) -> frozenset[str]:
        """Return the ids of the migrations that this process can't locate now, and will try to
        locate again."""
        return self._retries.waiting()

    def _read_in_turn(self, id: str, renewed: int) -> MigrationJob:
        """Read a job, unless the next attempt is not due yet. Raises as `job`."""
        error = self._retries.error_of(id, renewed)
        if error is not None:
            raise error
        try:
            job = self._read(id)
        except LedgerFailed:
            raise
        except RelayError as failure:
            self._report(id, self._retries.note_failure(id, renewed, failure))
            raise
        if self._retries.end(id):
            self._report(id, None)
        return job

    def _report(self, id: str, retry: PendingRetry | None) -> None:
        """Show a migration's next attempt to other processes, or remove it."""
        with suppress(LedgerFailed):  # the worker's poll reports it
            self._ledger.note_locating(id, retry.to_json() if retry else None)

    def _cached_job(self, id: str, renewed: int) -> MigrationJob | None:
        known, job = self._jobs.get(id, (-1, None))
        return job if known >= renewed else None

    def _read(self, id: str) -> MigrationJob:
        migration = self._ledger.migration(id)
        job, spec = MigrationJob.from_row(migration, self._ledger.secret(id), self._engine.remotes)
        if not self._ledger.is_at(id, spec):
            raise ConfigError(
                f"the source or destination of migration {migration.name} now leads to another"
                " location than when it was accepted",
                hint=(
                    "Restore the settings of its remotes and endpoints and resume it, or start a"
                    " new migration."
                ),
            )
        # A dict keeps the order of insertion: the job that was read first is removed first.
        self._jobs.pop(id, None)
        for old in tuple(islice(self._jobs, max(0, len(self._jobs) + 1 - JOBS))):
            del self._jobs[old]
        self._jobs[id] = (migration.renewed, job)
        return job

    def forget(self, id: str) -> None:
        """Remove a migration that has ended."""
        self._jobs.pop(id, None)
        self._retries.end(id)
        self._passed.pop(id, None)

    # -- the destination

    def finds_nothing(self, job: MigrationJob, meter: Watchdog) -> bool:
        """Return whether the destination is empty, so that objects need no HEAD each. Only a
        listing that shows every object can say so. `meter` shows the listing's pending retry."""
        store = self._engine.stores.destination(job.destination, meter)
        try:
            return is_empty_folder(store, job.destination)
        finally:
            meter.borne = None  # no retry is pending

    # -- denied credentials

    def source_denies_listing(self, job: MigrationJob) -> bool:
        """List the source again; return whether it denies that now."""
        try:
            source = self._engine.stores.source(job.source, Watchdog(self._engine.limits))
            next(iter(source.list(job.source)), None)
        except (Unauthenticated, PermissionDenied):
            return True
        except RelayError:
            pass  # other errors say nothing about the credentials
        return False

    def is_outdated(self, held: Claim | ListingClaim) -> bool:
        """Return whether a migration got other credentials since it was claimed: a refusal of the
        earlier ones says nothing about these. Raises LedgerFailed."""
        return self._ledger.migration(held.migration_id).renewed > held.renewed

    def note_success(self, claim: Claim) -> None:
        """Record that a transfer succeeded: both stores accept the credentials of its claim."""
        self._passed[claim.migration_id] = claim.renewed
        if len(self._passed) > JOBS:
            del self._passed[next(iter(self._passed))]

    def is_still_denied(self, claim: Claim, side: str | None) -> bool:
        """Return whether a migration was paused for credentials of this side, and this process has
        seen no success with the new ones: a denial then concerns all objects.

        Each URL of a list has its own signature, so its denial says nothing about the others."""
        if self._passed.get(claim.migration_id) == claim.renewed or (
            side == "source" and claim.url
        ):
            return False
        error = self._ledger.events.last_pause_error(claim.migration_id)
        return error is not None and error["side"] == side and error["code"] in WITHDRAWN

    def has_waited(self, claim: Claim) -> bool:
        """Return whether a migration was paused for credentials of its source before, and resumed.
        Raises LedgerFailed."""
        # Transfers that were claimed before a pause are refused after it.
        if self._ledger.migration(claim.migration_id).state in STOPPED:
            return False
        error = self._ledger.events.last_pause_error(claim.migration_id)
        return error is not None and error["side"] == "source" and error["code"] in WITHDRAWN

    def pause(self, held: Claim | ListingClaim, error: RelayError) -> None:
        """Pause a migration until its user has corrected the `error`, unless it got other
        credentials since it was claimed."""
        with suppress(RelayError):  # it is over, or paused already
            if not self.is_outdated(held):
                self._ledger.pause_for(held.migration_id, error_members(error))

    # -- throttles

    def throttle(self, id: str) -> Throttle:
        """Return the throttle of a migration's transfers in this process."""
        found = self._throttles.get(id)
        if found is None:
            found = self._throttles[id] = Throttle()
            if len(self._throttles) > JOBS:
                # A running transfer holds its throttle: a second one would double the bounds.
                kept = {id, *self.in_use()}
                self._throttles = {
                    name: one for name, one in self._throttles.items() if name in kept
                }
        return found
