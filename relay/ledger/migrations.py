"""Migrations in the ledger: accepted, looked at, told what to do, and brought to their end."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, insert, select, text, update

from relay.errors import KeyReused, MigrationUnknown
from relay.ledger.movers import movers_of
from relay.ledger.rows import Efforts, Migration, Spec
from relay.ledger.schema import APPLICATION_ID, events, migrations, secrets, transfers
from relay.ledger.states import ENDED, MIGRATION, TRANSFER, after, ending
from relay.ledger.tally import Changes, efforts_of, parts_of, tallies_of
from relay.throttle import Bounds

ACCEPTING = APPLICATION_ID + 1
"""PostgreSQL's lock under which migrations are accepted."""
_ID = re.compile(r"[0-9a-f-]{1,36}")


def create(connection: Connection, spec: Spec, key: str | None = None, go_on: bool = False) -> tuple[Migration, bool]:
    """Accept a migration; with a `key` that was given before, return the one of then, and False. To `go_on`, return the
    newest of the same request that did not succeed, if there is one, and False.

    Raises KeyReused where that of the key was another request.
    """
    _one_at_a_time(connection)
    if key is not None:
        row = connection.execute(select(migrations).where(migrations.c.key == key)).first()
        if row is not None:
            if row.spec != spec.digest:
                raise KeyReused("the Idempotency-Key belongs to a migration of something else")
            return one(connection, row.id), False
    if go_on and (found := _unfinished(connection, spec.digest)) is not None:
        return found, False
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
            "spec": spec.digest,
            "key": key,
            "priority": spec.priority,
            **spec.bounds.to_json(),
            "listing": "due" if spec.recursive else "none",
            "created": time.time(),
        },
    )
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(spec.secret)})
    if not spec.recursive:
        connection.execute(insert(transfers), {"migration_id": id, "name": "", "state": "queued"})
        changes = Changes()
        changes.add(id, "queued", 1, None)
        changes.write(connection)
    tell(connection, id, "accepted", {})
    return one(connection, id), True


def _one_at_a_time(connection: Connection) -> None:
    """Let nobody else number a migration, or use its key, until this transaction is over. SQLite's has the lock."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ACCEPTING})


def tell(connection: Connection, migration: str, kind: str, members: Mapping[str, Any]) -> None:
    """Write an event."""
    row = {"migration_id": migration, "at": time.time(), "kind": kind, "members": json.dumps(members)}
    connection.execute(insert(events), row)


# -- looked at


def one(connection: Connection, id: str) -> Migration:
    """Return a migration by its id, or by the number under which people know it. Raises MigrationUnknown."""
    numbered = id.isascii() and id.isdigit() and len(id) < 10
    named = migrations.c.number == int(id) if numbered else migrations.c.id == id
    known = _ID.fullmatch(id) is not None  # no database takes every character
    row = connection.execute(select(migrations).where(named)).first() if known else None
    if row is None:
        raise MigrationUnknown(f"there is no migration {id!a}")
    return _found(connection, [row])[0]


def many(connection: Connection, limit: int, before: int | None = None) -> list[Migration]:
    """Return migrations, the newest first; with `before`, those that are older than that number."""
    query = select(migrations).order_by(migrations.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(migrations.c.number < before)
    return _found(connection, connection.execute(query).all())


def _unfinished(connection: Connection, digest: str) -> Migration | None:
    """Return the newest migration of the same request if it did not succeed."""
    query = select(migrations).where(migrations.c.spec == digest).order_by(migrations.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    if row is None or row.state == "succeeded":
        return None
    return _found(connection, [row])[0]


def _found(connection: Connection, rows: Sequence[Row[Any]]) -> list[Migration]:
    """Return the migrations of some rows, with what is counted of them."""
    ids = [row.id for row in rows]
    tallies, arrived, efforts = tallies_of(connection, ids), parts_of(connection, ids), efforts_of(connection, ids)
    sharers = movers_of(connection, ids)
    return [
        _migration(row, tallies[row.id], arrived.get(row.id, 0), efforts.get(row.id, Efforts()), sharers[row.id])
        for row in rows
    ]


def secret(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return what is needed to speak to both stores, or None when the migration is over."""
    text = connection.execute(select(secrets.c.locations).where(secrets.c.migration_id == id)).scalar()
    return None if text is None else json.loads(text)


def events_of(connection: Connection, id: str, since: int, limit: int) -> list[dict[str, Any]]:
    """Return a migration's events after number `since`."""
    query = select(events).where(events.c.migration_id == id, events.c.id > since).order_by(events.c.id).limit(limit)
    return [
        {"id": row.id, "at": row.at, "kind": row.kind, **json.loads(row.members)} for row in connection.execute(query)
    ]


def waited(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the error for which a migration paused by itself the last time, or None where it never did."""
    query = select(events.c.members).where(events.c.migration_id == id, events.c.kind == "paused")
    text = connection.execute(query.order_by(events.c.id.desc()).limit(1)).scalar()
    return None if text is None else json.loads(text)


def _migration(row: Row[Any], tally: Mapping[str, Any], in_parts: int, efforts: Efforts, sharers: int) -> Migration:
    return Migration(
        id=row.id,
        number=row.number,
        state=row.state,
        source=row.source,
        destination=row.destination,
        options=json.loads(row.options),
        listing=row.listing,
        cursor=row.cursor,
        error=json.loads(row.error) if row.error else None,
        priority=row.priority,
        created=row.created,
        ended=row.ended,
        destination_empty=bool(row.destination_empty),
        bounds=bounds_of(row),
        renewed=row.renewed,
        tally=tally,
        in_parts=in_parts,
        efforts=efforts,
        sharers=sharers,
    )


def bounds_of(row: Any) -> Bounds:
    """Return the bounds that stand in a migration's row."""
    return Bounds(row.slots, row.bytes_per_second, row.connections)


# -- told


def act(connection: Connection, id: str, verb: str, secret: Mapping[str, Any] | None = None) -> Migration:
    """Do what `verb` says: pause, resume, cancel or retry; twice is as good as once.

    `secret` are new credentials for what is left. Raises MigrationUnknown, IllegalTransition.
    """
    found = one(connection, id)
    state = after(MIGRATION, verb, found.state)
    if secret is not None:
        renew_secret(connection, found.id, secret)
    if state is None:
        return found
    changed: dict[str, Any] = {"state": state, "ended": time.time() if state in ENDED else None}
    if verb in ("resume", "retry"):  # with today's credentials, wherever those come from
        changed |= {"renewed": migrations.c.renewed + 1}
    if verb == "resume":
        changed |= {"error": None}
    if verb == "retry":
        changed |= {"error": None, "listing": "due" if found.listing == "failed" else found.listing}
    changes = Changes()
    if (
        verb == "retry" and found.listing != "none" and _forget_refused(connection, found.id, changes)
    ):  # it is listed again, from the beginning
        changed |= {"listing": "due", "cursor": None}
    connection.execute(update(migrations).where(migrations.c.id == found.id).values(**changed))
    if verb == "cancel":
        _all(connection, found.id, "queued", "cancel", changes)
    if verb == "retry":
        for ended in sorted(TRANSFER["retry"].origins):
            _all(connection, found.id, ended, "retry", changes)
    changes.write(connection)
    tell(connection, found.id, verb, {})
    return one(connection, found.id)


def trust(connection: Connection, id: str) -> None:
    """Forget how many runners were lost with the transfers that are left: somebody was there, and said go on."""
    left = (transfers.c.migration_id == id) & transfers.c.state.in_(("queued", "running")) & (transfers.c.lapses > 0)
    connection.execute(update(transfers).where(left).values(lapses=0))


def pause_for(connection: Connection, id: str, error: Mapping[str, Any]) -> Migration:
    """Pause a migration because its stores want other credentials; `error` says so. Raises IllegalTransition."""
    found = one(connection, id)
    if after(MIGRATION, "pause", found.state) is None:
        return found
    values = {"state": "paused", "error": json.dumps(error)}
    connection.execute(update(migrations).where(migrations.c.id == id).values(**values))
    tell(connection, id, "paused", error)
    return one(connection, id)


def learn_empty(connection: Connection, id: str, empty: bool) -> None:
    """Keep whether anything was at the destination when the listing began."""
    connection.execute(update(migrations).where(migrations.c.id == id).values(destination_empty=empty))


def renew_secret(connection: Connection, id: str, secret: Mapping[str, Any]) -> None:
    """Keep new credentials in the place of the old ones, and let everybody who holds those know."""
    row = migrations.c.id == id
    connection.execute(update(migrations).where(row).values(renewed=migrations.c.renewed + 1))
    connection.execute(delete(secrets).where(secrets.c.migration_id == id))
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(secret)})


def _all(connection: Connection, id: str, state: str, verb: str, changes: Changes) -> None:
    """Let the same happen to every transfer of one state; what that changes in the tallies goes to `changes`."""
    to = TRANSFER[verb].to
    rows = (transfers.c.migration_id == id) & (transfers.c.state == state)
    more = case((transfers.c.attempts > 1, transfers.c.attempts - 1), else_=0)
    count, size, retries = connection.execute(
        select(func.count(), func.sum(func.coalesce(transfers.c.bytes, transfers.c.size, 0)), func.sum(more)).where(
            rows
        )
    ).one()
    if not count:
        return
    # A retry begins anew what was counted against it: somebody looked at it and said so.
    fresh = {"attempts": 0, "lapses": 0, "not_before": 0, "error": None} if verb == "retry" else {"ended": time.time()}
    connection.execute(update(transfers).where(rows).values(state=to, **fresh))
    changes.add(id, state, -count, -int(size or 0))
    changes.add(id, to, count, int(size or 0))
    if verb == "retry":
        changes.retried(id, -int(retries or 0))


def _forget_refused(connection: Connection, id: str, changes: Changes) -> int:
    """Forget what a listing refused, which nobody has ever claimed, so that another listing tells of it; return how
    many that were. What that changes in the tallies goes to `changes`."""
    never = transfers.c.ended.is_(None) & (transfers.c.attempts == 0)
    refused = (transfers.c.migration_id == id) & (transfers.c.state == "failed") & never
    sizes = connection.execute(delete(transfers).where(refused).returning(transfers.c.size)).scalars().all()
    changes.add(id, "failed", -len(sizes), -sum(size or 0 for size in sizes))
    return len(sizes)


# -- their end


def finishable(connection: Connection) -> list[str]:
    """Return the migrations that have nothing left to do, and are not ended. Writes nothing."""
    rows = connection.execute(_LISTED).all()
    found = tallies_of(connection, [row.id for row in rows]) if rows else {}
    return [row.id for row in rows if not {"queued", "running"} & found[row.id].keys()]


_LISTED = select(migrations.c.id).where(
    migrations.c.state == "running", migrations.c.listing.in_(("none", "done", "failed"))
)


def finish(connection: Connection) -> list[Migration]:
    """End every migration that has nothing left to do, and forget its secrets; return those."""
    done = []
    for id in finishable(connection):
        row = one(connection, id)
        tally = {state: counted.objects for state, counted in row.tally.items()}
        verb = ending(tally)
        if row.listing == "failed":
            verb = "end_partial" if tally.get("verified") or tally.get("skipped") else "fail"
        state = after(MIGRATION, verb, row.state)
        still = (migrations.c.id == id) & (migrations.c.state == row.state)
        if not connection.execute(update(migrations).where(still).values(state=state, ended=time.time())).rowcount:
            continue  # another runner was first
        if state == "succeeded":
            connection.execute(delete(secrets).where(secrets.c.migration_id == id))
        tell(connection, id, "ended", {"state": state})
        done.append(one(connection, id))
    return done
