"""Migrations in the ledger: read them, and lock one.

Decided here: how a row becomes a `Migration`, and which migrations a kind of worker sees. Never
here: what changes a state (`acceptance.py`, `actions.py`, `endings.py`), and its events
(`event_log.py`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from time import time
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from relay.errors import (
    MigrationUnknown,
)
from relay.ledger.counters import efforts_of, select_parts, tallies_of
from relay.ledger.migration_values import Efforts, Migration
from relay.ledger.parameters import IDS, MIGRATION, MOVING, NUMBER, RUNNER, TENANT, VIEWER
from relay.ledger.retried import migration_retry, pending_retries, split_listing_retry
from relay.ledger.schema import (
    NOT_THERE,
    RUNNING,
    migrations,
    parts,
    runners,
    secrets,
    transfers,
)
from relay.ledger.standing_values import PassHours, PassTimes, StandingState
from relay.ledger.states import (
    TransferState,
)
from relay.ledger.viewer import EVERYTHING, Viewer
from relay.throttle import Bounds

_ID = re.compile(r"[0-9a-f-]{1,36}")
_NUMBER = re.compile(r"(?:(?P<tenant>[!-9;-~]{1,64}):)?(?P<number>[0-9]{1,9})", re.ASCII)


def one(
    connection: Connection, id: str, runner: str | None = None, viewer: Viewer = EVERYTHING
) -> Migration:
    """Return a migration by its id, or by the number that people use: `7`, or `acme:7`
    (`Viewer.numbered_tenant`). Raises MigrationUnknown; also for a migration that the viewer does
    not see, and for one that belongs to another kind of worker than `runner`."""
    row = None
    named = values_of_name(id, viewer, runner)
    if named is not None:
        query = one_query("number" in named, viewer.sees_all, runner is not None)
        row = connection.execute(query, named).first()
    if row is None:
        raise MigrationUnknown(f"there is no migration {id!a}")
    return with_counts(connection, [row], efforts=True)[0]


def values_of_name(id: str, viewer: Viewer, runner: str | None) -> Mapping[str, Any] | None:
    """Return the parameters of `one_query` for the migrations that `id` may name; None if it can
    name none. (A database refuses some characters.)"""
    seen = {"viewer": viewer.tenant, "runner": runner}
    numbered = _NUMBER.fullmatch(id)
    if numbered is not None:
        tenant = numbered["tenant"] or viewer.numbered_tenant
        return {**seen, "tenant": tenant, "number": int(numbered["number"])}
    return {**seen, "migration": id} if _ID.fullmatch(id) is not None else None


@cache
def one_query(is_numbered: bool, sees_all: bool, of_one_kind: bool) -> Select[Any]:
    """Return the query for the migrations of a name: a number, or else an id."""
    table = migrations.c
    if is_numbered:
        older = table.ordinal.is_(None) & (table.number == NUMBER)
        named = or_(
            (table.tenant == TENANT) & (table.ordinal == NUMBER), (table.tenant == TENANT) & older
        )
    else:
        named = table.id == MIGRATION
    query = select(migrations).where(named)
    if not sees_all:
        query = query.where(table.tenant == VIEWER)
    if of_one_kind:
        query = query.where(table.runner.is_(None) | (table.runner == RUNNER))
    # A row of an older relay without an ordinal comes last.
    return query.order_by(table.ordinal.is_(None))


def with_names(ids: Sequence[str], viewer: Viewer) -> list[ColumnElement[bool]]:
    """Return the conditions for the migrations that any of some names may name, a few for each
    tenant. A query with one of them can use an index, and with all of them perhaps not."""
    ordinals: dict[str, set[int]] = {}
    for found in filter(None, map(_NUMBER.fullmatch, ids)):
        tenant = found["tenant"] or viewer.numbered_tenant
        ordinals.setdefault(tenant, set()).add(int(found["number"]))
    conditions: list[ColumnElement[bool]] = []
    for tenant, numbers in ordinals.items():
        is_tenants = migrations.c.tenant == tenant
        older = migrations.c.ordinal.is_(None) & migrations.c.number.in_(numbers)
        conditions += [is_tenants & migrations.c.ordinal.in_(numbers), is_tenants & older]
    whole = [id for id in ids if _NUMBER.fullmatch(id) is None and _ID.fullmatch(id) is not None]
    return [*conditions, migrations.c.id.in_(whole)] if whole else conditions


def is_visible(viewer: Viewer) -> ColumnElement[bool]:
    """Return the condition for the migrations that a viewer sees."""
    return true() if viewer.sees_all else migrations.c.tenant == viewer.tenant


def of_kind(runner: str | None) -> ColumnElement[bool]:
    """Return the condition for the migrations of one kind of worker, and for those whose kind is
    unknown. None means every migration."""
    if runner is None:
        return true()
    return migrations.c.runner.is_(None) | (migrations.c.runner == runner)


def with_counts(
    connection: Connection, rows: Sequence[Row[Any]], efforts: bool = False
) -> list[Migration]:
    """Return the migrations of some rows, with their counters, by at most three queries, and one
    more with `efforts`."""
    ids = [row.id for row in rows]
    if not ids:
        return []
    tallies = tallies_of(connection, ids)
    moving = [id for id in ids if TransferState.RUNNING in tallies[id]]
    activity = _activity_of(connection, ids, moving)
    retried = pending_retries(connection, moving)
    spent = efforts_of(connection, ids) if efforts else {}
    return [
        replace(
            migration_of_row(
                row,
                tallies[row.id],
                activity.get((row.id, "in_parts"), 0),
                spent.get(row.id, Efforts()),
                activity.get((row.id, "helpers"), 0),
            ),
            retried=(*listing_retried(row.listing, row.error), *retried.get(row.id, ())),
            slots=activity.get((row.id, "slots")),
        )
        for row in rows
    ]


def listing_retried(listing: str, error: str | None) -> Iterator[Mapping[str, Any]]:
    """Yield the pending retry of a migration's listing, or of its location, if it has one; `error`
    is the column."""
    trouble = migration_retry(listing, error, time())
    if trouble is not None:
        yield {"name": "", **trouble}


def secret(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Return the stored locations and credentials of both stores, or None if they were deleted."""
    text = connection.execute(
        select(secrets.c.locations).where(secrets.c.migration_id == id)
    ).scalar()
    return None if text is None else json.loads(text)


def migration_of_row(
    row: Row[Any], tally: Mapping[str, Any], in_parts: int, efforts: Efforts, helpers: int
) -> Migration:
    """Return a row of the table as a value, with its counters."""
    return Migration(
        id=row.id,
        number=number_of(row),
        sequence=row.number,
        tenant=row.tenant,
        needs_attention=bool(row.needs_attention),
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
        excluded=row.excluded,
        runner=row.runner,
        tally=tally,
        in_parts=in_parts,
        efforts=efforts,
        helpers=helpers,
        standing=standing_of(row),
    )


def standing_of(row: Any) -> StandingState | None:
    """Return what makes a migration a standing one, from its row, or None."""
    if row.phase is None:
        return None
    hours = None if row.hours is None else PassHours.parse(row.hours)
    return StandingState(row.phase, PassTimes(row.every, hours), row.due)


def number_of(row: Any) -> int:
    """Return the number of a migration among those of its tenant, from its row; an older relay had
    only the other one."""
    return int(row.number if row.ordinal is None else row.ordinal)


def bounds_of(row: Any) -> Bounds:
    """Return the bounds in a migration's row."""
    return Bounds(row.slots, row.bytes_per_second, row.connections)


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


_OF: Final = transfers.c.migration_id + literal_column("''")
"""A transfer's migration, as an expression. With the bare column SQLite would scan all transfers of
the migration by its index, and look for parts of each; few parts are being moved."""


def select_helpers(ids: BindParameter[Any]) -> Select[Any]:
    """Return the query for the helpers of the migrations that a parameter names: migration,
    transfer and helper. The transfer may have no owner, because its worker was lost or has
    ended."""
    return (
        select(transfers.c.migration_id, transfers.c.id, parts.c.owner)
        .join(parts, parts.c.transfer_id == transfers.c.id)
        .where(NOT_THERE, _OF.in_(ids), parts.c.owner.is_not(None))
        .where(parts.c.owner.is_distinct_from(transfers.c.owner))
        .distinct()
    )


HELPERS: Final = select_helpers(IDS)


def select_slots(ids: BindParameter[Any]) -> Select[Any]:
    """Return the query for the workers that run transfers of the migrations that a parameter names:
    migration, worker and its `slots`. Workers of an older relay do not count."""
    return (
        select(transfers.c.migration_id, runners.c.id, runners.c.slots)
        .join(runners, runners.c.id == transfers.c.owner)
        .where(transfers.c.migration_id.in_(ids), RUNNING, runners.c.slots.is_not(None))
        .distinct()
    )


def _activity_of(
    connection: Connection, ids: Sequence[str], moving: Sequence[str]
) -> dict[tuple[str, str], int]:
    """Return numbers of some migrations that only rows of transfers and parts give, by migration
    and name, with one query: the bytes `in_parts` of unfinished uploads, the number of `helpers`,
    and the `slots` of the workers that run transfers of the `moving` ones. A number without rows is
    left out."""
    query = _activity_query(bool(moving))
    rows = connection.execute(query, {"ids": list(ids), "moving": list(moving)})
    return {(id, name): int(number) for id, name, number in rows}


@cache
def _activity_query(has_moving: bool) -> CompoundSelect[Any]:
    stored, helping = select_parts(IDS).subquery(), select_helpers(IDS).subquery()
    helpers = select(helping.c.migration_id, literal("helpers"), func.count())
    counted = [
        select(stored.c.migration_id, literal("in_parts"), stored.c.there),
        helpers.group_by(helping.c.migration_id),
    ]
    if has_moving:
        running = select_slots(MOVING).subquery()
        slots = select(running.c.migration_id, literal("slots"), func.sum(running.c.slots))
        counted.append(slots.group_by(running.c.migration_id))
    return union_all(*counted)
