"""Workers that help with an object which another worker has claimed.

Theory of operation. A worker that has nothing to claim looks for another worker's multipart upload
with untaken parts, and takes one part. Then it takes one part after the other, as the owner does,
until none is left (`uploads.py`). Nothing else records the helper: without a part it is not one.

Decided here: which uploads a worker may help with. Never here: which worker has which part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, exists, or_, select

from relay.ledger.claims import CLAIMED, SUSPECT, claim_of
from relay.ledger.limits import room
from relay.ledger.migration_rows import bounds_of, of_kind
from relay.ledger.schema import NOT_THERE, migrations, parts, transfers, uploads
from relay.ledger.states import MigrationState, TransferState
from relay.ledger.upload_values import PartLease
from relay.ledger.uploads import take_part, upload_of_row
from relay.ledger.workers import WorkerId

_OPEN = (
    select(transfers.c.id, transfers.c.migration_id, uploads.c.upload_id, migrations.c.renewed)
    .add_columns(migrations.c.slots, migrations.c.bytes_per_second, migrations.c.connections)
    .join(uploads, uploads.c.transfer_id == transfers.c.id)
    .join(migrations, migrations.c.id == transfers.c.migration_id)
    .where(
        transfers.c.state == TransferState.RUNNING,
        transfers.c.lapses < SUSPECT,
        migrations.c.state == MigrationState.RUNNING,
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


def _joinable(worker: WorkerId, only: str | None, but: Sequence[int]) -> Select[Any]:
    query = _OPEN.where(transfers.c.owner != worker.id, transfers.c.id.not_in(but))
    return query.where(of_kind(worker.kind) if only is None else migrations.c.id == only)


def has_joinable(
    connection: Connection, worker: WorkerId, only: str | None = None, but: Sequence[int] = ()
) -> bool:
    """Return whether there seems to be an upload to join. Reads only."""
    return connection.execute(_joinable(worker, only, but).limit(1)).first() is not None


def join_upload(
    connection: Connection, worker: WorkerId, only: str | None = None, but: Sequence[int] = ()
) -> PartLease | None:
    """Take a part of an object that another worker has claimed, by priority and then by the number
    of remaining parts; return None if there is none. `only` restricts it to one migration, and
    transfers in `but` are left out.

    A helper counts against the migration's bound on concurrent transfers as a transfer does."""
    for row in connection.execute(_joinable(worker, only, but)).all():
        if not room(connection, row.migration_id, bounds_of(row), 1):
            continue
        first = take_part(connection, worker, row.id, row.upload_id, None)
        # None: another helper took the last part after the query.
        if first is not None:
            claimed = connection.execute(select(*CLAIMED).where(transfers.c.id == row.id)).one()
            upload = connection.execute(
                select(uploads).where(uploads.c.transfer_id == row.id)
            ).one()
            return PartLease(claim_of(claimed, row.renewed), upload_of_row(upload), first)
    return None
