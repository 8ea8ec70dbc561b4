"""Workers that help with an object which another worker has claimed.

Theory of operation. A runner that has nothing to claim looks for an upload in parts that another
has begun, and of which parts are left, and takes one of them; from then on it takes one after the
other, as the other does, until none is left (`uploads.py`). Nothing else says that it shares: when
it has no part any more it does not.

Decided here: in what a runner may share. Never here: which part is whose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, exists, or_, select

from relay.ledger.claims import CLAIMED, SUSPECT, WorkerId, claim_of
from relay.ledger.limits import room
from relay.ledger.migrations import bounds_of, of_kind
from relay.ledger.rows import PartLease
from relay.ledger.schema import NOT_THERE, migrations, parts, transfers, uploads
from relay.ledger.uploads import take_part, upload_of_row

_OPEN = (
    select(transfers.c.id, transfers.c.migration_id, uploads.c.upload_id, migrations.c.renewed)
    .add_columns(migrations.c.slots, migrations.c.bytes_per_second, migrations.c.connections)
    .join(uploads, uploads.c.transfer_id == transfers.c.id)
    .join(migrations, migrations.c.id == transfers.c.migration_id)
    .where(
        transfers.c.state == "running",
        transfers.c.lapses < SUSPECT,
        migrations.c.state == "running",
        uploads.c.pinned.is_not(None),
        uploads.c.upload_id != "",
        or_(
            uploads.c.next <= uploads.c.total,
            exists().where(
                parts.c.transfer_id == transfers.c.id, NOT_THERE, parts.c.owner.is_(None)
            ),
        ),
    )
    .order_by(
        migrations.c.priority.desc(), (uploads.c.total - uploads.c.next).desc(), transfers.c.id
    )
)


def _joinable(who: WorkerId, only: str | None, but: Sequence[int]) -> Select[Any]:
    query = _OPEN.where(transfers.c.owner != who.id, transfers.c.id.not_in(but))
    return query.where(of_kind(who.kind) if only is None else migrations.c.id == only)


def has_joinable(
    connection: Connection, who: WorkerId, only: str | None = None, but: Sequence[int] = ()
) -> bool:
    """Say if there seems to be something to `join_upload`. Writes nothing."""
    return connection.execute(_joinable(who, only, but).limit(1)).first() is not None


def join_upload(
    connection: Connection, who: WorkerId, only: str | None = None, but: Sequence[int] = ()
) -> PartLease | None:
    """Take a part of an object that another runner has claimed, of the most urgent migrations first
    and where most is left; None where there is none. `only` of one migration; of no transfer among
    `but`.

    Whoever shares counts, where a migration has bounds, as if he had a transfer of his own.
    """
    for row in connection.execute(_joinable(who, only, but)).all():
        if not room(connection, row.migration_id, bounds_of(row), 1):
            continue
        first = take_part(connection, who, row.id, row.upload_id, None)
        if first is not None:
            claimed = connection.execute(select(*CLAIMED).where(transfers.c.id == row.id)).one()
            upload = connection.execute(
                select(uploads).where(uploads.c.transfer_id == row.id)
            ).one()
            return PartLease(claim_of(claimed, row.renewed), upload_of_row(upload), first)
    return None
