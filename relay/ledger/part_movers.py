"""Workers that move parts of an object which another worker owns, or which has no owner at the
moment.

Decided here: how they are found. Never here: what they count for (`limits.py`, `migrations.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, literal_column, select

from relay.ledger.schema import NOT_THERE, parts, transfers

_OF: Final = transfers.c.migration_id + literal_column("''")
"""A transfer's migration. For the bare column SQLite would go over all transfers of the migration,
by its index, and look for parts of each; there are few parts that somebody moves."""


def select_helpers(ids: Sequence[str]) -> Select[Any]:
    """Select who moves parts of a transfer that is not his own: of which migration, which transfer,
    and who. It may be nobody's, since its owner is lost, or has ended."""
    return (
        select(transfers.c.migration_id, transfers.c.id, parts.c.owner)
        .join(parts, parts.c.transfer_id == transfers.c.id)
        .where(NOT_THERE, _OF.in_(ids), parts.c.owner.is_not(None))
        .where(parts.c.owner.is_distinct_from(transfers.c.owner))
        .distinct()
    )


def movers_of(connection: Connection, ids: Sequence[str]) -> Counter[str]:
    """Return how many there are of some migrations."""
    return Counter(row.migration_id for row in connection.execute(select_helpers(ids)))
