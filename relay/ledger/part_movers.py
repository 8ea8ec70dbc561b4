"""Workers that move parts of an object which another worker owns, or which has no owner at the
moment.

Decided here: how they are found. Never here: where they are counted (`limits.py`,
`migration_rows.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, literal_column, select

from relay.ledger.schema import NOT_THERE, parts, transfers

_OF: Final = transfers.c.migration_id + literal_column("''")
"""A transfer's migration, as an expression. With the bare column SQLite would scan all transfers of
the migration by its index, and look for parts of each; few parts are being moved."""


def select_helpers(ids: Sequence[str]) -> Select[Any]:
    """Return the query for the helpers of some migrations: migration, transfer and helper. The
    transfer may have no owner, because its worker was lost or has ended."""
    return (
        select(transfers.c.migration_id, transfers.c.id, parts.c.owner)
        .join(parts, parts.c.transfer_id == transfers.c.id)
        .where(NOT_THERE, _OF.in_(ids), parts.c.owner.is_not(None))
        .where(parts.c.owner.is_distinct_from(transfers.c.owner))
        .distinct()
    )


def movers_of(connection: Connection, ids: Sequence[str]) -> Counter[str]:
    """Return the number of helpers of each migration."""
    return Counter(row.migration_id for row in connection.execute(select_helpers(ids)))
