"""The public interface of the ledger for what moves at the moment: every call is one transaction,
and raises as those of `Ledger`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from relay.ledger import event_log, followed_state, live_rows, samples
from relay.ledger.event_values import EventCursor
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Moving, Sample, Traffic


@dataclass(frozen=True)
class LiveLedger:
    """The moving objects and the samples of a ledger, as workers write them and clients follow
    them."""

    access: LedgerAccess

    # -- for clients

    def mark(self) -> EventCursor:
        """As event_log.mark."""
        return self.access.read(event_log.mark)

    def look(
        self,
        known: Mapping[str, Migration],
        since: EventCursor | None,
        watched: Collection[str] = (),
    ) -> followed_state.Look:
        """As followed_state.look."""
        return self.access.read(
            lambda c: followed_state.look(c, known, since, watched), operation="watch"
        )

    def watch(self, ids: Collection[str]) -> None:
        """As live_rows.watch."""
        self.access.write(lambda c: live_rows.watch(c, ids))

    def moving(self, id: str) -> Moving:
        """Return what the workers move of a migration; nothing unless it is watched."""
        return self.access.read(lambda c: live_rows.moving(c, [id]))[id]

    def samples(self, id: str, since: int = 0) -> list[Sample]:
        """As samples.samples_of, of one migration."""
        return self.samples_of([id], since)[id]

    def samples_of(self, ids: Collection[str], since: int) -> dict[str, list[Sample]]:
        """As samples.samples_of."""
        return self.access.read(lambda c: samples.samples_of(c, ids, since))

    # -- for the worker

    def write_live(self, members: str) -> None:
        """As live_rows.write_live, for this worker."""
        self.access.write(lambda c: live_rows.write_live(c, self.access.worker.id, members))

    def write_samples(self, done: Mapping[str, Traffic], now: float | None = None) -> set[str]:
        """As samples.write_samples, for this worker."""
        return self.access.write(
            lambda c: samples.write_samples(c, self.access.worker.id, done, now)
        )
