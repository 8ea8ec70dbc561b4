"""The other trees of the same destination whose names are compared with those of one tree.

Theory of operation. Two commands with different filters may divide one tree between them, and two
trees may be put together in one place. What must not replace each other in one tree must not do so
between these either. Two commands without filters list the same source whole, and two with the same
filters of names list the same names: a name that only the earlier one has is gone from the source,
and its object may be replaced.

Decided here: which migrations are compared. Never here: what their names have in common
(`folded_names.py`, `local_links.py`)."""

from __future__ import annotations

import heapq
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select

from relay.ledger.place_forms import is_same_place
from relay.ledger.schema import migrations

MOST: Final = 10
"""Number of migrations of the same tree, and of all other trees, that are compared, the newest
first: each costs a look-up a name."""
COMPARING: Final = 0x52454C5B
"""The class of PostgreSQL's advisory locks under which the names of one place are compared."""
_TREE: Final = migrations.c.options.contains('"recursive": true')
_FILTERED: Final = migrations.c.options.contains('"filters": ')
"""Conditions on a migration, by the JSON of its options."""
_BY_NAME: Final = frozenset(
    {"include", "exclude", "filter", "files_from", "ignore_case", "hash_filter"}
)
"""The filters that choose a name whatever its object is, and whenever it is listed."""


def siblings_of(connection: Connection, id: str) -> list[str]:
    """Return the ids of the other migrations whose objects must not be replaced by those of a tree:
    of the same tenant, to the same destination, from another source or with filters."""
    columns = (
        *(migrations.c.id, migrations.c.number, migrations.c.tenant, migrations.c.options),
        *(migrations.c.places, migrations.c.place, migrations.c.destination),
    )
    mine = connection.execute(select(*columns).where(migrations.c.id == id)).one()
    query = select(*columns)
    query = query.where(is_same_place(mine), _TREE)
    filters = json.loads(mine.options).get("filters") or {}
    if _are_by_name(filters):
        lists_same = migrations.c.options == mine.options if filters else ~_FILTERED
        query = query.where((migrations.c.places != mine.places) | ~lists_same)
    # The tenants are compared, and the rows ordered, here: the databases would choose the index of
    # the tenant's migrations, or of their numbers, and read all of them.
    rows = connection.execute(query).all()
    found = [row for row in rows if row.id != id and row.tenant == mine.tenant]
    # A command that runs each night must not hide the other commands.
    same = [row for row in found if _is_repetition(row, mine)]
    others = [row for row in found if not _is_repetition(row, mine)]
    return [row.id for some in (same, others) for row in heapq.nlargest(MOST, some, key=_number)]


def lock_names(connection: Connection, place: str) -> None:
    """Lock out other transactions that list trees of the same place, until this one ends: each
    reads what the others have written, and the migrations accepted since. No transfer may be locked
    before. In SQLite every writing transaction has that lock already."""
    if connection.dialect.name == "sqlite":
        return
    key = zlib.crc32(place.encode()) >> 1  # a signed number of 32 bits
    connection.execute(select(func.pg_advisory_xact_lock(COMPARING, key)))


def _are_by_name(filters: Mapping[str, Any]) -> bool:
    is_drawn = str(filters.get("hash_filter", "")).startswith("@")  # for each migration
    return filters.keys() <= _BY_NAME and not is_drawn


def _is_repetition(row: Any, mine: Any) -> bool:
    return bool(row.places == mine.places and row.options == mine.options)


def _number(row: Any) -> int:
    number: int = row.number
    return number
