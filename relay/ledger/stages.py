"""The stages of migrations: their states, and whether they need a person. The number of each
tenant's migrations in each stage is kept in the transaction of every change.

Decided here: the stages, and how they are counted. Never here: which stage a migration gets
(`actions.py`, `endings.py`)."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, text, update

from relay.ledger.migration_values import Migration
from relay.ledger.parameters import RUNNER, TENANT
from relay.ledger.schema import migrations, stage_counts
from relay.ledger.viewer import Viewer

_ADD = text(
    "INSERT INTO stage_counts (tenant, runner, state, needs_attention, migrations) VALUES (:tenant,"
    " :runner, :state, :needs_attention, :more) ON CONFLICT (tenant, runner, state,"
    " needs_attention) DO UPDATE SET migrations = stage_counts.migrations + excluded.migrations"
)


class StageDelta:
    """The changes of one transaction to the number of migrations in each stage."""

    def __init__(self) -> None:
        self._more: Counter[tuple[str, str, str, bool]] = Counter()

    def add(self, tenant: str, runner: str | None, state: str) -> None:
        """Count a new migration."""
        self._more[tenant, runner or "", state, False] += 1

    def change_kind(self, found: Migration, runner: str) -> None:
        """Count a migration for another kind of worker than that which it was `found` with."""
        self._more[_counted_as(found)] -= 1
        self._more[found.tenant, runner, found.state, found.needs_attention] += 1

    def change(
        self,
        connection: Connection,
        found: Migration,
        state: str,
        needs_attention: bool = False,
        **values: Any,
    ) -> None:
        """Write the new state of a migration that this transaction has locked, with other columns,
        and count it."""
        values |= {"state": state, "needs_attention": needs_attention}
        connection.execute(update(migrations).where(migrations.c.id == found.id).values(**values))
        self._more[_counted_as(found)] -= 1
        self._more[found.tenant, found.runner or "", state, needs_attention] += 1

    def write(self, connection: Connection) -> None:
        """Write the changes, always in the same order, so that two transactions never deadlock.
        Every worker writes these few rows: call this once, after all other locks are taken."""
        names = ("tenant", "runner", "state", "needs_attention")
        rows = [
            {**dict(zip(names, stage, strict=True)), "more": more}
            for stage, more in sorted(self._more.items())
            if more
        ]
        if rows:
            connection.execute(_ADD, rows)


def _counted_as(found: Migration) -> tuple[str, str, str, bool]:
    return found.tenant, found.runner or "", found.state, found.needs_attention


def change_stage(
    connection: Connection,
    found: Migration,
    state: str,
    needs_attention: bool = False,
    **values: Any,
) -> None:
    """As StageDelta.change for a single migration, and write its count."""
    changes = StageDelta()
    changes.change(connection, found, state, needs_attention, **values)
    changes.write(connection)


def count_stages(
    connection: Connection, viewer: Viewer, runner: str | None
) -> Counter[tuple[str, bool]]:
    """Return the number of migrations that a viewer sees, by their state and whether they need a
    person; of one kind of worker as `migration_rows.of_kind`."""
    query = _counts_query(viewer.sees_all, runner is not None)
    rows = connection.execute(query, {"tenant": viewer.tenant, "runner": runner}).all()
    return Counter({(state, bool(needy)): int(number) for state, needy, number in rows})


@cache
def _counts_query(sees_all: bool, of_one_kind: bool) -> Select[Any]:
    stage = (stage_counts.c.state, stage_counts.c.needs_attention)
    query = select(*stage, func.sum(stage_counts.c.migrations)).group_by(*stage)
    if not sees_all:
        query = query.where(stage_counts.c.tenant == TENANT)
    if of_one_kind:
        query = query.where(or_(stage_counts.c.runner == "", stage_counts.c.runner == RUNNER))
    return query
