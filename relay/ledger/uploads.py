"""Multipart uploads in the ledger: intent before the effect, fact after it, and the mover of each
part.

Theory of operation. The worker that has claimed the transfer creates the upload and completes it.
That worker and its helpers move the parts: each takes one part number after the other, first the
numbers that were never taken and then the released ones. A row without an `etag` names the part's
owner until the destination has the part. So a part never has two movers, unless a worker is thought
lost: its parts are released.

Functions for the claim's owner compare the claim, and raise LeaseLost if it is no longer theirs.
Functions for every mover compare the upload's id and the part's row."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, select, text, update

from relay.errors import LeaseLost, UploadGone
from relay.ledger.claim_values import Claim
from relay.ledger.claims import check_claim
from relay.ledger.counters import CounterDelta
from relay.ledger.releases import free_parts
from relay.ledger.schema import NOT_THERE, parts, transfers, uploads
from relay.ledger.upload_values import StoredPart, UploadRecord
from relay.ledger.workers import WorkerId
from relay.receipt import Version

# -- for the owner of the claim


def recorded_upload(connection: Connection, claim: Claim) -> UploadRecord | None:
    """Return the recorded upload of a transfer with its stored parts, or None."""
    row = connection.execute(select(uploads).where(uploads.c.transfer_id == claim.id)).first()
    if row is None:
        return None
    there = (
        select(parts)
        .where(parts.c.transfer_id == claim.id, parts.c.etag != "")
        .order_by(parts.c.number)
    )
    stored = tuple(
        StoredPart(number=p.number, size=p.size, etag=p.etag, digest=p.digest, checked=p.checked)
        for p in connection.execute(there)
    )
    return upload_of_row(row, stored)


def upload_of_row(row: Any, stored: tuple[StoredPart, ...] = ()) -> UploadRecord:
    """Return the UploadRecord of a row, with some `stored` parts."""
    return UploadRecord(
        upload_id=row.upload_id,
        checked=row.checked,
        place=row.place,
        etag=row.etag,
        size=row.size,
        part_bytes=row.part_bytes,
        digest=row.digest,
        parts=stored,
        at=row.begun,
        total=row.total,
        digested=row.digested,
        pinned=None if row.pinned is None else Version(**json.loads(row.pinned)),
    )


def record_upload(
    connection: Connection, worker: WorkerId, claim: Claim, upload: UploadRecord
) -> None:
    """Record that an upload was created; it replaces any other record. Raises LeaseLost."""
    # This also checks the claim.
    forget_upload(connection, worker, claim)
    row = {
        "transfer_id": claim.id,
        "upload_id": upload.upload_id,
        "checked": upload.checked,
        "place": upload.place,
        "etag": upload.etag,
        "size": upload.size,
        "part_bytes": upload.part_bytes,
        "begun": time.time(),
        "total": upload.total,
        "digested": upload.digested,
        "pinned": None if upload.pinned is None else _pin_text(upload.pinned),
    }
    connection.execute(insert(uploads), row)


def _pin_text(pinned: Version) -> str:
    """Return a pinned version as the ledger keeps it: without its digests."""
    return json.dumps(
        {
            "size": pinned.size,
            "etag": pinned.etag,
            "last_modified": pinned.last_modified,
            "id": pinned.id,
        }
    )


def resume_upload(
    connection: Connection,
    worker: WorkerId,
    claim: Claim,
    *,
    upload_id: str,
    gone: Collection[int],
    total: int,
) -> None:
    """Record that an upload of `total` parts is resumed. The `gone` parts, which the destination
    has lost, and this worker's unfinished parts are released. Parts that other workers move stay
    theirs. Raises LeaseLost."""
    check_claim(connection, worker, claim)
    ours = (uploads.c.transfer_id == claim.id) & (uploads.c.upload_id == upload_id)
    connection.execute(update(uploads).where(ours).values(total=total))
    there = (parts.c.transfer_id == claim.id) & parts.c.owner.is_(None)
    for number in gone:  # usually none: stores rarely lose acknowledged parts
        connection.execute(
            update(parts).where(there, parts.c.number == number).values(etag="", digest="", size=0)
        )
    # Counted again, since the gone parts were counted when they were stored.
    kept = select(func.coalesce(func.sum(parts.c.size), 0)).where(parts.c.transfer_id == claim.id)
    connection.execute(update(uploads).where(ours).values(there=kept.scalar_subquery()))
    free_parts(connection, worker, [claim.id])


def commit_upload(connection: Connection, worker: WorkerId, claim: Claim, digest: str) -> None:
    """Record the digest of the whole object, right before the upload is completed. Raises
    LeaseLost."""
    check_claim(connection, worker, claim)
    connection.execute(
        update(uploads).where(uploads.c.transfer_id == claim.id).values(digest=digest)
    )


def forget_upload(connection: Connection, worker: WorkerId, claim: Claim) -> None:
    """Delete the record of an upload that was aborted or no longer exists. Raises LeaseLost."""
    check_claim(connection, worker, claim)
    connection.execute(delete(parts).where(parts.c.transfer_id == claim.id))
    connection.execute(delete(uploads).where(uploads.c.transfer_id == claim.id))


def outstanding_parts(connection: Connection, worker: WorkerId, transfer: int) -> dict[int, bool]:
    """Return the numbers of the parts that were taken and are not stored yet, each with True if
    this worker has it."""
    query = select(parts.c.number, parts.c.owner).where(parts.c.transfer_id == transfer, NOT_THERE)
    return {row.number: row.owner == worker.id for row in connection.execute(query)}


# -- for every mover of its parts


def take_part(
    connection: Connection, worker: WorkerId, transfer: int, upload_id: str, done: StoredPart | None
) -> int | None:
    """Record that the destination has the part `done`, and take the next one; return its number, or
    None if all parts are taken.

    Raises UploadGone if the transfer no longer has this upload, LeaseLost if `done` was released
    because this worker was thought lost."""
    if done is not None:
        _store(connection, worker, transfer, upload_id, done)
    ours = (uploads.c.transfer_id == transfer) & (uploads.c.upload_id == upload_id)
    fresh = (
        update(uploads)
        .where(ours, uploads.c.next <= uploads.c.total)
        .values(next=uploads.c.next + 1)
        .returning(uploads.c.next)
    )
    while (following := connection.execute(fresh).scalar()) is not None:
        # An upload of an older relay may have rows above its counter.
        row = {"transfer": transfer, "number": following - 1, "owner": worker.id}
        if connection.execute(_TAKE, row).rowcount:
            return int(following - 1)
    returned = (
        select(parts.c.number)
        .where(parts.c.transfer_id == transfer, NOT_THERE, parts.c.owner.is_(None))
        .order_by(parts.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    again = (
        update(parts)
        .where(
            parts.c.transfer_id == transfer,
            parts.c.number.in_(returned.scalar_subquery()),
            exists().where(ours),
        )
        .values(owner=worker.id)
        .returning(parts.c.number)
    )
    return connection.execute(again).scalar()


_TAKE = text(
    "INSERT INTO parts (transfer_id, number, size, etag, digest, checked, owner)"
    " VALUES (:transfer, :number, 0, '', '', false, :owner) ON CONFLICT DO NOTHING"
)


def _store(
    connection: Connection, worker: WorkerId, transfer: int, upload_id: str, part: StoredPart
) -> None:
    """Record that the destination has a part of this worker."""
    ours = (uploads.c.transfer_id == transfer) & (uploads.c.upload_id == upload_id)
    row = (
        (parts.c.transfer_id == transfer)
        & (parts.c.number == part.number)
        & (parts.c.owner == worker.id)
    )
    values = {
        "size": part.size,
        "etag": part.etag,
        "digest": part.digest,
        "checked": part.checked,
        "owner": None,
    }
    if connection.execute(update(parts).where(row, exists().where(ours)).values(**values)).rowcount:
        connection.execute(update(uploads).where(ours).values(there=uploads.c.there + part.size))
        return
    if connection.execute(select(uploads.c.transfer_id).where(ours)).first() is None:
        raise UploadGone("the upload was aborted or completed while a part of it was moved")
    raise LeaseLost(f"part {part.number} was given to another worker")


def release_parts(connection: Connection, worker: WorkerId, transfer: int, resent: int = 0) -> None:
    """Release this worker's parts that are not stored yet. `resent` bytes of them were sent and
    will be sent again."""
    free_parts(connection, worker, [transfer])
    if resent:
        more = (
            update(transfers)
            .where(transfers.c.id == transfer)
            .values(resent=transfers.c.resent + resent)
        )
        changes = CounterDelta()
        for migration in connection.execute(more.returning(transfers.c.migration_id)).scalars():
            changes.count_resent_bytes(migration, resent)
        changes.write(connection)
