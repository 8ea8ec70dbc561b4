"""Listings in the ledger: claimed like other work, written page by page, resumed after a crash.

Pages can be written again safely, so a listing may restart (`entries.py`). If the store can list
from a name on, `cursor` saves the repetition."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, Text, bindparam, case, func, select, update

from relay.errors import LeaseLost
from relay.ledger.actions import pause_for
from relay.ledger.claims import SUSPECT
from relay.ledger.distrust import doubted_fence
from relay.ledger.entries import write_page
from relay.ledger.event_log import write_event
from relay.ledger.folded_names import folded_digest, mark_folded
from relay.ledger.gone_objects import forget_gone
from relay.ledger.listing_values import AgeOrigins, ListedObject, ListingClaim
from relay.ledger.migration_rows import of_kind
from relay.ledger.names import has_name, in_chunks
from relay.ledger.passes import base_listing, lacks_every_name, note_incomplete, note_listed
from relay.ledger.schema import events, migrations, transfers
from relay.ledger.siblings import lock_names
from relay.ledger.states import EventKind, ListingState, MigrationState
from relay.ledger.workers import WorkerId

_ASKING: Final = (EventKind.ACCEPTED, EventKind.LIST_AGAIN)
"""The events with which a person asks for a listing."""


@dataclass(frozen=True, kw_only=True)
class DueListing:
    """Which listings a worker may claim: with `only` that of one migration, with `without` none of
    some migrations. A suspect listing is claimed only if the worker is `alone`, so that a crash
    affects no other claim."""

    worker: WorkerId
    only: str | None = None
    alone: bool = True
    without: Collection[str] = ()


def _due(wanted: DueListing) -> Select[Any]:
    due = select(migrations).where(
        migrations.c.state == MigrationState.RUNNING, migrations.c.listing == ListingState.DUE
    )
    due = due if wanted.alone else due.where(migrations.c.listing_lapses < SUSPECT)
    if wanted.without:
        due = due.where(migrations.c.id.not_in(sorted(wanted.without)))
    if wanted.only is None:
        return due.where(of_kind(wanted.worker.kind))
    return due.where(migrations.c.id == wanted.only)


def has_due_listing(connection: Connection, wanted: DueListing) -> bool:
    """Return whether there seems to be a listing to claim. Reads only."""
    return connection.execute(_due(wanted).limit(1)).first() is not None


def claim_listing(connection: Connection, wanted: DueListing) -> ListingClaim | None:
    """Claim the listing of one migration; return None if none is due."""
    worker = wanted.worker
    query = _due(wanted).order_by(migrations.c.priority.desc(), migrations.c.number).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    fence = row.listing_fence + 1
    connection.execute(
        update(migrations)
        .where(migrations.c.id == row.id)
        .values(
            listing=ListingState.RUNNING, listing_owner=worker.id, listing_fence=fence, error=None
        )  # the error may be a pending retry of a lost worker
    )
    return ListingClaim(
        migration_id=row.id,
        fence=fence,
        cursor=row.cursor,
        renewed=row.renewed,
        listings=row.listings,
        counted=row.entries is not None,
        crash_count=row.listing_lapses,
        excluded=row.excluded or 0,
        standing=row.phase is not None,
        base=None if row.phase is None else base_listing(connection, row.id),
    )


def age_origins(connection: Connection, id: str) -> AgeOrigins:
    """Return the moments from which the ages in a migration's filters count. A clock that was ahead
    shows later ones than the present, and the acceptance may then have been dated back far: the
    events show the earliest moment that is possible."""
    asked = case((events.c.kind.in_(_ASKING), events.c.at))
    times = select(func.min(events.c.at), func.max(asked)).where(events.c.migration_id == id)
    first, asked_last = connection.execute(times).one()
    accepted = select(migrations.c.created).where(migrations.c.id == id)
    created, now = connection.execute(accepted).scalar_one(), time.time()
    earliest = created if first is None else max(created, first)
    latest = created if asked_last is None else asked_last
    return AgeOrigins(earliest=min(earliest, now), latest=min(latest, now))


def learn_empty(
    connection: Connection, worker: WorkerId, listing: ListingClaim, empty: bool
) -> None:
    """Record whether the destination was empty when the listing began, and when that was seen. A
    destination that was empty once stays recorded as empty at the start. Raises LeaseLost."""
    values: dict[str, Any] = {"looked": time.time() if empty else None}
    _change(connection, worker, listing, values | ({"destination_empty": True} if empty else {}))


def add_page(
    connection: Connection,
    worker: WorkerId,
    listing: ListingClaim,
    page: Sequence[ListedObject],
    cursor: str | None,
    *,
    excluded: int | None = None,
    lacks: bool = False,
) -> bool:
    """Write a page of objects, and the cursor behind it; `excluded` is the number of entries up to
    the cursor that the filters left out, None without filters, and the listing `lacks` names if a
    folder on the page could not be listed. Return False if the migration is paused or cancelled, so
    that the listing must stop; a page of a cancelled migration is not written.

    Raises LeaseLost, also if the ledger has lost an earlier page: each page raises the fence."""
    row = _change(connection, worker, listing, {"listing_fence": listing.fence + 1})
    if row.state == MigrationState.CANCELLED:
        # A retry lists this page again. Objects queued now could lose their URLs before that.
        return False
    lock_names(connection, row.place or row.destination)
    if_exists = json.loads(row.options).get("if_exists", "")
    is_empty = row.looked is not None
    new = write_page(
        connection, listing, page, if_exists=if_exists, folded=folded_digest, is_empty=is_empty
    )
    mark_folded(connection, listing.migration_id, [one.name for one in page])
    if lacks and listing.standing:
        note_incomplete(connection, listing.migration_id)
    values: dict[str, Any] = {"cursor": cursor, "excluded": excluded}
    if new:  # progress: the crashes were caused by something else than the current entries
        values |= {"entries": migrations.c.entries + new, "listing_lapses": 0}
    connection.execute(
        update(migrations).where(migrations.c.id == listing.migration_id).values(**values)
    )
    return bool(row.state == MigrationState.RUNNING)


def unknown_names(connection: Connection, id: str, names: Sequence[str]) -> set[str]:
    """Return the names of which a migration has no object."""
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
    """Replace the URLs of objects, by their names. Arrived objects have no URL any longer, and get
    none.

    A running transfer keeps its old URL until it is claimed again."""
    rows = [{"the_migration": id, "the_name": name, "the_url": url} for name, url in urls.items()]
    if rows:
        connection.execute(
            _RENEW if connection.dialect.name == "sqlite" else _RENEW.where(_BY_MD5), rows
        )


def end_listing(
    connection: Connection,
    worker: WorkerId,
    listing: ListingClaim,
    error: Mapping[str, Any] | None = None,
    *,
    excluded: int | None = None,
) -> None:
    """Record that a listing is complete, or the error with which it failed; of a complete one,
    `excluded` is the number of all entries that the filters left out. Raises LeaseLost."""
    if error is not None:
        failed = {"listing": ListingState.FAILED, "error": json.dumps(error)}
        _change(connection, worker, listing, {**failed, "listing_owner": None})
        write_event(connection, listing.migration_id, EventKind.LISTING_FAILED, error)
        return
    if listing.standing and lacks_every_name(connection, listing.migration_id):
        due = {"listing": ListingState.DUE, "listing_owner": None, "cursor": None}
        _change(connection, worker, listing, due)
        pause_for(connection, listing.migration_id, _SOURCE_EMPTY)
        return
    # The column `error` keeps the reason for which transfers just paused.
    values = {"listing": ListingState.DONE, "listing_owner": None, "excluded": excluded}
    _change(connection, worker, listing, values)
    if listing.standing:
        note_listed(connection, listing.migration_id, time.time())
    gone = forget_gone(connection, listing)
    if gone:
        # `finish` compares this number with the tallies, which no longer have these objects.
        left = {"entries": migrations.c.entries - gone}
        connection.execute(
            update(migrations).where(migrations.c.id == listing.migration_id).values(**left)
        )
    members = {"gone": gone} if gone else {}
    write_event(connection, listing.migration_id, EventKind.LISTING_DONE, members)


_SOURCE_EMPTY: Final = {
    "code": "source-empty",
    "side": "source",
    "detail": "the source has no object any longer; the pass before found some",
    "hint": (
        "Check that it is the right place, and that it is mounted. Nothing was deleted at the"
        " destination. `relay resume` lists the source again."
    ),
}


def hand_back_listing(connection: Connection, worker: WorkerId, listing: ListingClaim) -> None:
    """Release a listing, so that another worker can resume it. Raises LeaseLost."""
    _change(connection, worker, listing, {"listing": ListingState.DUE, "listing_owner": None})


def release_unknown_listings(connection: Connection, worker: WorkerId, doubted: bool) -> None:
    """Release every listing that the ledger holds for this worker, which lists nothing now. If it
    is `doubted` that the ledger has every page of it, the objects that are listed next may have
    been claimed before."""
    ours = (migrations.c.listing_owner == worker.id) & (
        migrations.c.listing == ListingState.RUNNING
    )
    fence = doubted_fence() if doubted else migrations.c.listing_fence
    released = {"listing": ListingState.DUE, "listing_owner": None, "listing_fence": fence}
    connection.execute(update(migrations).where(ours).values(**released))


def _change(
    connection: Connection, worker: WorkerId, listing: ListingClaim, values: Mapping[str, Any]
) -> Any:
    held = (
        (migrations.c.id == listing.migration_id)
        & (migrations.c.listing_owner == worker.id)
        & (migrations.c.listing_fence == listing.fence)
        & (migrations.c.listing == ListingState.RUNNING)
    )
    if not connection.execute(update(migrations).where(held).values(**values)).rowcount:
        raise LeaseLost("the listing was given to another worker")
    columns = (
        *(migrations.c.state, migrations.c.options, migrations.c.looked),
        *(migrations.c.place, migrations.c.destination),
    )
    return connection.execute(select(*columns).where(migrations.c.id == listing.migration_id)).one()
