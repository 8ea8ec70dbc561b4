"""The public interface of the ledger for the page's lists: every call is one transaction, and
raises as those of `Ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.ledger import object_lists, overview, pages
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Migration
from relay.ledger.viewer import Viewer


@dataclass(frozen=True)
class OverviewLedger:
    """The migrations and the objects of a ledger, found as a person looks for them."""

    access: LedgerAccess

    def find_migrations(self, wanted: overview.MigrationSearch, viewer: Viewer) -> list[Migration]:
        """As overview.find_migrations."""
        kind = self.access.shown_kind
        return self.access.read(lambda c: overview.find_migrations(c, wanted, viewer, kind))

    def migrations_by_name(self, names: Sequence[str], viewer: Viewer) -> list[Migration]:
        """As overview.migrations_by_name."""
        kind = self.access.shown_kind
        return self.access.read(lambda c: overview.migrations_by_name(c, names, viewer, kind))

    def group_counts(self, viewer: Viewer) -> dict[overview.Group, int]:
        """As overview.group_counts."""
        kind = self.access.shown_kind
        return self.access.read(lambda c: overview.group_counts(c, viewer, kind))

    def find_objects(self, id: str, wanted: object_lists.ObjectSearch) -> object_lists.ObjectPage:
        """As object_lists.find_objects."""
        return self.access.read(lambda c: object_lists.find_objects(c, id, wanted))

    def one_object(self, id: str, transfer: int) -> pages.TransferRow | None:
        """As object_lists.one_object."""
        return self.access.read(lambda c: object_lists.one_object(c, id, transfer))

    def unfinished_uploads(self, id: str) -> int:
        """As overview.unfinished_uploads."""
        return self.access.read(lambda c: overview.unfinished_uploads(c, id))
