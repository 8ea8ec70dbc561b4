"""Fresh URLs for a migration of a list: taken from another list, matched by the names of the
objects.

Theory of operation. The list is read twice, page by page: first to see that the migration has each
of its names, and none stands there twice; then to keep the URLs. So a list that is refused has
changed nothing, and nothing grows with its length but a few bytes a name. Only URLs are taken: what
the first list promised of an object it still must be, and an upload in parts goes on where the
version behind the new URL is the one that it began with.

Decided here: which list is taken. Never here: what a line means (`stores/urls.py`), and what a URL
is good for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.engine.listing import PAGE, in_pages, listed_object
from relay.engine.transfer_engine import TransferEngine
from relay.errors import IllegalTransition, InvalidType, NamesUnknown
from relay.ledger.ledger import Ledger
from relay.ledger.migrations import other_places
from relay.ledger.rows import Migration, Spec
from relay.ledger.states import MIGRATION, state_after
from relay.location import Location
from relay.stores.interfaces import Entry
from relay.stores.url_lists import SCHEME
from relay.wire.watchdog import Watchdog

MOST_NAMES: Final = 1_000_000
"""So many names a list may have; some 70 bytes of each are kept while it is checked."""
SHOWN: Final = 3
"""So many names are told of those that are wrong."""
SHOWN_LETTERS: Final = 200


@dataclass(frozen=True)
class Refresh:
    """What a migration goes on with: both places again, as a `spec` with their secrets, and where a
    list of fresh `urls` is; None where it has no need of it."""

    spec: Spec | None = None
    urls: Location | None = None


def apply_refresh(
    ledger: Ledger, runner: TransferEngine, migration: Migration, verb: str, fresh: Refresh
) -> Migration:
    """Do what `verb` says, with what is fresh. Raises as Ledger.act and `refresh_urls`; then
    nothing has changed."""
    if fresh.urls is not None:
        state_after(MIGRATION, verb, migration.state)
        if fresh.spec is not None and not ledger.is_at(migration.id, fresh.spec):
            raise other_places()
        refresh_urls(ledger, runner, migration, fresh.urls)
    return ledger.act(migration.id, verb, fresh.spec)


def refresh_urls(
    ledger: Ledger, runner: TransferEngine, migration: Migration, urls: Location
) -> None:
    """Keep the URLs of a list in the place of those that the migration has for the same names; all
    others keep theirs.

    Raises NamesUnknown and InvalidType, with their pointer, IllegalTransition while the migration's
    own list is not read to its end, and what reading the list raises; then nothing has changed."""
    if not migration.source.startswith(SCHEME):
        raise InvalidType(
            "the migration was not made from a list of URLs",
            hint="Give its source and its destination with fresh credentials.",
            pointer="/list",
        )
    if migration.listing != "done":
        raise IllegalTransition(
            "its own list is not read to its end",
            hint="Let it be read first: resume or retry it with its source and its destination.",
        )
    _check_names(ledger, migration.id, _entries(runner, urls))
    for page in in_pages(_entries(runner, urls), PAGE):
        ledger.renew_urls(migration.id, {entry.name: entry.url for entry in page if entry.url})


def _entries(runner: TransferEngine, urls: Location) -> Iterator[Entry]:
    return runner.stores.source(urls, Watchdog(runner.limits)).list(urls, True)


def _check_names(ledger: Ledger, id: str, entries: Iterator[Entry]) -> None:
    """Raise NamesUnknown for a list with names that the migration has not, and InvalidType for one
    that has a name twice: only one of its URLs can be that object's."""
    seen: set[int] = set()
    unknown: list[str] = []
    count = 0
    for page in in_pages(entries, PAGE):
        names = [listed_object(entry).name for entry in page]
        missing = ledger.unknown_names(id, names)
        for entry, name in zip(page, names, strict=True):
            _refuse_repeated_name(seen, name)
            if name in missing:
                count += 1
                unknown += [_describe_entry(entry)] if len(unknown) < SHOWN else []
    if unknown:
        more = f", and {count - len(unknown):,} more" if count > len(unknown) else ""
        raise NamesUnknown(f"not in the migration: {', '.join(unknown)}{more}", pointer="/list")


def _refuse_repeated_name(seen: set[int], name: str) -> None:
    mark = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    if mark in seen:
        raise InvalidType(
            f"{name[:SHOWN_LETTERS]!a} stands twice in the list", hint=_ONCE, pointer="/list"
        )
    seen.add(mark)
    if len(seen) > MOST_NAMES:
        raise InvalidType(
            f"the list has more than {MOST_NAMES:,} names", hint=_PARTS, pointer="/list"
        )


def _describe_entry(entry: Entry) -> str:
    """Return how an entry is told: by its name, or by why it is none."""
    return repr(entry.name[:SHOWN_LETTERS]) if entry.error is None else entry.error.message


_ONCE = "Give one URL for each name."
_PARTS = "Give those alone that are still to be moved, or several lists one after the other."
