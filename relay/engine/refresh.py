"""Fresh URLs for a migration of a list: taken from another list, matched by the names of the
objects.

Theory of operation. The list is read twice, page by page: first to check that the migration has
each of its names and that no name is repeated, then to store the URLs. So a refused list changes
nothing, and memory grows by a few bytes per name. Only the URLs are taken: an object must still
match the first list's size and digests. A multipart upload resumes if the new URL leads to the
version that it began with.

Decided here: which lists are accepted. Never here: the format of a line (`stores/url_lists.py`),
and the use of a URL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.engine.listing_filter import ListingFilter
from relay.engine.migration_request import filters_from, filters_of_options
from relay.engine.transfer_engine import TransferEngine
from relay.engine.tree_listing import PAGE, in_pages, listed_object
from relay.errors import IllegalTransition, InvalidType, NamesUnknown
from relay.ledger.acceptance import other_places
from relay.ledger.actions import not_now
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.states import MIGRATION, ListingState, state_after
from relay.location import Location
from relay.stores.interfaces import Entry
from relay.stores.url_lists import SCHEME
from relay.wire.watchdog import Watchdog

MOST_NAMES: Final = 1_000_000
"""Maximum number of names in a list; about 70 bytes per name are held while it is checked."""
SHOWN: Final = 3
"""Maximum number of wrong names in an error message."""
SHOWN_LETTERS: Final = 200


@dataclass(frozen=True)
class Refresh:
    """Fresh credentials with which a migration resumes: a `spec` with both locations and their
    secrets, and the location of a list of fresh `urls`. Each may be None."""

    spec: Spec | None = None
    urls: Location | None = None
    reason: str | None = None
    """A retry queues again only the objects that failed for this reason; None for all."""


def apply_refresh(
    ledger: Ledger, engine: TransferEngine, migration: Migration, verb: str, fresh: Refresh
) -> Migration:
    """Apply `verb` to a migration, with fresh credentials. Raises as Ledger.act and `refresh_urls`;
    nothing has changed then, but that a retry beyond a limit of a token keeps the fresh URLs."""
    if fresh.urls is not None:
        try:  # before a URL is replaced
            state_after(MIGRATION, verb, migration.state)
        except IllegalTransition:
            raise not_now(migration, verb) from None
        if fresh.spec is not None and not ledger.is_at(migration.id, fresh.spec):
            raise other_places()
        refresh_urls(ledger, engine, migration, fresh.urls)
    return ledger.act(migration.id, verb, fresh.spec, fresh.reason)


def refresh_urls(
    ledger: Ledger, engine: TransferEngine, migration: Migration, urls: Location
) -> None:
    """Replace a migration's URLs by those that a list has for the same names; other objects keep
    their URLs.

    Raises NamesUnknown and InvalidType, with a pointer; IllegalTransition until the migration's own
    list has been read completely, and if its URLs were forgotten, since that list is read again
    then; and the errors of reading the list. Nothing has changed then."""
    if not migration.source.startswith(SCHEME):
        raise InvalidType(
            "the migration was not made from a list of URLs",
            hint="Give its source and its destination with fresh credentials.",
            pointer="/list",
        )
    if migration.listing != ListingState.DONE:
        raise IllegalTransition(
            "its own list has not been read completely",
            hint="Resume or retry it with its source and destination, so that the list is read.",
        )
    if ledger.secret(migration.id) is None:
        raise IllegalTransition(
            "its URLs were forgotten after it ended",
            hint=(
                "Retry it with its source and destination alone: its own list is read again. Give"
                " fresh URLs once that has ended, or start a new migration of the fresh list."
            ),
        )
    chooses = _choice(ledger, engine, migration, urls)
    _check_names(ledger, migration.id, _entries(engine, urls), chooses)
    for page in in_pages(_entries(engine, urls), PAGE):
        ledger.listings.renew_urls(
            migration.id, {entry.name: entry.url for entry in page if entry.url}
        )


def _entries(engine: TransferEngine, urls: Location) -> Iterator[Entry]:
    return engine.stores.source(urls, Watchdog.of_listing(engine.limits)).list(urls, True)


def _choice(
    ledger: Ledger, engine: TransferEngine, migration: Migration, urls: Location
) -> ListingFilter | None:
    """Return the filter of a migration, for the entries of a list of fresh URLs; None without."""
    filters = filters_of_options(migration.options)
    if filters is None:
        return None
    meter = Watchdog.of_listing(engine.limits)
    source = engine.stores.source(urls, meter)
    origins, seed = ledger.listings.age_origins(migration.id), migration.id
    filters = filters_from(filters, origins)
    return ListingFilter(filters, source, urls, meter, now=origins.earliest, seed=seed)


def _check_names(
    ledger: Ledger, id: str, entries: Iterator[Entry], chooses: ListingFilter | None
) -> None:
    """Raise NamesUnknown for names that the migration does not have, unless its filters exclude
    them, and InvalidType for a repeated name: only one of its URLs can be the object's."""
    seen: set[int] = set()
    unknown: list[str] = []
    count = 0
    for page in in_pages(entries, PAGE):
        names = [listed_object(entry).name for entry in page]
        missing = ledger.listings.unknown_names(id, names)
        for entry, name in zip(page, names, strict=True):
            _refuse_repeated_name(seen, name)
            if name in missing and (chooses is None or chooses(entry)):
                count += 1
                if len(unknown) < SHOWN:
                    unknown.append(_describe_entry(entry))
    if unknown:
        more = f", and {count - len(unknown):,} more" if count > len(unknown) else ""
        raise NamesUnknown(f"not in the migration: {', '.join(unknown)}{more}", pointer="/list")


def _refuse_repeated_name(seen: set[int], name: str) -> None:
    mark = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    if mark in seen:
        raise InvalidType(
            f"{name[:SHOWN_LETTERS]!a} is in the list twice", hint=_ONCE, pointer="/list"
        )
    seen.add(mark)
    if len(seen) > MOST_NAMES:
        raise InvalidType(
            f"the list has more than {MOST_NAMES:,} names", hint=_PARTS, pointer="/list"
        )


def _describe_entry(entry: Entry) -> str:
    """Return the name of an entry for a message, or its error if it has no valid name."""
    return repr(entry.name[:SHOWN_LETTERS]) if entry.error is None else entry.error.message


_ONCE = "Give one URL for each name."
_PARTS = "Give only the objects that are still to be moved, or several lists one after the other."
