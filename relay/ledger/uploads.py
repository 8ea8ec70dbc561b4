"""Uploads in parts in the ledger: intent before the effect, fact after it.

Every call compares the claim, and raises LeaseLost where it is not ours any more.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection, delete, insert, select, update

from relay.ledger.claims import Who, check
from relay.ledger.rows import Begun, Claim, StoredPart
from relay.ledger.schema import parts, uploads


def begun(connection: Connection, claim: Claim) -> Begun | None:
    """Return the upload that was begun for a transfer, with its parts, or None."""
    row = connection.execute(select(uploads).where(uploads.c.transfer_id == claim.id)).first()
    if row is None:
        return None
    rows = connection.execute(select(parts).where(parts.c.transfer_id == claim.id).order_by(parts.c.number))
    stored = tuple(StoredPart(p.number, p.size, p.etag, p.digest, p.checked) for p in rows)
    return Begun(
        row.upload_id, row.checked, row.place, row.etag, row.size, row.part_bytes, row.digest, stored, row.begun
    )


def begin(connection: Connection, who: Who, claim: Claim, upload: Begun) -> None:
    """Write that an upload was begun, in the place of any other."""
    check(connection, who, claim)
    forget(connection, who, claim)
    row = {
        "transfer_id": claim.id,
        "upload_id": upload.upload_id,
        "checked": upload.checked,
        "place": upload.place,
        "etag": upload.etag,
        "size": upload.size,
        "part_bytes": upload.part_bytes,
        "begun": time.time(),
    }
    connection.execute(insert(uploads), row)


def store(connection: Connection, who: Who, claim: Claim, part: StoredPart) -> None:
    """Write that the destination has a part."""
    check(connection, who, claim)
    connection.execute(delete(parts).where(parts.c.transfer_id == claim.id, parts.c.number == part.number))
    row = {
        "transfer_id": claim.id,
        "number": part.number,
        "size": part.size,
        "etag": part.etag,
        "digest": part.digest,
        "checked": part.checked,
    }
    connection.execute(insert(parts), row)


def commit(connection: Connection, who: Who, claim: Claim, digest: str) -> None:
    """Write the digest of the whole, right before the upload is completed."""
    check(connection, who, claim)
    connection.execute(update(uploads).where(uploads.c.transfer_id == claim.id).values(digest=digest))


def forget(connection: Connection, who: Who, claim: Claim) -> None:
    """Write that an upload was thrown away, or is no more."""
    check(connection, who, claim)
    connection.execute(delete(parts).where(parts.c.transfer_id == claim.id))
    connection.execute(delete(uploads).where(uploads.c.transfer_id == claim.id))
