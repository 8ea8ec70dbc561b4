"""Write a tree's listing into the ledger page by page, so that transfers start while it continues.

Decided here: which members of a listing's entries are stored, and in pages of which size. Never
here: the format of a listing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from relay.digest import as_hex
from relay.engine.decisions import PlanDecision, PlannedObject
from relay.engine.plan_file import PlanFile
from relay.errors import KeyTooLong, NotFound, PlanStale, RelayError, StoreError, UnsafeKey
from relay.identity import place_identity
from relay.ledger.listing_values import ListedObject, ListingClaim
from relay.ledger.planned_values import PlannedPair
from relay.location import parse_location
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.parsing import UNSAFE_CHARACTERS
from relay.process.failpoints import reach
from relay.stores.interfaces import Entry

if TYPE_CHECKING:  # SQLAlchemy takes 0.2 s to import, and `relay plan` does not need it
    from relay.ledger.ledger import Ledger

PAGE = 1000
"""Number of entries that are written in one transaction."""
NAME_CHARACTERS = 8192
"""Longest name that is stored: no store takes a longer one, and a page of names must fit into
memory."""

T = TypeVar("T")


class Chooses(Protocol):
    """Chooses entries of a listing, by the filters of its migration."""

    folders: int
    """The number of folders so far that were not listed."""

    def __call__(self, entry: Entry) -> Entry | None:
        """Return an entry if it is chosen, perhaps with an error, or None."""


def write_listing(
    ledger: Ledger,
    listing: ListingClaim,
    entries: Iterator[Entry],
    go_on: Callable[[], bool],
    *,
    fail_on_empty: bool = False,
    chooses: Chooses | None = None,
) -> bool:
    """Write the chosen entries of a listing, and mark it done. Returns False if it was stopped; the
    listing is then handed back.

    Raises the listing's errors, LeaseLost and LedgerFailed; written pages stay. With
    `fail_on_empty` raises NotFound for a listing without chosen objects."""
    cursor, is_empty, entered, pages = listing.cursor or "", True, 0, 0
    excluded = ExcludedCount(listing.excluded)
    for page in in_pages(entries, PAGE):
        chosen = page if chooses is None else excluded.leave_out(page, chooses)
        listed = [listed_object(entry) for entry in chosen if not entry.is_listed_further]
        is_empty &= not listed
        # Not every entry has a resume token, and then the last one of the page counts.
        cursor = next((entry.after for entry in reversed(page) if entry.after is not None), cursor)
        reach("before-page")
        so_far = None if chooses is None else excluded.at_cursor
        lacks = listing.standing and any(map(hides_names, chosen))
        wanted = ledger.listings.add_page(listing, listed, cursor, so_far, lacks=lacks)
        reach("after-page")
        entered, pages = entered + len(listed), pages + 1
        if not (wanted and go_on()):
            ledger.listings.hand_back(listing)
            return False
    if is_empty and listing.cursor is not None:  # a lost worker may have written some entries
        is_empty = not ledger.migration(listing.migration_id).entries
    left_out = None if chooses is None else excluded.count + chooses.folders
    if fail_on_empty and is_empty:
        raise empty_source_error(left_out or 0)
    ledger.listings.end(listing, excluded=left_out)
    emit(LogEvent.LISTING_DONE, migration=listing.migration_id, entries=entered, pages=pages)
    return True


def write_planned(
    ledger: Ledger, listing: ListingClaim, plan: PlanFile, go_on: Callable[[], bool]
) -> bool:
    """Write the objects that a saved plan moves, and those that it leaves open, which fail; no
    listing of the source is needed. Returns as `write_listing`. Raises PlanRefused, LeaseLost and
    LedgerFailed; written pages stay."""
    written, pages = int(listing.cursor or 0), 0
    for page in in_pages(islice(plan.open_objects(), written, None), PAGE):
        listed = [planned_object(one) for one in page]
        written, pages = written + len(page), pages + 1
        reach("before-page")
        wanted = ledger.listings.add_page(listing, listed, str(written), None)
        reach("after-page")
        if not (wanted and go_on()):
            ledger.listings.hand_back(listing)
            return False
    ledger.listings.end(listing)
    emit(LogEvent.LISTING_DONE, migration=listing.migration_id, entries=written, pages=pages)
    return True


def planned_object(one: PlannedObject) -> ListedObject:
    """Return an object of a plan as the ledger keeps it."""
    seen = one.source
    modified = None if seen.modified is None else datetime.fromtimestamp(seen.modified, UTC)
    listed = listed_object(Entry(one.name, seen.size, seen.etag, modified, error=_open_error(one)))
    pair = PlannedPair(source=seen, destination=one.destination)
    return replace(listed, planned=pair.to_text())


def hides_names(entry: Entry) -> bool:
    """Return whether an entry stands for a folder that could not be listed."""
    names = entry.judged_as or (entry.name,)
    return entry.error is not None and any(not name or name.endswith("/") for name in names)


class ExcludedCount:
    """The number of entries of a listing that the filters left out. A listing that is resumed
    begins behind its cursor, so that no entry is counted twice."""

    def __init__(self, count: int = 0) -> None:
        """`count` were left out up to the cursor."""
        self.count = self.at_cursor = count

    def leave_out(self, page: Sequence[Entry], chooses: Chooses) -> list[Entry]:
        """Return the chosen entries of the next page. Raises as `chooses`."""
        chosen: list[Entry] = []
        for entry in page:
            # A bucket's marker of a folder does not count.
            if not entry.is_listed_further:
                judged = chooses(entry)
                if judged is None:
                    self.count += 1
                else:
                    chosen.append(judged)
            if entry.after is not None:
                self.at_cursor = self.count if entry.after else 0
        return chosen


def empty_source_error(excluded: int) -> NotFound:
    """Return the error of a source without objects, or of one whose objects were all `excluded`."""
    if excluded:
        return NotFound(
            f"the filters exclude everything: the source has {excluded:,} objects or folders",
            side="source",
            hint="`relay ls -r` with the same filters shows what they choose.",
        )
    return NotFound(
        "nothing was found in the source",
        side="source",
        hint="Check its name: many stores show a missing folder as an empty one.",
    )


def in_pages(entries: Iterator[T], most: int) -> Iterator[list[T]]:
    """Yield the entries in lists of `most`; the last list may be shorter."""
    page: list[T] = []
    for entry in entries:
        page.append(entry)
        if len(page) == most:
            yield page
            page = []
    if page:
        yield page


def _open_error(one: PlannedObject) -> PlanStale | None:
    """Return why an object of a plan is not moved, or None for one that is."""
    match one.decision:
        case PlanDecision.REFUSE:
            why = f"the plan refuses it ({one.basis})"
        case PlanDecision.UNKNOWN:
            why = "the plan has not decided about it, since a store did not answer"
        case _:
            return None
    return PlanStale(f"{why}: {one.detail}" if one.detail else why)


def listed_object(entry: Entry) -> ListedObject:
    """Return an entry as the ledger keeps it, with an error if it is already clear that the object
    can't be moved."""
    modified = entry.modified.timestamp() if entry.modified else None
    if len(entry.name) > NAME_CHARACTERS:
        raw = _raw_bytes(entry.name)
        beginning = _escape_name(raw[:_SHOWN_BYTES], of=raw)
        return ListedObject(
            beginning,
            size=entry.size,
            error=_TOO_LONG,
            identity=f"long {hashlib.sha256(raw).hexdigest()}",
        )
    if UNSAFE_CHARACTERS.search(entry.name):
        raw = _raw_bytes(entry.name)
        readable = _escape_name(raw)  # databases refuse some of these characters
        return ListedObject(readable, size=entry.size, error=_UNSAFE, identity=f"odd {raw.hex()}")
    if entry.error is not None:
        return ListedObject(
            entry.name,
            size=entry.size,
            etag=entry.etag,
            modified=modified,
            error=error_members(entry.error),
            identity=f"unusable {entry.name}",
        )
    identity = None if entry.url is None else place_identity(parse_location(entry.url))
    return ListedObject(
        entry.name,
        size=entry.size,
        etag=entry.etag,
        modified=modified,
        url=entry.url,
        digests=as_hex(entry.digests),
        identity=identity,
    )


def _raw_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass" if _LONE.search(name) else "surrogateescape")


def _escape_name(raw: bytes, of: bytes | None = None) -> str:
    """Return a printable name for an unsafe name, or for the beginning `of` a name that is too
    long. A part of the name's SHA-256 makes it unique: another object may really have the name with
    the backslashes."""
    text = raw.decode("utf-8", "backslashreplace")
    mark = hashlib.sha256(raw if of is None else of).hexdigest()[:8]
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text) + f" ~{mark}"


_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""A lone surrogate that does not stand for a byte (PEP 383): XML and JSON can hold one."""


_UNSAFE = {
    "code": UnsafeKey.code,
    "side": "source",
    "detail": "the name is not UTF-8, or has control or bidi characters in it",
    "hint": "Rename the object at the source, and run the migration again.",
}
_SHOWN_BYTES = 200
_TOO_LONG = {
    "code": KeyTooLong.code,
    "side": "source",
    "detail": f"the name has more than {NAME_CHARACTERS} characters",
    "hint": "Rename the object at the source, and run the migration again.",
}


def error_members(error: RelayError) -> Mapping[str, Any]:
    """Return an error as the ledger keeps it; `status` is that of the store's answer."""
    left = {"remains": list(error.remains.values())} if error.remains else {}
    status = error.store_status if isinstance(error, StoreError) else None
    return {
        "code": error.code,
        "side": error.side,
        **({} if status is None else {"status": status}),
        "detail": error.message,
        "hint": error.hint,
        **left,
    }
