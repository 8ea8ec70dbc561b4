"""The transfers that run in one process: cancelled with their migration, and held to its limits.

Decided here: which running transfers a pause, a cancel or a lower limit concerns. Never here: when
a transfer is claimed (`worker.py`), and how it ends (`claim_runner.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relay.engine.transfer.transfer import Transfer
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.part_helper import PartHelper
from relay.errors import Cancelled, LeaseLost
from relay.ledger.claim_values import Claim
from relay.ledger.migration_values import MigrationView
from relay.ledger.states import STOPPED, MigrationState


@dataclass(eq=False)
class ActiveTransfer:
    """A transfer that runs in this process, or this process's help with another worker's parts."""

    claim: Claim
    transfer: Transfer | PartHelper
    began: float
    stopped: bool = False
    """True once the worker has cancelled it."""

    def cancel(self, why: str, *, goes_on: bool = True) -> None:
        """Cancel the transfer. Unless it `goes_on` later, it aborts its upload."""
        self.stopped = True
        self.transfer.cancel(Cancelled(why, retryable=goes_on))


class ActiveTransfers:
    """The running transfers of one process, with the throttles of their migrations."""

    def __init__(
        self,
        engine: TransferEngine,
        jobs: MigrationCache,
        clock: Callable[[], float],
        ended: Callable[[ActiveTransfer], None] = lambda active: None,
    ) -> None:
        """`ended` is called with each transfer that is removed, and counts its bytes."""
        self._engine, self._jobs, self._clock, self._ended = engine, jobs, clock, ended
        self.by_claim: dict[int, ActiveTransfer] = {}
        """The running transfers, by the id of their claim."""

    @property
    def moved_bytes(self) -> int:
        """Number of bytes that the running transfers have moved so far."""
        return sum(active.transfer.moved_bytes for active in self.by_claim.values())

    @property
    def failing(self) -> int:
        """Number of running transfers that wait for a retry. Those that help are reported by the
        worker that has the claim."""
        return sum(
            isinstance(active.transfer, Transfer) and active.transfer.trouble is not None
            for active in self.by_claim.values()
        )

    def migrations(self) -> set[str]:
        """Return the ids of the migrations with running transfers."""
        return {active.claim.migration_id for active in self.by_claim.values()}

    def prepare(self, claim: Claim) -> Transfer:
        """Return the transfer of a claimed object, with its migration's throttle. Raises as
        `MigrationCache.job` and `MigrationJob.plan`."""
        job = self._jobs.job(claim.migration_id, claim.renewed)
        transfer = self._engine.transfer(job.plan(claim), str(claim.id))
        transfer.meter.throttle = self._jobs.throttle(claim.migration_id)
        return transfer

    def add(self, claim: Claim, transfer: Transfer | PartHelper) -> ActiveTransfer:
        """Add a transfer that starts now."""
        active = ActiveTransfer(claim, transfer, self._clock())
        self.by_claim[claim.id] = active
        return active

    def remove(self, active: ActiveTransfer) -> None:
        """Remove a transfer, but not a newer one of the same object: after a lost lease the object
        may have been claimed here again."""
        self._ended(active)
        if self.by_claim.get(active.claim.id) is active:
            del self.by_claim[active.claim.id]

    def is_at_limit(self, id: str) -> bool:
        """Return whether a migration has reached its bound on concurrent transfers in this process:
        the bound may have been lowered after the claim."""
        most = self._jobs.throttle(id).bounds.transfers
        return (
            most is not None
            and sum(one.claim.migration_id == id for one in self.by_claim.values()) >= most
        )

    def apply(self, views: Mapping[str, MigrationView]) -> None:
        """Apply the current bounds of the migrations, and cancel the transfers of paused and
        cancelled ones. A transfer that has passed its commit point runs to its end."""
        for id, view in views.items():
            self._jobs.throttle(id).allow(view.bounds, view.place, view.of)
        for active in tuple(self.by_claim.values()):
            # None if the transfer started while the ledger was asked.
            current = views.get(active.claim.migration_id)
            if current is None or current.state not in STOPPED:
                continue
            if not active.transfer.meter.committed:
                goes_on = current.state == MigrationState.PAUSED
                active.cancel(f"the migration was {current.state}", goes_on=goes_on)

    def cancel_all(self, why: str) -> None:
        """Cancel every transfer, so that it can be resumed."""
        for active in tuple(self.by_claim.values()):
            active.cancel(why)

    def lose_lease(self) -> None:
        """Cancel every transfer because other workers may have claimed it."""
        for active in tuple(self.by_claim.values()):
            # `stopped` stays False: `ClaimRunner` hands a LeaseLost back without it.
            active.transfer.cancel(LeaseLost("the lease of this process had expired"))
