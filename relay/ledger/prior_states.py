"""What lay at a destination before relay wrote there: recorded before the first byte, kept for
good.

Never here: what follows from it (`relay/engine/transfer/precheck.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, update

from relay.ledger.claim_values import Claim
from relay.ledger.prior_state_values import PriorState
from relay.ledger.schema import RUNNING, transfers
from relay.ledger.workers import WorkerId

_NOTE = (
    update(transfers)
    .where(
        transfers.c.id == bindparam("the_id"),
        transfers.c.fence == bindparam("the_fence"),
        transfers.c.owner == bindparam("the_owner"),
        RUNNING,
    )
    .values(before=bindparam("the_text"))
)


def note_prior_states(
    connection: Connection, worker: WorkerId, notes: Sequence[tuple[Claim, PriorState]]
) -> tuple[bool, ...]:
    """Record the prior states of some claims; return for each whether the claim is still ours.
    Nothing is written for a claim that was lost."""
    found = []
    for one, before in notes:
        row = {
            "the_id": one.id,
            "the_fence": one.fence,
            "the_owner": worker.id,
            "the_text": before.to_text(),
        }
        found.append(bool(connection.execute(_NOTE, row).rowcount))
    return tuple(found)
