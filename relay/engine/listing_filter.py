"""Choose the entries of one listing by the filters of its migration.

Decided here: which entries are judged by their names alone, and how a store is asked for a marker
of `exclude_if_present`. An unknown verdict excludes nothing: it is a failure. Never here: the rules
(`relay/filters/`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from time import monotonic

from relay.engine.inspection import inspect_object, size_by_head
from relay.engine.transfer.wrong_pages import (
    hints_of_answer,
    may_be_of_page,
    refuse_wrong_page,
)
from relay.errors import (
    InvalidFilter,
    NotFound,
    Rejected,
    RelayError,
    Unauthenticated,
    UnsafeKey,
    Unsupported,
)
from relay.filters.filter_set import Filters
from relay.filters.selection import Selection, Verdict
from relay.location import Location
from relay.parsing import http_date
from relay.stores.interfaces import Destination, Entry, ObjectInfo, Source, UnknownObject
from relay.stores.listing_retries import ListingRetries
from relay.stores.url_lists import location_of_url
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import yield_to_hub

LIST, LOCAL, S3 = "list", "local", "s3"
"""The stores of lists of URLs, of folders of this machine, and of buckets."""


class ListingFilter:
    """Chooses the entries of one listing, and counts the others."""

    def __init__(
        self,
        filters: Filters,
        source: Source | Destination,
        location: Location,
        meter: Watchdog,
        *,
        now: float,
        seed: str,
        marked: tuple[Source, Location] | None = None,
    ) -> None:
        """Ages count from `now`, in seconds since 1970; `seed` chooses the part of `hash_filter`
        @/N. The markers are those of another tree if `marked` names it. Work yields to the hub, and
        checks `meter`. Raises InvalidFilter, ConfigError."""
        refuse_markers_of_list(filters, location)
        markers, root = filters.exclude_if_present, location.folder()
        has_markers = (source, root) if marked is None else (marked[0], marked[1].folder())
        self._source, self._root, self._meter = source, root, meter
        self._selection = Selection(
            filters,
            now=datetime.fromtimestamp(now).astimezone(),
            seed=seed,
            rejects=_Markers(markers, *has_markers, meter) if markers else None,
            pause=_pauses(meter),
        )
        self.entries = self.folders = 0
        """The numbers of entries so far that were not chosen, and of folders not entered."""

    def chosen(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the chosen ones of some entries. Raises the store's errors about a marker."""
        for entry in entries:
            judged = self(entry)
            if judged is not None:
                yield judged

    def enters(self, folder: str) -> bool:
        """Return whether a folder may have chosen objects. Raises the store's errors about a
        marker."""
        is_entered = bool(self._selection.has_folder(folder))
        self.folders += not is_entered
        return is_entered

    @property
    def missing_names(self) -> set[str]:
        """The names of `files_from` that no object had so far, except those below a folder that
        could not be listed."""
        return self._selection.missing_names

    def __call__(self, entry: Entry) -> Entry | None:
        """Return an entry if it is chosen, or None. If that is not known, the entry has the error.
        Raises the store's errors about a marker."""
        verdict = self._has(entry)
        if isinstance(verdict, RelayError):
            return entry if entry.error is not None else replace(entry, error=verdict)
        self.entries += not verdict
        return entry if verdict else None

    def _has(self, entry: Entry) -> Verdict:
        if entry.error is None:
            return self._has_object(entry)
        # What can't be moved may have neither size nor time: that would hide the failure.
        names = entry.judged_as or (entry.name,)
        for name in names:
            self._selection.note_unlisted(name)
        verdicts = map(self._has_name, names)
        return next((verdict for verdict in verdicts if verdict), False)

    def _has_object(self, entry: Entry) -> Verdict:
        """Judge an object, with a request if its listing lacks a value that the filters need."""
        chooses = self._selection
        verdict = chooses.has_object(entry.name, entry.size, entry.modified)
        if verdict is not True or chooses.lacks(entry.size, entry.modified) is None:
            return verdict
        try:
            found = self._inspect(entry)
        except RelayError as error:
            if _is_for_all(error, self._root.store):
                raise
            return error
        size = found.version.size if entry.size is None else entry.size
        date = entry.modified or http_date(found.version.last_modified)
        lacking = chooses.lacks(size, date)
        verdict = chooses.has_object(entry.name, size, date)
        # A server that makes its answers may date each one now. Such a date excludes nothing.
        if entry.modified is None and found.dated_now and not verdict:
            lacking, verdict = "time", chooses.has_object(entry.name, size, None)
        if not verdict or lacking is None:
            return verdict
        return Unsupported(
            f"the store gives no {lacking}, and the filters need it",
            side="source",
            hint=f"Move it without the filter of the {lacking}, by its name.",
        )

    def _inspect(self, entry: Entry) -> ObjectInfo:
        """Ask the store for an object's size and time. Raises StoreError, UnsafeKey, and
        RequestError for an invalid URL."""
        root, url = self._root, entry.url
        place = root.below(entry.name) if url is None else location_of_url(root, url)
        found = _inspect_with_retries(self._source, place, self._meter)
        if may_be_of_page(found, place):
            self._refuse_page(entry, place)
        return replace(found, version=found.version.with_size(size_by_head(found, place)))

    def _refuse_page(self, entry: Entry, place: Location) -> None:
        """Raise Rejected if a login page, or another one, answers for an object: then HEAD has
        described that page."""
        patience = ListingRetries(self._meter.limits.listing_seconds, self._meter)
        opened = patience.retry(lambda: self._source.get(place))
        assert opened.body is not None  # an Opened has one
        known = hints_of_answer(entry.url, entry.digests)
        try:
            refuse_wrong_page(opened, place, place, known, self._source)
        finally:
            opened.body.close()

    def _has_name(self, name: str) -> Verdict:
        if name and not name.endswith("/"):
            return self._selection.has_name(name)
        return self._selection.has_folder(name)


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
            if meter.is_cancelled:  # a listing may last longer than a transfer
                meter.check()
            yield_to_hub()
            until = monotonic() + meter.limits.yield_seconds

    return pause


class _Markers:
    """The markers of `exclude_if_present` in the folders of one tree."""

    def __init__(
        self, names: tuple[str, ...], source: Source | Destination, root: Location, meter: Watchdog
    ) -> None:
        self._names, self._source = frozenset(names), source
        self._root, self._meter = root, meter

    def __call__(self, folder: str) -> Verdict:
        """As Rejects. Raises the errors that end the listing."""
        try:
            return self._has_marker(folder)
        except UnsafeKey:  # nothing in that folder can be moved either
            return False
        except RelayError as error:
            if not folder or _is_for_all(error, self._root.store):
                raise
            error.message = f"a file that would exclude {folder!a} is not known: {error.message}"
            return error.with_traceback(None)  # it is kept as long as the folder's verdict

    def _has_marker(self, folder: str) -> bool:
        if self._root.store in (LOCAL, S3):
            return any(self._has_object(f"{folder}{name}") for name in sorted(self._names))
        # A web server may answer each name with a page, and a missing one with a refusal.
        return self._lists(self._root.below(folder) if folder else self._root, self._names)

    def _lists(self, place: Location, names: frozenset[str]) -> bool:
        """Return whether a folder has one of some names, which may begin with those of folders in
        it."""
        below: dict[str, frozenset[str]] = {}
        for entry in self._source.list(place, False):
            if entry.name in names:
                return True
            if entry.folder:
                inner = (name for name in names if name.startswith(entry.name))
                below[entry.name] = frozenset(name.removeprefix(entry.name) for name in inner)
        return any(self._lists(place.below(name), some) for name, some in below.items() if some)

    def _has_object(self, name: str) -> bool:
        place = self._root.below(name)
        is_local = self._root.store == LOCAL
        try:
            if is_local:  # its listings are not retried either
                self._source.head(place)
            else:
                _inspect_with_retries(self._source, place, self._meter)
        except NotFound:
            return False
        except Rejected:
            if is_local:  # a folder may have the marker's name
                return False
            raise
        return True


def _inspect_with_retries(
    source: Source | Destination, place: Location, meter: Watchdog
) -> ObjectInfo:
    """Return the object at a place. Raises as `inspect_object`, and the error of an object that is
    not known."""
    patience = ListingRetries(meter.limits.listing_seconds, meter)
    found = patience.retry(lambda: inspect_object(source, place))
    if isinstance(found, UnknownObject):
        raise found.why
    return found


def _is_for_all(error: RelayError, store: str) -> bool:
    """Return whether an error about one name ends the listing. Where folders are listed one by one,
    a folder's own listing shows that."""
    if error.side == "relay":
        return True
    return store == S3 and (error.retryable or isinstance(error, Unauthenticated))
