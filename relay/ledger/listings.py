"""Listings in the ledger: claimed like other work, written page by page, resumed after a crash.

What a page changes is such that a listing may safely begin anew (`entries.py`); where the store can
list from a name on, `cursor` saves the way."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Text, bindparam, func, select, update

from relay.errors import LeaseLost
from relay.ledger.claims import SUSPECT, WorkerId, in_chunks
from relay.ledger.entries import forget_gone, write_page
from relay.ledger.folded_names import folded_digest, mark_folded
from relay.ledger.migrations import of_kind, write_event
from relay.ledger.names import has_name
from relay.ledger.rows import Listed, Listing
from relay.ledger.schema import migrations, transfers


def _due(who: WorkerId, only: str | None, alone: bool) -> Select[Any]:
    due = select(migrations).where(migrations.c.state == "running", migrations.c.listing == "due")
    due = due if alone else due.where(migrations.c.listing_lapses < SUSPECT)
    return due.where(of_kind(who.kind) if only is None else migrations.c.id == only)


def has_due_listing(
    connection: Connection, who: WorkerId, only: str | None = None, alone: bool = True
) -> bool:
    """Say if there seems to be a listing to claim. Writes nothing."""
    return connection.execute(_due(who, only, alone).limit(1)).first() is not None


def claim_listing(
    connection: Connection, who: WorkerId, only: str | None = None, alone: bool = True
) -> Listing | None:
    """Claim the listing of one migration, or None if there is none to do; one with which runners
    were lost only where the runner is `alone` with it, and takes nothing else along."""
    query = (
        _due(who, only, alone).order_by(migrations.c.priority.desc(), migrations.c.number).limit(1)
    )
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    fence = row.listing_fence + 1
    connection.execute(
        update(migrations)
        .where(migrations.c.id == row.id)
        .values(
            listing="running", listing_owner=who.id, listing_fence=fence, error=None
        )  # what a lost one told
    )
    return Listing(
        row.id,
        fence,
        row.cursor,
        row.renewed,
        row.listings,
        row.entries is not None,
        row.listing_lapses,
    )


def learn_empty(connection: Connection, who: WorkerId, listing: Listing, empty: bool) -> None:
    """Keep whether anything was at the destination when the listing began, and when that was. A
    destination that was empty once was so before anything of ours went there. Raises LeaseLost."""
    values: dict[str, Any] = {"looked": time.time() if empty else None}
    _change(connection, who, listing, values | ({"destination_empty": True} if empty else {}))


def add_page(
    connection: Connection,
    who: WorkerId,
    listing: Listing,
    page: Sequence[Listed],
    cursor: str | None,
) -> bool:
    """Write a page of objects, and how far it went; nothing of a cancelled migration. Returns
    whether to go on: not when paused or cancelled.

    Raises LeaseLost.
    """
    row = _change(connection, who, listing, {"listing_owner": who.id})
    if row.state == "cancelled":
        # A retry lists from here on: an object that waits when it begins may have lost its URL.
        return False
    if_exists, is_empty = json.loads(row.options).get("if_exists", ""), row.looked is not None
    new = write_page(connection, listing, page, if_exists, folded_digest, is_empty)
    mark_folded(connection, listing.migration_id, [one.name for one in page])
    values: dict[str, Any] = {"cursor": cursor}
    if new:  # whatever lost its runners before, it is not what is listed now
        values |= {"entries": migrations.c.entries + new, "listing_lapses": 0}
    connection.execute(
        update(migrations).where(migrations.c.id == listing.migration_id).values(**values)
    )
    return bool(row.state == "running")


def unknown_names(connection: Connection, id: str, names: Sequence[str]) -> set[str]:
    """Return those of some names of which a migration has no object."""
    found: set[str] = set()
    for some in in_chunks(names):
        known = select(transfers.c.name).where(
            transfers.c.migration_id == id, has_name(connection, some)
        )
        found |= set(connection.execute(known).scalars())
    return set(names) - found


_RENEW = (
    update(transfers)
    .where(
        transfers.c.migration_id == bindparam("the_migration"),
        transfers.c.name == bindparam("the_name"),
        transfers.c.url.is_not(None),
    )
    .values(url=bindparam("the_url"))
)
_BY_MD5 = func.md5(transfers.c.name) == func.md5(bindparam("the_name", type_=Text))


def renew_urls(connection: Connection, id: str, urls: Mapping[str, str]) -> None:
    """Keep fresh URLs by their names in the place of the old ones; what has arrived has none any
    more, and gets none.

    Whoever has claimed one goes on with the old one until it is claimed again.
    """
    rows = [{"the_migration": id, "the_name": name, "the_url": url} for name, url in urls.items()]
    if rows:
        connection.execute(
            _RENEW if connection.dialect.name == "sqlite" else _RENEW.where(_BY_MD5), rows
        )


def end_listing(
    connection: Connection, who: WorkerId, listing: Listing, error: Mapping[str, Any] | None = None
) -> None:
    """Say that a listing is whole, or why it can't be had. Raises LeaseLost."""
    state = "done" if error is None else "failed"
    values: dict[str, Any] = {"listing": state, "listing_owner": None}
    if error is not None:  # else what stands there is why its transfers wait, since a moment ago
        values["error"] = json.dumps(error)
    _change(connection, who, listing, values)
    gone = forget_gone(connection, listing) if error is None else 0
    if gone:
        left = {"entries": migrations.c.entries - gone}
        connection.execute(
            update(migrations).where(migrations.c.id == listing.migration_id).values(**left)
        )
    write_event(
        connection,
        listing.migration_id,
        f"listing_{state}",
        error or ({"gone": gone} if gone else {}),
    )


def hand_back_listing(connection: Connection, who: WorkerId, listing: Listing) -> None:
    """Let somebody else go on with a listing. Raises LeaseLost."""
    _change(connection, who, listing, {"listing": "due", "listing_owner": None})


def release_unknown_listings(connection: Connection, who: WorkerId) -> None:
    """Let go of every listing that stands as this runner's: one that lists nothing at the moment
    says so."""
    ours = (migrations.c.listing_owner == who.id) & (migrations.c.listing == "running")
    connection.execute(update(migrations).where(ours).values(listing="due", listing_owner=None))


def _change(
    connection: Connection, who: WorkerId, listing: Listing, values: Mapping[str, Any]
) -> Any:
    held = (
        (migrations.c.id == listing.migration_id)
        & (migrations.c.listing_owner == who.id)
        & (migrations.c.listing_fence == listing.fence)
        & (migrations.c.listing == "running")
    )
    if not connection.execute(update(migrations).where(held).values(**values)).rowcount:
        raise LeaseLost("the listing was given to another worker")
    columns = (migrations.c.state, migrations.c.options, migrations.c.looked)
    return connection.execute(select(*columns).where(migrations.c.id == listing.migration_id)).one()
