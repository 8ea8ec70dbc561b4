"""Migrations in the ledger: create, show, control, end."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    true,
    update,
)

from relay.errors import (
    CredentialsWithdrawn,
    IllegalTransition,
    KeyReused,
    MigrationUnknown,
    PermissionDenied,
    Unauthenticated,
)
from relay.ledger.counters import CounterDelta, efforts_of, parts_of, tallies_of
from relay.ledger.identity_hashes import (
    IdentityHashes,
    identity_hashes_of,
    is_older,
    is_unnamed,
    is_whole_text,
)
from relay.ledger.part_movers import movers_of
from relay.ledger.retried import retried_of, split_listing_retry
from relay.ledger.rows import TERMINAL, Efforts, Migration, Spec
from relay.ledger.schema import (
    APPLICATION_ID,
    LAPSED,
    QUEUED,
    RUNNING,
    TRUSTED,
    events,
    migrations,
    secrets,
    transfers,
    uploads,
)
from relay.ledger.states import (
    COMPLETED,
    ENDED,
    MIGRATION,
    PENDING,
    PRESENT,
    TRANSFER,
    ListingState,
    MigrationState,
    TransferState,
    ending_verb,
    state_after,
)
from relay.ledger.unproved import adopt_unproved, find_unproved
from relay.throttle import Bounds

ACCEPTING = APPLICATION_ID + 1
"""Key of the PostgreSQL advisory lock under which migrations are accepted."""
_ID = re.compile(r"[0-9a-f-]{1,36}")
WITHDRAWN: Final = frozenset(
    {Unauthenticated.code, CredentialsWithdrawn.code, PermissionDenied.code}
)
"""Codes of the errors for which a migration pauses until it gets other credentials."""


def create(
    connection: Connection,
    spec: Spec,
    key: str | None = None,
    go_on: bool = False,
    runner: str = TERMINAL,
) -> tuple[Migration, bool]:
    """Accept a migration for one kind of worker; return it and True.

    Returns an earlier migration and False if the idempotency `key` was used before. With `go_on`
    the newest migration of the same request and kind is returned if it has not succeeded. Raises
    KeyReused if the key belongs to another request."""
    _lock_acceptance(connection)
    marks = identity_hashes_of(connection, spec)
    earlier = None
    if key is not None:
        earlier = _find_by_key(connection, spec, marks, key)
    if earlier is None and go_on:
        earlier = _adopt_unfinished(connection, spec, marks, runner)
    if earlier is not None:
        return one(connection, earlier), False
    id = _insert_migration(connection, spec, marks, key, runner)
    if not spec.recursive:
        _insert_object(connection, id, spec)
    write_event(connection, id, "accepted", {})
    return one(connection, id), True


def _find_by_key(connection: Connection, spec: Spec, marks: IdentityHashes, key: str) -> str | None:
    """Return the id of the migration with this idempotency key, or None. Raises KeyReused if it is
    another request's."""
    row = connection.execute(select(migrations).where(migrations.c.key == key)).first()
    if row is None:
        return None
    same = (row.spec, row.owner) == (marks.spec, marks.owner)
    if not (same or is_older(row, spec, secret(connection, row.id))):
        raise KeyReused("the Idempotency-Key was already used for another request")
    found: str = row.id
    return found


def _adopt_unfinished(
    connection: Connection, spec: Spec, marks: IdentityHashes, runner: str
) -> str | None:
    """Return the id of the migration that this request resumes, or None. From now on it has this
    request's hashes and kind of worker."""
    id = _unfinished(connection, spec, marks, runner)
    if id is not None:
        known = {"spec": marks.spec, "places": marks.places, "owner": marks.owner, "runner": runner}
        connection.execute(update(migrations).where(migrations.c.id == id).values(**known))
        adopt_unproved(connection, id)
    return id


def _insert_migration(
    connection: Connection, spec: Spec, marks: IdentityHashes, key: str | None, runner: str
) -> str:
    """Insert a migration with the next number, and its secret; return its id."""
    number = (connection.execute(select(func.max(migrations.c.number))).scalar() or 0) + 1
    id = str(uuid.uuid4())
    connection.execute(
        insert(migrations),
        {
            "id": id,
            "number": number,
            "state": MigrationState.RUNNING,
            "source": spec.source,
            "destination": spec.destination,
            "options": json.dumps(spec.options),
            "spec": marks.spec,
            "places": marks.places,
            "owner": marks.owner,
            "runner": runner,
            "key": key,
            "priority": spec.priority,
            **spec.bounds.to_json(),
            "listing": ListingState.DUE if spec.recursive else ListingState.NONE,
            "entries": 0 if spec.recursive else 1,
            "created": time.time(),
        },
    )
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(spec.secret)})
    return id


def _insert_object(connection: Connection, id: str, spec: Spec) -> None:
    """Insert the transfer of a migration of one object. Another migration may have left an unproved
    object at its place."""
    left = find_unproved(connection, id, spec.options.get("if_exists", ""), [""]).get("")
    begun = {"fence": int(left is not None), "before": left}
    connection.execute(
        insert(transfers),
        {"migration_id": id, "name": "", "state": TransferState.QUEUED, **begun},
    )
    changes = CounterDelta()
    changes.add(id, TransferState.QUEUED, 1, None)
    changes.write(connection)


def _lock_acceptance(connection: Connection) -> None:
    """Lock out other transactions that number a migration or use a key, until this one ends. In
    SQLite every writing transaction has that lock already."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ACCEPTING})


def write_event(
    connection: Connection, migration: str, kind: str, members: Mapping[str, Any]
) -> None:
    """Write an event of a migration; `members` are its JSON members besides `id`, `at`, `kind`."""
    row = {
        "migration_id": migration,
        "at": time.time(),
        "kind": kind,
        "members": json.dumps(members),
    }
    connection.execute(insert(events), row)


# -- reads


def one(connection: Connection, id: str, runner: str | None = None) -> Migration:
    """Return a migration by its id, or by the number that people use. Raises MigrationUnknown; also
    for a migration that belongs to another kind of worker than `runner`."""
    numbered = id.isascii() and id.isdigit() and len(id) < 10
    named = migrations.c.number == int(id) if numbered else migrations.c.id == id
    row = None
    if _ID.fullmatch(id) is not None:  # a database refuses some characters
        row = connection.execute(select(migrations).where(named, of_kind(runner))).first()
    if row is None:
        raise MigrationUnknown(f"there is no migration {id!a}")
    return _with_counts(connection, [row])[0]


def of_kind(runner: str | None) -> ColumnElement[bool]:
    """Return the condition for the migrations of one kind of worker, and for those whose kind is
    unknown. None means every migration."""
    if runner is None:
        return true()
    return migrations.c.runner.is_(None) | (migrations.c.runner == runner)


def many(
    connection: Connection, limit: int, before: int | None = None, runner: str | None = None
) -> list[Migration]:
    """Return up to `limit` migrations, newest first. With `before`, only those with a lower
    number."""
    query = (
        select(migrations).where(of_kind(runner)).order_by(migrations.c.number.desc()).limit(limit)
    )
    if before is not None:
        query = query.where(migrations.c.number < before)
    return _with_counts(connection, connection.execute(query).all())


def _unfinished(
    connection: Connection, spec: Spec, marks: IdentityHashes, runner: str
) -> str | None:
    """Return the id of the newest migration of the same request and accounts, unless it succeeded.
    Without one, return a migration that is paused for other credentials: the account may differ."""
    ours = migrations.c.runner.is_(None) | (migrations.c.runner == runner)
    newest = select(migrations).where(ours).order_by(migrations.c.number.desc())
    same = newest.where(migrations.c.spec == marks.spec)
    row = connection.execute(same.where(migrations.c.owner == marks.owner).limit(1)).first()
    if row is not None:
        return None if row.state == MigrationState.SUCCEEDED else row.id
    for row in connection.execute(same.where(migrations.c.state == MigrationState.PAUSED).limit(1)):
        if (error := split_listing_retry(row.error)[0]) and error["code"] in WITHDRAWN:
            return str(row.id)
    row = connection.execute(
        newest.where(migrations.c.spec == spec.printed_digest).limit(1)
    ).first()
    if (
        row is None
        or row.state == MigrationState.SUCCEEDED
        or not is_older(row, spec, secret(connection, row.id))
    ):
        return None
    tally = tallies_of(connection, [row.id])[row.id]
    # An older relay did not record the endpoint that a remote's name stood for. Objects that have
    # arrived may be elsewhere than the name leads to now.
    arrived = tally.keys() & PRESENT
    return row.id if is_whole_text(spec.secret) or not arrived else None


def _with_counts(connection: Connection, rows: Sequence[Row[Any]]) -> list[Migration]:
    """Return the migrations of some rows, with their counters."""
    ids = [row.id for row in rows]
    tallies, arrived, efforts = (
        tallies_of(connection, ids),
        parts_of(connection, ids),
        efforts_of(connection, ids),
    )
    sharers = movers_of(connection, ids)
    retried = retried_of(connection, [id for id in ids if TransferState.RUNNING in tallies[id]])
    return [
        replace(
            _migration(
                row,
                tallies[row.id],
                arrived.get(row.id, 0),
                efforts.get(row.id, Efforts()),
                sharers[row.id],
            ),
            retried=(*_listing_retried(row), *retried.get(row.id, ())),
        )
        for row in rows
    ]


def _listing_retried(row: Row[Any]) -> Iterator[Mapping[str, Any]]:
    trouble = split_listing_retry(row.error)[1]
    if trouble is not None and row.listing == ListingState.RUNNING:
        yield {"name": "", **trouble}


def secret(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the stored locations and credentials of both stores, or None if they were deleted."""
    text = connection.execute(
        select(secrets.c.locations).where(secrets.c.migration_id == id)
    ).scalar()
    return None if text is None else json.loads(text)


def events_of(connection: Connection, id: str, since: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` of a migration's events, those with a number above `since`."""
    query = (
        select(events)
        .where(events.c.migration_id == id, events.c.id > since)
        .order_by(events.c.id)
        .limit(limit)
    )
    return [
        {"id": row.id, "at": row.at, "kind": row.kind, **json.loads(row.members)}
        for row in connection.execute(query)
    ]


def last_pause_error(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the error for which a migration last paused by itself, or None if it never did."""
    query = select(events.c.members).where(events.c.migration_id == id, events.c.kind == "paused")
    text = connection.execute(query.order_by(events.c.id.desc()).limit(1)).scalar()
    return None if text is None else json.loads(text)


def gone_since(connection: Connection, id: str, since: float) -> int:
    """Return the number of failed and cancelled objects that listings which have ended `since` then
    (seconds since 1970) no longer named, and that were deleted (`entries.forget_gone`)."""
    done = (events.c.migration_id == id) & (events.c.kind == "listing_done")
    found = connection.execute(select(events.c.members).where(done, events.c.at >= since)).scalars()
    return sum(json.loads(members).get("gone", 0) for members in found)


def _migration(
    row: Row[Any], tally: Mapping[str, Any], in_parts: int, efforts: Efforts, sharers: int
) -> Migration:
    return Migration(
        id=row.id,
        number=row.number,
        state=row.state,
        source=row.source,
        destination=row.destination,
        options=json.loads(row.options),
        listing=row.listing,
        cursor=row.cursor,
        error=split_listing_retry(row.error)[0],
        priority=row.priority,
        created=row.created,
        ended=row.ended,
        destination_empty=bool(row.destination_empty),
        bounds=bounds_of(row),
        renewed=row.renewed,
        entries=row.entries,
        runner=row.runner,
        tally=tally,
        in_parts=in_parts,
        efforts=efforts,
        sharers=sharers,
    )


def bounds_of(row: Any) -> Bounds:
    """Return the bounds in a migration's row."""
    return Bounds(row.slots, row.bytes_per_second, row.connections)


# -- control


def act(
    connection: Connection, id: str, verb: str, fresh: Spec | Mapping[str, Any] | None = None
) -> Migration:
    """Pause, resume, cancel or retry a migration, by `verb`. Idempotent.

    `fresh` are new credentials for the remaining objects, alone or with the locations that they are
    for. Raises MigrationUnknown, IllegalTransition, and KeyReused if those are other locations."""
    found = lock_migration(connection, id)
    try:
        state = state_after(MIGRATION, verb, found.state)
    except IllegalTransition:
        raise not_now(found, verb) from None
    forgotten = state == MigrationState.RUNNING and secret(connection, found.id) is None
    if isinstance(fresh, Spec):
        _learn_owner(connection, found.id, fresh)
        fresh = fresh.secret
    if fresh is not None:
        renew_secret(connection, found.id, fresh)
    elif forgotten:
        raise IllegalTransition(
            "its credentials were forgotten after it ended", hint=_GIVE_CREDENTIALS
        )
    if found.recursive and (forgotten or (verb == "retry" and _lacks_urls(connection, found.id))):
        return list_again(connection, found.id)  # the URLs of its list were forgotten
    if state is None:
        return found
    changes = CounterDelta()
    refused = (
        _forget_refused(connection, found.id, changes) if verb == "retry" and found.recursive else 0
    )
    changed = _columns_changed_by(found, verb, refused)
    changed |= {"state": state, "ended": time.time() if state in ENDED else None, "looked": None}
    connection.execute(update(migrations).where(migrations.c.id == found.id).values(**changed))
    if verb == "cancel":
        _move_all(connection, found.id, TransferState.QUEUED, "cancel", changes)
    if verb == "retry":
        for ended in sorted(TRANSFER["retry"].origins):
            _move_all(connection, found.id, ended, "retry", changes)
    changes.write(connection)
    write_event(connection, found.id, verb, {})
    return one(connection, found.id)


_DONE = {
    "pause": "paused",
    "resume": "resumed",
    "cancel": "cancelled",
    "retry": "retried",
    "limit": "limited",
}
_INSTEAD: Mapping[str, str] = {
    MigrationState.SUCCEEDED: (
        "It has succeeded. Start another migration for new objects at the source."
    ),
    MigrationState.RUNNING: (
        "Wait until it ends, or cancel it first: `relay cancel`, or POST …/cancel."
    ),
    MigrationState.PAUSED: "Resume it first: `relay resume`, or POST …/resume.",
}
_RETRY = (
    "Run `relay retry`, or POST …/retry: it queues again the objects that failed, were cancelled or"
    " could not be verified."
)


def _lacks_urls(connection: Connection, id: str) -> bool:
    """Say if the URLs of a list's objects were forgotten. Its credentials may be there: the same
    command gives them before it lists again."""
    lacking = (transfers.c.migration_id == id) & transfers.c.ended.is_not(None)
    lacking &= transfers.c.state.in_(TRANSFER["retry"].origins)
    lacking &= transfers.c.identity.is_not(None) & transfers.c.url.is_(None)
    return bool(connection.execute(select(exists().where(lacking))).scalar())


def not_now(found: Migration, verb: str) -> IllegalTransition:
    """Return the error of a verb that a migration's state does not allow."""
    message = (
        f"migration {found.number} can't be {_DONE.get(verb, verb)}: its state is {found.state}"
    )
    return IllegalTransition(message, hint=_INSTEAD.get(found.state, _RETRY))


def lock_migration(connection: Connection, id: str) -> Migration:
    """Return a migration as `one` does, and lock its row until this transaction ends: a decision
    that depends on its state then holds.

    In SQLite a writing transaction has the lock already. Raises MigrationUnknown."""
    found = one(connection, id)
    query = (
        select(migrations.c.id).where(migrations.c.id == found.id).with_for_update(key_share=True)
    )
    connection.execute(query)
    return one(connection, found.id)


def _learn_owner(connection: Connection, id: str, spec: Spec) -> None:
    """Record the accounts that resume a migration. Raises KeyReused if the locations are not the
    migration's."""
    if not is_at(connection, id, spec):
        raise other_places()
    marks = identity_hashes_of(connection, spec)
    row = migrations.c.id == id
    connection.execute(update(migrations).where(row).values(owner=marks.owner))
    older = {"places": marks.places, "spec": marks.spec}
    connection.execute(update(migrations).where(row, migrations.c.places.is_(None)).values(**older))


def other_places() -> KeyReused:
    """Return the error of locations that are not the migration's."""
    return KeyReused(
        "the source or the destination is not that of the migration",
        hint=(
            "Give the same source and destination with fresh credentials, or start a new migration"
            " with POST /migrate."
        ),
    )


def is_at(connection: Connection, id: str, spec: Spec) -> bool:
    """Say if a migration's locations are those of `spec`. Reads only."""
    row = connection.execute(select(migrations).where(migrations.c.id == id)).one()
    if row.places is None:
        return is_older(row, spec, secret(connection, id))
    if row.places == identity_hashes_of(connection, spec).places:
        return True
    return is_unnamed(connection, row, spec, secret(connection, id))


_GIVE_CREDENTIALS: Final = (
    "Give its source and destination again with their credentials, or run the same command again."
)


def _columns_changed_by(found: Migration, verb: str, refused: int) -> dict[str, Any]:
    """Return the columns that `verb` changes besides the state. `refused` entries of the listing
    were deleted, so that a number above 0 restarts the listing."""
    changed: dict[str, Any] = {}
    if verb in ("resume", "retry"):  # workers must read the credentials again, from any source
        changed |= {"renewed": migrations.c.renewed + 1, "error": None}
    if verb == "retry":
        changed |= {
            "listing": ListingState.DUE if found.listing == ListingState.FAILED else found.listing,
            "listing_lapses": 0,
        }
    if refused:  # list again from the beginning
        changed |= {
            "listing": ListingState.DUE,
            "cursor": None,
            "entries": migrations.c.entries - refused,
        }
    return changed


def list_again(connection: Connection, id: str, anyway: bool = False) -> Migration:
    """Restart an ended migration of a tree with a new listing. Objects that did not arrive, are new
    or have changed are then moved. A migration that has not ended is listed again only with
    `anyway`. Raises MigrationUnknown, IllegalTransition."""
    found = lock_migration(connection, id)
    under_way = anyway and found.state in (MigrationState.RUNNING, MigrationState.PAUSED)
    if not under_way and state_after(MIGRATION, "retry", found.state) is None:
        return found
    values = {
        "state": MigrationState.RUNNING,
        "ended": None,
        "error": None,
        "listing": ListingState.DUE,
        "cursor": None,
        "listing_lapses": 0,
        "looked": None,
    }
    again = {"listings": migrations.c.listings + 1, "renewed": migrations.c.renewed + 1}
    connection.execute(
        update(migrations).where(migrations.c.id == found.id).values(**values, **again)
    )
    write_event(connection, found.id, "list_again", {})
    return one(connection, found.id)


def lock_unended(connection: Connection, id: str) -> Migration:
    """Lock a migration that has not succeeded, as `lock_migration` does. Raises MigrationUnknown,
    and IllegalTransition if it has succeeded (another process may have ended it meanwhile)."""
    found = lock_migration(connection, id)
    if found.state == MigrationState.SUCCEEDED:
        raise not_now(found, "retry")
    return found


def reset_crash_counts(connection: Connection, id: str) -> None:
    """Set the crash counts of the remaining transfers and of the listing to 0, because a person
    asked to resume. That a destination was empty before is not assumed any longer: the person may
    have put something there."""
    fresh = {"listing_lapses": 0, "looked": None}
    connection.execute(update(migrations).where(migrations.c.id == id).values(**fresh))
    left = (
        (transfers.c.migration_id == id) & transfers.c.state.in_(PENDING) & (transfers.c.lapses > 0)
    )
    connection.execute(update(transfers).where(left).values(lapses=TRUSTED))


def pause_for(connection: Connection, id: str, error: Mapping[str, Any]) -> Migration:
    """Pause a migration whose stores want other credentials, and store the `error`. Raises
    MigrationUnknown, IllegalTransition."""
    found = lock_migration(connection, id)
    if state_after(MIGRATION, "pause", found.state) is None:
        return found
    values = {"state": MigrationState.PAUSED, "error": json.dumps(error), "looked": None}
    connection.execute(update(migrations).where(migrations.c.id == id).values(**values))
    write_event(connection, id, "paused", error)
    return one(connection, id)


def renew_secret(connection: Connection, id: str, secret: Mapping[str, Any]) -> None:
    """Replace a migration's credentials. The column `renewed` tells workers that theirs are old."""
    row = migrations.c.id == id
    connection.execute(update(migrations).where(row).values(renewed=migrations.c.renewed + 1))
    connection.execute(delete(secrets).where(secrets.c.migration_id == id))
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(secret)})


_HALF: Final = 1 << 20


def _move_all(
    connection: Connection, id: str, state: str, verb: str, changes: CounterDelta
) -> None:
    """Apply a verb to every transfer in one state, and add the change of the tallies to
    `changes`."""
    to = TRANSFER[verb].to
    # A person asked for the retry, so the attempts and crashes count from 0 again.
    fresh: dict[str, Any] = {"ended": time.time()}
    if verb == "retry":
        fresh = {"attempts": 0, "lapses": TRUSTED, "not_before": 0, "error": None}
    change = update(transfers).values(state=to, **fresh)
    more = case((transfers.c.attempts > 1, transfers.c.attempts - 1), else_=0)
    size_of = func.coalesce(transfers.c.bytes, transfers.c.size, 0)
    rows = select(transfers.c.id, size_of.label("size"), more.label("more"))
    rows = rows.where(transfers.c.migration_id == id, transfers.c.state == state)
    # In PostgreSQL a single statement counts and changes: between two statements other workers
    # could claim some of these rows, or end more.
    alone = connection.dialect.name == "sqlite"
    held = rows.order_by(transfers.c.id).with_for_update().cte("held").prefix_with("MATERIALIZED")
    changed = (
        change.where(transfers.c.id.in_(select(held.c.id))).returning(transfers.c.id).cte("changed")
    )
    counted = rows.subquery() if alone else held
    # Sum the high and the low bits apart: SQLite refuses a sum beyond 64 bits.
    halves = (func.sum(counted.c.size.op("/")(_HALF)), func.sum(counted.c.size.op("%")(_HALF)))
    sums = select(func.count(), *halves, func.sum(counted.c.more)).select_from(counted)
    count, high, low, retries = connection.execute(sums if alone else sums.add_cte(changed)).one()
    if alone:
        connection.execute(change.where(transfers.c.migration_id == id, transfers.c.state == state))
    size = int(high or 0) * _HALF + int(low or 0)
    changes.add(id, state, -count, -size)
    changes.add(id, to, count, size)
    if verb == "retry":
        changes.count_retries(id, -int(retries or 0))


def _forget_refused(connection: Connection, id: str, changes: CounterDelta) -> int:
    """Delete the entries that a listing refused and no worker has claimed: the next listing reports
    them again. Return their number, and add the change of the tallies to `changes`."""
    never = transfers.c.ended.is_(None) & (transfers.c.attempts == 0)
    refused = (transfers.c.migration_id == id) & (transfers.c.state == TransferState.FAILED) & never
    sizes = (
        connection.execute(delete(transfers).where(refused).returning(transfers.c.size))
        .scalars()
        .all()
    )
    changes.add(id, TransferState.FAILED, -len(sizes), -sum(size or 0 for size in sizes))
    return len(sizes)


# -- end


def finishable_ids(connection: Connection) -> list[str]:
    """Return the migrations that have not ended and have no transfer left. Reads only."""
    rows = connection.execute(_LISTED).all()
    found = tallies_of(connection, [row.id for row in rows]) if rows else {}
    return [row.id for row in rows if not PENDING & found[row.id].keys()]


_LISTED = select(migrations.c.id).where(
    migrations.c.state == MigrationState.RUNNING,
    migrations.c.listing.in_((ListingState.NONE, ListingState.DONE, ListingState.FAILED)),
)


def stray_ids(connection: Connection) -> list[str]:
    """Return the cancelled migrations that have queued transfers: in PostgreSQL a claim may be
    handed back in the moment of the cancel. Reads only."""
    queued = exists().where(transfers.c.migration_id == migrations.c.id, QUEUED)
    query = select(migrations.c.id).where(migrations.c.state == "cancelled", queued)
    return list(connection.execute(query).scalars())


def cancel_strays(connection: Connection) -> None:
    """Cancel the transfers of `stray_ids`, so that their leftovers are removed."""
    changes = CounterDelta()
    for id in sorted(stray_ids(connection)):  # rows are locked in one order: no deadlock
        if lock_migration(connection, id).state == "cancelled":  # else it was retried meanwhile
            _move_all(connection, id, "queued", "cancel", changes)
    changes.write(connection)


KEPT_SECONDS: Final = 24 * 3600.0
"""How long after a failure the credentials, and parts at the destination, are kept for a retry."""
_HOLDS_SECRET: Final = (
    secrets.c.locations.like("%?%")
    | secrets.c.locations.like('%"headers": [[%')
    | migrations.c.source.ilike("list+%")
)
"""The stored locations have a query or a header, either of which may be a secret, or the source is
a list, whose URLs may have signatures."""


def forgettable_ids(connection: Connection, now: float) -> list[str]:
    """Return the ended migrations whose credentials are no longer needed. Reads only.

    A cancelled migration needs them until its unfinished uploads are removed from the destination.
    A failed one keeps them for KEPT_SECONDS as well, for a retry."""
    over = (migrations.c.state == MigrationState.CANCELLED) | (
        migrations.c.state.in_((MigrationState.FAILED, MigrationState.PARTIAL))
        & (migrations.c.ended < now - KEPT_SECONDS)
    )
    ended = (
        select(migrations.c.id)
        .join(secrets, secrets.c.migration_id == migrations.c.id)
        .where(over, _HOLDS_SECRET)
    )
    of = transfers.c.migration_id == migrations.c.id
    moving = exists().where(of, RUNNING)
    lapsed = exists().where(of, LAPSED)
    begun = exists().where(of, uploads.c.transfer_id == transfers.c.id)
    return list(connection.execute(ended.where(~moving, ~lapsed, ~begun)).scalars())


def forget_secrets(connection: Connection, now: float) -> None:
    """Delete the credentials of the migrations in `forgettable_ids`, and their lists' URLs."""
    for id in sorted(forgettable_ids(connection, now)):  # rows are locked in one order: no deadlock
        if lock_migration(connection, id).state not in ENDED:
            continue  # resumed since forgettable_ids read it
        connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        gone = (transfers.c.migration_id == id) & transfers.c.url.is_not(None)
        connection.execute(update(transfers).where(gone).values(url=None))


def _unaccounted_error(listed: int | None, accounted: int) -> dict[str, Any]:
    """Return the error of a migration with more or fewer objects than its listing named."""
    return {
        "code": "listing-unaccounted",
        "side": "relay",
        "detail": f"its listing named {listed:,} objects, and {accounted:,} are accounted for",
        "hint": (
            "Run the same command again, which lists the source again. Please report this: it is a"
            " bug in relay."
        ),
    }


def finish(connection: Connection) -> list[Migration]:
    """End every migration that has no transfer left; return those. The secrets of the succeeded
    ones are deleted."""
    done = []
    for id in sorted(finishable_ids(connection)):  # rows are locked in one order: no deadlock
        row = lock_migration(connection, id)
        tally = {state: counted.objects for state, counted in row.tally.items()}
        if row.state != MigrationState.RUNNING or PENDING & tally.keys():
            continue  # another process ended or retried it since finishable_ids read it
        verb = ending_verb(tally)
        if row.listing == ListingState.FAILED:
            verb = "end_partial" if any(tally.get(state) for state in COMPLETED) else "fail"
        values: dict[str, Any] = {"ended": time.time()}
        if row.listing != ListingState.FAILED and row.entries not in (None, sum(tally.values())):
            verb = "end_partial"
            values["error"] = json.dumps(_unaccounted_error(row.entries, sum(tally.values())))
        state = state_after(MIGRATION, verb, row.state)
        still = (migrations.c.id == id) & (migrations.c.state == row.state)
        if not connection.execute(
            update(migrations).where(still).values(state=state, **values)
        ).rowcount:
            continue  # another worker was first
        if state == MigrationState.SUCCEEDED:
            connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        write_event(connection, id, "ended", {"state": state})
        done.append(one(connection, id))
    return done
