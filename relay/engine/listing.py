"""Write a tree's listing into the ledger page by page, so that transfers start while it continues.

Decided here: what of a listing is kept, and how much at a time. Never here: what a listing looks
like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from relay.digest import as_hex
from relay.errors import KeyTooLong, NotFound, RelayError, UnsafeKey
from relay.identity import place_of
from relay.ledger.rows import Listed, Listing
from relay.location import UNSAFE_CHARACTERS, parse_location
from relay.process.failpoints import reach
from relay.stores.interfaces import Entry

if TYPE_CHECKING:  # SQLAlchemy takes a fifth of a second that `relay plan` need not wait
    from relay.ledger.ledger import Ledger

PAGE = 1000
"""So many objects are written at once."""
NAME_CHARACTERS = 8192
"""The longest name that is kept: no store takes a longer one, and a page of them has to fit into
memory."""

T = TypeVar("T")


def write_listing(
    ledger: Ledger,
    listing: Listing,
    entries: Iterator[Entry],
    go_on: Callable[[], bool],
    fail_on_empty: bool = False,
) -> bool:
    """Write what a listing gives, and that it is whole. Returns False where it was stopped: it is
    handed back then.

    Raises what the listing raises, LeaseLost and LedgerFailed; what was written stays. With
    `fail_on_empty` raises NotFound for a listing of nothing."""
    cursor, is_empty = listing.cursor or "", True
    for page in in_pages(entries, PAGE):
        listed = [listed_object(entry) for entry in page if not entry.is_listed_further]
        is_empty &= not listed
        cursor = next((entry.after for entry in reversed(page) if entry.after is not None), cursor)
        reach("before-page")
        wanted = ledger.add_page(listing, listed, cursor)
        reach("after-page")
        if not (wanted and go_on()):
            ledger.hand_back_listing(listing)
            return False
    if (
        is_empty and listing.cursor is not None
    ):  # a process that was lost may have been told of some
        is_empty = not ledger.migration(listing.migration_id).entries
    if fail_on_empty and is_empty:
        raise NotFound(
            "nothing was found in the source",
            side="source",
            hint="Check its name: many stores show a folder that is not there as an empty one.",
        )
    ledger.end_listing(listing)
    return True


def in_pages(entries: Iterator[T], most: int) -> Iterator[list[T]]:
    """Yield the entries, so many at a time."""
    page: list[T] = []
    for entry in entries:
        page.append(entry)
        if len(page) == most:
            yield page
            page = []
    if page:
        yield page


def listed_object(entry: Entry) -> Listed:
    """Return an entry as it is written, with the reason why it can't be moved where that shows
    already."""
    modified = entry.modified.timestamp() if entry.modified else None
    if len(entry.name) > NAME_CHARACTERS:
        raw = _raw_bytes(entry.name)
        beginning = _escape_name(raw[:_SHOWN_BYTES], of=raw)
        return Listed(
            beginning,
            entry.size,
            error=_TOO_LONG,
            identity=f"long {hashlib.sha256(raw).hexdigest()}",
        )
    if UNSAFE_CHARACTERS.search(entry.name):
        raw = _raw_bytes(entry.name)
        readable = _escape_name(raw)  # no database takes all of these
        return Listed(readable, entry.size, error=_UNSAFE, identity=f"odd {raw.hex()}")
    if entry.error is not None:
        return Listed(
            entry.name,
            entry.size,
            error=error_members(entry.error),
            identity=f"unusable {entry.name}",
        )
    identity = None if entry.url is None else place_of(parse_location(entry.url))
    return Listed(
        entry.name,
        entry.size,
        entry.etag,
        modified,
        entry.url,
        as_hex(entry.digests),
        identity=identity,
    )


def _raw_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass" if _LONE.search(name) else "surrogateescape")


def _escape_name(raw: bytes, of: bytes | None = None) -> str:
    """Return a name that can be written for one that is not safe, or the beginning `of` one that is
    too long, and that no other object has: with the backslashes alone it might be the honest name
    of another."""
    text = raw.decode("utf-8", "backslashreplace")
    mark = hashlib.sha256(raw if of is None else of).hexdigest()[:8]
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text) + f" ~{mark}"


_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Half of a character, which stands for no byte (PEP 383): XML and JSON can hold such."""


_UNSAFE = {
    "code": UnsafeKey.code,
    "side": "source",
    "detail": "the name is not UTF-8, or has control or bidi characters in it",
    "hint": "Rename the object at its source, and run it again.",
}
_SHOWN_BYTES = 200
_TOO_LONG = {
    "code": KeyTooLong.code,
    "side": "source",
    "detail": f"the name has more than {NAME_CHARACTERS} characters",
    "hint": "Rename the object at its source, and run it again.",
}


def error_members(error: RelayError) -> Mapping[str, Any]:
    """Return an error as the ledger keeps it."""
    left = {"remains": list(error.remains.values())} if error.remains else {}
    return {
        "code": error.code,
        "side": error.side,
        "detail": error.message,
        "hint": error.hint,
        **left,
    }
