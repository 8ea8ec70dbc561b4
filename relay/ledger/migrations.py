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
    RUNNING,
    TRUSTED,
    events,
    migrations,
    secrets,
    transfers,
    uploads,
)
from relay.ledger.states import ENDED, MIGRATION, TRANSFER, ending_verb, state_after
from relay.ledger.unproved import adopt_unproved, find_unproved
from relay.throttle import Bounds

ACCEPTING = APPLICATION_ID + 1
"""PostgreSQL's lock under which migrations are accepted."""
_ID = re.compile(r"[0-9a-f-]{1,36}")
WITHDRAWN: Final = frozenset(
    {Unauthenticated.code, CredentialsWithdrawn.code, PermissionDenied.code}
)
"""The errors of a migration that waits for other credentials."""


def create(
    connection: Connection,
    spec: Spec,
    key: str | None = None,
    go_on: bool = False,
    runner: str = TERMINAL,
) -> tuple[Migration, bool]:
    """Accept a migration for one kind of runner; with a `key` that was given before, return the one
    of then, and False. To `go_on`, return the newest of the same request and kind that did not
    succeed, if there is one, and False.

    Raises KeyReused where that of the key was another request.
    """
    _one_at_a_time(connection)
    marks = identity_hashes_of(connection, spec)
    if key is not None:
        row = connection.execute(select(migrations).where(migrations.c.key == key)).first()
        if row is not None:
            same = (row.spec, row.owner) == (marks.spec, marks.owner)
            if not (same or is_older(row, spec, secret(connection, row.id))):
                raise KeyReused("the Idempotency-Key belongs to a migration of something else")
            return one(connection, row.id), False
    if go_on and (id := _unfinished(connection, spec, marks, runner)) is not None:
        known = {"spec": marks.spec, "places": marks.places, "owner": marks.owner, "runner": runner}
        connection.execute(update(migrations).where(migrations.c.id == id).values(**known))
        adopt_unproved(connection, id)
        return one(connection, id), False
    number = (connection.execute(select(func.max(migrations.c.number))).scalar() or 0) + 1
    id = str(uuid.uuid4())
    connection.execute(
        insert(migrations),
        {
            "id": id,
            "number": number,
            "state": "running",
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
            "listing": "due" if spec.recursive else "none",
            "entries": 0 if spec.recursive else 1,
            "created": time.time(),
        },
    )
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(spec.secret)})
    if not spec.recursive:
        left = find_unproved(connection, id, spec.options.get("if_exists", ""), [""]).get("")
        begun = {"fence": int(left is not None), "before": left}
        connection.execute(
            insert(transfers), {"migration_id": id, "name": "", "state": "queued", **begun}
        )
        changes = CounterDelta()
        changes.add(id, "queued", 1, None)
        changes.write(connection)
    write_event(connection, id, "accepted", {})
    return one(connection, id), True


def _one_at_a_time(connection: Connection) -> None:
    """Let nobody else number a migration, or use its key, until this transaction is over. SQLite's
    has the lock."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ACCEPTING})


def write_event(
    connection: Connection, migration: str, kind: str, members: Mapping[str, Any]
) -> None:
    """Write an event."""
    row = {
        "migration_id": migration,
        "at": time.time(),
        "kind": kind,
        "members": json.dumps(members),
    }
    connection.execute(insert(events), row)


# -- looked at


def one(connection: Connection, id: str, runner: str | None = None) -> Migration:
    """Return a migration by its id, or by the number under which people know it; to one kind of
    `runner` those of others are not there. Raises MigrationUnknown."""
    numbered = id.isascii() and id.isdigit() and len(id) < 10
    named = migrations.c.number == int(id) if numbered else migrations.c.id == id
    known = _ID.fullmatch(id) is not None  # no database takes every character
    row = (
        connection.execute(select(migrations).where(named, of_kind(runner))).first()
        if known
        else None
    )
    if row is None:
        raise MigrationUnknown(f"there is no migration {id!a}")
    return _with_counts(connection, [row])[0]


def of_kind(runner: str | None) -> ColumnElement[bool]:
    """Return the condition for the migrations of one kind of runner, and those of which it is not
    known; None: all."""
    return (
        true()
        if runner is None
        else migrations.c.runner.is_(None) | (migrations.c.runner == runner)
    )


def many(
    connection: Connection, limit: int, before: int | None = None, runner: str | None = None
) -> list[Migration]:
    """Return migrations, the newest first, as `one` shows them; with `before`, those older than
    that number."""
    query = (
        select(migrations).where(of_kind(runner)).order_by(migrations.c.number.desc()).limit(limit)
    )
    if before is not None:
        query = query.where(migrations.c.number < before)
    return _with_counts(connection, connection.execute(query).all())


def _unfinished(
    connection: Connection, spec: Spec, marks: IdentityHashes, runner: str
) -> str | None:
    """Return the newest migration of the same request, by the same accounts, if it did not succeed;
    or one that waits for other credentials, which may be another account's."""
    ours = migrations.c.runner.is_(None) | (migrations.c.runner == runner)
    newest = select(migrations).where(ours).order_by(migrations.c.number.desc())
    same = newest.where(migrations.c.spec == marks.spec)
    row = connection.execute(same.where(migrations.c.owner == marks.owner).limit(1)).first()
    if row is not None:
        return None if row.state == "succeeded" else row.id
    for row in connection.execute(same.where(migrations.c.state == "paused").limit(1)):
        if (error := split_listing_retry(row.error)[0]) and error["code"] in WITHDRAWN:
            return str(row.id)
    row = connection.execute(
        newest.where(migrations.c.spec == spec.printed_digest).limit(1)
    ).first()
    if (
        row is None
        or row.state == "succeeded"
        or not is_older(row, spec, secret(connection, row.id))
    ):
        return None
    tally = tallies_of(connection, [row.id])[row.id]
    # Which endpoint a remote meant then nobody knows: what has arrived may not be where it leads to
    # now.
    return (
        row.id
        if is_whole_text(spec.secret) or not tally.keys() & {"verified", "skipped", "unverified"}
        else None
    )


def _with_counts(connection: Connection, rows: Sequence[Row[Any]]) -> list[Migration]:
    """Return the migrations of some rows, with what is counted of them."""
    ids = [row.id for row in rows]
    tallies, arrived, efforts = (
        tallies_of(connection, ids),
        parts_of(connection, ids),
        efforts_of(connection, ids),
    )
    sharers = movers_of(connection, ids)
    retried = retried_of(connection, [id for id in ids if "running" in tallies[id]])
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
    if trouble is not None and row.listing == "running":
        yield {"name": "", **trouble}


def secret(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return what is needed to speak to both stores, or None when the migration is over."""
    text = connection.execute(
        select(secrets.c.locations).where(secrets.c.migration_id == id)
    ).scalar()
    return None if text is None else json.loads(text)


def events_of(connection: Connection, id: str, since: int, limit: int) -> list[dict[str, Any]]:
    """Return a migration's events after number `since`."""
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
    """Return the error for which a migration paused by itself the last time, or None where it never
    did."""
    query = select(events.c.members).where(events.c.migration_id == id, events.c.kind == "paused")
    text = connection.execute(query.order_by(events.c.id.desc()).limit(1)).scalar()
    return None if text is None else json.loads(text)


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
    """Return the bounds that stand in a migration's row."""
    return Bounds(row.slots, row.bytes_per_second, row.connections)


# -- told


def act(
    connection: Connection, id: str, verb: str, fresh: Spec | Mapping[str, Any] | None = None
) -> Migration:
    """Do what `verb` says: pause, resume, cancel or retry; twice is as good as once.

    `fresh` are new credentials for what is left, alone or with the places that they are for. Raises
    MigrationUnknown, IllegalTransition, and KeyReused where the places are others."""
    found = lock_migration(connection, id)
    try:
        state = state_after(MIGRATION, verb, found.state)
    except IllegalTransition:
        raise not_now(found, verb) from None
    forgotten = state == "running" and secret(connection, found.id) is None
    if isinstance(fresh, Spec):
        _learn_owner(connection, found.id, fresh)
        fresh = fresh.secret
    if fresh is not None:
        renew_secret(connection, found.id, fresh)
    elif forgotten:
        raise IllegalTransition("its credentials were forgotten since it ended", hint=_GIVE_AGAIN)
    if forgotten and found.recursive:
        return list_again(connection, found.id)  # so were the URLs of its list
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
        _move_all(connection, found.id, "queued", "cancel", changes)
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
_INSTEAD = {
    "succeeded": "It has ended well: what is new at the source is another migration's.",
    "running": "Let it end, or cancel it first: `relay cancel`, or POST …/cancel.",
    "paused": "Let it go on first: `relay resume`, or POST …/resume.",
}
_AGAIN = (
    "What failed, was cancelled or could not be verified is queued again by `relay retry`, or POST"
    " …/retry."
)


def not_now(found: Migration, verb: str) -> IllegalTransition:
    """Return the error of a verb that is not for a migration's state."""
    message = f"migration {found.number} is {found.state}: it can't be {_DONE.get(verb, verb)}"
    return IllegalTransition(message, hint=_INSTEAD.get(found.state, _AGAIN))


def lock_migration(connection: Connection, id: str) -> Migration:
    """As `one`, and nobody else changes its row until this transaction is over: what is decided by
    its state holds.

    SQLite's transaction has the lock already."""
    found = one(connection, id)
    query = (
        select(migrations.c.id).where(migrations.c.id == found.id).with_for_update(key_share=True)
    )
    connection.execute(query)
    return one(connection, found.id)


def _learn_owner(connection: Connection, id: str, spec: Spec) -> None:
    """Note whose accounts go on with a migration. Raises KeyReused where the places are not its
    own."""
    if not is_at(connection, id, spec):
        raise other_places()
    marks = identity_hashes_of(connection, spec)
    row = migrations.c.id == id
    connection.execute(update(migrations).where(row).values(owner=marks.owner))
    older = {"places": marks.places, "spec": marks.spec}
    connection.execute(update(migrations).where(row, migrations.c.places.is_(None)).values(**older))


def other_places() -> KeyReused:
    """Return the error of places that are not a migration's own."""
    return KeyReused(
        "these are other places than those of the migration",
        hint=(
            "Give the same source and destination with fresh credentials, or POST /migrate"
            " something new."
        ),
    )


def is_at(connection: Connection, id: str, spec: Spec) -> bool:
    """Say if a migration's places are those of `spec`. Writes nothing."""
    row = connection.execute(select(migrations).where(migrations.c.id == id)).one()
    if row.places is None:
        return is_older(row, spec, secret(connection, id))
    if row.places == identity_hashes_of(connection, spec).places:
        return True
    return is_unnamed(connection, row, spec, secret(connection, id))


_GIVE_AGAIN: Final = (
    "Give its source and destination again, with their credentials; or give the same command again."
)


def _columns_changed_by(found: Migration, verb: str, refused: int) -> dict[str, Any]:
    """Return what `verb` changes of a migration besides its state; of a listing, `refused` entries
    were forgotten."""
    changed: dict[str, Any] = {}
    if verb in ("resume", "retry"):  # with today's credentials, wherever those come from
        changed |= {"renewed": migrations.c.renewed + 1, "error": None}
    if verb == "retry":
        changed |= {
            "listing": "due" if found.listing == "failed" else found.listing,
            "listing_lapses": 0,
        }
    if refused:  # it is listed again, from the beginning
        changed |= {"listing": "due", "cursor": None, "entries": migrations.c.entries - refused}
    return changed


def list_again(connection: Connection, id: str, anyway: bool = False) -> Migration:
    """Begin a tree that has ended again, from its listing on: what did not arrive is moved when it
    is listed, and what is new, or another by now. One that has not ended is listed again only if
    `anyway`. Raises MigrationUnknown, IllegalTransition."""
    found = lock_migration(connection, id)
    under_way = anyway and found.state in ("running", "paused")
    if not under_way and state_after(MIGRATION, "retry", found.state) is None:
        return found
    values = {
        "state": "running",
        "ended": None,
        "error": None,
        "listing": "due",
        "cursor": None,
        "listing_lapses": 0,
    }
    again = {"listings": migrations.c.listings + 1, "renewed": migrations.c.renewed + 1}
    connection.execute(
        update(migrations).where(migrations.c.id == found.id).values(**values, **again)
    )
    write_event(connection, found.id, "list_again", {})
    return one(connection, found.id)


def lock_unended(connection: Connection, id: str) -> Migration:
    """As `lock_migration`, of one that has not succeeded: nobody works on one that has. Raises
    IllegalTransition for one that another process has ended well since it was looked at,
    MigrationUnknown."""
    found = lock_migration(connection, id)
    if found.state == "succeeded":
        raise not_now(found, "retry")
    return found


def reset_crash_counts(connection: Connection, id: str) -> None:
    """Forget how many runners were lost with the transfers that are left, and with the listing:
    somebody was there, and said go on."""
    connection.execute(update(migrations).where(migrations.c.id == id).values(listing_lapses=0))
    left = (
        (transfers.c.migration_id == id)
        & transfers.c.state.in_(("queued", "running"))
        & (transfers.c.lapses > 0)
    )
    connection.execute(update(transfers).where(left).values(lapses=TRUSTED))


def pause_for(connection: Connection, id: str, error: Mapping[str, Any]) -> Migration:
    """Pause a migration because its stores want other credentials; `error` says so. Raises
    IllegalTransition."""
    found = lock_migration(connection, id)
    if state_after(MIGRATION, "pause", found.state) is None:
        return found
    values = {"state": "paused", "error": json.dumps(error), "looked": None}
    connection.execute(update(migrations).where(migrations.c.id == id).values(**values))
    write_event(connection, id, "paused", error)
    return one(connection, id)


def renew_secret(connection: Connection, id: str, secret: Mapping[str, Any]) -> None:
    """Keep new credentials in the place of the old ones, and let everybody who holds those know."""
    row = migrations.c.id == id
    connection.execute(update(migrations).where(row).values(renewed=migrations.c.renewed + 1))
    connection.execute(delete(secrets).where(secrets.c.migration_id == id))
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(secret)})


_HALF: Final = 1 << 20


def _move_all(
    connection: Connection, id: str, state: str, verb: str, changes: CounterDelta
) -> None:
    """Let the same happen to every transfer of one state; what that changes in the tallies goes to
    `changes`."""
    to = TRANSFER[verb].to
    # A retry begins anew what was counted against it: somebody looked at it and said so.
    fresh: dict[str, Any] = {"ended": time.time()}
    if verb == "retry":
        fresh = {"attempts": 0, "lapses": TRUSTED, "not_before": 0, "error": None}
    change = update(transfers).values(state=to, **fresh)
    more = case((transfers.c.attempts > 1, transfers.c.attempts - 1), else_=0)
    size_of = func.coalesce(transfers.c.bytes, transfers.c.size, 0)
    rows = select(transfers.c.id, size_of.label("size"), more.label("more"))
    rows = rows.where(transfers.c.migration_id == id, transfers.c.state == state)
    # In PostgreSQL one statement counts and changes: between two, others may claim some of these,
    # or end more.
    alone = connection.dialect.name == "sqlite"
    held = rows.order_by(transfers.c.id).with_for_update().cte("held").prefix_with("MATERIALIZED")
    changed = (
        change.where(transfers.c.id.in_(select(held.c.id))).returning(transfers.c.id).cte("changed")
    )
    counted = rows.subquery() if alone else held
    # In two halves: SQLite refuses a sum beyond 64 bits.
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
    """Forget what a listing refused, which nobody has ever claimed, so that another listing tells
    of it; return how many that were. What that changes in the tallies goes to `changes`."""
    never = transfers.c.ended.is_(None) & (transfers.c.attempts == 0)
    refused = (transfers.c.migration_id == id) & (transfers.c.state == "failed") & never
    sizes = (
        connection.execute(delete(transfers).where(refused).returning(transfers.c.size))
        .scalars()
        .all()
    )
    changes.add(id, "failed", -len(sizes), -sum(size or 0 for size in sizes))
    return len(sizes)


# -- their end


def finishable_ids(connection: Connection) -> list[str]:
    """Return the migrations that have nothing left to do, and are not ended. Writes nothing."""
    rows = connection.execute(_LISTED).all()
    found = tallies_of(connection, [row.id for row in rows]) if rows else {}
    return [row.id for row in rows if not {"queued", "running"} & found[row.id].keys()]


_LISTED = select(migrations.c.id).where(
    migrations.c.state == "running", migrations.c.listing.in_(("none", "done", "failed"))
)


KEPT_SECONDS: Final = 24 * 3600.0
"""How long what a failed transfer has at its destination, and its credentials, wait for a retry."""
_TELLING: Final = secrets.c.locations.like("%?%") | secrets.c.locations.like('%"headers": [[%')
"""Of what is kept to speak to the stores: there is a query or a header in it, which may be a
secret."""


def forgettable_ids(connection: Connection, now: float) -> list[str]:
    """Return the migrations that have ended, and have credentials that nobody needs any more.
    Writes nothing.

    A cancelled one needs them until what it left at its destination is removed; one that failed
    also for a retry, which may come within a day."""
    over = (migrations.c.state == "cancelled") | (
        migrations.c.state.in_(("failed", "partial")) & (migrations.c.ended < now - KEPT_SECONDS)
    )
    ended = (
        select(migrations.c.id)
        .join(secrets, secrets.c.migration_id == migrations.c.id)
        .where(over, _TELLING)
    )
    of = transfers.c.migration_id == migrations.c.id
    moving = exists().where(of, RUNNING)
    lapsed = exists().where(of, LAPSED)
    begun = exists().where(of, uploads.c.transfer_id == transfers.c.id)
    return list(connection.execute(ended.where(~moving, ~lapsed, ~begun)).scalars())


def forget_secrets(connection: Connection, now: float) -> None:
    """Forget the credentials of what is `forgettable_ids`, and the URLs that its lists gave."""
    for id in sorted(forgettable_ids(connection, now)):  # in one order, since each is locked
        if lock_migration(connection, id).state not in ENDED:
            continue  # it was resumed since it was looked at
        connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        gone = (transfers.c.migration_id == id) & transfers.c.url.is_not(None)
        connection.execute(update(transfers).where(gone).values(url=None))


def _not_whole(listed: int | None, accounted: int) -> dict[str, Any]:
    """Return the error of a migration whose objects do not add up: more or fewer than its listing
    told of."""
    return {
        "code": "listing-unaccounted",
        "side": "relay",
        "detail": f"its listing told of {listed:,} objects, and {accounted:,} are accounted for",
        "hint": (
            "Give the same command again, which lists again; and report this: it is a mistake in"
            " relay."
        ),
    }


def finish(connection: Connection) -> list[Migration]:
    """End every migration that has nothing left to do, and forget its secrets; return those."""
    done = []
    for id in sorted(finishable_ids(connection)):  # in one order, since each is locked
        row = lock_migration(connection, id)
        tally = {state: counted.objects for state, counted in row.tally.items()}
        if row.state != "running" or {"queued", "running"} & tally.keys():
            continue  # another process ended it, or began some of it again, since it was looked at
        verb = ending_verb(tally)
        if row.listing == "failed":
            verb = "end_partial" if tally.get("verified") or tally.get("skipped") else "fail"
        values: dict[str, Any] = {"ended": time.time()}
        if row.listing != "failed" and row.entries not in (None, sum(tally.values())):
            verb = "end_partial"
            values["error"] = json.dumps(_not_whole(row.entries, sum(tally.values())))
        state = state_after(MIGRATION, verb, row.state)
        still = (migrations.c.id == id) & (migrations.c.state == row.state)
        if not connection.execute(
            update(migrations).where(still).values(state=state, **values)
        ).rowcount:
            continue  # another runner was first
        if state == "succeeded":
            connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        write_event(connection, id, "ended", {"state": state})
        done.append(one(connection, id))
    return done
