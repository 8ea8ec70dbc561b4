"""The tables of moving objects, and of the work that was done over time (see `schema.py`)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    Text,
)

from relay.ledger.schema import metadata, migration_key

watches = Table(
    "watches",
    metadata,
    migration_key(),
    Column("until", Float, nullable=False),
)
"""Until when a migration is watched: its workers then write what they move (`live_rows.py`)."""

live = Table(
    "live",
    metadata,
    Column("runner", String(36), ForeignKey("runners.id", ondelete="CASCADE"), primary_key=True),
    Column("at", Float, nullable=False),
    Column("members", Text, nullable=False),
)
"""The objects that a worker moves of watched migrations, as JSON, and when it wrote that."""

samples = Table(
    "samples",
    metadata,
    migration_key(),
    Column("at", BigInteger, primary_key=True),
    Column("runner", String(36), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("moved", BigInteger, nullable=False),
    Column("read_back", BigInteger, nullable=False),
    Column("objects", BigInteger, nullable=False),
    Column("slots", Text, nullable=False),
)
"""What a worker did for a migration in the `step` seconds from `at` on (`samples.py`): the bytes by
use, and the seconds of its slots in each phase, as JSON. `objects` counts those that were settled
by then. In a merged row of several workers `runner` is empty."""
