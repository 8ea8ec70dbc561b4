"""Choose the entries of one listing by the filters of its migration.

Decided here: which entries are judged by their names alone, and how a store is asked for a marker
of `exclude_if_present`. Never here: the rules (`relay/filters/`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from time import monotonic

from relay.errors import InvalidFilter, NotFound, Rejected, UnsafeKey
from relay.filters.filter_set import Filters
from relay.filters.selection import Rejects, Selection
from relay.location import Location
from relay.stores.http_reads import IsFolder
from relay.stores.interfaces import Entry, Source, UnknownObject
from relay.stores.listing_retries import ListingRetries
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import yield_to_hub

LIST, LOCAL = "list", "local"
"""The stores of lists of URLs, and of folders of this machine."""


class ListingFilter:
    """Chooses the entries of one listing, and counts the others."""

    def __init__(
        self,
        filters: Filters,
        source: Source,
        location: Location,
        meter: Watchdog,
        *,
        now: float,
        seed: str,
    ) -> None:
        """Ages count from `now`, in seconds since 1970; `seed` chooses the part of `hash_filter`
        @/N. Work yields to the hub, and checks `meter`. Raises InvalidFilter, ConfigError."""
        self._selection = Selection(
            filters,
            now=datetime.fromtimestamp(now).astimezone(),
            seed=seed,
            rejects=_marker_check(filters, source, location, meter),
            pause=_pauses(meter),
        )
        self.entries = self.folders = 0
        """The numbers of entries so far that were not chosen, and of folders not entered."""

    def chosen(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the chosen ones of some entries. Raises the store's errors about a marker."""
        for entry in entries:
            if self(entry):
                yield entry

    def enters(self, folder: str) -> bool:
        """Return whether a folder may have chosen objects. Raises the store's errors about a
        marker."""
        is_entered = self._selection.has_folder(folder)
        self.folders += not is_entered
        return is_entered

    def __call__(self, entry: Entry) -> bool:
        """Return whether an entry is chosen. Raises the store's errors about a marker."""
        is_chosen = self._has(entry)
        self.entries += not is_chosen
        return is_chosen

    def _has(self, entry: Entry) -> bool:
        if entry.error is None:
            return self._selection.has_object(entry.name, entry.size, entry.modified)
        # What can't be moved may have neither size nor time: that would hide the failure.
        return any(map(self._has_name, entry.judged_as or (entry.name,)))

    def _has_name(self, name: str) -> bool:
        if name and not name.endswith("/"):
            return self._selection.has_name(name)
        return self._selection.has_folder(name)


def _require_object(source: Source, place: Location) -> None:
    """Raise NotFound if an object does not exist, and the store's errors."""
    if isinstance(source.head(place), UnknownObject):
        # Some servers do not answer HEAD.
        opened = source.get(place)
        if opened.body is not None:
            opened.body.close()


def list_chosen(
    source: Source, location: Location, chosen: ListingFilter | None, after: str | None = None
) -> Iterator[Entry]:
    """Return the entries of a tree, without folders that the filter does not enter, where the store
    lists folder by folder. Raises as Source.list."""
    if chosen is None:
        return source.list(location, True, after)
    return source.list(location, True, after, enters=chosen.enters)


def refuse_markers_of_list(filters: Filters, source: Location) -> None:
    """Raise InvalidFilter for a marker in the folders of a list of URLs, which has none."""
    if filters.exclude_if_present and source.store == LIST:
        raise InvalidFilter(
            "exclude-if-present needs folders, and a list of URLs has none",
            pointer="/filters/exclude_if_present",
        )


def _pauses(meter: Watchdog) -> Callable[[], None]:
    until = monotonic() + meter.limits.yield_seconds

    def pause() -> None:
        nonlocal until
        if monotonic() >= until:
            meter.check()
            yield_to_hub()
            until = monotonic() + meter.limits.yield_seconds

    return pause


def _marker_check(
    filters: Filters, source: Source, location: Location, meter: Watchdog
) -> Rejects | None:
    """Return the function that asks the store for the markers in a folder; None without markers.
    Raises InvalidFilter as `refuse_markers_of_list`."""
    if not filters.exclude_if_present:
        return None
    refuse_markers_of_list(filters, location)
    location = location.folder()

    def exists(name: str) -> bool:
        try:
            place = location.below(name)
        except UnsafeKey:  # nothing in that folder can be moved either
            return False
        patience = ListingRetries(meter.limits.listing_seconds, meter)
        try:
            patience.retry(lambda: _require_object(source, place))
        except NotFound:
            return False
        except Rejected as error:  # a folder may have the marker's name
            if isinstance(error, IsFolder) or location.store == LOCAL:
                return False
            raise
        return True

    return lambda folder: any(exists(folder + marker) for marker in filters.exclude_if_present)
