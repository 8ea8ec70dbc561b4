"""Apply one page of a listing to the ledger.

Theory of operation. An entry of which no listing has told yet becomes a transfer. One of which this
listing has told is the same again, since a listing that was lost is begun anew. One of which an
earlier listing has told, which its user has begun again since, is moved again where it did not
arrive, or is another by now. So nothing that a listing tells is passed over; `migrations.entries`
counts what it told, and the tallies what became of it.

Two entries of one name that are not the same object would be one transfer, and one would be lost
without a word: the second gets a name of its own, under which it fails.

Decided here: what an entry is, beside what is known by its name. Never here: who lists, and how far
(`trees.py`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, update

from relay.errors import DestinationLost
from relay.ledger.claims import first_fence, in_chunks
from relay.ledger.counters import CounterDelta
from relay.ledger.identity_hashes import key_of, keyed_hash
from relay.ledger.names import has_name
from relay.ledger.rows import Listed, Listing, PriorState
from relay.ledger.schema import TRUSTED, events, keys, migrations, receipts, transfers, uploads
from relay.ledger.states import TRANSFER
from relay.ledger.unproved import find_unproved

MOST: Final = 2**53
"""The largest size that is believed: what every reader of JSON holds exactly (RFC 7493)."""
JUST_SECONDS: Final = 26 * 3600.0
"""A listed time that is no longer before the arrival says nothing of later: it may be of any time
zone."""
_WELL: Final = frozenset({"verified", "skipped"})
_OLDER_NAME: Final = re.compile(r"(?s)(.*~[0-9a-f]{8})[0-9a-f]{8}")
"""A name that was made of a URL with a query; older relays took half of its letters."""


def write_page(
    connection: Connection,
    listing: Listing,
    page: Sequence[Listed],
    if_exists: str,
    folded: Callable[[str], str | None],
    is_empty: bool = False,
) -> int:
    """Write a page of entries; `if_exists` is what to do where the destination has something,
    `folded` what is kept of the form of a name in which some stores take two for one, `is_empty`
    says that nothing was at the destination when this listing began. Return of how many objects no
    page has told before."""
    reported = _ListedRows(connection, listing, page)
    changes = CounterDelta()
    _insert(connection, listing, reported.new, if_exists, changes, folded)
    _list_again(connection, listing, reported, if_exists, is_empty, changes)
    changes.write(connection)
    return len(reported.new)


# -- what a page tells


class _ListedRows:
    """The entries of a page: those that are `new`, and those of an `earlier` listing with the rows
    that they have."""

    def __init__(self, connection: Connection, listing: Listing, page: Sequence[Listed]) -> None:
        key = key_of(connection)
        marked = [_with_mark(key, clamp_numbers(one)) for one in page]
        # Where an older relay has begun it, it kept no identities.
        marked = (
            list(_separate_names(marked))
            if listing.counted
            else _older_names(connection, listing, marked)
        )
        known = rows_of(connection, listing, [one.name for one in marked])
        self.new: list[Listed] = []
        self.earlier: list[tuple[Listed, Any]] = []
        seen: dict[str, str | None] = {}
        for one in marked:
            row = known.get(one.name)
            if listing.counted and self._is_another(one, row, listing, seen):
                one = _rename(one)
                row = rows_of(connection, listing, [one.name]).get(one.name)
            if one.name in seen:
                continue
            seen[one.name] = one.identity
            if row is None:
                self.new.append(one)
            elif row.listings < listing.listings:
                self.earlier.append((one, row))

    def _is_another(
        self, one: Listed, row: Any, listing: Listing, seen: Mapping[str, str | None]
    ) -> bool:
        """Say if this listing has told of another object of the same name."""
        if one.name in seen:
            return seen[one.name] != one.identity
        return row is not None and row.listings == listing.listings and row.identity != one.identity


def clamp_numbers(one: Listed) -> Listed:
    """Return an entry whose numbers every database takes. What can't be a number of bytes, or a
    time, is not known; but what a list promised of an object could never be kept."""
    size = one.size if one.size is None or 0 <= one.size <= MOST else None
    if size != one.size and one.url is not None and one.error is None:
        one = replace(one, error=_TOO_LARGE)
    modified = one.modified if one.modified is None or abs(one.modified) < MOST else None
    etag = one.etag if one.etag is None or "\0" not in one.etag else None
    if (size, modified, etag) == (one.size, one.modified, one.etag):
        return one  # as nearly all are
    return replace(one, size=size, modified=modified, etag=etag)


def _with_mark(key: bytes, one: Listed) -> Listed:
    return (
        one if one.identity is None else replace(one, identity=keyed_hash(key, one.identity)[:32])
    )


def _separate_names(page: Sequence[Listed]) -> Iterable[Listed]:
    """Yield a page in which no two URLs have one name: all of those get names of their own, under
    which they fail."""
    identities: dict[str, set[str]] = {}
    for one in page:
        if one.identity is not None:
            identities.setdefault(one.name, set()).add(one.identity)
    for one in page:
        yield _rename(one) if one.identity and len(identities[one.name]) > 1 else one


def _rename(one: Listed) -> Listed:
    error = _CLASH if one.error is None else one.error
    suffix = (one.identity or hashlib.sha256(one.name.encode()).hexdigest())[:16]
    return replace(one, name=f"{one.name} ~{suffix}", url=None, error=error)


_TOO_LARGE: Final = {
    "code": "invalid-url",
    "side": "source",
    "detail": "its size in the list is no number of bytes that an object could have",
    "hint": "Correct the list, or leave the size out.",
}
_CLASH: Final = {
    "code": "unsafe-key",
    "side": "source",
    "detail": (
        "two entries of the listing have the same name, and only one of them could arrive under it"
    ),
    "hint": (
        "Where it is a list of URLs, make it a CSV file with a column `name`, and give each a name"
        " of its own."
    ),
}


def _older_names(connection: Connection, listing: Listing, page: Sequence[Listed]) -> list[Listed]:
    """Return a page with the names that an older relay gave, where it has written those already."""
    older = {
        one.name: found[1] for one in page if one.url and (found := _OLDER_NAME.fullmatch(one.name))
    }
    known = rows_of(connection, listing, list(older.values())) if older else {}
    return [
        replace(one, name=older[one.name]) if older.get(one.name) in known else one for one in page
    ]


def rows_of(connection: Connection, listing: Listing, names: Sequence[str]) -> dict[str, Any]:
    """Return the rows of a migration's transfers by their names. While it is listed again nobody
    else changes them until this transaction is over."""
    found: dict[str, Any] = {}
    for some in in_chunks(sorted(set(names))):
        query = select(transfers).where(
            transfers.c.migration_id == listing.migration_id, has_name(connection, some)
        )
        query = query.order_by(transfers.c.id).with_for_update() if listing.listings else query
        found |= {row.name: row for row in connection.execute(query)}
    return found


# -- what is new


def _insert(
    connection: Connection,
    listing: Listing,
    new: Sequence[Listed],
    if_exists: str,
    changes: CounterDelta,
    folded: Callable[[str], str | None],
) -> None:
    if not new:
        return
    left = find_unproved(connection, listing.migration_id, if_exists, [one.name for one in new])
    used = _last_used_id(connection)
    rows = [
        {
            **({"id": used + number} if used else {}),
            "migration_id": listing.migration_id,
            "state": "failed" if one.error else "queued",
            "name": one.name,
            "fence": first_fence(listing.fence) + (one.name in left),
            "before": left.get(one.name),
            "folded": folded(one.name),
            **_listed_columns(one, listing),
        }
        for number, one in enumerate(new, 1)
    ]
    connection.execute(insert(transfers), rows)
    for one, row in zip(new, rows, strict=True):
        changes.add(listing.migration_id, row["state"], 1, one.size)


_USED: Final = "transfers"
"""The key under which SQLite's ledger keeps the highest id of those that were forgotten: SQLite
gives it again."""


def _last_used_id(connection: Connection) -> int:
    """Return the id behind which new transfers go on, since what was begun under it was forgotten;
    0 where the database gives them theirs."""
    if connection.dialect.name != "sqlite":
        return 0
    used = int(connection.execute(select(keys.c.value).where(keys.c.name == _USED)).scalar() or 0)
    return (
        used if used > (connection.execute(select(func.max(transfers.c.id))).scalar() or 0) else 0
    )


def _store_last_used_id(connection: Connection, highest: int) -> None:
    if connection.dialect.name == "sqlite" and highest > _last_used_id(connection):
        connection.execute(delete(keys).where(keys.c.name == _USED))
        connection.execute(insert(keys), {"name": _USED, "value": str(highest)})


def _listed_columns(one: Listed, listing: Listing) -> dict[str, Any]:
    """Return the columns of what a listing tells of an object."""
    return {
        "error": json.dumps(one.error) if one.error else None,
        "size": one.size,
        "etag": one.etag,
        "modified": one.modified,
        "url": one.url,
        "identity": one.identity,
        "listings": listing.listings,
        "digests": json.dumps(one.digests) if one.digests else None,
    }


# -- what an earlier listing told of


@dataclass(frozen=True)
class _Step:
    """What becomes of a transfer of which a listing tells again."""

    state: str
    anew: bool
    """It is begun as if it never had been."""


def _list_again(
    connection: Connection,
    listing: Listing,
    reported: _ListedRows,
    if_exists: str,
    is_empty: bool,
    changes: CounterDelta,
) -> None:
    begun: list[int] = []
    for one, row in reported.earlier:
        if one.error is not None and row.lapses and row.url is None:
            one = replace(
                one, error=None
            )  # something may be left of it: its own end tells that, and fails by the same
        step = _step(one, row, if_exists, is_empty)
        kept = step.state in _WELL or row.state == "running"
        values = {"listings": listing.listings} if kept else _listed_columns(one, listing)
        if step.anew:
            values |= _reset_columns(row, if_exists)
            begun.append(row.id)
            changes.count_proof(listing.migration_id, row.level, None)
            changes.count_retries(listing.migration_id, -max(0, row.attempts - 1))
        if not kept:
            was = row.bytes if row.bytes is not None else row.size
            is_now = one.size if step.anew or row.bytes is None else row.bytes
            changes.count_transition(listing.migration_id, row.state, step.state, was, is_now)
        connection.execute(_UPDATE.values(state=step.state, **values), {"the_id": row.id})
    for some in in_chunks(begun):
        connection.execute(delete(receipts).where(receipts.c.transfer_id.in_(some)))


_UPDATE: Final = update(transfers).where(transfers.c.id == bindparam("the_id"))
_FRESH: Final[dict[str, Any]] = {
    "attempts": 0,
    "lapses": TRUSTED,
    "not_before": 0.0,
    "bytes": None,
    "seconds": None,
    "level": None,
    "ended": None,
}


_OURS: Final = PriorState(known=False).to_text()


def _reset_columns(row: Any, if_exists: str) -> dict[str, Any]:
    """Return the columns of a transfer that is begun again. Where whatever is there fails, and it
    had arrived, what is there may be ours all the same: only a listing said that it is not. A piece
    of ours, which could be overwritten, it is not: the object had arrived whole."""
    return _FRESH | ({"before": _OURS} if row.state == "verified" and if_exists == "fail" else {})


def _step(one: Listed, row: Any, if_exists: str, is_empty: bool) -> _Step:
    if row.state == "running":
        return _Step("running", anew=False)
    if one.error is not None:
        return _Step(row.state if row.state in _WELL else "failed", anew=False)
    if row.state in _WELL and not (is_empty or _is_other(one, row, if_exists)):
        return _Step(row.state, anew=False)
    return _Step("queued", anew=row.state != "queued")


def _is_other(one: Listed, row: Any, if_exists: str) -> bool:
    """Say if an object may be another than the one that has arrived. Where the listing does not
    tell, and a size alone does not, the destination is looked at, if what is there unchanged is
    then left alone."""
    if row.identity is not None and one.identity != row.identity:  # an older relay kept none
        return True
    if None not in (one.size, row.size) and one.size != row.size:
        return True
    digests = json.loads(row.digests) if row.digests and one.digests else {}
    pairs: list[tuple[Any, Any]] = [(one.etag, row.etag)]
    if one.modified != row.modified or not _just_before(one.modified, row.ended):
        pairs.append((one.modified, row.modified))
    pairs += [(digest, digests.get(name)) for name, digest in one.digests.items()]
    compared = [ours == theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return not all(compared) if compared else if_exists in ("changed", "overwrite")


def _just_before(modified: float | None, arrived: float | None) -> bool:
    """Say if an object may have changed once more after it arrived, and be listed with the same
    time: many indexes tell minutes, and of their own time zone."""
    return modified is not None and arrived is not None and arrived - modified < JUST_SECONDS


def begin_again(connection: Connection, migration: str, ids: Sequence[int]) -> bool:
    """Move again what has arrived, and is not at its destination any more. Return whether it must
    be listed for that: what a list gave has no URL left, and fails until the list gives it
    again."""
    changes, listed = CounterDelta(), False
    options = connection.execute(
        select(migrations.c.options).where(migrations.c.id == migration)
    ).scalar()
    if_exists = json.loads(options or "{}").get("if_exists", "")
    for some in in_chunks(ids):
        arrived = transfers.c.id.in_(some) & (transfers.c.migration_id == migration)
        arrived &= transfers.c.state.in_(sorted(_WELL))
        for row in connection.execute(
            select(transfers).where(arrived).order_by(transfers.c.id).with_for_update()
        ).all():
            state = "queued" if row.identity is None else "failed"
            listed |= row.identity is not None
            was = row.bytes if row.bytes is not None else row.size
            changes.count_transition(migration, row.state, state, was, row.size)
            changes.count_proof(migration, row.level, None)
            changes.count_retries(migration, -max(0, row.attempts - 1))
            error = None if row.identity is None else json.dumps(_VANISHED)
            connection.execute(
                _UPDATE.values(state=state, error=error, **_reset_columns(row, if_exists)),
                {"the_id": row.id},
            )
        connection.execute(delete(receipts).where(receipts.c.transfer_id.in_(some)))
    changes.write(connection)
    return listed


_VANISHED: Final = {
    "code": DestinationLost.code,
    "side": "destination",
    "detail": "it had arrived, and is not at its destination any more",
    "hint": "Give the same command again: the list is read again then.",
}


def forget_gone(connection: Connection, listing: Listing) -> int:
    """Forget the transfers of which this listing did not tell any more, and that have left nothing
    anywhere: they could only fail again. Return how many. A transfer that failed since this listing
    began stays, so that its command ends with that failure, whichever of the two came first.

    A listing that tells of nothing at all proves nothing of them: a source that is not mounted
    looks like that."""
    of_this = transfers.c.migration_id == listing.migration_id
    reported = select(exists().where(of_this, transfers.c.listings == listing.listings))
    if not listing.listings or not connection.execute(reported).scalar():
        return 0
    gone = of_this & (transfers.c.listings < listing.listings)
    gone &= transfers.c.state.in_(TRANSFER["retry"].origins - {"unverified"}) & (
        transfers.c.lapses == 0
    )
    gone &= ~exists().where(uploads.c.transfer_id == transfers.c.id)
    again = (events.c.migration_id == listing.migration_id) & (events.c.kind == "list_again")
    began = connection.execute(select(func.max(events.c.at)).where(again)).scalar() or 0.0
    gone &= transfers.c.ended.is_(None) | (transfers.c.ended <= began)
    counted = (
        transfers.c.state,
        transfers.c.bytes,
        transfers.c.size,
        transfers.c.attempts,
        transfers.c.resent,
    )
    rows = connection.execute(
        delete(transfers).where(gone).returning(transfers.c.id, *counted)
    ).all()
    _store_last_used_id(connection, max((row.id for row in rows), default=0))
    changes = CounterDelta()
    for state, count in Counter(row.state for row in rows).items():
        size = sum(
            (row.bytes if row.bytes is not None else row.size) or 0
            for row in rows
            if row.state == state
        )
        changes.add(listing.migration_id, state, -count, -size)
    changes.count_retries(listing.migration_id, -sum(max(0, row.attempts - 1) for row in rows))
    changes.count_resent_bytes(listing.migration_id, -sum(row.resent for row in rows))
    changes.write(connection)
    return len(rows)
