"""The completion feed of a standing migration: a row for each object that arrived or was refused.

Theory of operation. A reader asks for the rows behind the last one that it has. That is only safe
if no row appears behind its back: a number that the database gives by itself may become visible
after a greater one (PostgreSQL). So a counter of the migration gives the numbers, in the
transaction that settles the objects. Its row stays locked until the commit, so that the numbers are
dense, and in the order of the commits.

Decided here: numbers, and for how long rows are kept. Never here: how an object ends
(`settling.py`)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, text

from relay.errors import FeedGone
from relay.ledger.schema import migrations
from relay.ledger.standing_tables import feed, feed_seq
from relay.ledger.standing_values import FeedRow
from relay.ledger.states import FeedEvent, Phase

KEPT_SECONDS: Final = 30 * 86_400.0
"""How long the rows of a migration stay after it has ended."""
FORGOTTEN: Final = 5_000
"""Maximum number of rows that are deleted in one transaction."""
_NEXT = text(
    "INSERT INTO feed_seq (migration_id, last) VALUES (:migration, :count) ON CONFLICT"
    " (migration_id) DO UPDATE SET last = feed_seq.last + :count RETURNING last"
)


@dataclass
class FeedDelta:
    """The rows of one transaction."""

    _rows: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, migration: str, name: str, event: FeedEvent, members: Mapping[str, Any], at: float
    ) -> None:
        """Add the row of one object of a standing migration."""
        row = {"name": name, "event": event, "members": json.dumps(members), "at": at}
        self._rows[migration].append(row)

    def write(self, connection: Connection) -> None:
        """Number the rows, and write them. Call this last: other workers wait for the counter until
        the commit."""
        for migration, rows in sorted(self._rows.items()):
            values = {"migration": migration, "count": len(rows)}
            last = connection.execute(_NEXT, values).scalar_one()
            first = last - len(rows) + 1
            numbered = [
                {"migration_id": migration, "seq": seq, **row}
                for seq, row in enumerate(rows, first)
            ]
            connection.execute(insert(feed), numbered)


def rows_after(connection: Connection, id: str, after: int, limit: int) -> list[FeedRow]:
    """Return the rows of a migration behind the number `after`, in their order. Raises FeedGone if
    rows behind it were deleted, and for a number that the feed has not reached."""
    query = select(feed).where(feed.c.migration_id == id, feed.c.seq > after)
    rows = connection.execute(query.order_by(feed.c.seq).limit(limit)).all()
    if rows:
        is_whole = rows[0].seq == after + 1
    else:
        last = select(feed_seq.c.last).where(feed_seq.c.migration_id == id)
        is_whole = (connection.execute(last).scalar() or 0) == after
    if not is_whole:
        raise FeedGone(f"the feed has no row behind {after} any longer, or not yet")
    return [
        FeedRow(
            seq=row.seq,
            at=row.at,
            name=row.name,
            event=row.event,
            members=json.loads(row.members),
        )
        for row in rows
    ]


def has_forgettable(connection: Connection, now: float) -> bool:
    """Return whether `forget_rows` has something to delete. Reads only."""
    return bool(_forgettable(connection, now))


def forget_rows(connection: Connection, now: float) -> None:
    """Delete rows of migrations that ended long ago, some at a time."""
    for id in _forgettable(connection, now):
        oldest = select(feed.c.seq).where(feed.c.migration_id == id).order_by(feed.c.seq)
        some = connection.execute(oldest.limit(FORGOTTEN)).scalars().all()
        if some:
            gone = (feed.c.migration_id == id) & (feed.c.seq <= some[-1])
            connection.execute(delete(feed).where(gone))
            return


def _forgettable(connection: Connection, now: float) -> Sequence[str]:
    ended = (migrations.c.phase == Phase.FINISHED) & (migrations.c.ended < now - KEPT_SECONDS)
    has_rows = select(feed.c.seq).where(feed.c.migration_id == migrations.c.id).exists()
    return connection.execute(select(migrations.c.id).where(ended, has_rows)).scalars().all()
