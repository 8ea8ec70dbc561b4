"""Leftovers of attempts that no later attempt will replace: found here, and forgotten when they are
gone.

Theory of operation. An attempt that ends removes what it began, and one that was killed leaves that
to the next. Where there is no next one, since its migration was cancelled meanwhile, an unfinished
upload would stay for ever, and cost its owner. Of a transfer that failed it stays a while, since a
retry goes on with it.

Only what the ledger says that a claim of ours began is ever named here. Two runners may remove the
same: that does no harm, and needs no claim. A retry may begin anew at the same time: what it writes
has another upload's id, or another fence, and is not touched.

Decided here: what is an orphan, and when. Never here: how one is removed
(`relay/engine/worker/orphans.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, exists, or_, select, update

from relay.ledger.claims import CLAIMED, WorkerId, claim_of
from relay.ledger.migrations import KEPT_SECONDS as KEPT_SECONDS
from relay.ledger.migrations import of_kind
from relay.ledger.rows import Claim, Orphan, PriorState
from relay.ledger.schema import LAPSED, migrations, parts, transfers, uploads
from relay.ledger.uploads import upload_of_row

MOST: Final = 100
"""So many are told of at a time."""


def find_orphans(
    connection: Connection,
    who: WorkerId,
    only: str | None = None,
    but: Sequence[int] = (),
    kept: float = KEPT_SECONDS,
) -> list[Orphan]:
    """Return some of them, `only` of one migration or of those that belong to this kind of runner,
    and none of the transfers among `but`; of those that failed the ones that did so `kept` seconds
    ago, or longer. Writes nothing."""
    begun = select(uploads.c.transfer_id)
    lapsed = select(transfers.c.id).where(LAPSED)
    forsaken = or_(
        transfers.c.state == "cancelled",
        (transfers.c.state == "failed")
        & ((migrations.c.state == "cancelled") | (transfers.c.ended < time.time() - kept)),
    )
    query = (
        select(*CLAIMED, migrations.c.renewed, migrations.c.created, migrations.c.options)
        .add_columns(migrations.c.destination_empty)
        .join(migrations, migrations.c.id == transfers.c.migration_id)
        .where(transfers.c.id.in_(begun.union(lapsed)), forsaken, transfers.c.id.not_in(but))
        .order_by(transfers.c.id)
        .limit(MOST)
    )
    query = query.where(of_kind(who.kind) if only is None else transfers.c.migration_id == only)
    rows = connection.execute(query).all()
    found = connection.execute(
        select(uploads).where(uploads.c.transfer_id.in_([row.id for row in rows]))
    )
    begun_by = {row.transfer_id: upload_of_row(row) for row in found}
    return [
        Orphan(claim_of(row[:-4], row.renewed), begun_by.get(row.id), _prior_state(row))
        for row in rows
    ]


def _prior_state(row: Any) -> PriorState | None:
    """Return what was there before the first byte of one went there; None where none went: a
    migration that does not overwrite writes that down first, but for names of which its tree's
    destination was empty."""
    kept = PriorState.from_text(row.before)
    if kept is not None and kept.noted:
        return kept if kept.known else replace(kept, since=kept.since or row.created)
    wish = json.loads(row.options).get("if_exists", "overwrite")
    if wish == "overwrite":
        return PriorState(known=False, since=row.created)
    arrived = kept is not None and kept.arrived
    assumed = wish == "changed" and bool(row.destination_empty) and not arrived
    return PriorState(known=True, assumed=True, since=row.created) if assumed else None


def is_over(connection: Connection, orphan: Orphan) -> bool:
    """Say if nobody has begun to make one again since. Writes nothing."""
    still = select(transfers.c.id).where(_still_orphan(orphan.claim))
    return connection.execute(still).first() is not None


def _still_orphan(claim: Claim) -> ColumnElement[bool]:
    return (
        (transfers.c.id == claim.id)
        & (transfers.c.fence == claim.fence)
        & transfers.c.state.in_(_OVER)
    )


def note_removed(connection: Connection, orphan: Orphan, remains: Mapping[str, str]) -> None:
    """Write that nothing of it is left, or, by place and in words, what may be. Changes nothing
    where somebody makes the transfer again."""
    claim, upload = orphan.claim, orphan.upload
    values: dict[str, Any] = {"lapses": 0}
    if remains:
        was = claim.before if claim.before is not None and not claim.before.assumed else None
        before = was or PriorState(known=False, noted=False)
        values["before"] = replace(before, remains={**claim.remains, **remains}).to_text()
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


_OVER = ("cancelled", "failed")
