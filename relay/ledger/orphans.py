"""Leftovers of attempts that no later attempt will replace: found here, and deleted from the ledger
when they are removed.

Theory of operation. An attempt that ends removes its leftovers, and a killed attempt leaves them to
the next attempt. If its migration is cancelled there is no next attempt: an unfinished upload would
stay forever, and cost its owner money. The upload of a failed transfer stays until its migration
has ended for a while, so that a retry can resume it.

Only uploads that a claim of ours has recorded in the ledger are named here. Two workers may remove
the same upload: that is harmless and needs no claim. A retry may start at the same time: its upload
has another id, or another fence, and is not touched.

Decided here: which leftovers are orphans, and when. Never here: how they are removed
(`relay/engine/worker/orphans.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, exists, or_, select, update

from relay.ledger.claim_values import Claim
from relay.ledger.claims import CLAIMED, claim_of
from relay.ledger.endings import KEPT_SECONDS as KEPT_SECONDS
from relay.ledger.migration_rows import of_kind
from relay.ledger.prior_state_values import PriorState
from relay.ledger.schema import LAPSED, migrations, parts, transfers, uploads
from relay.ledger.states import MigrationState, TransferState
from relay.ledger.unproved import has_arrived_since
from relay.ledger.upload_values import Orphan
from relay.ledger.uploads import upload_of_row
from relay.ledger.workers import WorkerId

MAX_ORPHANS: Final = 100
"""Maximum number of orphans that `find_orphans` returns."""


def find_orphans(
    connection: Connection,
    worker: WorkerId,
    only: str | None = None,
    but: Sequence[int] = (),
    kept: float = KEPT_SECONDS,
) -> list[Orphan]:
    """Return up to MAX_ORPHANS orphans of the `only` migration, or of all migrations of this
    worker's kind. Transfers in `but` are left out, and so are failed ones until their migration has
    ended for `kept` seconds. Reads only."""
    begun = select(uploads.c.transfer_id)
    lapsed = select(transfers.c.id).where(LAPSED)
    is_final = migrations.c.state == MigrationState.CANCELLED
    # A migration that runs may queue them again, as soon as its listing names them.
    forsaken = or_(
        transfers.c.state == TransferState.CANCELLED,
        (transfers.c.state == TransferState.FAILED)
        & (is_final | (migrations.c.ended < time.time() - kept)),
    )
    query = (
        select(*CLAIMED, migrations.c.renewed, migrations.c.created, migrations.c.options)
        .add_columns(migrations.c.destination_empty, transfers.c.ended)
        .join(migrations, migrations.c.id == transfers.c.migration_id)
        .where(transfers.c.id.in_(begun.union(lapsed)), forsaken, transfers.c.id.not_in(but))
        .order_by(transfers.c.id)
        .limit(MAX_ORPHANS)
    )
    query = query.where(of_kind(worker.kind) if only is None else transfers.c.migration_id == only)
    rows = connection.execute(query).all()
    found = connection.execute(
        select(uploads).where(uploads.c.transfer_id.in_([row.id for row in rows]))
    )
    begun_by = {row.transfer_id: upload_of_row(row) for row in found}
    return [
        Orphan(
            claim_of(row[: len(CLAIMED)], row.renewed),
            begun_by.get(row.id),
            _state_of(connection, row),
            row.ended,
        )
        for row in rows
    ]


def _state_of(connection: Connection, row: Any) -> PriorState | None:
    """Return as `_prior_state`; an object that another migration has proved or found there since
    has `arrived` as well."""
    was = _prior_state(row)
    if was is None or not has_arrived_since(connection, row.migration_id, row.name, row.created):
        return was
    return replace(was, arrived=True)


def _prior_state(row: Any) -> PriorState | None:
    """Return the destination's state before the first byte of a transfer was sent, or None if none
    was sent. A migration that does not overwrite records that state first, unless the destination
    of its tree was empty. The state has `arrived` if the object may have arrived since."""
    kept = PriorState.from_text(row.before)
    if kept is not None and kept.noted:
        # A state that is recorded as unknown may hide an arrival (`distrust.py`).
        since = kept.since or row.created
        return kept if kept.known else replace(kept, since=since, arrived=True)
    arrived = kept is not None and (kept.arrived or kept.confirmed)
    wish = json.loads(row.options).get("if_exists", "overwrite")
    if wish == "overwrite":
        return PriorState(known=False, since=row.created, arrived=arrived)
    assumed = wish == "changed" and bool(row.destination_empty) and not arrived
    return PriorState(known=True, assumed=True, since=row.created) if assumed else None


def is_over(connection: Connection, orphan: Orphan) -> bool:
    """Return whether no worker has started the transfer again since it was found. Reads only."""
    still = select(transfers.c.id).where(_still_orphan(orphan.claim))
    return connection.execute(still).first() is not None


def _still_orphan(claim: Claim) -> ColumnElement[bool]:
    return (
        (transfers.c.id == claim.id)
        & (transfers.c.fence == claim.fence)
        & transfers.c.state.in_(_OVER)
    )


def note_removed(
    connection: Connection, orphan: Orphan, remains: Mapping[str, str], is_unproved: bool
) -> None:
    """Record that an orphan is removed. `remains` describes, by location, leftovers that may still
    exist. With `is_unproved`, a lost worker may have left a complete object, so that its place
    counts as sent. Changes nothing if a worker has started the transfer again."""
    claim, upload = orphan.claim, orphan.upload
    values: dict[str, Any] = {"lapses": 0}
    is_unproved &= claim.crash_count > 0 and orphan.before is not None
    if remains or is_unproved:
        was = claim.before if claim.before is not None and not claim.before.assumed else None
        since = orphan.before.since if orphan.before is not None else None
        before = was or PriorState(known=False, noted=is_unproved, since=since)
        left = {**claim.remains, **remains}
        noted = replace(before, remains=left, confirmed=bool(remains), doubted=False)
        values["before"] = noted.to_text()
    if (
        not connection.execute(
            update(transfers).where(_still_orphan(claim)).values(**values)
        ).rowcount
        or upload is None
    ):
        return
    ours = (uploads.c.transfer_id == claim.id) & (uploads.c.upload_id == upload.upload_id)
    connection.execute(delete(parts).where(parts.c.transfer_id == claim.id, exists().where(ours)))
    connection.execute(delete(uploads).where(ours))


_OVER = (TransferState.CANCELLED, TransferState.FAILED)
