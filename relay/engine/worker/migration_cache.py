"""The migrations that one process works on: their jobs, credentials and limits, cached.

Decided here: how long what was asked of the ledger once is believed. Never here: what happens to a
migration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import islice

from gevent.lock import BoundedSemaphore

from relay.engine.listing import error_members
from relay.engine.migration_request import MigrationJob
from relay.engine.transfer_engine import TransferEngine
from relay.errors import (
    ConfigError,
    LedgerFailed,
    NotFound,
    PermissionDenied,
    RelayError,
    Unauthenticated,
    Unsupported,
)
from relay.ledger.ledger import Ledger
from relay.ledger.migrations import WITHDRAWN
from relay.ledger.rows import Claim, Settlement
from relay.location import Location
from relay.throttle import Throttle
from relay.wire.watchdog import Watchdog

JOBS = 64
"""So many migrations are kept at hand."""
ELSEWHERE_SECONDS = 60.0
"""How long what another kind of runner may be able to move is left to it."""


class MigrationCache:
    """What is known here of the migrations."""

    def __init__(self, ledger: Ledger, runner: TransferEngine) -> None:
        """Nothing is known yet."""
        self._ledger, self._runner = ledger, runner
        self._jobs: dict[str, tuple[int, MigrationJob]] = {}
        self._throttles: dict[str, Throttle] = {}
        self._passed: dict[str, int] = {}
        self._reading = BoundedSemaphore(1)

    def job(self, id: str, renewed: int) -> MigrationJob:
        """Return a migration's job, with credentials that are no older than `renewed`. Raises
        ConfigError where it can't be made any more."""
        found = self._known(id, renewed)
        if found is None:
            with (
                self._reading
            ):  # a whole round of claims wants the same one: one of them asks, for all
                found = self._known(id, renewed) or self._read(id)
        return found

    def locations_of(self, claim: Claim, names: Iterable[str]) -> tuple[Location, ...]:
        """Return where other objects of a claimed one's tree go. Raises as `job`."""
        destination = self.job(claim.migration_id, claim.renewed).destination
        return tuple(destination.below(name, destination=True) for name in names)

    def settle_unlocated(self, claim: Claim) -> Settlement | None:
        """Return how a claim is settled whose migration this process can't carry out: it is handed
        back, and fails never; None where it can. Raises LedgerFailed.

        One of this kind of runner waits for whoever can put it right. One of which it is not known
        whose it is, since an older relay accepted it, is left to others for a while."""
        try:
            self.job(claim.migration_id, claim.renewed)
        except LedgerFailed:
            raise
        except RelayError as error:
            if self._ledger.migration(claim.migration_id).runner is None:
                return Settlement(claim, "hand_back", wait=ELSEWHERE_SECONDS)
            self.pause(claim.migration_id, error)
            return Settlement(claim, "hand_back")
        return None

    def _known(self, id: str, renewed: int) -> MigrationJob | None:
        known, job = self._jobs.get(id, (-1, None))
        return job if known >= renewed else None

    def _read(self, id: str) -> MigrationJob:
        migration = self._ledger.migration(id)
        job, spec = MigrationJob.from_row(migration, self._ledger.secret(id), self._runner.remotes)
        if not self._ledger.is_at(id, spec):
            raise ConfigError(
                f"migration {migration.number} was accepted for other places than its texts mean"
                " here by now",
                hint=(
                    "Give its remotes and endpoints back as they were, and resume it; or move it as"
                    " a new migration."
                ),
            )
        self._jobs.pop(id, None)
        for old in tuple(islice(self._jobs, max(0, len(self._jobs) + 1 - JOBS))):
            del self._jobs[old]
        self._jobs[id] = (migration.renewed, job)
        return job

    def forget(self, id: str) -> None:
        """A migration has ended."""
        self._jobs.pop(id, None)
        self._passed.pop(id, None)

    # -- what is at the destination

    def finds_nothing(self, job: MigrationJob, meter: Watchdog) -> bool:
        """Look if nothing is at the destination now, so that nobody needs to look for each object.
        Only a listing that tells of everything says so; `meter` tells what of it is tried again."""
        store = self._runner.stores.destination(job.destination, meter)
        try:
            return store.lists_all and next(iter(store.list(job.destination, False)), None) is None
        except NotFound:
            return store.lists_all
        except (Unsupported, RelayError):
            return False
        finally:
            meter.borne = None  # it is not tried again

    # -- who is denied

    def source_denies_listing(self, job: MigrationJob) -> bool:
        """Ask if the source denies by now what it let us list before."""
        try:
            source = self._runner.stores.source(job.source, Watchdog(self._runner.limits))
            next(iter(source.list(job.source)), None)
        except (Unauthenticated, PermissionDenied):
            return True
        except RelayError:
            pass  # it does not tell
        return False

    def note_success(self, claim: Claim) -> None:
        """A transfer ended well: both stores take the credentials that it was claimed with."""
        self._passed[claim.migration_id] = claim.renewed
        if len(self._passed) > JOBS:
            del self._passed[next(iter(self._passed))]

    def is_still_denied(self, claim: Claim, side: str | None) -> bool:
        """Say if a migration has waited for credentials of this side, and with those that came
        nothing has ended well yet, as far as is known here: a denial is no object's own then.

        Each URL of a list has a signature of its own, and tells nothing of the others.
        """
        if self._passed.get(claim.migration_id) == claim.renewed or (
            side == "source" and claim.url
        ):
            return False
        error = self._ledger.last_pause_error(claim.migration_id)
        return error is not None and error["side"] == side and error["code"] in WITHDRAWN

    def has_waited(self, claim: Claim) -> bool:
        """Say if a migration has waited for credentials of its source before. Raises
        LedgerFailed."""
        error = self._ledger.last_pause_error(claim.migration_id)
        return error is not None and error["side"] == "source" and error["code"] in WITHDRAWN

    def pause(self, id: str, error: RelayError) -> None:
        """Let a migration wait for what its user must do."""
        with suppress(RelayError):  # it is over, or paused already
            self._ledger.pause_for(id, error_members(error))

    # -- what holds it back

    def throttle(self, id: str, used: Callable[[], Collection[str]] = tuple) -> Throttle:
        """Return what holds a migration's transfers back in this process. `used` gives those that
        have some running; it is asked where a new one is one too many."""
        found = self._throttles.get(id)
        if found is None:
            found = self._throttles[id] = Throttle()
            if len(self._throttles) > JOBS:
                kept = {id, *used()}
                self._throttles = {
                    name: one for name, one in self._throttles.items() if name in kept
                }
        return found
