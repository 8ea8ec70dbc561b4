"""A mirror's source that takes no probe: what else shows that an extra object is not its own.

Theory of operation. Such a source may be its destination, or a folder of it, and keep a list of its
own, so that no probe is seen. Then its objects are extra names of the destination, one or more
folders up, or new names that it does not list yet. So an extra object is kept if the source has one
of its size at the end of its name; if an object of that last name failed in this run, since that
may be the only copy; and if it was changed within the last hour.

Decided here: which extra objects may be the source's. Never here: what follows
(`mirror_removal.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from relay.engine.inspection import inspect_object
from relay.engine.migration_request import MigrationJob
from relay.engine.removal.distinct_places import ends_of
from relay.errors import NotFound
from relay.ledger.ledger import Ledger
from relay.ledger.states import TransferState
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, StoreProvider
from relay.stores.local_files import changed_ns
from relay.wire.watchdog import Watchdog

MOST: Final = 1000
"""Number of failed objects from which on nothing is deleted."""

YOUNG_SECONDS: Final = 3600.0
"""Age of a change from which a server that keeps a list shows it."""


def is_young(store: str, version: Version, now: float) -> bool:
    """Return whether an object may have been changed lately; `now` in seconds since 1970. A WebDAV
    server shows the time that the file has kept, which may be older than its arrival."""
    if store == "local":
        changed = changed_ns(version)
        return changed is None or now - changed / 1e9 < YOUNG_SECONDS
    dated = http_date(version.last_modified) if store == "s3" else None
    return dated is None or now - dated.timestamp() < YOUNG_SECONDS


@dataclass(eq=False)
class UnwritableSource:
    """The objects of one migration."""

    ledger: Ledger
    stores: StoreProvider
    job: MigrationJob
    clock: Callable[[], float] = time.time
    _failed: frozenset[str] | None = field(default=None, init=False)
    """The last names of objects that failed."""
    _is_cut: bool = field(default=False, init=False)
    """Whether more of them failed than were read."""

    def doubt_of(self, name: str, there: Version, meter: Watchdog) -> str | None:
        """Return why an extra object may be one of the source, or None. Raises RelayError."""
        if self._failed is None:
            rows = self.ledger.page(self.job.id, (TransferState.FAILED,), 0, MOST)
            self._failed = frozenset(row.name.rpartition("/")[2] for row in rows)
            self._is_cut = len(rows) == MOST
        if is_young(self.job.destination.store, there, self.clock()):
            return "the source takes no probe, and this object was changed within the last hour"
        if self._is_cut or name.rpartition("/")[2] in self._failed:
            return "the source takes no probe, and an object of this name failed"
        for other in ends_of(name):
            place = self.job.source.below(other)
            try:
                found = inspect_object(self.stores.destination(place, meter), place)
            except NotFound:
                continue
            sizes = (found.version.size, there.size) if isinstance(found, ObjectInfo) else (None,)
            if None in sizes or len(set(sizes)) == 1:
                return f"the source takes no probe, and has {other!a}, which may be this object"
        return None
