"""One poll of a worker, in one transaction: settle what has ended, claim new work, read the state of its migrations.

Decided here: the order in which that is done. Never here: when a turn is due, and what there is room for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from relay.ledger.claims import Wanted, Who, claim, claimable
from relay.ledger.counters import Changes
from relay.ledger.limits import standings
from relay.ledger.rows import Claim, Settlement, Standing, Turn
from relay.ledger.settling import settle


def turn(
    connection: Connection,
    who: Who,
    ends: Sequence[Settlement],
    wanted: Wanted,
    only: str | None = None,
    watched: Iterable[str] = (),
) -> Turn:
    """Settle, claim, and tell how the migrations stand that were claimed from or are `watched`."""
    changes = Changes()
    lost = settle(connection, who, ends, changes)
    claims = claim(connection, who, wanted, only, changes)
    stand = _standings(connection, who, claims, watched)
    changes.write(connection)
    return Turn(tuple(claims), tuple(lost), stand)


def look(
    connection: Connection, who: Who, wanted: Wanted, only: str | None = None, watched: Iterable[str] = ()
) -> Turn | None:
    """Return the turn of one who has nothing to settle, where nothing can be claimed either; None where something can.

    Writes nothing, so it keeps nobody waiting, and waits for nobody.
    """
    if wanted.all > 0 and claimable(connection, who, wanted.alone, only):
        return None
    return Turn((), (), _standings(connection, who, (), watched))


def _standings(
    connection: Connection, who: Who, claims: Iterable[Claim], watched: Iterable[str]
) -> dict[str, Standing]:
    ids = sorted({claim.migration_id for claim in claims} | set(watched))
    return standings(connection, who.id, ids) if ids else {}
