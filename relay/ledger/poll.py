"""One poll of a worker, in one transaction: settle ended claims, claim new transfers, read the
state of its migrations.

Decided here: the order of these steps. Never here: when a poll is due, and how much is claimed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from relay.ledger.claim_values import Claim, PollResult, Settlement
from relay.ledger.claims import ClaimRequest, claim, has_claimable
from relay.ledger.counters import CounterDelta
from relay.ledger.limits import migration_views
from relay.ledger.migration_values import MigrationView
from relay.ledger.settling import settle
from relay.ledger.workers import WorkerId


def settle_and_claim(
    connection: Connection,
    worker: WorkerId,
    ends: Sequence[Settlement],
    wanted: ClaimRequest,
    *,
    only: str | None = None,
    watched: Iterable[str] = (),
) -> PollResult:
    """Settle `ends`, claim the `wanted` transfers, and read the state of the migrations of the new
    claims and of the `watched` ones."""
    changes = CounterDelta()
    # Settle first: the ended transfers leave room within their migration's bound.
    lost = settle(connection, worker, ends, changes)
    claims = claim(connection, worker, wanted, only, changes)
    stand = _standings(connection, worker, claims, watched)
    changes.write(connection)
    return PollResult(tuple(claims), tuple(lost), stand)


def peek(
    connection: Connection,
    worker: WorkerId,
    wanted: ClaimRequest,
    only: str | None = None,
    watched: Iterable[str] = (),
) -> PollResult | None:
    """Return the result of a poll without settlements, or None if there seems to be something to
    claim.

    Reads only, so it neither waits for other workers nor makes them wait."""
    if wanted.all > 0 and has_claimable(connection, worker, wanted.alone, only):
        return None
    return PollResult((), (), _standings(connection, worker, (), watched))


def _standings(
    connection: Connection, worker: WorkerId, claims: Iterable[Claim], watched: Iterable[str]
) -> dict[str, MigrationView]:
    ids = sorted({claim.migration_id for claim in claims} | set(watched))
    return migration_views(connection, worker.id, ids) if ids else {}
