"""The public interface of the ledger for the leases of workers: every call is one transaction, and
raises as those of `Ledger`."""

from __future__ import annotations

from dataclasses import dataclass

from relay.ledger import leases, ledger_log
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.workers import LEASE_SECONDS


@dataclass(frozen=True)
class LeaseLedger:
    """The lease of one worker, and what it sees of others."""

    access: LedgerAccess

    def renew(self, seconds: float = LEASE_SECONDS, slots: int | None = None) -> bool:
        """As leases.renew. Also raises LedgerFailed if the file was removed or replaced."""
        database, worker = self.access.database, self.access.worker
        database.check_file()
        return self.access.write(lambda c: leases.renew(c, database, worker, seconds, slots))

    def leave(self) -> None:
        """As leases.leave."""
        self.access.write(lambda c: leases.leave(c, self.access.worker))

    def reclaim(self) -> int:
        """As leases.reclaim; reads first."""
        database, worker = self.access.database, self.access.worker
        if not self.access.read(lambda c: leases.lost_workers(c, database, worker)):
            return 0
        try:
            found = self.access.write(lambda c: leases.reclaim(c, database, worker))
        except leases.RenewedMeanwhile:  # rolled back
            return 0
        database.tallies.lapses[()] += found.claims
        database.tallies.quarantined[()] += found.quarantined
        ledger_log.log_losses(found.claims, found.quarantined)
        return found.claims

    def of_migration(self, id: str) -> dict[str, float]:
        """As leases.leases_of."""
        database, worker = self.access.database, self.access.worker
        return self.access.read(lambda c: leases.leases_of(c, database, worker, id))

    def has_worker(self, id: str) -> bool:
        """As leases.has_worker."""
        database, worker = self.access.database, self.access.worker
        return self.access.read(lambda c: leases.has_worker(c, database, worker, id))
