"""Check that objects which had arrived are still at their destination, when their command runs
again.

Theory of operation. A receipt holds at the time of its proof. Between two runs of one command
somebody may remove objects from the destination, and no listing of the source shows that. So each
arrived object is inspected: one HEAD (a GET of one byte if HEAD is not answered), several
concurrently. An object is gone if nothing is there, or an object of another length. An object for
which the destination does not answer keeps its receipt and is counted: unknown is not absent.

A listing shows which objects of a tree have changed at the source. A single object has none, so its
source is inspected: it moves again unless it certainly is the version that arrived.

Decided here: which objects are gone. Never here: how they are moved again (`ledger/entries.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Final

from gevent.pool import Pool

from relay.engine.comparison import is_same
from relay.engine.inspection import inspect_object
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists
from relay.engine.transfer_engine import TransferEngine
from relay.errors import NotFound, Rejected, RelayError, Unsupported
from relay.ledger.ledger import Ledger
from relay.ledger.pages import TransferRow
from relay.ledger.states import TransferState
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, UnknownObject
from relay.stores.listing_retries import ListingRetries
from relay.throttle import Throttle
from relay.wire.watchdog import Watchdog

ARRIVED: Final = (TransferState.VERIFIED, TransferState.SKIPPED)
"""The states of objects that have arrived."""
ABREAST: Final = 16
"""Number of objects that are inspected concurrently."""


@dataclass(eq=False)
class ArrivalCheck:
    """One inspection of every arrived object of a migration. `answered` counts the objects for
    which the destination answered, `unanswered` the others; `why` is the first error of those."""

    ledger: Ledger
    engine: TransferEngine
    job: MigrationJob
    _: KW_ONLY
    throttle: Throttle = field(default_factory=Throttle)
    """The limits of the migration, which hold for these requests as well."""
    abreast: int = ABREAST
    answered: int = 0
    unanswered: int = 0
    why: RelayError | None = field(default=None, init=False)

    def find_missing(self, tell: Callable[[int], None] = lambda looked: None) -> list[int]:
        """Return the ids of the objects that are gone. After each page `tell` is called with the
        number of objects inspected so far. Raises LedgerFailed."""
        found: list[int] = []
        pool: Any = Pool(self.abreast)
        for page in self._pages():
            for row, answer in pool.imap_unordered(self._is_missing, page):
                if isinstance(answer, RelayError):
                    self.unanswered, self.why = self.unanswered + 1, self.why or answer
                    continue
                self.answered += 1
                if answer:
                    found.append(row.id)
            tell(self.answered + self.unanswered)
        return found

    def _pages(self) -> Iterator[list[TransferRow]]:
        page = self.ledger.page(self.job.id, ARRIVED)
        while page:
            yield page
            page = self.ledger.page(self.job.id, ARRIVED, page[-1].id)

    def _is_missing(self, row: TransferRow) -> tuple[TransferRow, bool | RelayError]:
        """Return whether an object is gone, or return the error for which that is unknown."""
        place = self.job.destination
        if place.method == "POST":  # another one would create another object: the receipt stands
            return row, Unsupported(
                "the location of an object that was sent by POST is unknown", side="destination"
            )
        if not self.job.recursive and self._may_have_changed(row):
            return row, True
        if self.job.recursive:
            place = place.below(row.name, destination=True)
        elif place.path.endswith("/"):
            # Its name is known only once the source is read: the transfer inspects it then.
            return row, True
        meter = self._meter()
        # After one object's retries failed, the next objects are not retried.
        patience = ListingRetries(
            self.engine.limits.listing_seconds if self.why is None else 0.0, meter
        )
        store = self.engine.stores.destination(place, meter)
        try:
            found = patience.retry(partial(inspect_object, store, place))
        except NotFound:
            return row, True
        except RelayError as error:
            # Without a status, for example a folder is there, not an object.
            is_other = isinstance(error, Rejected) and error.store_status is None
            return row, is_other or error
        return row, found.why if isinstance(found, UnknownObject) else self._is_other(row, found)

    def _meter(self) -> Watchdog:
        meter = Watchdog(self.engine.limits)
        meter.throttle = self.throttle
        return meter

    def _may_have_changed(self, row: TransferRow) -> bool:
        """Say if a single object may have changed at the source since it arrived."""
        moved = (row.receipt or {}).get("source")
        if moved is None:  # it was skipped
            return True
        source = self.engine.stores.source(self.job.source, self._meter())
        try:
            found = source.head(self.job.source)
        except RelayError:
            return True  # the transfer reports it
        was = Version(moved["size"], moved["etag"], moved["last_modified"])
        return isinstance(found, UnknownObject) or not is_same(was, found.version)

    def _is_other(self, row: TransferRow, found: ObjectInfo) -> bool:
        """Return whether the object has another length than the one that arrived. An object that
        was skipped as unchanged had its source's length; another skipped one may never have."""
        size = found.version.size
        if row.state != TransferState.VERIFIED and self.job.if_exists is not IfExists.CHANGED:
            return False
        return None not in (row.bytes, size) and row.bytes != size
