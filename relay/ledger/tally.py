"""How many transfers of a migration are in each state: kept beside every change of a state, in its transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select, text

from relay.ledger.rows import Counted
from relay.ledger.schema import parts, tallies, transfers, uploads

_ADD = text(
    "INSERT INTO tallies (migration_id, state, objects, bytes) VALUES (:migration, :state, :objects, :bytes)"
    " ON CONFLICT (migration_id, state) DO UPDATE"
    " SET objects = tallies.objects + excluded.objects, bytes = tallies.bytes + excluded.bytes"
)


@dataclass
class Changes:
    """What one transaction changes in the tallies."""

    _objects: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _bytes: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, migration: str, state: str, objects: int, size: int | None) -> None:
        """Count so many objects more (or less) in a state, of `size` bytes in all."""
        self._objects[migration, state] += objects
        self._bytes[migration, state] += size or 0

    def moved(self, migration: str, before: str, after: str, was: int | None, size: int | None) -> None:
        """Count one object that changed its state; `was` is its size as counted until now."""
        self.add(migration, before, -1, -(was or 0))
        self.add(migration, after, 1, size)

    def objects(self, migration: str, state: str) -> int:
        """Return by how many the objects of a migration in a state have changed."""
        return self._objects.get((migration, state), 0)

    def write(self, connection: Connection) -> None:
        """Write them, always in the same order, so that two transactions never wait for each other in a circle.

        Everybody writes these few rows: do it once, and last, so that nobody waits for them longer than for a commit.
        """
        rows = [
            {"migration": migration, "state": state, "objects": count, "bytes": self._bytes[migration, state]}
            for (migration, state), count in sorted(self._objects.items())
            if count or self._bytes[migration, state]
        ]
        if rows:
            connection.execute(_ADD, rows)


def parts_of(connection: Connection, migrations: Iterable[str]) -> dict[str, int]:
    """Return how many bytes the destinations have, in parts of objects that are not whole yet, of some migrations."""
    query = (
        select(transfers.c.migration_id, func.sum(parts.c.size))
        .select_from(uploads)
        .join(transfers, transfers.c.id == uploads.c.transfer_id)
        .join(parts, parts.c.transfer_id == uploads.c.transfer_id)
        .where(transfers.c.migration_id.in_(list(migrations)))
        .group_by(transfers.c.migration_id)
    )
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def tallies_of(connection: Connection, migrations: Iterable[str]) -> dict[str, dict[str, Counted]]:
    """Return the tallies of some migrations, states without objects left out."""
    found: dict[str, dict[str, Counted]] = defaultdict(dict)
    wanted = list(migrations)
    for row in connection.execute(select(tallies).where(tallies.c.migration_id.in_(wanted))):
        if row.objects:
            found[row.migration_id][row.state] = Counted(row.objects, row.bytes)
    return found
