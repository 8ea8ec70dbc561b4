"""Listing a tree into the ledger: claimed like any work, written page by page, and gone on with after a crash.

A name that was written before is left as it is, so that a listing may safely begin anew; where the store can list
from a name on, `cursor` saves the way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, select, update

from relay.errors import LeaseLost
from relay.ledger.claims import Who, chunks, first_fence
from relay.ledger.migrations import tell
from relay.ledger.rows import Listed, Listing
from relay.ledger.schema import migrations, transfers
from relay.ledger.tally import Changes


def _due(only: str | None) -> Select[Any]:
    due = select(migrations).where(migrations.c.state == "running", migrations.c.listing == "due")
    return due if only is None else due.where(migrations.c.id == only)


def due(connection: Connection, only: str | None = None) -> bool:
    """Say if there seems to be a listing to claim. Writes nothing."""
    return connection.execute(_due(only).limit(1)).first() is not None


def claim_listing(connection: Connection, who: Who, only: str | None = None) -> Listing | None:
    """Claim the listing of one migration, or None if there is none to do."""
    query = _due(only).order_by(migrations.c.priority.desc(), migrations.c.number).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    fence = row.listing_fence + 1
    connection.execute(
        update(migrations)
        .where(migrations.c.id == row.id)
        .values(listing="running", listing_owner=who.id, listing_fence=fence)
    )
    return Listing(row.id, fence, row.cursor, row.renewed)


def add_page(connection: Connection, who: Who, listing: Listing, page: Sequence[Listed], cursor: str | None) -> bool:
    """Write a page of objects, and how far it went. Returns whether to go on: not when paused or cancelled.

    Raises LeaseLost.
    """
    stage = _change(connection, who, listing, {"cursor": cursor})
    if page:
        new = _insert(connection, transfers).on_conflict_do_nothing(index_elements=["migration_id", "name"])
        rows = [
            {
                "migration_id": listing.migration_id,
                "state": "failed" if one.error else "queued",
                "error": json.dumps(one.error) if one.error else None,
                "name": one.name,
                "size": one.size,
                "etag": one.etag,
                "modified": one.modified,
                "url": one.url,
                "fence": first_fence(listing.fence),
                "digests": json.dumps(one.digests) if one.digests else None,
            }
            for one in page
        ]
        changes = Changes()
        for row in connection.execute(new.returning(transfers.c.size, transfers.c.state), rows):
            changes.add(listing.migration_id, row.state, 1, row.size)
        changes.write(connection)
    return stage == "running"


def clashes(connection: Connection, listing: Listing, page: Sequence[Listed]) -> set[str]:
    """Return the names of which a list gives two URLs: only one of them could arrive.

    Those that have arrived already keep no URL, and can't be compared.
    """
    urls: dict[str, str] = {}
    found = {one.name for one in page if one.url and urls.setdefault(one.name, one.url) != one.url}
    known = select(transfers.c.name, transfers.c.url).where(
        transfers.c.migration_id == listing.migration_id, transfers.c.name.in_(list(urls)), transfers.c.url.is_not(None)
    )
    return found | {row.name for row in connection.execute(known) if row.url != urls[row.name]}


def unknown(connection: Connection, id: str, names: Sequence[str]) -> set[str]:
    """Return those of some names of which a migration has no object."""
    found: set[str] = set()
    for some in chunks(names):
        known = select(transfers.c.name).where(transfers.c.migration_id == id, transfers.c.name.in_(some))
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


def renew_urls(connection: Connection, id: str, urls: Mapping[str, str]) -> None:
    """Keep fresh URLs by their names in the place of the old ones; what has arrived has none any more, and gets none.

    Whoever has claimed one goes on with the old one until it is claimed again.
    """
    rows = [{"the_migration": id, "the_name": name, "the_url": url} for name, url in urls.items()]
    if rows:
        connection.execute(_RENEW, rows)


def end_listing(connection: Connection, who: Who, listing: Listing, error: Mapping[str, Any] | None = None) -> None:
    """Say that a listing is whole, or why it can't be had. Raises LeaseLost."""
    state = "done" if error is None else "failed"
    _change(
        connection,
        who,
        listing,
        {"listing": state, "listing_owner": None, "error": None if error is None else json.dumps(error)},
    )
    tell(connection, listing.migration_id, f"listing_{state}", error or {})


def hand_back_listing(connection: Connection, who: Who, listing: Listing) -> None:
    """Let somebody else go on with a listing. Raises LeaseLost."""
    _change(connection, who, listing, {"listing": "due", "listing_owner": None})


def disown_listings(connection: Connection, who: Who) -> None:
    """Let go of every listing that stands as this runner's: one that lists nothing at the moment says so."""
    ours = (migrations.c.listing_owner == who.id) & (migrations.c.listing == "running")
    connection.execute(update(migrations).where(ours).values(listing="due", listing_owner=None))


def _change(connection: Connection, who: Who, listing: Listing, values: Mapping[str, Any]) -> str:
    held = (
        (migrations.c.id == listing.migration_id)
        & (migrations.c.listing_owner == who.id)
        & (migrations.c.listing_fence == listing.fence)
        & (migrations.c.listing == "running")
    )
    if not connection.execute(update(migrations).where(held).values(**values)).rowcount:
        raise LeaseLost("the listing was given to another worker")
    stage: str = connection.execute(
        select(migrations.c.state).where(migrations.c.id == listing.migration_id)
    ).scalar_one()
    return stage


def _insert(connection: Connection, table: Table) -> Any:
    """Return the dialect's own INSERT, which knows ON CONFLICT. Imports that dialect alone: both cost 0.03 s."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert

        return insert(table)
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table)
