"""Check that objects which had arrived are still at their destination, when their command runs
again.

Theory of operation. A receipt holds at the time of its proof. Between two runs of one command
somebody may remove objects, and no listing of the source tells that. So each object that has
arrived is looked at: one HEAD (a GET of one byte where HEAD does not tell), several at a time. It
is gone where nothing is there, or something of another length. What the destination does not tell
stays as its receipt says, and is counted: unknown is not absent.

Decided here: which objects are gone. Never here: what becomes of them (`ledger/entries.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from gevent.pool import Pool

from relay.engine.inspection import inspect_object
from relay.engine.migration_request import MigrationJob
from relay.engine.transfer_engine import TransferEngine
from relay.errors import NotFound, Rejected, RelayError, Unsupported
from relay.ledger.ledger import Ledger
from relay.ledger.pages import Row
from relay.stores.interfaces import ObjectInfo, UnknownObject
from relay.stores.listing_retries import ListingRetries
from relay.wire.watchdog import Watchdog

ARRIVED: Final = ("verified", "skipped")
"""The states of objects that have arrived."""
ABREAST: Final = 16
"""So many objects are looked at at a time."""


@dataclass(eq=False)
class ArrivalCheck:
    """One look at every object of a migration that has arrived. `looked` are those that the
    destination told of, `untold` those of which it did not tell, with the first reason in `why`."""

    ledger: Ledger
    runner: TransferEngine
    job: MigrationJob
    abreast: int = ABREAST
    looked: int = 0
    untold: int = 0
    why: RelayError | None = field(default=None, init=False)

    def find_missing(self, tell: Callable[[int], None] = lambda looked: None) -> list[int]:
        """Return the ids of the objects that are gone; `tell` learns after each page how many were
        looked at. Raises LedgerFailed."""
        found: list[int] = []
        pool: Any = Pool(self.abreast)
        for page in self._pages():
            for row, answer in pool.imap_unordered(self._is_missing, page):
                if isinstance(answer, RelayError):
                    self.untold, self.why = self.untold + 1, self.why or answer
                    continue
                self.looked += 1
                if answer:
                    found.append(row.id)
            tell(self.looked + self.untold)
        return found

    def _pages(self) -> Iterator[list[Row]]:
        page = self.ledger.page(self.job.id, ARRIVED)
        while page:
            yield page
            page = self.ledger.page(self.job.id, ARRIVED, page[-1].id)

    def _is_missing(self, row: Row) -> tuple[Row, bool | RelayError]:
        """Say if an object is gone; or why nobody can tell."""
        place = self.job.destination
        if self.job.recursive:
            place = place.below(row.name, destination=True)
        elif place.path.endswith("/"):
            return row, True  # its name is not known before its source is read: its transfer looks
        meter = Watchdog(self.runner.limits)
        # While one object's trouble did not pass, that of the next is not waited for.
        patience = ListingRetries(
            self.runner.limits.listing_seconds if self.why is None else 0.0, meter
        )
        store = self.runner.stores.destination(place, meter)
        if place.method == "POST":
            return row, Unsupported(
                "an object that POST made has no place that is known", side="destination"
            )
        try:
            found = patience.retry(partial(inspect_object, store, place))
        except (NotFound, Rejected):  # what is there is a folder, or no object for another reason
            return row, True
        except RelayError as error:
            return row, error
        return row, found.why if isinstance(found, UnknownObject) else _is_other(row, found)


def _is_other(row: Row, found: ObjectInfo) -> bool:
    """Say if what is there has another length than what arrived. What was skipped may always have
    had."""
    size = found.version.size
    return row.state == "verified" and None not in (row.bytes, size) and row.bytes != size
