"""The reasons for which objects of a migration failed, and the number of objects that failed for
each.

Theory of operation. The reason is the side, the code and the status of an error, as one text. Each
failed transfer has its reason in a column, so that those of one reason are found by an index, and
it is known where each is counted when it no longer fails. The counts are written with the tallies
(`counters.py`). A migration has at most MOST reasons; further ones count as OTHER.

Decided here: the reason of an error. Never here: how an object fails (`settling.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, select, text, update

from relay.ledger.names import in_chunks
from relay.ledger.parameters import MIGRATION
from relay.ledger.schema import MAX_SUM, reasons, transfers

MOST: Final = 200
"""Maximum number of reasons of a migration, OTHER included. Workers that meet new ones at the same
moment may exceed it by one each."""
OTHER: Final = "other"
"""The reason of the errors beyond that number."""
_ADD = text(
    "INSERT INTO reasons (migration_id, reason, side, code, status, objects, bytes, sample) VALUES"
    " (:migration, :reason, :side, :code, :status, :objects, :bytes, :sample) ON CONFLICT"
    " (migration_id, reason) DO UPDATE SET objects = reasons.objects + excluded.objects, bytes ="
    f" CASE WHEN reasons.bytes + excluded.bytes > {MAX_SUM} THEN {MAX_SUM} ELSE reasons.bytes +"
    " excluded.bytes END, sample = CASE WHEN excluded.sample = '' THEN reasons.sample ELSE"
    " excluded.sample END"
)
_FORGET = text(
    "DELETE FROM reasons WHERE migration_id = :migration AND reason = :reason AND objects <= 0"
)


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason, and the failed objects that have it."""

    reason: str
    """Its text, which names it in requests."""
    side: str
    code: str
    status: int | None
    """The HTTP status of the store's answer, if the store refused with one."""
    objects: int
    bytes: int
    sample: str
    """The name of one of the objects; it may have been retried since."""


@dataclass(eq=False, kw_only=True)
class _ReasonCount:
    """The objects that failed for one reason."""

    side: str = "relay"
    code: str = OTHER
    status: int | None = None
    objects: int = 0
    bytes: int = 0
    sample: str = ""


@dataclass(eq=False)
class ReasonDelta:
    """The changes of one transaction to the reasons."""

    _changes: dict[tuple[str, str], _ReasonCount] = field(default_factory=dict)
    _known: dict[str, set[str]] = field(default_factory=dict)

    def add(
        self,
        connection: Connection,
        migration: str,
        name: str,
        error: Mapping[str, Any] | None,
        size: int,
    ) -> str:
        """Count a failed object of `size` bytes by its error; return the reason, for its row."""
        members = error or {}
        side, code = str(members.get("side", "relay"))[:16], str(members.get("code", ""))[:64]
        status = members.get("status")
        status = status if isinstance(status, int) else None
        reason = f"{side}:{code}" if status is None else f"{side}:{code}:{status}"
        known = self._reasons_of(connection, migration)
        if reason not in known and len(known | {OTHER}) >= MOST:
            reason, side, code, status = OTHER, "relay", OTHER, None
        known.add(reason)
        change = self._changes.setdefault((migration, reason), _ReasonCount())
        change.side, change.code, change.status = side, code, status
        change.objects += 1
        change.bytes += size
        change.sample = name
        return reason

    def remove(self, migration: str, reason: str | None, objects: int, size: int) -> None:
        """Count `objects` of `size` bytes in all that do not fail any longer. An older relay has
        noted no reason."""
        if reason is not None and objects:
            change = self._changes.setdefault((migration, reason), _ReasonCount())
            change.objects -= objects
            change.bytes -= size

    def write(self, connection: Connection) -> None:
        """Write the changes, always in the same order, so that two transactions never deadlock."""
        rows = [
            {
                **vars(change),
                "migration": migration,
                "reason": reason,
                "bytes": max(-MAX_SUM, min(change.bytes, MAX_SUM - 1)),
            }
            for (migration, reason), change in sorted(self._changes.items())
            if change.objects or change.bytes
        ]
        if rows:
            connection.execute(_ADD, rows)
            fewer = [row for row in rows if row["objects"] < 0]
            if fewer:
                connection.execute(_FORGET, fewer)

    def _reasons_of(self, connection: Connection, migration: str) -> set[str]:
        if migration not in self._known:
            query = select(reasons.c.reason).where(reasons.c.migration_id == migration)
            self._known[migration] = set(connection.execute(query).scalars())
        return self._known[migration]


def mark_failed(connection: Connection, found: Mapping[str, Iterable[int]]) -> None:
    """Write the reasons of failed transfers into their rows: transfers by reason."""
    for reason, ids in sorted(found.items()):
        for some in in_chunks(list(ids)):
            failed = update(transfers).where(transfers.c.id.in_(some))
            connection.execute(failed.values(reason=reason))


_REASONS: Final = (
    select(reasons)
    .where(reasons.c.migration_id == MIGRATION, reasons.c.objects > 0)
    .order_by(reasons.c.objects.desc(), reasons.c.reason)
)


def reasons_of(connection: Connection, migration: str) -> list[Reason]:
    """Return the reasons of a migration's failed objects, the most frequent first."""
    rows = connection.execute(_REASONS, {"migration": migration})
    return [
        Reason(
            reason=row.reason,
            side=row.side,
            code=row.code,
            status=row.status,
            objects=row.objects,
            bytes=row.bytes,
            sample=row.sample,
        )
        for row in rows
    ]
