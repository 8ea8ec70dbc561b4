"""The public interface of the ledger for deletions: every call is one transaction, and raises as
those of `Ledger`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.ledger import deletions
from relay.ledger.deletion_values import (
    Candidate,
    DeletionEnd,
    DeletionRow,
    DeletionTally,
    RemovalState,
)
from relay.ledger.folded_names import names_folded_with
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Spec
from relay.ledger.pages import TransferRow


@dataclass(frozen=True)
class DeletionLedger:
    """The deletions of a ledger's migrations."""

    access: LedgerAccess

    def begin(self, id: str, kind: str, settings: Mapping[str, Any]) -> None:
        """As deletions.begin."""
        self.access.write(lambda c: deletions.begin(c, id, kind, settings))

    def end(self, id: str, state: RemovalState) -> None:
        """As deletions.end."""
        self.access.write(lambda c: deletions.end(c, id, state))

    def find_unfinished(self, spec: Spec) -> list[tuple[str, RemovalState]]:
        """As deletions.find_unfinished, of migrations for this kind of worker."""
        kind = self.access.worker.kind
        return self.access.read(lambda c: deletions.find_unfinished(c, spec, kind))

    def earlier_receipts(self, id: str, names: Sequence[str]) -> dict[str, TransferRow]:
        """As deletions.earlier_receipts."""
        return self.access.read(lambda c: deletions.earlier_receipts(c, id, names))

    def folded_names(self, id: str, names: Sequence[str]) -> set[str]:
        """As folded_names.names_folded_with."""
        return self.access.read(lambda c: names_folded_with(c, id, names))

    def newest(
        self, id: str, side: str, names: Iterable[str], states: Collection[str] = ()
    ) -> dict[str, DeletionRow]:
        """As deletions.newest."""
        return self.access.read(lambda c: deletions.newest(c, id, side, names, states))

    def intend(self, id: str, side: str, some: Sequence[Candidate]) -> None:
        """As deletions.intend."""
        self.access.write(lambda c: deletions.intend(c, id, side, some))

    def settle(self, id: str, side: str, ends: Sequence[DeletionEnd]) -> None:
        """As deletions.settle."""
        self.access.write(lambda c: deletions.settle(c, id, side, ends))

    def page(
        self, id: str, states: Collection[str] = (), after: int = 0, limit: int = 1000
    ) -> list[DeletionRow]:
        """As deletions.page."""
        return self.access.read(lambda c: deletions.page(c, id, states, after, limit))

    def tally(self, id: str) -> DeletionTally:
        """As deletions.tally."""
        return self.access.read(lambda c: deletions.tally(c, id))

    def note_undone(self, ids: Sequence[int]) -> None:
        """As deletions.note_undone."""
        self.access.write(lambda c: deletions.note_undone(c, ids))
