"""The public interface of the ledger for listings: every call is one transaction, and raises as
those of `Ledger`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.ledger import ledger_log, listings, retried
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.listing_values import AgeOrigins, ListedObject, ListingClaim


@dataclass(frozen=True)
class ListingLedger:
    """The listings of a ledger, as one worker claims and writes them."""

    access: LedgerAccess

    def claim(
        self, only: str | None = None, alone: bool = True, without: Collection[str] = ()
    ) -> ListingClaim | None:
        """As listings.claim_listing; reads first."""
        due = listings.DueListing(
            worker=self.access.worker, only=only, alone=alone, without=without
        )
        if not self.access.read(lambda c: listings.has_due_listing(c, due)):
            return None
        return self.access.write(lambda c: listings.claim_listing(c, due))

    def age_origins(self, id: str) -> AgeOrigins:
        """As listings.age_origins."""
        return self.access.read(lambda c: listings.age_origins(c, id))

    def learn_empty(self, listing: ListingClaim, empty: bool) -> None:
        """As listings.learn_empty."""
        self.access.write(lambda c: listings.learn_empty(c, self.access.worker, listing, empty))

    def add_page(
        self,
        listing: ListingClaim,
        page: Sequence[ListedObject],
        cursor: str | None,
        excluded: int | None = None,
        *,
        lacks: bool = False,
    ) -> bool:
        """As listings.add_page. The listing then holds by its next fence."""
        worker = self.access.worker
        wanted = self.access.write(
            lambda c: listings.add_page(
                c, worker, listing, page, cursor, excluded=excluded, lacks=lacks
            )
        )
        listing.fence += 1
        return wanted

    def unknown_names(self, id: str, names: Sequence[str]) -> set[str]:
        """As listings.unknown_names."""
        return self.access.read(lambda c: listings.unknown_names(c, id, names))

    def renew_urls(self, id: str, urls: Mapping[str, str]) -> None:
        """As listings.renew_urls."""
        self.access.write(lambda c: listings.renew_urls(c, id, urls))

    def note_retried(self, listing: ListingClaim, trouble: Mapping[str, Any] | None) -> None:
        """As retried.note_listing."""
        self.access.write(
            lambda c: retried.note_listing(c, self.access.worker.id, listing, trouble)
        )

    def end(
        self,
        listing: ListingClaim,
        error: Mapping[str, Any] | None = None,
        excluded: int | None = None,
    ) -> None:
        """As listings.end_listing."""
        worker = self.access.worker
        self.access.write(
            lambda c: listings.end_listing(c, worker, listing, error, excluded=excluded)
        )
        if error is not None:
            ledger_log.log_listing_failure(listing, error)

    def hand_back(self, listing: ListingClaim) -> None:
        """As listings.hand_back_listing."""
        self.access.write(lambda c: listings.hand_back_listing(c, self.access.worker, listing))

    def release_unknown(self, doubted: bool) -> None:
        """As listings.release_unknown_listings."""
        self.access.write(
            lambda c: listings.release_unknown_listings(c, self.access.worker, doubted)
        )
