"""Pause, resume, cancel, retry and relist a migration, and renew its credentials.

Decided here: what each verb changes besides the state. Never here: which verb a state
allows (`states.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from relay.errors import (
    IllegalTransition,
)
from relay.ledger.acceptance import learn_owner
from relay.ledger.counters import CounterDelta
from relay.ledger.event_log import write_event
from relay.ledger.migration_rows import lock_migration, one, secret
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.passes import restart_listing
from relay.ledger.prior_state_values import ARRIVED, DOUBTED, UNNOTED
from relay.ledger.schema import (
    FAILED,
    LAPSED,
    QUEUED,
    TRUSTED,
    migrations,
    secrets,
    transfers,
    uploads,
)
from relay.ledger.stages import StageDelta, change_stage
from relay.ledger.states import (
    ENDED,
    FAULTY,
    MIGRATION,
    PENDING,
    TRANSFER,
    UNLISTED,
    EventKind,
    ListingState,
    MigrationState,
    MigrationVerb,
    TransferState,
    TransferVerb,
    state_after,
)


def act(
    connection: Connection,
    id: str,
    verb: str,
    fresh: Spec | Mapping[str, Any] | None = None,
    *,
    reason: str | None = None,
) -> Migration:
    """Pause, resume, cancel or retry a migration, by `verb`. Idempotent. The retry of a running
    migration queues the objects that have failed so far; with a `reason`, only those that failed
    for it, and nothing is listed again.

    `fresh` are new credentials for the remaining objects, alone or with the locations that they are
    for. Raises MigrationUnknown, IllegalTransition, and KeyReused if those are other locations."""
    found = lock_migration(connection, id)
    try:
        state = state_after(MIGRATION, verb, found.state)
    except IllegalTransition:
        raise not_now(found, verb) from None
    # Step 1: the credentials, without which no worker could run it.
    forgotten = state == MigrationState.RUNNING and secret(connection, found.id) is None
    _renew_credentials(connection, found, fresh, forgotten)
    if reason is not None:
        return _retry_reason(connection, found, reason)
    # Step 2: a list whose URLs were deleted must be read again, and that queues its objects.
    if found.recursive and (
        forgotten or (verb == MigrationVerb.RETRY and _lacks_urls(connection, found.id))
    ):
        return list_again(connection, found.id)  # the URLs of its list were forgotten
    if state is None and verb != MigrationVerb.RETRY:
        return found
    # Step 3: the migration's own row.
    changes = CounterDelta()
    is_tree_retry = verb == MigrationVerb.RETRY and found.recursive
    forgotten_entries, kept = (0, 0)
    if is_tree_retry:
        forgotten_entries, kept = _forget_refused(connection, found.id, changes)
    changed = _columns_changed_by(found, verb, forgotten_entries, kept)
    # A person may have written to the destination since it was found empty.
    changed |= {"looked": None, "ended": time.time() if state in ENDED else None}
    stages = StageDelta()
    stages.change(connection, found, state or found.state, **changed)
    # Step 4: its transfers. A running one is settled by its worker, which sees the state.
    if verb == MigrationVerb.CANCEL:
        _move_all(connection, found.id, TransferState.QUEUED, TransferVerb.CANCEL, changes)
    if verb == MigrationVerb.RETRY:
        only = ~_is_refused() if is_tree_retry else None
        for ended in sorted(TRANSFER[TransferVerb.RETRY].origins):
            of_state = only if ended == TransferState.FAILED else None
            _move_all(connection, found.id, ended, TransferVerb.RETRY, changes, only=of_state)
    changes.write(connection)
    stages.write(connection)
    write_event(connection, found.id, EventKind(verb), {})
    return one(connection, found.id)


def _renew_credentials(
    connection: Connection,
    found: Migration,
    fresh: Spec | Mapping[str, Any] | None,
    forgotten: bool,
) -> None:
    """Store the fresh credentials that a person gave with a verb. Raises IllegalTransition without
    any, if the stored ones were `forgotten`."""
    if isinstance(fresh, Spec):
        learn_owner(connection, found.id, fresh)
        fresh = fresh.secret
    if fresh is not None:
        renew_secret(connection, found.id, fresh)
    elif forgotten:
        raise IllegalTransition(
            "its credentials were forgotten after it ended", hint=_GIVE_CREDENTIALS
        )


def _retry_reason(connection: Connection, found: Migration, reason: str) -> Migration:
    """Queue again the objects of a migration that failed for one reason. The listing keeps its
    state: a new listing would queue the others as well. Raises IllegalTransition if no object can
    be queued, unless the migration runs: then another request was first; and for a migration that
    was cancelled before its source was listed, since a worker would list the rest."""
    if found.state == MigrationState.CANCELLED and found.listing in UNLISTED:
        raise IllegalTransition(
            "the migration was cancelled before its source was listed completely",
            hint="Retry the whole migration: it lists the rest of the source, and moves it.",
        )
    failed = (transfers.c.migration_id == found.id) & FAILED & (transfers.c.reason == reason)
    tried = failed & ~_is_refused()
    is_lost = (transfers.c.identity.is_not(None)) & transfers.c.url.is_(None)
    if not connection.execute(select(exists().where(tried & ~is_lost))).scalar():
        if connection.execute(select(exists().where(failed))).scalar():
            raise IllegalTransition(
                f"the objects that failed for {reason} can't be retried alone",
                hint="Retry the whole migration: it lists the source again, which they need.",
            )
        if found.state == MigrationState.RUNNING:
            return found
        raise IllegalTransition(
            f"no object of migration {found.name} failed for {reason}",
            hint="GET …/reasons lists the reasons.",
        )
    changes, stages = CounterDelta(), StageDelta()
    values: dict[str, Any] = {"renewed": migrations.c.renewed + 1, "ended": None, "looked": None}
    if found.listing != ListingState.FAILED:
        values["error"] = None
    stages.change(connection, found, MigrationState.RUNNING, **values)
    only = (transfers.c.reason == reason) & ~_is_refused() & ~is_lost
    _move_all(
        connection, found.id, TransferState.FAILED, TransferVerb.RETRY, changes, only=FAILED & only
    )
    changes.write(connection)
    stages.write(connection)
    write_event(connection, found.id, EventKind.RETRY, {"reason": reason})
    return one(connection, found.id)


def acknowledge(connection: Connection, id: str) -> Migration:
    """Record that a person has seen the failures of an ended migration. Idempotent. Raises
    MigrationUnknown, and IllegalTransition in every other state."""
    found = lock_migration(connection, id)
    if found.state not in FAULTY:
        raise not_now(found, "acknowledge")
    if not found.needs_attention:
        return found
    change_stage(connection, found, found.state)
    write_event(connection, found.id, EventKind.ACKNOWLEDGE, {})
    return one(connection, found.id)


_DONE: Mapping[str, str] = {
    MigrationVerb.PAUSE: "paused",
    MigrationVerb.RESUME: "resumed",
    MigrationVerb.CANCEL: "cancelled",
    MigrationVerb.RETRY: "retried",
    "limit": "limited",
    "acknowledge": "acknowledged",
}

_INSTEAD: Mapping[str, str] = {
    MigrationState.SUCCEEDED: (
        "It has succeeded. Start another migration for new objects at the source."
    ),
    MigrationState.RUNNING: (
        "Wait until it ends, or cancel it first: `relay cancel`, or POST …/cancel."
    ),
    MigrationState.PAUSED: "Resume it first: `relay resume`, or POST …/resume.",
    MigrationState.CANCELLED: "It was cancelled. Retry it first: `relay retry`, or POST …/retry.",
}

_RETRY = (
    "Run `relay retry`, or POST …/retry: it queues again the objects that failed, were cancelled or"
    " could not be verified."
)


def _lacks_urls(connection: Connection, id: str) -> bool:
    """Return whether the URLs of a list's objects were forgotten. Its credentials may exist: the
    same command supplies them before it lists again."""
    lacking = (transfers.c.migration_id == id) & transfers.c.ended.is_not(None)
    lacking &= transfers.c.state.in_(TRANSFER[TransferVerb.RETRY].origins)
    lacking &= transfers.c.identity.is_not(None) & transfers.c.url.is_(None)
    return bool(connection.execute(select(exists().where(lacking))).scalar())


def not_now(found: Migration, verb: str) -> IllegalTransition:
    """Return the error of a verb that a migration's state does not allow."""
    message = f"migration {found.name} can't be {_DONE.get(verb, verb)}: its state is {found.state}"
    hint = _INSTEAD.get(found.state, _RETRY)
    if verb == "acknowledge" and found.state in ENDED:
        hint = "Only a migration that has failed, as a whole or in part, needs it."
    return IllegalTransition(message, hint=hint)


_GIVE_CREDENTIALS: Final = (
    "Give its source and destination again with their credentials, or run the same command again."
)


def _columns_changed_by(found: Migration, verb: str, forgotten: int, kept: int) -> dict[str, Any]:
    """Return the columns that `verb` changes besides the state. Entries that the listing had
    refused were `forgotten` or `kept`, so that a number above 0 restarts the listing."""
    changed: dict[str, Any] = {}
    if verb in (MigrationVerb.RESUME, MigrationVerb.RETRY):
        # Workers must read the credentials again, from any source.
        changed |= {"renewed": migrations.c.renewed + 1, "error": None, "listing_lapses": 0}
        if found.listing == ListingState.FAILED:
            # Its error is deleted here, if a pause has not replaced it before. Without another
            # listing nothing would say that objects are missing.
            changed["listing"] = ListingState.DUE
    if forgotten or kept:  # list again from the beginning
        changed |= {
            "listing": ListingState.DUE,
            "cursor": None,
            "excluded": None,
            "entries": migrations.c.entries - forgotten,
        }
    return changed


def list_again(connection: Connection, id: str, anyway: bool = False) -> Migration:
    """Restart an ended migration of a tree with a new listing. Objects that did not arrive, are new
    or have changed are then moved. A migration that has not ended is listed again only with
    `anyway`. Raises MigrationUnknown, IllegalTransition."""
    found = lock_migration(connection, id)
    under_way = anyway and found.state in (MigrationState.RUNNING, MigrationState.PAUSED)
    if not under_way and state_after(MIGRATION, MigrationVerb.RETRY, found.state) is None:
        return found
    values: dict[str, Any] = {
        "ended": None,
        "error": None,
        "listing": ListingState.DUE,
        "cursor": None,
        "excluded": None,
        "listing_lapses": 0,
        "looked": None,
    }
    values |= {"listings": migrations.c.listings + 1, "renewed": migrations.c.renewed + 1}
    change_stage(connection, found, MigrationState.RUNNING, **values)
    if found.standing is not None:
        restart_listing(connection, found.id)
    write_event(connection, found.id, EventKind.LIST_AGAIN, {})
    return one(connection, found.id)


def lock_unended(connection: Connection, id: str) -> Migration:
    """Lock a migration that has not succeeded, as `lock_migration` does. Raises MigrationUnknown,
    and IllegalTransition if it has succeeded (another process may have ended it meanwhile)."""
    found = lock_migration(connection, id)
    if found.state == MigrationState.SUCCEEDED:
        raise not_now(found, MigrationVerb.RETRY)
    return found


def reset_crash_counts(connection: Connection, id: str) -> None:
    """Set the crash counts of the remaining transfers and of the listing to 0, because a person
    asked to resume. It is no longer assumed that a destination was empty before: the person may
    have written objects there."""
    fresh = {"listing_lapses": 0, "looked": None}
    connection.execute(update(migrations).where(migrations.c.id == id).values(**fresh))
    left = (
        (transfers.c.migration_id == id) & transfers.c.state.in_(PENDING) & (transfers.c.lapses > 0)
    )
    connection.execute(update(transfers).where(left).values(lapses=TRUSTED))


def pause_for(connection: Connection, id: str, error: Mapping[str, Any]) -> Migration:
    """Pause a migration whose stores need other credentials, and store the `error`. Raises
    MigrationUnknown, IllegalTransition."""
    found = lock_migration(connection, id)
    if state_after(MIGRATION, MigrationVerb.PAUSE, found.state) is None:
        return found
    values = {"error": json.dumps(error), "looked": None}
    change_stage(connection, found, MigrationState.PAUSED, needs_attention=True, **values)
    write_event(connection, id, EventKind.PAUSED, error)
    return one(connection, id)


def renew_secret(connection: Connection, id: str, secret: Mapping[str, Any]) -> None:
    """Replace a migration's credentials. The column `renewed` tells workers that theirs are old."""
    row = migrations.c.id == id
    connection.execute(update(migrations).where(row).values(renewed=migrations.c.renewed + 1))
    connection.execute(delete(secrets).where(secrets.c.migration_id == id))
    connection.execute(insert(secrets), {"migration_id": id, "locations": json.dumps(secret)})


_HALF: Final = 1 << 20


def _move_all(
    connection: Connection,
    id: str,
    state: str,
    verb: str,
    changes: CounterDelta,
    *,
    only: ColumnElement[bool] | None = None,
) -> None:
    """Apply a verb to every transfer in one state, or to the `only` ones among them, and add the
    change of the tallies to `changes`."""
    to = TRANSFER[verb].to
    those = (transfers.c.migration_id == id) & (transfers.c.state == state)
    those = those if only is None else those & only
    # What a lost worker has left is not younger than its claim.
    fresh: dict[str, Any] = {"ended": case((LAPSED, transfers.c.ended), else_=time.time())}
    # A person asked for the retry, so the attempts and crashes count from 0 again.
    if verb == TransferVerb.RETRY:
        fresh = {"attempts": 0, "lapses": TRUSTED, "not_before": 0, "error": None, "reason": None}
    change = update(transfers).values(state=to, **fresh)
    more = case((transfers.c.attempts > 1, transfers.c.attempts - 1), else_=0)
    size_of = func.coalesce(transfers.c.bytes, transfers.c.size, 0)
    rows = select(transfers.c.id, size_of.label("size"), more.label("more"), transfers.c.reason)
    rows = rows.where(those)
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
    sums = select(counted.c.reason, func.count(), *halves, func.sum(counted.c.more))
    sums = sums.group_by(counted.c.reason)
    found = connection.execute(sums if alone else sums.add_cte(changed)).all()
    if alone:
        connection.execute(change.where(those))
    for reason, count, high, low, retries in found:
        size = int(high or 0) * _HALF + int(low or 0)
        changes.add(id, state, -count, -size)
        changes.add(id, to, count, size)
        changes.failures.remove(id, reason, count, size)
        if verb == TransferVerb.RETRY:
            changes.count_retries(id, -int(retries or 0))


def _is_refused() -> ColumnElement[bool]:
    """Return the condition for a failed transfer that its listing refused: no worker has claimed
    it."""
    never = transfers.c.ended.is_(None) & (transfers.c.attempts == 0)
    never &= (transfers.c.lapses == 0) & ~exists().where(uploads.c.transfer_id == transfers.c.id)
    return never


def _forget_refused(connection: Connection, id: str, changes: CounterDelta) -> tuple[int, int]:
    """Delete the entries that a listing refused and no worker has claimed: the next listing reports
    them again. One that carries the note of an object at the destination is kept for that listing.
    Return the numbers of both, and add the change of the tallies to `changes`."""
    refused = (transfers.c.migration_id == id) & (transfers.c.state == TransferState.FAILED)
    refused &= _is_refused()
    before = transfers.c.before
    is_noted = before.is_not(None) & (before != ARRIVED)
    is_noted &= ~before.contains(UNNOTED) & ~before.contains(DOUBTED)
    # For the next listing it is an entry of an earlier one, which it queues again.
    earlier = update(transfers).where(refused, is_noted).values(listings=transfers.c.listings - 1)
    kept = connection.execute(earlier).rowcount
    forgotten = delete(transfers).where(refused, before.is_(None) | ~is_noted)
    rows = connection.execute(forgotten.returning(transfers.c.size, transfers.c.reason)).all()
    for row in rows:
        changes.add(id, TransferState.FAILED, -1, -(row.size or 0))
        changes.failures.remove(id, row.reason, 1, row.size or 0)
    return len(rows), kept


def half_cancelled_ids(connection: Connection) -> list[str]:
    """Return the cancelled migrations that have queued transfers: in PostgreSQL a claim may be
    handed back in the moment of the cancel. Reads only."""
    queued = exists().where(transfers.c.migration_id == migrations.c.id, QUEUED)
    query = select(migrations.c.id).where(migrations.c.state == MigrationState.CANCELLED, queued)
    return list(connection.execute(query).scalars())


def complete_cancels(connection: Connection) -> None:
    """Cancel the transfers of `half_cancelled_ids`, so that their leftovers are removed."""
    changes = CounterDelta()
    for id in sorted(half_cancelled_ids(connection)):  # rows are locked in one order: no deadlock
        # Otherwise it was retried meanwhile.
        if lock_migration(connection, id).state == MigrationState.CANCELLED:
            _move_all(connection, id, TransferState.QUEUED, TransferVerb.CANCEL, changes)
    changes.write(connection)
