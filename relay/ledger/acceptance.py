"""Accept a migration: as a new one, or as an unfinished one that the same request resumes.

Decided here: which request is the same one (with `identity_hashes.py`). Never here: a person's
later commands about a migration (`actions.py`)."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Any, Final

from sqlalchemy import (
    Connection,
    func,
    insert,
    select,
    text,
    update,
)

from relay.errors import (
    CredentialsWithdrawn,
    KeyReused,
    PermissionDenied,
    Unauthenticated,
)
from relay.ledger.counters import CounterDelta, tallies_of
from relay.ledger.event_log import write_event
from relay.ledger.identity_hashes import (
    IdentityHashes,
    identity_hashes_of,
    is_older,
    is_unnamed,
    is_whole_text,
)
from relay.ledger.migration_rows import lock_migration, one, secret
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.passes import begin_first_pass
from relay.ledger.retried import split_listing_retry
from relay.ledger.schema import (
    APPLICATION_ID,
    migrations,
    secrets,
    transfers,
)
from relay.ledger.stages import StageDelta
from relay.ledger.states import (
    MIGRATION,
    PRESENT,
    EventKind,
    ListingState,
    MigrationState,
    MigrationVerb,
    Phase,
    TransferState,
)
from relay.ledger.token_use import check_use
from relay.ledger.token_values import TokenHolder
from relay.ledger.unproved import find_unproved
from relay.ledger.viewer import DEFAULT_TENANT
from relay.ledger.workers import TERMINAL

ACCEPTING = APPLICATION_ID + 1
"""Key of the PostgreSQL advisory lock under which migrations are accepted."""

WITHDRAWN: Final = frozenset(
    {Unauthenticated.code, CredentialsWithdrawn.code, PermissionDenied.code}
)
"""Codes of the errors for which a migration pauses until it gets other credentials."""


def create(
    connection: Connection,
    spec: Spec,
    key: str | None = None,
    go_on: bool = False,
    *,
    runner: str = TERMINAL,
    holder: TokenHolder | None = None,
    tenant: str = DEFAULT_TENANT,
) -> tuple[Migration, bool]:
    """Accept a migration of a tenant for one kind of worker, begun by the `holder` if a token was
    sent; return it and True. A spec that is `paused` waits for a resume.

    Returns an earlier migration and False if the tenant has used the idempotency `key` before. With
    `go_on` the tenant's newest migration of the same request and kind is returned if it has not
    succeeded. Raises KeyReused if the key belongs to another request, and TooManyRequests as
    check_use."""
    lock_acceptance(connection)
    marks = identity_hashes_of(connection, spec)
    stored = None if key is None else stored_key(tenant, key)
    earlier = None
    if stored is not None:
        earlier = _find_by_key(connection, spec, marks, stored)
    if earlier is None and go_on:
        earlier = _adopt_unfinished(connection, spec, marks, runner=runner, tenant=tenant)
    if earlier is not None:
        return one(connection, earlier), False
    if holder is not None:
        check_use(connection, holder, time.time())
    token_id = holder.token_id if holder is not None else None
    id = _insert_migration(
        connection, spec, marks, key=stored, runner=runner, tenant=tenant, token_id=token_id
    )
    if not spec.recursive:
        _insert_object(connection, id, spec)
    write_event(connection, id, EventKind.ACCEPTED, {})
    if spec.paused:
        write_event(connection, id, EventKind.PAUSE, {})
    changes = StageDelta()
    changes.add(tenant, runner, _first_state(spec))
    changes.write(connection)
    return one(connection, id), True


def stored_key(tenant: str, key: str) -> str:
    """Return an idempotency key as the ledger stores it, where it is unique over all tenants. The
    default tenant's is stored as it is, as an older relay does. Another tenant's has a space, which
    no key that a client sends may have."""
    if tenant == DEFAULT_TENANT:
        return key
    return f"{tenant} {hashlib.sha256(key.encode()).hexdigest()}"


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
    connection: Connection, spec: Spec, marks: IdentityHashes, *, runner: str, tenant: str
) -> str | None:
    """Return the id of the migration that this request resumes, or None. From now on it has this
    request's hashes and kind of worker."""
    id = _unfinished_migration(connection, spec, marks, runner=runner, tenant=tenant)
    if id is not None:
        found = lock_migration(connection, id)
        if found.runner != runner:
            changes = StageDelta()
            changes.change_kind(found, runner)
            changes.write(connection)
        known = {"spec": marks.spec, "places": marks.places, "owner": marks.owner, "runner": runner}
        known |= _known_place(marks)
        connection.execute(update(migrations).where(migrations.c.id == id).values(**known))
    return id


def _known_place(marks: IdentityHashes) -> dict[str, str]:
    """Return the column of the place, which a row of an older relay lacks."""
    return {"place": marks.place} if marks.place is not None else {}


def _insert_migration(
    connection: Connection,
    spec: Spec,
    marks: IdentityHashes,
    *,
    key: str | None,
    runner: str,
    tenant: str,
    token_id: str | None,
) -> str:
    """Insert a migration with the tenant's next number, and its secret; return its id."""
    number = (connection.execute(select(func.max(migrations.c.number))).scalar() or 0) + 1
    numbers = select(func.max(migrations.c.ordinal)).where(migrations.c.tenant == tenant)
    ordinal = (connection.execute(numbers).scalar() or 0) + 1
    id = str(uuid.uuid4())
    connection.execute(
        insert(migrations),
        {
            "id": id,
            "number": number,
            "tenant": tenant,
            "ordinal": ordinal,
            "state": _first_state(spec),
            "source": spec.source,
            "destination": spec.destination,
            "options": json.dumps(spec.options),
            "spec": marks.spec,
            "places": marks.places,
            "place": marks.place,
            "owner": marks.owner,
            "runner": runner,
            "token": token_id,
            "key": key,
            "priority": spec.priority,
            **spec.bounds.to_json(),
            "listing": ListingState.DUE if spec.recursive else ListingState.NONE,
            "entries": 0 if spec.recursive else 1,
            "created": time.time(),
            **_standing_columns(spec),
        },
    )
    if spec.standing is not None:
        begin_first_pass(connection, id, time.time())
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(spec.secret)})
    return id


def _standing_columns(spec: Spec) -> dict[str, Any]:
    if spec.standing is None:
        return {}
    hours = spec.standing.hours
    columns = {"every": spec.standing.every, "hours": None if hours is None else str(hours)}
    return {"phase": Phase.FIRST, **columns}


def _first_state(spec: Spec) -> str:
    """Return the state of a migration that is accepted: it runs, unless it is paused at once."""
    return MIGRATION[MigrationVerb.PAUSE].to if spec.paused else MigrationState.RUNNING


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


def lock_acceptance(connection: Connection) -> None:
    """Lock out other transactions that number a migration or use a key, until this one ends. In
    SQLite every writing transaction has that lock already."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ACCEPTING})


def _unfinished_migration(
    connection: Connection, spec: Spec, marks: IdentityHashes, *, runner: str, tenant: str
) -> str | None:
    """Return the id of the newest migration of the same request and accounts, unless it succeeded.
    Without one, return a migration that is paused for other credentials: the account may differ,
    but not the machine, if its files or servers are meant."""
    # Step 1: the same request by the same accounts.
    ours = migrations.c.runner.is_(None) | (migrations.c.runner == runner)
    ours &= migrations.c.tenant == tenant
    newest = select(migrations).where(ours).order_by(migrations.c.number.desc())
    same = newest.where(migrations.c.spec == marks.spec)
    owners = (marks.owner, marks.older_owner)
    row = connection.execute(same.where(migrations.c.owner.in_(owners)).limit(1)).first()
    if row is not None:
        is_over = row.state == MigrationState.SUCCEEDED or row.phase == Phase.FINISHED
        return None if is_over else row.id
    # Step 2: one that waits for the credentials of another account.
    is_paused = migrations.c.state == MigrationState.PAUSED
    is_here = migrations.c.owner.endswith(marks.machine)
    for row in connection.execute(same.where(is_paused, is_here).limit(1)):
        error, _ = split_listing_retry(row.error)
        if error and error["code"] in WITHDRAWN:
            return str(row.id)
    # Step 3: one of an older relay, which stored another digest.
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


def learn_owner(connection: Connection, id: str, spec: Spec) -> None:
    """Record the accounts that resume a migration. Raises KeyReused if the locations are not the
    migration's."""
    if not is_at(connection, id, spec):
        raise other_places()
    marks = identity_hashes_of(connection, spec)
    row = migrations.c.id == id
    known = {"owner": marks.owner, **_known_place(marks)}
    connection.execute(update(migrations).where(row).values(**known))
    older = {"places": marks.places, "spec": marks.spec}
    connection.execute(update(migrations).where(row, migrations.c.places.is_(None)).values(**older))


def other_places() -> KeyReused:
    """Return the error of locations that are not the migration's."""
    return KeyReused(
        "the source or the destination is not that of the migration",
        hint=(
            "Give the same source and destination with fresh credentials ('method': 'POST' as well,"
            " if it uploads so), or start a new migration with POST /migrate."
        ),
    )


def is_at(connection: Connection, id: str, spec: Spec) -> bool:
    """Return whether a migration's locations are those of `spec`. Reads only."""
    row = connection.execute(select(migrations).where(migrations.c.id == id)).one()
    if row.places is None:
        return is_older(row, spec, secret(connection, id))
    if row.places == identity_hashes_of(connection, spec).places:
        return True
    return is_unnamed(connection, row, spec, secret(connection, id))
