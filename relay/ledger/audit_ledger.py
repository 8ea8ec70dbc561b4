"""The public interface of the ledger for the audit log: every call is one transaction, and raises
as those of `Ledger`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.ledger import audit_log
from relay.ledger.ledger_access import LedgerAccess


@dataclass(frozen=True)
class AuditLedger:
    """The audit log of a ledger, and what one actor did outside the ledger."""

    access: LedgerAccess

    def note(self, verb: str, object: str, after: Mapping[str, Any] | None = None) -> None:
        """Record an effect outside the ledger by this ledger's actor, if it has one."""
        if self.access.actor is not None:
            self.access.write(lambda c: self.access.record(c, verb, object, after=after))

    def newest(self, limit: int) -> list[audit_log.AuditRow]:
        """As audit_log.newest."""
        return self.access.read(lambda c: audit_log.newest(c, limit))

    def verify(self) -> audit_log.ChainCheck:
        """As audit_log.verify."""
        return self.access.read(audit_log.verify)
