"""The public interface of the ledger for what lies at destinations: every call is one transaction,
and raises as those of `Ledger`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from relay.ledger import (
    folded_names,
    local_links,
    orphans,
    pair_receipts,
    prior_states,
    unproved,
)
from relay.ledger.claim_values import Claim
from relay.ledger.identity_hashes import place_hash
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Spec
from relay.ledger.prior_state_values import PriorState
from relay.ledger.schema import migrations
from relay.ledger.upload_values import Orphan


@dataclass(frozen=True)
class DestinationLedger:
    """The states that one worker found at destinations, the names and links that it writes there,
    and the leftovers that no other attempt will replace."""

    access: LedgerAccess

    def is_of(self, id: str, place: tuple[str, str], shown: str) -> bool:
        """Return whether a destination is that of a migration: by its server and its path there
        (`relay.identity.place_in_server`), or, for a migration of an older relay, as it is
        `shown`."""

        def is_of(connection: Connection) -> bool:
            known = (migrations.c.place, migrations.c.destination)
            row = connection.execute(select(*known).where(migrations.c.id == id)).one()
            if row.place is None:
                return bool(row.destination == shown)
            return bool(row.place == place_hash(connection, place))

        return self.access.read(is_of)

    # -- before an object is sent

    def earlier_receipt(self, claim: Claim) -> Mapping[str, Any] | None:
        """As pair_receipts.receipt_in_migration, of a claimed object."""
        id, name = claim.migration_id, claim.name
        return self.access.read(lambda c: pair_receipts.receipt_in_migration(c, id, name))

    def receipt_of_spec(self, spec: Spec, tenant: str, name: str) -> Mapping[str, Any] | None:
        """As pair_receipts.receipt_of_spec."""
        return self.access.read(lambda c: pair_receipts.receipt_of_spec(c, spec, tenant, name))

    def find_unproved(self, spec: Spec, place: str | None = None) -> PriorState | None:
        """As unproved.find_unproved_at."""
        return self.access.read(lambda c: unproved.find_unproved_at(c, spec, place))

    def note_prior_states(self, found: Sequence[tuple[Claim, PriorState]]) -> tuple[bool, ...]:
        """As prior_states.note_prior_states."""
        return self.access.write(
            lambda c: prior_states.note_prior_states(c, self.access.worker, found)
        )

    def enter_folded(self, claim: Claim) -> tuple[str, ...] | None:
        """As folded_names.enter_folded."""
        return self.access.write(lambda c: folded_names.enter_folded(c, self.access.worker, claim))

    def leave_folded(self, claim: Claim) -> None:
        """As folded_names.leave_folded."""
        self.access.write(lambda c: folded_names.leave_folded(c, self.access.worker, claim))

    def keep_link(
        self, claim: Claim, link: str, target: str, there: str, tree: str | None = None
    ) -> dict[str, str]:
        """Record a link as local_links.keep_link does (reads first), and return as
        local_links.objects_at_link. With `tree` the object is skipped."""
        id, skipped = claim.migration_id, tree is not None
        of = partial(local_links.is_kept, id=id, link=link, target=target, skipped=skipped)
        if not self.access.read(of):
            keep = partial(local_links.keep_link, id=id, link=link, target=target, skipped=skipped)
            self.access.write(keep)
        return self.access.read(lambda c: local_links.objects_at_link(c, claim, link, there, tree))

    # -- orphans

    def orphans(
        self, only: str | None = None, but: Sequence[int] = (), kept: float = orphans.KEPT_SECONDS
    ) -> list[Orphan]:
        """As orphans.find_orphans."""
        return self.access.read(
            lambda c: orphans.find_orphans(c, self.access.worker, only, but, kept)
        )

    def is_over(self, orphan: Orphan) -> bool:
        """As orphans.is_over."""
        return self.access.read(lambda c: orphans.is_over(c, orphan))

    def note_removed(
        self,
        orphan: Orphan,
        remains: Mapping[str, str] | None = None,
        is_unproved: bool = False,
    ) -> None:
        """As orphans.note_removed."""
        self.access.write(lambda c: orphans.note_removed(c, orphan, remains or {}, is_unproved))
