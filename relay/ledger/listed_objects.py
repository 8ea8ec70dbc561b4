"""Compare the entries of a listing page with each other, and with the rows of their names.

Theory of operation. An entry is new, a repetition, or one of an earlier listing. Two entries of one
name that are different objects would become one transfer, and one of them would be lost silently.
So the second gets a name of its own, under which it fails.

Decided here: which row an entry belongs to, and whether its object has changed. Never here: what
becomes of the row (`entries.py`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, select

from relay.ledger.identity_hashes import key_of, keyed_hash
from relay.ledger.listing_values import ListedObject, ListingClaim
from relay.ledger.names import has_name, in_chunks
from relay.ledger.schema import transfers
from relay.ledger.states import TransferState
from relay.receipt import Version

MAX_NUMBER: Final = 2**53
"""Largest accepted size: the largest integer that every JSON reader keeps exactly (RFC 7493)."""
JUST_SECONDS: Final = 26 * 3600.0
"""A modification time that is less than this before the arrival may also be after it: listings use
any time zone."""
_OLDER_NAME: Final = re.compile(r"(?s)(.*~[0-9a-f]{8})[0-9a-f]{8}")
"""A name made from a URL with a query; an older relay used only half of the hash's letters."""


class ListedRows:
    """The entries of a page: the `new` ones, and those of an `earlier` listing with their rows."""

    def __init__(
        self, connection: Connection, listing: ListingClaim, page: Sequence[ListedObject]
    ) -> None:
        key = key_of(connection)
        marked = [_with_mark(key, _clamp_numbers(one)) for one in page]
        if listing.counted:
            marked = list(_separate_names(marked))
        else:  # an older relay started the listing, and wrote no identities
            marked = _older_names(connection, listing, marked)
        known = _rows_of(connection, listing, [one.name for one in marked])
        self.new: list[ListedObject] = []
        self.earlier: list[tuple[ListedObject, Any]] = []
        self.differing: dict[int, bool | None] = {}
        """As `differs`, for the `earlier` ones, by the ids of their rows."""
        seen: dict[str, str | None] = {}
        for one in marked:
            row = known.get(one.name)
            if listing.counted and (why := self._conflict(one, row, listing, seen)):
                one = _rename(one, why)
                row = _rows_of(connection, listing, [one.name]).get(one.name)
            # A repetition within this page.
            if one.name in seen:
                continue
            seen[one.name] = one.identity
            # A row of this very listing needs nothing: the listing was restarted after a crash.
            if row is None:
                self.new.append(one)
            elif row.listings < listing.listings:
                self.earlier.append((one, row))
                self.differing[row.id] = differs(one, row)

    def _conflict(
        self, one: ListedObject, row: Any, listing: ListingClaim, seen: Mapping[str, str | None]
    ) -> Mapping[str, Any] | None:
        """Return the error of an entry whose name belongs to another object: of this listing, or to
        one that is being moved, from the URL that an earlier list had for the name."""
        if one.name in seen:
            return _CLASH if seen[one.name] != one.identity else None
        if row is None or row.identity == one.identity:
            return None
        if row.listings == listing.listings:
            return _CLASH
        is_moving = row.state == TransferState.RUNNING and row.identity is not None
        return _UNDER_WAY if is_moving else None


def _clamp_numbers(one: ListedObject) -> ListedObject:
    """Return an entry whose values every database accepts: an impossible size, time or ETag becomes
    None. An entry of a list of URLs with an impossible size fails, since no object could match
    it."""
    size = one.size if one.size is None or 0 <= one.size <= MAX_NUMBER else None
    if size != one.size and one.url is not None and one.error is None:
        one = replace(one, error=_TOO_LARGE)
    modified = one.modified if one.modified is None or abs(one.modified) < MAX_NUMBER else None
    etag = one.etag if one.etag is None or "\0" not in one.etag else None
    if (size, modified, etag) == (one.size, one.modified, one.etag):
        return one  # the usual case, without a copy
    return replace(one, size=size, modified=modified, etag=etag)


def _with_mark(key: bytes, one: ListedObject) -> ListedObject:
    if one.identity is None:
        return one
    return replace(one, identity=keyed_hash(key, one.identity)[:32])


def _separate_names(page: Sequence[ListedObject]) -> Iterable[ListedObject]:
    """Yield a page in which no two URLs share a name: URLs that did get names of their own, under
    which they fail."""
    identities: dict[str, set[str]] = {}
    for one in page:
        if one.identity is not None:
            identities.setdefault(one.name, set()).add(one.identity)
    for one in page:
        yield _rename(one, _CLASH) if one.identity and len(identities[one.name]) > 1 else one


def _rename(one: ListedObject, why: Mapping[str, Any]) -> ListedObject:
    error = why if one.error is None else one.error
    suffix = (one.identity or hashlib.sha256(one.name.encode()).hexdigest())[:16]
    return replace(one, name=f"{one.name} ~{suffix}", url=None, error=error)


_TOO_LARGE: Final = {
    "code": "invalid-url",
    "side": "source",
    "detail": "the list gives a size that is not a possible number of bytes",
    "hint": "Correct the size in the list, or leave it out.",
}
_CLASH: Final = {
    "code": "unsafe-key",
    "side": "source",
    "detail": (
        "two entries of the listing have the same name, and only one of them could arrive under it"
    ),
    "hint": (
        "If the source is a list of URLs, write it as a CSV file with a column `name`, and give"
        " each object a different name."
    ),
}
_UNDER_WAY: Final = {
    "code": "unsafe-key",
    "side": "source",
    "detail": (
        "an earlier list had another URL for this name, and its object was being moved when this"
        " list was read"
    ),
    "hint": "Run the same command again once that object has arrived or failed.",
}


def _older_names(
    connection: Connection, listing: ListingClaim, page: Sequence[ListedObject]
) -> list[ListedObject]:
    """Return a page with the names of an older relay for the entries that it has written."""
    older = {
        one.name: found[1] for one in page if one.url and (found := _OLDER_NAME.fullmatch(one.name))
    }
    known = _rows_of(connection, listing, list(older.values())) if older else {}
    return [
        replace(one, name=older[one.name]) if older.get(one.name) in known else one for one in page
    ]


def _rows_of(connection: Connection, listing: ListingClaim, names: Sequence[str]) -> dict[str, Any]:
    """Return the rows of a migration's transfers by their names. During a repeated listing the rows
    are locked until this transaction ends."""
    found: dict[str, Any] = {}
    for some in in_chunks(sorted(set(names))):
        query = select(transfers).where(
            transfers.c.migration_id == listing.migration_id, has_name(connection, some)
        )
        query = query.order_by(transfers.c.id).with_for_update() if listing.listings else query
        found |= {row.name: row for row in connection.execute(query)}
    return found


def differs(one: ListedObject, row: Any) -> bool | None:
    """Return whether a listing names another version of an object than its row has, or None if it
    gives nothing to compare."""
    # Nearly every object of a repeated listing.
    is_equal = one.etag is not None and one.etag == row.etag and one.modified == row.modified
    if is_equal and (one.size, one.identity) == (row.size, row.identity) and not one.digests:
        return False
    if row.identity is not None and one.identity != row.identity:  # an older relay kept none
        return True
    if None not in (one.size, row.size) and one.size != row.size:
        return True
    digests = json.loads(row.digests) if row.digests and one.digests else {}
    pairs: list[tuple[Any, Any]] = [(one.etag, row.etag)]
    # An equal time shortly before the arrival proves nothing, so it is not compared.
    if one.modified != row.modified or not _just_before(one.modified, row.ended):
        pairs.append((one.modified, row.modified))
    pairs += [(digest, digests.get(name)) for name, digest in one.digests.items()]
    compared = [ours == theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return not all(compared) if compared else None


def was_read(receipt: Mapping[str, Any] | None, size: int | None, etag: str | None) -> bool:
    """Return whether a listing with this size and entity tag names the version that a transfer
    read, by its `receipt`. Only a strong entity tag can say so (RFC 9110 section 8.8.1). A listing
    whose tags are not those of its reads never matches."""
    source = (receipt or {}).get("source")
    if not source or etag is None:
        return False
    read = Version(source["size"], source["etag"])
    return read.strong_etag == etag and size in (None, read.size)


def _just_before(modified: float | None, arrived: float | None) -> bool:
    """Return whether an object may have changed after it arrived and still be listed with the same
    time: many indexes show minutes only, in their own time zone."""
    return modified is not None and arrived is not None and arrived - modified < JUST_SECONDS
