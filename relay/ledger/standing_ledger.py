"""The public interface of the ledger for standing migrations: every call is one transaction, and
raises as those of `Ledger`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from relay.ledger import feed, passes
from relay.ledger.forecasts import Forecast
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Migration
from relay.ledger.standing_values import FeedRow, Pass, PassTimes


@dataclass(frozen=True)
class StandingLedger:
    """The standing migrations of a ledger."""

    access: LedgerAccess

    def begin_pass(self, id: str, kind: str) -> bool:
        """As passes.begin_pass."""
        return self.access.write(lambda c: passes.begin_pass(c, id, kind, time.time()))

    def change_phase(self, id: str, event: str) -> Migration:
        """As passes.change_phase."""

        def change(connection: Connection) -> Migration:
            found = passes.change_phase(connection, id, event)
            phase = passes.require_standing(found).phase
            name = f"migration {found.name} {found.id}"
            self.access.record(connection, event, name, after={"phase": phase})
            return found

        return self.access.write(change)

    def phase_begun(self, id: str) -> float:
        """As passes.phase_begun."""
        return self.access.read(lambda c: passes.phase_begun(c, id))

    def change_times(self, id: str, times: PassTimes) -> None:
        """As passes.change_times."""
        self.access.write(lambda c: passes.change_times(c, id, times, time.time()))

    def accept_other_writers(self, id: str) -> int:
        """As passes.accept_other_writers."""
        return self.access.write(lambda c: passes.accept_other_writers(c, id))

    def refused_names(self, id: str, names: Sequence[str]) -> set[str]:
        """As passes.refused_names."""
        return self.access.read(lambda c: passes.refused_names(c, id, names))

    def note_outcome(self, id: str, number: int, outcome: Mapping[str, Any]) -> None:
        """As passes.note_outcome."""
        self.access.write(lambda c: passes.note_outcome(c, id, number, outcome))

    def receipts(self, id: str, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """As passes.receipts_of."""
        return self.access.read(lambda c: passes.receipts_of(c, id, names))

    def restart_refuted(self, id: str, names: Sequence[str]) -> int:
        """As passes.restart_refuted."""
        return self.access.write(lambda c: passes.restart_refuted(c, id, names))

    def moved_since(self, id: str, since: float, limit: int) -> list[tuple[str, float | None]]:
        """As passes.moved_since."""
        return self.access.read(lambda c: passes.moved_since(c, id, since, limit))

    def feed(self, id: str, after: int, limit: int) -> list[FeedRow]:
        """As feed.rows_after."""
        return self.access.read(lambda c: feed.rows_after(c, id, after, limit))

    def forecast(self, id: str) -> Forecast | None:
        """As passes.forecast_of."""
        return self.access.read(lambda c: passes.forecast_of(c, id, time.time()))

    def passes(self, id: str, limit: int = 100, before: int | None = None) -> list[Pass]:
        """As passes.passes_of."""
        return self.access.read(lambda c: passes.passes_of(c, id, limit, before))
