"""The public interface of the ledger for the events of migrations: every call is one transaction,
and raises as those of `Ledger`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.ledger import event_log
from relay.ledger.event_values import Event, EventCursor
from relay.ledger.ledger_access import LedgerAccess


@dataclass(frozen=True)
class EventLedger:
    """The events of the migrations of a ledger. Each method only reads."""

    access: LedgerAccess

    def all(self, id: str) -> list[dict[str, Any]]:
        """Return all committed events of a migration, as plain values."""
        found = self.after(id, event_log.START, event_log.LAST_NUMBER, ended=True)
        return [event.to_json() for event in found]

    def after(
        self, id: str, since: EventCursor, limit: int = 1000, *, ended: bool = False
    ) -> list[Event]:
        """As event_log.events_after: the oldest ones."""
        return self.access.read(lambda c: event_log.events_after(c, id, since, limit, ended=ended))

    def past(
        self, id: str, given: EventCursor, limit: int, *, ended: bool = False
    ) -> tuple[EventCursor, list[Event], bool]:
        """As event_log.past_events."""
        return self.access.read(lambda c: event_log.past_events(c, id, given, limit, ended=ended))

    def last_pause_error(self, id: str) -> Mapping[str, Any] | None:
        """As event_log.last_pause_error."""
        return self.access.read(lambda c: event_log.last_pause_error(c, id))

    def gone_since(self, id: str, since: float) -> int:
        """As event_log.gone_since."""
        return self.access.read(lambda c: event_log.gone_since(c, id, since))
