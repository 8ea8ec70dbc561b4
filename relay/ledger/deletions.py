"""The rows of deletions: intent before an object is deleted, fact after it.

Theory of operation. A row `deleting` is durable before the store is asked to delete. After a crash
it says that the object may be gone because of relay; whether it is, the store says. A name has a
new row once its object was deleted and another one of that name is to be deleted.

Decided here: which facts are recorded. Never here: when an object may be deleted
(`engine/removal/`)."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from relay.ledger.deletion_tables import deletions, removals
from relay.ledger.deletion_values import (
    Candidate,
    DeletionEnd,
    DeletionRow,
    DeletionState,
    DeletionTally,
    RemovalState,
    version_of_json,
)
from relay.ledger.identity_hashes import identity_hashes_of
from relay.ledger.migration_values import Spec
from relay.ledger.names import has_name, in_chunks, md5
from relay.ledger.pages import TransferRow, select_rows, transfer_row
from relay.ledger.schema import migrations, transfers
from relay.ledger.states import MigrationState, TransferState

EARLIER: Final = 50
"""Number of earlier migrations whose receipts are looked for."""
WINDOW: Final = "window"
"""The note of a deletion whose version the store did not compare itself."""


def begin(connection: Connection, id: str, kind: str, settings: Mapping[str, Any]) -> None:
    """Record that a migration deletes, and with which settings; an earlier end no longer counts."""
    connection.execute(delete(removals).where(removals.c.migration_id == id))
    values = {"migration_id": id, "kind": kind, "settings": json.dumps(dict(settings))}
    connection.execute(
        insert(removals), {**values, "state": RemovalState.RUNNING, "changed": time.time()}
    )


def end(connection: Connection, id: str, state: RemovalState) -> None:
    """Record that all objects of a migration were looked at: some are left, or none."""
    mine = removals.c.migration_id == id
    connection.execute(update(removals).where(mine).values(state=state, changed=time.time()))


def find_unfinished(
    connection: Connection, spec: Spec, runner: str
) -> list[tuple[str, RemovalState]]:
    """Return the ids of the migrations of the same request and accounts that have succeeded and
    have something left to delete, the oldest first, with the state of their deletions."""
    marks = identity_hashes_of(connection, spec)
    query = (
        select(migrations.c.id, removals.c.state)
        .join(removals, removals.c.migration_id == migrations.c.id)
        .where(
            removals.c.state != RemovalState.DONE,
            migrations.c.spec == marks.spec,
            migrations.c.owner == marks.owner,
            migrations.c.runner == runner,
            migrations.c.state == MigrationState.SUCCEEDED,
        )
        .order_by(migrations.c.number)
    )
    return [(row.id, RemovalState(row.state)) for row in connection.execute(query)]


def earlier_receipts(
    connection: Connection, id: str, names: Sequence[str]
) -> dict[str, TransferRow]:
    """Return the newest verified object of each of these names in earlier moves or mirrors of the
    same request and accounts, with its receipt."""
    mine = connection.execute(select(migrations).where(migrations.c.id == id)).one()
    same = (
        select(migrations.c.id)
        .join(removals, removals.c.migration_id == migrations.c.id)
        .where(
            migrations.c.spec == mine.spec,
            migrations.c.owner == mine.owner,
            migrations.c.tenant == mine.tenant,
            migrations.c.number < mine.number,
        )
        .order_by(migrations.c.number.desc())
        .limit(EARLIER)
    )
    ids = list(connection.execute(same).scalars())
    found: dict[str, TransferRow] = {}
    for some in in_chunks(sorted(set(names))):
        query = select_rows().where(
            transfers.c.migration_id.in_(ids),
            transfers.c.state == TransferState.VERIFIED,
            has_name(connection, some),
        )
        for row in connection.execute(query.order_by(transfers.c.id)):
            found[row.name] = transfer_row(row)
    return found


def newest(
    connection: Connection, id: str, side: str, names: Iterable[str], states: Collection[str] = ()
) -> dict[str, DeletionRow]:
    """Return the newest row of each of these names that has one; with `states`, the newest in one
    of them."""
    found: dict[str, DeletionRow] = {}
    for some in in_chunks(sorted(set(names))):
        query = _of_side(select(deletions), id, side)
        query = query.where(deletions.c.hash.in_([md5(name) for name in some]))
        if states:
            query = query.where(deletions.c.state.in_(sorted(states)))
        for row in connection.execute(query.order_by(deletions.c.id)):
            found[row.name] = _row_of(row)
    return found


def intend(connection: Connection, id: str, side: str, some: Sequence[Candidate]) -> None:
    """Record that these objects are about to be deleted."""
    earlier = newest(connection, id, side, (one.name for one in some))
    for one in some:
        values = {
            "state": DeletionState.DELETING,
            "version": json.dumps(one.version.to_json()),
            "basis": one.basis,
            "reason": None,
            "detail": None if one.copy is None else one.copy.to_text(),
            "at": time.time(),
        }
        _write(connection, id, side, one.name, values=values, row=earlier.get(one.name))


def settle(connection: Connection, id: str, side: str, ends: Sequence[DeletionEnd]) -> None:
    """Record how the deletions of some objects ended. A kept object may have no row yet."""
    earlier = newest(connection, id, side, (end.name for end in ends))
    for end in ends:
        values = {
            "state": end.state,
            "reason": end.reason,
            "detail": end.detail,
            "marker": end.marker,
            "note": WINDOW if end.window else None,
            "at": time.time(),
        }
        row = earlier.get(end.name)
        _write(connection, id, side, end.name, values=values, row=row)


def page(
    connection: Connection,
    id: str,
    states: Collection[str] = (),
    after: int = 0,
    limit: int = 1000,
) -> list[DeletionRow]:
    """Return up to `limit` rows with ids above `after`, in the order of their ids; with `states`,
    only those in one of them."""
    query = select(deletions).where(deletions.c.migration_id == id, deletions.c.id > after)
    if states:
        query = query.where(deletions.c.state.in_(sorted(states)))
    rows = connection.execute(query.order_by(deletions.c.id).limit(limit))
    return [_row_of(row) for row in rows]


def tally(connection: Connection, id: str) -> DeletionTally:
    """Return the number of a migration's deletions by state and by reason."""
    counted = func.count()
    query = select(deletions.c.state, deletions.c.reason, counted)
    query = query.where(deletions.c.migration_id == id)
    rows = connection.execute(query.group_by(deletions.c.state, deletions.c.reason)).all()
    states: dict[str, int] = {}
    for state, _, number in rows:
        states[state] = states.get(state, 0) + number
    reasons = {reason: number for _, reason, number in rows if reason is not None}
    return DeletionTally(states=states, reasons=reasons)


def note_undone(connection: Connection, ids: Sequence[int]) -> None:
    """Record that some deletions were undone."""
    for some in in_chunks(ids):
        these = deletions.c.id.in_(some)
        connection.execute(update(deletions).where(these).values(undone=time.time()))


def _write(
    connection: Connection,
    id: str,
    side: str,
    name: str,
    *,
    values: Mapping[str, Any],
    row: DeletionRow | None,
) -> None:
    """Change the newest row of a name, unless it is of an object that was deleted: that one
    stays."""
    if row is not None and row.state != DeletionState.DELETED:
        connection.execute(update(deletions).where(deletions.c.id == row.id).values(**values))
        return
    key = {"migration_id": id, "side": side, "hash": md5(name), "name": name}
    connection.execute(insert(deletions), {"version": "{}", **key, **values})


def _of_side(query: Any, id: str, side: str) -> Any:
    return query.where(deletions.c.migration_id == id, deletions.c.side == side)


def _row_of(row: Row[Any]) -> DeletionRow:
    members = json.loads(row.version)
    return DeletionRow(
        id=row.id,
        side=row.side,
        name=row.name,
        state=DeletionState(row.state),
        version=version_of_json({"size": None, "etag": None, "last_modified": None, **members}),
        basis=row.basis,
        reason=row.reason,
        detail=row.detail,
        marker=row.marker,
        note=row.note,
        at=row.at,
        undone=row.undone,
    )
