"""Counters of a migration: transfers in each state, levels of proof, retries, reasons of failures.
Updated in the transaction of each change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Select, func, select, text

from relay.ledger.feed import FeedDelta
from relay.ledger.migration_values import Count, Efforts
from relay.ledger.parameters import IDS
from relay.ledger.pass_counts import PassDelta
from relay.ledger.reasons import ReasonDelta
from relay.ledger.schema import MAX_SUM, counters, tallies, transfers, uploads

_ADD = text(
    "INSERT INTO tallies (migration_id, state, objects, bytes) VALUES (:migration, :state,"
    " :objects, :bytes) ON CONFLICT (migration_id, state) DO UPDATE SET objects = tallies.objects"
    f" + excluded.objects, bytes = CASE WHEN tallies.bytes + excluded.bytes > {MAX_SUM} THEN"
    f" {MAX_SUM} ELSE tallies.bytes + excluded.bytes END"
)
_COUNT = text(
    "INSERT INTO counters (migration_id, kind, name, amount) VALUES (:migration, :kind, :name,"
    " :amount) ON CONFLICT (migration_id, kind, name) DO UPDATE SET amount = counters.amount +"
    " excluded.amount"
)
_TALLIES: Final = select(tallies).where(tallies.c.migration_id.in_(IDS))
_EFFORTS: Final = (
    select(counters)
    .where(counters.c.migration_id.in_(IDS))
    .order_by(counters.c.kind, counters.c.name)
)


@dataclass
class CounterDelta:
    """The changes of one transaction to the tallies and the counters."""

    _objects: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _bytes: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _amounts: defaultdict[tuple[str, str, str], int] = field(
        default_factory=lambda: defaultdict(int)
    )
    failures: ReasonDelta = field(default_factory=ReasonDelta)
    """The changes to the reasons of failed objects."""
    _: KW_ONLY
    passes: PassDelta = field(default_factory=PassDelta)
    """The changes to the passes of standing migrations."""
    feed: FeedDelta = field(default_factory=FeedDelta)
    """Their objects that arrived or were refused."""

    def add(self, migration: str, state: str, objects: int, size: int | None) -> None:
        """Add `objects` (may be negative) of `size` bytes in all to a state."""
        self._objects[migration, state] += objects
        self._bytes[migration, state] += size or 0

    def count_transition(
        self, migration: str, before: str, after: str, was: int | None, size: int | None
    ) -> None:
        """Move one object from one state to another; `was` is its size as counted so far."""
        self.add(migration, before, -1, -(was or 0))
        self.add(migration, after, 1, size)

    def count_proof(self, migration: str, before: str | None, after: str | None) -> None:
        """Move one object from one level of proof to another; None means unproved."""
        if before is not None:
            self._amounts[migration, "level", before] -= 1
        if after is not None:
            self._amounts[migration, "level", after] += 1

    def count_resent_bytes(self, migration: str, size: int) -> None:
        """Count bytes that were sent more than once."""
        self._amounts[migration, "resent", ""] += size

    def count_retries(self, migration: str, count: int) -> None:
        """Count attempts beyond the first one of an object."""
        self._amounts[migration, "retries", ""] += count

    def objects(self, migration: str, state: str) -> int:
        """Return the change of the number of a migration's objects in a state."""
        return self._objects.get((migration, state), 0)

    def write(self, connection: Connection) -> None:
        """Write the changes, always in the same order, so that two transactions never deadlock.

        Every worker writes these few rows. Call this once, at the end of the transaction, so that
        others wait for the rows no longer than a commit takes."""
        rows = [
            {
                "migration": migration,
                "state": state,
                "objects": count,
                # The sum of a tally and this stays within 64 bits: 2**62 + 2**62 - 1.
                "bytes": max(-MAX_SUM, min(self._bytes[migration, state], MAX_SUM - 1)),
            }
            for (migration, state), count in sorted(self._objects.items())
            if count or self._bytes[migration, state]
        ]
        if rows:
            connection.execute(_ADD, rows)
        amounts = [
            {"migration": migration, "kind": kind, "name": name, "amount": amount}
            for (migration, kind, name), amount in sorted(self._amounts.items())
            if amount
        ]
        if amounts:
            connection.execute(_COUNT, amounts)
        self.failures.write(connection)
        self.passes.write(connection)
        self.feed.write(connection)


def select_parts(ids: BindParameter[Any]) -> Select[Any]:
    """Return the query for the bytes in the stored parts of the unfinished multipart uploads of the
    migrations that a parameter names: `migration_id` and `there`."""
    # A subquery, not a join: SQLite would scan all transfers of the migration for uploads.
    of = (
        select(transfers.c.migration_id)
        .where(transfers.c.id == uploads.c.transfer_id)
        .scalar_subquery()
    )
    begun = select(of.label("migration_id"), uploads.c.there).subquery()
    return (
        select(begun.c.migration_id, func.sum(begun.c.there).label("there"))
        .where(begun.c.migration_id.in_(ids))
        .group_by(begun.c.migration_id)
    )


def tallies_of(connection: Connection, migrations: Iterable[str]) -> dict[str, dict[str, Count]]:
    """Return the tallies of some migrations, without the states that have no objects."""
    found: dict[str, dict[str, Count]] = defaultdict(dict)
    for row in connection.execute(_TALLIES, {"ids": list(migrations)}):
        if row.objects:
            found[row.migration_id][row.state] = Count(row.objects, row.bytes)
    return found


def efforts_of(connection: Connection, migrations: Iterable[str]) -> dict[str, Efforts]:
    """Return the levels of proof, resent bytes and retries of some migrations."""
    found: dict[str, Efforts] = {}
    for row in connection.execute(_EFFORTS, {"ids": list(migrations)}):
        before = found.get(row.migration_id, Efforts())
        if row.kind != "level":
            found[row.migration_id] = replace(before, **{row.kind: row.amount})
        elif row.amount:
            found[row.migration_id] = replace(
                before, levels={**before.levels, row.name: row.amount}
            )
    return found
