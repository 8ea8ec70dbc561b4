"""The newest receipt of an object that was moved between the same two places before.

Decided here: which receipt counts. Never here: what it proves (`engine/comparison.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, select

from relay.ledger.identity_hashes import identity_hashes_of
from relay.ledger.migration_values import Spec
from relay.ledger.names import has_name
from relay.ledger.schema import migrations, receipts, transfers
from relay.ledger.states import TransferState

MOST_EARLIER: Final = 30
"""Number of migrations that are asked, the newest first: each costs a look-up a name."""

Receipt = Mapping[str, Any]
"""A receipt as plain values (`Receipt.to_json`)."""


def receipt_in_migration(connection: Connection, id: str, name: str) -> Receipt | None:
    """Return the receipt of an object of a migration, from one of the same tenant between the same
    two places; None without one, and for a migration of an older relay."""
    columns = (migrations.c.places, migrations.c.tenant)
    mine = connection.execute(select(*columns).where(migrations.c.id == id)).one()
    return None if mine.places is None else _newest(connection, mine.places, mine.tenant, name)


def receipt_of_spec(connection: Connection, spec: Spec, tenant: str, name: str) -> Receipt | None:
    """Return as `receipt_in_migration`, for a migration that is not accepted."""
    return _newest(connection, identity_hashes_of(connection, spec).places, tenant, name)


def _newest(connection: Connection, places: str, tenant: str, name: str) -> Receipt | None:
    columns = (migrations.c.id, migrations.c.number, migrations.c.tenant)
    # The tenants are compared here: the databases would choose the index of the tenant's
    # migrations, and read all of them.
    rows = connection.execute(select(*columns).where(migrations.c.places == places)).all()
    found = sorted((row for row in rows if row.tenant == tenant), key=lambda row: -row.number)
    ages = {row.id: age for age, row in enumerate(found[:MOST_EARLIER])}
    if not ages:
        return None
    query = select(transfers.c.migration_id, receipts.c.receipt)
    query = query.join(receipts, receipts.c.transfer_id == transfers.c.id).where(
        transfers.c.migration_id.in_(list(ages)),
        has_name(connection, [name]),
        transfers.c.state == TransferState.VERIFIED,
    )
    newest = min(connection.execute(query), key=lambda row: ages[row.migration_id], default=None)
    return None if newest is None else dict(json.loads(newest.receipt))
