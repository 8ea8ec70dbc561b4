"""The multipart uploads of other workers that one process helps with.

Decided here: when a process looks for an upload to help with, and which it leaves alone for a
while. Never here: which uploads need help (`relay/ledger/part_leases.py`), and how a part moves
(`part_helper.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gevent.event import Event

from relay.engine.worker.active_transfers import ActiveTransfers
from relay.engine.worker.part_helper import PartHelper
from relay.errors import LedgerFailed, RelayError
from relay.errors.bugs import bug
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import PartLease
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

JOIN_SECONDS = 0.5
"""How often a worker without claims looks for another worker's multipart upload to help with."""
SHUN_SECONDS = 30.0
"""How long a worker does not help with an object again after helping has failed."""


@dataclass(eq=False, kw_only=True)
class HelpedUploads:
    """This process's help with the uploads of other workers, of all migrations or of `only` one."""

    ledger: Ledger
    active: ActiveTransfers
    over: Event
    """Set when the process stops: then no help begins."""
    clock: Callable[[], float]
    moved: Callable[[int], None]
    """Called with the bytes that this process has moved of an object."""
    only: str | None = None
    claims: set[int] = field(default_factory=set)
    """The ids of the claims, which other workers hold."""

    def __post_init__(self) -> None:
        """Start without uploads."""
        self._shunned: dict[int, float] = {}
        self._join_at = 0.0

    def join(self) -> PartLease | None:
        """Take a part of another worker's upload, at most once in JOIN_SECONDS; then call `help`.
        Raises LedgerFailed."""
        now = self.clock()
        if now < self._join_at:
            return None
        self._join_at = now + JOIN_SECONDS
        self._shunned = {id: until for id, until in self._shunned.items() if until > now}
        lease = self.ledger.uploads.join(self.only, (*self.claims, *self._shunned))
        if lease is not None:
            # Now, and not when its slot begins: `release_unknown` may run before that.
            self.claims.add(lease.claim.id)
        return lease

    def help(self, lease: PartLease) -> None:
        """Move parts until none is left. Only the other worker settles the object, whatever happens
        here. Raises LedgerFailed; then the ledger may still hold some parts for this worker."""
        try:
            self._move_parts(lease)
        except LedgerFailed:
            raise
        except RelayError as error:
            self._shun(lease)
            emit(
                LogEvent.PART_HELP_FAILED,
                migration=lease.claim.migration_id,
                transfer=lease.claim.id,
                code=error.code,
                detail=error.message,
            )
        except Exception as error:  # noqa: BLE001 - a bug: the other worker continues alone
            self._shun(lease)
            bug(error)
        finally:
            self.claims.discard(lease.claim.id)

    def _move_parts(self, lease: PartLease) -> None:
        helper: PartHelper | None = None
        try:
            if not self.over.is_set():
                helper = PartHelper.for_lease(lease, self.active.prepare(lease.claim), self.ledger)
        finally:
            # The first part was taken with the lease, and nothing here moves it now.
            if helper is None:
                self._shun(lease)
                self.ledger.uploads.release_parts(lease.claim)
        if helper is None:
            return
        active = self.active.add(lease.claim, helper)
        try:
            helper.run()
        finally:
            self.active.remove(active)
            self.moved(helper.moved_bytes)

    def _shun(self, lease: PartLease) -> None:
        """Leave this object to other workers for SHUN_SECONDS."""
        self._shunned[lease.claim.id] = self.clock() + SHUN_SECONDS
